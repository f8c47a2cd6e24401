"""Tokens a minute: reserved by an estimate, corrected by what a call took."""

import asyncio
import random
from collections import Counter

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool import token_limit
from core.cloud.pool.chat_call import request_of
from core.cloud.pool.outcome import CANCELLED, OK, classify
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.tally import Report
from core.cloud.pool.token_limit import (
    FIRST_ANSWER,
    FIRST_CALL,
    LOOK_AGAIN,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_PART,
    Habits,
    Need,
    estimate,
    need_of,
    opens_at,
    taken,
    tokens_of_text,
)
from core.cloud.provider import ProviderError
from core.cloud.providers.fake import FakeProvider, FakeStep
from core.errors import AllEndpointsFailed
from tests.support.pool_world import HttpError
from tests.support.waiting import wait_until

LIMIT = 10_000


def endpoint(name="a", **settings):
    settings = {"max_requests_per_minute": 0, "max_tokens_per_minute": LIMIT, **settings}
    return ApiEndpoint(name, f"https://{name}.example", **settings)


def answer(tokens_in, tokens_out):
    return {"usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}}


def report(outcome=OK, tokens_in=0, tokens_out=0):
    return Report(outcome, 0.0, 1.0, 1.0, 1.0, tokens_in, tokens_out)


# What a call may take


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("abc", 1), ("abcd", 2), ("a" * 300, 100), ("今天天气", 4), ("Привет", 4), ("😀", 2), ("\ud800", 1)],
)
def test_a_text_is_taken_for_a_token_each_three_bytes(text, tokens):
    assert tokens_of_text(text) == tokens


@pytest.mark.parametrize(
    ("messages", "options", "need"),
    [
        ("a" * 30, {}, Need(TOKENS_PER_MESSAGE + 10)),
        ("a" * 30, {"max_tokens": 50}, Need(TOKENS_PER_MESSAGE + 10, 50)),
        ("a" * 30, {"system": "b" * 60}, Need(2 * TOKENS_PER_MESSAGE + 30)),
        (
            [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "abcdef"}],
            {},
            Need(2 * TOKENS_PER_MESSAGE + 3),
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "abc"},
                        {"type": "image_url", "image_url": {"url": "x" * 9999}},
                    ],
                }
            ],
            {},
            Need(TOKENS_PER_MESSAGE + 1 + TOKENS_PER_PART),
        ),
        ([{"role": "assistant", "content": None, "tool_calls": [1]}], {}, Need(TOKENS_PER_MESSAGE + 1)),
    ],
)
def test_the_need_of_a_request_is_told_by_its_texts_and_its_max_tokens(messages, options, need):
    assert need_of(request_of(messages, options)) == need


def test_a_request_that_bounds_its_answer_reserves_what_it_may_take():
    assert estimate(Need(100, 400), Habits(), endpoint()) == 500
    assert estimate(Need(100, 400), Habits(), endpoint(extra_body={"max_tokens": 900})) == 1_000
    assert estimate(Need(100, 2 * LIMIT), Habits(), endpoint()) == 100 + 2 * LIMIT
    assert estimate(Need(2 * LIMIT), Habits(), endpoint()) == 2 * LIMIT


def test_what_is_not_known_is_guessed_from_the_endpoints_own_calls_and_never_more_than_half_its_limit():
    habits = Habits()
    assert estimate(Need(100), habits, endpoint()) == 100 + FIRST_ANSWER
    assert estimate(None, habits, endpoint()) == FIRST_CALL
    assert estimate(None, habits, endpoint(max_tokens_per_minute=70)) == 35
    for _ in range(100):
        habits.learn(report(tokens_in=200, tokens_out=50))
        habits.learn(report(CANCELLED, 9_000, 9_000))
    assert estimate(Need(100), habits, endpoint()) in range(150, 160)
    assert estimate(None, habits, endpoint()) in range(250, 270)
    for figure in (100, 3_000) * 50:
        habits.learn(report(tokens_in=0, tokens_out=figure))
    assert estimate(None, habits, endpoint()) in range(3_000, 6_000)
    habits.answers.mean = LIMIT * 3
    assert estimate(Need(100), habits, endpoint()) == LIMIT // 2
    assert estimate(Need(LIMIT - 100), habits, endpoint()) == LIMIT - 100


