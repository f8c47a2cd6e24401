"""Many calls at once, at a chosen rate, each with a time limit; for plain functions and for coroutines.

One engine, in asyncio, serves both faces: the synchronous methods drive it to its end. Plain functions run in daemon
threads, so one that never returns is given up when its time is over and cannot keep the process alive.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from utils.calls import call, drive, overran, settle
from utils.limits import ConcurrencyLimiter, RateLimiter, positive, whole
from utils.progress import ProgressBar

__all__ = [
    "AsyncBatchProcessor",
    "BatchResult",
    "ConcurrencyLimiter",
    "RateLimitedExecutor",
    "TimeoutManager",
    "chunk_list",
    "run_with_concurrency_limit",
]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[R]):
    """What became of one item."""

    index: int
    """Its place in the input, from 0."""
    success: bool
    value: R | None
    """What the function returned; None when it failed."""
    error: Exception | None
    """Why it failed; TimeoutError when its time was over."""
    duration: float
    """Seconds the call took, without the wait for its turn."""

    @property
    def result(self) -> R | None:
        """Another name for `value`."""
        return self.value


class AsyncBatchProcessor:
    """Runs a function, plain or async, over many items, at most `max_concurrent` at a time (1 or more).

    `timeout` is in seconds for each item; None is without limit. A plain function whose time is over goes on in its
    abandoned thread while the next item starts; a coroutine is cancelled.
    """

    def __init__(self, max_concurrent: int = 10, *, timeout: float | None = None) -> None:
        self.max_concurrent = whole("max_concurrent", max_concurrent)
        self.timeout = None if timeout is None else positive("timeout", timeout)

    @overload
    def process_batch(
        self, items: Iterable[T], func: Callable[[T], Coroutine[Any, Any, R]], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    @overload
    def process_batch(
        self, items: Iterable[T], func: Callable[[T], R], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    def process_batch(
        self, items: Iterable[T], func: Callable[[T], Awaitable[R] | R], show_progress: bool = False
    ) -> list[BatchResult[R]]:
        """One result for each item, in the order of `items`; a failing item stops no other.

        `show_progress` draws a bar on stderr when that is a terminal. `items` is read as places come free, so a
        generator may be long.
        """
        return drive(self._run(items, func, show_progress))

    @overload
    async def aprocess_batch(
        self, items: Iterable[T], func: Callable[[T], Coroutine[Any, Any, R]], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    @overload
    async def aprocess_batch(
        self, items: Iterable[T], func: Callable[[T], R], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    async def aprocess_batch(
        self, items: Iterable[T], func: Callable[[T], Awaitable[R] | R], show_progress: bool = False
    ) -> list[BatchResult[R]]:
        """`process_batch` for coroutines: the loop stays free, and cancelling this cancels the items."""
        return await self._run(items, func, show_progress)

    async def _run(
        self, items: Iterable[T], func: Callable[[T], Awaitable[R] | R], show_progress: bool
    ) -> list[BatchResult[R]]:
        return await _process(items, func, self.max_concurrent, seconds=self.timeout, show_progress=show_progress)


class RateLimitedExecutor:
    """Starts calls at no more than `max_per_second`, in the order in which they came, from any number of threads.

    The limit is exact: no window of one second has more starts than that. A rate that is not whole is kept over a little more
    than a second: 2.5 is at most 3 starts in any 1.2 seconds, 0.5 one in any two. A batch has at most `max_concurrent` calls
    under way and gives each `timeout` seconds. `clock` (monotonic seconds), `sleep` and `asleep` can be replaced in tests.
    """

    def __init__(
        self,
        max_per_second: float,
        *,
        max_concurrent: int = 10,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        asleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.max_per_second = max_per_second
        self.max_concurrent = whole("max_concurrent", max_concurrent)
        self.timeout = None if timeout is None else positive("timeout", timeout)
        self._limiter = RateLimiter(max_per_second, clock=clock, sleep=sleep, asleep=asleep)

    @overload
    def execute(self, func: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def execute(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    def execute(self, func: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Wait for a start, then call `func` in this thread; returns or raises what it does."""
        self._limiter.acquire()
        value = func(*args, **kwargs)
        return drive(settle(value)) if inspect.isawaitable(value) else value

    @overload
    async def aexecute(self, func: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def aexecute(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def aexecute(self, func: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Wait for a start without blocking the loop, then call `func`; a plain function runs in a thread."""
        await self._limiter.aacquire()
        return await call(func, None, *args, **kwargs)

    @overload
    def execute_batch(
        self, items: Iterable[T], func: Callable[[T], Coroutine[Any, Any, R]], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    @overload
    def execute_batch(
        self, items: Iterable[T], func: Callable[[T], R], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    def execute_batch(
        self, items: Iterable[T], func: Callable[[T], Awaitable[R] | R], show_progress: bool = False
    ) -> list[BatchResult[R]]:
        """`func` over `items`, started at the rate; arguments and results as `AsyncBatchProcessor.process_batch`."""
        return drive(self._run(items, func, show_progress))

    @overload
    async def aexecute_batch(
        self, items: Iterable[T], func: Callable[[T], Coroutine[Any, Any, R]], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    @overload
    async def aexecute_batch(
        self, items: Iterable[T], func: Callable[[T], R], show_progress: bool = ...
    ) -> list[BatchResult[R]]: ...
    async def aexecute_batch(
        self, items: Iterable[T], func: Callable[[T], Awaitable[R] | R], show_progress: bool = False
    ) -> list[BatchResult[R]]:
        """`execute_batch` for coroutines."""
        return await self._run(items, func, show_progress)

    async def _run(
        self, items: Iterable[T], func: Callable[[T], Awaitable[R] | R], show_progress: bool
    ) -> list[BatchResult[R]]:
        return await _process(
            items,
            func,
            self.max_concurrent,
            seconds=self.timeout,
            show_progress=show_progress,
            admit=self._limiter.aacquire,
        )


class TimeoutManager:
    """A time limit of `seconds` (above 0) for a call or a block.

    `run(func, ...)` and `await arun(func, ...)` raise TimeoutError when the call takes longer; a plain function then goes on
    in an abandoned daemon thread, a coroutine is cancelled. `async with` stops its block at the limit. A plain `with` cannot
    be stopped from outside: its block asks `remaining` or `check()`, and leaving it late raises TimeoutError.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = positive("seconds", seconds)
        self._clock = clock
        self._deadline: float | None = None
        self._scope: asyncio.Timeout | None = None

    @overload
    def run(self, func: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, func: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `func` within the limit."""
        return drive(call(func, self.seconds, *args, **kwargs))

    @overload
    async def arun(self, func: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def arun(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def arun(self, func: Callable[P, Awaitable[R] | R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`run` for coroutines."""
        return await call(func, self.seconds, *args, **kwargs)

    @property
    def remaining(self) -> float:
        """Seconds left of the block, 0 when they are over; the whole limit outside a block."""
        return self.seconds if self._deadline is None else max(0.0, self._deadline - self._clock())

    def check(self) -> None:
        """Raise TimeoutError when the block's time is over."""
        if self._deadline is not None and self._clock() >= self._deadline:
            raise overran(self.seconds)

    def __enter__(self) -> Self:
        self._deadline = self._clock() + self.seconds
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            self._deadline = None

    async def __aenter__(self) -> Self:
        self._deadline = self._clock() + self.seconds
        self._scope = asyncio.timeout(self.seconds)
        await self._scope.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:  # noqa: PYI036 - passed on as it came
        scope, self._scope, self._deadline = self._scope, None, None
        if scope is not None:
            try:
                await scope.__aexit__(*exception)
            except TimeoutError as error:
                raise overran(self.seconds) from error


async def run_with_concurrency_limit(
    calls: Iterable[Awaitable[R] | Callable[[], Awaitable[R] | R]], limit: int
) -> list[R]:
    """The results of `calls` in their order, at most `limit` (1 or more) under way at a time.

    A call is a coroutine, or a function without arguments (a plain one runs in a thread). The first error cancels the rest
    and is raised; a coroutine that was not begun is closed.
    """
    places = ConcurrencyLimiter(limit)
    given = list(calls)

    async def one(work: Awaitable[R] | Callable[[], Awaitable[R] | R]) -> R:
        async with places:
            try:
                return await work if inspect.isawaitable(work) else await call(work, None)
            except BaseException:
                for other in set(tasks) - {asyncio.current_task()}:  # before the place is free for one of them
                    other.cancel()
                raise

    tasks = [asyncio.ensure_future(one(work)) for work in given]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _end(tasks)
        for work in given:
            if inspect.iscoroutine(work):
                work.close()


def chunk_list(items: Sequence[T], size: int) -> list[list[T]]:
    """`items` in lists of `size` (1 or more); the last may be shorter."""
    step = whole("size", size)
    return [list(items[start : start + step]) for start in range(0, len(items), step)]


async def _process(
    items: Iterable[T],
    func: Callable[[T], Awaitable[R] | R],
    limit: int,
    *,
    seconds: float | None,
    show_progress: bool,
    admit: Callable[[], Awaitable[None]] | None = None,
) -> list[BatchResult[R]]:
    """The engine: up to `limit` workers take items one by one, each when `admit` lets it start."""
    total = len(items) if isinstance(items, Sized) else None
    bar = ProgressBar(total, enabled=show_progress)
    numbered = enumerate(items)
    results: dict[int, BatchResult[R]] = {}
    broken: list[BaseException] = []
    hired = 0

    def hire() -> None:
        nonlocal hired
        if hired < limit:
            hired += 1
            group.create_task(worker())

    async def worker() -> None:
        try:
            for index, item in numbered:
                hire()  # one at a time: a limit may be far above the number of items
                if admit is not None:
                    await admit()
                results[index] = await _attempt(index, func, item, seconds)
                bar.step(success=results[index].success)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            broken.append(error)
            raise RuntimeError("the batch was ended") from error  # asyncio would let an exit tear its loop apart

    try:
        async with asyncio.TaskGroup() as group:
            hire()
    except ExceptionGroup:
        raise broken[0] from None
    finally:
        bar.close()
    return [results[index] for index in sorted(results)]


async def _attempt(index: int, func: Callable[[T], Awaitable[R] | R], item: T, seconds: float | None) -> BatchResult[R]:
    started = time.monotonic()
    try:
        value = await call(func, seconds, item)
    except Exception as error:  # noqa: BLE001 - the caller reads it from the result
        return BatchResult(index, False, None, error, time.monotonic() - started)
    return BatchResult(index, True, value, None, time.monotonic() - started)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait until it has stopped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
