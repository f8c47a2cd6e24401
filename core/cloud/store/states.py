"""The database's states: a task's status, with pending split by what it waits for."""

from collections.abc import Mapping

from core.cloud.task import FINAL, HELD, TaskStatus

BLOCKED = "blocked"
LATER = "later"
READY = "ready"

WAITING = (READY, LATER, BLOCKED)
"""The three states of a pending task: its turn, its time or its dependencies are awaited."""

STATES_OF: Mapping[TaskStatus, tuple[str, ...]] = {
    status: WAITING if status is TaskStatus.PENDING else (status.value,) for status in TaskStatus
}

STATUS_OF: Mapping[str, TaskStatus] = {state: status for status, states in STATES_OF.items() for state in states}

FINAL_STATES = tuple(status.value for status in TaskStatus if status in FINAL)
HELD_STATES = tuple(status.value for status in TaskStatus if status in HELD)


def waiting_state(blockers: int, run_at: float | None, now: float) -> str:
    """The state of a pending task with so many unfinished parents that may not start before `run_at`."""
    if blockers:
        return BLOCKED
    return LATER if run_at is not None and run_at > now else READY
