"""What must happen to tasks as time passes. Functions work inside the caller's transaction, in bounded rounds."""

import json
from collections.abc import Collection

import apsw

from core.cloud.retry import DOUBT, EXPLAINED, put_back
from core.cloud.store.claiming import cancel_dependents
from core.cloud.store.queries import ATTEMPT, TASK, first, one, rows
from core.cloud.store.states import READY, STATES_OF
from core.cloud.store_contract import Maintained, Purged, PutBack
from core.cloud.task import AttemptOutcome, TaskStatus

EXPIRED = "Expired before it could start."
EXPIRED_AGAIN = "Expired before it could start again. Last error:"
LEASE_ENDED = "The worker stopped renewing its lease: its process died or hung."


def maintain(connection: apsw.Connection, now: float, poison_limit: int, limit: int, *, take_back: bool) -> Maintained:
    """One round; see TaskStore.maintain."""
    expired, followers = _expire(connection, now, limit)
    interrupted = poisoned = followers_of_poisoned = 0
    if take_back:
        interrupted, poisoned, followers_of_poisoned = _take_back(connection, now, poison_limit, limit)
    promoted = len(rows(connection, TASK["promote"], (now, limit)))
    return Maintained(
        expired=expired,
        interrupted=interrupted,
        poisoned=poisoned,
        promoted=promoted,
        cancelled=followers + followers_of_poisoned,
    )


def _expire(connection: apsw.Connection, now: float, limit: int) -> tuple[int, int]:
    ended = rows(connection, TASK["expire"], (now, limit))
    connection.executemany(TASK["put_outcome"], [(seq, None, _why_expired(error)) for seq, _, error in ended])
    lost = [(seq, task_id, TaskStatus.EXPIRED.value) for seq, task_id, _ in ended]
    return len(ended), cancel_dependents(connection, lost, now)


def _why_expired(error: str | None) -> str:
    """What is said of a task that expired; the error of its last attempt stays in it, when it had one."""
    if error is None:
        return EXPIRED
    return error if error.startswith((EXPIRED, EXPIRED_AGAIN)) else f"{EXPIRED_AGAIN} {error}"


def _take_back(connection: apsw.Connection, now: float, poison_limit: int, limit: int) -> tuple[int, int, int]:
    """Lost leases: (tasks pending again, tasks failed, dependents cancelled)."""
    cut_off = rows(connection, TASK["lost"], (now, limit))
    lost: list[tuple[int, str, str]] = []
    suspected = {row[3] for row in cut_off if row[5] >= poison_limit}
    alone = {owner for owner in suspected if int(one(connection, TASK["held_beside"], (owner,))) == 1}
    for seq, task_id, attempt, owner, started_at, interruptions in cut_off:
        record = (seq, attempt, owner, started_at, now, AttemptOutcome.INTERRUPTED.value, LEASE_ENDED)
        connection.execute(ATTEMPT["insert"], record)
        # What a worker ran beside others may be innocent; it runs again, with fewer beside it.
        if interruptions + 1 > (poison_limit if owner in alone else poison_limit * DOUBT):
            connection.execute(TASK["interrupt"], (seq, TaskStatus.FAILED.value, now))
            last = ", the last time with nothing else running in it" if owner in alone else ""
            error = (
                f"Given up: its worker died {interruptions + 1} times while running it{last}, and more than {poison_limit} "
                "is taken as a sign that the task kills its worker."
            )
            connection.execute(TASK["put_outcome"], (seq, None, error))
            lost.append((seq, task_id, TaskStatus.FAILED.value))
        else:
            connection.execute(TASK["interrupt"], (seq, READY, None))
    return len(cut_off) - len(lost), len(lost), cancel_dependents(connection, lost, now)


def next_due(connection: apsw.Connection, *, take_back: bool) -> float | None:
    """The earliest moment that concerns `maintain`."""
    names = ("next_later", "next_expiring", "next_lost") if take_back else ("next_later", "next_expiring")
    moments = [moment for name in names if (moment := one(connection, TASK[name])) is not None]
    return min(moments, default=None)


def any_retry_ahead(connection: apsw.Connection, now: float) -> bool:
    """Whether `put_retries_back` has something to do."""
    return first(connection, TASK["retries_ahead"], (now + EXPLAINED, 1)) is not None


def put_retries_back(connection: apsw.Connection, now: float, limit: int) -> list[PutBack]:
    """See TaskStore.put_retries_back. The attempt's own times go back too, so that the next look finds nothing amiss."""
    moved: list[PutBack] = []
    for seq, task_id, run_at, number, ended_at in rows(connection, TASK["retries_ahead"], (now + EXPLAINED, limit)):
        due = put_back(run_at, ended_at, now)
        if due is not None:
            connection.execute(TASK["put_off"], (seq, due))
            connection.execute(ATTEMPT["shift"], (seq, number, ended_at - now))
            moved.append(PutBack(task_id, run_at, due))
    return moved


def purge(
    connection: apsw.Connection, statuses: Collection[TaskStatus], older_than: float, limit: int, *, dry_run: bool
) -> Purged:
    """Remove final tasks with all that belongs to them; see TaskStore.purge."""
    states = [state for status in statuses for state in STATES_OF[status]]
    ended = rows(connection, TASK["purgeable"], (older_than, json.dumps(states), limit))
    by_status: dict[str, int] = {}
    attempts = 0
    for seq, state in ended:
        by_status[state] = by_status.get(state, 0) + 1
        attempts += int(one(connection, ATTEMPT["count_of"], (seq,)))
    if not dry_run:
        connection.executemany(TASK["delete"], [(seq,) for seq, _ in ended])
    return Purged(tasks=len(ended), attempts=attempts, by_status=by_status)
