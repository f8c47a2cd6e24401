"""A task: its statuses, the one table of allowed transitions, and the records that describe it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

from core.clock import to_iso
from core.errors import InvalidArgument, InvalidTransition, UnknownTask
from core.json_types import Json, JsonObject


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    PENDING = "pending"
    ACKNOWLEDGED = "acknowledged"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class TaskPriority(IntEnum):
    """How soon a task is wanted; a higher number goes first."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    URGENT = 4


class AttemptOutcome(StrEnum):
    """How one attempt at a task ended; `running` until it has."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class OnDependencyFailure(StrEnum):
    """What happens to a task when one it depends on fails, expires or is cancelled."""

    WAIT = "wait"
    CANCEL = "cancel"


TRANSITIONS: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset(
        {
            TaskStatus.ACKNOWLEDGED,
            TaskStatus.RUNNING,
            TaskStatus.COMPLETED,
            TaskStatus.FAILED,
            TaskStatus.CANCELLED,
            TaskStatus.EXPIRED,
        }
    ),
    TaskStatus.ACKNOWLEDGED: frozenset(
        {
            TaskStatus.PENDING,
            TaskStatus.RUNNING,
            TaskStatus.COMPLETED,
            TaskStatus.FAILED,
            TaskStatus.CANCELLED,
            TaskStatus.EXPIRED,
        }
    ),
    TaskStatus.RUNNING: frozenset({TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset({TaskStatus.PENDING}),
    TaskStatus.CANCELLED: frozenset({TaskStatus.PENDING}),
    TaskStatus.EXPIRED: frozenset({TaskStatus.PENDING}),
}
"""From each status, the ones a task may go to next. docs/states.md and the database's CHECKs say the same."""

FINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED})
"""Statuses in which nothing more happens by itself."""

HELD = frozenset({TaskStatus.ACKNOWLEDGED, TaskStatus.RUNNING})
"""Statuses in which a worker holds the task under a lease."""


def check_transition(task_id: str, current: TaskStatus, wanted: TaskStatus) -> None:
    """Raise InvalidTransition, naming the allowed statuses, unless `current` may become `wanted`."""
    allowed = TRANSITIONS[current]
    if wanted in allowed:
        return
    if TaskStatus.PENDING in allowed and current in FINAL:
        fix = "retry_task puts it back in the queue."
    elif allowed:
        fix = f"from {current} a task can only become: {', '.join(sorted(allowed))}."
    else:
        fix = f"{current} is final; publish a new task instead."
    raise InvalidTransition(f"Task {task_id} is {current} and cannot become {wanted}.", fix)


def unknown_task(task_id: str, newest: Sequence[str]) -> UnknownTask:
    """The error for an id nothing has; `newest` are ids the caller may have meant."""
    return UnknownTask(
        f"There is no task {task_id[:60]!r}.",
        f"use a whole task id; the newest are {', '.join(newest)}; list_tasks shows all."
        if newest
        else "publish a task first.",
    )


def parse_status(value: str) -> TaskStatus:
    """The status named `value`; InvalidArgument lists the known ones."""
    try:
        return TaskStatus(value)
    except ValueError:
        raise InvalidArgument(
            f"There is no task status {value[:40]!r}.", f"use one of: {', '.join(TaskStatus)}."
        ) from None


def parse_priority(value: int) -> TaskPriority:
    """The priority numbered `value`; InvalidArgument explains the four."""
    try:
        return TaskPriority(value)
    except ValueError:
        raise InvalidArgument(
            "The priority must be 1, 2, 3 or 4.", "use 1 LOW, 2 NORMAL, 3 HIGH or 4 URGENT."
        ) from None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a task, kept for good."""

    number: int
    """1 for the first; the fencing token of the lease it ran under."""
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: AttemptOutcome
    error: str | None

    def to_dict(self) -> JsonObject:
        """The attempt as JSON: times ISO 8601 UTC, unset values None."""
        return {
            "number": self.number,
            "worker": self.worker,
            "started_at": _iso(self.started_at),
            "ended_at": _iso(self.ended_at),
            "outcome": self.outcome.value,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it stood when it was read."""

    task_id: str
    name: str
    status: TaskStatus
    priority: int
    payload: Json
    tags: tuple[str, ...]
    depends_on: tuple[str, ...]
    blocked_by: tuple[str, ...]
    """Dependencies that are not completed, in the order of `depends_on`."""
    on_dependency_failure: OnDependencyFailure
    timeout: float | None
    """Seconds one attempt may run; None is without limit."""
    max_retries: int
    attempts: int
    """Attempts started so far, interrupted ones included."""
    interruptions: int
    """Attempts cut off by the death of their worker; they use up no retry."""
    idempotency_key: str | None
    created_at: datetime
    run_at: datetime | None
    """Not before this moment (delay or back-off); None is at once."""
    expires_at: datetime | None
    started_at: datetime | None
    """When the latest attempt started."""
    completed_at: datetime | None
    """When the task reached a final status."""
    worker: str | None
    """Who holds it now, when acknowledged or running."""
    lease_until: datetime | None
    progress: float | None
    """Share done, 0 to 1, as its handler last reported."""
    progress_message: str
    result: Json
    """What its handler returned, once completed. Of one that failed for a result that was too large: the start of its JSON, as text."""
    error: str | None

    @property
    def done(self) -> bool:
        """True when the task is in a final status."""
        return self.status in FINAL

    def to_dict(self) -> JsonObject:
        """The task as JSON: times ISO 8601 UTC, unset values None."""
        return {
            "task_id": self.task_id,
            "name": self.name,
            "status": self.status.value,
            "priority": int(self.priority),
            "payload": self.payload,
            "tags": list(self.tags),
            "depends_on": list(self.depends_on),
            "blocked_by": list(self.blocked_by),
            "on_dependency_failure": self.on_dependency_failure.value,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "attempts": self.attempts,
            "interruptions": self.interruptions,
            "idempotency_key": self.idempotency_key,
            "created_at": _iso(self.created_at),
            "run_at": _iso(self.run_at),
            "expires_at": _iso(self.expires_at),
            "started_at": _iso(self.started_at),
            "completed_at": _iso(self.completed_at),
            "worker": self.worker,
            "lease_until": _iso(self.lease_until),
            "progress": self.progress,
            "progress_message": self.progress_message,
            "result": self.result,
            "error": self.error,
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else to_iso(moment.timestamp())
