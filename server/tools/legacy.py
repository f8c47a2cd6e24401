"""The basic tools of version 1, off unless asked for: the same queue and schedules under their old names."""

from collections.abc import Sequence
from typing import Annotated, Any, Required, TypedDict

from core.cloud.publisher import CloudTaskPublisher
from core.cloud.task import TaskStatus
from server.answers.records import TaskRow, filled, task_row
from server.tools.arguments import StatusFilter, any_when_empty, choice, json_or_text, json_value, names, text, whole
from server.tools.schedules import Schedule, schedule_row
from server.tools.tasks import Published, published
from server.tools.tool_registry import READS, STARTS_WORK, ToolCall, Toolset

LEGACY = Toolset("legacy", "The basic tools of version 1 (off by default).")


def basic(call: ToolCall) -> CloudTaskPublisher:
    """The guide's basic publisher over this process's queue."""
    runtime = call.app.runtime
    return CloudTaskPublisher(publisher=runtime.publisher, scheduler=runtime.scheduler)


@LEGACY.tool("Publish a basic task", STARTS_WORK)
async def publish_cloud_task(
    call: ToolCall,
    *,
    name: Annotated[str, text("Handler that runs it.", least=1)],
    payload: Annotated[Any, json_value('JSON for the handler, e.g. {"symbol": "BTC/USDT"}.')] = "",
    schedule: Annotated[Any, json_or_text("To repeat it: seconds, or a cron expression; empty: once.")] = "",
    tags: Annotated[Sequence[str], names("Comma-separated tags.")] = "",
) -> Published:
    """Put a task in the queue, once or on a schedule. publish_enhanced_task can do more."""

    def publish() -> Published:
        task = basic(call).publish(name, {} if payload == "" else payload, schedule or None, tags)
        return published(task, call.app.why_waiting(task))

    return await call.app.store(publish)


class BasicList(TypedDict):
    """Tasks, short."""

    tasks: list[TaskRow]


@LEGACY.tool("List basic tasks", READS)
async def list_cloud_tasks(
    call: ToolCall,
    *,
    status: Annotated[StatusFilter, any_when_empty, choice("Only tasks in this status.")] = "any",
    limit: Annotated[int, whole("Most rows.", 1, 200)] = 20,
) -> BasicList:
    """List tasks, most urgent first. list_enhanced_tasks can do more."""
    tasks = await call.app.store(basic(call).list_tasks, None if status == "any" else TaskStatus(status), limit)
    return {"tasks": [task_row(task) for task in tasks]}


class SchedulerState(TypedDict, total=False):
    """The scheduler and what it keeps."""

    running: Required[bool]
    next_run: str
    schedules: Required[list[Schedule]]


def state(call: ToolCall) -> SchedulerState:
    """The scheduler as this server drives it. Reads the store."""
    scheduler = call.app.runtime.scheduler
    rows = [schedule_row(record) for record in scheduler.schedules()]
    upcoming = sorted(row["next_run"] for row in rows if "next_run" in row)
    told: SchedulerState = filled({"running": True, "next_run": upcoming[0] if upcoming else ""})
    told["schedules"] = rows
    return told


@LEGACY.tool("Start the scheduler", READS)
async def start_cloud_scheduler(call: ToolCall) -> SchedulerState:
    """Make sure that schedules are published. A server does so from its start; this shows that it does."""
    return await call.app.store(state, call)


@LEGACY.tool("Show the scheduler", READS)
async def cloud_scheduler_snapshot(call: ToolCall) -> SchedulerState:
    """Show the scheduler and every schedule. list_schedules shows the same."""
    return await call.app.store(state, call)


class Triggered(TypedDict):
    """Tasks that were published by hand."""

    task_ids: list[str]


@LEGACY.tool("Trigger schedules", STARTS_WORK)
async def trigger_cloud_queue(
    call: ToolCall,
    name: Annotated[str, text("Publish this schedule's task now; empty: everything that is due.", most=100)] = "",
) -> Triggered:
    """Publish the task of a schedule at once, leaving its times as they are."""
    return {"task_ids": await call.app.store(call.app.runtime.scheduler.trigger_now, name or None)}
