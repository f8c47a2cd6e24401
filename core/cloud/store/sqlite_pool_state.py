"""The pool's endpoints and states in SQLite, shared by processes. See core.cloud.pool.pool_state for the contract.

Slots and probes are taken in one write transaction, so they are exact over processes. What calls came to is kept in memory and written
behind: with the next admission, within 100 ms, or at once when it changes an endpoint's health. Nothing here is worth an fsync: a power
cut may cost the last moments' counts, the death of a process less than 100 ms of them.
"""

import atexit
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import apsw

from core.clock import Clock, SystemClock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.admission import Refusal, Refused
from core.cloud.pool.health import Health
from core.cloud.pool.pool_state import Listing, apply, matters
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.tally import Report
from core.cloud.replies.adaptation import from_text, merged
from core.cloud.store.database import Database
from core.cloud.store.pool_rows import (
    POOL,
    Returned,
    Settled,
    add_adapted,
    add_total,
    clean_health,
    endpoint_of,
    forget_removed,
    read_health,
    row_of,
    save_health,
    settings_of,
)
from core.cloud.store.pool_tokens import correct
from core.cloud.store.pool_windows import WHOLE_POOL, give_back
from core.cloud.store.sqlite_endpoint_state import SqliteEndpointState
from core.cloud.store.write_behind import WriteBehind
from core.errors import HeablcoinError, InvalidArgument
from core.fork import ForkAware, tell_of_forks

log = logging.getLogger(__name__)

FLUSH_WITHIN = 0.1
"""Seconds that a count may wait to be written."""
_OF_THE_DATABASE = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.CantOpenError,
    apsw.NoMemError,
    apsw.InterruptError,
    apsw.SchemaChangeError,
    apsw.ThreadingViolationError,
    apsw.ConnectionClosedError,
    MemoryError,
)
"""Errors that no single row is to blame for."""


