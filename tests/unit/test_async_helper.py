"""The guide's batch, rate, timeout and concurrency helpers."""

import asyncio
import gc
import io
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.async_helper import (
    AsyncBatchProcessor,
    ConcurrencyLimiter,
    RateLimitedExecutor,
    TimeoutManager,
    chunk_list,
    run_with_concurrency_limit,
)
from utils.limits import START_GUARD, SlidingWindow
from utils.progress import ProgressBar, bar_text

ROOT = Path(__file__).resolve().parents[2]
BOUND = 20.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class SteppingClock:
    """Time that passes only in sleeps; shared by threads."""

    def __init__(self) -> None:
        self.time = 0.0
        self.lock = threading.Lock()

    def __call__(self) -> float:
        with self.lock:
            return self.time

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.time += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)


def limited(rate: float, clock: SteppingClock) -> RateLimitedExecutor:
    return RateLimitedExecutor(rate, clock=clock, sleep=clock.sleep, asleep=clock.asleep)


def busiest_second(starts: list[float]) -> int:
    """The most starts in any half-open window of one second."""
    return max(sum(first <= other < first + 1.0 for other in starts) for first in starts)


# Batches


def test_a_failing_item_is_reported_at_its_place_and_stops_no_other() -> None:
    def half(number: int) -> float:
        if number == 3:
            raise ValueError("three is odd")
        return number / 2

    results = AsyncBatchProcessor(max_concurrent=2).process_batch([2, 3, 4], half)

    assert [result.index for result in results] == [0, 1, 2]
    assert [result.success for result in results] == [True, False, True]
    assert [result.value for result in results] == [1.0, None, 2.0]
    assert [result.result for result in results] == [1.0, None, 2.0]
    assert isinstance(results[1].error, ValueError)
    assert str(results[1].error) == "three is odd"
    assert results[0].error is None
    assert all(result.duration >= 0 for result in results)


def test_results_come_in_input_order_although_the_last_item_ends_first() -> None:
    last_done = threading.Event()

    def work(number: int) -> int:
        if number == 2:
            last_done.set()
        else:
            assert last_done.wait(BOUND)
        return number

    results = AsyncBatchProcessor(max_concurrent=3).process_batch([0, 1, 2], work)
    assert [result.value for result in results] == [0, 1, 2]


def test_coroutine_functions_and_functions_that_return_coroutines_are_awaited() -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    processor = AsyncBatchProcessor(max_concurrent=2)
    assert [result.value for result in processor.process_batch([1, 2, 3], double)] == [2, 4, 6]
    assert [result.value for result in processor.process_batch([1, 2, 3], lambda n: double(n))]  # noqa: PLW0108 == [2, 4, 6]


def test_a_batch_works_inside_a_running_event_loop_too() -> None:
    async def caller() -> list[int | None]:
        return [result.value for result in AsyncBatchProcessor(2).process_batch([1, 2], lambda n: n + 1)]

    assert asyncio.run(caller()) == [2, 3]


async def test_the_async_variant_leaves_the_loop_free() -> None:
    loop_ran = threading.Event()
    asyncio.get_running_loop().call_later(0.001, loop_ran.set)
    results = await AsyncBatchProcessor(1).aprocess_batch([BOUND], loop_ran.wait)
    assert results[0].value is True


def test_no_more_than_max_concurrent_run_at_a_time_and_that_many_do() -> None:
    together = threading.Barrier(3)
    lock = threading.Lock()
    running = peak = 0

    def work(_: int) -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        together.wait(BOUND)  # breaks unless three run together
        with lock:
            running -= 1

    results = AsyncBatchProcessor(max_concurrent=3).process_batch(range(9), work)
    assert [str(result.error) for result in results if not result.success] == []
    assert peak == 3


