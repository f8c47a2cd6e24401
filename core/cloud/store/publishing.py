"""Inserting tasks and their graph. Every function works inside the caller's transaction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from core.cloud.store.base import NewTask, Published
from core.cloud.store.queries import Queries, one
from core.cloud.store.states import FINAL_STATES, waiting_state
from core.cloud.task import OnDependencyFailure, TaskStatus
from core.errors import InvalidArgument, UnknownTask

TASK = Queries("task")
DEPENDENCY = Queries("dependency")


@dataclass(slots=True)
class _Rows:
    """What one batch will insert, gathered first so that each table is written by one executemany."""

    task: list[tuple[object, ...]] = field(default_factory=list)
    body: list[tuple[object, ...]] = field(default_factory=list)
    tag: list[tuple[object, ...]] = field(default_factory=list)
    dependency: list[tuple[object, ...]] = field(default_factory=list)
    outcome: list[tuple[object, ...]] = field(default_factory=list)


def insert_tasks(connection: apsw.Connection, tasks: Sequence[NewTask], now: float) -> list[Published]:
    """Insert `tasks` in order; see TaskStore.publish. Raises before the first row is written."""
    known = _known_keys(connection, tasks)
    parents = _parents(connection, tasks, known)
    seq = int(one(connection, TASK["newest_seq"]))
    kinds: dict[tuple[str, str], int] = {}
    rows = _Rows()
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
        parents[task.task_id] = (seq, _gather(rows, task, seq, kind, parents, now))
        if key is not None:
            known[key] = task.task_id
        published.append(Published(task.task_id, created=True))
    _write(connection, rows)
    return published


def kind_of(connection: apsw.Connection, capability: str, name: str) -> int:
    """The number of this capability and name, new if need be."""
    found = connection.execute(TASK["kind_find"], (capability, name)).fetchone()
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
            row = connection.execute(TASK["find_key"], (key,)).fetchone()
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
    batch: set[str] = set()
    wanted: set[str] = set(known.values())
    for task in tasks:
        wanted.update(parent for parent in task.depends_on if parent not in batch)
        batch.add(task.task_id)
    if not wanted:
        return {}
    rows = connection.execute(DEPENDENCY["parents_by_id"], (json.dumps(list(wanted)),))
    found = {str(row[0]): (int(row[1]), str(row[2])) for row in rows}
    missing = wanted - found.keys()
    if missing:
        raise UnknownTask(
            f"There is no task {min(missing)[:60]!r} to depend on; nothing was published.",
            "depend on ids of tasks that were published before.",
        )
    return found


def _gather(rows: _Rows, task: NewTask, seq: int, kind: int, parents: dict[str, tuple[int, str]], now: float) -> str:
    """Add the rows of one task; returns the state it will have."""
    depends_on = list(dict.fromkeys(parents[parent][0] for parent in task.depends_on))
    states = [parents[parent] for parent in task.depends_on]
    blockers = len({number for number, state in states if state != TaskStatus.COMPLETED})
    state = waiting_state(blockers, task.run_at, now)
    if task.on_dependency_failure is OnDependencyFailure.CANCEL:
        for parent in task.depends_on:
            if (lost := parents[parent][1]) in FINAL_STATES and lost != TaskStatus.COMPLETED:
                state = TaskStatus.CANCELLED.value
                rows.outcome.append((seq, None, dependency_failed(parent, lost)))
                break
    rows.task.append(
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
    rows.body.append((seq, task.payload, json.dumps(tags, ensure_ascii=False) if tags else None))
    rows.tag.extend((tag, task.priority, seq) for tag in tags)
    rows.dependency.extend((parent, seq, position) for position, parent in enumerate(depends_on))
    return state


def _write(connection: apsw.Connection, rows: _Rows) -> None:
    connection.executemany(TASK["insert"], rows.task)
    connection.executemany(TASK["insert_body"], rows.body)
    if rows.tag:
        connection.executemany(TASK["insert_tag"], rows.tag)
    if rows.dependency:
        connection.executemany(DEPENDENCY["insert"], rows.dependency)
    if rows.outcome:
        connection.executemany(TASK["put_outcome"], rows.outcome)


def dependency_failed(parent: str, status: str) -> str:
    """Why a dependent was cancelled."""
    return f"Cancelled because task {parent}, on which it depends, {_became(status)}."


def _became(status: str) -> str:
    return {"failed": "failed", "expired": "expired", "cancelled": "was cancelled"}[status]
