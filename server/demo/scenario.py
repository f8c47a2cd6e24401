"""What the demo does: the guide's chain and an urgent task on a pool with a failing endpoint, a kill -9, two restarts."""

import os
import signal
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from core.json_types import Json, JsonObject, dumps
from server.answers.schema import NOTICE
from server.demo.handlers import SUMMARISE
from server.demo.screen import Screen
from server.demo.session import Session, serve
from server.demo.standin import StandIn, Step
from server.demo.verdict import Observed, endpoint_stats, outcomes, pid_of
from server.demo.watch import LiveView

LEASE = 2
"""Seconds after which a killed server's tasks are given back; 30 where it is not set."""
PRIORITIES = {1: "LOW", 2: "NORMAL", 3: "HIGH", 4: "URGENT"}
KEYS = {"primary": "sk-demo-primary-0123456789abcdef", "backup": "sk-demo-backup-fedcba9876543210"}
SLOW = 2.0
"""Seconds backup takes for its first answer: long enough to be killed in the middle of."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the two stand-ins do, request by request; the last step is for ever."""

    primary: tuple[Step, ...] = (Step(delay=0.3), Step(500), Step(429, retry_after=1), Step(0))
    backup: tuple[Step, ...] = (Step(delay=SLOW), Step(delay=0.4))


