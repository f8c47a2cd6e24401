"""What can still happen to tasks of the queue: whether they move, wait for an answer, or are stuck. Pure, but for `read`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.cloud.queue.why import ASK_USER
from core.cloud.task import HELD, Task

MOST_VISITED = 2_000
"""Tasks looked at before a graph is simply taken to be moving."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of some tasks and everything unfinished that they wait for."""

    held: bool
    """A worker was seen to have one of them."""
    moving: bool
    """Something of it can still change by itself, or by an answer."""
    questions: tuple[Task, ...]
    """Open questions, oldest first."""


def outlook(read: Callable[[str], Task | None], tasks: Sequence[Task], *, questions: bool = True) -> Outlook:
    """The outlook of `tasks`; `read` gives a task by its id, or None.

    Without `questions` none are looked for, and the first task that moves is answer enough.
    """
    seen: dict[str, Task] = {task.task_id: task for task in tasks}
    queue = list(tasks)
    while queue and len(seen) <= MOST_VISITED:
        task = queue.pop()
        if not questions and _can_change(task):
            return Outlook(held=task.status in HELD, moving=True, questions=())
        for task_id in task.blocked_by:
            if task_id not in seen and (blocker := read(task_id)) is not None:
                seen[task_id] = blocker
                queue.append(blocker)
    changing = [task for task in seen.values() if _can_change(task)]
    asked = [task for task in changing if task.name == ASK_USER]
    return Outlook(
        held=any(task.status in HELD for task in changing),
        moving=bool(queue) or bool(changing),
        questions=tuple(sorted(asked, key=lambda task: (task.created_at, task.task_id))),
    )


def _can_change(task: Task) -> bool:
    return not task.done and not task.blocked_by