class SqlitePoolState(ForkAware):
    """Endpoints and states in one database. Thread-safe."""

    shared = True

    def __init__(self, database: Database, *, window: float = WINDOW, clock: Clock | None = None) -> None:
        self.database = database
        self._clock = clock or SystemClock()
        self.window = window
        self._max_per_minute = 0
        self.full: Refused | None = None
        """The newest refusal by the pool's limit, as an endpoint's state keeps that of its own."""
        self._undone: set[int] = set()
        """Tokens of admissions that were rolled back with the transaction they were part of."""
        self.given_back = 0
        """Slots that this process gave back so far: a refusal of before the last of them is no longer true."""
        self._lock = threading.RLock()
        self._states: dict[str, SqliteEndpointState] = {}
        self._pending: list[Settled] = []
        self._being_written = 0
        self._adapted: dict[str, ApiEndpoint] = {}
        """Endpoints whose adaptations are still to be written."""
        self._tokens = _tokens()
        self._writer = WriteBehind(self.flush, FLUSH_WITHIN)
        self._closed = False
        atexit.register(_flush_quietly, weakref.ref(self))
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """The calls under way, and what is not written of those that ended, are the parent's."""
        self._lock = threading.RLock()
        self._pending, self._being_written = [], 0
        self._tokens = _tokens()
        self._writer = WriteBehind(self.flush, FLUSH_WITHIN)
        for state in self._states.values():
            state.in_flight = 0

    @property
    def max_per_minute(self) -> int:
        return self._max_per_minute

    @max_per_minute.setter
    def max_per_minute(self, limit: int) -> None:
        self._max_per_minute, self.full = limit, None

    @property
    def frees(self) -> bool:
        """Whether there are slots that the database does not know yet to be free."""
        with self._lock:
            return self._being_written > 0 or any(item.frees for item in self._pending)

    def used(self, now: float) -> int:
        return self.used_by(WHOLE_POOL, now)

    def used_by(self, name: str, now: float) -> int:
        """Starts of an endpoint, or of the whole pool, within the last window."""
        with self.database.read() as connection:
            return int(row_of(connection, "starts_since", (name, now - self.window))[0])

    def save(self, listing: Listing) -> None:
        endpoint = listing.endpoint
        with self._lock:
            self._adapted.pop(endpoint.name, None)
        row = {"name": endpoint.name, "settings": settings_of(endpoint), "needs_key": int(listing.needs_key)}
        with self.transaction() as connection:
            connection.execute(POOL["save_endpoint"], row)
            connection.execute(POOL["await_no_longer"], (endpoint.name,))
            health = clean_health(connection, endpoint.name)
            forget_removed(connection, self._clock.now(), self.window)
        state = self.open(endpoint)
        with self._lock:
            state.health = health

    def remove(self, name: str) -> None:
        with self.transaction() as connection:
            if connection.execute(POOL["remove_endpoint"], (name,)).fetchone():
                connection.execute(POOL["bump"])
            forget_removed(connection, self._clock.now(), self.window)

    def endpoints(self) -> list[Listing]:
        with self._lock:
            unwritten = dict(self._adapted)
        with self.database.read() as connection:
            rows = sorted(connection.execute(POOL["endpoints"]))
        listings = []
        for _, name, settings, needs_key, adapted in rows:
            try:
                endpoint = endpoint_of(name, settings)
                mine = unwritten.get(name)
                found = mine.adapted if mine is not None and mine == endpoint else ()
                listings.append(Listing(endpoint, bool(needs_key), merged(from_text(adapted), found)))
            except InvalidArgument as error:
                log.warning("the stored endpoint %s cannot be used: %s", name, error)
        return listings

    def version(self) -> int:
        with self.database.read() as connection:
            return int(row_of(connection, "version", ())[0])

    def open(self, endpoint: ApiEndpoint) -> SqliteEndpointState:
        with self._lock:
            state = self._states.get(endpoint.name)
            if state is None:
                state = self._states[endpoint.name] = SqliteEndpointState(self, endpoint)
            state.configure(endpoint)
            return state

    def reset(self, name: str) -> None:
        with self.transaction() as connection:
            for statement in ("clear_total", "clear_outcomes", "clear_latencies"):
                connection.execute(POOL[statement], (name,))
            health = clean_health(connection, name)
        with self._lock:
            self._states[name].health = health

    def refresh(self) -> None:
        with self._lock:
            names = list(self._states)
        with self.database.snapshot() as connection:
            found = {name: read_health(connection, name) for name in names}
        for name, health in found.items():
            if health is not None:
                self._adopt(name, health)

    def flush(self) -> None:
        with self._lock:
            adapted = list(self._adapted.values())
        if self._pending or self._being_written or adapted:
            # What another thread is writing this moment is waited for as well: a transaction begins when that one is over.
            with self.transaction() as connection:
                for endpoint in adapted:
                    add_adapted(connection, endpoint)
            with self._lock:
                for endpoint in adapted:
                    if self._adapted.get(endpoint.name) is endpoint:
                        del self._adapted[endpoint.name]

    def close(self) -> None:
        """Write down what is left and stop writing behind; the database stays open. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self.flush()

    # For the states of endpoints

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """A write transaction that begins with writing down what is pending. Part of the database's own when there is one."""
        taken: list[Settled] = []
        healths: dict[str, Health] = {}

        def over(committed: bool) -> None:
            nonlocal taken
            written, taken = taken, []  # a second call finds nothing more to do
            with self._lock:
                self._being_written -= len(written)
                if not committed:
                    self._pending = written + self._pending
            if committed:
                for name, health in healths.items():
                    self._adopt(name, health)

        try:
            with self.database.write(durable=False) as connection:
                with self._lock:
                    taken, self._pending = self._pending, []
                    self._being_written += len(taken)
                self.database.at_end(over)
                healths = _write_what_can_be(connection, taken)
                yield connection
        except BaseException:
            healths = {}
            over(False)
            raise

    def new_token(self) -> int:
        return next(self._tokens)

    def settle(self, state: SqliteEndpointState, token: int, report: Report) -> None:
        """Note a call's end; the database learns it soon, at once when other callers depend on it. Never raises."""
        with self._lock:
            # None is left of those that were under way when this process was forked.
            state.in_flight -= state.in_flight > 0 and not report.opened
            try:
                changes_health = matters(state.health, report)
                if changes_health:
                    apply(state.health, token, report)
            except Exception:
                state.health.end(token)
                changes_health = False
                log.exception("what a call of %s says about its health is left out", state.endpoint.name)
            self._pending.append(Settled(state.endpoint, token, report, changes_health))
        if changes_health or state.endpoint.max_concurrency or state.endpoint.max_tokens_per_minute:
            self._writer.now()
        else:
            self._writer.soon()

    def give_back(self, state: SqliteEndpointState, token: int, day: int) -> None:
        """Note that a call never left; the next admission of this process finds its slot free, other processes soon. Never raises."""
        with self._lock:
            state.in_flight -= state.in_flight > 0
            probing = state.health.probe == token
            if probing:
                state.health.end(token)
            if token in self._undone:
                self._undone.remove(token)
            else:
                self._pending.append(Returned(state.endpoint, token, day, probing))
            self.given_back += 1
            state.full = self.full = None
        self._writer.now()

    def given(self, token: int) -> None:
        """A call was admitted. When that is part of a larger transaction that comes to nothing, nothing counts the call."""
        if self.database.writing:
            self.database.at_end(partial(self._over, token))

    def _over(self, token: int, committed: bool) -> None:
        if committed:
            return
        with self._lock:
            left = [item for item in self._pending if item.token != token]
            if len(left) == len(self._pending):
                self._undone.add(token)
            self._pending = left  # whoever it was given to gave it back while it was being undone

    def remember(self, state: SqliteEndpointState, refused: Refused, given_back: int) -> None:
        """Note a refusal by a limit of starts, made when so many slots had been given back."""
        with self._lock:
            still = refused if given_back == self.given_back else None
            state.full = still if refused.why is Refusal.LIMITED else None
            if refused.why is Refusal.POOL:
                self.full = still

    def adapt(self, endpoint: ApiEndpoint) -> None:
        """Note what an endpoint's requests are changed by; the database and the other processes learn it at once."""
        with self._lock:
            self._adapted[endpoint.name] = endpoint
        self._writer.now()

    def _adopt(self, name: str, health: Health) -> None:
        """Take over what the database knows, and apply to it what it does not know yet."""
        with self._lock:
            for settled in self._pending:
                if settled.changes_health and settled.endpoint.name == name:
                    apply(health, settled.token, settled.report)
            self._states[name].health = health


