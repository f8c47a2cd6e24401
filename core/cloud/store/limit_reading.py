"""What a task waits for because of its handler's limits, in words. Reads only."""

from collections import Counter

import apsw

from core.cloud.gate import Closed
from core.cloud.handler_limits import HandlerLimits, value_in_words
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.store.partitions import kind_of, row_name
from core.cloud.store.pool_windows import opens_at
from core.cloud.store.queries import LIMIT, TASK, first, one, rows
from core.cloud.store.sorting import registered, value_of

MOST_NAMED = 10
"""Values of one handler that are told by themselves."""


def closed_for(connection: apsw.Connection, seq: int, kind: int, now: float) -> Closed | None:
    """The limit that the ready task `seq` of this kind waits for; None when it may start."""
    name, key = first(connection, LIMIT["kind"], (kind,)) or ("", "")
    row = first(connection, LIMIT["one_of"], (name,))
    if row is None:
        return None
    limits = HandlerLimits(*row)
    if not limits.sorts(key):  # it was not sorted yet
        payload = str(one(connection, TASK["payload"], (seq,)))
        key = limits.shared(value_of(connection, seq, payload, limits.key, None) if limits.key else None)
        found = first(connection, LIMIT["kind_find"], (name, key))
        kind = 0 if found is None else found[0]
    return closed(connection, kind, name, key, limits, now=now)


def waiting(connection: apsw.Connection, now: float) -> list[tuple[Closed, int]]:
    """The limits that ready tasks wait for, and how many do; of each handler the values with the most, the others together.

    Walks those tasks in their index.
    """
    limits = registered(connection)
    if not limits:
        return []
    counts = Counter[int]()
    for (partition,) in rows(connection, LIMIT["partitions"]):
        counts[kind_of(partition)] += one(connection, LIMIT["in_partition"], (partition,))
    found: dict[str, list[tuple[Closed, int]]] = {}
    for kind, count in counts.most_common():
        name, key = first(connection, LIMIT["kind"], (kind,)) or ("", "")
        said = limits.get(name)
        if said is not None and said.sorts(key):
            what = closed(connection, kind, name, key, said, now=now)
            if what is not None:
                found.setdefault(name, []).append((what, count))
    return [each for name, all_of_it in found.items() for each in _told(name, limits[name].key, all_of_it)]


def _told(name: str, key: str, found: list[tuple[Closed, int]]) -> list[tuple[Closed, int]]:
    others = found[MOST_NAMED:]
    if not others:
        return found
    opens_in = min(what.opens_in for what, _ in others)
    rest = Closed(f"{name}'s limits ({len(others):,} other values of {key})", opens_in)
    return [*found[:MOST_NAMED], (rest, sum(count for _, count in others))]


def closed(
    connection: apsw.Connection, kind: int, name: str, key: str, limits: HandlerLimits, *, now: float
) -> Closed | None:
    """The limit that ready tasks of a sorted kind wait for now."""
    which = value_in_words(key)
    suffix = f" ({which})" if which else ""
    most = limits.max_per_minute
    opens = opens_at(connection, row_name(name, key), most, now, WINDOW) if most else 0.0
    if opens:
        return Closed(f"{name}'s limit of {most:,} a minute{suffix}", opens - now, most, WINDOW)
    most = limits.max_concurrency
    if most and one(connection, LIMIT["held_of_kind"], (kind,)) >= most:
        return Closed(f"{name}'s limit of {most:,} at once{suffix}", float("inf"))
    return None
