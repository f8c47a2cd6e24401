"""Calls that wait for a slot: in order, one awake at a time, and none in another's way without need."""

import asyncio
import random
import threading
from contextlib import closing

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.wait_queue import EVERYONE, PATIENCE, WaitQueue
from core.cloud.store import open_store
from core.errors import AllEndpointsFailed
from tests.support.pool_world import HttpError, Server, World, most_in_window
from tests.support.waiting import wait_until

CALLERS = 60


@pytest.fixture(params=["private", "shared"])
def manager(request, tmp_path):
    store = open_store(str(tmp_path / "pool.db")) if request.param == "shared" else None
    manager = ApiManager(store and store.pool)
    yield manager
    manager.close()
    if store is not None:
        store.close()


def add(manager, name="a", **settings):
    settings = {"max_requests_per_minute": 0, **settings}
    manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example", **settings))


def count_questions(manager, name="a"):
    """Counts how often the endpoint's book is asked for a slot."""
    state = manager._pool.get(name).state
    questions = []

    class Counted:
        def __getattr__(self, attribute):
            return getattr(state, attribute)

        def admit(self, clock, **options):
            questions.append(1)
            return state.admit(clock, **options)

    manager._pool.get(name).state = Counted()
    return questions


async def test_a_full_endpoint_serves_its_callers_in_the_order_they_came(manager):
    add(manager, max_concurrency=1)
    gate = asyncio.Event()
    served = []

    async def caller(number):
        async def work(endpoint):
            await gate.wait()
            served.append(number)
            await asyncio.sleep(0)

        await manager.acall_with_retry(work)

    tasks = []
    for number in range(CALLERS):
        tasks.append(asyncio.create_task(caller(number)))
        await asyncio.to_thread(
            wait_until, lambda number=number: len(manager._pool.wait_queue.waiters) >= number, "a place"
        )
    questions = count_questions(manager)
    gate.set()
    await asyncio.gather(*tasks)
    assert served == list(range(CALLERS))
    assert manager._pool.wait_queue.waiters == []
    # One refusal a slot, and the first in line may look now and then whether another process freed one.
    assert len(questions) <= 6 * CALLERS


def test_threads_are_served_in_the_order_they_came(manager):
    add(manager, max_concurrency=1)
    gate = threading.Event()
    served = []

    def caller(number):
        def work(endpoint):
            assert gate.wait(20)
            served.append(number)

        manager.call_with_retry(work)

    threads = []
    for number in range(20):
        threads.append(threading.Thread(target=caller, args=(number,)))
        threads[-1].start()
        wait_until(lambda number=number: len(manager._pool.wait_queue.waiters) >= number, "a place in line")
    gate.set()
    for thread in threads:
        thread.join(20)
    assert served == list(range(20))


def test_callers_that_wait_for_a_limit_wake_one_by_one_and_use_every_slot():
    server = Server(delay=lambda t: 0.01)
    world = World({"a": server}, a=10)
    asked = []
    state = world.managers[0]._pool.get("a").state
    admit = state.admit

    class Counted:
        def __getattr__(self, attribute):
            return getattr(state, attribute)

        def admit(self, clock, **options):
            asked.append(world.now)
            return admit(clock, **options)

    world.managers[0]._pool.get("a").state = Counted()
    order = []
    for number in range(50):
        world.at(number / 100, lambda number=number: world.call(deadline=400.0, then=lambda: order.append(number)))
    world.run()
    assert order == list(range(50))
    times = [at for at, _ in server.arrivals]
    assert most_in_window(times, 60.0) == 10
    assert times[-1] <= 4 * WINDOW + 2.0
    assert len(asked) <= 50 * 3


def test_who_waits_for_one_endpoint_stands_in_nobodys_way_to_another(manager):
    add(manager, "a", max_concurrency=1)
    add(manager, "b")
    busy, gate = threading.Event(), threading.Event()

    def hold(endpoint):
        busy.set()
        assert gate.wait(20)

    holder = threading.Thread(target=manager.call_with_retry, args=(hold,), kwargs={"endpoint": "a"})
    holder.start()
    assert busy.wait(20)
    waiter = threading.Thread(target=manager.call_with_retry, args=(lambda one: None,), kwargs={"endpoint": "a"})
    waiter.start()
    wait_until(lambda: manager._pool.wait_queue.waiters, "a place in line")
    assert manager.call_with_retry(lambda endpoint: endpoint.name)[0] == "b"
    gate.set()
    holder.join(20)
    waiter.join(20)
    assert not waiter.is_alive()


async def test_a_caller_that_leaves_while_it_is_admitted_costs_nobody_a_slot(tmp_path):
    with closing(open_store(str(tmp_path / "pool.db"))) as store, ApiManager(store.pool) as manager:
        add(manager, max_requests_per_minute=1, max_requests_per_day=1)
        held = threading.Event()
        manager._pool.executor.submit(held.wait, 10)  # so that both ask for the slot before either has it

        async def work(endpoint):
            return "asked"

        leaves, stays = [asyncio.create_task(manager.acall_with_retry(work, deadline=300)) for _ in range(2)]
        await asyncio.sleep(0)
        leaves.cancel()
        held.set()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        async with asyncio.timeout(10):
            assert (await stays)[0] == "asked"
        info = manager.get_stats()["endpoints"]["a"]
        assert (info["in_flight"], info["outcomes"]) == (0, {"ok": 1})
        with pytest.raises(AllEndpointsFailed):
            await manager.acall_with_retry(work, deadline=0.1)


