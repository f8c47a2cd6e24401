"""How often each function runs, how long it takes and how often it fails; cheap enough to leave on.

A call costs two clock readings and one append: durations wait in a queue and are sorted into a histogram a few hundred at a
time (or when somebody asks). Figures live in this process.
"""

import functools
import heapq
import inspect
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast, overload

from utils.histogram import Histogram
from utils.limits import positive
from utils.memory import MemorySnapshot, take_snapshot

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

FLUSH = 512
"""Durations that may wait before they are sorted in."""
SNAPSHOTS = 100
"""Memory snapshots that are kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class FunctionMetrics:
    """What was measured of one function (or of several, when a short name means several). Durations in seconds."""

    name: str
    functions: tuple[str, ...]
    """Qualified names of the functions these figures are of."""
    calls: int
    """Finished calls, failed ones included."""
    errors: int
    """Calls that raised."""
    slow_calls: int
    """Calls that took their slow threshold or longer."""
    total: float
    mean: float
    minimum: float
    maximum: float
    p50: float
    p95: float
    p99: float

    def __str__(self) -> str:
        figures = ("mean", "p50", "p95", "p99", "maximum")
        spent = ", ".join(f"{figure} {_readable(getattr(self, figure))}" for figure in figures)
        counts = f"{self.calls} calls, {self.errors} errors, {self.slow_calls} slow"
        return f"{self.name}: {counts}; {spent}" if self.calls else f"{self.name}: not called yet"


class _Series:
    """The figures of one function."""

    def __init__(self, name: str, slow_threshold: float) -> None:
        self.name = name
        self.slow_threshold = slow_threshold
        self.waiting: deque[float] = deque()
        self.histogram = Histogram()
        self.errors = 0
        self.slow_calls = 0
        self.lock = threading.Lock()

    def sort_in(self) -> None:
        """Move what waits into the histogram; what others append meanwhile waits on."""
        with self.lock:
            self._drain()

    def _drain(self) -> None:
        take = self.waiting.popleft
        self.histogram.add([take() for _ in range(len(self.waiting))])

    def read(self) -> tuple[Histogram, int, int]:
        """A copy of the durations, the errors and the slow calls, of one moment."""
        with self.lock:
            self._drain()
            return Histogram.merged([self.histogram]), self.errors, self.slow_calls

    def reset(self) -> None:
        """Forget the figures."""
        with self.lock:
            self._drain()
            self.histogram = Histogram()
            self.errors = self.slow_calls = 0

    def attend(self, seconds: float) -> None:
        """What a call does that was slow or that filled the queue."""
        if seconds >= self.slow_threshold:
            with self.lock:
                self.slow_calls += 1
            log.warning("%s took %.3f s (slow from %.3f s)", self.name, seconds, self.slow_threshold)
        if len(self.waiting) >= FLUSH:
            self.sort_in()

    def finish(self, seconds: float, *, failed: bool) -> None:
        """Note one finished call."""
        self.waiting.append(seconds)
        if failed:
            with self.lock:
                self.errors += 1
        if seconds >= self.slow_threshold or len(self.waiting) >= FLUSH:
            self.attend(seconds)


class PerformanceMonitor:
    """The figures of every monitored function of this process.

    `slow_threshold` (seconds, None for none): a call that takes as long or longer is counted and logged as a warning.
    """

    def __init__(self, *, slow_threshold: float | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._slow_threshold = math.inf if slow_threshold is None else positive("slow_threshold", slow_threshold)
        self.clock = clock
        self._series: dict[str, _Series] = {}
        self._snapshots: deque[MemorySnapshot] = deque(maxlen=SNAPSHOTS)
        self._lock = threading.Lock()

    def series(self, name: str, slow_threshold: float | None = None) -> _Series:
        """Where the figures of `name` go; made when new. ValueError for a threshold that is not above 0."""
        threshold = None if slow_threshold is None else positive("slow_threshold", slow_threshold)
        with self._lock:
            found = self._series.get(name)
            if found is None:
                found = self._series[name] = _Series(name, self._slow_threshold)
            if threshold is not None:
                found.slow_threshold = threshold
            return found

    def get_metrics(self, name: str) -> FunctionMetrics:
        """The figures of a function by its qualified name (`module.Class.method`) or any tail of it (`method`).

        A tail that several functions share gives their figures together; `functions` names them. Raises LookupError, naming
        what is monitored, when none has it.
        """
        with self._lock:
            found = [self._series[name]] if name in self._series else []
            found = found or [series for key, series in self._series.items() if key.endswith(f".{name}")]
            known = ", ".join(sorted(self._series)) or "none"
        if not found:
            raise LookupError(f"No monitored function is named {name!r}. Monitored: {known}.")
        return _metrics(name if len(found) > 1 else found[0].name, found)

    def all_metrics(self) -> list[FunctionMetrics]:
        """The figures of every function, by name."""
        with self._lock:
            everything = sorted(self._series.items())
        return [_metrics(name, [series]) for name, series in everything]

    def top_slow(self, limit: int = 10) -> list[FunctionMetrics]:
        """The called functions with the highest mean, slowest first."""
        called = [metrics for metrics in self.all_metrics() if metrics.calls]
        return heapq.nlargest(limit, called, key=lambda metrics: metrics.mean)

    def top_frequent(self, limit: int = 10) -> list[FunctionMetrics]:
        """The functions called most often, most frequent first."""
        called = [metrics for metrics in self.all_metrics() if metrics.calls]
        return heapq.nlargest(limit, called, key=lambda metrics: metrics.calls)

    def memory_snapshot(self, label: str = "") -> MemorySnapshot:
        """Read the memory now and keep the reading (the latest hundred are kept)."""
        snapshot = take_snapshot(label)
        self._snapshots.append(snapshot)
        return snapshot

    def memory_snapshots(self) -> list[MemorySnapshot]:
        """The readings kept so far, oldest first."""
        return list(self._snapshots)

    def reset(self) -> None:
        """Forget every figure and reading; functions stay monitored."""
        with self._lock:
            for series in self._series.values():
                series.reset()
        self._snapshots.clear()


_monitor = PerformanceMonitor()


def get_performance_monitor() -> PerformanceMonitor:
    """The monitor that `@monitor_performance` reports to unless told otherwise; one a process."""
    return _monitor


@overload
def monitor_performance(func: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def monitor_performance(
    *, name: str = ..., slow_threshold: float | None = ..., monitor: PerformanceMonitor | None = ...
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def monitor_performance(
    func: Callable[P, R] | None = None,
    /,
    *,
    name: str = "",
    slow_threshold: float | None = None,
    monitor: PerformanceMonitor | None = None,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Measure every call of a function: plain, async, or a generator of either kind; it stays what it was.

    `name` replaces the function's qualified name, `slow_threshold` (seconds) the monitor's. A generator counts as one call
    when it ends or is left, with the time spent inside it, not its consumer's. A call that is cancelled counts as an error.
    """

    def decorate(target: Callable[P, R]) -> Callable[P, R]:
        if isinstance(target, staticmethod | classmethod | type) or not callable(target):
            raise TypeError(
                "@monitor_performance needs a function: put it on a class's methods, below @staticmethod or @classmethod, "
                "and write its options by name, as in @monitor_performance(slow_threshold=1.0)"
            )
        owner = monitor or get_performance_monitor()
        qualname = getattr(target, "__qualname__", type(target).__qualname__)
        series = owner.series(name or f"{getattr(target, '__module__', '')}.{qualname}", slow_threshold)
        return _wrap(target, series, owner.clock)

    return decorate if func is None else decorate(func)


