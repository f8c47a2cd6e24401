"""Limits on how many, how often and how long; each works the same from threads and from coroutines."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Self

START_GUARD = 0.005
"""Seconds added to a rate's window: what may pass between a grant and the first line of the call it was for."""


class ConcurrencyLimiter:
    """At most `limit` (1 or more) holders at a time, first come first served, threads and tasks alike.

    Use it as `with limiter:` in a thread or `async with limiter:` in a coroutine; one object serves both at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = whole("limit", limit)
        self._free = self.limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    @property
    def active(self) -> int:
        """How many hold it now."""
        return self.limit - self._free

    @property
    def waiting(self) -> int:
        """How many wait for it now."""
        return len(self._waiting)

    def _ask(self) -> "Future[None] | None":
        """None when a place was free, else what will be resolved when it is this caller's turn."""
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return None
            turn: Future[None] = Future()
            self._waiting.append(turn)
            return turn

    def release(self) -> None:
        """Give the place to the one that waits longest; RuntimeError when nobody holds one."""
        with self._lock:
            if self._free >= self.limit:
                raise RuntimeError("release() without a matching acquire()")
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._free += 1

    def _withdraw(self, turn: "Future[None]") -> None:
        """The caller gave up: leave the queue, or pass on the place it was just given."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return
        if not turn.cancelled():
            self.release()

    def acquire(self) -> None:
        """Wait for a place in this thread."""
        turn = self._ask()
        if turn is not None:
            try:
                turn.result()
            except BaseException:  # Ctrl-C while waiting
                self._withdraw(turn)
                raise

    async def aacquire(self) -> None:
        """Wait for a place in this task; cancelling the task loses no place."""
        turn = self._ask()
        if turn is not None:
            try:
                await asyncio.wrap_future(turn)
            except BaseException:
                self._withdraw(turn)
                raise

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self.aacquire()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.release()


class SlidingWindow:
    """The decision behind a rate: how long until another start is allowed. Pure, not thread-safe.

    The rate, rounded up, is how many starts fit in a window of just the length that keeps the rate: 10 a second is at most 10
    in any second, 2.5 at most 3 in any 1.2 seconds, 0.5 one in any two.
    """

    def __init__(self, max_per_second: float) -> None:
        rate = positive("max_per_second", max_per_second)
        self.capacity = math.ceil(rate)
        self.window = self.capacity / rate + START_GUARD
        self._starts: deque[float] = deque(maxlen=self.capacity)

    def wait(self, now: float) -> float:
        """Seconds until a start is allowed; 0 when it is allowed now."""
        if len(self._starts) < self.capacity:
            return 0.0
        free_at = self._starts[0] + self.window
        return max(0.0, free_at - now)

    def record(self, now: float) -> None:
        """Note a start."""
        self._starts.append(now)


class RateLimiter:
    """Grants starts at no more than `max_per_second`, in the order in which they were asked for.

    The window is that of SlidingWindow. A grant is dated when it is given, not when it was asked for, so a late wake-up
    can never squeeze two windows together. `clock` is a monotonic reading in seconds.
    """

    def __init__(
        self,
        max_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        asleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._window = SlidingWindow(max_per_second)
        self._clock = clock
        self._sleep = sleep
        self._asleep = asleep
        self._turn = ConcurrencyLimiter(1)

    def _take(self) -> float:
        """0 when the start was granted (and noted), else how long to sleep. Called by the one whose turn it is."""
        now = self._clock()
        wait = self._window.wait(now)
        if wait == 0:
            self._window.record(now)
        return wait

    def acquire(self) -> None:
        """Wait in this thread until a start is allowed."""
        with self._turn:
            while wait := self._take():
                self._sleep(wait)

    async def aacquire(self) -> None:
        """Wait in this task until a start is allowed."""
        async with self._turn:
            while wait := self._take():
                await self._asleep(wait)


def whole(what: str, value: object) -> int:
    """`value` when it is a whole number of 1 or more; ValueError says so otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} must be a whole number of 1 or more, not {value!r}")
    return value


def positive(what: str, value: object) -> float:
    """`value` when it is a finite number above 0; ValueError says so otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{what} must be a number above 0, not {value!r}")
    return float(value)
