"""The manager as its users call it."""

import asyncio
import logging
import random
import threading
import traceback
from dataclasses import replace

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager, ApiStatus
from core.cloud.pool.discovery import discover
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.providers.fake import FakeProvider, FakeStep
from core.errors import AllEndpointsFailed, InvalidArgument, UnknownEndpoint
from tests.support.pool_world import HttpError


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def manager(clock):
    """A manager whose pauses only move the clock."""
    return ApiManager(clock=clock, rng=random.Random(3), sleep=clock.advance)


def add(manager, *names, **settings):
    for priority, name in enumerate(names, 1):
        manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example", priority=priority, **settings))


def failing(*errors):
    """A function that raises these, one a call, then returns the endpoint's name."""
    left = list(errors)

    def work(endpoint):
        if left:
            raise left.pop(0)
        return endpoint.name

    return work


def test_the_result_and_the_endpoint_that_gave_it_come_back(manager):
    add(manager, "a", "b")
    result, endpoint = manager.call_with_retry(lambda endpoint: {"from": endpoint.name})
    assert (result, endpoint) == ({"from": "a"}, manager.get_endpoint("a"))


def test_another_endpoint_is_asked_at_once(manager, clock):
    add(manager, "a", "b")
    assert manager.call_with_retry(failing(ConnectionError()))[0] == "b"
    assert clock.monotonic() == 0.0


def test_a_lone_endpoint_is_asked_again_after_a_random_wait(manager, clock):
    add(manager, "a")
    assert manager.call_with_retry(failing(ConnectionError(), ConnectionError()))[0] == "a"
    assert 0.0 < clock.monotonic() <= 0.5 + 0.75 + 0.1


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_max_retries_counts_attempts_in_all(manager, attempts):
    add(manager, "a")
    calls = []

    def work(endpoint):
        calls.append(endpoint)
        raise ConnectionError

    with pytest.raises(AllEndpointsFailed) as failure:
        manager.call_with_retry(work, max_retries=attempts)
    assert len(calls) == len(failure.value.attempts) == attempts
    assert isinstance(failure.value.__cause__, ConnectionError)


def test_a_failure_is_a_runtime_error_with_one_line_for_each_attempt_and_each_endpoint_left_out(manager):
    add(manager, "a", "b", "c")
    manager.call_with_retry(lambda endpoint: None, endpoint="c")
    with pytest.raises(RuntimeError) as failure:
        manager.call_with_retry(failing(HttpError(401), HttpError(503)), max_retries=2)
    lines = str(failure.value).splitlines()
    assert lines[0] == "No endpoint answered after 2 attempts:"
    assert lines[1].startswith("  1. a: endpoint_fault after 0.00s: HTTP 401")
    assert lines[2].startswith("  2. b: transient after 0.00s: HTTP 503")


def test_an_empty_pool_says_what_to_do(manager):
    with pytest.raises(AllEndpointsFailed, match="add_endpoint"):
        manager.call_with_retry(lambda endpoint: None)


def test_a_call_waits_for_the_first_free_slot_when_it_comes_in_time(manager, clock):
    add(manager, "a", max_requests_per_minute=2)
    for _ in range(3):
        manager.call_with_retry(lambda endpoint: None)
    assert WINDOW <= clock.monotonic() <= WINDOW + 0.1


def test_a_call_that_cannot_have_a_slot_in_time_says_at_once_when_there_will_be_one(manager, clock):
    add(manager, "a", max_requests_per_minute=1)
    manager.call_with_retry(lambda endpoint: None)
    with pytest.raises(AllEndpointsFailed, match="rate limit of 1 a minute, next slot in 61") as failure:
        manager.call_with_retry(lambda endpoint: None, deadline=30)
    assert failure.value.retry_after == pytest.approx(WINDOW)
    assert clock.monotonic() == 0.0


