"""Inserting tasks and their graph. Every function works inside the caller's transaction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from core.cloud.store.base import NewTask, Published
from core.cloud.store.queries import DEPENDENCY, TASK, Binding, first, one, rows
from core.cloud.store.states import FINAL_STATES, waiting_state
from core.cloud.task import OnDependencyFailure, TaskStatus
from core.errors import InvalidArgument, UnknownTask


@dataclass(slots=True)
class _Batch:
    """What one batch will insert, gathered first so that each table is written by one executemany."""

    task: list[tuple[Binding, ...]] = field(default_factory=list)
    body: list[tuple[Binding, ...]] = field(default_factory=list)
    tag: list[tuple[Binding, ...]] = field(default_factory=list)
    dependency: list[tuple[Binding, ...]] = field(default_factory=list)
    outcome: list[tuple[Binding, ...]] = field(default_factory=list)


def insert_tasks(connection: apsw.Connection, tasks: Sequence[NewTask], now: float) -> list[Published]:
    """Insert `tasks` in order; see TaskStore.publish. Raises before the first row is written."""
    known = _known_keys(connection, tasks)
    parents = _parents(connection, tasks, known)
    seq = int(one(connection, TASK["newest_seq"]))
    kinds: dict[tuple[str, str], int] = {}
    batch = _Batch()
    published: list[Published] = []
    for task in tasks:
        key = task.idempotency_key
        if key is not None and key in known:
            published.append(Published(known[key], created=False))
            if known[key] != task.task_id:
                parents[task.task_id] = parents[known[key]]
            continue
        seq += 1
        kind = kinds.get((task.capability, task.name))
        if kind is None:
            kind = kinds[task.capability, task.name] = kind_of(connection, task.capability, task.name)
        parents[task.task_id] = (seq, _gather(batch, task, seq, kind, parents, now))
        if key is not None:
            known[key] = task.task_id
        published.append(Published(task.task_id, created=True))
    _write(connection, batch)
    return published


def kind_of(connection: apsw.Connection, capability: str, name: str) -> int:
    """The number of this capability and name, new if need be."""
    found = first(connection, TASK["kind_find"], (capability, name))
    return int(found[0] if found else one(connection, TASK["kind_add"], (capability, name)))


def _known_keys(connection: apsw.Connection, tasks: Sequence[NewTask]) -> dict[str, str]:
    """Task ids by idempotency key, for the keys that are in the store. A key is good for one task only."""
    known: dict[str, str] = {}
    wanted: dict[str, tuple[str, str]] = {}
    for task in tasks:
        key = task.idempotency_key
        if key is None:
            continue
        if key not in wanted:
            row = first(connection, TASK["find_key"], (key,))
            if row is not None:
                known[key] = row[0]
            wanted[key] = (row[1], row[2]) if row is not None else (task.name, task.payload)
        if wanted[key] != (task.name, task.payload):
            raise InvalidArgument(
                f"The idempotency key {key[:60]!r} was already used for a different task ({wanted[key][0]}).",
                "use a new key for a task with another name or payload.",
            )
    return known


def _parents(
    connection: apsw.Connection, tasks: Sequence[NewTask], known: dict[str, str]
) -> dict[str, tuple[int, str]]:
    """(seq, state) by id of every stored task this batch refers to; UnknownTask for one that is nowhere."""
    earlier: set[str] = set()
    wanted: set[str] = set(known.values())
    for task in tasks:
        wanted.update(parent for parent in task.depends_on if parent not in earlier)
        earlier.add(task.task_id)
    if not wanted:
        return {}
    found = {
        row[0]: (row[1], row[2]) for row in rows(connection, DEPENDENCY["parents_by_id"], (json.dumps(list(wanted)),))
    }
    missing = wanted - found.keys()
    if missing:
        raise UnknownTask(
            f"There is no task {min(missing)[:60]!r} to depend on; nothing was published.",
            "depend on ids of tasks that were published before.",
        )
    return found


def _gather(batch: _Batch, task: NewTask, seq: int, kind: int, parents: dict[str, tuple[int, str]], now: float) -> str:
    """Add the rows of one task; returns the state it will have."""
    depends_on = list(dict.fromkeys(parents[parent][0] for parent in task.depends_on))
    states = [parents[parent] for parent in task.depends_on]
    blockers = len({number for number, state in states if state != TaskStatus.COMPLETED})
    state = waiting_state(blockers, task.run_at, now)
    if task.on_dependency_failure is OnDependencyFailure.CANCEL:
        for parent in task.depends_on:
            if (lost := parents[parent][1]) in FINAL_STATES and lost != TaskStatus.COMPLETED:
                state = TaskStatus.CANCELLED.value
                batch.outcome.append((seq, None, dependency_failed(parent, lost)))
                break
    batch.task.append(
        (
            seq,
            task.task_id,
            kind,
            state,
            task.priority,
            blockers,
            task.max_retries,
            task.on_dependency_failure.value,
            task.timeout,
            now,
            task.run_at,
            task.expires_at,
            now if state == TaskStatus.CANCELLED else None,
            task.idempotency_key,
        )
    )
    tags = tuple(dict.fromkeys(task.tags))
    batch.body.append((seq, task.payload, json.dumps(tags, ensure_ascii=False) if tags else None))
    batch.tag.extend((tag, task.priority, seq) for tag in tags)
    batch.dependency.extend((parent, seq, position) for position, parent in enumerate(depends_on))
    return state


def _write(connection: apsw.Connection, batch: _Batch) -> None:
    connection.executemany(TASK["insert"], batch.task)
    connection.executemany(TASK["insert_body"], batch.body)
    if batch.tag:
        connection.executemany(TASK["insert_tag"], batch.tag)
    if batch.dependency:
        connection.executemany(DEPENDENCY["insert"], batch.dependency)
    if batch.outcome:
        connection.executemany(TASK["put_outcome"], batch.outcome)


def dependency_failed(parent: str, status: str) -> str:
    """Why a dependent was cancelled."""
    return f"Cancelled because task {parent}, on which it depends, {_became(status)}."


def _became(status: str) -> str:
    return {"failed": "failed", "expired": "expired", "cancelled": "was cancelled"}[status]
