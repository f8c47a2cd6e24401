"""What every tool, resource and prompt of one process shares."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import to_thread

from core.cloud.task import Task
from core.runtime import Runtime
from server.changes import ChangeFeed
from server.logs import redact
from server.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class App:
    """The process's runtime and settings, as its tools see them."""

    runtime: Runtime
    settings: Settings
    changes: ChangeFeed

    async def store(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what reads or writes the store in a worker thread; the event loop never waits for a disk.

        A caller that goes away does not stop it: a write that was begun is finished.
        """
        return await to_thread.run_sync(partial(function, *args, **kwargs))

    def redact(self, text: str) -> str:
        """`text` without anything that is, or looks like, an API key."""
        return redact(text)

    def nobody_can_run(self, task: Task) -> bool:
        """True when the task waits and no live process has what it needs. Reads the store. Raises UnknownTask."""
        return not task.done and self.runtime.publisher.nobody_can_run(task.task_id)

    def why_waiting(self, task: Task) -> str:
        """In words, what a task waits for that time alone will not bring; '' when nothing. Reads the store."""
        if task.done or not (task.blocked_by or self.nobody_can_run(task)):
            return ""
        return self.runtime.publisher.why(task.task_id)