def test_an_endpoint_that_is_set_up_wrong_is_not_waited_for(manager, clock):
    add(manager, "a")
    for _ in range(2):
        with pytest.raises(AllEndpointsFailed):
            manager.call_with_retry(failing(HttpError(401)))
    assert clock.monotonic() == 0.0
    assert manager.get_stats()["endpoints"]["a"]["status"] == ApiStatus.FAILED
    add(manager, "a")
    assert manager.call_with_retry(failing())[0] == "a"


def test_a_wrongly_set_up_endpoint_is_probed_after_its_hold(manager, clock):
    add(manager, "a", "b")
    manager.call_with_retry(failing(HttpError(401)))
    clock.advance(60 * 1.2)
    assert manager.call_with_retry(failing())[0] == "a"


def test_more_than_the_deadline_is_never_waited(manager, clock):
    add(manager, "a")
    with pytest.raises(AllEndpointsFailed):
        manager.call_with_retry(failing(*[ConnectionError()] * 99), max_retries=100, deadline=7.0)
    assert clock.monotonic() <= 7.0


def test_retries_stop_when_too_many_calls_fail(manager):
    add(manager, "a")
    sent = 0

    def work(endpoint):
        nonlocal sent
        sent += 1
        raise ConnectionError

    for _ in range(20):
        with pytest.raises(AllEndpointsFailed):
            manager.call_with_retry(work, max_retries=3)
    assert sent <= 20 + 5  # 60 without a budget


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": 0},
        {"max_retries": 2.5},
        {"max_retries": True},
        {"backoff_factor": 0.5},
        {"deadline": 0},
        {"deadline": float("nan")},
    ],
)
def test_arguments_that_mean_nothing_are_refused(manager, wrong):
    add(manager, "a")
    with pytest.raises(InvalidArgument):
        manager.call_with_retry(lambda endpoint: None, **wrong)


def test_an_unknown_endpoint_is_named_with_the_known_ones(manager):
    add(manager, "a", "b")
    for refused in (
        lambda: manager.get_endpoint("z"),
        lambda: manager.remove_endpoint("z"),
        lambda: manager.reset_stats("z"),
        lambda: manager.call_with_retry(lambda endpoint: None, endpoint="z"),
    ):
        with pytest.raises(UnknownEndpoint, match="a, b"):
            refused()


def test_an_async_function_given_to_the_sync_call_is_explained(manager):
    add(manager, "a")

    async def work(endpoint):
        return None

    with pytest.raises(InvalidArgument, match="acall_with_retry"):
        manager.call_with_retry(work)


def test_statistics_have_the_guides_shape(manager, clock):
    add(manager, "a", "b", max_requests_per_minute=60, cost_per_million_in=1.0, cost_per_million_out=2.0)

    def work(endpoint):
        clock.advance(0.52)
        return {"usage": {"prompt_tokens": 1000, "completion_tokens": 500}}

    for _ in range(3):
        manager.call_with_retry(work)
    stats = manager.get_stats()
    assert stats["total_endpoints"] == 2
    info = stats["endpoints"]["a"]
    assert {key: info[key] for key in ("status", "success_rate", "avg_latency", "rate_limit")} == {
        "status": "active",
        "success_rate": "100.0%",
        "avg_latency": "0.52s",
        "rate_limit": "3/60",
    }
    assert (info["tokens_in"], info["tokens_out"], info["cost"]) == (3000, 1500, 0.006)
    assert info["p95_latency"] == pytest.approx(0.52, rel=0.05)
    assert stats["endpoints"]["b"]["success_rate"] == "n/a"
    manager.reset_stats()
    assert manager.get_stats()["endpoints"]["a"]["calls"] == 0


