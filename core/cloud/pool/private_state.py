"""The states of a pool that is private to its process: nothing is written anywhere."""

import itertools
import logging
import threading
from dataclasses import replace

from core.clock import Clock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.admission import (
    Refused,
    limited,
    pool_limited,
    refusal,
    token_limited,
)
from core.cloud.pool.health import Health
from core.cloud.pool.pool_state import PROBE_GRACE, Listing, apply, matters
from core.cloud.pool.rate_limit import WINDOW, SlidingWindow
from core.cloud.pool.tally import Report, Spending, Tally, day_of
from core.cloud.pool.token_limit import TokenWindow, taken
from core.cloud.replies.adaptation import Adaptation
from core.fork import ForkAware, tell_of_forks

log = logging.getLogger(__name__)


class SharedWindow:
    """The window that the endpoints of one pool share. Thread-safe; each state takes its lock while it holds its own."""

    __slots__ = ("_lock", "_window")

    def __init__(self, window: float) -> None:
        self._window = SlidingWindow(0, window)
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        return self._window.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._window.limit = limit

    def take(self, now: float, owner: object) -> float:
        """Take a slot; when that is later than `now`, none was taken, and the next is free then."""
        with self._lock:
            free = self._window.free_at(now)
            if free <= now:
                self._window.take(now, owner)
            return free

    def give_back(self, owner: object) -> None:
        with self._lock:
            self._window.give_back(owner)

    def free_at(self, now: float) -> float:
        with self._lock:
            return self._window.free_at(now)

    def used(self, now: float) -> int:
        with self._lock:
            return self._window.used(now)

    def begin_anew(self) -> None:
        """In a forked child: the lock is nobody's."""
        self._lock = threading.Lock()


