"""A publisher and runners on one database of the test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.retry import RetryPolicy
from core.cloud.running.runner import TaskRunner
from core.cloud.store import open_store
from core.cloud.task import Task
from tests.support.waiting import wait_until

FAST_RETRIES = RetryPolicy(base=0.01, cap=0.05)
NEVER = 3600.0
PATIENCE = 30.0
"""Seconds until a task must have ended: several child processes may start at once on a machine that has other work."""


class Queue:
    """What a runner test needs, closed together."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.store = open_store(database)
        self.handlers = builtin_handlers()
        self.publisher = EnhancedCloudTaskPublisher(store=self.store, handlers=self.handlers)
        self.runners: list[TaskRunner] = []

    def run(self, **options: Any) -> TaskRunner:
        """A started runner that never polls: what it does, it was woken for."""
        settings: dict[str, Any] = {"poll_interval": NEVER, "retry": FAST_RETRIES, "wakeup": self.publisher.wakeup}
        runner = TaskRunner(self.store, options.pop("handlers", self.handlers), **{**settings, **options})
        self.runners.append(runner)
        runner.start()
        return runner

    def finished(self, task: Task) -> Task:
        """The task once it is in a final status."""
        return wait_until(
            lambda: (now := self.publisher.get_task(task.task_id)).done and now, f"the end of {task.name}", PATIENCE
        )

    def running(self, task: Task) -> Task:
        """The task once it runs."""
        return wait_until(
            lambda: (now := self.publisher.get_task(task.task_id)).status == "running" and now,
            f"the start of {task.name}",
        )

    def outcomes(self, task: Task) -> list[str]:
        return [str(attempt.outcome) for attempt in self.publisher.attempts(task.task_id)]

    def close(self) -> None:
        for runner in self.runners:
            runner.stop(0.2)
        self.publisher.close()
        self.store.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(str(tmp_path / "queue.db"))
    yield made
    made.close()