def _wrap(func: Callable[P, R], series: _Series, clock: Callable[[], float]) -> Callable[P, R]:
    if inspect.iscoroutinefunction(func):
        wrapped: Callable[..., object] = _coroutine(func, series, clock)
    elif inspect.isasyncgenfunction(func):
        wrapped = _async_generator(func, series, clock)
    elif inspect.isgeneratorfunction(func):
        wrapped = _generator(func, series, clock)
    else:
        wrapped = _plain(func, series, clock)
    return cast("Callable[P, R]", functools.wraps(func)(wrapped))


def _plain(func: Callable[P, R], series: _Series, clock: Callable[[], float]) -> Callable[P, R]:
    append, waiting = series.waiting.append, series.waiting

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        started = clock()
        try:
            value = func(*args, **kwargs)
        except BaseException:
            series.finish(clock() - started, failed=True)
            raise
        # finish(), written out: this is the path that must cost nothing
        seconds = clock() - started
        append(seconds)
        if seconds >= series.slow_threshold or len(waiting) >= FLUSH:
            series.attend(seconds)
        return value

    return wrapper


def _coroutine(
    func: Callable[P, Coroutine[Any, Any, R]], series: _Series, clock: Callable[[], float]
) -> Callable[P, Coroutine[Any, Any, R]]:
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        started = clock()
        try:
            value = await func(*args, **kwargs)
        except BaseException:
            series.finish(clock() - started, failed=True)
            raise
        series.finish(clock() - started, failed=False)
        return value

    return wrapper


