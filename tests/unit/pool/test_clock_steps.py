"""A wall clock that is put back or forward while the pool is in use: nothing freezes, nothing ends early."""

import random

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.admission import Refusal, Refused
from core.cloud.pool.selection import STRATEGIES
from core.cloud.store import open_store
from core.errors import AllEndpointsFailed
from tests.support.pool_world import HttpError

HOUR = 3600.0


@pytest.fixture(params=["private", "shared"])
def world(request, tmp_path):
    """A clock and a manager on it, whose pauses only move the clock."""
    clock = ManualClock()
    store = open_store(str(tmp_path / "pool.db")) if request.param == "shared" else None
    manager = ApiManager(store and store.pool, clock=clock, rng=random.Random(1), sleep=clock.advance)
    yield clock, manager
    manager.close()
    if store is not None:
        store.close()


def add(manager, **settings):
    manager.add_endpoint(ApiEndpoint("a", "https://a.example", **settings))


def name_of(endpoint):
    return endpoint.name


@pytest.mark.parametrize("step", [-HOUR, -40.0, HOUR])
def test_a_full_limit_waits_no_longer_than_its_window_when_the_clock_is_put(world, step):
    clock, manager = world
    add(manager, max_requests_per_minute=1)
    manager.call_with_retry(name_of)
    with pytest.raises(AllEndpointsFailed):
        manager.call_with_retry(name_of, deadline=1.0)
    clock.set_now(clock.now() + step)
    assert manager.call_with_retry(name_of, deadline=70.0)[0] == "a"
    assert clock.monotonic() <= 62.0


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_hold_lasts_no_longer_when_the_clock_is_put(world, step):
    clock, manager = world
    add(manager)

    def throttled(endpoint):
        raise HttpError(429, {"retry-after": "20"})

    with pytest.raises(AllEndpointsFailed):
        manager.call_with_retry(throttled, max_retries=1)
    clock.set_now(clock.now() + step)
    assert manager.call_with_retry(name_of, deadline=30.0)[0] == "a"
    assert clock.monotonic() <= 21.0


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_call_that_waits_while_the_clock_is_put_keeps_its_deadline(world, step):
    clock, manager = world
    add(manager, max_requests_per_minute=1)
    manager.call_with_retry(name_of)

    def sleep(seconds):
        clock.advance(seconds)
        if abs(clock.now() - clock.monotonic() - 1_750_000_000.0) < HOUR / 2:
            clock.set_now(clock.now() + step)

    manager._sleep = sleep
    assert manager.call_with_retry(name_of, deadline=125.0)[0] == "a"
    assert clock.monotonic() <= 125.0


def test_an_attempt_gets_the_time_its_deadline_leaves_when_the_clock_is_put(world):
    clock, manager = world
    add(manager, timeout=30.0)
    calls = 0

    def work(endpoint):
        nonlocal calls
        calls += 1
        clock.set_now(clock.now() + HOUR * (-1) ** calls)
        if calls < 3:
            raise ConnectionError
        return endpoint.name

    assert manager.call_with_retry(work, deadline=60.0)[0] == "a"
    assert calls == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("step", [-HOUR, -100 * HOUR, 100 * HOUR])
def test_every_strategy_goes_on_using_both_endpoints_when_the_clock_is_put(world, strategy, step):
    clock, manager = world
    for name in "ab":
        manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example", max_requests_per_minute=0))

    def work(endpoint):
        clock.advance(0.1 if endpoint.name == "a" else 0.2)
        return endpoint.name

    for _ in range(5):
        manager.call_with_retry(work, strategy=strategy)
    clock.set_now(clock.now() + step)
    used = set()
    for _ in range(40):
        used.add(manager.call_with_retry(work, strategy=strategy)[0])
        clock.advance(30.0)
    assert used == {"a", "b"}


def test_a_refusal_holds_although_what_is_known_of_the_health_is_of_before_the_clock_was_put_back(world):
    """Or the call that waits asks again at once, for as long as the refusal is not asked of the database anew."""
    clock, manager = world
    add(manager, max_requests_per_minute=1)

    def fails(endpoint):
        raise HttpError(500)

    with pytest.raises(AllEndpointsFailed):
        manager.call_with_retry(fails, max_retries=1)
    clock.set_now(clock.now() - HOUR)
    pool = manager._pool
    member, now = pool.get("a"), pool.time()
    member.refused(Refused(Refusal.LIMITED, now + 30.0), now)
    assert min(member.ready_at, member.last_resort_at) >= now + 30.0
