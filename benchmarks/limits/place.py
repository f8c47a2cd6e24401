"""A database, a server that notes each arrival, and the processes that work between them."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.limits.worker import Options, Used, opened
from benchmarks.pool.mock import Mock, mock
from benchmarks.queue import records
from core.clock import SystemClock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.rate_limit import MARGIN, WINDOW
from core.cloud.task import Task
from core.json_types import JsonObject
from core.runtime import Runtime

ANSWERS_IN = 0.1
"""Seconds the server takes for an answer."""
UNFINISHED = ("pending", "acknowledged", "running")


class Worker:
    """A process that runs tasks, from outside."""

    def __init__(self, options: Options) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.limits.worker", json.dumps(asdict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def used(self) -> Used:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return Used(**json.loads(self._line()))

    def end(self) -> None:
        self.process.communicate(timeout=30)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


class At(SystemClock):
    """A moment of the wall clock."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def now(self) -> float:
        return self.moment


class Place:
    """A database of its own, a server, and this process, which publishes; it runs tasks once `here` is started with a `concurrency`."""

    def __init__(self, folder: Path, server: Mock, window: float = 0.0, concurrency: int = 0) -> None:
        self.folder, self.server = folder, server
        self.options = Options(str(folder / "queue.db"), window)
        self.here: Runtime = opened(Options(self.options.database, window, concurrency))
        self.window = window or WINDOW
        self.minute = self.window - MARGIN

    def add(self, name: str = "only", *, per_minute: int = 0, priority: int = 1) -> None:
        self.here.manager.add_endpoint(
            ApiEndpoint(
                name, self.server.url(name), "", "bench", priority, max_requests_per_minute=per_minute, timeout=30.0
            )
        )

    def ask(self, count: int, *, payload: JsonObject | None = None, **settings: Any) -> list[Task]:
        """Publish so many `ai_call`s."""
        out: list[Task] = []
        for start in range(0, count, 10_000):
            out += self.here.publisher.publish_many(
                [
                    {"name": "ai_call", "payload": {"prompt": f"p{index}", **(payload or {})}, **settings}
                    for index in range(start, min(count, start + 10_000))
                ]
            )
        return out

    def found(self, tasks: Sequence[Task]) -> list[Task]:
        return [task for each in tasks if (task := self.here.publisher.get_task(each.task_id)) is not None]

    def unfinished(self) -> int:
        by_status = self.here.publisher.get_stats()["by_status"]
        return sum(int(by_status.get(status, 0)) for status in UNFINISHED)

    def arrivals(self, name: str = "only") -> list[float]:
        return [at for at, _ in self.server.log().get(name, [])]

    def spread(self, per_minute: int, name: str = "only") -> None:
        """As if the last minute's calls had come one by one, so that a slot opens every now and then and not all at once."""
        now, account = time.time(), self.here.manager._pool.members[name].state
        with self.here.store.database.write():
            for number in range(per_minute):
                account.admit(At(now - self.window * (1 - (number + 1) / per_minute)))

    @contextmanager
    def workers(self, count: int = 1) -> Iterator[list[Worker]]:
        with ExitStack() as stack:
            made = [Worker(self.options) for _ in range(count)]
            for each in made:
                stack.callback(each.end)
            yield made


@contextmanager
def place(window: float = 0.0, delay: float = ANSWERS_IN, concurrency: int = 0) -> Iterator[Place]:
    """With a `window` of so many seconds instead of the pool's own, and a server that answers after `delay` seconds."""
    folder = Path(tempfile.mkdtemp(prefix="bench-limits-"))
    records.start_in(folder)
    try:
        with mock() as server:
            server.plan({name: {"phases": [{"from": 0, "delay": delay}]} for name in ("only", "first", "second")})
            made = Place(folder, server, window, concurrency)
            try:
                yield made
            finally:
                made.here.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.01)


def most_in(arrivals: Sequence[float], seconds: float) -> int:
    """The most that arrived within any `seconds`."""
    most, first = 0, 0
    ordered = sorted(arrivals)
    for last, at in enumerate(ordered):
        while at - ordered[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