class Demo:
    """One run. `home` receives everything the servers write."""

    def __init__(self, home: Path, screen: Screen, plan: Plan) -> None:
        self._home = home
        self._screen = screen
        self._heard: list[str] = []
        self._primary = StandIn("primary", plan.primary)
        self._backup = StandIn("backup", plan.backup)
        self._seen = Observed(keys=dict(KEYS))
        self._watch = LiveView(screen, self._seen.ids, (self._primary, self._backup))

    async def run(self) -> Observed:
        """Everything, to the end. Raises TimeoutError, ToolError or MCPError when it cannot go on."""
        with self._primary, self._backup:
            await self._work_until_killed()
            await self._finish()
            self._show_results()
            await self._look_again()
        self._seen.served = {each.name: list(each.served) for each in (self._primary, self._backup)}
        log = (self._home / "server.log").read_text(encoding="utf-8", errors="replace")
        self._seen.said = "\n".join([*self._heard, log])
        self._seen.database = b"".join(file.read_bytes() for file in sorted(self._home.glob("cloud.db*")))
        return self._seen

    def _serve(self) -> AbstractAsyncContextManager[Session]:
        settings = {
            "HEABLCOIN_CLOUD_ALLOW_HOSTS": f"{self._primary.host},{self._backup.host}",
            "HEABLCOIN_CLOUD_CONCURRENCY": "1",
            "HEABLCOIN_CLOUD_LEASE": str(LEASE),
        }
        return serve(self._home, settings, self._heard)

    async def _work_until_killed(self) -> None:
        self._title("1. Start the server as a chat would, and add two endpoints (add_api_endpoint)")
        async with self._serve() as server:
            await self._add_endpoint(server, self._primary, 1, "preferred, and unwell")
            await self._add_endpoint(server, self._backup, 2, "asked when primary fails")
            self._title("2. Publish the work, the urgent task last (publish_enhanced_task)")
            await self._publish_all(server)
            self._title("3. Watch it run, one task at a time")
            self._watch.start()
            await self._watch.until(server, self._report_is_being_written)
            report = await server.call("get_task_status", task_id=self._seen.ids["generate_report"])
            pid = pid_of(str(report.get("worker", "")))
            if not pid:
                raise RuntimeError(f"generate_report should be running, but is {report.get('status')}")
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self._seen.killed_pid = pid
        self._watch.note(f"KILL -9 {pid}: the server dies while the report is being written", "bad")

    def _report_is_being_written(self) -> bool:
        served = [*self._primary.served, *self._backup.served]
        return any(each.prompt.startswith(SUMMARISE) and each.step.status == 200 for each in served)

    async def _finish(self) -> None:
        self._watch.note(f"A new server starts; the lost task comes back as its lease ends ({LEASE} s)", "bold")
        async with self._serve() as server:
            await self._watch.until(server, self._watch.all_done)
            self._seen.tasks = await self._read_tasks(server)
            self._seen.stats = await server.call("get_api_manager_stats")

    def _show_results(self) -> None:
        self._title("4. The report")
        result = self._seen.tasks["generate_report"].get("result")
        if isinstance(result, dict):
            self._screen.say("\n".join(f"   {line}" for line in str(result.get("text", "")).split("\n")))
            file = Path(str(result.get("file", "")))
            if file.is_file():
                self._seen.report_file = file.read_bytes()
                self._screen.say(f"   (also written as a PDF of {len(self._seen.report_file):,} bytes)", "dim")
        self._title("5. The pool's statistics (get_api_manager_stats)")
        for line in statistics_table(self._seen):
            self._screen.say(f"   {line}")

    async def _look_again(self) -> None:
        self._title("6. Stop it, start it again: is everything still there?")
        async with self._serve() as server:
            self._seen.tasks_after_restart = await self._read_tasks(server)
            self._seen.stats_after_restart = await server.call("get_api_manager_stats")
        found = len(self._seen.tasks_after_restart)
        self._screen.say(f"   {found} tasks and the statistics were read again, to be compared.")

    async def _add_endpoint(self, server: Session, stand_in: StandIn, priority: int, role: str) -> None:
        await server.call(
            "add_api_endpoint",
            name=stand_in.name,
            base_url=stand_in.base_url,
            api_key=KEYS[stand_in.name],
            model=stand_in.model,
            priority=priority,
            max_requests_per_minute=60,
        )
        self._screen.say(f"   {stand_in.name:<8} {stand_in.base_url}  priority {priority}: {role}")

    async def _publish_all(self, server: Session) -> None:
        async def publish(
            name: str, payload: JsonObject, priority: int, note: str = "", *, after: str = "", label: str = ""
        ) -> str:
            arguments: dict[str, Json] = {"name": name, "payload": dumps(payload), "priority": priority}
            if after:
                arguments["depends_on"] = after
            answer = await server.call("publish_enhanced_task", **arguments)
            self._seen.ids[label or name] = str(answer["task_id"])
            shown = dumps(payload) if name != "ai_call" else "a prompt for the pool"
            self._screen.say(f"   {PRIORITIES[priority]:<6} {label or name:<15} {shown:<34}{note}".rstrip())
            return str(answer["task_id"])

        await publish("sleep", {"seconds": 1}, 4, "so a queue forms")
        fetch = await publish("fetch_data", {"source": "binance"}, 3)
        analyze = await publish("analyze_data", {"method": "technical"}, 2, "after fetch_data", after=fetch)
        report = await publish("generate_report", {"format": "pdf"}, 2, "after analyze_data", after=analyze)
        prompt = f"Translate into Chinese: ${{{report}.text}}"
        await publish("ai_call", {"prompt": prompt}, 1, "after the report", after=report, label="translation")
        for number in range(1, 5):
            await publish("ai_call", {"prompt": f"What is {number} + {number}?"}, 1, label=f"question {number}")
        await publish("price_alert", {"symbol": "BTC/USDT", "alert_type": "spike"}, 4)

    async def _read_tasks(self, server: Session) -> dict[str, JsonObject]:
        tasks = {}
        for label, task_id in self._seen.ids.items():
            tasks[label] = await server.call("get_task_status", task_id=task_id, max_chars=50_000)
            tasks[label].pop(NOTICE, None)  # It names a fence that is drawn anew for each answer.
        return tasks

    def _title(self, text: str) -> None:
        self._screen.say()
        self._screen.say(text, "bold")


def statistics_table(seen: Observed) -> list[str]:
    """The statistics of both endpoints, a line each under a line of names."""
    row = "{:<9}{:<13}{:>8}{:>7}{:>10}{:>9}{:>12}".format
    lines = [row("endpoint", "status", "success", "calls", "answered", "limited", "avg latency")]
    for name in seen.keys:
        stats, kinds = endpoint_stats(seen.stats, name), outcomes(seen.stats, name)
        cells = [stats.get(key) for key in ("status", "success_rate", "calls")]
        lines.append(
            row(
                name,
                *(str(cell) for cell in cells),
                kinds.get("ok", 0),
                kinds.get("rate_limited", 0),
                str(stats.get("avg_latency")),
            )
        )
        if error := stats.get("last_error"):
            lines.append(f"         last error: {error}")
    return lines
