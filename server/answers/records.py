"""What tools answer: records as TypedDicts (their type is the output schema), built from the core's objects.

Empty values are left out; times are ISO 8601 UTC; ids are whole.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Required, TypedDict

from core.cloud.queue.reader import WaitingTasks
from core.cloud.queue.why import ASK_USER
from core.cloud.task import HELD, Attempt, Task
from core.json_types import Json
from server.answers.results import compact
from server.answers.schema import UNTRUSTED

CUT = 8_000
"""Characters of a payload or result shown at once."""
ROW_CUT = 2_000
"""The same where several tasks are shown."""


class TaskRow(TypedDict, total=False):
    """A task in a list."""

    task_id: Required[str]
    name: Required[str]
    status: Required[str]
    priority: Required[int]
    tags: list[str]
    created_at: str
    completed_at: str
    blocked_by: list[str]
    progress: float


class TaskOutcome(TypedDict, total=False):
    """A task as one waits for it."""

    task_id: Required[str]
    name: Required[str]
    status: Required[str]
    progress: float
    progress_message: Annotated[str, UNTRUSTED]
    result: Annotated[Json, UNTRUSTED]
    error: Annotated[str, UNTRUSTED]
    cut: Annotated[str, "what was left out and how to read it"]
    why: Annotated[str, "why it is not running"]


class AttemptRow(TypedDict, total=False):
    """One attempt at a task."""

    number: Required[int]
    outcome: Required[str]
    worker: str
    started_at: str
    ended_at: str
    error: Annotated[str, UNTRUSTED]


class TaskDetail(TypedDict, total=False):
    """Everything about one task."""

    task_id: Required[str]
    name: Required[str]
    status: Required[str]
    priority: Required[int]
    tags: list[str]
    depends_on: list[str]
    blocked_by: list[str]
    on_dependency_failure: str
    timeout: float
    max_retries: int
    idempotency_key: str
    created_at: str
    run_at: str
    expires_at: str
    started_at: str
    completed_at: str
    worker: str
    lease_until: str
    progress: float
    progress_message: Annotated[str, UNTRUSTED]
    why: Annotated[str, "why it is not running"]
    attempts: list[AttemptRow]
    payload: Annotated[Json, UNTRUSTED]
    result: Annotated[Json, UNTRUSTED]
    error: Annotated[str, UNTRUSTED]
    cut: Annotated[str, "what was left out and how to read it"]
    link: str
    next: str


def is_open_question(task: Task) -> bool:
    """True for a question whose turn has come and that nobody has answered."""
    return task.name == ASK_USER and not task.done and not task.blocked_by


def iso(moment: datetime | None) -> str:
    """`moment` as ISO 8601 UTC to the millisecond; '' for None."""
    return "" if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def task_uri(task_id: str) -> str:
    """The address of a task's resource."""
    return f"task://{task_id}"


def filled(values: Mapping[str, Any]) -> Any:
    """`values` without what is empty: None, '', [] and {}; 0 and false stay."""
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


def task_row(task: Task) -> TaskRow:
    """The line of a task in a list."""
    row: TaskRow = filled(
        {
            "task_id": task.task_id,
            "name": task.name,
            "status": task.status.value,
            "priority": int(task.priority),
            "tags": list(task.tags),
            "created_at": iso(task.created_at),
            "completed_at": iso(task.completed_at),
            "blocked_by": list(task.blocked_by),
            "progress": task.progress if task.status in HELD else None,
        }
    )
    return row


def task_outcome(task: Task, why: str) -> TaskOutcome:
    """What a waiting caller wants to know of a task."""
    result, cut = shortened(task.result, ROW_CUT, "result", task.task_id)
    outcome: TaskOutcome = filled(
        {
            "task_id": task.task_id,
            "name": task.name,
            "status": task.status.value,
            "progress": task.progress if task.status in HELD else None,
            "progress_message": task.progress_message if task.status in HELD else "",
            "error": task.error,
            "cut": cut,
            "why": why,
        }
    )
    if task.status.value == "completed" or (task.status.value == "failed" and task.result is not None):
        outcome["result"] = result
    return outcome


def attempt_row(attempt: Attempt) -> AttemptRow:
    """One line of a task's history."""
    row: AttemptRow = filled(
        {
            "number": attempt.number,
            "outcome": attempt.outcome.value,
            "worker": attempt.worker,
            "started_at": iso(attempt.started_at),
            "ended_at": iso(attempt.ended_at),
            "error": attempt.error,
        }
    )
    return row


def task_detail(task: Task, attempts: Sequence[Attempt], why: str, limit: int = CUT) -> TaskDetail:
    """Everything about `task`, its payload and result cut at `limit` characters each."""
    payload, payload_cut = shortened(task.payload, limit, "payload", task.task_id)
    result, result_cut = shortened(task.result, limit, "result", task.task_id)
    detail: TaskDetail = filled(
        {
            **task_row(task),
            "depends_on": list(task.depends_on),
            "on_dependency_failure": task.on_dependency_failure.value if task.depends_on else "",
            "timeout": task.timeout,
            "max_retries": task.max_retries,
            "idempotency_key": task.idempotency_key,
            "run_at": iso(task.run_at),
            "expires_at": iso(task.expires_at),
            "started_at": iso(task.started_at),
            "worker": task.worker,
            "lease_until": iso(task.lease_until),
            "progress_message": task.progress_message,
            "why": why,
            "attempts": [attempt_row(attempt) for attempt in attempts],
            "error": task.error,
            "cut": " ".join(part for part in (payload_cut, result_cut) if part),
            "link": task_uri(task.task_id) if payload_cut or result_cut else "",
        }
    )
    detail["payload"] = payload
    if task.status.value == "completed" or (task.status.value == "failed" and task.result is not None):
        detail["result"] = result
    return detail


def shortened(value: Json, limit: int, part: str, task_id: str) -> tuple[Json, str]:
    """`value` whole and '', or its first `limit` characters and how to read on."""
    whole = compact(value)
    if len(whole) <= limit:
        return value, ""
    return whole[:limit], (
        f"{part}: characters 0 to {limit} of {len(whole)}; "
        f'read on with get_task_status(task_id="{task_id}", part="{part}", offset={limit}).'
    )


def json_text(value: Json) -> str:
    """JSON text as a resource shows it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class LimitRow(TypedDict, total=False):
    """Ready tasks that wait for one limit."""

    waits_for: Required[str]
    tasks: Required[int]
    next_starts_in: Annotated[float, "seconds"]
    last_starts_in: Annotated[float, "seconds, when all goes on as it does"]


def limit_row(waiting: WaitingTasks) -> LimitRow:
    """What is unknown is left out."""
    row: LimitRow = {"waits_for": waiting.limit, "tasks": waiting.tasks}
    if math.isfinite(waiting.next_starts_in):
        row["next_starts_in"] = round(waiting.next_starts_in, 1)
    if math.isfinite(waiting.last_starts_in):
        row["last_starts_in"] = round(waiting.last_starts_in, 1)
    return row
