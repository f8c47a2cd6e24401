"""What every task store promises about changes from outside a runner: reports, cancel, retry."""

import pytest

from core.cloud.store_contract import StatusReport
from core.cloud.task import TRANSITIONS, AttemptOutcome, OnDependencyFailure, TaskStatus
from core.errors import InvalidTransition, LeaseLost, UnknownTask

PENDING, ACKNOWLEDGED, RUNNING = TaskStatus.PENDING, TaskStatus.ACKNOWLEDGED, TaskStatus.RUNNING
COMPLETED, FAILED, CANCELLED, EXPIRED = (
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
    TaskStatus.CANCELLED,
    TaskStatus.EXPIRED,
)


def report(queue, task_id, status, worker="w1", **fields):
    return queue.tasks.report(StatusReport(task_id, status, worker, **fields), queue.now)


def bring_to(queue, status):
    task_id = queue.publish()
    if status is not PENDING:
        report(queue, task_id, status)
    assert queue.status(task_id) is status
    return task_id


@pytest.mark.parametrize("wanted", TaskStatus)
@pytest.mark.parametrize("current", TaskStatus)
def test_a_report_makes_exactly_the_moves_of_the_transition_table(queue, current, wanted):
    task_id = bring_to(queue, current)
    before = queue.tasks.get(task_id)
    if wanted in TRANSITIONS[current]:
        assert report(queue, task_id, wanted).status is wanted
    elif wanted is current and wanted in (ACKNOWLEDGED, RUNNING):
        assert report(queue, task_id, wanted).attempts == before.attempts
    else:
        with pytest.raises(InvalidTransition, match=f"is {current}"):
            report(queue, task_id, wanted)
        assert queue.tasks.get(task_id) == before


@pytest.mark.parametrize("status", TaskStatus)
def test_a_report_on_a_task_nobody_knows_names_the_newest(queue, status):
    known = queue.publish()
    with pytest.raises(UnknownTask, match=known):
        report(queue, "unknown", status)


def test_running_by_hand_holds_the_task_for_the_lease_and_no_longer(queue):
    task_id = queue.publish()
    assert report(queue, task_id, RUNNING, lease=3600.0).lease_until.timestamp() == queue.now + 3600
    assert queue.claim() == []
    queue.later(3600)
    queue.maintain()
    assert queue.take("w2").task_id == task_id


def test_a_blocked_task_is_not_started_by_hand(queue):
    parent = queue.publish()
    child = queue.publish(depends_on=(parent,))
    with pytest.raises(InvalidTransition, match="waits for 1 other task"):
        report(queue, child, RUNNING)
    assert report(queue, child, COMPLETED, result="1").status is COMPLETED


def test_a_held_task_has_one_holder_at_a_time(queue):
    task_id = queue.publish()
    report(queue, task_id, RUNNING, worker="first")
    with pytest.raises(InvalidTransition, match="held by first"):
        report(queue, task_id, RUNNING, worker="second")


def test_an_agent_goes_from_acknowledged_to_running_to_completed_in_one_attempt(queue):
    task_id = queue.publish()
    claim = queue.take("agent", status=ACKNOWLEDGED, lease=60)
    running = report(queue, task_id, RUNNING, "agent", attempt=claim.attempt, lease=600, progress=0.25)
    assert (running.attempts, running.progress) == (1, 0.25)
    assert running.lease_until.timestamp() == queue.now + 600
    again = report(queue, task_id, RUNNING, "agent", attempt=claim.attempt, progress=0.5, progress_message="half")
    assert (again.attempts, again.progress, again.progress_message) == (1, 0.5, "half")
    done = report(queue, task_id, COMPLETED, "agent", attempt=claim.attempt, result='{"a":1}')
    assert (done.status, done.result) == (COMPLETED, {"a": 1})
    assert queue.outcomes(task_id) == ["completed"]


@pytest.mark.parametrize("status", [RUNNING, COMPLETED, FAILED, PENDING])
def test_a_report_under_an_attempt_that_is_over_is_refused(queue, status):
    task_id = queue.publish()
    claim = queue.take("agent", lease=60)
    queue.later(60)
    queue.maintain()
    queue.take("other")
    with pytest.raises(LeaseLost, match="no longer held by agent under attempt 1"):
        report(queue, task_id, status, "agent", attempt=claim.attempt)
    assert queue.tasks.get(task_id).worker == "other"


