"""Windows over starts, in SQLite: at most so many in any minute, over all processes. See core.cloud.pool.rate_limit for the rule.

Each function is part of its caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.admission import Refusal, Refused, limited, pool_limited, token_limited
from core.cloud.pool.health import CLOCK_SKEW
from core.cloud.store.pool_rows import POOL, Returned, Settled, row_of
from core.cloud.store.pool_tokens import reserve, room

COMES_WITHIN = 0.25
"""Seconds after the opening of a slot within which a direct call that waits for it comes, or it is anybody's."""
WHOLE_POOL = "*"
"""The name under which the pool's own starts stand: one that no endpoint can have."""
HANDLERS = "*handler "
"""What the names begin with under which starts of handlers stand."""


@dataclass(slots=True)
class Slot:
    """Where in its window the next start would stand."""

    name: str
    opens: float
    """Pool time from which it may be taken; 0.0 for at once."""
    number: int
    at: float
    before: float
    """Pool time up to which older starts count no more."""


def take_slots(
    connection: apsw.Connection,
    endpoint: ApiEndpoint,
    pool_limit: int,
    now: float,
    window: float,
    *,
    token: int,
    tokens: int,
) -> Refused | None:
    """A slot of the endpoint's window and of the pool's, where there are such limits, and `tokens`; when one refuses, nothing.

    `token` is the call's, by which it may give them back.
    """
    slots = []
    if endpoint.max_tokens_per_minute and (opens := room(connection, endpoint, tokens, now, window)):
        return token_limited(endpoint, opens)
    if endpoint.max_requests_per_minute:
        own = _look(connection, endpoint.name, endpoint.max_requests_per_minute, now, window)
        if own.opens:
            return limited(endpoint, own.opens)
        slots.append(own)
    if pool_limit:
        whole = _look(connection, WHOLE_POOL, pool_limit, now, window)
        if whole.opens:
            return pool_limited(pool_limit, whole.opens)
        slots.append(whole)
    if endpoint.max_tokens_per_minute:
        reserve(connection, endpoint.name, token, tokens, now)
    for slot in slots:
        _take(connection, slot, token)
    return None


def expect(connection: apsw.Connection, name: str, refused: Refused) -> None:
    """A direct call was refused, and may wait: the next slot of that window is not for tasks."""
    window = WHOLE_POOL if refused.why is Refusal.POOL else name
    connection.execute(POOL["await"], (window, refused.until + COMES_WITHIN))


def awaited(connection: apsw.Connection, endpoint: ApiEndpoint, now: float, window: float) -> Refused | None:
    """Why a task leaves a slot that is open to a direct call; None when none waits, in any process."""
    # A process that did not know yet that the endpoint's limit is gone may have noted that somebody waits for its next slot.
    name = endpoint.name if endpoint.max_requests_per_minute else WHOLE_POOL
    (until,) = row_of(connection, "awaited", (name, now + window + COMES_WITHIN))
    return None if until is None or until <= now else Refused(Refusal.AWAITED, until)


def full_until(
    connection: apsw.Connection, endpoint: ApiEndpoint, pool_limit: int, now: float, window: float
) -> Refused | None:
    """What `take_slots` would refuse a task, found without a write; None as well where the clock was put back, which only that puts right."""
    limit = endpoint.max_requests_per_minute
    own = opens_at(connection, endpoint.name, limit, now, window) if limit else 0.0
    if own:
        return limited(endpoint, own)
    whole = opens_at(connection, WHOLE_POOL, pool_limit, now, window) if pool_limit else 0.0
    return pool_limited(pool_limit, whole) if whole else awaited(connection, endpoint, now, window)


def opens_at(connection: apsw.Connection, name: str, limit: int, now: float, window: float) -> float:
    """Pool time from which one more may start of what stands under `name`; 0.0 when it may now. Reads only."""
    _, at, oldest = row_of(connection, "ring", {"endpoint": name, "limit": limit}) or (0, 0.0, None)
    if oldest is None or at > now + CLOCK_SKEW or oldest + window <= now:
        return 0.0
    return float(oldest) + window


def give_back(connection: apsw.Connection, settled: Sequence[Settled]) -> None:
    """Those of these calls that never left are taken out of their windows and their day's count, as if they had never been there."""
    for item in settled:
        if isinstance(item, Returned) and item.token > 0:
            for name in (item.endpoint.name, WHOLE_POOL):
                _close_gap(connection, name, item.token)
            connection.execute(POOL["unspend"], (item.endpoint.name, item.day))


def _close_gap(connection: apsw.Connection, name: str, token: int) -> None:
    """Take out a start, and move those after it one down: what decides is found by counting back from the newest."""
    gap = row_of(connection, "take_back_start", (name, token))
    if gap:
        connection.execute(POOL["lift_starts"], (name, *gap))
        connection.execute(POOL["put_starts_down"], (name,))


def _look(connection: apsw.Connection, name: str, limit: int, now: float, window: float) -> Slot:
    """The next slot of `limit` in any `window` seconds."""
    newest, at, oldest = row_of(connection, "ring", {"endpoint": name, "limit": limit}) or (0, 0.0, None)
    if at > now + CLOCK_SKEW:
        connection.execute(POOL["pull_back_starts"], {"endpoint": name, "now": now})
        oldest = None if oldest is None else min(oldest, now)
        at = now
    opens = 0.0 if oldest is None or oldest + window <= now else oldest + window
    return Slot(name, opens, newest + 1, max(now, at), now - window)


def _take(connection: apsw.Connection, slot: Slot, token: int | None) -> None:
    """A call starts. Only in a slot that is open."""
    connection.execute(POOL["start"], (slot.name, slot.number, slot.at, token))
    names = {"endpoint": slot.name, "before": slot.before, "newest": slot.number}
    connection.execute(POOL["drop_starts"], names)


def take_start(connection: apsw.Connection, name: str, limit: int, now: float, window: float) -> float:
    """One more starts, for good: 0.0; or the pool time from which it may."""
    slot = _look(connection, name, limit, now, window)
    if not slot.opens:
        _take(connection, slot, None)
    return slot.opens
