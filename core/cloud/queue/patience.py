"""May lost leases be taken back now? Pure but for the clock it is given.

A lease says until when by the wall clock its holder is taken to live. After the wall clock jumped, or after everything here
stood still (a laptop that slept, a virtual machine that was paused), all leases look over at once, though their holders
only had no chance to renew. Whoever notices waits for one lease by the monotonic clock: live holders renew every third.
"""

import threading

from core.clock import Clock

LEASE = 30.0
SHORTEST_JUMP = 3.0
"""Seconds: what clocks are corrected by, or threads are late by, in ordinary life."""


class Patience:
    """Thread-safe. `lease` is the longest that live holders are waited for, in seconds.

    With `regular` it is asked every second or so, and a long time between two questions means that this process stood still.
    """

    def __init__(self, clock: Clock, lease: float = LEASE, *, regular: bool = False) -> None:
        self._clock = clock
        self._lease = lease
        self._regular = regular
        self._lock = threading.Lock()
        self._wall, self._steady = clock.now(), clock.monotonic()
        self._wait_until = float("-inf")

    def may_take_back(self) -> bool:
        """False for one lease after a jump of the wall clock, or a standstill, that could have ended leases by itself."""
        wall, steady = self._clock.now(), self._clock.monotonic()
        with self._lock:
            passed, shown = steady - self._steady, wall - self._wall
            self._wall, self._steady = wall, steady
            suspicious = max(SHORTEST_JUMP, self._lease / 3)
            if shown - passed > suspicious or (self._regular and passed > suspicious):
                self._wait_until = steady + self._lease
            return steady >= self._wait_until
