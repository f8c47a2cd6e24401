"""The runner in this process, on a real database, with handlers that behave badly."""

import asyncio
import threading
import time

import pytest

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.running.runner import TaskRunner
from core.cloud.running.wakeup import PEERS_FOR, WakeUp
from core.cloud.store_contract import ClaimRequest
from core.errors import InvalidArgument, Permanent, RetryLater, StoreBusy
from tests.process.queue_setup import Queue, queue
from tests.support.waiting import wait_until

__all__ = ["queue"]


def test_sync_and_async_handlers_complete_with_their_results(queue: Queue) -> None:
    async def quick(payload):
        return {"async": payload["n"]}

    def plain(payload, context):
        return {"sync": payload["n"], "attempt": context.attempt}

    queue.handlers.register("quick", quick)
    queue.handlers.register("plain", plain)
    queue.run()

    first = queue.publisher.publish("quick", {"n": 1})
    second = queue.publisher.publish("plain", {"n": 2})

    assert queue.finished(first).result == {"async": 1}
    assert queue.finished(second).result == {"sync": 2, "attempt": 1}
    assert queue.outcomes(first) == ["completed"]


def test_a_failing_handler_is_retried_until_its_retries_are_used_up(queue: Queue) -> None:
    def fails(payload):
        raise ValueError("no luck")

    queue.handlers.register("fails", fails)
    queue.run()

    task = queue.finished(queue.publisher.publish("fails", max_retries=2))

    assert task.status == "failed"
    assert task.error == "ValueError: no luck"
    assert queue.outcomes(task) == ["failed", "failed", "failed"]


@pytest.mark.parametrize("error", [Permanent("give up"), InvalidArgument("bad value")])
def test_errors_that_cannot_pass_are_not_retried(queue: Queue, error: Exception) -> None:
    async def fails(payload):
        raise error

    queue.handlers.register("fails", fails)
    queue.run()

    task = queue.finished(queue.publisher.publish("fails", max_retries=5))

    assert task.status == "failed"
    assert task.attempts == 1


def test_a_handler_that_asks_to_run_later_runs_later(queue: Queue) -> None:
    async def twice(payload, context):
        if context.attempt == 1:
            raise RetryLater(0.05, "not yet")
        return "now"

    queue.handlers.register("twice", twice)
    queue.run()

    task = queue.finished(queue.publisher.publish("twice"))

    first, second = queue.publisher.attempts(task.task_id)
    assert task.result == "now"
    assert first.error == "RetryLater: not yet"
    assert (second.started_at - first.ended_at).total_seconds() >= 0.05


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_whatever_a_handler_raises_is_its_tasks_failure_and_the_runner_lives(
    queue: Queue, error: BaseException
) -> None:
    async def raises(payload):
        raise error

    def raises_too(payload):
        raise error

    queue.handlers.register("raises", raises)
    queue.handlers.register("raises_too", raises_too)
    queue.run()

    bad = [queue.publisher.publish(name, max_retries=0) for name in ("raises", "raises_too")]

    assert [queue.finished(task).status for task in bad] == ["failed", "failed"]
    assert queue.finished(queue.publisher.publish("echo", {"still": "here"})).result == {"still": "here"}


@pytest.mark.parametrize("value", [object(), {"deep": [ValueError("x")]}, "x" * 1_100_000])
def test_a_result_that_cannot_be_kept_fails_the_task_for_good(queue: Queue, value: object) -> None:
    queue.handlers.register("returns", lambda payload: value)
    queue.run()

    task = queue.finished(queue.publisher.publish("returns", max_retries=5))

    assert task.status == "failed"
    assert task.error.startswith(
        ("Permanent: What the handler returned cannot be", "Permanent: The handler returned 1,1")
    )
    assert task.attempts == 1


def test_an_async_handler_is_cancelled_at_its_timeout(queue: Queue) -> None:
    cancelled = threading.Event()

    async def endless(payload):
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    queue.handlers.register("endless", endless)
    queue.run()

    task = queue.finished(queue.publisher.publish("endless", timeout=0.05, max_retries=1))

    assert cancelled.is_set()
    assert task.status == "failed"
    assert task.error == "Timed out after 0.05 s."
    assert queue.outcomes(task) == ["timed_out", "timed_out"]


