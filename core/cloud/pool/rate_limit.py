"""An exact rate limit: a sliding window over the last `limit` start times. Pure.

A call may start when the one `limit` places before it started at least a window ago. One comparison decides, and the same
subtraction gives the exact wait. Unlike a token bucket (twice the limit in its first window) or a counter per minute (twice
across a boundary), no window of that length, wherever it begins, holds more than the limit.
"""

from collections import deque

MINUTE = 60.0
MARGIN = 1.0
"""Seconds added to the window, because requests do not all take the same time to reach the server: the first burst of a process
loads the HTTP engine and opens connections (half a second on a busy machine), the later ones find them open. It costs 1.6% of
the limit; with a quarter of a second, 120 requests of 60 allowed were seen to arrive within a minute."""
WINDOW = MINUTE + MARGIN


class SlidingWindow:
    """At most `limit` starts in any `window` seconds, for one process."""

    __slots__ = ("_owners", "_starts", "limit", "window")

    def __init__(self, limit: int, window: float = WINDOW) -> None:
        self.limit, self.window = limit, window
        self._starts: deque[float] = deque()
        self._owners: deque[object] = deque()
        """Whose each of the starts is."""

    def free_at(self, now: float) -> float:
        """When the next call may start: `now` or earlier when it may at once."""
        starts = self._starts
        return now if len(starts) < self.limit else starts[-self.limit] + self.window

    def take(self, now: float, owner: object = None) -> None:
        """A call starts now. Only after `free_at` said that it may. By its `owner` it can be given back."""
        starts, owners = self._starts, self._owners
        while starts and starts[0] + self.window <= now:
            starts.popleft()
            owners.popleft()
        starts.append(now)
        owners.append(owner)

    def give_back(self, owner: object) -> None:
        """The call of this owner never left: its start is none, whoever started since."""
        for place in range(len(self._owners) - 1, -1, -1):
            if self._owners[place] == owner:
                del self._owners[place], self._starts[place]
                return

    def used(self, now: float) -> int:
        """Starts within the last window."""
        return sum(1 for start in self._starts if start + self.window > now)
