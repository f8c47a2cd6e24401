"""How many tasks are claimed ahead, and what becomes of a task whose attempt ended."""

import logging
import random

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.retry import RetryPolicy
from core.cloud.running.prefetch import Prefetch
from core.cloud.running.running_attempt import RunningAttempt, RunningAttempts
from core.cloud.running.settling import Settler, describe, result_text
from core.cloud.store_contract import Claim
from core.errors import AllEndpointsFailed, InvalidArgument, Permanent
from core.redaction import KNOWN_SECRETS
from tests.support.pool_world import HttpError


def ended(prefetch, count, every, times, now=0.0):
    for turn in range(times):
        prefetch.ended(count, now + turn * every)
    return now + times * every


def test_slow_tasks_are_never_claimed_ahead():
    prefetch = Prefetch(10)
    ended(prefetch, 1, 0.1, 100)

    assert prefetch.ahead == 0


def test_fast_tasks_are_claimed_some_milliseconds_ahead_within_bounds():
    prefetch = Prefetch(10)
    ended(prefetch, 5, 0.001, 500)
    assert 40 <= prefetch.ahead <= 50
    ended(prefetch, 1000, 0.001, 500, now=1.0)
    assert prefetch.ahead == 100


def test_after_a_pause_the_pace_of_before_counts_for_nothing():
    prefetch = Prefetch(10)
    now = ended(prefetch, 10, 0.001, 500)
    prefetch.ended(1, now + 5)

    assert prefetch.ahead == 0


def claim(**changes):
    values = {
        "task_id": "t",
        "attempt": 2,
        "name": "n",
        "payload": "{}",
        "priority": 2,
        "timeout": 3.0,
        "max_retries": 1,
        "interruptions": 0,
        "depends_on": (),
    }
    return Claim(**{**values, **changes})


@pytest.fixture
def outcomes():
    return Settler("w", RetryPolicy(), ManualClock(100.0), random.Random(1))


def test_an_attempt_with_retries_left_is_put_off_and_the_last_one_fails(outcomes):
    again = outcomes.raised(claim(max_retries=2), ValueError("x"))
    over = outcomes.raised(claim(max_retries=1), ValueError("x"))
    cut_before = outcomes.raised(claim(max_retries=1, interruptions=1), ValueError("x"))

    assert (again.status, again.outcome, again.error) == ("pending", "failed", "ValueError: x")
    assert 100 <= again.run_at <= 102
    assert (over.status, over.run_at) == ("failed", None)
    assert cut_before.status == "pending"


def test_a_cut_off_attempt_is_at_once_available_again(outcomes):
    cut = outcomes.interrupted(claim())

    assert (cut.status, cut.outcome, cut.run_at, cut.error) == ("pending", "interrupted", None, None)


def test_an_error_is_kept_short_and_without_keys():
    KNOWN_SECRETS.add("my-very-own-secret")
    text = describe(RuntimeError("key my-very-own-secret and sk-abcdef123456789 " + "x" * 5000))

    assert text.startswith("RuntimeError: key [redacted] and [redacted] xxx")
    assert len(text) == 2000
    assert describe(KeyError()) == "KeyError"
    assert describe(InvalidArgument("Bad.", "do better.")) == "InvalidArgument: Bad. Fix: do better."


def test_a_result_is_json_of_at_most_a_mebibyte():
    assert result_text(None) == "null"
    assert result_text({"ü": [1]}) == '{"ü":[1]}'
    assert len(result_text("x" * (1024 * 1024 - 2))) == 1024 * 1024
    with pytest.raises(Permanent, match="1,048,577 bytes"):
        result_text("x" * (1024 * 1024 - 1))
    with pytest.raises(Permanent, match="bytes"):
        result_text("€" * 400_000)


def test_an_attempt_is_settled_by_whoever_takes_it_first():
    attempts = RunningAttempts()
    attempt = RunningAttempt(claim(), HandlerRegistry().register("n", lambda payload: 0), 0.0)
    attempts.add(attempt)

    assert attempts.of_tasks(("t",)) == [attempt]
    assert not attempts.wait_until_empty(0)
    assert attempts.take(attempt)
    assert not attempts.take(attempt)
    assert attempts.wait_until_empty(0)
    assert attempts.get(attempt.key) is None


def logged(outcomes, caplog, error):
    with caplog.at_level(logging.INFO, "core.cloud.running.settling"):
        outcomes.raised(claim(name="ai_call", max_retries=0, attempt=1), error)
    return caplog.records[-1].getMessage()


def test_the_log_names_the_endpoint_and_the_status_of_a_failed_pool_call_and_no_line_of_ours(outcomes, caplog):
    def refuses(endpoint):
        raise HttpError(401)

    manager = ApiManager(clock=ManualClock())
    manager.add_endpoint(ApiEndpoint("deepseek", "https://deepseek.example", "k"))
    with pytest.raises(AllEndpointsFailed) as failure:
        manager.call_with_retry(refuses)
    said = logged(outcomes, caplog, failure.value)

    assert said.startswith("task t (ai_call) attempt 1 failed with AllEndpointsFailed: No endpoint answered after 1 ")
    assert "1. deepseek: endpoint_fault after 0.00s: " in said
    assert "401" in said
    assert "no retries left" in said
    assert ".py" not in said
    assert logged(outcomes, caplog, ExceptionGroup("two", [failure.value, KeyError("secret")])).startswith(
        "task t (ai_call) attempt 1 failed with ExceptionGroup: No endpoint answered"
    )


def test_the_log_says_nothing_of_what_a_foreign_error_says_but_where_it_was_raised(outcomes, caplog):
    try:
        raise ValueError("the caller's own words")
    except ValueError as error:
        said = logged(outcomes, caplog, error)

    assert "failed with ValueError at " in said
    assert "test_prefetch_and_settling.py:" in said
    assert "words" not in said


def test_a_long_cause_is_one_line_cut_short_and_without_keys(outcomes, caplog):
    KNOWN_SECRETS.add("another-secret-of-mine")
    said = logged(outcomes, caplog, AllEndpointsFailed("Line one another-secret-of-mine\nline two " + "x" * 5000))

    assert "AllEndpointsFailed: Line one [redacted] line two xxx" in said
    assert len(said) < 650


def test_a_handlers_own_signal_is_logged_with_its_words_and_its_line(outcomes, caplog):
    try:
        raise Permanent("The account is closed.", "open one.")
    except Permanent as error:
        said = logged(outcomes, caplog, error)

    assert "failed with Permanent at " in said
    assert (
        said.split("test_prefetch_and_settling.py:")[1].split(": ", 1)[1].startswith("The account is closed. Fix: open")
    )
