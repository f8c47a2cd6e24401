"""A step that fails after work was taken gives the work back: no attempt counts, no slot is lost, and all goes on afterwards."""

import asyncio
import errno
import logging
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import failpoints
from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.handlers.registry import Place
from core.cloud.running import async_executor, outage, preparing, process_executor
from core.cloud.running.outage import NotStarted, Outages
from core.cloud.running.settling import Settler
from core.cloud.running.wakeup import WakeUp
from core.errors import StoreBusy
from tests.process.queue_setup import Queue, queue
from tests.support.hostile import ERRORS, UNWRITABLE, WRITTEN, act, act_async
from tests.support.waiting import wait_until

__all__ = ["queue"]


def here(payload: Any) -> Any:
    return payload


async def on_a_loop(payload: Any) -> Any:
    await asyncio.sleep(0)
    return payload


def with_results(payload: Any, context: Any) -> Any:
    return [payload, list(context.results.values())]


class Fails:
    """Stands in for a function and fails the first times it is called."""

    def __init__(
        self, real: Callable[..., Any], error: BaseException, times: int, only: str = "", skip: int = 0
    ) -> None:
        self.real, self.error, self.left, self.only, self.skip = real, error, times, only, skip

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        meant = self.only in getattr(arguments[0], "name", "") if arguments and self.only else True
        self.skip -= meant
        if meant and self.skip < 0 and self.left > 0:
            self.left -= 1
            raise self.error
        return self.real(*arguments, **options)

    def __get__(self, instance: object, owner: object = None) -> Any:
        return self if instance is None else lambda *arguments, **options: self(instance, *arguments, **options)


def start_of_thread(named: str, error: BaseException) -> Callable[[pytest.MonkeyPatch], Fails]:
    def plant(monkeypatch: pytest.MonkeyPatch) -> Fails:
        fails = Fails(threading.Thread.start, error, 2, only=named)
        monkeypatch.setattr(threading.Thread, "start", fails)
        return fails

    return plant


def attribute(owner: object, name: str, error: BaseException) -> Callable[[pytest.MonkeyPatch], Fails]:
    def plant(monkeypatch: pytest.MonkeyPatch) -> Fails:
        fails = Fails(getattr(owner, name), error, 2)
        monkeypatch.setattr(owner, name, fails)
        return fails

    return plant