def test_a_report_without_an_attempt_is_the_owners_word_and_ends_the_running_attempt(queue):
    task_id = queue.publish()
    claim = queue.take("runner")
    assert report(queue, task_id, FAILED, "manual", error="I say so").error == "I say so"
    assert not queue.settle(claim, worker="runner")
    [attempt] = queue.tasks.attempts(task_id)
    assert (attempt.worker, attempt.outcome, attempt.error) == ("runner", AttemptOutcome.FAILED, "I say so")


def test_giving_a_task_back_costs_no_retry(queue):
    task_id = queue.publish()
    report(queue, task_id, RUNNING)
    assert report(queue, task_id, PENDING).status is PENDING
    claim = queue.take()
    assert (claim.attempt, claim.interruptions) == (2, 1)
    assert queue.outcomes(task_id) == ["interrupted", "running"]


def test_completing_by_hand_frees_the_dependents(queue):
    parent = queue.publish()
    child = queue.publish(depends_on=(parent,))
    report(queue, parent, COMPLETED, result="7")
    assert queue.take().task_id == child


def test_failing_by_hand_cancels_dependents_that_ask_for_it(queue):
    parent = queue.publish()
    child = queue.publish(depends_on=(parent,), on_dependency_failure=OnDependencyFailure.CANCEL)
    report(queue, parent, FAILED, error="x")
    assert queue.status(child) is CANCELLED


def test_cancelling_a_running_task_ends_its_attempt_at_once_and_its_worker_learns_it(queue):
    task_id = queue.publish()
    claim = queue.take()
    cancelled = queue.tasks.cancel(task_id, queue.now, "changed my mind")
    assert (cancelled.status, cancelled.error, cancelled.worker) == (CANCELLED, "changed my mind", None)
    assert queue.tasks.renew("w1", [(task_id, 1)], 30, queue.now) == [(task_id, 1)]
    assert not queue.settle(claim)
    assert queue.outcomes(task_id) == ["cancelled"]


@pytest.mark.parametrize("status", [COMPLETED, FAILED, CANCELLED, EXPIRED])
def test_a_task_that_has_ended_is_not_cancelled(queue, status):
    task_id = bring_to(queue, status)
    with pytest.raises(InvalidTransition):
        queue.tasks.cancel(task_id, queue.now, "no")


@pytest.mark.parametrize("status", [FAILED, CANCELLED, EXPIRED])
def test_a_retry_gives_all_retries_anew_and_keeps_the_history(queue, status):
    task_id = queue.publish(max_retries=1, expires_at=queue.now + 100)
    queue.settle(queue.take(), PENDING, error="one")
    report(queue, task_id, status)
    queue.later(200)
    task = queue.tasks.retry(task_id, queue.now)
    assert (task.status, task.expires_at, task.run_at, task.completed_at) == (PENDING, None, None, None)
    claim = queue.take()
    assert (claim.attempt, claim.interruptions) == (2, 1)
    assert queue.outcomes(task_id)[0] == "failed"


def test_a_retry_keeps_an_expiry_that_is_still_to_come(queue):
    task_id = queue.publish(expires_at=queue.now + 100)
    queue.fail(task_id)
    assert queue.tasks.retry(task_id, queue.now).expires_at.timestamp() == queue.now + 100


@pytest.mark.parametrize("status", [PENDING, ACKNOWLEDGED, RUNNING, COMPLETED])
def test_only_what_failed_is_retried(queue, status):
    task_id = bring_to(queue, status)
    before = queue.tasks.get(task_id)
    with pytest.raises(InvalidTransition):
        queue.tasks.retry(task_id, queue.now)
    assert queue.tasks.get(task_id) == before


def test_a_retried_task_waits_for_the_dependencies_that_are_not_completed(queue):
    parents = [queue.publish() for _ in range(3)]
    child = queue.publish(depends_on=parents)
    queue.complete(parents[0])
    queue.tasks.cancel(child, queue.now, "no")
    queue.complete(parents[1])
    assert queue.tasks.retry(child, queue.now).blocked_by == (parents[2],)
    assert queue.claim(task_id=child) == []
    queue.complete(parents[2])
    assert queue.take().task_id == child


def test_unknown_tasks_cannot_be_cancelled_or_retried(queue):
    with pytest.raises(UnknownTask):
        queue.tasks.cancel("unknown", queue.now, "no")
    with pytest.raises(UnknownTask):
        queue.tasks.retry("unknown", queue.now)
