"""What can still happen to tasks of the queue: whether they move, wait for an answer, or are stuck. Reads the store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.cloud.task import HELD, Task

ASK_USER = "ask_user"
"""Name of a task that is a question: no process runs it, a person (or an agent) completes it."""

MOST_VISITED = 2_000
"""Tasks looked at before a graph is simply taken to be moving."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of some tasks and everything unfinished that they wait for."""

    held: bool
    """A worker has one of them now."""
    moving: bool
    """Something of it can still change by itself, or by an answer."""
    questions: tuple[Task, ...]
    """Open questions, oldest first."""
    blockers: tuple[Task, ...]
    """Those that failed, expired or were cancelled."""


def outlook(read: Callable[[str], Task | None], tasks: Sequence[Task]) -> Outlook:
    """The outlook of `tasks`; `read` gives a task by its id, or None."""
    seen: dict[str, Task] = {task.task_id: task for task in tasks}
    queue = list(tasks)
    while queue and len(seen) <= MOST_VISITED:
        for task_id in queue.pop().blocked_by:
            if task_id not in seen and (task := read(task_id)) is not None:
                seen[task_id] = task
                queue.append(task)
    waiting = [task for task in seen.values() if not task.done]
    roots = {task.task_id for task in tasks}
    return Outlook(
        held=any(task.status in HELD for task in waiting),
        moving=bool(queue) or any(not task.blocked_by for task in waiting),
        questions=tuple(
            sorted(
                (task for task in waiting if task.name == ASK_USER and not task.blocked_by),
                key=lambda task: (task.created_at, task.task_id),
            )
        ),
        blockers=tuple(task for task in seen.values() if task.done and task.task_id not in roots),
    )
