"""The live view: a line for each task that moves and each request that reaches a stand-in."""

import time
from collections.abc import Callable, Mapping, Sequence

import anyio

from server.demo.screen import Screen, Style
from server.demo.session import Session
from server.demo.standin import Served, StandIn

PATIENCE = 60.0
"""Seconds any one thing may take before the demo gives up on it."""
FINAL = frozenset({"completed", "failed", "cancelled", "expired"})


class Watch:
    """Follows the tasks in `ids` (label -> task id) through any server of the database, and the stand-ins."""

    def __init__(self, screen: Screen, ids: Mapping[str, str], stand_ins: Sequence[StandIn]) -> None:
        self.statuses: dict[str, str] = {}
        """Each task's status as last seen, by label."""
        self._screen = screen
        self._ids = ids
        self._stand_ins = stand_ins
        self._shown = {each.name: 0 for each in stand_ins}
        self._began = time.monotonic()

    def start(self) -> None:
        """Count the seconds from here."""
        self._began = time.monotonic()

    def note(self, text: str, style: Style = "plain") -> None:
        """A line with the time before it."""
        self._screen.say(f"  {time.monotonic() - self._began:4.1f} s  {text}", style)

    async def until(self, server: Session, condition: Callable[[], bool]) -> None:
        """Show what happens until `condition` holds; TimeoutError when it does not within PATIENCE."""
        with anyio.fail_after(PATIENCE):
            while True:
                await self._look(server)
                if condition():
                    break
                await anyio.sleep(0.1)
        self._screen.panel([])

    def all_done(self) -> bool:
        """True when no task will move any more."""
        return all(self.statuses.get(label) in FINAL for label in self._ids)

    async def _look(self, server: Session) -> None:
        answer = await server.call("list_enhanced_tasks", newest_first=True, limit=50)
        rows = answer["tasks"]
        found = (
            {row["task_id"]: str(row["status"]) for row in rows if isinstance(row, dict)}
            if isinstance(rows, list)
            else {}
        )
        self._show_requests()
        for label, task_id in self._ids.items():
            status = found.get(task_id, "not in the list")
            if self.statuses.get(label, "pending") != status:
                outcome = await self._outcome(server, task_id) if status in FINAL else ""
                self.note(f"{label:<15} {status}{outcome}", "good" if status == "completed" else "plain")
            self.statuses[label] = status
        self._screen.panel(
            [
                f"          {status}: {', '.join(label for label, each in self.statuses.items() if each == status) or '-'}"
                for status in ("running", "pending")
            ]
        )

    async def _outcome(self, server: Session, task_id: str) -> str:
        task = await server.call("get_task_status", task_id=task_id)
        result = task.get("result")
        if not isinstance(result, dict):
            return f": {task.get('error', '')}"
        if "endpoint" in result:
            return f", answered by {result['endpoint']}"
        return f": {result['text']}" if "text" in result else ""

    def _show_requests(self) -> None:
        for stand_in in self._stand_ins:
            for served in stand_in.served[self._shown[stand_in.name] :]:
                self._shown[stand_in.name] += 1
                failed = served.step.status != 200
                self.note(f"    {stand_in.name}: {fate(served, self._screen.arrow)}", "warn" if failed else "dim")


def fate(served: Served, arrow: str) -> str:
    """What became of a request, in words."""
    status = served.step.status
    if status == 200:
        return "200, an answer"
    if status == 429:
        return f"429, Retry-After {served.step.retry_after} s {arrow} left alone that long, the next endpoint is asked"
    if status == 0:
        return f"drops the connection and dies {arrow} the next endpoint is asked"
    return f"{status}, server error {arrow} the next endpoint is asked"
