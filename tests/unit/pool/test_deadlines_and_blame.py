"""A timeout that a caller's own deadline caused: a healthy endpoint is not blamed for it, a hanging one does not hide behind it."""

import random

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.errors import AllEndpointsFailed


class Slow:
    """An endpoint with a timeout of 30 s, asked by calls with deadlines."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.manager = ApiManager(clock=self.clock, rng=random.Random(1), sleep=self.clock.advance)
        self.manager.add_endpoint(
            ApiEndpoint("slow", "https://slow.example", timeout=30.0, max_requests_per_minute=0, priority=1)
        )

    def call(self, takes: float, deadline: float) -> None:
        """One call, which the endpoint would answer after `takes` seconds."""
        allowed = min(30.0, deadline)

        def work(endpoint: ApiEndpoint) -> str:
            self.clock.advance(min(takes, allowed))
            if takes > allowed:
                raise TimeoutError
            return "answer"

        try:
            self.manager.call_with_retry(work, max_retries=1, deadline=deadline)
        except AllEndpointsFailed:
            assert takes > allowed

    @property
    def blamed(self) -> int:
        outcomes = self.manager.get_stats()["endpoints"]["slow"]["outcomes"]
        return outcomes.get("transient", 0)


HEALTHY = {
    "answers in 10 s, one caller gives 1 s": [(10.0, 60.0), (10.0, 1.0)],
    "answers in 10 s, callers of 2 s between others": [(10.0, 60.0), (10.0, 2.0), (10.0, 2.0)] * 20,
    "answers in 10 s, a caller gives just too little": [(10.0, 60.0), (10.0, 9.9)],
    "a slow answer within twice the usual time": [(4.0, 60.0)] * 30 + [(7.0, 7.5), (7.9, 7.8)],
    "asked for the first time, with 4 s": [(10.0, 4.0)],
    "answers in 0.2 s, a caller gives 0.1 s": [(0.2, 60.0)] * 30 + [(0.2, 0.1)],
    "20 callers of 1 s each, then an answer, then again": ([(8.0, 1.0)] * 20 + [(8.0, 60.0)]) * 3,
}

HANGING = {
    "it never answered, callers give 6 s": [(999.0, 6.0)],
    "it answered in 0.2 s, now a caller gives 2 s": [(0.2, 60.0)] * 5 + [(999.0, 2.0)],
    "it answered in 10 s, now a caller gives 20 s": [(10.0, 60.0)] * 5 + [(999.0, 20.0)],
    "it answered in 10 s, now 15 callers give 2 s each": [(10.0, 60.0)] * 5 + [(999.0, 2.0)] * 15,
    "it answered in 14 s, now 2 callers give 15 s each": [(14.0, 60.0)] * 5 + [(999.0, 15.0)] * 2,
    "its whole timeout was given": [(14.0, 60.0), (999.0, 30.0)],
    "it never answered, 30 callers give 1 s each": [(999.0, 1.0)] * 30,
}


@pytest.mark.parametrize("calls", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_endpoint_is_not_blamed_for_short_deadlines(calls):
    slow = Slow()
    for takes, deadline in calls:
        slow.call(takes, deadline)
    assert slow.blamed == 0
    assert slow.manager.get_stats()["endpoints"]["slow"]["status"] == "active"


@pytest.mark.parametrize("calls", HANGING.values(), ids=HANGING)
def test_a_hanging_endpoint_does_not_hide_behind_short_deadlines(calls):
    slow = Slow()
    for takes, deadline in calls:
        assert slow.blamed == 0
        slow.call(takes, deadline)
    assert slow.blamed == 1


def test_calls_cut_short_at_the_same_moment_waited_once():
    slow = Slow()
    member = slow.manager._pool.get("slow")
    assert all(member.cut_short(started=100.0, allowed=4.0, now=104.0) for _ in range(50))
    assert member.in_vain == 4.0
    assert not member.cut_short(started=104.0, allowed=4.0, now=130.0)
