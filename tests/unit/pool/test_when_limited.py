"""`when_limited`: whether a call that a limit keeps from the best endpoints asks the next ones or waits."""

import asyncio
import random
from collections import Counter

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.selection import STRATEGIES
from core.cloud.providers.fake import FakeProvider
from core.cloud.store.database import Database
from core.cloud.store.sqlite_pool_state import SqlitePoolState
from core.errors import AllEndpointsFailed, InvalidArgument
from tests.support.pool_world import HttpError, Server, World
from tests.support.waiting import wait_until

LIMITED = HttpError(429, {"retry-after": "20"})


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=["private", "shared"])
def manager(request, tmp_path, clock):
    """A manager whose pauses only move the clock."""
    if request.param == "private":
        yield ApiManager(clock=clock, rng=random.Random(3), sleep=clock.advance)
        return
    database = Database(str(tmp_path / "pool.db"))
    store = SqlitePoolState(database, clock=clock)
    yield ApiManager(store, clock=clock, rng=random.Random(3), sleep=clock.advance)
    store.close()
    database.close()


def add(manager, name, priority, **settings):
    settings = {"max_requests_per_minute": 0, **settings}
    manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example", priority=priority, **settings))


def answering(**errors):
    """A function that raises an endpoint's errors, one a call, and then returns its name."""
    left = {name: list(one) for name, one in errors.items()}

    def work(endpoint):
        if left.get(endpoint.name):
            raise left[endpoint.name].pop(0)
        return endpoint.name

    return work


def asked(manager, calls=1, work=None, **options):
    names = []
    for _ in range(calls):
        try:
            names.append(manager.call_with_retry(work or answering(), **options)[0])
        finally:
            manager._store.flush()  # what a writer's thread is about to write would come later, on this clock
    return names


@pytest.mark.parametrize(
    ("when_limited", "by"), [("next", {"a": 5, "b": 5}), ("", {"a": 5, "b": 5}), ("wait", {"a": 10})]
)
def test_ten_calls_at_five_a_minute_go_to_both_endpoints_or_wait_for_the_first(manager, clock, when_limited, by):
    add(manager, "a", 1, max_requests_per_minute=5)
    add(manager, "b", 2, max_requests_per_minute=5)
    assert Counter(asked(manager, 10, when_limited=when_limited)) == by
    assert clock.monotonic() < 0.1 if "b" in by else WINDOW <= clock.monotonic() <= WINDOW + 0.1


@pytest.mark.parametrize("error", [HttpError(503), HttpError(401), ConnectionError(), TimeoutError()])
def test_a_fault_of_the_first_endpoint_sends_the_call_to_the_second(manager, clock, error):
    add(manager, "a", 1)
    add(manager, "b", 2)
    assert asked(manager, 1, answering(a=[error]), when_limited="wait") == ["b"]
    assert clock.monotonic() < 0.01


def test_calls_come_back_to_the_first_endpoint_when_its_hold_is_over(manager, clock):
    add(manager, "a", 1)
    add(manager, "b", 2)
    work = answering(a=[HttpError(503)] * 3)
    assert asked(manager, 5, work, when_limited="wait") == ["b"] * 5
    clock.advance(5)
    assert asked(manager, 1, work, when_limited="wait") == ["b"]
    clock.advance(5)
    assert asked(manager, 2, work, when_limited="wait") == ["b", "b"]
    clock.advance(5)
    assert asked(manager, 3, work, when_limited="wait") == ["a"] * 3
    assert clock.monotonic() == pytest.approx(15, abs=0.1)


def test_a_429_is_waited_for_and_costs_no_attempt(manager, clock):
    add(manager, "a", 1)
    add(manager, "b", 2)
    work = answering(a=[LIMITED] * 4)
    assert asked(manager, 1, work, when_limited="wait", max_retries=2) == ["a"]
    assert 80 <= clock.monotonic() <= 81
    assert asked(manager, 1, answering(a=[LIMITED])) == ["b"]


