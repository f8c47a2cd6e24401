"""Inserting tasks as an export has them. Functions work inside the caller's transaction."""

from collections.abc import Sequence

import apsw

from core.cloud.store.publishing import Batch, find_parents
from core.cloud.store.queries import ATTEMPT, TASK, Binding, first, one
from core.cloud.store.states import waiting_state
from core.cloud.store_contract import PublishedTask, RestoredTask
from core.cloud.task import FINAL
from core.errors import InvalidArgument

SAME_MOMENT = 0.002
"""Seconds: an export has its times in milliseconds."""


def restore_tasks(connection: apsw.Connection, tasks: Sequence[RestoredTask], now: float) -> list[PublishedTask]:
    """See TaskStore.restore."""
    batch = Batch(connection, find_parents(connection, [each.task for each in tasks]))
    seq = int(one(connection, TASK["newest_seq"]))
    published = []
    for each in tasks:
        new = each.task
        if _is_there(connection, each):
            batch.parents.update(find_parents(connection, [], [new.task_id]))
            published.append(PublishedTask(new.task_id, created=False))
            continue
        seq += 1
        blockers = batch.blockers(new)
        state = each.status.value if each.status in FINAL else waiting_state(blockers, each.run_at, now)
        connection.execute(TASK["restore"], _row(each, seq, batch.kind(new), state, blockers))
        if each.result is not None or each.error is not None:
            connection.execute(TASK["put_outcome"], (seq, each.result, each.error))
        connection.executemany(ATTEMPT["insert"], _attempts(each, seq))
        batch.add_parts(new, seq)
        batch.parents[new.task_id] = (seq, state)
        published.append(PublishedTask(new.task_id, created=True))
    batch.write()
    return published


def _is_there(connection: apsw.Connection, each: RestoredTask) -> bool:
    new = each.task
    found = first(connection, TASK["find_same"], (new.task_id,))
    if found is not None:
        if found[:2] == (new.name, new.payload) and abs(found[2] - each.created_at) <= SAME_MOMENT:
            return True
        raise InvalidArgument(
            f"Another task already has the id {new.task_id[:60]}; nothing was imported.",
            "import into an empty database, or remove that task first.",
        )
    if new.idempotency_key is not None and first(connection, TASK["find_key"], (new.idempotency_key,)) is not None:
        raise InvalidArgument(
            f"Another task already has the idempotency key of {new.task_id[:60]}; nothing was imported.",
            "import into an empty database, or remove that task first.",
        )
    return False


def _row(each: RestoredTask, seq: int, kind: int, state: str, blockers: int) -> tuple[Binding, ...]:
    new = each.task
    attempt = max((past.number for past in each.attempts), default=0)
    interruptions = min(each.interruptions, attempt)
    return (
        seq,
        new.task_id,
        kind,
        state,
        new.priority,
        blockers,
        attempt,
        interruptions,
        attempt - interruptions,
        new.max_retries,
        new.on_dependency_failure.value,
        new.timeout,
        each.created_at,
        each.run_at,
        each.expires_at,
        each.started_at,
        each.ended_at,
        new.idempotency_key,
    )


def _attempts(each: RestoredTask, seq: int) -> list[tuple[Binding, ...]]:
    return [
        (
            seq,
            past.number,
            past.worker,
            past.started_at.timestamp(),
            (past.ended_at or past.started_at).timestamp(),
            past.outcome.value,
            past.error,
        )
        for past in each.attempts
    ]