class PrivateEndpointState:
    """An endpoint's state in this process alone."""

    __slots__ = (
        "_day",
        "_first",
        "_lock",
        "_reserved",
        "_shared",
        "_spent",
        "_spent_before",
        "_tally",
        "_tokens",
        "_window",
        "adapted",
        "endpoint",
        "health",
        "in_flight",
    )

    def __init__(self, endpoint: ApiEndpoint, window: float, shared: SharedWindow) -> None:
        self.endpoint = endpoint
        self.health = Health()
        self.in_flight = 0
        self.adapted: tuple[Adaptation, ...] = ()
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._day = self._first = 0
        """The newest day on which a call was admitted, and the first token of that day."""
        self._tally = Tally()
        self._spent = Spending()
        self._spent_before = Spending()
        """Of the day that was the one before."""
        self._window = SlidingWindow(endpoint.max_requests_per_minute, window)
        self._shared = shared
        self._reserved = TokenWindow(window)

    def configure(self, endpoint: ApiEndpoint) -> None:
        """Take over changed settings: what was known of its health and refusals belongs to the old ones."""
        with self._lock:
            self.endpoint, self.adapted = endpoint, ()
            self.health = Health(generation=self.health.generation + 1)
            self._window.limit = endpoint.max_requests_per_minute

    def admit(
        self, clock: Clock, *, last_resort: bool = False, new_key: bool = False, tokens: int = 0, task: bool = False
    ) -> int | Refused:
        del task  # the direct calls that wait are all of this process, whose wait queue knows them
        with self._lock:
            now, epoch = clock.monotonic(), clock.now()
            health, endpoint = self.health, self.endpoint
            clean = health.failures == 0 and health.held_until == 0.0
            opens = now if clean else health.opens_at(now, last_resort=last_resort, new_key=new_key)
            token = next(self._tokens)
            refused = self._refusal(now, epoch, opens) or self._take_slots(endpoint, now, token, tokens)
            if refused is not None:
                return refused
            spent = self._today(epoch)
            if spent.day != self._day:
                self._day, self._first = spent.day, token
            spent.requests += 1
            if endpoint.max_tokens_per_minute:
                self._reserved.reserve(token, tokens, now)
            if not clean:
                health.begin(token, now + endpoint.timeout + PROBE_GRACE)
            self.in_flight += 1
            return token

    def look(self, clock: Clock, tokens: int = 0) -> Refused | None:
        with self._lock:
            now, endpoint = clock.monotonic(), self.endpoint
            refused = self._refusal(now, clock.now(), self.health.opens_at(now, last_resort=True))
            if refused is not None:
                return refused
            most = endpoint.max_tokens_per_minute
            if most and (free := self._reserved.opens(tokens, most, now)) > now:
                return token_limited(endpoint, free)
            if self._window.limit and (free := self._window.free_at(now)) > now:
                return limited(endpoint, free)
            if self._shared.limit and (free := self._shared.free_at(now)) > now:
                return pool_limited(self._shared.limit, free)
            return None

    def peek(self, _clock: Clock) -> Refused | None:
        """Nobody else takes its slots, and `admit` writes nothing."""
        return None

    def _refusal(self, now: float, epoch: float, opens: float) -> Refused | None:
        return refusal(
            self.endpoint,
            self.health,
            opens=opens,
            now=now,
            epoch=epoch,
            in_flight=lambda: self.in_flight,
            spent=lambda: self._today(epoch),
        )

    def _take_slots(self, endpoint: ApiEndpoint, now: float, token: int, tokens: int) -> Refused | None:
        """A slot of each window, or of none."""
        window, shared, most = self._window, self._shared, endpoint.max_tokens_per_minute
        if most and (free := self._reserved.opens(tokens, most, now)) > now:
            return token_limited(endpoint, free)
        if window.limit and (free := window.free_at(now)) > now:
            return limited(endpoint, free)
        if shared.limit and (free := shared.take(now, (endpoint.name, token))) > now:
            return pool_limited(shared.limit, free)
        if window.limit:
            window.take(now, token)
        return None

    def settle(self, token: int, report: Report) -> None:
        with self._lock:
            if report.opened:
                apply(self.health, token, report)
                return
            self.in_flight -= (
                self.in_flight > 0
            )  # none is left of those that were under way when this process was forked
            try:
                if self.endpoint.max_tokens_per_minute:
                    self._reserved.correct(token, taken(report))
                self._tally.add(report)
                if report.tokens_in or report.tokens_out:
                    self._today(report.at).add(report)
                if matters(self.health, report):
                    apply(self.health, token, report)
            except Exception:
                self.health.end(token)
                log.exception("a call of %s could not be counted", self.endpoint.name)

    def give_back(self, token: int) -> None:
        with self._lock:
            self.in_flight -= self.in_flight > 0
            self._window.give_back(token)
            self._reserved.correct(token, 0)
            self._shared.give_back((self.endpoint.name, token))
            if token >= self._first:
                self._spent.requests -= self._spent.requests > 0
            self.health.end(token)

    def adapt(self, endpoint: ApiEndpoint) -> None:
        with self._lock:
            if endpoint == self.endpoint:
                self.adapted = endpoint.adapted

    def begin_anew(self) -> None:
        """In a forked child: the calls under way are the parent's."""
        self._lock = threading.Lock()
        self.in_flight = 0
        self._reserved.begin_anew()
        self.health.end(self.health.probe)

    def slept(self, seconds: float) -> None:
        with self._lock:
            self.health.slept(seconds)

    def spending(self, epoch: float) -> Spending:
        with self._lock:
            return replace(self._today(epoch))

    def used(self, now: float) -> int:
        with self._lock:
            return self._window.used(now)

    def used_tokens(self, now: float) -> int:
        with self._lock:
            return self._reserved.used(now)

    def totals(self) -> Tally:
        with self._lock:
            return self._tally.copy()

    def reset(self) -> None:
        with self._lock:
            self._tally = Tally()
            self.health = Health(generation=self.health.generation + 1)

    def _today(self, epoch: float) -> Spending:
        day = day_of(epoch)
        if self._spent.day != day:
            # A clock that is put back over midnight finds the day it was before as it was.
            kept = self._spent_before if self._spent_before.day == day else Spending(day)
            self._spent, self._spent_before = kept, self._spent
        return self._spent


class PrivatePoolState(ForkAware):
    """Endpoints and states in this process alone."""

    shared = False

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._shared = SharedWindow(window)
        self._listings: dict[str, Listing] = {}
        self._states: dict[str, PrivateEndpointState] = {}
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        self._shared.begin_anew()
        for state in self._states.values():
            state.begin_anew()

    @property
    def max_per_minute(self) -> int:
        return self._shared.limit

    @max_per_minute.setter
    def max_per_minute(self, limit: int) -> None:
        self._shared.limit = limit

    def used(self, now: float) -> int:
        return self._shared.used(now)

    def save(self, listing: Listing) -> None:
        endpoint = listing.endpoint
        self._listings[endpoint.name] = listing
        state = self._states.get(endpoint.name)
        if state is None:
            self._states[endpoint.name] = PrivateEndpointState(endpoint, self._window, self._shared)
        else:
            state.configure(endpoint)

    def remove(self, name: str) -> None:
        self._listings.pop(name, None)
        self._states[name].reset()
        self._states[name].adapted = ()

    def endpoints(self) -> list[Listing]:
        return [replace(listing, adapted=self._states[name].adapted) for name, listing in self._listings.items()]

    def version(self) -> int:
        return 0

    def open(self, endpoint: ApiEndpoint) -> PrivateEndpointState:
        return self._states[endpoint.name]

    def reset(self, name: str) -> None:
        self._states[name].reset()

    def refresh(self) -> None:
        """There is nobody else."""

    def flush(self) -> None:
        """Nothing is ever behind."""
