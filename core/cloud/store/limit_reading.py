"""What a task waits for because of its handler's limits, in words. Reads only."""

import apsw

from core.cloud.gate import Closed
from core.cloud.limits import HandlerLimits, value_in_words
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.store.lanes import row_name
from core.cloud.store.pool_windows import opens_at
from core.cloud.store.queries import LIMIT, TASK, first, one
from core.cloud.store.sorting import value_of


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