def test_a_429_that_says_not_to_ask_again_sends_the_call_on(manager):
    add(manager, "a", 1)
    add(manager, "b", 2)
    refusal = HttpError(429, {"x-should-retry": "false"})
    assert asked(manager, 1, answering(a=[refusal]), when_limited="wait") == ["b"]


def test_another_callers_429_is_waited_for_too(manager, clock):
    add(manager, "a", 1)
    add(manager, "b", 2)
    assert asked(manager, 1, answering(a=[LIMITED])) == ["b"]
    assert asked(manager, 1, when_limited="wait") == ["a"]
    assert 20 <= clock.monotonic() <= 20.1


def test_a_call_that_cannot_wait_so_long_is_told_the_limit_and_the_way_out(manager, clock):
    add(manager, "a", 1, max_requests_per_minute=2)
    add(manager, "b", 2)
    asked(manager, 2)
    with pytest.raises(AllEndpointsFailed) as failure:
        asked(manager, 1, when_limited="wait", deadline=30)
    assert failure.value.retry_after == pytest.approx(WINDOW)
    assert "a: rate limit of 2 a minute, next slot in 61.0s" in failure.value.message
    assert 'b: not asked: when_limited="wait" stays with' in failure.value.message
    assert 'when_limited="next"' in failure.value.fix
    assert clock.monotonic() == 0.0


def test_the_days_budget_is_a_limit_that_is_waited_for(manager):
    add(manager, "a", 1, max_requests_per_day=1)
    add(manager, "b", 2)
    asked(manager)
    with pytest.raises(AllEndpointsFailed, match="daily limit \\(1 of 1 requests used today\\), next slot in"):
        asked(manager, 1, when_limited="wait")
    assert asked(manager) == ["b"]


def test_of_one_priority_those_that_are_able_take_the_calls_and_then_they_are_waited_for(manager, clock):
    add(manager, "a", 1, max_requests_per_minute=1)
    add(manager, "failed", 1)
    add(manager, "b", 2)
    with pytest.raises(AllEndpointsFailed):
        asked(manager, 1, answering(failed=[HttpError(401)]), endpoint="failed", max_retries=1)
    assert asked(manager, 1, when_limited="wait") == ["a"]
    with pytest.raises(AllEndpointsFailed, match="failed: held for"):
        asked(manager, 1, when_limited="wait", deadline=40)
    assert clock.monotonic() == 0.0


def test_with_the_first_priority_failed_the_second_is_waited_for_and_the_third_left_alone(manager, clock):
    add(manager, "a", 1)
    add(manager, "b", 2, max_requests_per_minute=1)
    add(manager, "c", 3)
    work = answering(a=[HttpError(401)])
    assert asked(manager, 2, work, when_limited="wait") == ["b", "a"]
    assert 60 <= clock.monotonic() <= WINDOW + 20  # its hold is over a little before or after the limit's minute


def test_endpoints_of_the_first_priority_keep_taking_turns(manager):
    for name in "ab":
        add(manager, name, 1)
    add(manager, "c", 2)
    assert sorted(asked(manager, 4, when_limited="wait")) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "priority"])
def test_other_strategies_treat_all_endpoints_alike_also_with_wait(manager, clock, strategy):
    add(manager, "a", 1, max_requests_per_minute=2)
    add(manager, "b", 2)
    assert Counter(asked(manager, 12, strategy=strategy, when_limited="wait"))["a"] <= 2
    assert clock.monotonic() < 0.1


def test_what_the_pool_was_set_to_holds_for_calls_that_do_not_say(clock):
    manager = ApiManager(clock=clock, rng=random.Random(3), sleep=clock.advance, when_limited="wait")
    add(manager, "a", 1, max_requests_per_minute=1)
    add(manager, "b", 2)
    assert asked(manager) == ["a"]
    assert asked(manager, 1, when_limited="next") == ["b"]
    assert asked(manager) == ["a"]
    assert clock.monotonic() >= WINDOW


