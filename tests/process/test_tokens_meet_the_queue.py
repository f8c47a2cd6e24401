"""Tokens a minute shape which tasks start, as requests a minute do."""

import json

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.token_limit import TOKENS_PER_MESSAGE, Need, need_of_task
from core.cloud.providers.fake import FakeProvider, FakeStep
from core.errors import AllEndpointsFailed
from tests.process.limited_processes import clock, make, pass_time, process

__all__ = ["clock", "make", "process"]

LIMIT = 100


def add(process, name="deepseek", limit=LIMIT, **settings):
    settings = {"max_requests_per_minute": 0, **settings}
    process.add(name, max_tokens_per_minute=limit, **settings)
    process.fake.script(name, FakeStep(text="hi", tokens_in=20, tokens_out=20, times=0))


def used(process, name="deepseek"):
    state = process.manager._pool.get(name).state
    return state.used_tokens(process.clock.now())


def test_tasks_wait_for_tokens_and_all_complete_at_their_first_attempt(process):
    add(process)
    tasks = process.ask(6, payload={"max_tokens": 30}, max_retries=0)
    process.settled()
    assert process.statuses(tasks) == {"completed": 2, "pending": 4}
    assert used(process) == 80
    pass_time(WINDOW - 1, process)
    assert process.statuses(tasks) == {"completed": 2, "pending": 4}
    pass_time(2, process)
    assert process.statuses(tasks) == {"completed": 4, "pending": 2}
    pass_time(WINDOW + 1, process)
    assert process.statuses(tasks) == {"completed": 6}
    assert process.attempts(tasks) == {1}


def test_why_names_the_limit_of_tokens(process):
    add(process)
    (*_, last) = process.ask(3, payload={"max_tokens": 30})
    process.settled()
    assert "deepseek's limit of 100 tokens a minute" in process.publisher.why(last.task_id)


def test_a_task_that_is_larger_than_the_limit_fails_at_once_and_takes_nothing(process):
    add(process)
    (task,) = process.ask(payload={"max_tokens": 200}, max_retries=3)
    process.settled()
    ended = process.publisher.get_task(task.task_id)
    assert (ended.status.value, ended.attempts) == ("failed", 1)
    assert "the call alone may take 205 tokens, and its limit is 100 a minute" in ended.error
    assert used(process) == 0
    assert process.asked() == []
    others = process.ask(2, payload={"max_tokens": 30})
    process.settled()
    assert process.statuses(others) == {"completed": 2}


def test_a_task_that_is_too_large_for_one_endpoint_goes_to_another(process):
    add(process, "small")
    add(process, "large", 10_000, priority=2)
    tasks = process.ask(3, payload={"max_tokens": 200, "when_limited": "wait"})
    process.settled()
    assert process.statuses(tasks) == {"completed": 3}
    assert process.asked() == ["large"] * 3


async def test_a_grant_that_its_call_cannot_use_is_given_back(process):
    clock = ManualClock()
    manager = ApiManager(clock=clock, providers={"fake": FakeProvider()})
    settings = {"provider": "fake", "max_requests_per_minute": 5, "max_tokens_per_minute": LIMIT}
    manager.add_endpoint(ApiEndpoint("a", "fake://", **settings))
    gate = manager.gate(lambda: None)
    payload = {"prompt": "x", "max_tokens": 90}
    grant = gate.take("ai_call", json.dumps(payload))
    assert grant is not None
    state = grant.member.state
    assert state.used_tokens(clock.monotonic()) == TOKENS_PER_MESSAGE + 1 + 90
    assert gate.take("ai_call", json.dumps(payload)) is None
    assert 0 < gate.wait("ai_call") < 1, "the call may end with fewer"
    # What it refers to turned out to be long.
    with pytest.raises(AllEndpointsFailed) as failure:
        await manager.achat("x" * 30 * LIMIT, max_tokens=90, grant=grant)
    assert failure.value.final
    assert (state.used_tokens(clock.monotonic()), state.used(clock.monotonic()), state.in_flight) == (0, 0, 0)
    assert gate.wait("ai_call") == 0


@pytest.mark.parametrize(
    ("payload", "need"),
    [
        ("abcdef", Need(TOKENS_PER_MESSAGE + 2)),
        ({"prompt": "abcdef", "max_tokens": 9}, Need(TOKENS_PER_MESSAGE + 2, 9)),
        ({"prompt": "abcdef", "system": "abc", "max_tokens": None}, Need(2 * TOKENS_PER_MESSAGE + 3)),
        ({"messages": [{"role": "user", "content": "abc"}] * 2}, Need(2 * TOKENS_PER_MESSAGE + 2)),
        ({"messages": "${a}", "prompt": None}, Need(TOKENS_PER_MESSAGE + 2)),
    ],
)
def test_the_need_of_a_task_is_told_by_its_payload(payload, need):
    assert need_of_task(payload) == need
