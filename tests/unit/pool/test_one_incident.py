"""Many calls that meet one incident: it is charged once, and what is not tried again says why."""

import random

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.errors import AllEndpointsFailed
from tests.support.pool_world import HttpError, Server, World

INCIDENTS = {
    "a server that restarts: 503 to all": {"status": lambda t: 503 if t < 0.01 else 200},
    "a proxy in between: 502 to all": {"status": lambda t: 502 if t < 0.01 else 200},
    "a server that closes its idle connections: 408 to all": {"status": lambda t: 408 if t < 0.01 else 200},
    "a burst above its limit: 429 to all": {"status": lambda t: 429 if t < 0.01 else 200},
    "overloaded: 529 to all": {"status": lambda t: 529 if t < 0.01 else 200},
    "a network that was gone for a moment: no answer to any": {"delay": lambda t: 99.0 if t < 0.01 else 0.02},
    "a conflict of all: 409": {"status": lambda t: 409 if t < 0.01 else 200},
}


@pytest.mark.parametrize("count", [5, 20, 200])
@pytest.mark.parametrize("incident", INCIDENTS.values(), ids=INCIDENTS)
def test_calls_that_meet_one_incident_are_all_tried_again(incident, count):
    world = World({"a": Server(**incident)})
    for _ in range(count):
        world.at(0.0, world.call)
    world.run()
    assert [done.error for done in world.done] == [None] * count
    member = world.managers[0]._pool.get("a")
    assert member.budget.tokens >= 8.0
    assert member.state.health.clean


def test_an_outage_that_goes_on_stops_the_retries():
    server = Server(status=lambda t: 503)
    world = World({"a": server})
    world.open_loop(20, 30)
    world.run()
    assert len(server.arrivals) < 1.2 * 20 * 30
    assert all(isinstance(done.error, AllEndpointsFailed) for done in world.done)


def test_incidents_one_after_the_other_are_charged_each():
    clock = ManualClock()
    manager = ApiManager(clock=clock, rng=random.Random(1), sleep=clock.advance)
    manager.add_endpoint(ApiEndpoint("a", "https://a.example", max_requests_per_minute=0))

    def fail(endpoint):
        raise HttpError(503)

    for charged in range(1, 5):
        with pytest.raises(AllEndpointsFailed):
            manager.call_with_retry(fail, max_retries=1)
        assert manager._pool.get("a").budget.tokens == 10.0 - charged
        clock.advance(10.0)


@pytest.mark.parametrize("names", ["a", "ab"])
def test_an_error_says_why_nothing_more_was_tried(names):
    clock = ManualClock()
    manager = ApiManager(clock=clock, rng=random.Random(1), sleep=clock.advance)
    for name in names:
        manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example", max_requests_per_minute=0))

    def fail(endpoint):
        clock.advance(0.1)
        raise HttpError(503)

    why = "too many of its recent calls failed to spend more retries on it"
    for _ in range(20):
        with pytest.raises(AllEndpointsFailed) as failed:
            manager.call_with_retry(fail, max_retries=3)
        clock.advance(60.0)
    assert len(failed.value.attempts) == 1
    asked = failed.value.attempts[0].endpoint
    assert f"- {asked}: not asked again: {why}" in str(failed.value)
    for other in set(names) - {asked}:
        assert f"- {other}: not asked: {why}" in str(failed.value)
