"""The state of one endpoint in SQLite: whether it takes a call, decided and written in one transaction."""

from contextlib import suppress
from typing import TYPE_CHECKING

import apsw

from core.clock import Clock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.admission import (
    BUSY_POLL,
    MINUTES,
    Refusal,
    Refused,
    is_unlimited,
    refusal,
    token_limited,
)
from core.cloud.pool.health import Health
from core.cloud.pool.pool_state import PROBE_GRACE
from core.cloud.pool.tally import Report, Spending, Tally, day_of
from core.cloud.store.pool_rows import (
    POOL,
    read_health,
    read_spending,
    read_total,
    row_of,
    save_health,
)
from core.cloud.store.pool_tokens import room_seen
from core.cloud.store.pool_windows import awaited, expect, full_until, take_slots

if TYPE_CHECKING:
    from core.cloud.store.sqlite_pool_state import SqlitePoolState

FOREVER = float("inf")


class _PutBackError(Exception):
    """Rolls back what was only tried."""


class SqliteEndpointState:
    """An endpoint's state in the database. `health` is this process's newest knowledge of it."""

    __slots__ = ("_day", "_first", "_short", "_store", "_unlimited", "endpoint", "full", "health", "in_flight")

    def __init__(self, store: "SqlitePoolState", endpoint: ApiEndpoint) -> None:
        self._store = store
        self.endpoint = endpoint
        self.health = Health()
        self.in_flight = 0
        self.full: Refused | None = None
        """The newest refusal by the limit: no slot comes free before it says, so callers that wait need not ask the database."""
        self._short = 0
        """How many tokens were not to be had when they were last asked for: who waits for them reads before it writes."""
        self._day = self._first = 0
        """The newest day on which a call was admitted here, and the first token of that day."""
        self._unlimited = is_unlimited(endpoint)

    def configure(self, endpoint: ApiEndpoint) -> None:
        self.endpoint, self.full, self._unlimited = endpoint, None, is_unlimited(endpoint)

    def admit(
        self, clock: Clock, *, last_resort: bool = False, new_key: bool = False, tokens: int = 0, task: bool = False
    ) -> int | Refused:
        if self._unlimited and self.health.clean and not self._store.max_per_minute:
            # Nothing to take a slot of: what other processes find out about its health arrives with the next refresh.
            with self._store._lock:  # noqa: SLF001
                self.in_flight += 1
            return -self._store.new_token()
        most = self.endpoint.max_concurrency
        if most and self.in_flight >= most:
            return Refused(Refusal.BUSY, clock.now() + BUSY_POLL)
        name, full, given_back = self.endpoint.name, self._known_full(clock, tokens), self._store.given_back
        if full is not None:
            return full
        with self._store.transaction() as connection:
            now = clock.now()
            health = read_health(connection, name)
            if health is None:
                return Refused(Refusal.REMOVED, FOREVER)
            if health.rewind(now):
                save_health(connection, name, health)
            token = self._store.new_token()
            opens = health.opens_at(now, last_resort=last_resort, new_key=new_key)
            refused = self._refusal(connection, health, now, opens)
            if refused is None:
                refused = self._take_slot(connection, now, token, tokens, task=task)
            if refused is None:
                self._enter(connection, health, token, now)
        self._store._adopt(name, health)  # noqa: SLF001 - the state is the store's own other half
        self._short = tokens if refused is not None and refused.why is Refusal.TOKENS else 0
        if refused is not None:
            self._store.remember(self, refused, given_back)
            return refused
        self._store.given(token)
        with self._store._lock:  # noqa: SLF001
            self.in_flight += 1
        return token

    def look(self, clock: Clock, tokens: int = 0) -> Refused | None:
        """Taken and put back, so that it can say nothing else than `admit` would."""
        refused = None
        with suppress(_PutBackError), self._store.database.write(durable=False) as connection:
            now = clock.now()
            health = read_health(connection, self.endpoint.name)
            if health is None:
                refused = Refused(Refusal.REMOVED, FOREVER)
            else:
                health.rewind(now)
                refused = self._refusal(
                    connection, health, now, health.opens_at(now, last_resort=True)
                ) or self._take_slot(connection, now, 0, tokens)
            raise _PutBackError
        return refused

    def peek(self, clock: Clock) -> Refused | None:
        store, most = self._store, self.endpoint.max_concurrency
        if most and self.in_flight >= most:
            return Refused(Refusal.BUSY, clock.now() + BUSY_POLL)
        if not (most or self.endpoint.max_requests_per_minute or store.max_per_minute or self._short):
            return None
        full, given_back = self._known_full(clock, self._short), store.given_back
        if full is not None or store.frees:
            return full
        with store.database.read() as connection:
            now = clock.now()
            full = full_until(connection, self.endpoint, store.max_per_minute, now, store.window)
            if full is not None and full.why in MINUTES:
                store.remember(self, full, given_back)
            elif most and row_of(connection, "in_flight", (self.endpoint.name, now))[0] >= most:
                return Refused(Refusal.BUSY, now + BUSY_POLL)
        return full

    def _known_full(self, clock: Clock, tokens: int) -> Refused | None:
        """A refusal that still holds: by a limit of starts, where no slot comes free before it says, or of tokens, as can be read."""
        store = self._store
        if self._short and tokens and not store.frees:
            with store.database.read() as connection:
                until = room_seen(connection, self.endpoint, tokens, clock.now(), store.window)
            if until:
                return token_limited(self.endpoint, until)
        if self.full is None and self._store.full is None:
            return None
        now, window = clock.now(), self._store.window
        for full in (self.full, self._store.full):
            if full is not None and full.until > now >= full.until - window:
                return full
        return None

    def _refusal(self, connection: apsw.Connection, health: Health, now: float, opens: float) -> Refused | None:
        name = self.endpoint.name
        return refusal(
            self.endpoint,
            health,
            opens=opens,
            now=now,
            epoch=now,
            in_flight=lambda: int(row_of(connection, "in_flight", (name, now))[0]),
            spent=lambda: read_spending(connection, name, now),
        )

    def _take_slot(
        self, connection: apsw.Connection, now: float, token: int, tokens: int, *, task: bool = False
    ) -> Refused | None:
        limit, window = self._store.max_per_minute, self._store.window
        if task and (refused := awaited(connection, self.endpoint, now, window)):
            return refused
        refused = take_slots(connection, self.endpoint, limit, now, window, token=token, tokens=tokens)
        if refused is not None and refused.why in MINUTES and not task:
            expect(connection, self.endpoint.name, refused)
        return refused

    def _enter(self, connection: apsw.Connection, health: Health, token: int, now: float) -> None:
        endpoint, day = self.endpoint, day_of(now)
        ends = now + endpoint.timeout + PROBE_GRACE
        if day != self._day:
            self._day, self._first = day, token
        connection.execute(POOL["spend"], (endpoint.name, day, 1, 0, 0.0))
        if health.begin(token, ends):
            save_health(connection, endpoint.name, health)
        if endpoint.max_concurrency:
            connection.execute(POOL["drop_in_flight"], (endpoint.name, now))
            connection.execute(POOL["begin_in_flight"], (endpoint.name, token, ends))

    def settle(self, token: int, report: Report) -> None:
        self._store.settle(self, token, report)

    def give_back(self, token: int) -> None:
        # Tokens of one process count up. One below 0 was given without asking the database: nothing counts it.
        self._store.give_back(self, token, self._day if token >= self._first else 0)

    def adapt(self, endpoint: ApiEndpoint) -> None:
        self._store.adapt(endpoint)

    def slept(self, seconds: float) -> None:
        """Its times are the wall clock's."""

    def spending(self, epoch: float) -> Spending:
        self._store.flush()
        with self._store.database.read() as connection:
            return read_spending(connection, self.endpoint.name, epoch)

    def used(self, now: float) -> int:
        return self._store.used_by(self.endpoint.name, now)

    def used_tokens(self, now: float) -> int:
        self._store.flush()
        with self._store.database.read() as connection:
            return int(row_of(connection, "reserved_since", (self.endpoint.name, now - self._store.window))[0])

    def totals(self) -> Tally:
        self._store.flush()
        name = self.endpoint.name
        with self._store.database.snapshot() as connection:
            return read_total(connection, name)
