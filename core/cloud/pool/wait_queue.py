"""The calls of one process that wait for a slot: first come, first served.

For each endpoint the first in the queue that wants it sleeps until its next slot; those behind it sleep until they are called. So a
slot that comes free wakes one call, not all of them, and none is overtaken by one that came later.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from core.clock import Clock
from core.cloud.pool.member import Member

LOOK_AROUND = 2.0
"""Seconds after which a call that is not the first looks whether the one ahead of it still moves."""
PATIENCE = 1.0
"""Seconds after which a call that was due and did not come is passed over: its event loop is stuck, or gone."""


class _Everyone(frozenset[Member]):
    """All endpoints, whichever there are."""

    def __contains__(self, _member: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True

    def __or__(self, _other: object) -> "_Everyone":
        return self

    __ror__ = __or__


EVERYONE = _Everyone()


class Waiter:
    """A call's place in the queue."""

    __slots__ = ("_wake", "called", "due", "number", "wants")

    def __init__(self, number: int) -> None:
        self.number = number
        self.wants: AbstractSet[Member] = frozenset()
        self.due = float("inf")
        """Monotonic time at which it is going to look again."""
        self.called = False
        self._wake: Callable[[], None] | None = None

    def __lt__(self, other: "Waiter") -> bool:
        return self.number < other.number

    def listen(self, wake: Callable[[], None] | None) -> None:
        """Call `wake`, from any thread, when the turn comes; at once when it has come already. None: no longer."""
        self._wake = wake
        if wake is not None and self.called:
            wake()

    def call(self, now: float) -> None:
        """It is this call's turn: it need not wait for its time."""
        self.called, self.due = True, min(self.due, now)
        wake = self._wake
        if wake is not None:
            wake()


class WaitQueue:
    """Who waits, in the order of coming. Thread-safe; `waiters` may be read to see whether anybody waits."""

    __slots__ = ("_clock", "_lock", "_newest", "waiters")

    def __init__(self, clock: Clock) -> None:
        self.waiters: list[Waiter] = []
        self._clock = clock
        self._newest = 0
        self._lock = threading.Lock()

    def ahead(self, waiter: Waiter | None) -> AbstractSet[Member]:
        """The endpoints that calls before this one wait for; with None before one that comes now."""
        now = self._clock.monotonic()
        found: set[Member] = set()
        with self._lock:
            for other in self.waiters:
                if other is waiter or (waiter is not None and other.number > waiter.number):
                    break
                if other.due + PATIENCE >= now:
                    if other.wants is EVERYONE:
                        return EVERYONE
                    found |= other.wants
        return found

    def join(self, waiter: Waiter | None, wants: AbstractSet[Member]) -> Waiter:
        """Wait for a slot of one of these. Who waited before keeps the place."""
        with self._lock:
            if waiter is None:
                self._newest += 1
                waiter = Waiter(self._newest)
                self.waiters.append(waiter)
            waiter.wants = wants
            return waiter

    def leave(self, waiter: Waiter) -> None:
        """It waits no longer; who is now the first to want what it wanted is called."""
        now = self._clock.monotonic()
        covered: set[Member] = set()
        called: list[Waiter] = []
        with self._lock:
            place = bisect_left(self.waiters, waiter)
            del self.waiters[place]
            for other in self.waiters:
                everything = other.wants is EVERYONE
                if other.number > waiter.number and (
                    everything or any(one in waiter.wants for one in other.wants - covered)
                ):
                    called.append(other)
                if everything:
                    break
                covered |= other.wants
        for other in called:
            other.call(now)

    def freed(self, member: Member) -> None:
        """A call of `member` ended, so that it may take another: the first to want it is called."""
        with self._lock:
            first = next((waiter for waiter in self.waiters if member in waiter.wants), None)
        if first is not None:
            first.call(self._clock.monotonic())
