"""The pool's rows in SQLite, read and written; each function is part of its caller's transaction."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import apsw

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.health import Health, HoldKind
from core.cloud.pool.outcome import CANCELLED, OutcomeClass
from core.cloud.pool.tally import Report, Spending, Tally, day_of
from core.cloud.replies.adaptation import from_text, merged, to_text
from core.cloud.store.queries import Queries
from core.errors import InvalidArgument

POOL = Queries("pool")

STARRED = "*\U0010ffff"
"""Comes after all names of starts that are no endpoint's: the whole pool's, and those of handlers, of which there may be many."""

NEVER_LEFT = Report(CANCELLED, 0.0, 0.0, 0.0, 0.0)
_SETTINGS = tuple(item.name for item in fields(ApiEndpoint) if item.name != "name")


class Settled:
    """A call that ended and is not written down yet. A token below 0 was given without asking the database: nothing counts it so far."""

    __slots__ = ("changes_health", "endpoint", "report", "token")

    def __init__(self, endpoint: ApiEndpoint, token: int, report: Report, changes_health: bool) -> None:
        self.endpoint, self.token, self.report, self.changes_health = endpoint, token, report, changes_health

    @property
    def frees(self) -> bool:
        """Whether it gives back what the database holds for it."""
        endpoint = self.endpoint
        return bool(endpoint.max_concurrency or endpoint.max_tokens_per_minute) and not self.report.opened


class Returned(Settled):
    """A call that was admitted and never left. `day` is the one whose count it is part of; 0 when that day is over, or nothing counted it."""

    __slots__ = ("day",)

    def __init__(self, endpoint: ApiEndpoint, token: int, day: int, changes_health: bool) -> None:
        super().__init__(endpoint, token, NEVER_LEFT, changes_health)
        self.day = day

    @property
    def frees(self) -> bool:
        return True


def add_total(connection: apsw.Connection, name: str, settled: Sequence[Settled]) -> bool:
    """Add to an endpoint's totals and spending; False when it was removed meanwhile."""
    tally = Tally()
    days: dict[int, Spending] = {}
    for item in settled:
        report = item.report
        if report.opened:
            continue
        tally.add(report)
        if item.token < 0 or report.tokens_in or report.tokens_out:
            spent = days.setdefault(day_of(report.at), Spending())
            spent.requests += item.token < 0
            spent.add(report)
    row = {
        "endpoint": name,
        "seconds": tally.seconds,
        "tokens_in": tally.tokens_in,
        "tokens_out": tally.tokens_out,
        "cost": tally.cost,
        "last_error": tally.last_error,
        "last_error_at": tally.last_error_at,
        "last_used_at": tally.last_used_at,
    }
    if connection.execute(POOL["add_total"], row).fetchone() is None:
        return False
    spending = [(name, day, spent.requests, spent.tokens, spent.cost) for day, spent in days.items()]
    connection.executemany(POOL["spend"], spending)
    connection.executemany(POOL["add_outcome"], [(name, *item) for item in tally.by_outcome().items()])
    connection.executemany(POOL["add_latency"], [(name, bucket, count) for bucket, count in tally.buckets.items()])
    return True


def add_adapted(connection: apsw.Connection, endpoint: ApiEndpoint) -> None:
    """Write down what an endpoint's requests are changed by, beside what other processes found; nothing when its settings are others now."""
    row = row_of(connection, "adapted", (endpoint.name,))
    with suppress(InvalidArgument):  # settings that only another version can use
        if row and endpoint_of(endpoint.name, row[0]) == endpoint:
            _add_adapted(connection, endpoint, row[1])


def _add_adapted(connection: apsw.Connection, endpoint: ApiEndpoint, text: str) -> None:
    known = from_text(text)
    adapted = merged(known, endpoint.adapted)
    if adapted != known:
        connection.execute(POOL["save_adapted"], (to_text(adapted), endpoint.name))
        connection.execute(POOL["bump"])


def forget_removed(connection: apsw.Connection, now: float, window: float) -> None:
    """Drop what removed endpoints left behind, once it counts no more; of the others the spending of days before yesterday, which a clock
    that is put back over midnight can still need.
    """
    kept = {row[1] for row in connection.execute(POOL["endpoints"])}
    for name in _names(connection, "next_started", after=STARRED):
        if name not in kept:
            connection.execute(POOL["forget_starts"], (name, now - window))
    for name in _names(connection, "next_reserver"):
        if name not in kept:
            connection.execute(POOL["drop_reservations"], (name, now - window))
    for name in _names(connection, "next_spender"):
        connection.execute(POOL["forget_spending"], (name, day_of(now) - 1))


def _names(connection: apsw.Connection, statement: str, after: str = "") -> list[str]:
    names: list[str] = []
    while (name := row_of(connection, statement, (names[-1] if names else after,))[0]) is not None:
        names.append(name)
    return names


def row_of(connection: apsw.Connection, statement: str, values: tuple[Any, ...] | dict[str, Any]) -> tuple[Any, ...]:
    """The only row of a query, () when there is none."""
    found: tuple[Any, ...] | None = connection.execute(POOL[statement], values).fetchone()
    return found or ()


def read_health(connection: apsw.Connection, name: str) -> Health | None:
    row = row_of(connection, "health", (name,))
    return None if not row else Health(row[0], HoldKind(row[1]), *row[2:])


def clean_health(connection: apsw.Connection, name: str) -> Health:
    """An endpoint starts without a hold, in a new generation of its own, and other processes notice."""
    (generation,) = row_of(connection, "bump", ())
    connection.execute(POOL["clean_health"], (name, generation))
    return Health(generation=generation)


def save_health(connection: apsw.Connection, name: str, health: Health) -> None:
    row = (
        health.failures,
        health.kind.value,
        health.hold,
        health.held_from,
        health.held_until,
        health.probe,
        health.probe_until,
    )
    connection.execute(POOL["save_health"], (*row, name))


def read_spending(connection: apsw.Connection, name: str, epoch: float) -> Spending:
    day = day_of(epoch)
    return Spending(day, *row_of(connection, "spending", (name, day)))


def read_total(connection: apsw.Connection, name: str) -> Tally:
    """An endpoint's totals; all zero before its first call."""
    tally = Tally()
    row = row_of(connection, "total", (name,))
    if row:
        tally.seconds, tally.tokens_in, tally.tokens_out, tally.cost = row[:4]
        tally.last_error, tally.last_error_at, tally.last_used_at = row[4:]
    tally.outcomes.update(dict(connection.execute(POOL["outcomes"], (name,))))
    tally.successes = tally.outcomes.pop(OutcomeClass.OK.value, 0)
    tally.buckets.update(dict(connection.execute(POOL["latencies"], (name,))))
    return tally


def settings_of(endpoint: ApiEndpoint) -> str:
    """An endpoint's settings as JSON text; the key is none of them."""
    settings = {name: getattr(endpoint, name) for name in _SETTINGS}
    settings |= {"headers": dict(endpoint.headers), "extra_body": dict(endpoint.extra_body)}
    return json.dumps(settings, ensure_ascii=False)


def endpoint_of(name: str, settings: str) -> ApiEndpoint:
    """The endpoint of stored settings; those that only a newer version knows are left out."""
    known = {key: value for key, value in json.loads(settings).items() if key in _SETTINGS}
    return ApiEndpoint(name, **known)