async def test_chat_streams_and_async_calls_wait_as_well():
    provider = FakeProvider()
    manager = ApiManager(providers={"fake": provider}, when_limited="wait")
    add(manager, "a", 1, provider="fake", max_requests_per_minute=1)
    add(manager, "b", 2, provider="fake")
    assert (await manager.achat("hello")).endpoint == "a"
    with pytest.raises(AllEndpointsFailed, match="rate limit of 1 a minute"):
        await manager.achat("hello", deadline=5)
    with pytest.raises(AllEndpointsFailed, match="rate limit of 1 a minute"):
        [chunk async for chunk in manager.astream("hello", deadline=5)]
    with pytest.raises(AllEndpointsFailed, match="rate limit of 1 a minute"):
        await manager.acall_with_retry(lambda endpoint: endpoint.name, deadline=5)
    assert (await manager.achat("hello", when_limited="next")).endpoint == "b"
    chunks = [chunk async for chunk in manager.astream("hello", when_limited="next")]
    assert {chunk.endpoint for chunk in chunks} == {"b"}
    result, _ = await manager.acall_with_retry(lambda endpoint: endpoint.name, when_limited="next")
    assert result == "b"


async def test_a_full_endpoint_is_waited_for():
    manager = ApiManager()
    add(manager, "a", 1, max_concurrency=1)
    add(manager, "b", 2)
    gate = asyncio.Event()
    begun = asyncio.Event()

    async def work(endpoint):
        begun.set()
        await gate.wait()
        return endpoint.name

    first = asyncio.create_task(manager.acall_with_retry(work))
    await begun.wait()
    patient = [asyncio.create_task(manager.acall_with_retry(work, when_limited="wait")) for _ in range(3)]
    await asyncio.to_thread(wait_until, lambda: len(manager._pool.wait_queue.waiters) == 3, "three places in line")
    gate.set()
    assert (await manager.acall_with_retry(work))[0] in {"a", "b"}
    assert [result for result, _ in await asyncio.gather(first, *patient)] == ["a"] * 4


def test_calls_that_wait_keep_nobody_from_the_other_endpoints_and_start_in_the_order_they_came():
    world = World({"a": Server(), "b": Server()}, a=2)
    order = []
    for number in range(6):
        world.at(
            number / 100,
            lambda number=number: world.call(patient=True, deadline=300, then=lambda: order.append(number)),
        )
    world.at(1.0, lambda: world.call(then=lambda: order.append("another")))
    world.run()
    assert order == [0, 1, "another", 2, 3, 4, 5]
    assert [done.endpoint for done in world.done] == ["a", "a", "b", "a", "a", "a", "a"]


def test_a_call_that_waits_looks_again_when_a_better_endpoint_is_back():
    failing = Server(status=lambda t: 500 if t < 1 else 200)
    world = World({"a": failing, "b": Server()}, b=1)
    for _ in range(3):
        world.at(0.0, lambda: world.call(endpoint="a", max_attempts=1))
    world.at(0.1, lambda: world.call(patient=True))
    world.at(0.2, lambda: world.call(patient=True))
    world.run()
    assert [done.endpoint for done in world.done] == ["", "", "", "b", "a"]
    assert world.now < 10


@pytest.mark.parametrize("wrong", ["later", "Wait", 1])
async def test_another_value_is_refused_with_the_known_ones(wrong):
    manager = ApiManager()
    add(manager, "a", 1)
    for attempt in (
        lambda: ApiManager(when_limited=wrong),
        lambda: manager.call_with_retry(answering(), when_limited=wrong),
        lambda: manager.chat("hello", when_limited=wrong),
    ):
        with pytest.raises(InvalidArgument, match="when_limited must be next or wait"):
            attempt()