def test_a_handlers_own_timeout_holds_for_tasks_that_set_none(queue: Queue) -> None:
    async def endless(payload):
        await asyncio.sleep(3600)

    queue.handlers.register("endless", endless, timeout=0.05)
    queue.run()

    assert queue.outcomes(queue.finished(queue.publisher.publish("endless", max_retries=0))) == ["timed_out"]


def test_a_thread_that_will_not_stop_is_left_behind_and_its_late_result_counts_for_nothing(queue: Queue) -> None:
    release = threading.Event()
    ended = threading.Event()

    def stuck(payload, context):
        if context.attempt == 1:
            release.wait(30)
            ended.set()
            return "late"
        return "second"

    queue.handlers.register("stuck", stuck)
    queue.run(concurrency=1)

    task = queue.finished(queue.publisher.publish("stuck", timeout=0.5))
    release.set()
    wait_until(ended.is_set, "the stuck thread's end")

    assert queue.publisher.get_task(task.task_id).result == "second"
    assert queue.outcomes(task) == ["timed_out", "completed"]
    assert queue.finished(queue.publisher.publish("echo", 1)).result == 1


def test_a_coroutine_that_swallows_its_cancellation_is_timed_out_all_the_same(queue: Queue) -> None:
    release = asyncio.Event()
    loop: list[asyncio.AbstractEventLoop] = []

    async def stubborn(payload):
        loop.append(asyncio.get_running_loop())
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    queue.handlers.register("stubborn", stubborn)
    queue.run(concurrency=1)

    task = queue.finished(queue.publisher.publish("stubborn", timeout=0.05, max_retries=0))

    assert queue.outcomes(task) == ["timed_out"]
    assert queue.finished(queue.publisher.publish("echo", 1)).result == 1
    loop[0].call_soon_threadsafe(release.set)


def test_a_coroutine_that_blocks_its_loop_is_timed_out_and_the_others_on_it_run_elsewhere(queue: Queue) -> None:
    release = threading.Event()
    both = threading.Barrier(2)

    async def blocks(payload):
        await asyncio.to_thread(both.wait)
        release.wait(30)

    async def innocent(payload, context):
        if context.attempt == 1:
            await asyncio.to_thread(both.wait)
            await asyncio.sleep(3600)
        return context.attempt

    queue.handlers.register("blocks", blocks)
    queue.handlers.register("innocent", innocent)
    queue.run()

    bystander = queue.publisher.publish("innocent", max_retries=0)
    blocker = queue.publisher.publish("blocks", timeout=0.3, max_retries=0)

    assert queue.outcomes(queue.finished(blocker)) == ["timed_out"]
    # Cut off through no fault of its own: free, so it succeeds although it may not be retried.
    assert queue.finished(bystander).result == 2
    assert queue.outcomes(bystander) == ["interrupted", "completed"]
    release.set()


def test_what_a_blocked_loop_has_not_begun_runs_on_another_though_nothing_times_out(queue: Queue) -> None:
    release = threading.Event()
    blocked = threading.Event()

    async def blocks(payload):
        blocked.set()
        release.wait(30)
        return "done in the end"

    queue.handlers.register("blocks", blocks)
    queue.run(lease=0.3)

    blocker = queue.publisher.publish("blocks")
    wait_until(blocked.is_set, "the blocked loop")
    others = [queue.publisher.publish("echo", n) for n in range(3)]

    assert [queue.finished(task).result for task in others] == [0, 1, 2]
    assert queue.publisher.get_task(blocker.task_id).status == "running"
    release.set()
    assert queue.finished(blocker).result == "done in the end"


def test_cancelling_a_running_task_stops_its_coroutine(queue: Queue) -> None:
    began, stopped = threading.Event(), threading.Event()

    async def endless(payload, context):
        try:
            began.set()
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    queue.handlers.register("endless", endless)
    runner = queue.run()
    task = queue.publisher.publish("endless")
    wait_until(began.is_set, "the handler's start")  # a task runs from its claim on, a moment before its handler does

    queue.publisher.cancel_task(task.task_id)

    wait_until(stopped.is_set, "the coroutine's end")
    wait_until(lambda: runner.in_flight == 0, "the free slot")
    assert queue.publisher.get_task(task.task_id).status == "cancelled"
    assert queue.outcomes(task) == ["cancelled"]


