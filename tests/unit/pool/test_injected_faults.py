"""An exception at every step between an answer and its settlement: each call ends as a result or as one of our errors, and holds nothing."""

import asyncio
import logging
import random
import sys
import threading
import time
import types
from contextlib import suppress

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.providers.fake import FakeProvider, FakeStep
from core.cloud.store import open_store
from core.errors import HeablcoinError

DEADLINE = 5.0


class Injected(Exception):
    """What a step raises."""


class Unreadable(Exception):
    """An error that cannot be looked at."""

    def __str__(self):
        raise Injected

    @property
    def response(self):
        raise Injected


STEPS = {
    "start: refresh": "core.cloud.pool.member.Member.refresh",
    "usage_of": "core.cloud.api_manager.usage_of",
    "usage: tokens_of": "core.cloud.pool.chat_call.tokens_of",
    "cost": "core.cloud.endpoint.ApiEndpoint.cost",
    "counted": "core.cloud.pool.pool.counted",
    "classify": "core.cloud.pool.call.classify",
    "classify: headers": "core.cloud.pool.call.headers_of",
    "classify: exhausted_for": "core.cloud.pool.call.exhausted_for",
    "cut_short": "core.cloud.pool.member.Member.cut_short",
    "redact": "core.cloud.api_manager.redact",
    "report": "core.cloud.pool.pool.Pool._report",
    "state: settle (private)": "core.cloud.pool.private_state.PrivateEndpointState._today",
    "state: tally": "core.cloud.pool.tally.Tally.add",
    "state: spending": "core.cloud.pool.tally.Spending.add",
    "state: matters (private)": "core.cloud.pool.private_state.matters",
    "state: matters (shared)": "core.cloud.store.sqlite_pool_state.matters",
    "state: apply (private)": "core.cloud.pool.private_state.apply",
    "state: apply (shared)": "core.cloud.store.sqlite_pool_state.apply",
    "health: failed": "core.cloud.pool.health.Health.failed",
    "health: succeeded": "core.cloud.pool.health.Health.succeeded",
    "health: exhausted": "core.cloud.pool.health.Health.exhausted",
    "observe": "core.cloud.pool.member.Member.observe",
    "observe: latency": "core.cloud.pool.latency.PeakEwma.observe",
    "observe: budget": "core.cloud.pool.retry_budget.RetryBudget.failed",
    "line: freed": "core.cloud.pool.wait_queue.WaitQueue.freed",
    "record": "core.cloud.pool.call.AttemptRecord",
    "failure": "core.cloud.pool.call.exhausted",
    "store: total": "core.cloud.store.sqlite_pool_state.add_total",
    "store: write": "core.cloud.store.sqlite_pool_state._write",
    "store: save health": "core.cloud.store.sqlite_pool_state.save_health",
}


ONLY_SHARED = "core.cloud.store."
ONLY_PRIVATE = "core.cloud.pool.private_state."
NOT_ALWAYS = {
    "core.cloud.pool.member.Member.refresh",
    "core.cloud.pool.health.Health.succeeded",
    "core.cloud.pool.health.Health.exhausted",
    "core.cloud.pool.wait_queue.WaitQueue.freed",
    "core.cloud.pool.call.exhausted",
}
"""Steps that the calls below need not pass."""