class _Inside:
    """A stopwatch that runs only while a generator does."""

    def __init__(self, series: _Series, clock: Callable[[], float]) -> None:
        self._series = series
        self._clock = clock
        self._spent = 0.0
        self._failed = False

    def __enter__(self) -> None:
        self._started = self._clock()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._spent += self._clock() - self._started
        ended = (StopIteration, StopAsyncIteration, GeneratorExit)
        self._failed = kind is not None and not issubclass(kind, ended)

    def finish(self) -> None:
        self._series.finish(self._spent, failed=self._failed)


def _generator(
    func: Callable[P, Generator[Any, Any, R]], series: _Series, clock: Callable[[], float]
) -> Callable[P, Generator[Any, Any, R]]:
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, R]:
        inside = _Inside(series, clock)
        source = func(*args, **kwargs)
        step: Callable[[], Any] = source.__next__
        try:
            while True:
                try:
                    with inside:
                        item = step()
                except StopIteration as end:
                    return cast("R", end.value)
                try:
                    step = functools.partial(source.send, (yield item))
                except GeneratorExit:
                    with inside:
                        source.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - thrown in by the consumer
                    step = functools.partial(source.throw, error)
        finally:
            inside.finish()

    return wrapper


def _async_generator(
    func: Callable[P, AsyncGenerator[Any, Any]], series: _Series, clock: Callable[[], float]
) -> Callable[P, AsyncGenerator[Any, Any]]:
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
        inside = _Inside(series, clock)
        source = func(*args, **kwargs)
        step: Callable[[], Any] = source.__anext__
        try:
            while True:
                try:
                    with inside:
                        item = await step()
                except StopAsyncIteration:
                    return
                try:
                    step = functools.partial(source.asend, (yield item))
                except GeneratorExit:
                    with inside:
                        await source.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001 - thrown in by the consumer
                    step = functools.partial(source.athrow, error)
        finally:
            inside.finish()

    return wrapper


def _metrics(name: str, found: list[_Series]) -> FunctionMetrics:
    parts = [series.read() for series in found]
    whole = Histogram.merged(durations for durations, _, _ in parts)
    return FunctionMetrics(
        name=name,
        functions=tuple(sorted(series.name for series in found)),
        calls=whole.count,
        errors=sum(errors for _, errors, _ in parts),
        slow_calls=sum(slow for _, _, slow in parts),
        total=whole.total,
        mean=whole.total / whole.count if whole.count else 0.0,
        minimum=whole.minimum if whole.count else 0.0,
        maximum=whole.maximum,
        p50=whole.percentile(0.50),
        p95=whole.percentile(0.95),
        p99=whole.percentile(0.99),
    )


def _readable(seconds: float) -> str:
    """A duration with the unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
