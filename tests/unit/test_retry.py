"""When a failed attempt is tried again."""

import random

import pytest

from core.cloud.retry import GIVE_UP, LONGEST_WAIT, RetryPolicy, decide, retries_used, retry_after_of
from core.errors import AllEndpointsFailed, InvalidArgument, Permanent, RetryLater, UrlRefused

POLICY = RetryPolicy()


@pytest.mark.parametrize("values", [{"base": 0}, {"base": -1}, {"factor": 0.5}, {"cap": 0.1}, {"base": float("nan")}])
def test_a_policy_that_makes_no_sense_is_refused(values):
    with pytest.raises(InvalidArgument, match="back-off"):
        RetryPolicy(**values)


def test_the_longest_wait_doubles_up_to_the_cap():
    assert [round(POLICY.ceiling(retry), 6) for retry in range(1, 12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@pytest.mark.parametrize("retry", [1_024, 10**6, 10**300])
def test_no_number_of_retries_overflows(retry):
    assert POLICY.ceiling(retry) == 300


def test_the_wait_is_full_jitter_between_nothing_and_the_ceiling():
    rng = random.Random(1)
    waits = [POLICY.wait(5, rng.random()) for _ in range(2_000)]

    assert min(waits) >= 0
    assert max(waits) <= 16
    assert 7.5 < sum(waits) / len(waits) < 8.5


@pytest.mark.parametrize("error", [Permanent("no"), InvalidArgument("no"), UrlRefused("no")])
def test_what_cannot_pass_is_given_up_whatever_retries_are_left(error):
    assert decide(POLICY, error, used=0, allowed=100, share=0.5) == GIVE_UP


@pytest.mark.parametrize("error", [ValueError("x"), RetryLater(1), None])
def test_without_retries_left_nothing_is_tried_again(error):
    assert not decide(POLICY, error, used=3, allowed=3, share=0.5).again
    assert decide(POLICY, error, used=2, allowed=3, share=0.5).again


def test_a_timeout_and_an_error_wait_by_the_policy():
    assert decide(POLICY, None, used=2, allowed=3, share=0.5).wait == pytest.approx(2)
    assert decide(POLICY, ValueError(), used=0, allowed=3, share=0.5).wait == pytest.approx(0.5)


class Hinted(Exception):
    retry_after = 20.0


@pytest.mark.parametrize(
    ("errors", "wait"),
    [
        ([ValueError(), Permanent("no")], None),
        ([RetryLater(5), InvalidArgument("no")], None),
        ([ExceptionGroup("in", [ExceptionGroup("deeper", [UrlRefused("no")])]), ValueError()], None),
        ([RetryLater(5), RetryLater(7), ValueError()], 7),
        ([ExceptionGroup("in", [RetryLater(5)]), Hinted()], 5),
        ([Hinted(), ValueError()], 20),
        ([ConnectionError(), ValueError()], 0),
    ],
)
def test_a_group_of_errors_asks_for_what_its_errors_ask_for_together(errors, wait):
    decision = decide(POLICY, ExceptionGroup("tasks", errors), used=0, allowed=3, share=0.0)

    assert decision.again == (wait is not None)
    assert decision.wait == (wait or 0)


def test_retry_later_waits_what_the_handler_asked_for():
    assert decide(POLICY, RetryLater(42), used=0, allowed=1, share=0.9).wait == 42
    assert decide(POLICY, RetryLater(10**9), used=0, allowed=1, share=0.9).wait == LONGEST_WAIT


def test_an_errors_retry_after_is_never_undercut_and_jitter_keeps_its_readers_apart():
    error = AllEndpointsFailed("all limited", retry_after=30.0)
    waits = {decide(POLICY, error, used=0, allowed=9, share=share).wait for share in (0.0, 0.4, 0.99)}

    assert min(waits) == 30
    assert max(waits) <= 31
    assert len(waits) == 3


@pytest.mark.parametrize("hint", [None, -1.0, float("nan"), float("inf"), "30", True])
def test_a_retry_after_that_is_no_sane_number_is_ignored(hint):
    error = ValueError("x")
    error.retry_after = hint

    assert retry_after_of(error) is None


def test_interrupted_attempts_use_up_no_retry():
    assert retries_used(attempt=1, interruptions=0) == 0
    assert retries_used(attempt=4, interruptions=0) == 3
    assert retries_used(attempt=4, interruptions=3) == 0
    assert retries_used(attempt=1, interruptions=1) == 0