async def test_a_slot_given_back_wakes_the_first_that_waits_for_it(manager):
    add(manager, max_requests_per_minute=1)
    pool = manager._pool
    member = pool.get("a")
    token = member.state.admit(pool.clock)

    async def work(endpoint):
        return "asked"

    waits = asyncio.create_task(manager.acall_with_retry(work, deadline=300))
    assert await asyncio.to_thread(wait_until, lambda: pool.wait_queue.waiters, "it to wait")
    pool.give_back(member, token)
    async with asyncio.timeout(10):
        assert (await waits)[0] == "asked"


async def test_a_waiter_that_is_cancelled_or_gives_up_lets_the_next_one_pass(manager):
    add(manager, max_concurrency=1)
    gate, began = asyncio.Event(), asyncio.Event()

    async def hold(endpoint):
        began.set()
        await gate.wait()

    async def quick(endpoint):
        return "served"

    holder = asyncio.create_task(manager.acall_with_retry(hold))
    await began.wait()
    impatient = asyncio.create_task(manager.acall_with_retry(quick, deadline=0.2))
    cancelled = asyncio.create_task(manager.acall_with_retry(quick))
    patient = asyncio.create_task(manager.acall_with_retry(quick))
    await asyncio.to_thread(wait_until, lambda: len(manager._pool.wait_queue.waiters) == 3, "three in line")
    with pytest.raises(AllEndpointsFailed, match="busy"):
        await impatient
    cancelled.cancel()
    gate.set()
    assert (await patient)[0] == "served"
    await holder
    assert manager._pool.wait_queue.waiters == []


def test_a_waiter_whose_event_loop_is_gone_is_passed_over(monkeypatch):
    monkeypatch.setattr("core.cloud.pool.call.LOOK_AROUND", 0.1)
    monkeypatch.setattr("core.cloud.pool.wait_queue.PATIENCE", 0.05)
    manager = ApiManager()
    add(manager, max_concurrency=1)
    busy, gate = threading.Event(), threading.Event()

    def hold(endpoint):
        busy.set()
        assert gate.wait(20)

    holder = threading.Thread(target=manager.call_with_retry, args=(hold,))
    holder.start()
    assert busy.wait(20)
    loop = asyncio.new_event_loop()
    lost = loop.create_task(manager.acall_with_retry(lambda endpoint: None))
    while not manager._pool.wait_queue.waiters:
        loop.run_until_complete(asyncio.sleep(0.001))
    gate.set()
    holder.join(20)
    # Its loop does not run any more, and it stands first in line.
    assert manager.call_with_retry(lambda endpoint: endpoint.name, deadline=20.0)[0] == "a"
    lost.cancel()
    loop.run_until_complete(asyncio.gather(lost, return_exceptions=True))
    loop.close()
    assert manager._pool.wait_queue.waiters == []


def test_a_call_that_rests_before_asking_the_same_endpoint_again_does_not_hold_others_up():
    clock = ManualClock()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 1:
            assert manager.call_with_retry(lambda endpoint: "other")[0] == "other"
            assert slept == [seconds]
        clock.advance(seconds)

    manager = ApiManager(clock=clock, rng=random.Random(5), sleep=sleep)
    add(manager)
    errors = [HttpError(503)]

    def work(endpoint):
        if errors:
            raise errors.pop()
        return "mine"

    assert manager.call_with_retry(work)[0] == "mine"


class TestLine:
    def test_the_first_that_wants_an_endpoint_is_called_when_it_is_freed(self):
        line = WaitQueue(ManualClock())
        a, b = object(), object()
        waiters = [line.join(None, frozenset(wants)) for wants in ([a], [a], [b], [a, b])]
        line.freed(b)
        assert [turn.called for turn in waiters] == [False, False, True, False]

    def test_who_leaves_calls_those_that_are_now_first(self):
        line = WaitQueue(ManualClock())
        a, b = object(), object()
        wants = [EVERYONE, frozenset([a]), frozenset([a]), frozenset([b]), EVERYONE, EVERYONE]
        waiters = [line.join(None, want) for want in wants]
        line.leave(waiters[0])
        assert [turn.called for turn in waiters[1:]] == [True, False, True, True, False]

    def test_who_was_due_and_did_not_come_is_no_longer_ahead(self):
        clock = ManualClock()
        line = WaitQueue(clock)
        turn = line.join(None, EVERYONE)
        turn.due = clock.monotonic() + 5.0
        clock.advance(5.0 + PATIENCE)
        assert line.ahead(None) is EVERYONE
        clock.advance(0.1)
        assert line.ahead(None) == set()
        assert line.join(turn, EVERYONE) is turn
        assert line.waiters == [turn]
