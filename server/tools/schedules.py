"""Tools for schedules: tasks published at set times."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Required, TypedDict

from core.clock import to_iso
from core.cloud.store_contract import ScheduleRecord
from core.errors import InvalidArgument
from core.json_types import JsonObject, loads
from server.answers.records import filled
from server.tools.arguments import MAX_NAME, WEEK, YEAR, choice, json_value, names, number, priority_words, text, whole
from server.tools.tool_registry import READS, REMOVES, REPLACES, ToolCall, Toolset

SCHEDULES = Toolset("schedules", "Publish tasks at set times.")


class Schedule(TypedDict, total=False):
    """One schedule."""

    name: Required[str]
    task: Required[Annotated[str, "name of the tasks it publishes"]]
    when: Required[str]
    missed: Required[str]
    enabled: Required[bool]
    next_run: str
    last_run: str
    last_task_id: str
    runs: Required[int]


def schedule_row(record: ScheduleRecord) -> Schedule:
    """A schedule as clients see it."""
    published = loads(record.task)
    row: Schedule = filled(
        {
            "name": record.name,
            "task": str(published["name"]) if isinstance(published, dict) else record.name,
            "when": f"every {record.every:g} s" if record.every is not None else f"{record.cron} ({record.timezone})",
            "missed": record.missed,
            "enabled": record.enabled,
            "next_run": to_iso(record.next_run),
            "last_run": to_iso(record.last_run),
            "last_task_id": record.last_task_id,
            "runs": record.runs,
        }
    )
    return row


class Scheduled(TypedDict, total=False):
    """A schedule after a change."""

    schedule: Required[Schedule]
    next: str


@SCHEDULES.tool("Schedule a task", REPLACES)
async def schedule_task(
    call: ToolCall,
    *,
    name: Annotated[str, text("Name of the schedule; the same name again changes it.", least=1, most=100)],
    task: Annotated[
        str, text("Name of the task to publish (see publish_enhanced_task); empty: the schedule's name.")
    ] = "",
    payload: Annotated[Any, json_value("JSON for the task's handler.")] = "",
    every: Annotated[float, number("Seconds between two runs, 1 or more; or give cron.", 0, YEAR)] = 0.0,
    cron: Annotated[str, text("Five fields (minute hour day month weekday) or @daily and the like.")] = "",
    timezone: Annotated[str, text("IANA time zone in which cron is read, e.g. Asia/Shanghai.")] = "UTC",
    missed: Annotated[
        Literal["once", "skip", "all"], choice("Runs missed while no server ran: make up for one, none or all.")
    ] = "once",
    enabled: Annotated[bool, choice("false pauses it.")] = True,
    priority: Annotated[int, whole("1 LOW, 2 NORMAL, 3 HIGH, 4 URGENT.", 1, 4), priority_words] = 2,
    tags: Annotated[Sequence[str], names("Comma-separated tags.")] = "",
    timeout: Annotated[float, number("Seconds one attempt may run; 0: no limit.", 0, WEEK)] = 0.0,
) -> Scheduled:
    """Publish a task every so many seconds or by a cron expression. It survives restarts and fires once, however many servers run."""
    if bool(every) == bool(cron):
        raise InvalidArgument("A schedule needs either every or cron; nothing was changed.", "pass exactly one of them")
    options: JsonObject = filled({"priority": priority, "tags": list(tags), "timeout": timeout or None})

    def schedule() -> Scheduled:
        scheduler = call.app.runtime.scheduler
        record = scheduler.add_task(
            name,
            {} if payload == "" else payload,
            every=every or None,
            cron=cron or None,
            timezone=timezone,
            missed=missed,
            task=task or None,
            **options,
        )
        if record.enabled != enabled:
            record = scheduler.enable(name) if enabled else scheduler.disable(name)
        return {"schedule": schedule_row(record), "next": "list_schedules shows all; remove_schedule ends one"}

    return await call.app.store(schedule)


class ScheduleList(TypedDict):
    """Every schedule."""

    schedules: list[Schedule]


@SCHEDULES.tool("List schedules", READS)
async def list_schedules(call: ToolCall) -> ScheduleList:
    """List every schedule with its next and last run."""
    records = await call.app.store(call.app.runtime.scheduler.schedules)
    return {"schedules": [schedule_row(record) for record in records]}


class ScheduleRemoved(TypedDict):
    """A schedule that is gone."""

    removed: str
    remaining: list[str]


@SCHEDULES.tool("Remove a schedule", REMOVES)
async def remove_schedule(
    call: ToolCall, name: Annotated[str, text("Name of the schedule.", least=1, most=MAX_NAME)]
) -> ScheduleRemoved:
    """Remove a schedule. Tasks it has published go on."""

    def remove() -> ScheduleRemoved:
        scheduler = call.app.runtime.scheduler
        scheduler.remove(name)
        return {"removed": name, "remaining": [record.name for record in scheduler.schedules()]}

    return await call.app.store(remove)
