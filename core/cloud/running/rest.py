"""Attempts that rest: their handler waits in the pool, so their slot is another's and their time stands still.

An attempt rests while at least one call of the pool that it has under way waits (for a limit, a hold, a free connection, its
turn) and none asks an endpoint. What a handler does beside its calls is not seen. It keeps its lease, and goes on the moment
its wait is over, even when the process then runs more attempts than it has slots.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial

from core.clock import Clock
from core.cloud.running.running_attempt import Flight, Flights
from core.cloud.running.watchdog import Watchdog

log = logging.getLogger(__name__)

FEWEST_FULL = 16
"""So many attempts of one handler may rest in a process, or as many as it has slots when those are more, before no further
ones are claimed: each of them may be a thread, and each is a task that no other process can take meanwhile."""


class Rest:
    """One attempt as the pool sees it (a `core.cloud.pool.wait_reports.Host`), and when its time is up."""

    __slots__ = ("_flight", "_rests", "armed", "asking", "deadline", "since", "waiting", "wakes")

    def __init__(self, rests: "Rests", flight: Flight, deadline: float | None) -> None:
        self._rests = rests
        self._flight = flight
        self.deadline = deadline
        """Monotonic; moves on by as long as the attempt rested."""
        self.armed = deadline is not None
        """Something will be called at the deadline, or at an earlier one."""
        self.asking = 0
        """Calls of the pool that ask an endpoint."""
        self.waiting = 0
        """Calls of the pool that wait."""
        self.since: float | None = None
        """Monotonic time from which it rests; None while it does not."""
        self.wakes: list[Callable[[], None]] = []

    @property
    def unwanted(self) -> bool:
        return self._flight.unwanted()

    def count(self, *, asking: int, waiting: int) -> None:
        self._rests.count(self._flight, self, asking, waiting)

    def listen(self, wake: Callable[[], None]) -> None:
        self.wakes.append(wake)
        if self.unwanted:
            wake()

    def unlisten(self, wake: Callable[[], None]) -> None:
        self.wakes.remove(wake)

    def wake(self) -> bool:
        """Have the calls that wait look whether anybody wants them; False when none waits."""
        wakes = list(self.wakes)
        for wake in wakes:
            wake()
        return bool(wakes)


class Rests:
    """Knows which attempts of a process rest, and ends those whose time is up. Thread-safe."""

    def __init__(
        self,
        flights: Flights,
        watchdog: Watchdog,
        clock: Clock,
        concurrency: int,
        *,
        freed: Callable[[], None],
        abilities_changed: Callable[[], None],
    ) -> None:
        self._flights = flights
        self._watchdog = watchdog
        self._clock = clock
        self._full = max(FEWEST_FULL, concurrency)
        self._freed = freed
        self._abilities_changed = abilities_changed
        self._launch: Callable[[], None] = _nothing
        self._expire: Callable[[Flight], None] = _nothing
        self._lock = threading.Lock()

    def attach(self, launch: Callable[[], None], expire: Callable[[Flight], None]) -> None:
        """How attempts that were claimed already get a free slot, and how one ends whose time is up."""
        self._launch, self._expire = launch, expire

    def begin(self, flight: Flight) -> bool:
        """An attempt has its slot, and its time begins; False when nothing could keep its deadline."""
        deadline = None if flight.timeout is None else self._clock.monotonic() + flight.timeout
        flight.rest = Rest(self, flight, deadline)
        return deadline is None or self._arm(flight, flight.rest, deadline)

    def full(self) -> frozenset[str]:
        """Handlers of which so many attempts rest that no further ones are to be claimed."""
        return self._flights.resting_at_least(self._full)

    def hindrance(self, name: str) -> str:
        """Why no further task of a handler is begun, in words for whoever waits for it; '' when nothing keeps it."""
        if name not in self.full():
            return ""
        return (
            f"{self._full} tasks of this handler wait in the API pool already, for a limit or an endpoint that rests; "
            "this process begins the next when one of them goes on."
        )

    def count(self, flight: Flight, rest: Rest, asking: int, waiting: int) -> None:
        """So many more calls of an attempt ask an endpoint, and wait."""
        began, again_at, number = False, None, 0
        with self._lock:
            rest.asking += asking
            rest.waiting += waiting
            rests = rest.waiting > 0 and rest.asking == 0
            if rests == (rest.since is not None):
                return
            now = self._clock.monotonic()
            if rest.since is None:
                number = self._flights.rest(flight)
                began = number > 0
                rest.since = now
            else:
                number = self._flights.go_on(flight)
                again_at = self._moved_on(rest, now - rest.since)
                rest.since = None
        # Without the lock: this may start other attempts in this very thread.
        if again_at is not None:
            self._arm(flight, rest, again_at)
        try:
            if number == self._full:
                self._abilities_changed()
            if began:
                self._launch()
                self._freed()
        except Exception:
            log.exception("the slot of an attempt that waits could not be given to another")

    def _moved_on(self, rest: Rest, waited: float) -> float | None:
        """The deadline is that much later; when it must be looked at, if nothing will do that by itself."""
        if rest.deadline is None:
            return None
        rest.deadline += waited
        armed, rest.armed = rest.armed, True
        return None if armed else rest.deadline

    def _arm(self, flight: Flight, rest: Rest, deadline: float) -> bool:
        try:
            self._watchdog.at(deadline, partial(self._due, flight, rest))
        except RuntimeError as error:
            log.warning("no thread for deadlines: %s", error)
            return False
        return True

    def _due(self, flight: Flight, rest: Rest) -> None:
        """A deadline has come: perhaps one that has moved on meanwhile."""
        with self._lock:
            deadline = rest.deadline
            rest.armed = False
            if flight.settled or rest.since is not None or deadline is None:
                return
            rest.armed = again = deadline > self._clock.monotonic()
        if again:
            self._arm(flight, rest, deadline)
        else:
            self._expire(flight)


def _nothing(*_: object) -> None:
    """Before it is attached."""
