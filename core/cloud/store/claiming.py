"""The hot path: settle attempts, free or cancel dependents, claim. Functions work inside the caller's transaction."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import apsw

from core.cloud.gate import Grant
from core.cloud.store.partitions import ONE_OF_OURS, PartitionMemory, Partitions
from core.cloud.store.publishing import dependency_failed
from core.cloud.store.queries import ATTEMPT, DEPENDENCY, TASK, Binding, Row, first, many, one, rows
from core.cloud.store.states import waiting_state
from core.cloud.store_contract import Claim, ClaimRequest, Settlement
from core.cloud.task import FINAL, AttemptOutcome, TaskStatus

log = logging.getLogger(__name__)

NO_SUSPECT = 0
"""A sequence number that no task has."""
AFTER_TROUBLE = 1.0
"""Seconds."""
NO_GRANTS: Mapping[int, Grant] = {}


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


def claim(
    connection: apsw.Connection, request: ClaimRequest, now: float, partitions: Partitions | None = None
) -> list[Claim]:
    """Take ready tasks for a worker: URGENT first, then oldest; with `ageing` both count.

    Those that have to pass limits are taken with a grant each, in the same order; what gets none holds up no other.
    `request` is as `sift` left it; `partitions` are the tasks of handlers that have limits.
    """
    if request.limit < 1:
        return []
    hold = (request.status.value, request.worker, now + request.lease, now)
    if request.task_id is not None:
        return _claims(connection, rows(connection, TASK["claim_one"], (*hold, request.task_id)))
    capabilities = capabilities_json(connection, request)
    suspect = None if request.suspects is None else NO_SUSPECT
    if request.suspects:
        found = first(connection, TASK["next_suspect"], (capabilities, now))
        suspect = NO_SUSPECT if found is None else found[0]
    if partitions is not None:
        ours = ONE_OF_OURS if request.suspects and suspect == NO_SUSPECT else suspect
        partitions.prepare(ours, request.ageing, request.resolve)
    if request.gates or (partitions is not None and partitions.first() is not None):
        return _claim_granted(connection, request, now, (capabilities, suspect), hold, partitions=partitions)
    which = (*hold, request.limit, capabilities, suspect)
    if request.ageing is None:
        taken = rows(connection, TASK["claim"], which)
        taken.sort(key=_by_priority)  # rows come back in no order
    else:
        taken = rows(connection, TASK["claim_aged"], (*which, request.ageing))
        taken.sort(key=lambda row: (row[11], row[0]))
    return _claims(connection, taken)


def _claim_granted(
    connection: apsw.Connection,
    request: ClaimRequest,
    now: float,
    which: tuple[Binding, ...],
    hold: tuple[Binding, ...],
    *,
    partitions: Partitions | None,
) -> list[Claim]:
    """`claim` where some of the ready tasks have to pass limits."""
    bindings = (now, request.limit, *which)
    if request.ageing is None:
        heads = rows(connection, TASK["heads"], bindings)
    else:
        heads = rows(connection, TASK["heads_aged"], (*bindings, request.ageing))
    grants: dict[int, Grant] = {}
    try:
        chosen = _choose(connection, request, heads, partitions, grants)
        taken = {row[0]: row for row in rows(connection, TASK["claim_these"], (*hold, json.dumps(chosen)))}
        return _claims(connection, [taken[seq] for seq in chosen], grants)
    except BaseException:
        for grant in grants.values():
            grant.give_back()
        raise


def _choose(
    connection: apsw.Connection,
    request: ClaimRequest,
    heads: Sequence[Row],
    partitions: Partitions | None,
    grants: dict[int, Grant],
) -> list[int]:
    """Of `heads` and the heads of `partitions`, in their order, those that may start; what gates took is put into `grants`."""
    chosen: list[int] = []
    limited = 0
    most = request.limit if request.granted is None else request.granted
    closed: set[str] = set()
    waiting = iter(heads)
    head = next(waiting, None)
    while len(chosen) < request.limit:
        partition = partitions.first() if partitions is not None and limited < most else None
        if partitions is not None and partition is not None and (head is None or partition < (head[2], head[0])):
            if partitions.take_first():
                limited += 1
                chosen.append(partition[1])
            continue
        if head is None:
            break
        seq, capability = head[:2]
        head = next(waiting, None)
        gate = request.gates.get(capability)
        if gate is None:
            chosen.append(seq)
            continue
        if capability in closed or limited >= most:
            continue
        grant = gate.take(capability, str(one(connection, TASK["payload"], (seq,))))
        if grant is None:
            closed.add(capability)
        else:
            limited += 1
            grants[seq] = grant
            chosen.append(seq)
    return chosen


def sift(connection: apsw.Connection, request: ClaimRequest) -> tuple[ClaimRequest, float]:
    """`request` without what waits behind closed gates, and in how many seconds the first of those may open.

    The gates that are left are open, and have a ready task each.
    """
    if not request.gates or request.capabilities is None:
        return request, math.inf
    asked = json.dumps(list(request.gates), ensure_ascii=False)
    waits = {row[0]: request.gates[row[0]].wait(row[0]) for row in rows(connection, TASK["ready_among"], (asked,))}
    gates = {capability: request.gates[capability] for capability, wait in waits.items() if wait <= 0.0}
    left = [each for each in request.capabilities if each in gates or each not in request.gates]
    opens_in = min((wait for wait in waits.values() if wait > 0.0), default=math.inf)
    return replace(request, capabilities=left, gates=gates), opens_in


def part(
    connection: apsw.Connection, memory: PartitionMemory, request: ClaimRequest, now: float
) -> tuple[ClaimRequest, Partitions | None]:
    """`request` without the handlers that have limits now, and the partitions in which their tasks stand."""
    if not request.limited or request.capabilities is None:
        return request, None
    partitions = Partitions(connection, memory, request.limited, now)
    if not partitions.limits:
        return request, None
    return replace(
        request, capabilities=[each for each in request.capabilities if each not in partitions.limits]
    ), partitions


def first_opening(request: ClaimRequest) -> float:
    """Seconds until the first gate may open that has closed since `sift`. Raises nothing."""
    try:
        return min((gate.wait(each) or math.inf for each, gate in request.gates.items()), default=math.inf)
    except Exception:
        log.exception("when a gate opens could not be found out")
        return AFTER_TROUBLE


def _by_priority(row: Row) -> tuple[int, int]:
    return -row[1], row[0]


def _claims(connection: apsw.Connection, taken: Sequence[Row], grants: Mapping[int, Grant] = NO_GRANTS) -> list[Claim]:
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
            grant=grants.get(row[0]) if grants else None,
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