@pytest.mark.parametrize(
    ("error", "tokens"),
    [
        (HttpError(429), 0),
        (HttpError(401), 0),
        (HttpError(400), 0),
        (HttpError(503), 0),
        (ProviderError("no", kind="connect"), 0),
        (ConnectionRefusedError(), 0),
        (ProviderError("late", kind="timeout"), None),
        (TimeoutError(), None),
        (ProviderError("cut", kind="cut"), None),
        (ConnectionResetError(), None),
    ],
)
def test_a_call_that_failed_frees_what_it_reserved_if_it_never_left_or_was_refused(error, tokens):
    outcome = classify(error, 0.0)
    assert taken(report(outcome)) == tokens
    assert taken(report(outcome, 30, 5)) == 35


def test_a_call_that_tells_no_figures_keeps_what_it_reserved():
    assert taken(report(OK)) is None
    assert taken(report(CANCELLED)) is None
    assert taken(report(OK, 3, 4)) == 7


def test_the_wait_is_exact_when_all_calls_are_over_and_short_while_one_is_that_may_free_enough():
    over = [(0.0, 40, False), (10.0, 30, False), (20.0, 30, False)]
    assert [opens_at(over, excess, 25.0, 60.0, loose=0) for excess in (40, 41, 100)] == [60.0, 70.0, 80.0]
    under_way = [(0.0, 40, False), (10.0, 30, True), (20.0, 30, False)]
    soon = 25.0 + LOOK_AGAIN
    waits = {excess: opens_at(under_way, excess, 25.0, 60.0, loose=30) for excess in (30, 41, 70, 71)}
    assert waits == {30: soon, 41: 60.0, 70: 60.0, 71: 80.0}


# As callers meet it


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def manager(clock):
    """A manager whose pauses only move the clock."""
    return ApiManager(clock=clock, rng=random.Random(3), sleep=clock.advance)


def used(manager, name="a"):
    return int(manager.get_stats()["endpoints"][name]["token_limit"].partition("/")[0])


