"""Tools for a chat that does tasks itself: take one under a lease, report how it went."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Required, TypedDict

from core.cloud.task import Task
from core.json_types import Json
from server.answers.records import TaskRow, filled, iso, task_row
from server.answers.schema import UNTRUSTED
from server.tools.arguments import choice, json_or_text, names, number, text, whole
from server.tools.control import Changed
from server.tools.tasks import TaskId
from server.tools.tool_registry import ADDS, REPLACES, ToolCall, Toolset

WORKERS = Toolset("workers", "Do tasks yourself: claim them and report.")


class Assignment(TypedDict, total=False):
    """A task that is now the caller's to do."""

    task_id: Required[str]
    name: Required[str]
    priority: Required[int]
    attempt: Required[Annotated[int, "pass on to update_task_status"]]
    lease_until: Required[str]
    tags: list[str]
    payload: Annotated[Json, UNTRUSTED]
    dependency_results: Annotated[dict[str, Json], UNTRUSTED]


class Claimed(TypedDict, total=False):
    """Tasks taken, none when nothing is ready."""

    tasks: Required[list[Assignment]]
    next: Required[str]


@WORKERS.tool("Claim tasks", ADDS)
async def claim_task(
    call: ToolCall,
    *,
    worker: Annotated[str, text("Your name as a worker; use the same in update_task_status.", least=1, most=100)],
    names: Annotated[Sequence[str], names("Only tasks with one of these comma-separated names; empty: any.")] = "",
    limit: Annotated[int, whole("Most tasks to take.", 1, 20)] = 1,
    lease: Annotated[float, number("Seconds until a task not reported on goes back to the queue.", 10, 86400)] = 900.0,
) -> Claimed:
    """Take ready tasks to do them yourself, most urgent first. Report with update_task_status before the lease ends."""

    def claim() -> list[Assignment]:
        publisher = call.app.runtime.publisher
        claimed = publisher.claim(worker, names or None, limit, lease)
        return [assignment(task, publisher) for task in claimed]

    tasks = await call.app.store(claim)
    return {"tasks": tasks, "next": _next(tasks, worker)}


def assignment(task: Task, publisher: Any) -> Assignment:
    """What the worker of `task` needs to do it."""
    given: Assignment = filled(
        {
            "task_id": task.task_id,
            "name": task.name,
            "priority": int(task.priority),
            "attempt": task.attempts,
            "lease_until": iso(task.lease_until),
            "tags": list(task.tags),
            "dependency_results": {one: publisher.get_task(one).result for one in task.depends_on},
        }
    )
    given["payload"] = task.payload
    return given


def _next(tasks: list[Assignment], worker: str) -> str:
    if not tasks:
        return 'nothing is ready; list_enhanced_tasks(status="pending") shows what waits'
    first = tasks[0]
    return (
        f'update_task_status(task_id="{first["task_id"]}", status="completed", result=..., '
        f'worker="{worker}", attempt={first["attempt"]})'
    )


@WORKERS.tool("Report on a task", REPLACES)
async def update_task_status(
    call: ToolCall,
    *,
    task_id: TaskId,
    status: Annotated[
        Literal["acknowledged", "running", "completed", "failed", "pending", "cancelled"],
        choice("running renews the lease; pending gives the task back."),
    ],
    result: Annotated[Any, json_or_text("With completed: the result, as JSON or plain text.")] = "",
    error: Annotated[str, text("With failed: what went wrong.", most=10_000)] = "",
    worker: Annotated[str, text("The worker name given to claim_task.", most=100)] = "manual",
    attempt: Annotated[
        int, whole("The attempt given by claim_task; 0 skips the check that the task is still yours.", 0, 10**9)
    ] = 0,
    progress: Annotated[float, number("Share done, 0 to 1.", 0, 1)] = 0.0,
) -> Changed:
    """Report on a task you claimed, or set its status by hand."""

    def report() -> TaskRow:
        task = call.app.runtime.publisher.update_status(
            task_id,
            status,
            result=None if result == "" else result,
            error=error or None,
            worker=worker,
            attempt=attempt or None,
            progress=progress or None,
        )
        return task_row(task)

    return {"task": await call.app.store(report)}
