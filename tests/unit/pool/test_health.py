"""The circuit breaker's transitions."""

import pytest

from core.cloud.pool.health import Health, HoldKind
from core.cloud.pool.outcome import Outcome, OutcomeClass

FAILED = Outcome(OutcomeClass.TRANSIENT, 503)
FAULT = Outcome(OutcomeClass.ENDPOINT_FAULT, 401)


def limited(seconds=None):
    return Outcome(OutcomeClass.RATE_LIMITED, 429, retry_after=seconds)


def fail(health, now, outcome=FAILED, began=None, jitter=0.0):
    health.failed(outcome, now if began is None else began, now, jitter)


def test_holds_double_up_to_their_cap():
    health, now, holds = Health(), 100.0, []
    for _ in range(6):
        fail(health, now)
        holds.append(health.held_until - now)
        now = health.held_until
    assert holds == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize(("outcome", "first", "last"), [(FAULT, 60.0, 600.0), (limited(), 1.0, 60.0)])
def test_faults_and_limits_hold_longer(outcome, first, last):
    health, now = Health(), 100.0
    fail(health, now, outcome)
    assert health.held_until - now == first
    for _ in range(12):
        now = health.held_until
        fail(health, now, outcome)
    assert health.held_until - now == last


@pytest.mark.parametrize("jitter", [-1.0, 1.0])
def test_jitter_moves_a_hold_by_a_fifth_at_most(jitter):
    health = Health()
    fail(health, 100.0, jitter=jitter)
    assert health.held_until - 100.0 == pytest.approx(0.5 * (1 + 0.2 * jitter))


def test_calls_in_flight_that_fail_together_are_one_incident():
    health = Health()
    for late in range(50):
        fail(health, 100.0 + late / 1000, began=99.0)
    assert health.failures == 1
    assert health.held_until == 100.5


def test_a_soft_hold_gives_way_when_no_other_endpoint_is_left_and_a_hard_one_does_not():
    health, now = Health(), 100.0
    for _ in range(2):
        fail(health, now)
        assert health.opens_at(now) > now
        assert health.opens_at(now, last_resort=True) == now
        now = health.held_until
    fail(health, now)
    assert health.opens_at(now, last_resort=True) > now


def test_retry_after_extends_a_hold_and_never_shortens_it():
    health = Health()
    fail(health, 100.0, limited(30.0))
    assert health.held_until == 130.0
    fail(health, 101.0, limited(2.0), began=99.0)
    assert health.held_until == 130.0
    fail(health, 102.0, limited(60.0), began=99.0)
    assert health.held_until == 162.0


@pytest.mark.parametrize("outcome", [limited(30.0), FAULT])
def test_a_milder_failure_does_not_soften_a_hold_in_force(outcome):
    health = Health()
    fail(health, 100.0, outcome)
    held_until = health.held_until
    fail(health, 101.0, FAILED, began=99.0)
    fail(health, 102.0, FAILED)
    assert health.kind == HoldKind(outcome.kind.value)
    assert health.held_until == held_until
    assert health.opens_at(103.0, last_resort=True) == held_until


def test_a_success_from_before_a_hard_hold_says_nothing_about_what_came_after():
    health = Health()
    fail(health, 100.0, limited(30.0))
    health.succeeded(began=99.0)
    assert not health.clean
    health.succeeded(began=130.0)
    assert health.clean


@pytest.mark.parametrize("outcome", [limited(30.0), FAULT], ids=["told to wait", "wrongly set up"])
def test_a_success_that_began_at_the_same_reading_of_the_clock_as_a_hard_hold_lifts_nothing(outcome):
    health = Health()
    fail(health, 100.0, outcome, began=100.0)
    held_until = health.held_until
    health.succeeded(began=100.0)
    assert health.held_until == held_until > 100.0
    assert health.begin(7, probe_until=held_until + 20.0)
    health.first_token(7, began=100.0)
    assert health.held_until == held_until
    health.succeeded(began=held_until)
    assert health.clean


def test_one_probe_at_a_time_and_its_place_is_free_when_it_ends():
    health = Health()
    fail(health, 100.0)
    assert health.begin(7, probe_until=110.0)
    assert health.opens_at(101.0) == 110.0
    health.end(8)
    assert health.opens_at(101.0) == 110.0
    health.end(7)
    assert health.opens_at(101.0) <= 101.0


def test_headers_that_say_nothing_is_left_hold_without_blame():
    health = Health()
    health.exhausted(until=120.0, now=100.0)
    assert (health.failures, health.opens_at(110.0, last_resort=True)) == (0, 120.0)
    health.succeeded(began=120.0)
    assert health.clean


def test_a_probes_success_does_not_lift_a_hold_that_was_asked_for_after_it_began():
    health = Health()
    fail(health, 100.0, limited(30.0))
    assert health.begin(7, probe_until=140.0)
    fail(health, 131.0, limited(30.0), began=99.0)
    health.end(7)
    health.succeeded(began=130.5)
    assert health.opens_at(132.0) == 161.0