def test_a_plain_function_that_hangs_is_given_up_and_its_place_is_used() -> None:
    release = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            release.wait(BOUND)
        return number

    try:
        results = AsyncBatchProcessor(max_concurrent=1, timeout=0.05).process_batch([0, 1], work)
    finally:
        release.set()
    assert [result.success for result in results] == [False, True]
    assert isinstance(results[0].error, TimeoutError)
    assert str(results[0].error) == "timed out after 0.05 s"


def test_an_async_item_that_hangs_is_cancelled_at_its_timeout() -> None:
    cancelled: list[bool] = []

    async def work(_: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    results = AsyncBatchProcessor(max_concurrent=1, timeout=0.02).process_batch([0], work)
    assert isinstance(results[0].error, TimeoutError)
    assert cancelled == [True]


def test_a_timeout_of_the_item_itself_is_kept_as_it_was_raised() -> None:
    def work(_: int) -> None:
        raise TimeoutError("the server was slow")

    results = AsyncBatchProcessor(timeout=BOUND).process_batch([0], work)
    assert str(results[0].error) == "the server was slow"


def test_awkward_exceptions_of_an_item_are_results_as_well() -> None:
    def stops(_: int) -> None:
        raise StopIteration

    async def cancels(_: int) -> None:
        raise asyncio.CancelledError

    assert AsyncBatchProcessor().process_batch([0], stops)[0].success is False
    assert AsyncBatchProcessor().process_batch([0], cancels)[0].success is False


async def test_cancelling_a_batch_cancels_its_items() -> None:
    begun, ended = asyncio.Event(), []

    async def work(number: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    batch = asyncio.create_task(AsyncBatchProcessor(2).aprocess_batch([0, 1, 2], work))
    await asyncio.wait_for(begun.wait(), BOUND)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert sorted(ended) == [0, 1]


def test_items_of_a_generator_are_taken_only_as_places_come_free() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        return len(taken) - number

    results = AsyncBatchProcessor(max_concurrent=1).process_batch(items(), work)
    assert [result.value for result in results] == [1, 1, 1, 1]


def test_an_error_of_the_items_themselves_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        AsyncBatchProcessor().process_batch(items(), lambda n: n)


def test_an_empty_batch_has_no_results() -> None:
    assert AsyncBatchProcessor().process_batch([], lambda n: n) == []


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3"])
def test_a_concurrency_that_is_no_whole_number_of_1_or_more_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="max_concurrent must be a whole number"):
        AsyncBatchProcessor(max_concurrent=wrong)  # type: ignore[arg-type]


def test_abandoned_threads_do_not_keep_the_process_alive() -> None:
    script = (
        "import threading\n"
        "from utils.async_helper import AsyncBatchProcessor, TimeoutManager\n"
        "results = AsyncBatchProcessor(timeout=0.05).process_batch([1], lambda _: threading.Event().wait())\n"
        "print(type(results[0].error).__name__)\n"
        "try:\n"
        "    TimeoutManager(0.05).run(threading.Event().wait)\n"
        "except TimeoutError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=True
    )
    assert done.stdout.splitlines() == ["TimeoutError", "timed out after 0.05 s"]
    assert done.stderr == ""


# Progress


def test_the_bar_shows_what_is_done_what_is_left_and_what_failed() -> None:
    assert bar_text(5, 10, 1, 2.5) == "[###############...............]   5/10  2.0/s  1 failed"
    assert bar_text(7, None, 0, 7.0) == "7 done  1.0/s"
    assert bar_text(0, 0, 0, 0.0) == "[##############################]  0/0"


def test_progress_is_drawn_on_a_terminal_and_ends_its_line() -> None:
    screen = Terminal()
    bar = ProgressBar(2, stream=screen, clock=lambda: 0.0)
    bar.step(success=True)
    bar.step(success=False)
    bar.close()
    assert screen.getvalue().endswith("2/2  1 failed\n")
    assert screen.getvalue().count("\r") == 2  # the second step came too soon to be drawn, close() drew it


def test_progress_is_shown_on_stderr_only_when_asked_for_and_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drawn(stream: io.StringIO, *, show: bool) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        AsyncBatchProcessor(1).process_batch([1, 2], lambda n: n, show_progress=show)
        return stream.getvalue()

    assert "2/2" in drawn(Terminal(), show=True)
    assert drawn(Terminal(), show=False) == ""
    assert drawn(io.StringIO(), show=True) == ""


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, SystemExit])
def test_an_exit_asked_for_by_an_item_leaves_the_batch_and_nothing_else_on_stderr(
    exit_: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def leave(_: int) -> None:
        raise exit_

    with pytest.raises(exit_):
        AsyncBatchProcessor(2).process_batch([1, 2, 3], leave)
    gc.collect()
    assert caplog.records == []  # asyncio would say "Task exception was never retrieved"


def test_a_limit_far_above_a_generators_items_starts_no_more_workers_than_items() -> None:
    results = AsyncBatchProcessor(10**9).process_batch((number for number in range(5)), lambda number: number)
    assert [result.value for result in results] == [0, 1, 2, 3, 4]


def test_a_batch_uses_its_threads_again() -> None:
    used: set[int] = set()
    AsyncBatchProcessor(2).process_batch(range(300), lambda _: used.add(threading.get_ident()))
    assert len(used) < 30  # a thread is idle again before its answer is known, so two or three in fact


def test_a_call_finds_no_thread_of_the_process_it_was_forked_from() -> None:
    script = (
        "import os\n"
        "from utils.async_helper import AsyncBatchProcessor\n"
        "batch = AsyncBatchProcessor(2)\n"
        "batch.process_batch([1, 2], abs)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(sum(result.value for result in batch.process_batch([3, 4], abs)))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=True
    )
    assert done.stdout == "7\n"


# Rates


@given(
    rate=st.sampled_from([0.3, 0.5, 1.0, 1.01, 2.0, 2.5, 7.0, 9.99, 10.0]),
    gaps=st.lists(st.floats(0, 2, allow_nan=False), max_size=60),
)
def test_the_rate_is_never_exceeded_however_the_calls_come(rate: float, gaps: list[float]) -> None:
    clock = SteppingClock()
    executor = limited(rate, clock)
    starts: list[float] = []
    for gap in gaps:
        clock.sleep(gap)
        executor.execute(lambda: starts.append(clock()))
    assert len(starts) == len(gaps)
    if starts:
        assert busiest_second(starts) <= math.ceil(rate)
    whole = math.ceil(rate)
    for earlier, later in zip(starts, starts[whole:], strict=False):
        assert later - earlier >= whole / rate - 1e-9


def test_the_rate_is_used_up_when_there_is_demand() -> None:
    clock = SteppingClock()
    executor = limited(10.0, clock)
    for _ in range(100):
        executor.execute(int)
    assert clock() == pytest.approx(9 * (1 + START_GUARD))


def test_a_rate_below_one_is_a_start_in_each_of_its_periods() -> None:
    clock = SteppingClock()
    executor = limited(0.5, clock)
    starts: list[float] = []
    for _ in range(3):
        executor.execute(lambda: starts.append(clock()))
    assert starts == pytest.approx([0, 2 + START_GUARD, 4 + 2 * START_GUARD])


def test_the_rate_is_exact_under_threads_on_the_real_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[float] = []
    record = SlidingWindow.record

    def noted(window: SlidingWindow, now: float) -> None:
        granted.append(now)
        record(window, now)

    monkeypatch.setattr(SlidingWindow, "record", noted)
    executor = RateLimitedExecutor(max_per_second=40)
    threads = [threading.Thread(target=lambda: [executor.execute(int) for _ in range(10)]) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert len(granted) == 90
    assert granted == sorted(granted)
    assert busiest_second(granted) == 40


def test_waiting_calls_start_in_the_order_in_which_they_came() -> None:
    entered = threading.Semaphore(0)
    gate = threading.Event()

    def sleep(seconds: float) -> None:
        entered.release()
        gate.wait(BOUND)
        clock.sleep(seconds)

    clock = SteppingClock()
    executor = RateLimitedExecutor(1, clock=clock, sleep=sleep)
    turn = executor._limiter._turn
    executor.execute(int)
    order: list[int] = []
    threads = []
    for number in range(5):
        thread = threading.Thread(target=executor.execute, args=(order.append, number))
        thread.start()
        threads.append(thread)
        if number == 0:
            assert entered.acquire(timeout=BOUND)
        else:
            wait_until(lambda number=number: turn.waiting == number)  # type: ignore[misc]
    gate.set()
    for thread in threads:
        thread.join(BOUND)
    assert order == [0, 1, 2, 3, 4]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        threading.Event().wait(0.001)


async def test_threads_and_coroutines_share_one_rate() -> None:
    clock = SteppingClock()
    executor = limited(5, clock)
    starts: list[float] = []

    async def note() -> None:
        starts.append(clock())

    for _ in range(10):
        await executor.aexecute(note)
        await asyncio.to_thread(executor.execute, lambda: starts.append(clock()))
    assert len(starts) == 20
    assert busiest_second(starts) <= 5


async def test_a_cancelled_wait_gives_its_turn_to_the_next() -> None:
    asleep_now = asyncio.Event()

    async def asleep(_: float) -> None:
        asleep_now.set()
        await asyncio.Event().wait()

    clock = SteppingClock()
    executor = RateLimitedExecutor(1, clock=clock, sleep=clock.sleep, asleep=asleep)
    executor.execute(int)
    first = asyncio.create_task(executor.aexecute(int))
    await asyncio.wait_for(asleep_now.wait(), BOUND)
    second = asyncio.create_task(executor.aexecute(int))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert executor.execute(lambda: "mine") == "mine"


def test_execute_passes_arguments_on_and_returns_or_raises_what_the_call_does() -> None:
    executor = limited(100, SteppingClock())

    async def later(value: str) -> str:
        return value

    assert executor.execute(dict, [("a", 1)], b=2) == {"a": 1, "b": 2}
    assert executor.execute(later, "awaited") == "awaited"
    with pytest.raises(ZeroDivisionError):
        executor.execute(divmod, 1, 0)


def test_execute_batch_keeps_the_rate_and_reports_as_a_batch_does() -> None:
    clock = SteppingClock()
    starts: list[float] = []

    def work(number: int) -> float:
        starts.append(clock())
        return 1 / number

    results = limited(2, clock).execute_batch([1, 0, 2, 4], work)
    assert [result.value for result in results] == [1.0, None, 0.5, 0.25]
    assert isinstance(results[1].error, ZeroDivisionError)
    assert clock() == pytest.approx(1 + START_GUARD)


async def test_aexecute_batch_does_the_same_for_coroutines() -> None:
    clock = SteppingClock()

    async def work(number: int) -> int:
        return number + 1

    results = await limited(1, clock).aexecute_batch([1, 2, 3], work)
    assert [result.value for result in results] == [2, 3, 4]
    assert clock() == pytest.approx(2 * (1 + START_GUARD))


@pytest.mark.parametrize("wrong", [0, -2.0, float("nan"), float("inf"), "ten"])
def test_a_rate_that_is_no_number_above_0_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="max_per_second must be a number above 0"):
        RateLimitedExecutor(wrong)  # type: ignore[arg-type]


def test_a_rate_that_is_not_whole_is_reached_over_time() -> None:
    clock = SteppingClock()
    executor = limited(2.5, clock)
    starts: list[float] = []
    for _ in range(31):
        executor.execute(lambda: starts.append(clock()))
    assert starts[-1] == pytest.approx(30 / 2.5 + 10 * START_GUARD)
    assert busiest_second(starts) == 3


# Timeouts


def test_a_call_within_its_time_returns_and_one_beyond_it_raises() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    assert TimeoutManager(BOUND).run(pow, 2, 3) == 8
    with pytest.raises(TimeoutError, match=r"timed out after 0\.02 s"):
        TimeoutManager(0.02).run(forever)


async def test_an_async_block_is_stopped_at_its_limit() -> None:
    with pytest.raises(TimeoutError, match=r"timed out after 0\.02 s"):
        async with TimeoutManager(0.02):
            await asyncio.Event().wait()


def test_a_plain_block_can_ask_what_is_left_and_cannot_end_late_unnoticed() -> None:
    clock = SteppingClock()
    limit = TimeoutManager(5, clock=clock)
    with limit:
        clock.sleep(2)
        limit.check()
        assert limit.remaining == 3
    with limit:
        clock.sleep(4)
        clock.sleep(0.999)
        limit.check()
    with pytest.raises(TimeoutError), limit:
        clock.sleep(5)
    with pytest.raises(KeyError), limit:
        {}[clock.sleep(6)]  # an error of the block itself is not hidden
    with limit:
        clock.sleep(4.999)


# Concurrency


async def test_one_limiter_serves_threads_and_coroutines_at_once() -> None:
    limiter = ConcurrencyLimiter(2)
    peak = 0

    def note() -> None:
        nonlocal peak
        peak = max(peak, limiter.active)

    def in_thread() -> None:
        for _ in range(50):
            with limiter:
                note()

    async def in_task() -> None:
        for _ in range(50):
            async with limiter:
                note()
                await asyncio.sleep(0)

    async with asyncio.timeout(BOUND):
        await asyncio.gather(*(asyncio.to_thread(in_thread) for _ in range(4)), *(in_task() for _ in range(4)))
    assert 1 <= peak <= 2
    assert (limiter.active, limiter.waiting) == (0, 0)


async def test_a_cancelled_waiter_loses_no_place_even_when_it_was_just_given_one() -> None:
    limiter = ConcurrencyLimiter(1)
    limiter.acquire()
    waiter = asyncio.create_task(limiter.aacquire())
    await asyncio.sleep(0)
    assert limiter.waiting == 1
    limiter.release()  # the place is the waiter's now, but its task has not run yet
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (limiter.active, limiter.waiting) == (0, 0)


def test_giving_back_what_nobody_holds_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="without a matching acquire"):
        ConcurrencyLimiter(1).release()


