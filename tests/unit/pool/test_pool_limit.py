"""The limit of the whole pool, as its callers meet it."""

import random
from collections import Counter

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.pool.rate_limit import MINUTE, WINDOW
from core.cloud.store import open_store
from core.errors import AllEndpointsFailed, InvalidArgument
from tests.support.pool_world import Server, World, most_in_window


def pool(clock, limit, **limits):
    manager = ApiManager(clock=clock, rng=random.Random(3), sleep=clock.advance, max_per_minute=limit)
    for priority, (name, own) in enumerate(limits.items(), 1):
        manager.add_endpoint(
            ApiEndpoint(name, f"https://{name}.example", priority=priority, max_requests_per_minute=own)
        )
    return manager


def asked(manager, calls, **options):
    return Counter(manager.call_with_retry(lambda endpoint: endpoint.name, **options)[0] for _ in range(calls))


def test_the_whole_pool_starts_no_more_than_its_limit_and_calls_wait_for_it():
    clock = ManualClock()
    manager = pool(clock, 6, a=4, b=0)
    assert asked(manager, 6) == {"a": 4, "b": 2}
    assert clock.monotonic() < 0.1
    assert asked(manager, 6) == {"a": 4, "b": 2}
    assert WINDOW <= clock.monotonic() < WINDOW + 0.1
    assert manager.get_stats()["rate_limit"] == "6/6"


def test_a_call_that_cannot_wait_so_long_is_told_the_pools_limit():
    clock = ManualClock()
    manager = pool(clock, 2, a=0, b=0)
    asked(manager, 2)
    with pytest.raises(AllEndpointsFailed, match=r"a: the pool's limit of 2 a minute, next slot in 61\.0s") as failure:
        asked(manager, 1, deadline=30)
    assert failure.value.retry_after == pytest.approx(WINDOW)


def test_the_pools_limit_is_no_reason_to_leave_the_best_endpoint_for_a_call_that_waits():
    clock = ManualClock()
    manager = pool(clock, 2, a=0, b=0)
    assert asked(manager, 6, when_limited="wait") == {"a": 6}
    assert 2 * WINDOW <= clock.monotonic() < 2 * WINDOW + 0.1


def test_retries_and_fail_overs_count_for_the_pools_limit():
    server, backup = Server(status=lambda t: 503), Server()
    world = World({"a": server, "b": backup})
    world.managers[0]._store.max_per_minute = 10
    for number in range(60):
        world.at(number / 10, lambda: world.call(deadline=1000.0))
    world.run()
    arrivals = [t for one in (server, backup) for t, _ in one.arrivals]
    assert most_in_window(arrivals, MINUTE) == 10
    assert {done.endpoint for done in world.done} == {"b"}


def test_callers_that_wait_for_the_pool_use_every_slot_in_the_order_they_came():
    servers = {"a": Server(), "b": Server()}
    world = World(servers, a=7)
    world.managers[0]._store.max_per_minute = 10
    order = []
    for number in range(40):
        world.at(number / 100, lambda number=number: world.call(deadline=400.0, then=lambda: order.append(number)))
    world.run()
    assert order == list(range(40))
    arrivals = sorted(t for server in servers.values() for t, _ in server.arrivals)
    assert most_in_window(arrivals, MINUTE) == 10
    assert arrivals[-1] < 3 * WINDOW + 0.5


def test_a_manager_that_does_not_say_leaves_the_limit_of_its_store(tmp_path):
    for store in (PrivatePoolState(), open_store(str(tmp_path / "pool.db")).pool):
        ApiManager(store, max_per_minute=3)
        ApiManager(store)
        assert store.max_per_minute == 3
        ApiManager(store, max_per_minute=0)
        assert store.max_per_minute == 0
        assert "rate_limit" not in ApiManager(store).get_stats()


@pytest.mark.parametrize("wrong", [-1, 2.5, "60", True, 10**7])
def test_a_limit_that_is_no_number_of_requests_is_refused(wrong):
    with pytest.raises(InvalidArgument, match="max_per_minute must be a whole number"):
        ApiManager(max_per_minute=wrong)
