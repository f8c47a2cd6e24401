"""Which kinds of handlers this process cannot begin for now: the system refused what they need, or stuck ones hold too much.

No I/O; the caller brings the time.
"""

import math
import threading
from collections.abc import Mapping
from types import MappingProxyType

from core.cloud.handlers.registry import Place
from core.errors import HeablcoinError

SHORTEST = 1.0
LONGEST = 30.0
"""Seconds without a further try after one refusal, and after many in a row."""

NEEDS: Mapping[Place, str] = MappingProxyType(
    {Place.LOOP: "an event loop", Place.THREAD: "a thread", Place.PROCESS: "a child process"}
)


class NotStarted(HeablcoinError):
    """A handler was not begun, because what it needs was refused; the attempt is free."""


class Outages:
    """What was refused, and until when it is not tried again; and the threads that stuck handlers hold, of which there may be
    `most_left_behind`. Times are of one monotonic clock. Thread-safe.
    """

    def __init__(self, most_left_behind: int = 1) -> None:
        self._lock = threading.Lock()
        self._until: dict[Place, float] = {}
        self._wait: dict[Place, float] = {}
        self._most_left_behind = most_left_behind
        self._left_behind = 0

    def refused(self, place: Place, now: float) -> float | None:
        """Note a refusal; when it may be tried again, for the first since the last try, which is the one to tell of."""
        with self._lock:
            if self._until.get(place, now) > now:
                return None
            wait = min(LONGEST, self._wait.get(place, SHORTEST / 2) * 2)
            self._wait[place] = wait
            self._until[place] = now + wait
            return now + wait

    def works(self, place: Place, now: float) -> None:
        """Something was started there. Counts once the wait is over: what had its thread before says nothing of new ones."""
        if not self._wait:
            return
        with self._lock:
            if self._until.get(place, now) < now:
                del self._wait[place], self._until[place]

    def leave_behind(self) -> tuple[int, bool]:
        """One more thread is held; how many are, and whether this was the last for which there was room."""
        with self._lock:
            self._left_behind += 1
            return self._left_behind, self._left_behind == self._most_left_behind

    def come_back(self) -> tuple[int, bool]:
        """One thread less is held; how many are, and whether there is room again."""
        with self._lock:
            self._left_behind -= 1
            return self._left_behind, self._left_behind == self._most_left_behind - 1

    @property
    def crowded(self) -> bool:
        """Whether so many threads are held that sync handlers are not begun."""
        return self._left_behind >= self._most_left_behind

    def hindrance(self, place: Place, now: float) -> str:
        """Why nothing is begun there now, in words for whoever waits for it; '' when nothing keeps it."""
        with self._lock:
            if place is Place.THREAD and self.crowded:
                return (
                    f"This process begins no sync handler now: {self._left_behind} of its threads are held by handlers that "
                    "did not end in time. Let such handlers heed context.cancelled, or register them with "
                    'isolation="process"; a new process has none of them.'
                )
            wait = self._until.get(place, now) - now
        return (
            f"This process could not have {NEEDS[place]} for it; it tries again in {math.ceil(wait)} s."
            if wait > 0
            else ""
        )

    def closed(self, now: float) -> frozenset[Place]:
        """Where nothing is to be begun now."""
        with self._lock:
            refused = frozenset(place for place, until in self._until.items() if until > now)
            return refused | {Place.THREAD} if self.crowded else refused