@pytest.fixture(params=["private", "shared"])
def pool(request, tmp_path, monkeypatch):
    """Two endpoints for one call at a time, the first of which fails when `failing` is set."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    store = open_store(str(tmp_path / "pool.db"), synchronous="NORMAL") if request.param == "shared" else None
    fake = FakeProvider()
    manager = ApiManager(store and store.pool, rng=random.Random(1), providers={"fake": fake})
    for priority, name in enumerate("ab"):
        manager.add_endpoint(
            ApiEndpoint(
                name,
                "fake://",
                provider="fake",
                priority=priority,
                max_concurrency=1,
                max_requests_per_minute=0,
                cost_per_million_in=1.0,
                max_tokens_per_day=10**9,
            )
        )
    yield types.SimpleNamespace(manager=manager, fake=fake, store=store)
    manager.close()
    if store is not None:
        store.close()


def ask_sync(pool, failing):
    def work(endpoint):
        if failing and endpoint.name == "a":
            raise failing
        return {"text": "answer", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}

    return pool.manager.call_with_retry(work, max_retries=2, deadline=DEADLINE)[0]["text"]


def ask_async(pool, failing):
    async def work(endpoint):
        if failing and endpoint.name == "a":
            raise failing
        return {"text": "answer", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}

    return asyncio.run(pool.manager.acall_with_retry(work, max_retries=2, deadline=DEADLINE))[0]["text"]


def ask_chat(pool, failing):
    pool.fake.script("a", FakeStep(status=503) if failing else FakeStep(text="answer"))
    return pool.manager.chat("hi", max_retries=2, deadline=DEADLINE).text and "answer"


def ask_stream(pool, failing):
    pool.fake.script("a", FakeStep(status=503) if failing else FakeStep(text="answer"))

    async def read():
        async for _ in pool.manager.astream("hi", max_retries=2, deadline=DEADLINE):
            pass

    asyncio.run(read())
    return "answer"


DRIVERS = [ask_sync, ask_async, ask_chat, ask_stream]


def let_go(pool):
    """Nothing is held any more, in this process or in the database, and what is held against endpoints has a reason."""
    for member in pool.manager._pool.members.values():
        assert member.in_flight == 0
        assert member.state.health.probe == 0
        assert member.state.health.held_until <= pool.manager._pool.time() + 10.0
    assert not pool.manager._pool.wait_queue.waiters
    if pool.store is not None:
        pool.store.pool.flush()
        with pool.store.pool.database.read() as connection:
            assert connection.execute("SELECT count(*) FROM pool_in_flight").fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM pool_health WHERE probe != 0").fetchone() == (0,)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_call_with_a_failing_step_ends_in_time_and_holds_nothing(pool, step, monkeypatch):
    calls = 0

    def fail(*args, **kwargs):
        nonlocal calls
        calls += 1
        raise Injected(step)

    if step.startswith(ONLY_SHARED if pool.store is None else ONLY_PRIVATE):
        return
    for ask in DRIVERS:
        for failing in (None, ConnectionError("gone"), TimeoutError("slow")):
            pool.manager.reset_stats()
            with monkeypatch.context() as patch:
                patch.setattr(step, fail)
                began = time.monotonic()
                with suppress(HeablcoinError):
                    assert ask(pool, failing) == "answer"
                if pool.store is not None:
                    pool.store.pool.flush()
                assert time.monotonic() - began < DEADLINE + 2.0
            let_go(pool)
    pool.manager.reset_stats()
    assert ask_sync(pool, None) == "answer"
    let_go(pool)
    if step not in NOT_ALWAYS:
        assert calls


UNREADABLE = {
    "str raises": Unreadable(),
    "a lone surrogate": RuntimeError("caf\udce9 \ud83d"),
    "a message that is no text": type("Odd", (Exception,), {"message": property(lambda self: 1 / 0)})(),
    "headers that raise": type("Odd", (Exception,), {"headers": property(lambda self: 1 / 0)})(),
    "a status that raises": type("Odd", (Exception,), {"status_code": property(lambda self: 1 / 0)})(),
    "headers whose values are numbers": type(
        "Odd", (Exception,), {"status_code": 429, "headers": {"retry-after": 7}}
    )(),
    "headers without order or end": type(
        "Odd", (Exception,), {"status_code": 429, "headers": type("H", (), {"get": lambda self, name: 1 / 0})()}
    )(),
    "a body that raises": type("Odd", (Exception,), {"status_code": 400, "body": property(lambda self: 1 / 0)})(),
    "a huge text": RuntimeError("x" * 10_000_000),
    "a group": ExceptionGroup("several", [ValueError("one"), Unreadable()]),
    "out of memory": MemoryError(),
    "too deep": RecursionError("maximum recursion depth exceeded"),
}


@pytest.mark.parametrize("error", UNREADABLE.values(), ids=UNREADABLE)
def test_an_error_that_cannot_be_read_costs_one_attempt(pool, error):
    for ask in (ask_sync, ask_async):
        assert ask(pool, error) == "answer"
        let_go(pool)
        pool.manager.reset_stats()
    ask_sync(pool, error)
    stats = pool.manager.get_stats()
    assert stats["endpoints"]["a"]["calls"] == 1
    assert stats["endpoints"]["b"]["successes"] == 1


USAGES = {
    "2^63 tokens": {"prompt_tokens": 2**63, "completion_tokens": 1},
    "10^400 tokens": {"prompt_tokens": 10**400, "completion_tokens": 10**400},
    "2^63 - 1 twice": {"prompt_tokens": 2**63 - 1, "completion_tokens": 2**63 - 1},
    "less than none": {"prompt_tokens": -5, "completion_tokens": -(2**63)},
    "not a number": {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
    "texts": {"prompt_tokens": "many", "completion_tokens": "1e999"},
    "lists and objects": {"prompt_tokens": [1], "completion_tokens": {"a": 1}},
    "truth values": {"prompt_tokens": True, "completion_tokens": False},
    "nothing": None,
    "a list": [1, 2],
    "a mapping that raises": type("Odd", (dict,), {"get": lambda self, *args: 1 / 0})(),
}


@pytest.mark.parametrize("usage", USAGES.values(), ids=USAGES)
def test_an_implausible_usage_poisons_nothing(pool, usage):
    for _ in range(3):
        result, _ = pool.manager.call_with_retry(lambda endpoint: {"text": "answer", "usage": usage}, deadline=DEADLINE)
        assert result["text"] == "answer"
        let_go(pool)
    stats = pool.manager.get_stats()
    assert stats["successes"] == 3
    assert 0 <= stats["tokens_in"] <= 3
    assert 0.0 <= stats["cost"] < 1.0
    assert ask_chat(pool, None) == "answer"


def test_sums_stop_before_they_overflow(pool):
    for _ in range(3):
        pool.manager._pool.get("a").endpoint.cost(10**400, 0)
    state = pool.manager._pool.get("a").state
    from core.cloud.pool.outcome import OK
    from core.cloud.pool.tally import LARGEST_SUM, Report

    for _ in range(4):
        state.in_flight += 1
        now = pool.manager._pool.time()
        state.settle(-1, Report(OK, now, now, time.time(), 0.1, 10**18 - 1, 10**18 - 1, 1e300))
    assert state.totals().tokens_in == LARGEST_SUM
    assert state.spending(time.time()).tokens == LARGEST_SUM
    assert pool.manager.get_stats()["cost"] == LARGEST_SUM


def test_a_row_that_cannot_be_written_is_left_out_by_itself(tmp_path, caplog):
    store = open_store(str(tmp_path / "pool.db"))
    manager = ApiManager(store.pool)
    manager.add_endpoint(ApiEndpoint("a", "https://a.example", max_concurrency=9))
    from core.cloud.pool.outcome import OK
    from core.cloud.pool.tally import Report

    state, now = manager._pool.get("a").state, time.time()
    store.pool._writer.close()
    bad = [
        {"tokens_in": -(2**70)},
        {"tokens_in": "many"},
        {"cost": float("nan")},
        {"error": "caf\udce9", "at": now + 1},
        {"at": float("nan")},
        {"latency": "long"},
    ]
    for odd in [{}, *bad, {}]:
        token = state.admit(manager._clock)
        report = Report(OK, now, now, now, 0.1, 1, 1, 0.5)
        for name, value in odd.items():
            setattr(report, name, value)
        if "error" in odd:
            from core.cloud.pool.outcome import Outcome, OutcomeClass

            report.outcome = Outcome(OutcomeClass.TRANSIENT)
        store.pool.settle(state, token, report)
    with caplog.at_level(logging.ERROR):
        store.pool.flush()
    assert state.totals().successes == 2
    assert state.in_flight == 0
    assert len([record for record in caplog.records if "could not be counted" in record.message]) == len(bad)
    with store.pool.database.read() as connection:
        assert connection.execute("SELECT count(*) FROM pool_in_flight").fetchone() == (0,)
    manager.close()
    store.close()


class TestTheWritingThread:
    def test_outlives_every_error(self, monkeypatch):
        from core.cloud.store import write_behind

        monkeypatch.setattr(write_behind, "PAUSE_AFTER_ERROR", 0.01)
        outcomes = [OverflowError(), TypeError(), Injected(), MemoryError(), AssertionError()]
        done = threading.Event()

        def flush():
            if outcomes:
                raise outcomes.pop()
            done.set()

        writer = write_behind.WriteBehind(flush, 0.01)
        writer.soon()
        assert done.wait(5.0)
        writer.close()

    def test_that_cannot_start_fails_no_call(self, tmp_path, monkeypatch):
        store = open_store(str(tmp_path / "pool.db"))
        manager = ApiManager(store.pool)
        manager.add_endpoint(ApiEndpoint("a", "https://a.example", max_requests_per_minute=0))

        def refuse(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert manager.call_with_retry(lambda endpoint: "answer")[0] == "answer"
        assert manager.call_with_retry(lambda endpoint: "answer")[0] == "answer"
        assert manager.get_stats()["successes"] == 2
        manager.close()
        store.close()


def test_an_exporter_of_spans_that_fails_costs_no_call(pool, monkeypatch):
    class Trace(types.ModuleType):
        class ProxyTracerProvider:
            pass

        class NoOpTracerProvider:
            pass

        @staticmethod
        def get_tracer_provider():
            raise Injected

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", Trace("opentelemetry.trace"))
    for ask in DRIVERS:
        for failing in (None, ConnectionError()):
            assert ask(pool, failing) == "answer"
            let_go(pool)
