"""Inserting tasks and their graph. Functions work inside the caller's transaction."""

import json
from collections.abc import Iterable, Sequence

import apsw

from core.cloud.store.queries import DEPENDENCY, TASK, Binding, first, one, rows
from core.cloud.store.states import FINAL_STATES, waiting_state
from core.cloud.store_contract import NewTask, PublishedTask
from core.cloud.task import OnDependencyFailure, TaskStatus
from core.errors import InvalidArgument, UnknownTask

Parents = dict[str, tuple[int, str]]
"""(seq, state) by task id."""


def insert_tasks(connection: apsw.Connection, tasks: Sequence[NewTask], now: float) -> list[PublishedTask]:
    """Insert `tasks` in order; see TaskStore.publish. Raises before the first row is written."""
    known = _known_keys(connection, tasks)
    batch = Batch(connection, find_parents(connection, tasks, known.values()))
    published: list[PublishedTask] = []
    for task in tasks:
        key = task.idempotency_key
        if key is not None and key in known:
            batch.parents[task.task_id] = batch.parents[known[key]]
            published.append(PublishedTask(known[key], created=False))
            continue
        batch.add(task, now)
        if key is not None:
            known[key] = task.task_id
        published.append(PublishedTask(task.task_id, created=True))
    batch.write()
    return published


class Batch:
    """The rows of one insert, gathered first so that each table is written by one executemany."""

    def __init__(self, connection: apsw.Connection, parents: Parents) -> None:
        self.parents = parents
        """Every task that one of the batch may depend on; those of the batch join as they are added."""
        self._connection = connection
        self._seq = int(one(connection, TASK["newest_seq"]))
        self._kinds: dict[tuple[str, str], int] = {}
        self._tasks: list[tuple[Binding, ...]] = []
        self._bodies: list[tuple[Binding, ...]] = []
        self._tags: list[tuple[Binding, ...]] = []
        self._dependencies: list[tuple[Binding, ...]] = []
        self._settler: list[tuple[Binding, ...]] = []

    def add(self, task: NewTask, now: float) -> None:
        """A task published now: pending, or cancelled at once when a dependency it cannot do without is lost."""
        blockers = self.blockers(task)
        state = waiting_state(blockers, task.run_at, now)
        ended_at = None
        if task.on_dependency_failure is OnDependencyFailure.CANCEL:
            reason = self._lost_parent(task)
            if reason:
                state, ended_at = TaskStatus.CANCELLED.value, now
                self._settler.append((self._seq + 1, None, reason))
        self._seq += 1
        self._tasks.append(
            (
                self._seq,
                task.task_id,
                self.kind(task),
                state,
                task.priority,
                blockers,
                task.max_retries,
                task.on_dependency_failure.value,
                task.timeout,
                now,
                task.run_at,
                task.expires_at,
                ended_at,
                task.idempotency_key,
            )
        )
        self.add_parts(task, self._seq)
        self.parents[task.task_id] = (self._seq, state)

    def add_parts(self, task: NewTask, seq: int) -> None:
        """What belongs to a task besides its own row."""
        self._bodies.append((seq, task.payload, json.dumps(task.tags, ensure_ascii=False) if task.tags else None))
        if task.tags:
            self._tags.extend((tag, task.priority, seq) for tag in task.tags)
        if task.depends_on:
            parents = dict.fromkeys(self.parents[parent][0] for parent in task.depends_on)
            self._dependencies.extend((parent, seq, position) for position, parent in enumerate(parents))

    def blockers(self, task: NewTask) -> int:
        """How many of its dependencies are not completed."""
        if not task.depends_on:
            return 0
        parents = {self.parents[parent] for parent in task.depends_on}
        return sum(state != TaskStatus.COMPLETED for _, state in parents)

    def kind(self, task: NewTask) -> int:
        """The number of its capability and name, new if need be."""
        known = self._kinds.get((task.capability, task.name))
        if known is None:
            found = first(self._connection, TASK["kind_find"], (task.capability, task.name))
            known = found[0] if found else one(self._connection, TASK["kind_add"], (task.capability, task.name))
            self._kinds[task.capability, task.name] = known
        return known

    def _lost_parent(self, task: NewTask) -> str:
        for parent in task.depends_on:
            state = self.parents[parent][1]
            if state in FINAL_STATES and state != TaskStatus.COMPLETED:
                return dependency_failed(parent, state)
        return ""

    def write(self) -> None:
        """Insert what was gathered."""
        parts = (
            (TASK["insert"], self._tasks),
            (TASK["insert_body"], self._bodies),
            (TASK["insert_tag"], self._tags),
            (DEPENDENCY["insert"], self._dependencies),
            (TASK["put_outcome"], self._settler),
        )
        for statement, bindings in parts:
            if bindings:
                self._connection.executemany(statement, bindings)


def find_parents(connection: apsw.Connection, tasks: Sequence[NewTask], also: Iterable[str] = ()) -> Parents:
    """`also` and every stored task that this batch refers to; UnknownTask for one that is nowhere."""
    earlier: set[str] = set()
    wanted: set[str] = set(also)
    for task in tasks:
        wanted.update(parent for parent in task.depends_on if parent not in earlier)
        earlier.add(task.task_id)
    if not wanted:
        return {}
    asked = json.dumps(list(wanted), ensure_ascii=False)
    found = {row[0]: (row[1], row[2]) for row in rows(connection, DEPENDENCY["parents_by_id"], (asked,))}
    missing = wanted - found.keys()
    if missing:
        raise UnknownTask(
            f"There is no task {min(missing)[:60]!r} to depend on; nothing was published.",
            "depend on ids of tasks that were published before, or use publish_graph for all of them at once, under keys of your own.",
        )
    return found


def _known_keys(connection: apsw.Connection, tasks: Sequence[NewTask]) -> dict[str, str]:
    """Task ids by idempotency key, for the keys that are in the store. A key is good for one name and payload only."""
    known: dict[str, str] = {}
    meant: dict[str, tuple[str, str]] = {}
    for task in tasks:
        key = task.idempotency_key
        if key is None:
            continue
        if key not in meant:
            row = first(connection, TASK["find_key"], (key,))
            meant[key] = (task.name, task.payload) if row is None else (row[1], row[2])
            if row is not None:
                known[key] = row[0]
        if meant[key] != (task.name, task.payload):
            raise InvalidArgument(
                f"The idempotency key {key[:60]!r} was already used for a different task ({meant[key][0]}).",
                "use a new key for a task with another name or payload.",
            )
    return known


def dependency_failed(parent: str, state: str) -> str:
    """Why a dependent was cancelled."""
    became = {"failed": "failed", "expired": "expired", "cancelled": "was cancelled"}[state]
    return f"Cancelled because task {parent}, on which it depends, {became}."
