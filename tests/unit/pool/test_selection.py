"""Which endpoint a call goes to."""

import random
from collections import Counter

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.selection import STRATEGIES
from core.errors import InvalidArgument


@pytest.fixture
def clock():
    return ManualClock()


def pool(clock, **endpoints):
    manager = ApiManager(clock=clock, rng=random.Random(7))
    for name, settings in endpoints.items():
        manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example", max_requests_per_minute=0, **settings))
    return manager


def used(manager, strategy, calls=1, work=lambda endpoint: None):
    return [manager.call_with_retry(work, strategy=strategy)[1].name for _ in range(calls)]


def test_an_unknown_strategy_is_refused_with_the_known_ones(clock):
    with pytest.raises(InvalidArgument, match="priority, least_latency, round_robin, random, weighted, least_busy"):
        pool(clock, a={}).call_with_retry(lambda endpoint: None, strategy="fastest")


def test_the_lower_priority_number_is_preferred_whatever_the_order_of_adding(clock):
    assert used(pool(clock, backup={"priority": 2}, main={"priority": 1}), "priority", 3) == ["main"] * 3


def test_endpoints_of_one_priority_take_turns(clock):
    manager = pool(clock, a={}, b={}, c={"priority": 2})
    assert sorted(used(manager, "priority", 4)) == ["a", "a", "b", "b"]


def test_round_robin_takes_turns_over_all_priorities(clock):
    assert used(pool(clock, a={"priority": 3}, b={}, c={"priority": 2}), "round_robin", 6) == ["a", "b", "c"] * 2


def test_weighted_calls_follow_the_weights(clock):
    counts = Counter(used(pool(clock, a={"weight": 3.0}, b={}), "weighted", 2000))
    assert 0.70 < counts["a"] / 2000 < 0.80


def test_random_uses_all(clock):
    counts = Counter(used(pool(clock, a={}, b={}, c={}), "random", 900))
    assert all(count > 200 for count in counts.values())


def test_least_latency_tries_all_endpoints_before_it_settles_on_the_fastest(clock):
    manager = pool(clock, a={}, b={}, c={})
    speeds = {"a": 0.5, "b": 0.1, "c": 0.9}
    names = used(manager, "least_latency", 20, lambda endpoint: clock.advance(speeds[endpoint.name]))
    assert set(names[:3]) == {"a", "b", "c"}
    assert set(names[3:]) == {"b"}


def test_least_latency_comes_back_to_an_endpoint_that_was_slow_once(clock):
    manager = pool(clock, a={}, b={})
    slow = {"a": 5.0, "b": 0.1}
    used(manager, "least_latency", 2, lambda endpoint: clock.advance(slow[endpoint.name]))
    slow["a"] = 0.01
    names = used(manager, "least_latency", 1000, lambda endpoint: clock.advance(slow[endpoint.name]))
    assert names[-1] == "a"


@pytest.mark.parametrize("count", [3, 40])
def test_least_busy_spreads_calls_that_overlap(clock, count):
    manager = pool(clock, **{f"e{index}": {} for index in range(count)})
    depth = Counter()

    def nested(level):
        def work(endpoint):
            depth[endpoint.name] += 1
            if level:
                manager.call_with_retry(nested(level - 1), strategy="least_busy")

        return work

    manager.call_with_retry(nested(2 * count - 1), strategy="least_busy")
    assert max(depth.values()) <= (2 if count == 3 else 5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 2, 5, 300])
def test_every_strategy_finds_the_one_endpoint_that_is_ready(clock, strategy, count):
    manager = pool(clock, **{f"e{index}": {"priority": index % 3} for index in range(count)})
    for member in list(manager._pool.members.values())[:-1]:
        member.ready_at = clock.monotonic() + 100
    assert used(manager, strategy, 3) == [f"e{count - 1}"] * 3
