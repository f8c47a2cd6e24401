"""Tasks as the reader sees them: whole, in pages, counted. Reads only."""

import heapq
import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import apsw

from core.clock import to_datetime
from core.cloud.store.claiming import dependencies
from core.cloud.store.limit_reading import closed_for
from core.cloud.store.queries import ATTEMPT, TASK, WORKER, Binding, Row, first, one, rows
from core.cloud.store.states import BLOCKED, HELD_STATES, LATER, READY, STATES_OF, STATUS_OF
from core.cloud.store_contract import Page, QueueCounts, Situation, TaskQuery
from core.cloud.task import Attempt, AttemptOutcome, OnDependencyFailure, Task, TaskPriority, TaskStatus, unknown_task
from core.errors import InvalidArgument
from core.json_types import loads

NEWER_THAN_ALL = (1 << 63) - 1
AHEAD_LIMIT = 1000
SORTED = {READY, *HELD_STATES}
"""The states in which a task may be sorted by what limits it."""
BEFORE_LIMIT = 100_000
WORKER_TTL = 30.0
"""Seconds after its last sign of life during which a worker counts as alive."""


def tasks_at(connection: apsw.Connection, seqs: Sequence[int]) -> list[Task]:
    """Whole tasks in the order of `seqs`; those that are gone are left out."""
    if not seqs:
        return []
    found = {row[0]: row for row in rows(connection, TASK["show"], (json.dumps(list(seqs)),))}
    parents = dependencies(connection, seqs)
    return [_task(found[seq], parents.get(seq, ())) for seq in seqs if seq in found]


def task_by_id(connection: apsw.Connection, task_id: str) -> Task | None:
    row = first(connection, TASK["seq_of"], (task_id,))
    return tasks_at(connection, [row[0]])[0] if row else None


def existing(connection: apsw.Connection, task_id: str) -> Task:
    """The task, or UnknownTask."""
    task = task_by_id(connection, task_id)
    if task is None:
        raise unknown_task(task_id, newest_ids(connection, 3))
    return task


def _task(row: Row, parents: Sequence[tuple[str, str]]) -> Task:
    return Task(
        task_id=row[1],
        name=row[2],
        status=STATUS_OF[row[3]],
        priority=row[4],
        payload=loads(row[5]),
        tags=tuple(json.loads(row[6])) if row[6] else (),
        depends_on=tuple(parent for parent, _ in parents),
        blocked_by=tuple(parent for parent, state in parents if state != TaskStatus.COMPLETED),
        on_dependency_failure=OnDependencyFailure(row[7]),
        timeout=row[8],
        max_retries=row[9],
        attempts=row[10],
        interruptions=row[11],
        idempotency_key=row[12],
        created_at=datetime.fromtimestamp(row[13], UTC),
        run_at=to_datetime(row[14]),
        expires_at=to_datetime(row[15]),
        started_at=to_datetime(row[16]),
        completed_at=to_datetime(row[17]),
        worker=row[18],
        lease_until=to_datetime(row[19]),
        progress=row[20],
        progress_message=row[21] or "",
        result=None if row[22] is None else loads(row[22]),
        error=row[23],
    )


def newest_ids(connection: apsw.Connection, limit: int) -> list[str]:
    return [row[0] for row in rows(connection, TASK["newest_ids"], (limit,))]


def attempts_of(connection: apsw.Connection, task_id: str) -> list[Attempt]:
    """The attempts that ended and the one that runs, oldest first."""
    row = first(connection, TASK["find"], (task_id,))
    if row is None:
        return []
    seq, state, owner, attempt, started_at = row[:5]
    found = [_attempt(*past) for past in rows(connection, ATTEMPT["of_task"], (seq,))]
    if state in HELD_STATES:
        found.append(_attempt(attempt, owner, started_at, None, AttemptOutcome.RUNNING, None))
    return found


def _attempt(*row: Any) -> Attempt:
    number, worker, started_at, ended_at, outcome, error = row
    return Attempt(
        number,
        worker,
        datetime.fromtimestamp(started_at, UTC),
        to_datetime(ended_at),
        AttemptOutcome(outcome),
        error,
    )


def page(connection: apsw.Connection, query: TaskQuery, now: float) -> Page:
    """One page of a list, merged from index ranges: it costs what it shows, whatever the size of the queue."""
    ranges = _Ranges(connection, query, now)
    walk = _newest_first(ranges, query) if query.newest_first else _oldest_first(ranges, query)
    found = list(itertools.islice(walk, query.limit + 1))
    shown = found[: query.limit]
    more = len(found) > len(shown) > 0
    return Page(tasks_at(connection, [seq for _, seq in shown]), f"{shown[-1][0]}.{shown[-1][1]}" if more else "")


def published_after(connection: apsw.Connection, after: int, limit: int) -> list[tuple[int, Task]]:
    """(seq, task) of those published after the one with seq `after`, in that order."""
    seqs = [row[0] for row in rows(connection, TASK["page_published"], (after, limit))]
    return list(zip(seqs, tasks_at(connection, seqs), strict=True))