def test_a_cancelled_task_in_a_thread_sees_it_and_frees_its_slot(queue: Queue) -> None:
    began, saw = threading.Event(), threading.Event()

    def polite(payload, context):
        began.set()
        wait_until(lambda: context.cancelled, "the cancellation")
        saw.set()

    queue.handlers.register("polite", polite)
    queue.run(concurrency=1)
    task = queue.publisher.publish("polite")
    wait_until(began.is_set, "the handler's start")

    queue.publisher.cancel_task(task.task_id)

    wait_until(saw.is_set, "the handler to see it")
    assert queue.finished(queue.publisher.publish("echo", 1)).result == 1
    assert queue.publisher.get_task(task.task_id).status == "cancelled"


def test_results_flow_into_payloads_and_contexts_of_dependents(queue: Queue) -> None:
    async def ask(payload, context):
        return {"payload": payload, "results": dict(context.results)}

    queue.handlers.register("ask", ask)
    queue.run()

    parent = queue.publisher.publish("echo", {"price": [1, {"eur": 2.5}]})
    child = queue.publisher.publish(
        "ask",
        {"whole": f"${{{parent.task_id}.price}}", "text": f"at ${{{parent.task_id}.price.1.eur}} EUR"},
        depends_on=[parent],
    )

    assert queue.finished(child).result == {
        "payload": {"whole": [1, {"eur": 2.5}], "text": "at 2.5 EUR"},
        "results": {parent.task_id: {"price": [1, {"eur": 2.5}]}},
    }


def test_a_reference_to_what_is_not_in_the_result_fails_for_good(queue: Queue) -> None:
    queue.run()
    parent = queue.publisher.publish("echo", {"a": 1})
    child = queue.publisher.publish("echo", {"b": f"${{{parent.task_id}.nothing}}"}, depends_on=[parent])

    task = queue.finished(child)

    assert task.status == "failed"
    assert task.attempts == 1
    assert "nothing" in task.error


def test_progress_is_kept_with_the_task(queue: Queue) -> None:
    go_on = threading.Event()

    def works(payload, context):
        for done in range(100):
            context.progress(done / 100, f"step {done}")
        context.progress(0.5, "half way")
        go_on.wait(30)

    queue.handlers.register("works", works)
    queue.run()
    task = queue.publisher.publish("works")

    seen = wait_until(
        lambda: (now := queue.publisher.get_task(task.task_id)).progress_message == "half way" and now, "the progress"
    )
    go_on.set()

    assert seen.progress == 0.5
    queue.finished(task)


def test_with_one_slot_the_most_urgent_goes_first_then_the_oldest(queue: Queue) -> None:
    order: list[str] = []
    queue.handlers.register("note", order.append)
    for priority, name in ((1, "low"), (2, "normal 1"), (4, "urgent"), (2, "normal 2"), (3, "high")):
        last = queue.publisher.publish("note", name, priority=priority)

    queue.run(concurrency=1)
    wait_until(lambda: len(order) == 5, "all five")

    assert order == ["urgent", "high", "normal 1", "normal 2", "low"]
    queue.finished(last)


def test_what_nobody_here_can_run_waits_until_somebody_can(queue: Queue) -> None:
    able: set[str] = set()

    async def call(payload):
        return "called"

    queue.handlers.register("ai_call", call, capabilities=lambda: able)
    queue.run()
    task = queue.publisher.publish("ai_call", {"endpoint": "b"})
    assert queue.finished(queue.publisher.publish("echo", 1)).result == 1
    assert queue.publisher.get_task(task.task_id).status == "pending"

    able.update({"ai_call", "ai_call@b"})
    queue.publisher.wakeup.notify()

    assert queue.finished(task).result == "called"


def test_a_task_named_like_an_endpoints_capability_fails_instead_of_going_round_for_ever(queue: Queue) -> None:
    async def call(payload):
        return "called"

    queue.handlers.register("ai_call", call, capabilities=lambda: {"ai_call", "ai_call@b"})
    queue.run()

    task = queue.finished(queue.publisher.publish("ai_call@b"))

    assert task.status == "failed"
    assert "No handler" in task.error


def test_a_delayed_task_starts_at_its_time_and_an_expired_one_never(queue: Queue) -> None:
    queue.run(concurrency=1)
    delayed = queue.publisher.publish("echo", "late", delay=0.1)
    expiring = queue.publisher.publish("echo", "never", delay=30, expires_in=0.1)

    assert queue.finished(delayed).result == "late"
    assert queue.finished(expiring).status == "expired"
    assert queue.outcomes(expiring) == []


