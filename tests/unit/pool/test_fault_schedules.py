"""The fault schedules of the benchmark, in virtual time and with one set of defaults: what a pool must survive."""

import random

import pytest

from core.errors import AllEndpointsFailed
from tests.support.pool_world import HttpError, Server, World, most_in_window, percentile

STRATEGIES = ["priority", "least_latency", "round_robin", "random", "weighted", "least_busy"]
SEEDS = [1, 2, 3, 4, 5]


def outage(seed):
    rng = random.Random(seed)
    alpha = Server(status=lambda t: 500 if 8 <= t < 20 else 200)
    beta = Server(delay=lambda t: 2.0 if rng.random() < 0.3 else 0.02)
    gamma = Server(limit=120)
    return World({"alpha": alpha, "beta": beta, "gamma": gamma}, seed=seed, gamma=120)


def failures(world):
    return [done for done in world.done if done.error is not None]


def count(world, status):
    return sum(code == status for server in world.servers.values() for _, code in server.arrivals)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outage_costs_no_call_and_few_requests_and_ends_within_one_cool_down(seed):
    world = outage(seed)
    world.open_loop(20, 30)
    world.run()
    assert len(world.done) == 600
    assert failures(world) == []
    assert count(world, 500) <= 7  # holds of 0.5, 1, 2, 4, 4 s, each 20% either way
    assert count(world, 429) == 0
    back = min(t for t, status in world.servers["alpha"].arrivals if t >= 20 and status == 200)
    assert back - 20 <= 4.0 * 1.2 + 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_hedging_cuts_the_tail_of_an_outage_for_few_more_requests(seed):
    world = outage(seed)
    world.open_loop(20, 30, hedge_after=0.25)
    world.run()
    assert failures(world) == []
    assert percentile([done.latency for done in world.done], 0.99) <= 0.3
    sent = sum(len(server.arrivals) for server in world.servers.values())
    assert sent / 600 <= 1.25


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_errors_of_every_endpoint_cost_no_call(seed, strategy):
    rng = random.Random(seed)
    flaky = {name: Server(status=lambda t: 500 if rng.random() < 0.05 else 200) for name in ("alpha", "beta", "gamma")}
    world = World(flaky, seed=seed)
    world.open_loop(20, 30, strategy=strategy)
    world.run()
    assert failures(world) == []
    assert percentile([done.latency for done in world.done], 0.99) <= 0.06


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limit_nobody_told_us_draws_one_429_for_each_of_its_windows(seed):
    servers = {
        "alpha": Server(limit=30, window=5),
        "beta": Server(limit=30, window=5),
        "gamma": Server(delay=lambda t: 0.2),
    }
    world = World(servers, seed=seed)
    world.open_loop(20, 30)
    world.run()
    assert failures(world) == []
    assert count(world, 429) <= 12


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bad_request_is_sent_once_and_blames_nobody(strategy):
    servers = {name: Server(status=lambda t: 400 if t < 5 else 200) for name in ("alpha", "beta", "gamma")}
    world = World(servers)
    world.open_loop(20, 30, strategy=strategy)
    world.run()
    early = [done for done in world.done if done.at < 5]
    assert count(world, 400) == len(early) == 100
    assert all(isinstance(done.error, HttpError) for done in early)
    assert [done for done in world.done if done.at >= 5 and done.error] == []
    assert all(info["status"] == "active" for info in world.managers[0].get_stats()["endpoints"].values())


def test_a_lone_endpoint_with_random_errors_is_not_held_out():
    rng = random.Random(4)
    world = World({"only": Server(status=lambda t: 500 if rng.random() < 0.05 else 200)})
    world.open_loop(20, 60)
    world.run()
    assert failures(world) == []
    assert percentile([done.latency for done in world.done], 0.9) <= 0.05


def test_a_dead_endpoint_that_is_alone_is_asked_by_probes_only_and_found_alive_within_its_cool_down():
    world = World({"only": Server(status=lambda t: 500 if t < 60 else 200)})
    world.open_loop(20, 120, deadline=10.0)
    world.run()
    dead = [t for t, status in world.servers["only"].arrivals if status == 500]
    # Three failures in a row trip it; then a probe after each hold, the longest being 4 s (less 20%).
    assert len(dead) <= 3 + 3 + 60 / (4 * 0.8)
    assert min(t for t, status in world.servers["only"].arrivals if status == 200) <= 60 + 4 * 1.2 + 0.1
    assert [done for done in world.done if done.at > 66 and done.error] == []
    told = failures(world)[-1].error
    assert isinstance(told, AllEndpointsFailed)


def test_callers_that_never_stop_asking_get_the_whole_limit_and_not_one_more():
    world = World({"only": Server()}, only=60)

    def ask_again():
        if world.now < 600:
            world.at(world.now, lambda: world.call(then=ask_again, deadline=1e9))

    for _ in range(100):
        ask_again()
    world.run(until=600)
    times = [t for t, _ in world.servers["only"].arrivals]
    assert most_in_window(times, 60.0) == 60
    assert len(times) >= 57 * 10


def test_days_of_traffic_over_failing_endpoints_lose_no_call_that_could_be_served():
    rng = random.Random(9)
    outages = {name: sorted(rng.uniform(0, 86_400) for _ in range(12)) for name in ("alpha", "beta")}

    def status(name):
        return lambda t: 503 if any(begin <= t < begin + 120 for begin in outages[name]) else 200

    world = World({"alpha": Server(status("alpha")), "beta": Server(status("beta")), "gamma": Server()}, gamma=600)
    world.open_loop(0.5, 86_400)
    world.run()
    assert len(world.done) == 43_200
    assert failures(world) == []
    # 24 outages of 120 s, each with a probe every 3.2 to 4.8 s, on calls 2 s apart.
    assert count(world, 503) <= 24 * (5 + 120 / 3.2)