class TestAsync:
    async def test_async_and_sync_functions_work_alike(self, manager):
        add(manager, "a", "b")

        async def asynchronous(endpoint):
            return endpoint.name, threading.current_thread().name

        def synchronous(endpoint):
            return endpoint.name, threading.current_thread().name

        here = threading.current_thread().name
        assert (await manager.acall_with_retry(asynchronous))[0] == ("a", here)
        name, thread = (await manager.acall_with_retry(synchronous))[0]
        assert name == "a"
        assert thread != here
        assert (await manager.acall_with_retry(lambda one: asynchronous(manager.get_endpoint(one.name))))[0] == (
            "a",
            here,
        )

    async def test_an_endpoint_that_hangs_is_left_at_its_timeout(self):
        manager = ApiManager()
        add(manager, "a", "b", timeout=1.0)

        async def work(endpoint):
            if endpoint.name == "a":
                await asyncio.Event().wait()
            return endpoint.name

        assert (await manager.acall_with_retry(work))[0] == "b"
        assert manager.get_stats()["endpoints"]["a"]["outcomes"] == {"transient": 1}

    async def test_a_provider_that_breaks_its_promise_to_keep_time_is_left_at_the_endpoints_timeout(self):
        class Hanging(FakeProvider):
            async def chat(self, endpoint, request, timeout):
                if endpoint.name == "a":
                    await asyncio.Event().wait()
                return await super().chat(endpoint, request, timeout)

        manager = ApiManager(providers={"fake": Hanging()})
        for priority, name in enumerate("ab"):
            manager.add_endpoint(ApiEndpoint(name, "fake://", provider="fake", priority=priority, timeout=1.0))
        assert (await manager.achat("x")).endpoint == "b"
        assert manager.get_stats()["endpoints"]["a"]["outcomes"] == {"transient": 1}

    async def test_a_deadline_too_short_for_an_answer_blames_nobody(self):
        manager = ApiManager()
        add(manager, "a")

        async def work(endpoint):
            await asyncio.Event().wait()

        with pytest.raises(AllEndpointsFailed, match="deadline"):
            await manager.acall_with_retry(work, deadline=0.05)
        assert manager.get_stats()["endpoints"]["a"]["status"] == "active"

    async def test_a_cancelled_call_frees_what_it_held(self):
        manager = ApiManager()
        add(manager, "a", max_concurrency=1)
        began = asyncio.Event()

        async def work(endpoint):
            began.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(manager.acall_with_retry(work))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        info = manager.get_stats()["endpoints"]["a"]
        assert (info["in_flight"], info["outcomes"], info["status"]) == (0, {"cancelled": 1}, "active")
        assert (await manager.acall_with_retry(lambda endpoint: 5))[0] == 5

    async def test_the_faster_of_two_hedged_calls_wins_and_the_other_is_cancelled(self):
        manager = ApiManager()
        add(manager, "a", "b")
        cancelled = asyncio.Event()

        async def work(endpoint):
            if endpoint.name == "a":
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            return endpoint.name

        assert (await manager.acall_with_retry(work, hedge_after=0.01))[0] == "b"
        assert cancelled.is_set()
        info = manager.get_stats()["endpoints"]
        assert (info["a"]["outcomes"], info["b"]["outcomes"]) == ({"cancelled": 1}, {"ok": 1})

    async def test_a_hedged_call_whose_second_fails_waits_for_the_first(self):
        manager = ApiManager()
        add(manager, "a", "b")
        failed = asyncio.Event()

        async def work(endpoint):
            if endpoint.name == "a":
                await failed.wait()
                return "a"
            failed.set()
            raise ConnectionError

        assert (await manager.acall_with_retry(work, hedge_after=0.01))[0] == "a"