def test_stop_gives_back_what_runs_as_interrupted_which_is_free(queue: Queue) -> None:
    async def endless(payload, context):
        if context.attempt == 1:
            await asyncio.sleep(3600)
        return "done"

    queue.handlers.register("endless", endless)
    runner = queue.run()
    task = queue.running(queue.publisher.publish("endless", max_retries=0))

    runner.stop(1.0)
    given_back = queue.publisher.get_task(task.task_id)
    queue.run()

    assert given_back.status == "pending"
    assert queue.finished(task).result == "done"
    assert queue.outcomes(task) == ["interrupted", "completed"]


def test_stop_lets_a_thread_that_ends_within_the_grace_finish(queue: Queue) -> None:
    began = threading.Event()

    def polite(payload, context):
        began.set()
        wait_until(lambda: context.cancelled, "the shutdown")
        return "finished"

    queue.handlers.register("polite", polite)
    runner = queue.run()
    task = queue.publisher.publish("polite")
    wait_until(began.is_set, "the handler's start")

    runner.stop(10.0)

    assert queue.publisher.get_task(task.task_id).result == "finished"


def test_stop_does_not_wait_for_a_stuck_thread_or_a_stuck_loop(queue: Queue) -> None:
    release = threading.Event()

    def stuck(payload):
        release.wait(60)

    async def stuck_loop(payload):
        release.wait(60)

    queue.handlers.register("stuck", stuck)
    queue.handlers.register("stuck_loop", stuck_loop)
    runner = queue.run()
    tasks = [queue.running(queue.publisher.publish(name)) for name in ("stuck", "stuck_loop")]
    returned = threading.Event()

    threading.Thread(target=lambda: (runner.stop(0.2), returned.set()), daemon=True).start()

    assert returned.wait(5)
    assert [queue.publisher.get_task(task.task_id).status for task in tasks] == ["pending", "pending"]
    release.set()


