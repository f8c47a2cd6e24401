"""Tools that change one task, and those that look after the queue as a whole."""

from typing import Annotated, Required, TypedDict, cast

from core.cloud.task import FINAL, TaskStatus
from core.errors import InvalidTransition
from server.answers.records import LimitRow, TaskRow, limit_row, task_row
from server.tools.arguments import choice, number
from server.tools.tasks import TASKS, TaskId
from server.tools.tool_registry import READS, REMOVES, RESTARTS_WORK, ToolCall


class Changed(TypedDict, total=False):
    """A task after a change."""

    task: Required[TaskRow]
    next: str


@TASKS.tool("Retry a task", RESTARTS_WORK)
async def retry_failed_task(call: ToolCall, task_id: TaskId) -> Changed:
    """Put a failed, cancelled or expired task back in the queue with all its retries; tasks that waited for it go on."""
    task = await call.app.store(call.app.runtime.publisher.retry_task, task_id)
    return {"task": task_row(task), "next": f'wait_for_task(task_id="{task.task_id}")'}


@TASKS.tool("Cancel a task", REMOVES)
async def cancel_task(call: ToolCall, task_id: TaskId) -> Changed:
    """Cancel a task that has not ended; a running one is stopped. Tasks that depend on it wait or are cancelled, as they say."""

    def cancel() -> Changed:
        publisher = call.app.runtime.publisher
        said = ""
        try:
            task = publisher.cancel_task(task_id)
        except InvalidTransition:
            task = publisher.get_task(task_id)
            if task.status is not TaskStatus.CANCELLED:
                raise InvalidTransition(
                    f"Task {task.task_id} has ended as {task.status}; there is nothing to cancel.",
                    f'get_task_status(task_id="{task.task_id}") shows what came of it',
                ) from None
            said = "it was cancelled before; "
        return {
            "task": task_row(task),
            "next": f'{said}retry_failed_task(task_id="{task.task_id}") would bring it back',
        }

    return await call.app.store(cancel)


class QueueStats(TypedDict, total=False):
    """Counts over the whole queue."""

    total: Required[int]
    by_status: Required[dict[str, int]]
    by_priority: Required[dict[str, int]]
    expired: Required[int]
    avg_completion_time: Required[Annotated[float, "seconds from start to completion"]]
    ready: int
    blocked: int
    later: Annotated[int, "their time has not come"]
    waiting_for_limits: list[LimitRow]


@TASKS.tool("Queue statistics", READS)
async def get_enhanced_task_stats(call: ToolCall) -> QueueStats:
    """Count the tasks by status and priority, and those that are ready, blocked or due later. Cheap at any size."""
    stats = dict(await call.app.store(call.app.runtime.publisher.get_stats))
    stats["avg_completion_time"] = round(stats["avg_completion_time"], 3)
    waiting = await call.app.store(call.app.runtime.publisher.waiting_for_limits)
    if waiting:
        stats["waiting_for_limits"] = [limit_row(each) for each in waiting]
    return cast(QueueStats, stats)


class Cleaned(TypedDict, total=False):
    """What a clean-up changed."""

    expired: Required[Annotated[int, "tasks whose time ran out before they started, now marked expired"]]
    removed: Required[Annotated[int, "finished tasks deleted, or that would be"]]
    dry_run: Required[bool]


@TASKS.tool("Clean up tasks", REMOVES)
async def cleanup_expired_tasks(
    call: ToolCall,
    remove_older_than_days: Annotated[
        float, number("Also delete tasks that ended more than this many days ago; 0: delete nothing.", 0, 36500)
    ] = 0.0,
    dry_run: Annotated[bool, choice("Only count what would be deleted.")] = False,
) -> Cleaned:
    """Mark overdue waiting tasks as expired and, when asked, delete old finished ones."""

    def clean() -> Cleaned:
        publisher = call.app.runtime.publisher
        expired = 0 if dry_run else publisher.cleanup_expired()
        removed = 0
        if remove_older_than_days > 0:
            purged = publisher.purge(older_than=remove_older_than_days * 86400.0, statuses=FINAL, dry_run=dry_run)
            removed = purged.tasks
        return {"expired": expired, "removed": removed, "dry_run": dry_run}

    return await call.app.store(clean)
