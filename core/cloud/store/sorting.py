"""The limits of handlers as the database has them, and their tasks sorted by what they share a limit with.

A task is published with the kind of its handler. Once it is ready, the first claim that may take tasks of the handler gives it the kind
of its value (table `kind`, column `key`); a trigger takes that away when the task is neither ready nor held. So nobody who
publishes has to know of limits, and those published before there were any obey them. Functions work inside the caller's transaction.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence

import apsw

from core.cloud.handler_limits import HandlerLimits, field_of
from core.cloud.store.pool_windows import HANDLERS
from core.cloud.store.queries import DEPENDENCY, LIMIT, TASK, first, rows
from core.errors import HeablcoinError
from core.json_types import Json, loads

log = logging.getLogger(__name__)

Resolve = Callable[[Json, Mapping[str, Json]], Json]
"""Fills results, given by task id, into a value that refers to them. Raises HeablcoinError for what leads nowhere."""


def registered(connection: apsw.Connection) -> dict[str, HandlerLimits]:
    """The limits that count now, by handler."""
    return {name: HandlerLimits(*said) for name, *said in rows(connection, LIMIT["all"])}


def register(connection: apsw.Connection, limits: Mapping[str, HandlerLimits], now: float, window: float) -> None:
    """These count from now on; none lifts what there was."""
    for name, said in limits.items():
        if said:
            connection.execute(LIMIT["put"], (name, said.max_per_minute, said.max_concurrency, said.key))
        else:
            connection.execute(LIMIT["lift"], (name,))
    forget_unused(connection, now, window)


def forget_unused(connection: apsw.Connection, now: float, window: float) -> None:
    """Drop the kinds of values that no task waits for, and starts that count no more."""
    connection.execute(LIMIT["drop_empty_kinds"])
    connection.execute(LIMIT["drop_starts"], (HANDLERS, now - window))


def sort(
    connection: apsw.Connection, kind: int, name: str, limits: HandlerLimits, most: int, *, resolve: Resolve | None
) -> tuple[int, int]:
    """Give up to `most` ready tasks of a kind the kinds of their values; how many there were, and how many new kinds."""
    found = rows(connection, LIMIT["to_sort"], (kind, most))
    kinds = _Kinds(connection, resolve)
    _move(connection, [(seq, kinds.of(seq, name, payload, limits)) for seq, payload in found])
    return len(found), kinds.added


def sort_held(connection: apsw.Connection, limits: Mapping[str, HandlerLimits], *, resolve: Resolve | None) -> int:
    """The same for tasks that are held and were not sorted when somebody took them; how many new kinds."""
    found = [row for row in rows(connection, LIMIT["held_to_sort"]) if row[1] in limits]
    kinds = _Kinds(connection, resolve)
    _move(connection, [(seq, kinds.of(seq, name, payload, limits[name])) for seq, name, payload in found])
    return kinds.added


def _move(connection: apsw.Connection, moves: Sequence[tuple[int, int]]) -> None:
    if moves:
        connection.executemany(LIMIT["sort"], moves)
        connection.execute(LIMIT["changed"])


class _Kinds:
    """The kinds of values, found or made."""

    def __init__(self, connection: apsw.Connection, resolve: Resolve | None) -> None:
        self._connection = connection
        self._resolve = resolve
        self._found: dict[tuple[str, str], int] = {}
        self.added = 0

    def of(self, seq: int, name: str, payload: str, limits: HandlerLimits) -> int:
        """That of the task `seq`."""
        shared = limits.shared(
            value_of(self._connection, seq, payload, limits.key, self._resolve) if limits.key else None
        )
        kind = self._found.get((name, shared))
        if kind is None:
            row = first(self._connection, LIMIT["kind_find"], (name, shared))
            kind = self._found[name, shared] = self._add(name, shared) if row is None else int(row[0])
        return kind

    def _add(self, name: str, shared: str) -> int:
        # Drawn, so that a number is never used again: processes keep in mind what each stands for.
        number = -1 - (int.from_bytes(os.urandom(7)) >> 1)
        self._connection.execute(LIMIT["kind_add"], (number, name, shared))
        self.added += 1
        return number


def value_of(connection: apsw.Connection, seq: int, payload: str, key: str, resolve: Resolve | None) -> Json:
    """What a task has in the field of the key, results filled in."""
    if resolve is None or "${" not in payload:
        return field_of(key, loads(payload))
    filling = resolve

    def fill(value: Json) -> Json:
        return filling(value, _results(connection, seq)) if isinstance(value, str) and "${" in value else value

    try:
        return field_of(key, loads(payload), fill)
    except HeablcoinError as error:  # its attempt will fail by it, and say so
        log.debug("what a task is limited by cannot be told: %s", error.message)
        return None


def _results(connection: apsw.Connection, seq: int) -> dict[str, Json]:
    parents = [row[1] for row in rows(connection, DEPENDENCY["of_tasks"], (json.dumps([seq]),))]
    found = rows(connection, TASK["results"], (json.dumps(parents),))
    return {task_id: None if result is None else loads(result) for task_id, result in found}
