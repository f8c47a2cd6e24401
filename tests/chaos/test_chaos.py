"""Chaos in the suite: a few kills each time, hundreds with `pytest -m soak` or `python -m tests.chaos`."""

import pytest

from tests.chaos.harness import Plan, run


def test_a_few_kills_lose_nothing_and_run_nothing_twice():
    figures = run(Plan(tasks=150, kills=10, lease=0.4, leader_ttl=0.4, longest_task=0.1, longest_life=0.8))

    assert figures.kills >= 10
    assert figures.interrupted_attempts > 0
    assert figures.sound, figures


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_hundred_kills_lose_nothing_and_run_nothing_twice():
    figures = run(Plan())

    assert figures.kills >= 200
    assert figures.sound, figures
