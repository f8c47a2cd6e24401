"""The hot path: settle attempts, free or cancel dependents, claim. Functions work inside the caller's transaction."""

import json
import logging
from collections.abc import Iterable, Sequence

import apsw

from core.cloud.store.base import Claim, ClaimRequest, Settlement
from core.cloud.store.publishing import DEPENDENCY, TASK, dependency_failed
from core.cloud.store.queries import Queries, one
from core.cloud.store.states import waiting_state
from core.cloud.task import FINAL, AttemptOutcome, TaskStatus

ATTEMPT = Queries("attempt")

log = logging.getLogger(__name__)


def settle(connection: apsw.Connection, settlements: Sequence[Settlement], now: float) -> list[Settlement]:
    """End attempts and let their dependents follow. Returns those refused: their worker no longer held the task."""
    refused: list[Settlement] = []
    attempts: list[tuple[object, ...]] = []
    outcomes: list[tuple[object, ...]] = []
    completed: list[tuple[int, float]] = []
    lost: list[tuple[int, str, str]] = []
    for done in settlements:
        final = done.status in FINAL
        state = done.status.value if final else waiting_state(0, done.run_at, now)
        free = done.outcome is AttemptOutcome.INTERRUPTED
        fence = (done.task_id, done.worker, done.attempt)
        row = connection.execute(TASK["settle"], (state, now if final else None, done.run_at, *fence, free)).fetchone()
        if row is None:
            log.debug("late end of %s attempt %d by %s refused", done.task_id, done.attempt, done.worker)
            refused.append(done)
            continue
        seq, started_at = row
        attempts.append((seq, done.attempt, done.worker, started_at, now, done.outcome.value, done.error))
        outcomes.append((seq, done.result, done.error))
        if done.status is TaskStatus.COMPLETED:
            completed.append((seq, now))
        elif final:
            lost.append((seq, done.task_id, state))
    if attempts:
        connection.executemany(ATTEMPT["insert"], attempts)
        connection.executemany(TASK["put_outcome"], outcomes)
    free_dependents(connection, completed)
    cancel_dependents(connection, lost, now)
    return refused


def free_dependents(connection: apsw.Connection, completed: Iterable[tuple[int, float]]) -> None:
    """Count the completed tasks, given as (seq, now), off their children; those that wait for no other get ready."""
    connection.executemany(DEPENDENCY["free"], completed)


def cancel_dependents(connection: apsw.Connection, lost: Iterable[tuple[int, str, str]], now: float) -> int:
    """Cancel what asked to follow the lost tasks, given as (seq, id, state). Returns how many."""
    count = 0
    for seq, task_id, state in lost:
        reason = dependency_failed(task_id, state)
        cancelled = connection.execute(DEPENDENCY["cancel_dependents"], (seq, now)).fetchall()
        connection.executemany(TASK["put_outcome"], [(child, None, reason) for (child,) in cancelled])
        count += len(cancelled)
    return count


def claim(connection: apsw.Connection, request: ClaimRequest, now: float) -> list[Claim]:
    """Take ready tasks for a worker, URGENT first, then oldest."""
    if request.limit < 1:
        return []
    hold = (request.status.value, request.worker, now + request.lease, now)
    if request.task_id is None:
        capabilities = capabilities_json(connection, request)
        rows = connection.execute(TASK["claim"], (*hold, request.limit, capabilities)).fetchall()
    else:
        rows = connection.execute(TASK["claim_one"], (*hold, request.task_id)).fetchall()
    rows.sort(key=lambda row: (-row[1], row[0]))
    dependent = [row[0] for row in rows if row[9]]
    parents = dependencies(connection, dependent) if dependent else {}
    return [
        Claim(
            task_id=row[2],
            attempt=row[3],
            name=row[4],
            payload=row[8],
            priority=row[1],
            timeout=row[5],
            max_retries=row[6],
            interruptions=row[7],
            depends_on=tuple(task_id for task_id, _ in parents[row[0]]) if row[9] else (),
        )
        for row in rows
    ]


def capabilities_json(connection: apsw.Connection, request: ClaimRequest) -> str:
    """What the request asks for, as the JSON array that the queries take."""
    if request.capabilities is None:
        return str(one(connection, TASK["all_capabilities"]))
    return json.dumps(list(request.capabilities), ensure_ascii=False)


def dependencies(connection: apsw.Connection, seqs: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """(id, state) of the dependencies of each task, in the order of its depends_on."""
    found: dict[int, list[tuple[str, str]]] = {}
    for child, parent, state in connection.execute(DEPENDENCY["of_tasks"], (json.dumps(list(seqs)),)):
        found.setdefault(child, []).append((parent, state))
    return found


def renew(
    connection: apsw.Connection, worker: str, held: Sequence[tuple[str, int]], until: float
) -> list[tuple[str, int]]:
    """Extend leases to `until`; returns those that are no longer the worker's."""
    bindings = [(until, task_id, worker, attempt) for task_id, attempt in held]
    kept = {(str(row[0]), int(row[1])) for row in connection.executemany(TASK["renew"], bindings)}
    return [pair for pair in held if pair not in kept]