def test_calls_wait_for_the_tokens_of_those_before_them(manager, clock):
    manager.add_endpoint(endpoint())
    for number in range(20):
        manager.call_with_retry(lambda one: answer(900, 100))
        assert clock.monotonic() <= (number // 9) * WINDOW + 0.2
    assert used(manager) <= LIMIT
    assert clock.monotonic() >= WINDOW


def test_calls_that_took_less_than_they_reserved_leave_the_rest_to_others(manager, clock):
    manager.add_endpoint(endpoint())
    for _ in range(490):
        manager.call_with_retry(lambda one: answer(15, 5))
    assert used(manager) == 9_800
    assert clock.monotonic() == 0.0


def test_a_call_that_took_more_delays_those_after_it(manager, clock):
    manager.add_endpoint(endpoint())
    manager.call_with_retry(lambda one: answer(9_000, 2_000))
    assert used(manager) == 11_000
    manager.call_with_retry(lambda one: answer(1, 1))
    assert WINDOW <= clock.monotonic() < WINDOW + 0.1


def test_a_call_that_finds_too_few_tokens_goes_to_the_next_endpoint_or_waits(manager, clock):
    manager.add_endpoint(endpoint(priority=1))
    manager.add_endpoint(endpoint("b", priority=2, max_tokens_per_minute=0))
    manager.call_with_retry(lambda one: answer(9_990, 0))
    assert manager.call_with_retry(lambda one: answer(1, 1))[1].name == "b"
    assert clock.monotonic() == 0.0
    assert manager.call_with_retry(lambda one: answer(1, 1), when_limited="wait")[1].name == "a"
    assert WINDOW <= clock.monotonic() < WINDOW + 0.1


def test_a_call_that_cannot_wait_so_long_is_told_the_limit_and_when_there_will_be_enough(manager):
    manager.add_endpoint(endpoint())
    manager.call_with_retry(lambda one: answer(9_990, 0))
    expected = r"a: limit of 10,000 tokens a minute, enough for this call in 61\.0s"
    with pytest.raises(AllEndpointsFailed, match=expected) as failure:
        manager.call_with_retry(lambda one: answer(1, 1), deadline=30)
    assert failure.value.retry_after == pytest.approx(WINDOW)


@pytest.fixture
def provider():
    return FakeProvider()


@pytest.fixture
def chats(provider):
    manager = ApiManager(providers={"fake": provider})
    manager.add_endpoint(endpoint(provider="fake"))
    yield manager
    manager.close()


async def test_a_call_that_is_larger_than_the_limit_is_refused_at_once_and_for_good(chats):
    for options in ({"max_tokens": LIMIT}, {"system": "x" * 4 * LIMIT}):
        with pytest.raises(
            AllEndpointsFailed, match=r"the call alone may take .* tokens, and its limit is 10,000 a"
        ) as failure:
            await chats.achat("hello", **options)
        assert failure.value.final
        assert failure.value.retry_after is None
        assert "lower max_tokens" in failure.value.fix
    assert chats.get_stats()["endpoints"]["a"]["calls"] == 0


async def test_a_call_that_is_too_large_for_one_endpoint_goes_to_another(chats):
    chats.add_endpoint(endpoint("b", provider="fake", priority=2, max_tokens_per_minute=0))
    assert (await chats.achat("hello", max_tokens=LIMIT, when_limited="wait")).endpoint == "b"


async def test_a_smaller_call_is_not_kept_back_by_the_refusal_of_a_larger_one(chats, provider):
    provider.script("a", FakeStep(text="hi", tokens_in=5_000, tokens_out=100))
    await chats.achat("hello", max_tokens=9_000)
    with pytest.raises(AllEndpointsFailed, match="enough for this call in"):
        await chats.achat("hello", max_tokens=9_000, deadline=5)
    assert (await chats.achat("hello", max_tokens=1_000, deadline=5)).endpoint == "a"


async def test_the_end_of_a_call_wakes_one_that_waits_for_its_tokens(monkeypatch):
    manager = ApiManager()
    manager.add_endpoint(endpoint())
    gate = asyncio.Event()

    async def first(one):
        await gate.wait()
        return answer(10, 10)

    async def second(one):
        return answer(10, 10)

    monkeypatch.setattr(token_limit, "LOOK_AGAIN", 1_000.0)
    manager._pool.get("a").habits.calls.add(LIMIT)  # each call seems to take half of it at least
    calls = [asyncio.create_task(manager.acall_with_retry(work)) for work in (first, first, second)]
    await asyncio.to_thread(wait_until, lambda: len(manager._pool.wait_queue.waiters) == 1, "a place in line")
    gate.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*calls)


async def test_streams_reserve_and_are_corrected_too(chats, provider):
    provider.script("a", FakeStep(text="hi", tokens_in=30, tokens_out=10))
    seen = []
    async for _ in chats.astream("hello", max_tokens=4_000):
        seen.append(used(chats))
    assert seen[0] > 4_000
    assert used(chats) == 40


async def test_a_cancelled_call_keeps_what_it_reserved():
    manager = ApiManager()
    manager.add_endpoint(endpoint())
    begun = asyncio.Event()

    async def work(one):
        begun.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(manager.acall_with_retry(work))
    await begun.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert used(manager) == FIRST_CALL


def test_a_slot_that_is_given_back_frees_its_tokens(manager, clock):
    manager.add_endpoint(endpoint())
    member = manager._pool.get("a")
    token = member.state.admit(clock, tokens=700)
    assert used(manager) == 700
    manager._pool.give_back(member, token)
    assert used(manager) == 0
    assert member.in_flight == 0


def test_an_endpoint_without_such_a_limit_counts_and_shows_nothing(manager):
    manager.add_endpoint(endpoint(max_tokens_per_minute=0))
    assert manager._pool.get("a").habits is None
    manager.call_with_retry(lambda one: answer(900, 100))
    assert "token_limit" not in manager.get_stats()["endpoints"]["a"]


def test_requests_and_tokens_a_minute_hold_together(manager, clock):
    manager.add_endpoint(endpoint(max_requests_per_minute=4, max_tokens_per_minute=100_000))
    names = Counter(manager.call_with_retry(lambda one: answer(2_000, 400))[1].name for _ in range(8))
    assert names == {"a": 8}
    assert WINDOW <= clock.monotonic() < WINDOW + 0.2