NO_THREAD = RuntimeError("can't start new thread")
REFUSED = {
    "no thread for a sync handler": ("here", start_of_thread("heablcoin-thread", NO_THREAD)),
    "no memory for a thread": ("here", start_of_thread("heablcoin-thread", MemoryError())),
    "no thread for the loop": ("on_a_loop", start_of_thread("heablcoin-handlers", NO_THREAD)),
    "no file descriptors for the loop": (
        "on_a_loop",
        attribute(asyncio, "new_event_loop", OSError(errno.EMFILE, "Too many open files")),
    ),
    "no memory for the loop": ("on_a_loop", attribute(async_executor, "DaemonExecutor", MemoryError())),
    "the loop takes nothing": (
        "on_a_loop",
        attribute(async_executor.AsyncExecutor, "start", RuntimeError("the event loop has ended")),
    ),
    "no processes left": (
        "apart",
        attribute(
            process_executor.subprocess, "Popen", BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        ),
    ),
    "no memory for a process": (
        "apart",
        attribute(process_executor.subprocess, "Popen", OSError(errno.ENOMEM, "Cannot allocate memory")),
    ),
    "no pipes for a process": (
        "apart",
        attribute(process_executor.subprocess, "Popen", OSError(errno.EMFILE, "Too many open files")),
    ),
    "the interpreter is gone": (
        "apart",
        attribute(process_executor.subprocess, "Popen", FileNotFoundError(errno.ENOENT, "python")),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_system_refuses_is_given_back_free_and_tried_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    name, plant = REFUSED[case]
    monkeypatch.setattr(outage, "SHORTEST", 0.02)
    queue.handlers.register("here", here)
    queue.handlers.register("on_a_loop", on_a_loop)
    queue.handlers.register("apart", here, isolation="process")
    tasks = [queue.publisher.publish(name, number, max_retries=0, timeout=30.0) for number in range(3)]
    fails = plant(monkeypatch)
    runner = queue.run()

    ends = [queue.finished(task) for task in tasks]

    assert [task.result for task in ends] == [0, 1, 2]
    assert fails.left == 0
    found = [attempt for task in tasks for attempt in queue.publisher.attempts(task.task_id)]
    assert {attempt.outcome for attempt in found} == {"interrupted", "completed"}
    reasons = {attempt.error for attempt in found if attempt.outcome == "interrupted"}
    assert all(reason is not None and "could not be had" in reason for reason in reasons)
    assert all(task.interruptions == 0 for task in ends), "nobody died"
    assert any("could not be had" in record.message for record in caplog.records)
    wait_until(lambda: runner.in_flight == 0, "the slots")
    assert runner._executor._active == 0


def test_while_threads_are_refused_another_process_takes_the_work_and_other_kinds_go_on_here(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.handlers.register("here", here)
    queue.handlers.register("on_a_loop", on_a_loop)
    monkeypatch.setattr(threading.Thread, "start", Fails(threading.Thread.start, NO_THREAD, 1, only="heablcoin-thread"))
    refused = queue.run()
    task = queue.publisher.publish("here", 1)
    wait_until(lambda: queue.outcomes(task)[:1] == ["interrupted"], "the refusal")

    assert queue.finished(queue.publisher.publish("on_a_loop", 2)).worker is None
    assert queue.publisher.get_task(task.task_id).status == "pending"
    said = queue.publisher.why(task.task_id)
    assert "This process could not have a thread for it; it tries again in" in said
    assert "Another process" not in said
    assert "could not" not in queue.publisher.why(queue.publisher.publish("on_a_loop", delay=60).task_id)
    other = queue.run()
    assert queue.handlers.hindrance("here") == "", "one of two runners begins it"
    queue.finished(task)

    workers = [attempt.worker for attempt in queue.publisher.attempts(task.task_id)]
    assert workers == [refused.worker_id, other.worker_id]


INSIDE: dict[str, Callable[[Queue, pytest.MonkeyPatch], object]] = {
    "what a task builds on cannot be read": lambda queue, patch: patch.setattr(
        queue.store.tasks, "results", Fails(queue.store.tasks.results, StoreBusy("held too long"), 1)
    ),
    "no memory for a payload": lambda queue, patch: patch.setattr(
        "core.cloud.running.preparing.resolve", Fails(lambda payload, results: payload, MemoryError(), 1)
    ),
    "others cannot be told": lambda queue, patch: patch.setattr(
        queue.publisher.wakeup, "notify", Fails(queue.publisher.wakeup.notify, OSError("no socket"), 2, skip=1)
    ),
    "the process fails after its claim is committed": lambda queue, patch: patch.setitem(
        failpoints._ARMED, "after_exchange_commit", failpoints.Arming("raise", 1.0)
    ),
    "the process fails after the handler": lambda queue, patch: patch.setitem(
        failpoints._ARMED, "after_handler", failpoints.Arming("raise", 1.0)
    ),
    "the process fails before it settles": lambda queue, patch: patch.setitem(
        failpoints._ARMED, "before_settle", failpoints.Arming("raise", 1.0)
    ),
    "the process fails before the handler, now and then": lambda queue, patch: patch.setitem(
        failpoints._ARMED, "before_handler", failpoints.Arming("raise", 0.5)
    ),
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("case", INSIDE)
def test_a_failure_of_our_own_costs_no_attempt_and_no_result(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, case: str, kind: str
) -> None:
    async def asynchronous(payload: Any, context: Any) -> Any:
        return with_results(payload, context)

    monkeypatch.setattr(outage, "SHORTEST", 0.02)
    queue.handlers.register("child", asynchronous if kind == "async" else with_results)
    parent = queue.publisher.publish("echo", "p")
    task = queue.publisher.publish("child", f"${{{parent.task_id}}} " * 2, depends_on=[parent], max_retries=0)
    INSIDE[case](queue, monkeypatch)
    queue.run()

    ended = queue.finished(task)

    assert (ended.status, ended.error) == ("completed", None)
    assert ended.result[1] == ["p"]
    assert set(queue.outcomes(task)) <= {"interrupted", "completed"}


def test_a_claim_is_run_though_what_this_process_can_do_cannot_be_asked_a_moment_later(queue: Queue) -> None:
    broken = threading.Event()

    def capabilities() -> list[str]:
        if broken.is_set():
            raise ValueError("odd")
        return ["here"]

    queue.handlers.register("here", here, capabilities=capabilities)
    queue.run(concurrency=5)
    assert queue.finished(queue.publisher.publish("here", 1)).result == 1
    broken.set()
    task = queue.publisher.publish("here", 2)

    assert queue.finished(task).result == 2
    assert queue.outcomes(task) == ["completed"]


@pytest.mark.parametrize("broken", ["returned", "raised"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_end_that_cannot_be_worked_out_is_a_failure_that_says_so_and_costs_the_others_nothing(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, broken: str, kind: str
) -> None:
    def behave(payload: Any) -> Any:
        if broken == "raised":
            raise ValueError("odd")
        return payload

    async def asynchronous(payload: Any) -> Any:
        return behave(payload)

    monkeypatch.setattr(Settler, broken, Fails(getattr(Settler, broken), MemoryError(), 1))
    queue.handlers.register("behave", asynchronous if kind == "async" else behave)
    tasks = [queue.publisher.publish("behave", number, max_retries=0) for number in range(3)]
    queue.run()

    ends = [queue.finished(task) for task in tasks]

    unclear = [task for task in ends if task.error and "could not be worked out (MemoryError)" in task.error]
    assert len(unclear) == 1
    assert all(len(queue.outcomes(task)) == 1 for task in ends)
    assert {task.status for task in ends if task not in unclear} == {"failed" if broken == "raised" else "completed"}


HOSTILE_TO_THE_LOOP = (
    "stops the loop",
    "exits in a task of its own",
    "exits in a callback",
    "cancels all",
    "odd factory",
)


@pytest.mark.parametrize("way", HOSTILE_TO_THE_LOOP)
def test_a_handler_that_harms_its_event_loop_leaves_the_others_on_it_unharmed(queue: Queue, way: str) -> None:
    together = asyncio.Event()
    kept: list[asyncio.Task[None]] = []

    async def harm(payload: Any) -> str:
        loop = asyncio.get_running_loop()
        await together.wait()
        if way == "stops the loop":
            loop.stop()
        elif way == "exits in a task of its own":
            kept.append(loop.create_task(leave()))
        elif way == "exits in a callback":
            loop.call_soon(leave_now)
        elif way == "cancels all":
            for other in asyncio.all_tasks():
                other.cancel()
        else:
            loop.set_task_factory(lambda *arguments, **options: leave_now())
            loop.call_later(0.1, loop.set_task_factory, None)
        return "did it"

    async def leave() -> None:
        leave_now()

    def leave_now() -> Any:
        raise SystemExit(5)

    async def waits(payload: Any) -> str:
        together.set()
        await asyncio.sleep(0.05)
        return "undisturbed"

    queue.handlers.register("harm", harm)
    queue.handlers.register("waits", waits)
    queue.run()
    tasks = [queue.publisher.publish(name, max_retries=5) for name in ("harm", "waits", "waits")]

    ends = [queue.finished(task) for task in tasks]

    assert [task.result for task in ends] == ["did it", "undisturbed", "undisturbed"]
    assert queue.finished(queue.publisher.publish("waits", max_retries=5)).result == "undisturbed"


THREADS_OF_A_RUNNER = ("wakeup", "leases", "upkeep", "watchdog", "dispatcher")
STEPS_OF_A_START: dict[str, Callable[[Queue, pytest.MonkeyPatch], object]] = {
    **{
        f"no thread for {name}": lambda queue, patch, name=name: patch.setattr(
            threading.Thread, "start", Fails(threading.Thread.start, NO_THREAD, 1, only=f"heablcoin-{name}")
        )
        for name in THREADS_OF_A_RUNNER
    },
    "no socket": lambda queue, patch: patch.setattr(
        "core.cloud.running.wakeup.socket.socket", Fails(socket.socket, OSError(errno.EMFILE, "no files"), 1)
    ),
    "the table of processes": lambda queue, patch: patch.setattr(
        queue.store.workers, "register", Fails(queue.store.workers.register, StoreBusy("held"), 1)
    ),
    "a subscription": lambda queue, patch: patch.setattr(
        WakeUp, "subscribe", Fails(WakeUp.subscribe, MemoryError(), 1)
    ),
}


def threads_of_a_runner() -> list[str]:
    return sorted(
        thread.name.removeprefix("heablcoin-")
        for thread in threading.enumerate()
        if thread.name.removeprefix("heablcoin-") in THREADS_OF_A_RUNNER
    )


@pytest.mark.parametrize("case", STEPS_OF_A_START)
@pytest.mark.parametrize("shared", [True, False], ids=["woken by its publisher too", "by a wake-up of its own"])
def test_a_start_that_fails_undoes_itself_and_a_second_one_works(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, case: str, shared: bool
) -> None:
    queue.handlers.register("here", here)
    task = queue.publisher.publish("here", 1, max_retries=0)
    before = threads_of_a_runner()
    with monkeypatch.context() as patch:
        STEPS_OF_A_START[case](queue, patch)
        with pytest.raises((RuntimeError, OSError, StoreBusy, MemoryError)):
            queue.run(**({} if shared else {"wakeup": None, "poll_interval": 0.05}))
        [runner] = queue.runners

        assert not runner.running
        assert runner.in_flight == 0
        wait_until(lambda: threads_of_a_runner() == before, "the end of the threads that were started")
        assert queue.store.workers.alive(0.0) == []
        assert not queue.handlers.served
        assert queue.publisher.wakeup.port == 0
        assert queue.outcomes(task) == []

        runner.start()

    assert queue.finished(task).result == 1
    assert queue.outcomes(task) == ["completed"]
    assert [worker.worker for worker in queue.store.workers.alive(0.0)] == [runner.worker_id]
    assert queue.handlers.served
    assert queue.finished(queue.publisher.publish("here", 2, delay=0.05)).result == 2
    runner.stop(0.2)
    wait_until(lambda: threads_of_a_runner() == before or shared, "the end of the runner")
    assert queue.store.workers.alive(0.0) == []


def test_a_start_that_fails_leaves_a_wake_up_that_was_heard_before_as_it_was(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = queue.publisher.wakeup.listen()
    with monkeypatch.context() as patch:
        STEPS_OF_A_START["no thread for dispatcher"](queue, patch)
        with pytest.raises(RuntimeError):
            queue.run()
    assert queue.publisher.wakeup.port == port


def test_a_task_run_by_hand_is_given_back_when_no_thread_can_keep_its_lease(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.handlers.register("here", here)
    task = queue.publisher.publish("here", 1, max_retries=0)
    monkeypatch.setattr(threading.Thread, "start", Fails(threading.Thread.start, NO_THREAD, 1, only="heablcoin-manual"))

    with pytest.raises(NotStarted, match="was not begun"):
        queue.publisher.execute_task(task)

    assert queue.publisher.execute_task(task) == 1
    assert queue.outcomes(task) == ["interrupted", "completed"]


def test_handlers_that_do_not_end_leave_so_many_threads_behind_and_no_more(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def stuck(payload: Any) -> str:
        release.wait(30)
        return "too late"

    queue.handlers.register("stuck", stuck)
    queue.handlers.register("on_a_loop", on_a_loop)
    runner = queue.run(concurrency=2)
    tasks = [queue.publisher.publish("stuck", timeout=0.05, max_retries=0) for _ in range(12)]

    wait_until(lambda: runner._executor.unable() == {Place.THREAD}, "the cap")
    assert queue.finished(queue.publisher.publish("on_a_loop", "others go on")).result == "others go on"
    wait_until(lambda: runner.in_flight == 0, "an end to sync work")
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("heablcoin-thread")]
    assert 4 <= len(threads) <= 6
    waiting = [task for task in tasks if queue.publisher.get_task(task.task_id).status == "pending"]
    assert len(waiting) >= 6
    said = queue.publisher.why(waiting[0].task_id)
    assert re.search("begins no sync handler now: [456] of its threads are held", said)
    assert 'isolation="process"' in said
    other = queue.publisher.publish("on_a_loop", delay=60)
    assert "threads" not in queue.publisher.why(other.task_id)
    assert any(
        "threads are left behind" in record.message for record in caplog.records if record.levelno >= logging.ERROR
    )

    release.set()

    assert {queue.finished(task).status for task in tasks} <= {"failed", "completed"}
    assert runner._executor.unable() == frozenset()
    assert queue.handlers.hindrance("stuck") == ""


def test_calls_of_to_thread_that_hang_are_capped_and_the_rest_wait_their_turn() -> None:
    release = threading.Event()
    pool = async_executor.DaemonExecutor()
    before = threading.active_count()

    hanging = [pool.submit(release.wait, 30) for _ in range(async_executor.MOST_THREADS + 20)]

    assert threading.active_count() - before <= async_executor.MOST_THREADS
    release.set()
    assert all(each.result(10) for each in hanging)


def test_an_async_handler_run_apart_does_not_wait_for_what_it_leaves_running() -> None:
    release = threading.Event()

    async def leaves_a_thread() -> str:
        asyncio.get_running_loop().run_in_executor(None, release.wait, 30)
        return "done"

    begun = time.monotonic()
    assert async_executor.run_to_its_end(leaves_a_thread()) == "done"
    assert time.monotonic() - begun < 20
    release.set()


def test_refusals_are_tried_again_after_growing_waits_and_forgotten_once_one_works() -> None:
    outages = Outages()
    waits = []
    now = 0.0
    for _ in range(8):
        until = outages.refused(Place.THREAD, now)
        assert until is not None
        assert outages.refused(Place.THREAD, now + 0.5) is None, "one refusal among many at once"
        assert f"a thread for it; it tries again in {until - now:.0f} s." in outages.hindrance(Place.THREAD, now)
        assert outages.hindrance(Place.LOOP, now) == outages.hindrance(Place.THREAD, until) == ""
        waits.append(until - now)
        outages.works(Place.THREAD, now + 0.1)
        assert outages.closed(now + 0.1) == {Place.THREAD}, "threads that were there before say nothing of new ones"
        now = until

    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    outages.works(Place.THREAD, now + 1)
    assert outages.closed(now) == frozenset()
    assert outages.refused(Place.THREAD, now) == now + 1
    assert builtin_handlers().capabilities(without={Place.LOOP}) < builtin_handlers().capabilities()


FAULTS: dict[str, Callable[[Queue, pytest.MonkeyPatch, int], object]] = {
    "threads": lambda queue, patch, times: patch.setattr(
        threading.Thread, "start", Fails(threading.Thread.start, NO_THREAD, times, only="heablcoin-thread")
    ),
    "executor's thread": lambda queue, patch, times: patch.setattr(
        threading.Thread, "start", Fails(threading.Thread.start, NO_THREAD, times, only="heablcoin-handlers")
    ),
    "executor's loop": lambda queue, patch, times: patch.setattr(
        asyncio, "new_event_loop", Fails(asyncio.new_event_loop, OSError(errno.EMFILE, "no files"), times)
    ),
    "executor takes nothing": lambda queue, patch, times: patch.setattr(
        async_executor.AsyncExecutor, "start", Fails(async_executor.AsyncExecutor.start, RuntimeError("ended"), times)
    ),
    "child": lambda queue, patch, times: patch.setattr(
        process_executor.subprocess,
        "Popen",
        Fails(process_executor.subprocess.Popen, BlockingIOError(errno.EAGAIN, "no"), times),
    ),
    "dispatcher": lambda queue, patch, times: patch.setattr(
        "core.cloud.running.executor.load", Fails(preparing.load, StoreBusy("held"), times)
    ),
    "announcer": lambda queue, patch, times: patch.setattr(
        queue.publisher.wakeup, "notify", Fails(queue.publisher.wakeup.notify, OSError("no socket"), times, skip=1)
    ),
    "exchange": lambda queue, patch, times: patch.setattr(
        queue.store.tasks, "exchange", Fails(queue.store.tasks.exchange, StoreBusy("held"), times)
    ),
    "exchange, unforeseen": lambda queue, patch, times: patch.setattr(
        queue.store.tasks, "exchange", Fails(queue.store.tasks.exchange, TypeError("odd"), times)
    ),
    **{
        name: lambda queue, patch, times, name=name: patch.setitem(
            failpoints._ARMED, name, failpoints.Arming("raise", 0.3 * times)
        )
        for name in ("after_exchange_commit", "before_handler", "after_handler", "before_settle")
    },
}

acts = st.one_of(
    st.tuples(st.just("raise"), st.sampled_from([name for name in ERRORS if not name.startswith("Stop")])),
    st.tuples(st.just("return"), st.sampled_from(list(WRITTEN))),
    st.tuples(st.just("return what cannot be written"), st.sampled_from(list(UNWRITABLE))),
)


def check_mixture(faults: dict[str, int], work: list[tuple[str, tuple[str, str]]], folder: Path) -> None:
    queue = Queue(str(folder / "queue.db"))
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setattr(outage, "SHORTEST", 0.02)
            queue.handlers.register("loop", act_async)
            queue.handlers.register("thread", act)
            queue.handlers.register("process", act, isolation="process")
            tasks = [
                queue.publisher.publish(place, {"how": how, "what": what}, max_retries=0) for place, (how, what) in work
            ]
            for name, times in faults.items():
                FAULTS[name](queue, patch, times)
            queue.run(poll_interval=0.2)
            for (_, (how, what)), task in zip(work, tasks, strict=True):
                ended = queue.finished(task)
                *before, last = queue.outcomes(task)
                assert set(before) <= {"interrupted"}
                assert ended.status == last == ("completed" if how == "return" else "failed")
                if how == "return":
                    assert ended.result == WRITTEN[what][1]
                else:
                    assert (what.split(maxsplit=1)[0] if how == "raise" else "cannot be written as JSON") in (
                        ended.error or ""
                    )
        finally:
            patch.undo()
            queue.close()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    faults=st.dictionaries(st.sampled_from(list(FAULTS)), st.integers(1, 2), max_size=3),
    work=st.lists(st.tuples(st.sampled_from(["loop", "thread"]), acts), min_size=1, max_size=10),
)
def test_whatever_handlers_do_and_whatever_fails_meanwhile_each_attempt_is_settled_once_and_truthfully(
    faults: dict[str, int], work: list[tuple[str, tuple[str, str]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_mixture(faults, work, Path(folder))


@pytest.mark.soak
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    faults=st.dictionaries(st.sampled_from(list(FAULTS)), st.integers(1, 2), max_size=5),
    work=st.lists(st.tuples(st.sampled_from(["loop", "thread", "process"]), acts), min_size=1, max_size=12),
)
def test_the_same_at_length_and_in_child_processes_too(
    faults: dict[str, int], work: list[tuple[str, tuple[str, str]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_mixture(faults, work, Path(folder))
