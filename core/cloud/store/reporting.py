"""Changes to a task from outside the runner: reports, cancel, retry. Functions work inside the caller's transaction."""

from dataclasses import dataclass

import apsw

from core.cloud.store import reading
from core.cloud.store.claiming import cancel_dependents, free_dependents
from core.cloud.store.queries import ATTEMPT, DEPENDENCY, TASK, first, one
from core.cloud.store.states import BLOCKED, STATUS_OF
from core.cloud.store_contract import StatusReport
from core.cloud.task import FINAL, HELD, AttemptOutcome, TaskStatus, check_transition, unknown_task
from core.errors import InvalidTransition, LeaseLost

NEWEST_NAMED = 3
"""Ids that an error about an unknown task names."""

OUTCOME_OF = {
    TaskStatus.COMPLETED: AttemptOutcome.COMPLETED,
    TaskStatus.FAILED: AttemptOutcome.FAILED,
    TaskStatus.CANCELLED: AttemptOutcome.CANCELLED,
    TaskStatus.EXPIRED: AttemptOutcome.CANCELLED,
    TaskStatus.PENDING: AttemptOutcome.INTERRUPTED,
}
"""How a held attempt ended when its task's status is set from outside."""


@dataclass(frozen=True, slots=True)
class Found:
    """A task as it stands inside the transaction that is about to change it."""

    task_id: str
    seq: int
    state: str
    owner: str | None
    attempt: int
    started_at: float | None
    blockers: int
    run_at: float | None

    @property
    def status(self) -> TaskStatus:
        return STATUS_OF[self.state]


def find(connection: apsw.Connection, task_id: str) -> Found:
    """The task, or UnknownTask."""
    row = first(connection, TASK["find"], (task_id,))
    if row is None:
        raise unknown_task(task_id, reading.newest_ids(connection, NEWEST_NAMED))
    return Found(task_id, *row[:7])


def report(connection: apsw.Connection, said: StatusReport, now: float) -> None:
    """Set a status by hand or for an agent; see TaskStore.report."""
    task = find(connection, said.task_id)
    if said.attempt is not None:
        _check_fence(task, said)
    if said.status in HELD:
        _hold(connection, task, said, now)
    else:
        check_transition(task.task_id, task.status, said.status)
        if said.status is TaskStatus.PENDING:
            _back_to_pending(connection, task, said, now)
        else:
            end(connection, task, said.status, now, result=said.result, error=said.error)
    if said.progress is not None or said.progress_message is not None:
        note_progress(
            connection, task.seq, find(connection, task.task_id).attempt, said.progress, said.progress_message or ""
        )


def _check_fence(task: Found, said: StatusReport) -> None:
    if task.owner == said.worker and task.attempt == said.attempt:
        return
    raise LeaseLost(
        f"Task {task.task_id} is no longer held by {said.worker} under attempt {said.attempt}: it is {task.status}"
        + (f" under attempt {task.attempt}." if task.owner else "."),
        "drop this work; claim a task again to go on.",
    )


def _hold(connection: apsw.Connection, task: Found, said: StatusReport, now: float) -> None:
    """Acknowledged or running: a new attempt for a pending task, the same attempt for its holder."""
    until = now + said.lease
    if task.owner == said.worker and (said.status is task.status or said.status in _next_of(task)):
        connection.execute(TASK["extend"], (task.seq, said.status.value, until))
        return
    if task.owner is not None and task.owner != said.worker:
        raise InvalidTransition(
            f"Task {task.task_id} is already {task.status}, held by {task.owner}.",
            "wait for it, or cancel it; a task has one holder at a time.",
        )
    check_transition(task.task_id, task.status, said.status)
    if task.state == BLOCKED:
        raise InvalidTransition(
            f"Task {task.task_id} waits for {task.blockers} other task(s) and cannot start yet.",
            "finish the tasks named in blocked_by first.",
        )
    connection.execute(TASK["hold"], (task.seq, said.status.value, said.worker, until, now))


def _next_of(task: Found) -> frozenset[TaskStatus]:
    return frozenset({TaskStatus.RUNNING}) if task.status is TaskStatus.ACKNOWLEDGED else frozenset()


def _back_to_pending(connection: apsw.Connection, task: Found, said: StatusReport, now: float) -> None:
    if task.status in FINAL:
        revive(connection, task, now)
        return
    give_back(connection, task, now, said.error)


def give_back(connection: apsw.Connection, task: Found, now: float, error: str | None = None) -> None:
    """A held task returns to the queue in good order; the attempt is free."""
    record_attempt(connection, task, now, AttemptOutcome.INTERRUPTED, error)
    connection.execute(TASK["forgive"], (task.seq,))


def end(
    connection: apsw.Connection,
    task: Found,
    status: TaskStatus,
    now: float,
    *,
    result: str | None = None,
    error: str | None = None,
) -> int:
    """Bring a task to a final status; dependents follow. Returns how many of them were cancelled."""
    record_attempt(connection, task, now, OUTCOME_OF[status], error)
    connection.execute(TASK["move"], (task.seq, status.value, now, task.run_at))
    connection.execute(TASK["put_outcome"], (task.seq, result, error))
    if status is TaskStatus.COMPLETED:
        free_dependents(connection, [task.seq], now)
        return 0
    return cancel_dependents(connection, [(task.seq, task.task_id, status.value)], now)


def record_attempt(
    connection: apsw.Connection, task: Found, now: float, outcome: AttemptOutcome, error: str | None
) -> None:
    """Keep the attempt that runs now, if one does."""
    if task.owner is not None:
        row = (task.seq, task.attempt, task.owner, task.started_at, now, outcome.value, error)
        connection.execute(ATTEMPT["insert"], row)


def cancel(connection: apsw.Connection, task_id: str, now: float, reason: str) -> None:
    """See TaskStore.cancel."""
    task = find(connection, task_id)
    check_transition(task_id, task.status, TaskStatus.CANCELLED)
    end(connection, task, TaskStatus.CANCELLED, now, error=reason)


def retry(connection: apsw.Connection, task_id: str, now: float) -> None:
    """See TaskStore.retry."""
    task = find(connection, task_id)
    if task.status not in FINAL:
        raise InvalidTransition(
            f"Task {task_id} is {task.status}: it has not failed.",
            "only a failed, cancelled or expired task can be retried.",
        )
    check_transition(task_id, task.status, TaskStatus.PENDING)
    revive(connection, task, now)


def revive(connection: apsw.Connection, task: Found, now: float) -> None:
    """A final task starts anew, blocked by those of its dependencies that are not completed."""
    blockers = int(one(connection, DEPENDENCY["blockers"], (task.seq,)))
    connection.execute(TASK["revive"], (task.seq, blockers, now))


def note_progress(connection: apsw.Connection, seq: int, attempt: int, share: float | None, message: str) -> None:
    """Keep the latest word on how far an attempt is."""
    connection.execute(TASK["put_progress"], (seq, attempt, share, message))
