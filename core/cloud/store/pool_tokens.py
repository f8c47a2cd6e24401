"""Reservations of tokens a minute, in SQLite. See core.cloud.pool.token_limit for the rule; each function is part of its caller's transaction."""

from collections.abc import Iterable
from typing import cast

import apsw

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.health import CLOCK_SKEW
from core.cloud.pool.token_limit import opens_at, taken
from core.cloud.store.pool_rows import POOL, Returned, Settled, row_of


def room(connection: apsw.Connection, endpoint: ApiEndpoint, tokens: int, now: float, window: float) -> float:
    """When so many may be reserved; 0.0 for at once."""
    name = endpoint.name
    connection.execute(POOL["drop_reservations"], (name, now - window))
    if _newest(connection, name) > now + CLOCK_SKEW:
        connection.execute(POOL["pull_back_reservations"], {"endpoint": name, "now": now})
    (used,) = row_of(connection, "reserved", (name,)) or (0,)
    return _opens(connection, endpoint, used + tokens, now, window)


def room_seen(connection: apsw.Connection, endpoint: ApiEndpoint, tokens: int, now: float, window: float) -> float:
    """`room`, for a connection that only reads."""
    (used,) = row_of(connection, "reserved_since", (endpoint.name, now - window))
    return _opens(connection, endpoint, used + tokens, now, window)


def _opens(connection: apsw.Connection, endpoint: ApiEndpoint, tokens: int, now: float, window: float) -> float:
    excess, since = tokens - endpoint.max_tokens_per_minute, (endpoint.name, now - window)
    if excess <= 0:
        return 0.0
    (loose,) = row_of(connection, "reserved_under_way", since)
    rows = ((at, size, under_way == 1) for at, size, under_way in connection.execute(POOL["reservations"], since))
    return opens_at(cast("Iterable[tuple[float, int, bool]]", rows), excess, now, window, loose=loose)


def reserve(connection: apsw.Connection, name: str, token: int, tokens: int, now: float) -> None:
    """Only after `room` said that there is."""
    connection.execute(POOL["reserve"], (name, max(now, _newest(connection, name)), token, tokens))


def correct(connection: apsw.Connection, settled: Iterable[Settled]) -> None:
    """Calls are over: their reservations become what they took."""
    for item in settled:
        if item.endpoint.max_tokens_per_minute and not item.report.opened:
            tokens = 0 if isinstance(item, Returned) else taken(item.report)
            connection.execute(POOL["correct"], (tokens, item.endpoint.name, item.token))


def _newest(connection: apsw.Connection, name: str) -> float:
    (at,) = row_of(connection, "newest_reservation", (name,))
    return at or 0.0
