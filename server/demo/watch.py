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


class LiveView:
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
        ends = time.monotonic() + PATIENCE
        await self._look(server)
        while not condition():
            if time.monotonic() > ends:
                known = ", ".join(f"{label} {status}" for label, status in self.statuses.items())
                raise TimeoutError(f"nothing more was seen for {PATIENCE:g} s, with {known}.")
            await anyio.sleep(0.1)
            await self._look(server)
        self._screen.panel([])

    def all_done(self) -> bool:
        """True when no task will move any more."""
        return all(self.statuses.get(label) in FINAL for label in self._ids)

    async def _look(self, server: Session) -> None:
        answer = await server.call("list_enhanced_tasks", newest_first=True, limit=50)
        listed = answer["tasks"]
        rows = {row["task_id"]: row for row in listed if isinstance(row, dict)} if isinstance(listed, list) else {}
        self._show_requests()
        # What happened between two looks is told in its own order: ends by their time, then starts.
        for label in sorted(self._ids, key=lambda each: str(rows.get(self._ids[each], {}).get("completed_at", "~"))):
            status = str(rows.get(self._ids[label], {}).get("status", "not in the list"))
            if self.statuses.get(label, "pending") != status:
                outcome = await self._outcome(server, self._ids[label]) if status in FINAL else ""
                self.note(f"{label:<15} {status}{outcome}", "good" if status == "completed" else "plain")
            self.statuses[label] = status
        self._screen.panel([f"          {status}: {self._labels(status)}" for status in ("running", "pending")])

    def _labels(self, status: str) -> str:
        return ", ".join(label for label, each in self.statuses.items() if each == status) or "none"

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
        return f"200, an answer after {served.step.delay:g} s"
    if status == 429:
        return f"429, Retry-After {served.step.retry_after} s {arrow} the next endpoint is asked"
    if status == 0:
        return f"hangs up and dies {arrow} the next endpoint is asked"
    return f"{status}, a server error {arrow} the next endpoint is asked"