def test_stop_may_be_called_by_many_and_again_and_before_start(queue: Queue) -> None:
    runner = queue.run()
    threads = [threading.Thread(target=runner.stop) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    runner.stop()
    TaskRunner(queue.store, queue.handlers).stop()

    assert not runner.running
    with pytest.raises(InvalidArgument, match="stopped"):
        runner.start()


def test_a_stopped_runner_claims_nothing_more(queue: Queue) -> None:
    queue.run().stop()

    task = queue.publisher.publish("echo", 1)

    assert queue.publisher.get_ready_tasks()[0].task_id == task.task_id
    assert queue.store.workers.alive(0) == []


def test_a_result_is_kept_while_the_store_is_in_trouble(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = iter([True] * 3)
    real = queue.store.tasks.exchange

    def exchange(settlements, request, now):
        if settlements and next(trouble, False):
            raise StoreBusy("Another process holds the database.")
        return real(settlements, request, now)

    monkeypatch.setattr(queue.store.tasks, "exchange", exchange)
    queue.run()

    task = queue.finished(queue.publisher.publish("echo", "kept"))

    assert task.result == "kept"
    assert task.attempts == 1
    assert next(trouble, None) is None


def test_one_end_that_cannot_be_stored_holds_up_none_of_the_others(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = queue.store.tasks.exchange

    def exchange(settlements, request, now):
        if any(each.result == '"poison"' for each in settlements):
            raise RuntimeError("cannot store this")
        return real(settlements, request, now)

    monkeypatch.setattr(queue.store.tasks, "exchange", exchange)
    tasks = [queue.publisher.publish("echo", text) for text in ("one", "poison", "two")]
    queue.run()

    ends = [queue.finished(task) for task in tasks]

    assert [task.status for task in ends] == ["completed", "failed", "completed"]
    assert ends[1].error == "The handler returned, but the database refused its result; see the log of its worker."


def test_two_runners_share_the_work_and_run_nothing_twice(queue: Queue) -> None:
    runs: list[int] = []
    queue.handlers.register("note", lambda payload: runs.append(payload["n"]))
    tasks = queue.publisher.publish_many([{"name": "note", "payload": {"n": n}} for n in range(300)])

    queue.run(concurrency=5)
    queue.run(concurrency=5)
    for task in tasks:
        queue.finished(task)

    assert sorted(runs) == list(range(300))


def test_tasks_claimed_ahead_of_slow_ones_are_given_back_to_others(queue: Queue) -> None:
    release = threading.Event()

    async def sometimes_slow(payload):
        if payload["slow"]:
            await asyncio.to_thread(release.wait, 30)

    queue.handlers.register("sometimes_slow", sometimes_slow)
    quick = [{"name": "sometimes_slow", "payload": {"slow": False}} for _ in range(400)]
    slow = [{"name": "sometimes_slow", "payload": {"slow": True}} for _ in range(60)]
    tasks = queue.publisher.publish_many([*quick, *slow])

    runner = queue.run(concurrency=10)
    wait_until(lambda: runner.in_flight == 10, "only as many held as run")
    release.set()

    assert {queue.finished(task).status for task in tasks} == {"completed"}


def test_a_worker_is_in_the_table_with_what_it_can_run_until_it_stops(queue: Queue) -> None:
    registry = HandlerRegistry()
    registry.register("only_this", lambda payload: None)
    runner = queue.run(handlers=registry)

    (row,) = queue.store.workers.alive(time.time() - 60)
    assert row.worker == runner.worker_id
    assert row.capabilities == ("only_this",)
    assert row.wake_port == queue.publisher.wakeup.port

    runner.stop()
    assert queue.store.workers.alive(0) == []


def test_a_lease_is_renewed_while_a_handler_blocks_the_loop(queue: Queue) -> None:
    release = threading.Event()

    async def blocks(payload):
        release.wait(30)
        return "once"

    queue.handlers.register("blocks", blocks)
    queue.run(lease=0.3)
    task = queue.running(queue.publisher.publish("blocks"))

    wait_until(
        lambda: (queue.publisher.get_task(task.task_id).lease_until - task.started_at).total_seconds() > 1.0,
        "several renewals",
    )
    release.set()

    assert queue.finished(task).result == "once"
    assert queue.outcomes(task) == ["completed"]


def test_a_runner_finds_what_was_published_before_the_publisher_knew_of_it(queue: Queue) -> None:
    clock = ManualClock(time.time())
    queue.handlers.register("quick", lambda payload: "done")
    runner = queue.run(clock=clock)
    wait_until(lambda: not runner._dispatcher._look, "the first look")
    stranger = EnhancedCloudTaskPublisher(store=queue.store, wakeup=WakeUp())

    task = stranger.publish("quick")
    assert task.status == "pending"
    clock.advance(PEERS_FOR)
    runner._watchdog.wake()

    assert queue.finished(task).result == "done"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_task_whose_lease_ended_before_it_began_is_given_back_unbegun(queue: Queue, kind: str) -> None:
    begun = []

    async def asynchronous(payload, context):
        begun.append(context.attempt)

    def plain(payload, context):
        begun.append(context.attempt)

    queue.handlers.register("late", plain if kind == "sync" else asynchronous)
    task = queue.publisher.publish("late")
    clock = ManualClock(time.time())
    runner = TaskRunner(queue.store, queue.handlers, clock=clock, lease=30.0)
    queue.runners.append(runner)
    request = ClaimRequest(runner.worker_id, ("late",), 1, 30.0)
    claims = queue.store.tasks.exchange([], request, clock.now()).claims
    lease_until = clock.now() + 30.0

    clock.advance(30.0)  # As after a suspend.
    runner._executor.start(claims, lease_until)
    wait_until(runner._dispatcher.unsettled, "the task to be given back")
    assert begun == []

    runner.start()
    assert queue.finished(task).status == "completed"
    assert begun == [2]
    assert queue.outcomes(task) == ["interrupted", "completed"]


def test_a_renewed_lease_lets_a_task_begin_that_waited_long_for_its_loop(queue: Queue) -> None:
    first, go_on = threading.Event(), threading.Event()

    async def waits(payload, context):
        first.set()
        assert go_on.wait(20)
        return context.attempt

    queue.handlers.register("waits", waits)
    tasks = [queue.publisher.publish("waits") for _ in range(2)]
    clock = ManualClock(time.time())
    runner = TaskRunner(queue.store, queue.handlers, clock=clock, lease=30.0)
    queue.runners.append(runner)
    request = ClaimRequest(runner.worker_id, ("waits",), 2, 30.0)
    claims = queue.store.tasks.exchange([], request, clock.now()).claims
    runner._executor.start(claims, clock.now() + 30.0)
    assert first.wait(20)

    clock.advance(20.0)
    runner._keeper._renew()
    clock.advance(20.0)
    go_on.set()
    wait_until(lambda: len(runner._dispatcher.unsettled()) == 2, "both to end")
    runner.start()

    assert [queue.finished(task).result for task in tasks] == [1, 1]