async def test_calls_of_every_kind_run_under_a_limit_in_order() -> None:
    active = peak = 0
    met = asyncio.Event()

    async def work(number: int) -> int:
        nonlocal active, peak
        active += 1
        peak = max(peak, active)
        if active == 2:
            met.set()
        await met.wait()  # the first two are under way at once, however long a thread takes to begin the second
        active -= 1
        return number

    calls = [work(0), lambda: work(1), lambda: 2, work(3), work(4)]
    assert await run_with_concurrency_limit(calls, 2) == [0, 1, 2, 3, 4]
    assert peak == 2


async def test_the_first_error_is_raised_and_what_was_not_begun_is_closed() -> None:
    begun: list[str] = []

    async def breaks() -> None:
        raise ValueError("broken")

    async def never() -> None:
        begun.append("never")

    with pytest.raises(ValueError, match="broken"):  # an unclosed coroutine would fail the run with a warning
        await run_with_concurrency_limit([breaks(), never(), never()], 1)
    assert begun == []


@given(items=st.lists(st.integers()), size=st.integers(1, 10))
def test_chunks_hold_every_item_once_in_order(items: list[int], size: int) -> None:
    chunks = chunk_list(items, size)
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(1 <= len(chunk) <= size for chunk in chunks)


def test_a_chunk_size_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be a whole number"):
        chunk_list([1], 0)