class TestChat:
    def manager(self, *steps, **settings):
        provider = FakeProvider({"a": steps})
        manager = ApiManager(providers={"fake": provider})
        manager.add_endpoint(ApiEndpoint("a", "fake://", model="m", provider="fake", **settings))
        manager.add_endpoint(ApiEndpoint("b", "fake://", model="n", provider="fake", priority=2))
        return manager, provider

    def test_a_sync_chat_fails_over_and_tells_what_it_used(self):
        manager, _ = self.manager(FakeStep(status=503))
        result = manager.chat("Hello", max_tokens=5)
        assert (result.text, result.endpoint, result.model) == ("echo: Hello", "b", "n")
        assert [str(attempt.outcome) for attempt in result.attempts] == ["transient", "ok"]
        manager.close()
        manager.close()

    def test_tokens_cost_what_the_endpoint_says(self):
        manager, _ = self.manager(
            FakeStep(tokens_in=1000, tokens_out=10), cost_per_million_in=3.0, cost_per_million_out=15.0
        )
        result = manager.chat("Hello")
        assert result.cost == pytest.approx(0.00315)
        assert manager.get_stats()["cost"] == pytest.approx(0.00315)
        manager.close()

    @pytest.mark.parametrize("messages", ["", [], [{"role": "user"}], [{"content": "x"}], 5, ["x"], b"x"])
    def test_messages_that_are_none_are_refused_before_anything_is_sent(self, messages):
        manager, provider = self.manager()
        with pytest.raises(InvalidArgument):
            manager.chat(messages)
        assert provider.calls == []
        manager.close()


def test_no_key_is_in_a_log_a_repr_an_error_or_a_traceback(caplog):
    caplog.set_level(logging.DEBUG)
    key = "sk-canary-abcdefghijklmnop"
    manager = ApiManager()
    add(manager, "a", "b", api_key=key)
    texts = [repr(manager), str(manager.endpoints)]

    def work(endpoint):
        try:
            raise HttpError(503)
        except HttpError as error:
            raise ConnectionError(f"https://x.example/?key={endpoint.api_key} refused") from error

    try:
        manager.call_with_retry(work, max_retries=2)
    except AllEndpointsFailed as error:
        texts += [str(error), repr(error), repr(error.attempts), "".join(traceback.format_exception(error))]
    texts += [str(manager.get_stats()), caplog.text]
    assert len(texts) == 8
    assert [text for text in texts if key in text] == []
    assert "[redacted]" in texts[2]


def test_endpoints_of_the_environment_are_found_in_order_and_keep_their_keys_there(caplog):
    environ = {
        "GROQ_API_KEY": "gsk-canary",
        "DEEPSEEK_API_KEY": "sk-canary",
        "DEEPSEEK_MODEL": "deepseek-reasoner",
        "ZHIPU_API_KEY": "zk",
        "ZHIPU_BASE_URL": "not a url",
        "OPENAI_API_KEY": " ",
    }
    found = discover(environ)
    assert [(one.name, one.model, one.priority, one.api_key_env) for one in found] == [
        ("deepseek", "deepseek-reasoner", 1, "DEEPSEEK_API_KEY"),
        ("groq", "llama-3.3-70b-versatile", 2, "GROQ_API_KEY"),
    ]
    assert "ZHIPU_API_KEY" in caplog.text
    assert "canary" not in str(found) + caplog.text
    assert discover({}) == []


async def test_an_endpoint_whose_headers_say_that_nothing_is_left_is_spared_until_then(clock):
    class Telling(FakeProvider):
        async def chat(self, endpoint, request, seconds):
            answer = await super().chat(endpoint, request, seconds)
            headers = {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2025-06-15T15:07:00Z",
            }
            return replace(answer, headers=headers if endpoint.name == "a" else {})

    manager = ApiManager(clock=clock, providers={"fake": Telling()})
    for priority, name in enumerate("ab"):
        manager.add_endpoint(ApiEndpoint(name, "fake://", provider="fake", priority=priority))
    assert [(await manager.achat("x")).endpoint for _ in range(3)] == ["a", "b", "b"]
    assert manager.get_stats()["endpoints"]["a"]["cooldown_seconds"] == pytest.approx(20.0)
    clock.advance(20.1)
    assert (await manager.achat("x")).endpoint == "a"
