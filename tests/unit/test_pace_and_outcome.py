"""How many tasks are claimed ahead, and what becomes of a task whose attempt ended."""

import random

import pytest

from core.clock import ManualClock
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.retry import RetryPolicy
from core.cloud.running.flight import Flight, Flights
from core.cloud.running.outcome import Outcomes, describe, result_text
from core.cloud.running.pace import Pace
from core.cloud.store.base import Claim
from core.errors import InvalidArgument, Permanent
from core.redaction import KNOWN_SECRETS


def ended(pace, count, every, times, now=0.0):
    for turn in range(times):
        pace.ended(count, now + turn * every)
    return now + times * every


def test_slow_tasks_are_never_claimed_ahead():
    pace = Pace(10)
    ended(pace, 1, 0.1, 100)

    assert pace.ahead == 0


def test_fast_tasks_are_claimed_some_milliseconds_ahead_within_bounds():
    pace = Pace(10)
    ended(pace, 5, 0.001, 500)
    assert 40 <= pace.ahead <= 50
    ended(pace, 1000, 0.001, 500, now=1.0)
    assert pace.ahead == 100


def test_after_a_pause_the_pace_of_before_counts_for_nothing():
    pace = Pace(10)
    now = ended(pace, 10, 0.001, 500)
    pace.ended(1, now + 5)

    assert pace.ahead == 0


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
    return Outcomes("w", RetryPolicy(), ManualClock(100.0), random.Random(1))


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


def test_a_flight_is_settled_by_whoever_takes_it_first():
    flights = Flights()
    flight = Flight(claim(), HandlerRegistry().register("n", lambda payload: 0), 0.0)
    flights.add(flight)

    assert flights.of_tasks(("t",)) == [flight]
    assert not flights.wait_until_empty(0)
    assert flights.take(flight)
    assert not flights.take(flight)
    assert flights.wait_until_empty(0)
    assert flights.get(flight.key) is None