class _Ranges:
    """The index ranges of a query: for one priority, every matching task in order of age."""

    def __init__(self, connection: apsw.Connection, query: TaskQuery, now: float) -> None:
        self._connection = connection
        self._states = (READY,) if query.ready else STATES_OF[query.status] if query.status else tuple(STATUS_OF)
        self._alive_at = now if query.ready else None
        self._tags = query.tags
        self._limit = query.limit + 1
        self._order = "newest" if query.newest_first else "oldest"
        self._kinds: list[int] | None = None
        if query.name is not None:
            self._kinds = [row[0] for row in rows(connection, TASK["kinds_named"], (query.name,))]
        self._name = query.name
        self.priorities = [
            int(each) for each in sorted(TaskPriority, reverse=True) if each >= (query.priority_min or 0)
        ]

    def of(self, priority: int, after: int) -> Iterator[int]:
        """Up to a page of tasks with this priority that come after `after`."""
        place = (priority, after, self._limit, self._alive_at)
        if self._tags:
            kinds = None if self._kinds is None else json.dumps(self._kinds)
            others = json.dumps(self._tags[1:], ensure_ascii=False)
            return self._seqs("page_tag", json.dumps(self._states), *place, self._tags[0], kinds, others)
        if self._kinds is None:
            parts = [self._seqs("page", state, *place) for state in self._states]
        else:
            parts = [
                self._seqs("page_kind", state, *place, kind)
                for state in self._states
                for kind in self._kinds
                if kind > 0
            ]
            if any(kind < 0 for kind in self._kinds):
                parts += [
                    self._seqs("page_sorted", state, *place, self._name) for state in self._states if state in SORTED
                ]
        return heapq.merge(*parts, reverse=self._order == "newest")

    def _seqs(self, name: str, *bindings: Binding) -> Iterator[int]:
        return (row[0] for row in rows(self._connection, TASK[f"{name}_{self._order}"], bindings))


def _oldest_first(ranges: _Ranges, query: TaskQuery) -> Iterator[tuple[int, int]]:
    """(priority, seq): URGENT first, then the oldest."""
    at_priority, at_seq = _parse_cursor(query.cursor) if query.cursor else (int(max(TaskPriority)), 0)
    for priority in ranges.priorities:
        if priority <= at_priority:
            yield from ((priority, seq) for seq in ranges.of(priority, at_seq if priority == at_priority else 0))


def _newest_first(ranges: _Ranges, query: TaskQuery) -> Iterator[tuple[int, int]]:
    """(0, seq): by age alone."""
    before = _parse_cursor(query.cursor)[1] if query.cursor else NEWER_THAN_ALL
    return ((0, seq) for seq in heapq.merge(*(ranges.of(each, before) for each in ranges.priorities), reverse=True))


def _parse_cursor(cursor: str) -> tuple[int, int]:
    priority, dot, seq = cursor.partition(".")
    if not (dot and priority.isascii() and priority.isdigit() and seq.isascii() and seq.isdigit() and len(cursor) < 24):
        raise InvalidArgument(
            "The cursor is not one that a list returned.", "pass next_cursor of the page before, or leave it out."
        )
    return int(priority), int(seq)


def stats(connection: apsw.Connection) -> QueueCounts:
    """Counters as they stand."""
    by_state: dict[str, int] = dict.fromkeys(STATUS_OF, 0)
    by_priority: dict[int, int] = {int(priority): 0 for priority in TaskPriority}
    timed, seconds = 0, 0.0
    for state, priority, tasks, timed_here, seconds_here in rows(connection, TASK["counters"]):
        by_state[state] += tasks
        by_priority[priority] += tasks
        if state == TaskStatus.COMPLETED:
            timed += timed_here
            seconds += seconds_here
    return QueueCounts(
        by_status={status: sum(by_state[state] for state in STATES_OF[status]) for status in TaskStatus},
        by_priority=by_priority,
        ready=by_state[READY],
        blocked=by_state[BLOCKED],
        later=by_state[LATER],
        completed_seconds=max(0.0, seconds) if timed else 0.0,
        completed_count=timed,
    )


def situation(connection: apsw.Connection, task_id: str, now: float) -> Situation | None:
    """What is known about why a task is not running."""
    row = first(connection, TASK["find"], (task_id,))
    if row is None:
        return None
    seq, state, kind, priority = row[0], row[1], row[8], row[9]
    unfinished = [
        (parent, STATUS_OF[state])
        for parent, state in dependencies(connection, [seq]).get(seq, ())
        if state != TaskStatus.COMPLETED
    ]
    return Situation(
        task=tasks_at(connection, [seq])[0],
        unfinished=unfinished,
        able_workers=int(one(connection, WORKER["able"], (now - WORKER_TTL, kind))),
        ahead=int(one(connection, TASK["ahead"], (priority, seq, AHEAD_LIMIT))),
        before=int(one(connection, TASK["before_in_gate"], (priority, seq, BEFORE_LIMIT, kind))),
        capability=str(one(connection, TASK["capability_of"], (kind,))),
        closed=closed_for(connection, seq, kind, now) if state == READY else None,
    )
