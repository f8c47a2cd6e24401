"""How many tasks to claim ahead of the free slots. Pure."""

import math

HORIZON = 0.01
"""Seconds of work to have at hand: a few transactions' worth."""
MEMORY = 0.05
"""Seconds after which an earlier reading counts for little."""
MOST_AHEAD = 10
"""Times the concurrency."""


class Prefetch:
    """Watches how fast tasks end.

    Slow tasks are claimed when a slot is free and not before, so that another process, or a more urgent task, loses
    nothing. When tasks end faster than the disk can confirm it, about HORIZON seconds of them are claimed ahead, which
    makes the transactions fewer and larger and lets handlers run while one is written.
    """

    def __init__(self, concurrency: int) -> None:
        self._most = MOST_AHEAD * concurrency
        self._rate = 0.0
        self._since: float | None = None
        self.ahead = 0
        """Tasks to claim beyond the free slots."""

    def ended(self, count: int, now: float) -> None:
        """`count` tasks ended since the last call; `now` is monotonic seconds."""
        if self._since is not None and now > self._since:
            passed = now - self._since
            self._rate += (1 - math.exp(-passed / MEMORY)) * (count / passed - self._rate)
        self._since = now
        self.ahead = min(self._most, int(self._rate * HORIZON))
