"""Chaos in the suite: a few kills each time, hundreds with `pytest -m soak` or `python -m tests.chaos`."""

import pytest

from tests.chaos.harness import Plan, run
from tests.chaos.provider import Limits


def test_a_few_kills_lose_nothing_run_nothing_twice_and_pass_no_limit():
    limits = Limits(minute=1.0, each_minute=5)
    figures = run(
        Plan(
            tasks=150, kills=10, lease=0.4, leader_ttl=0.4, longest_task=0.1, longest_life=0.8, calls=0.2, limits=limits
        )
    )

    assert figures.kills >= 10
    assert figures.interrupted_attempts > 0
    assert figures.sound, figures
    assert figures.most_seen["first"] == "5 of 5"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_hundred_kills_lose_nothing_run_nothing_twice_and_pass_no_limit():
    figures = run(Plan())

    assert figures.kills >= 200
    assert figures.sound, figures
