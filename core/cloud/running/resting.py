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
from core.cloud.running.rest import Rest
from core.cloud.running.running_attempt import RunningAttempt, RunningAttempts
from core.cloud.running.watchdog import Watchdog

log = logging.getLogger(__name__)

FEWEST_FULL = 16
"""So many attempts of one handler may rest in a process, or as many as it has slots when those are more, before no further
ones are claimed: each of them may be a thread, and each is a task that no other process can take meanwhile."""


class Rests:
    """Knows which attempts of a process rest, and ends those whose time is up. Thread-safe."""

    def __init__(
        self,
        attempts: RunningAttempts,
        watchdog: Watchdog,
        clock: Clock,
        concurrency: int,
        *,
        freed: Callable[[], None],
        abilities_changed: Callable[[], None],
    ) -> None:
        self._attempts = attempts
        self._watchdog = watchdog
        self._clock = clock
        self._full = max(FEWEST_FULL, concurrency)
        self._freed = freed
        self._abilities_changed = abilities_changed
        self._fill_slots: Callable[[], None] = _nothing
        self._expire: Callable[[RunningAttempt], None] = _nothing
        self._lock = threading.Lock()

    def attach(self, launch: Callable[[], None], expire: Callable[[RunningAttempt], None]) -> None:
        """How attempts that were claimed already get a free slot, and how one ends whose time is up."""
        self._fill_slots, self._expire = launch, expire

    def begin(self, attempt: RunningAttempt) -> bool:
        """An attempt has its slot, and its time begins; False when nothing could keep its deadline."""
        deadline = None if attempt.timeout is None else self._clock.monotonic() + attempt.timeout
        rest = attempt.rest = Rest(partial(self.count, attempt), attempt.unwanted, deadline)
        return deadline is None or self._arm(attempt, rest, deadline)

    def full(self) -> frozenset[str]:
        """Handlers of which so many attempts rest that no further ones are to be claimed."""
        return self._attempts.resting_at_least(self._full)

    def hindrance(self, name: str) -> str:
        """Why no further task of a handler is begun, in words for whoever waits for it; '' when nothing keeps it."""
        if name not in self.full():
            return ""
        return (
            f"{self._full} tasks of this handler wait in the API pool already, for a limit or an endpoint that rests; "
            "this process begins the next when one of them goes on."
        )

    def count(self, attempt: RunningAttempt, rest: Rest, asking: int, waiting: int) -> None:
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
                number = self._attempts.rest(attempt)
                began = number > 0
                rest.since = now
            else:
                number = self._attempts.go_on(attempt)
                again_at = self._moved_on(rest, now - rest.since)
                rest.since = None
        # Without the lock: this may start other attempts in this very thread.
        if again_at is not None:
            self._arm(attempt, rest, again_at)
        try:
            if number == self._full:
                self._abilities_changed()
            if began:
                self._fill_slots()
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

    def _arm(self, attempt: RunningAttempt, rest: Rest, deadline: float) -> bool:
        try:
            self._watchdog.at(deadline, partial(self._due, attempt, rest))
        except RuntimeError as error:
            log.warning("no thread for deadlines: %s", error)
            return False
        return True

    def _due(self, attempt: RunningAttempt, rest: Rest) -> None:
        """A deadline has come: perhaps one that has moved on meanwhile."""
        with self._lock:
            deadline = rest.deadline
            rest.armed = False
            if attempt.settled or rest.since is not None or deadline is None:
                return
            rest.armed = again = deadline > self._clock.monotonic()
        if again:
            self._arm(attempt, rest, deadline)
        else:
            self._expire(attempt)


def _nothing(*_: object) -> None:
    """Before it is attached."""
