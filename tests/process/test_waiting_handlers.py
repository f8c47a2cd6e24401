"""Handlers that wait in the pool: their slot is another's meanwhile, their time stands still, and they lose nothing."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.clock import Clock, ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.providers.fake import FakeProvider, FakeStep
from core.cloud.running import resting as resting_attempts
from core.cloud.running.runner import TaskRunner
from core.errors import LeaseLost
from tests.process.queue_setup import Queue, queue
from tests.support.waiting import wait_until

__all__ = ["queue"]

WINDOW = 1.5
"""Seconds: far longer than a task of nothing takes on a busy machine, and than the timeouts here."""
LONG = 3600.0


def ask(endpoint: ApiEndpoint) -> str:
    return "asked"


async def aask(endpoint: ApiEndpoint) -> str:
    return "asked"


def ways(manager: ApiManager, deadline: float = 120.0) -> dict[str, Callable[..., Any]]:
    """A handler for each way to call the pool, each of which returns "asked"."""

    async def achat(payload: Any) -> str:
        return (await manager.achat("?", deadline=deadline)).text

    async def astream(payload: Any) -> str:
        return "".join([chunk.text async for chunk in manager.astream("?", deadline=deadline)])

    async def acall(payload: Any) -> str:
        return (await manager.acall_with_retry(aask, deadline=deadline))[0]

    async def in_a_thread_of_its_own(payload: Any) -> str:
        return (await asyncio.to_thread(manager.call_with_retry, ask, deadline=deadline))[0]

    def chat(payload: Any) -> str:
        return manager.chat("?", deadline=deadline).text

    def call(payload: Any) -> str:
        return manager.call_with_retry(ask, deadline=deadline)[0]

    def on_a_loop_of_its_own(payload: Any) -> str:
        return asyncio.run(achat(payload))

    every = (achat, astream, acall, in_a_thread_of_its_own, chat, call, on_a_loop_of_its_own)
    return {handler.__name__: handler for handler in every}


class Pool:
    """Managers with one endpoint each, which takes one call in each window."""

    def __init__(self) -> None:
        self.made: list[ApiManager] = []

    def limited(self, window: float = WINDOW, clock: Clock | None = None, **settings: Any) -> ApiManager:
        provider = FakeProvider({"a": [FakeStep("asked")] * 99})
        manager = ApiManager(PrivatePoolState(window=window), providers={"fake": provider}, clock=clock)
        limits = {"max_requests_per_minute": 1, **settings}
        manager.add_endpoint(ApiEndpoint("a", "https://a.example", provider="fake", **limits))
        self.made.append(manager)
        return manager

    def full(self, window: float = WINDOW, clock: Clock | None = None, **settings: Any) -> ApiManager:
        """One whose slot is taken."""
        manager = self.limited(window, clock, **settings)
        manager.call_with_retry(ask)
        return manager


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    for manager in made.made:
        manager.close()


def resting(runner: TaskRunner) -> int:
    return runner._attempts.resting


@pytest.mark.parametrize("way", sorted(ways(ApiManager())))
def test_a_handler_that_waits_for_a_limit_delays_nobody_and_outlives_its_timeout(
    queue: Queue, pool: Pool, way: str
) -> None:
    clock = ManualClock()  # of the pool: its window is over when this test says so
    queue.handlers.register(way, ways(pool.full(clock=clock))[way])
    runner = queue.run(concurrency=1)

    waiting = queue.publisher.publish(way, timeout=0.3, max_retries=0)
    wait_until(lambda: resting(runner), "the handler to wait")
    outlived = time.monotonic() + 0.3
    other = queue.finished(queue.publisher.publish("echo", {"n": 1}))
    wait_until(lambda: time.monotonic() > outlived, "its timeout to be over")

    assert not queue.publisher.get_task(waiting.task_id).done
    assert other.result == {"n": 1}
    clock.advance(WINDOW)
    assert queue.finished(waiting).result == "asked"
    assert queue.outcomes(waiting) == ["completed"]
    assert resting(runner) == 0


def test_a_wait_over_goes_on_at_once_though_the_slots_are_taken(queue: Queue, pool: Pool) -> None:
    release, entered = threading.Event(), threading.Event()

    def holds(payload: Any) -> None:
        entered.set()
        release.wait(30)

    queue.handlers.register("waits", ways(pool.full())["achat"])
    queue.handlers.register("holds", holds)
    queue.run(concurrency=1)

    waiting = queue.publisher.publish("waits")
    holding = queue.publisher.publish("holds")
    third = queue.publisher.publish("echo")
    assert entered.wait(10)

    assert queue.finished(waiting).result == "asked"
    assert queue.publisher.get_task(third.task_id).status == "pending"
    release.set()
    assert queue.finished(holding).status == queue.finished(third).status == "completed"


def test_only_the_wait_is_left_out_of_the_time_an_attempt_may_take(queue: Queue, pool: Pool) -> None:
    manager = pool.full(1.0)
    waited: list[float] = []

    async def waits_and_hangs(payload: Any) -> None:
        began = time.monotonic()
        await manager.achat("?")
        waited.append(time.monotonic() - began)
        await asyncio.sleep(LONG)

    queue.handlers.register("hangs", waits_and_hangs)
    queue.run(concurrency=1)
    task = queue.finished(queue.publisher.publish("hangs", timeout=0.4, max_retries=0))

    assert task.error == "Timed out after 0.4 s."
    (attempt,) = queue.publisher.attempts(task.task_id)
    # Not all of the 0.4 s must be left for after the wait: what goes by before it counts too.
    assert (attempt.ended_at - attempt.started_at).total_seconds() >= waited[0] + 0.2


def test_while_one_call_of_a_handler_asks_its_time_counts_and_its_slot_is_its_own(queue: Queue, pool: Pool) -> None:
    full, free = pool.full(LONG), pool.limited()
    asked = threading.Event()

    async def hangs(endpoint: ApiEndpoint) -> None:
        asked.set()
        await asyncio.sleep(LONG)

    async def both(payload: Any) -> None:
        await asyncio.gather(full.achat("?", deadline=2 * LONG), free.acall_with_retry(hangs))

    queue.handlers.register("both", both)
    runner = queue.run(concurrency=1)
    task = queue.publisher.publish("both", timeout=0.5, max_retries=0)
    assert asked.wait(10)

    assert resting(runner) == 0
    assert queue.finished(task).error == "Timed out after 0.5 s."
    assert resting(runner) == 0
    assert queue.finished(queue.publisher.publish("echo", {"n": 2})).result == {"n": 2}


def test_while_all_calls_of_a_handler_wait_its_slot_is_free(queue: Queue, pool: Pool) -> None:
    managers = [pool.full(), pool.full()]

    async def both(payload: Any) -> list[str]:
        return [answer.text for answer in await asyncio.gather(*(manager.achat("?") for manager in managers))]

    queue.handlers.register("both", both)
    runner = queue.run(concurrency=1)
    task = queue.publisher.publish("both", timeout=WINDOW / 3, max_retries=0)
    wait_until(lambda: resting(runner), "the handler to wait")

    assert queue.finished(queue.publisher.publish("echo", {"n": 3})).result == {"n": 3}
    assert queue.finished(task).result == ["asked", "asked"]


@pytest.mark.parametrize("way", ["achat", "chat", "call", "in_a_thread_of_its_own", "astream"])
def test_a_task_cancelled_while_it_waits_ends_its_wait_and_takes_no_slot(
    queue: Queue, pool: Pool, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = pool.full(LONG)
    handler = ways(manager, 2 * LONG)[way]
    ended: list[BaseException] = []

    def noted(payload: Any) -> Any:
        try:
            return handler(payload)
        except BaseException as error:
            ended.append(error)
            raise

    async def anoted(payload: Any) -> Any:
        try:
            return await handler(payload)
        except BaseException as error:
            ended.append(error)
            raise

    queue.handlers.register("waits", anoted if asyncio.iscoroutinefunction(handler) else noted)
    runner = queue.run(concurrency=1)
    task = queue.publisher.publish("waits")
    wait_until(lambda: resting(runner), "the handler to wait")

    queue.publisher.cancel_task(task.task_id)
    wait_until(lambda: ended, "the handler to end")
    wait_until(lambda: not manager._pool.wait_queue.waiters, "its place in the line to be given up")

    assert resting(runner) == 0
    assert runner._executor._active == 0
    assert type(ended[0]) is (asyncio.CancelledError if asyncio.iscoroutinefunction(handler) else LeaseLost)
    assert "left behind" not in caplog.text
    assert queue.publisher.get_task(task.task_id).status == "cancelled"
    assert queue.finished(queue.publisher.publish("echo", {"n": 4})).result == {"n": 4}


@pytest.mark.parametrize("way", ["achat", "chat", "call"])
def test_a_runner_that_stops_gives_back_what_waits_and_waits_for_none_of_it(queue: Queue, pool: Pool, way: str) -> None:
    manager = pool.full(LONG)
    queue.handlers.register("waits", ways(manager, 2 * LONG)[way])
    runner = queue.run(concurrency=1)
    task = queue.publisher.publish("waits", timeout=0.2)
    wait_until(lambda: resting(runner), "the handler to wait")

    began = time.monotonic()
    runner.stop(30.0)

    assert time.monotonic() - began < 15
    assert queue.publisher.get_task(task.task_id).status == "pending"
    assert queue.outcomes(task) == ["interrupted"]
    assert resting(runner) == 0
    wait_until(lambda: not manager._pool.wait_queue.waiters, "its place in the line to be given up")


def test_no_more_of_a_handler_are_claimed_than_may_wait_and_others_are(
    queue: Queue, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resting_attempts, "FEWEST_FULL", 3)
    manager = pool.full(0.8)
    queue.handlers.register("waits", ways(manager)["achat"])
    runner = queue.run(concurrency=1)
    waiting = [queue.publisher.publish("waits", timeout=0.3) for _ in range(6)]
    wait_until(lambda: resting(runner) == 3, "three to wait")
    said = queue.publisher.why(waiting[-1].task_id)
    other = queue.finished(queue.publisher.publish("echo", {"n": 5}))

    assert other.result == {"n": 5}
    assert resting(runner) <= 3
    assert "3 tasks of this handler wait in the API pool already" in said
    assert [queue.finished(task).result for task in waiting] == ["asked"] * 6
    assert [queue.outcomes(task) for task in waiting] == [["completed"]] * 6


def test_enough_waiting_ai_calls_keep_back_those_of_every_capability(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {"ai_call", "ai_call@a", "ai_call:wait"}
    queue.handlers.register("ai_call", lambda payload: payload, capabilities=lambda: every)
    runner = TaskRunner(queue.store, queue.handlers)
    assert every <= runner._able()

    monkeypatch.setattr(runner._rests, "full", lambda: frozenset({"ai_call"}))

    assert not every & runner._able()
    assert "echo" in runner._able()


def test_a_lease_is_renewed_while_its_handler_waits(queue: Queue, pool: Pool) -> None:
    queue.handlers.register("waits", ways(pool.full())["chat"])
    queue.run(concurrency=1, lease=0.6)
    queue.run(concurrency=1, lease=0.6, handlers=builtin_handlers())
    task = queue.publisher.publish("waits", max_retries=0)

    assert queue.finished(task).result == "asked"
    assert queue.outcomes(task) == ["completed"]


def test_a_handler_that_is_done_before_its_calls_are_leaves_the_counts_right(queue: Queue, pool: Pool) -> None:
    manager = pool.full(0.5)
    left: list[asyncio.Task[Any]] = []

    async def leaves(payload: Any) -> str:
        left.append(asyncio.create_task(manager.achat("?")))
        await asyncio.sleep(0.1)
        return "done"

    queue.handlers.register("leaves", leaves)
    runner = queue.run(concurrency=1)
    assert queue.finished(queue.publisher.publish("leaves")).result == "done"
    assert resting(runner) == 0
    wait_until(left[0].done, "the call that was left to be over")

    assert left[0].result().text == "asked"
    assert resting(runner) == 0
    assert runner._executor._active == 0
    assert queue.finished(queue.publisher.publish("echo", {"n": 6})).result == {"n": 6}


def test_twenty_calls_with_short_timeouts_all_complete_at_their_limit(
    queue: Queue, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    manager = pool.limited(0.4, max_requests_per_minute=4)
    queue.handlers.register("asks", ways(manager)["achat"])
    queue.run(concurrency=2)
    with caplog.at_level(logging.INFO):
        tasks = [queue.publisher.publish("asks", timeout=0.3, max_retries=0) for _ in range(20)]
        assert [queue.finished(task).status for task in tasks] == ["completed"] * 20
    assert "failed" not in caplog.text
