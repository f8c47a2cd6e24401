"""Retries that a clock set while it was ahead, after it was put back."""

import logging

import pytest

from core.clock import ManualClock
from core.cloud.retry import LONGEST_WAIT, put_back
from core.cloud.running.maintenance import RetriesAhead
from core.cloud.task import AttemptOutcome, TaskStatus

HOUR = 3600.0
YEARS = 174 * 365 * 86_400.0


def retried(queue, wait, outcome=AttemptOutcome.FAILED, **fields):
    """A task whose first attempt ended a moment ago and that is tried again after `wait`."""
    task_id = queue.publish(**fields)
    claim = queue.take(task_id=task_id)
    queue.later(2)
    assert queue.settle(claim, TaskStatus.PENDING, outcome=outcome, error="boom", run_at=queue.now + wait)
    return task_id


def run_at(queue, task_id):
    return queue.tasks.get(task_id).run_at.timestamp()


@pytest.mark.parametrize("ahead", [2 * HOUR, YEARS, 90.0, 12 * HOUR])
@pytest.mark.parametrize("wait", [0.5, 5.0, 300.0, LONGEST_WAIT, 7 * LONGEST_WAIT])
@pytest.mark.parametrize("outcome", [AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT])
def test_a_retry_set_by_a_clock_that_was_ahead_gets_its_whole_wait_once(queue, ahead, wait, outcome):
    queue.now += ahead
    task_id = retried(queue, wait, outcome)
    was = run_at(queue, task_id)
    queue.now -= ahead

    [moved] = queue.tasks.put_retries_back(queue.now)

    assert (moved.task_id, moved.was) == (task_id, pytest.approx(was))
    assert moved.due == run_at(queue, task_id) == pytest.approx(queue.now + wait, abs=0.001)
    [attempt] = queue.tasks.attempts(task_id)
    assert attempt.ended_at.timestamp() == pytest.approx(queue.now, abs=0.001)
    assert (attempt.ended_at - attempt.started_at).total_seconds() == pytest.approx(2, abs=0.001)
    for _ in range(3):
        queue.later(wait / 4)
        queue.maintain()
        assert queue.tasks.put_retries_back(queue.now) == []
        assert queue.claim() == []
    queue.later(wait / 4 + 0.01)
    queue.maintain()
    assert queue.take().attempt == 2


def test_it_may_happen_again_to_the_same_retry(queue):
    queue.now += HOUR
    task_id = retried(queue, 60.0)
    for _ in range(2):
        queue.now -= HOUR / 2
        assert len(queue.tasks.put_retries_back(queue.now)) == 1
        assert run_at(queue, task_id) == pytest.approx(queue.now + 60.0, abs=0.001)


def a_start_asked_for(queue):
    return queue.publish(run_at=queue.now + YEARS)


def a_retry_under_a_clock_that_is_right(queue):
    return retried(queue, LONGEST_WAIT)


def a_clock_corrected_by_less_than_a_second(queue):
    task_id = retried(queue, 60.0)
    queue.now -= 0.9
    return task_id


def a_start_asked_for_of_a_task_that_was_cut_off(queue):
    task_id = queue.publish(run_at=queue.now + 600)
    queue.now += HOUR
    queue.maintain()
    claim = queue.take()
    queue.now -= HOUR
    assert queue.settle(claim, TaskStatus.PENDING, outcome=AttemptOutcome.INTERRUPTED, run_at=queue.now + 600)
    queue.now -= HOUR
    return task_id


def a_task_that_waits_for_another(queue):
    parent = queue.publish(run_at=queue.now + YEARS)
    return queue.publish(depends_on=(parent,), run_at=queue.now + YEARS)


@pytest.mark.parametrize(
    "waiting",
    [
        a_start_asked_for,
        a_retry_under_a_clock_that_is_right,
        a_clock_corrected_by_less_than_a_second,
        a_start_asked_for_of_a_task_that_was_cut_off,
        a_task_that_waits_for_another,
    ],
)
def test_what_a_publisher_asked_for_and_what_the_clock_explains_stays(queue, waiting):
    task_id = waiting(queue)
    before = run_at(queue, task_id)
    assert queue.tasks.put_retries_back(queue.now) == []
    assert run_at(queue, task_id) == before


def test_many_are_put_back_in_bounded_rounds(queue):
    queue.now += HOUR
    task_ids = {retried(queue, 60.0) for _ in range(5)}
    queue.now -= HOUR
    moved = [len(queue.tasks.put_retries_back(queue.now, 2)) for _ in range(4)]
    assert moved == [2, 2, 1, 0]
    assert all(run_at(queue, task_id) < queue.now + 61 for task_id in task_ids)


def test_upkeep_looks_by_elapsed_time_whatever_the_clock_shows_and_says_what_it_did(queue, caplog):
    caplog.set_level(logging.WARNING)
    clock = ManualClock(queue.now)
    duty = RetriesAhead(queue.tasks, clock)
    assert duty.next_due() == clock.now()
    assert duty.run(clock.now()) is False
    clock.set_now(clock.now() + HOUR)
    queue.now = clock.now()
    task_id = retried(queue, 60.0)
    clock.set_now(clock.now() - HOUR)

    assert duty.next_due() == clock.now() + RetriesAhead.INTERVAL
    clock.advance(RetriesAhead.INTERVAL)
    assert duty.next_due() == clock.now()
    assert duty.run(clock.now()) is True

    assert run_at(queue, task_id) == pytest.approx(clock.now() + 60, abs=0.001)
    assert f"task {task_id} at" in caplog.text
    assert duty.next_due() == clock.now() + RetriesAhead.INTERVAL


@pytest.mark.parametrize(
    ("run_at", "ended_at", "due"),
    [
        (1_100.0, 900.0, None),
        (1_100.0, 1_001.0, None),
        (1_102.0, 1_002.0, 1_100.0),
        (9e9, 9e9 - 5, 1_005.0),
        (5_000.0, 6_000.0, 1_000.0),
    ],
)
def test_the_wait_of_a_retry_is_kept_whole_from_now_on(run_at, ended_at, due):
    assert put_back(run_at, ended_at, 1_000.0) == due
