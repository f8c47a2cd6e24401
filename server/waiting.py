"""Waiting for tasks: woken by their changes, bounded in time, cancelled without harm."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio

from core.cloud.task import HELD, Task
from server.answers.records import is_open_question
from server.context import App

NET_SECONDS = 2.0
"""How often a waiter looks by itself, should a wake-up have been lost (a datagram from another process can be)."""
PATIENCE = 2.0
"""Seconds until a task that no live process can run is given up: a process that is starting may yet appear."""

FEW = 50
"""Up to this many tasks are all read again at each look."""

Progress = Callable[[float, float, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WaitResult:
    """Where a wait ended."""

    tasks: list[Task]
    reasons: dict[str, str]
    """For each task that is not done, why."""
    seconds: float
    hopeless: bool = False
    """True when it ended early, because no live process can run what is left, or a question waits for its answer."""

    @property
    def done(self) -> bool:
        return all(task.done for task in self.tasks)

    @property
    def poll_after(self) -> float:
        """Seconds after which looking again makes sense."""
        return 1.0 if any(task.status in HELD for task in self.tasks) else 5.0


async def wait_until_done(app: App, task_ids: Sequence[str], timeout: float, progress: Progress) -> WaitResult:
    """Wait until all tasks are done, or `timeout` seconds passed, or waiting cannot help: nobody alive could ever
    run those that are left, or one of them is a question to the user.

    Raises UnknownTask. Nothing depends on the waiter: being cancelled loses nothing.
    """
    started = anyio.current_time()
    hopeless = False
    tasks = await app.store(_read, app, task_ids)
    with app.changes.watch(task.task_id for task in tasks) as watch:
        while True:
            watch.take()
            tasks = await app.store(_reread, app, tasks)
            waited = anyio.current_time() - started
            left = timeout - waited
            if left <= 0 or all(task.done for task in tasks):
                break
            await progress(round(waited, 3), timeout, _summary(tasks))
            hopeless = waited >= PATIENCE and await app.store(_hopeless, app, tasks)
            if hopeless:
                break
            with anyio.move_on_after(min(left, NET_SECONDS)):
                await watch.changed.wait()
    reasons = await app.store(_reasons, app, tasks)
    # What a busy machine took for the last look was not waited for.
    return WaitResult(tasks, reasons, min(anyio.current_time() - started, timeout), hopeless)


def _read(app: App, task_ids: Sequence[str]) -> list[Task]:
    return [app.runtime.publisher.get_task(task_id) for task_id in dict.fromkeys(task_ids)]


def _reread(app: App, tasks: Sequence[Task]) -> list[Task]:
    """The tasks as they are now. Of many, only those that had not ended are read, until all have."""
    read = app.runtime.publisher.get_task
    now = [task if task.done and len(tasks) > FEW else read(task.task_id) for task in tasks]
    return [read(task.task_id) for task in now] if len(tasks) > FEW and all(task.done for task in now) else now


def _hopeless(app: App, tasks: Sequence[Task]) -> bool:
    if any(is_open_question(task) for task in tasks):
        return True
    if app.runtime.handlers.arriving:
        return False
    return all(app.nobody_can_run(task) for task in tasks if not task.done)  # the first that somebody can run ends it


def _reasons(app: App, tasks: Sequence[Task]) -> dict[str, str]:
    return {task.task_id: app.runtime.publisher.why(task.task_id) for task in tasks if not task.done}


def _summary(tasks: Sequence[Task]) -> str:
    if len(tasks) == 1:
        task = tasks[0]
        share = f" {task.progress:.0%}" if task.status in HELD and task.progress is not None else ""
        return f"{task.name}: {task.status.value}{share}"
    done = sum(task.done for task in tasks)
    return f"{done} of {len(tasks)} tasks done"