def _tokens() -> Iterator[int]:
    """Numbers that are unique over processes: a random half, a counted half."""
    return itertools.count((int.from_bytes(os.urandom(4)) >> 1) << 32)


def _write_what_can_be(connection: apsw.Connection, settled: Sequence[Settled]) -> dict[str, Health]:
    """`_write`, for which one row that cannot be written holds up no other: it is set aside, and the log says what it was.

    At the beginning of a transaction. Trouble of the database itself (busy, full, broken) is raised: then all rows wait.
    """
    if not settled:
        return {}
    try:
        with connection:  # a savepoint
            return _write(connection, settled)
    except _OF_THE_DATABASE:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a row does, the others are written
        log.debug("of %d rows one cannot be written (%s); each is written by itself", len(settled), error)
    healths: dict[str, Health] = {}
    for item in settled:
        try:
            with connection:
                healths |= _write(connection, [item])
        except _OF_THE_DATABASE:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            log.error(  # noqa: TRY400 - a traceback would say where in SQLite, and fill the log of a busy pool
                "a call of %s could not be counted and is left out: %s, %r and %r tokens, cost %r (%s)",
                item.endpoint.name,
                item.report.outcome.kind,
                item.report.tokens_in,
                item.report.tokens_out,
                item.report.cost,
                type(error).__name__,
            )
            _set_free(connection, item)
    return healths


def _set_free(connection: apsw.Connection, item: Settled) -> None:
    """The least that a call's end must do: give back its slot and its place as the probe."""
    name = item.endpoint.name
    if not item.report.opened:
        connection.execute(POOL["end_in_flight"], (name, item.token))
    health = read_health(connection, name)
    if health is not None and health.probe == item.token:
        health.end(item.token)
        save_health(connection, name, health)


def _write(connection: apsw.Connection, settled: Sequence[Settled]) -> dict[str, Health]:
    """Write down calls that ended; the healths that this changed."""
    healths: dict[str, Health] = {}
    by_name: dict[str, list[Settled]] = {}
    for item in settled:
        by_name.setdefault(item.endpoint.name, []).append(item)
    correct(connection, settled)
    for name, items in by_name.items():
        calls = [item for item in items if not isinstance(item, Returned)]
        if len(calls) < len(items):
            give_back(connection, items)
        if calls and not add_total(connection, name, calls):
            continue
        for item in items:
            if item.endpoint.max_concurrency and not item.report.opened:
                connection.execute(POOL["end_in_flight"], (name, item.token))
        changes = [item for item in items if item.changes_health]
        health = read_health(connection, name) if changes else None
        if health is not None:
            for item in changes:
                apply(health, item.token, item.report)
            save_health(connection, name, health)
            healths[name] = health
    return healths


def _flush_quietly(reference: "weakref.ref[SqlitePoolState]") -> None:
    """At exit, for a store that nobody closed."""
    store = reference()
    if store is not None:
        try:
            store.close()
        except HeablcoinError as error:
            log.debug("nothing could be written at exit: %s", error)
