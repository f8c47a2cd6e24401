"""What the pool tells of one attempt: how many of its calls wait and ask, and so whether it rests."""

from collections.abc import Callable

Counted = Callable[["Rest", int, int], None]
"""Given how many more (below 0: fewer) calls ask an endpoint, and wait."""


class Rest:
    """One attempt as the pool sees it (a `core.cloud.pool.wait_reports.Host`), and when its time is up."""

    __slots__ = ("_counted", "_unwanted", "armed", "asking", "deadline", "since", "waiting", "wakes")

    def __init__(self, counted: Counted, unwanted: Callable[[], bool], deadline: float | None) -> None:
        """`counted` is told of each change of what its calls do."""
        self._counted = counted
        self._unwanted = unwanted
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
        return self._unwanted()

    def count(self, *, asking: int, waiting: int) -> None:
        self._counted(self, asking, waiting)

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
