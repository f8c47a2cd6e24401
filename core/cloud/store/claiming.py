"""The hot path: settle attempts, free or cancel dependents, claim. Functions work inside the caller's transaction."""

import json
import logging
from collections.abc import Iterable, Sequence

import apsw

from core.cloud.store.base import Claim, ClaimRequest, Settlement
from core.cloud.store.publishing import dependency_failed
from core.cloud.store.queries import ATTEMPT, DEPENDENCY, TASK, Binding, first, many, one, rows
from core.cloud.store.states import waiting_state
from core.cloud.task import FINAL, AttemptOutcome, TaskStatus

log = logging.getLogger(__name__)

NO_SUSPECT = 0
"""A sequence number that no task has."""


def settle(connection: apsw.Connection, settlements: Sequence[Settlement], now: float) -> list[Settlement]:
    """End attempts and let their dependents follow. Returns those refused: their worker no longer held the task."""
    ended = _end(connection, settlements, now)
    refused: list[Settlement] = []
    attempts: list[tuple[Binding, ...]] = []
    outcomes: list[tuple[Binding, ...]] = []
    parents: list[int] = []
    lost: list[tuple[int, str, str]] = []
    for done in settlements:
        row = ended.pop((done.task_id, done.attempt, done.worker), None)
        if row is None:
            log.debug("late end of %s attempt %d by %s refused", done.task_id, done.attempt, done.worker)
            refused.append(done)
            continue
        seq, started_at, has_children = row
        attempts.append((seq, done.attempt, done.worker, started_at, now, done.outcome.value, done.error))
        outcomes.append((seq, done.result, done.error))
        if has_children and done.status is TaskStatus.COMPLETED:
            parents.append(seq)
        elif has_children and done.status in FINAL:
            lost.append((seq, done.task_id, done.status.value))
    connection.executemany(ATTEMPT["insert"], attempts)
    connection.executemany(TASK["put_outcome"], outcomes)
    free_dependents(connection, parents, now)
    cancel_dependents(connection, lost, now)
    return refused


def _end(
    connection: apsw.Connection, settlements: Sequence[Settlement], now: float
) -> dict[tuple[str, int, str], tuple[int, float, int]]:
    """Write the new states of the tasks that are still held; (seq, started_at, has_children) by id, attempt and worker."""
    bindings: list[tuple[Binding, ...]] = []
    for done in settlements:
        final = done.status in FINAL
        bindings.append(
            (
                done.status.value if final else waiting_state(0, done.run_at, now),
                now if final else None,
                done.run_at,
                done.outcome is AttemptOutcome.INTERRUPTED,
                done.task_id,
                done.worker,
                done.attempt,
            )
        )
    return {(row[0], row[1], row[2]): row[3:] for row in many(connection, TASK["settle"], bindings)}


def free_dependents(connection: apsw.Connection, completed: Iterable[int], now: float) -> None:
    """Count the completed tasks, given by seq, off their children; those that wait for no other get ready."""
    connection.executemany(DEPENDENCY["free"], [(seq, now) for seq in completed])


def cancel_dependents(connection: apsw.Connection, lost: Iterable[tuple[int, str, str]], now: float) -> int:
    """Cancel what asked to follow the lost tasks, given as (seq, id, state). Returns how many."""
    count = 0
    for seq, task_id, state in lost:
        reason = dependency_failed(task_id, state)
        cancelled = rows(connection, DEPENDENCY["cancel_dependents"], (seq, now))
        connection.executemany(TASK["put_outcome"], [(child, None, reason) for (child,) in cancelled])
        count += len(cancelled)
    return count


def claim(connection: apsw.Connection, request: ClaimRequest, now: float) -> list[Claim]:
    """Take ready tasks for a worker: URGENT first, then oldest; with `ageing` both count."""
    if request.limit < 1:
        return []
    hold = (request.status.value, request.worker, now + request.lease, now)
    if request.task_id is None:
        capabilities = capabilities_json(connection, request)
        suspect = None if request.suspects is None else NO_SUSPECT
        if request.suspects:
            found = first(connection, TASK["next_suspect"], (capabilities, now))
            suspect = NO_SUSPECT if found is None else found[0]
        which = (*hold, request.limit, capabilities, suspect)
        if request.ageing is None:
            taken = rows(connection, TASK["claim"], which)
        else:
            taken = rows(connection, TASK["claim_aged"], (*which, request.ageing))
    else:
        taken = rows(connection, TASK["claim_one"], (*hold, request.task_id))
    if len(taken) > 1:  # rows come back in no order
        aged = request.ageing is not None and request.task_id is None
        taken.sort(key=(lambda row: (row[11], row[0])) if aged else (lambda row: (-row[1], row[0])))
    dependent = [row[0] for row in taken if row[9]]
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
            suspect=bool(row[10]),
        )
        for row in taken
    ]


def capabilities_json(connection: apsw.Connection, request: ClaimRequest) -> str:
    """What the request asks for, as the JSON array that the queries take."""
    if request.capabilities is None:
        return str(one(connection, TASK["all_capabilities"]))
    return json.dumps(list(request.capabilities), ensure_ascii=False)


def dependencies(connection: apsw.Connection, seqs: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """(id, state) of the dependencies of each task, in the order of its depends_on."""
    found: dict[int, list[tuple[str, str]]] = {}
    for child, parent, state in rows(connection, DEPENDENCY["of_tasks"], (json.dumps(list(seqs)),)):
        found.setdefault(child, []).append((parent, state))
    return found


def renew(
    connection: apsw.Connection, worker: str, held: Sequence[tuple[str, int]], until: float
) -> list[tuple[str, int]]:
    """Extend leases to `until`; returns those that are no longer the worker's."""
    bindings = [(until, task_id, worker, attempt) for task_id, attempt in held]
    kept = {(row[0], row[1]) for row in many(connection, TASK["renew"], bindings)}
    return [pair for pair in held if pair not in kept]
