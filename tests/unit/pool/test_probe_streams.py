"""A probe that is a stream: its first token brings the endpoint back, and its end is counted all the same."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.health import Health
from core.cloud.pool.outcome import OK, Outcome, OutcomeClass
from core.cloud.provider import ProviderError
from core.cloud.providers.fake import FakeProvider, FakeStep
from core.cloud.store.database import Database
from core.cloud.store.sqlite_pool_state import SqlitePoolState
from core.errors import AllEndpointsFailed
from tests.support.waiting import wait_until


@pytest.fixture(params=["private", "shared"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ApiManager, FakeProvider, ManualClock]]:
    clock, fake = ManualClock(), FakeProvider()
    store = None
    if request.param == "shared":
        store = SqlitePoolState(Database(str(tmp_path / "pool.db")), clock=clock)
    manager = ApiManager(store, clock=clock, providers={"fake": fake}, sleep=lambda _: None)
    manager.add_endpoint(ApiEndpoint("only", "fake://", provider="fake", max_requests_per_minute=0))
    yield manager, fake, clock
    if store is not None:
        store.close()


HELD: dict[str, list[FakeStep]] = {
    "three failures": [FakeStep(status=500)] * 3,
    "three lost connections": [FakeStep(fail="connect")] * 3,
    "a wrong key": [FakeStep(status=401)],
    "no credit": [FakeStep(status=402)],
    "a rate limit": [FakeStep(status=429, retry_after=9)],
    "an overload": [FakeStep(status=529)],
}


async def held(world: tuple[ApiManager, FakeProvider, ManualClock], steps: list[FakeStep]) -> None:
    """The endpoint has failed for good, and its hold is over."""
    manager, fake, clock = world
    fake.script("only", *steps)
    for _ in steps:
        with pytest.raises(AllEndpointsFailed):
            await manager.achat("hi", max_retries=1, deadline=0.001)
        clock.advance(5)
    assert manager._pool.get("only").state.health.hard
    clock.advance(700)


def is_open(manager: ApiManager) -> bool:
    """Nothing is held against the endpoint."""
    return manager._pool.get("only").state.health.clean


def info(manager: ApiManager) -> dict[str, Any]:
    found: dict[str, Any] = manager.get_stats()["endpoints"]["only"]
    return found


@pytest.mark.parametrize("steps", HELD.values(), ids=HELD)
async def test_the_first_token_of_a_probe_lets_others_call(
    world: tuple[ApiManager, FakeProvider, ManualClock], steps: list[FakeStep]
) -> None:
    manager, fake, _ = world
    await held(world, steps)
    fake.script("only", FakeStep(text="one two three"), FakeStep(text="four"), FakeStep(text="five"))
    chunks = manager.astream("hi", deadline=60)
    assert (await anext(chunks)).text == "one "
    assert [(await manager.achat("hi", deadline=0.01)).text for _ in range(2)] == ["four", "five"]
    assert is_open(manager)
    assert "".join([chunk.text async for chunk in chunks]) == "two three"
    assert len(fake.calls) == len(steps) + 3
    assert info(manager)["in_flight"] == 0
    # What another thread is just writing down is not in the books yet.
    await asyncio.to_thread(wait_until, lambda: info(manager)["calls"] == len(fake.calls), "all calls counted")


async def test_until_the_first_token_others_wait(world: tuple[ApiManager, FakeProvider, ManualClock]) -> None:
    manager, _, _ = world
    await held(world, HELD["a wrong key"])
    state = manager._pool.get("only").state
    token = state.admit(manager._clock)
    assert isinstance(token, int)
    with pytest.raises(AllEndpointsFailed):
        await manager.achat("hi", deadline=0.01)


async def test_a_probe_that_breaks_off_after_its_first_token_is_a_failure_like_any_other(
    world: tuple[ApiManager, FakeProvider, ManualClock],
) -> None:
    manager, fake, clock = world
    await held(world, HELD["three failures"])
    fake.script("only", FakeStep(text="one two", fail="cut"))
    with pytest.raises(ProviderError):
        _ = [chunk async for chunk in manager.astream("hi", deadline=60)]
    assert not is_open(manager)
    await asyncio.to_thread(wait_until, lambda: info(manager)["outcomes"]["transient"] == 4, "the failure counted")
    clock.advance(5)
    fake.script("only", FakeStep(text="four"))
    assert (await manager.achat("hi", deadline=0.01)).text == "four"
    assert is_open(manager)


async def test_a_probe_that_is_left_after_its_first_token_leaves_the_endpoint_open(
    world: tuple[ApiManager, FakeProvider, ManualClock],
) -> None:
    manager, _, _ = world
    await held(world, HELD["three failures"])
    chunks = manager.astream("hi there", deadline=60)
    await anext(chunks)
    await chunks.aclose()
    assert is_open(manager)
    assert info(manager)["in_flight"] == 0


async def test_streams_that_always_break_off_fail_the_endpoint_in_the_end(
    world: tuple[ApiManager, FakeProvider, ManualClock],
) -> None:
    manager, fake, clock = world
    fake.script("only", FakeStep(text="one two", fail="cut", times=0))
    for _ in range(3):
        with pytest.raises(ProviderError):
            _ = [chunk async for chunk in manager.astream("hi", deadline=60)]
        clock.advance(5)
    assert info(manager)["status"] == "failed"


def test_only_the_probe_ends_the_probe() -> None:
    health = Health()
    for at in (1.0, 2.0, 3.0):
        health.failed(Outcome(OutcomeClass.TRANSIENT), at, at, 0.0)
        health.held_until = at
    health.begin(7, 20.0)
    health.first_token(6, 0.5)
    assert (health.probe, health.failures) == (7, 3)
    health.first_token(7, 4.0)
    assert (health.probe, health.clean) == (0, True)
    assert OK.kind is OutcomeClass.OK
