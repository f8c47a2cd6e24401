"""Waits told in wall time go by the wall clock, also in a private pool: a laptop that slept does not go on waiting; a clock put back extends nothing."""

import random

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.errors import AllEndpointsFailed
from tests.support.pool_world import HttpError

HOUR = 3600.0


class Laptop:
    """A private pool on a clock whose monotonic reading stands still while the machine sleeps."""

    def __init__(self, **settings):
        self.clock = ManualClock(1_750_000_000.0 - 1_750_000_000.0 % 86_400 + 6 * HOUR)
        self.manager = ApiManager(clock=self.clock, rng=random.Random(1), sleep=self.clock.advance)
        self.manager.add_endpoint(ApiEndpoint("a", "https://a.example", **settings))

    def sleeps(self, seconds):
        self.clock.set_now(self.clock.now() + seconds)

    def ask(self, error=None):
        def work(endpoint):
            if error is not None:
                raise error
            return "answer"

        try:
            return self.manager.call_with_retry(work, max_retries=1, deadline=1.0)[0]
        except AllEndpointsFailed as failed:
            return str(failed)

    @property
    def info(self):
        return self.manager.get_stats()["endpoints"]["a"]


TOLD = {
    "Retry-After of two hours": HttpError(429, {"retry-after": "7200"}),
    "Retry-After of an overloaded API": HttpError(529, {"retry-after": "3600"}),
    "Retry-After of a day": HttpError(429, {"retry-after": "86400"}),
    "a limit that is reset in an hour": HttpError(
        429, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h0m0s"}
    ),
    "out of money, asked again in an hour": HttpError(402, {"retry-after": "3600"}),
    "milliseconds": HttpError(429, {"retry-after-ms": "7200000"}),
}


@pytest.mark.parametrize("error", TOLD.values(), ids=TOLD)
def test_a_wait_the_server_asked_for_is_over_after_a_sleep(error):
    laptop = Laptop()
    laptop.ask(error)
    assert laptop.ask() != "answer"
    laptop.sleeps(25 * HOUR)
    assert laptop.info["cooldown_seconds"] == 0.0
    assert laptop.ask() == "answer"


def test_a_wait_that_the_sleep_did_not_outlast_goes_on_for_what_is_left():
    laptop = Laptop()
    laptop.ask(HttpError(429, {"retry-after": "7200"}))
    laptop.sleeps(HOUR)
    assert laptop.info["cooldown_seconds"] == pytest.approx(HOUR, abs=2.0)
    assert laptop.ask() != "answer"
    laptop.clock.advance(HOUR)
    assert laptop.ask() == "answer"


LIMITS = {
    "requests": {"max_requests_per_day": 1},
    "tokens": {"max_tokens_per_day": 1},
    "money": {"max_cost_per_day": 0.1, "cost_per_million_in": 1e6},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_a_daily_limit_is_over_on_the_next_day_however_the_machine_slept(limits):
    laptop = Laptop(**limits)
    work = lambda endpoint: {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}  # noqa: E731
    laptop.manager.call_with_retry(work)
    assert "used today" in laptop.ask() or "spent today" in laptop.ask()
    laptop.sleeps(5 * HOUR)
    assert laptop.ask() != "answer"
    laptop.sleeps(14 * HOUR)
    assert laptop.info["why_not"] == ""
    assert laptop.ask() == "answer"


@pytest.mark.parametrize("back", [HOUR, 100 * HOUR])
def test_a_clock_that_is_put_back_extends_no_wait(back):
    laptop = Laptop()
    laptop.ask(HttpError(429, {"retry-after": "600"}))
    laptop.sleeps(-back)
    assert laptop.info["cooldown_seconds"] <= 600.0
    laptop.clock.advance(601.0)
    assert laptop.ask() == "answer"


def test_a_clock_put_back_and_right_again_ends_no_wait_too_late():
    laptop = Laptop()
    laptop.ask(HttpError(429, {"retry-after": "600"}))
    laptop.sleeps(-HOUR)
    laptop.ask()
    laptop.sleeps(HOUR)
    laptop.clock.advance(601.0)
    assert laptop.ask() == "answer"


def test_the_limit_of_a_minute_goes_by_the_clock_that_cannot_be_set():
    laptop = Laptop(max_requests_per_minute=1)
    assert laptop.ask() == "answer"
    laptop.sleeps(10 * HOUR)
    assert "rate limit" in laptop.ask()
    laptop.clock.advance(61.0)
    assert laptop.ask() == "answer"


def test_a_call_that_waits_through_a_sleep_looks_again_soon():
    laptop = Laptop()
    laptop.ask(HttpError(429, {"retry-after": "7200"}))
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        laptop.clock.advance(seconds)
        if len(naps) == 2:
            laptop.sleeps(10 * HOUR)

    laptop.manager._sleep = sleep
    assert laptop.manager.call_with_retry(lambda endpoint: "answer", deadline=8000.0)[0] == "answer"
    assert sum(naps) < 60.0
