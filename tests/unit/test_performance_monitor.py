"""The guide's performance monitor."""

import asyncio
import contextlib
import inspect
import logging
import math
import random
import threading
import tracemalloc
from collections.abc import AsyncGenerator, Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.histogram import Histogram
from utils.performance_monitor import (
    SNAPSHOTS,
    PerformanceMonitor,
    get_performance_monitor,
    monitor_performance,
)


class Ticks:
    """A clock that tests put forward."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def pass_by(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def monitor(ticks: Ticks) -> PerformanceMonitor:
    return PerformanceMonitor(clock=ticks)


def test_a_function_that_raises_is_counted_as_an_error_and_its_time_too(
    monitor: PerformanceMonitor, ticks: Ticks
) -> None:
    @monitor_performance(monitor=monitor)
    def breaks() -> None:
        ticks.pass_by(2)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        breaks()
    metrics = monitor.get_metrics("breaks")
    assert (metrics.calls, metrics.errors, metrics.total) == (1, 1, 2.0)


def test_an_unknown_name_gets_an_error_that_names_what_is_monitored(monitor: PerformanceMonitor) -> None:
    monitor.series("app.known")
    with pytest.raises(LookupError, match=r"No monitored function is named 'unknown'\. Monitored: app\.known\."):
        monitor.get_metrics("unknown")
    with pytest.raises(LookupError, match="Monitored: none"):
        PerformanceMonitor().get_metrics("known")
    with pytest.raises(LookupError):
        monitor.get_metrics("own")  # the tail of a name, but not of its last part


def test_a_function_that_was_never_called_says_so(monitor: PerformanceMonitor) -> None:
    @monitor_performance(monitor=monitor)
    def idle() -> None: ...

    metrics = monitor.get_metrics("idle")
    assert metrics.calls == 0
    assert str(metrics).endswith("idle: not called yet")


def test_figures_are_found_by_short_and_by_qualified_name(monitor: PerformanceMonitor, ticks: Ticks) -> None:
    class Desk:
        @monitor_performance(monitor=monitor)
        def work(self, seconds: float) -> float:
            ticks.pass_by(seconds)
            return seconds

        @staticmethod
        @monitor_performance(monitor=monitor, name="rest")
        def pause() -> None: ...

    for seconds in (1.0, 2.0, 3.0):
        assert Desk().work(seconds) == seconds
    Desk.pause()
    by_short = monitor.get_metrics("work")
    assert by_short == monitor.get_metrics("Desk.work") == monitor.get_metrics(by_short.name)
    assert by_short.name == f"{__name__}.{Desk.work.__qualname__}"
    assert (by_short.calls, by_short.total, by_short.mean) == (3, 6.0, 2.0)
    assert (by_short.minimum, by_short.maximum) == (1.0, 3.0)
    assert monitor.get_metrics("rest").calls == 1


def test_a_short_name_of_several_functions_gives_their_figures_together_and_names_them(
    monitor: PerformanceMonitor,
) -> None:
    for name in ("a.run", "b.run"):
        monitor.series(name).finish(1.0, failed=False)
    metrics = monitor.get_metrics("run")
    assert metrics.functions == ("a.run", "b.run")
    assert (metrics.name, metrics.calls, metrics.total) == ("run", 2, 2.0)
    assert monitor.get_metrics("a.run").calls == 1


async def test_an_async_function_stays_one_and_is_timed_until_it_ends(
    monitor: PerformanceMonitor, ticks: Ticks
) -> None:
    @monitor_performance(monitor=monitor)
    async def fetch(fail: bool) -> str:
        await asyncio.sleep(0)
        ticks.pass_by(4)
        if fail:
            raise OSError
        return "data"

    assert inspect.iscoroutinefunction(fetch)
    assert await fetch(False) == "data"
    with pytest.raises(OSError):
        await fetch(True)
    metrics = monitor.get_metrics("fetch")
    assert (metrics.calls, metrics.errors, metrics.total) == (2, 1, 8.0)


def test_a_generator_is_timed_inside_only_and_still_takes_what_is_sent(
    monitor: PerformanceMonitor, ticks: Ticks
) -> None:
    @monitor_performance(monitor=monitor)
    def echo() -> Generator[str, str, str]:
        heard = ""
        while heard != "end":
            ticks.pass_by(1)
            try:
                heard = yield heard
            except KeyError:
                heard = "thrown"
        return "bye"

    assert inspect.isgeneratorfunction(echo)
    talk = echo()
    assert next(talk) == ""
    ticks.pass_by(50)  # the consumer's own time
    assert talk.send("hello") == "hello"
    assert talk.throw(KeyError()) == "thrown"
    with pytest.raises(StopIteration) as end:
        talk.send("end")
    assert end.value.value == "bye"
    metrics = monitor.get_metrics("echo")
    assert (metrics.calls, metrics.errors, metrics.total) == (1, 0, 3.0)


def test_a_generator_that_is_left_early_is_closed_and_counts_as_no_error(monitor: PerformanceMonitor) -> None:
    closed: list[bool] = []

    @monitor_performance(monitor=monitor)
    def numbers() -> Generator[int, None, None]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    source = numbers()
    next(source)
    source.close()
    assert closed == [True]
    metrics = monitor.get_metrics("numbers")
    assert (metrics.calls, metrics.errors) == (1, 0)


def test_a_generator_that_raises_counts_as_an_error(monitor: PerformanceMonitor) -> None:
    @monitor_performance(monitor=monitor)
    def breaks() -> Generator[int, None, None]:
        yield 1
        raise ValueError

    with pytest.raises(ValueError):
        list(breaks())
    assert monitor.get_metrics("breaks").errors == 1


async def test_an_async_generator_passes_on_what_is_sent_thrown_and_closed(
    monitor: PerformanceMonitor, ticks: Ticks
) -> None:
    closed: list[bool] = []

    @monitor_performance(monitor=monitor)
    async def echo() -> AsyncGenerator[str, str]:
        heard = ""
        try:
            while True:
                ticks.pass_by(1)
                try:
                    heard = yield heard
                except KeyError:
                    heard = "thrown"
        finally:
            closed.append(True)

    assert inspect.isasyncgenfunction(echo)
    talk = echo()
    assert await anext(talk) == ""
    ticks.pass_by(50)
    assert await talk.asend("hello") == "hello"
    assert await talk.athrow(KeyError()) == "thrown"
    await talk.aclose()
    assert closed == [True]
    metrics = monitor.get_metrics("echo")
    assert (metrics.calls, metrics.errors, metrics.total) == (1, 0, 3.0)

    @monitor_performance(monitor=monitor)
    async def two() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    assert [number async for number in two()] == [1, 2]
    assert monitor.get_metrics("two").calls == 1


def test_a_decorated_function_keeps_its_name_text_and_signature() -> None:
    def original(symbol: str, /, *, depth: int = 3) -> list[str]:
        """What it does."""
        return [symbol] * depth

    for decorated in (monitor_performance(original), monitor_performance(slow_threshold=1.0)(original)):
        assert decorated("x", depth=2) == ["x", "x"]
        assert decorated.__name__ == "original"
        assert decorated.__doc__ == "What it does."
        assert inspect.signature(decorated) == inspect.signature(original)


def test_decorating_a_staticmethod_object_says_where_the_decorator_belongs() -> None:
    with pytest.raises(TypeError, match="below @staticmethod"):
        monitor_performance(staticmethod(int))  # type: ignore[arg-type]


def test_a_slow_call_is_counted_and_logged_and_a_quick_one_is_not(
    ticks: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = PerformanceMonitor(slow_threshold=10, clock=ticks)

    @monitor_performance(monitor=monitor)
    def usual(seconds: float) -> None:
        ticks.pass_by(seconds)

    @monitor_performance(monitor=monitor, slow_threshold=1)
    def strict(seconds: float) -> None:
        ticks.pass_by(seconds)

    with caplog.at_level(logging.WARNING, "utils.performance_monitor"):
        for seconds in (0.5, 1.0, 9.0):
            usual(seconds)
            strict(seconds)
    assert monitor.get_metrics("usual").slow_calls == 0
    assert monitor.get_metrics("strict").slow_calls == 2
    assert [record.getMessage().split(".strict ")[-1] for record in caplog.records] == [
        "took 1.000 s (slow from 1.000 s)",
        "took 9.000 s (slow from 1.000 s)",
    ]


def test_the_slowest_and_the_most_frequent_functions_come_first(monitor: PerformanceMonitor) -> None:
    for name, seconds, calls in (("quick", 0.1, 9), ("slow", 5.0, 1), ("middle", 1.0, 3)):
        for _ in range(calls):
            monitor.series(name).finish(seconds, failed=False)
    monitor.series("idle")
    assert [metrics.name for metrics in monitor.top_slow(2)] == ["slow", "middle"]
    assert [metrics.name for metrics in monitor.top_frequent(2)] == ["quick", "middle"]
    assert len(monitor.top_slow()) == 3


def test_no_call_is_lost_when_many_threads_call_read_and_sort_in_at_once() -> None:
    monitor = PerformanceMonitor()
    each, count = 3_000, 6

    @monitor_performance(monitor=monitor)
    def work(fail: bool) -> None:
        if fail:
            raise ValueError

    def caller() -> None:
        for number in range(each):
            with contextlib.suppress(ValueError):
                work(number % 10 == 0)

    threads = [threading.Thread(target=caller) for _ in range(count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert monitor.get_metrics("work").calls <= each * count
    metrics = monitor.get_metrics("work")
    assert (metrics.calls, metrics.errors) == (each * count, each * count // 10)


def test_memory_does_not_grow_with_the_number_of_calls(monitor: PerformanceMonitor) -> None:
    series = monitor.series("busy")
    for number in range(20_000):
        series.finish((number % 1000) * 1e-6, failed=False)
    assert len(series.waiting) <= 512
    assert len(series.histogram._buckets) < 300


@given(st.lists(st.floats(1e-9, 1e5), min_size=1, max_size=200), st.floats(0, 1))
def test_a_percentile_is_within_a_thirtysecond_of_the_true_one(durations: list[float], share: float) -> None:
    histogram = Histogram()
    histogram.add(durations)
    true = sorted(durations)[max(0, math.ceil(share * len(durations)) - 1)]
    assert histogram.percentile(share) == pytest.approx(true, rel=1 / 32)
    assert histogram.count == len(durations)
    assert histogram.total == pytest.approx(math.fsum(durations))


def test_a_merged_histogram_equals_one_that_saw_everything() -> None:
    draw = random.Random(7)
    durations = [draw.expovariate(10) for _ in range(500)]
    whole, left, right = Histogram(), Histogram(), Histogram()
    whole.add(durations)
    left.add(durations[:123])
    right.add(durations[123:])
    merged = Histogram.merged([left, right])
    assert (merged.count, merged.minimum, merged.maximum) == (500, min(durations), max(durations))
    assert all(merged.percentile(n / 20) == whole.percentile(n / 20) for n in range(21))


def test_durations_too_short_for_the_clock_count_as_zero() -> None:
    histogram = Histogram()
    histogram.add([0.0, 0.0, 3.0])
    assert histogram.percentile(0.5) == 0.0
    assert histogram.percentile(1.0) == 3.0
    assert Histogram().percentile(0.5) == 0.0


def test_memory_snapshots_are_kept_up_to_a_bound_and_name_the_top_lines_when_traced(
    monitor: PerformanceMonitor,
) -> None:
    plain = monitor.memory_snapshot("before")
    assert (plain.label, plain.traced, plain.top) == ("before", None, ())
    assert plain.resident is None or plain.resident > 1_000_000
    tracemalloc.start()
    try:
        kept = [bytes(1000) for _ in range(2000)]
        traced = monitor.memory_snapshot("after")
    finally:
        tracemalloc.stop()
    assert traced.traced is not None
    assert traced.traced >= len(kept) * 1000
    assert any("test_performance_monitor.py" in line for line in traced.top)
    for _ in range(SNAPSHOTS + 5):
        monitor.memory_snapshot()
    assert len(monitor.memory_snapshots()) == SNAPSHOTS


def test_reset_forgets_figures_and_keeps_functions_monitored(monitor: PerformanceMonitor) -> None:
    @monitor_performance(monitor=monitor)
    def work() -> None: ...

    work()
    monitor.memory_snapshot()
    monitor.reset()
    assert monitor.get_metrics("work").calls == 0
    assert monitor.memory_snapshots() == []
    work()
    assert monitor.get_metrics("work").calls == 1


def test_the_report_of_a_function_reads_as_a_sentence(monitor: PerformanceMonitor) -> None:
    for seconds in (0.0005, 0.25, 2.0):
        monitor.series("app.work").finish(seconds, failed=seconds == 2.0)
    text = str(monitor.get_metrics("work"))
    assert text.startswith("app.work: 3 calls, 1 errors, 0 slow; mean 750.2 ms, p50 ")
    assert text.endswith("maximum 2.00 s")


def test_there_is_one_monitor_a_process_and_the_decorator_reports_to_it() -> None:
    @monitor_performance
    def reported_to_the_one_monitor() -> None: ...

    reported_to_the_one_monitor()
    assert get_performance_monitor() is get_performance_monitor()
    assert get_performance_monitor().get_metrics("reported_to_the_one_monitor").calls == 1


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "1", True])
def test_a_slow_threshold_that_is_no_time_is_refused_when_decorating_not_when_calling(wrong: object) -> None:
    with pytest.raises(ValueError, match="slow_threshold must be a number above 0"):
        monitor_performance(slow_threshold=wrong)(len)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="slow_threshold must be a number above 0"):
        PerformanceMonitor(slow_threshold=wrong)  # type: ignore[arg-type]


def test_a_class_is_refused_since_it_would_no_longer_be_one() -> None:
    with pytest.raises(TypeError, match="put it on a class's methods"):
        monitor_performance(PerformanceMonitor)


def test_a_name_given_without_its_keyword_is_answered_with_how_to_write_it() -> None:
    with pytest.raises(TypeError, match="write its options by name"):
        monitor_performance("slow ones")  # type: ignore[call-overload]


def test_a_top_of_none_or_fewer_is_empty() -> None:
    monitor = PerformanceMonitor()
    monitor_performance(monitor=monitor)(len)("")
    assert [len(monitor.top_slow(limit)) for limit in (-1, 0, 1)] == [0, 0, 1]


def test_the_peak_of_memory_is_never_below_what_is_held_now() -> None:
    snapshot = PerformanceMonitor().memory_snapshot()
    if snapshot.resident is None or snapshot.resident_peak is None:
        pytest.skip("this platform does not tell")
    assert snapshot.resident_peak >= snapshot.resident
