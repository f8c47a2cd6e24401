"""What every task store promises about time passing: expiry, lost leases, purging."""

import pytest

from core.cloud.store_contract import Maintained
from core.cloud.task import FINAL, OnDependencyFailure, TaskStatus

CANCEL = OnDependencyFailure.CANCEL


def test_nothing_is_due_in_an_idle_queue(queue):
    queue.publish()
    assert queue.tasks.next_due() is None
    assert queue.maintain() == Maintained()


def test_the_next_due_moment_is_the_earliest_of_delay_expiry_and_lease(queue):
    queue.publish(run_at=queue.now + 30)
    assert queue.tasks.next_due() == queue.now + 30
    queue.publish(expires_at=queue.now + 20)
    assert queue.tasks.next_due() == queue.now + 20
    queue.publish()
    queue.claim(lease=10, limit=1, task_id=queue.tasks.newest_ids(1)[0])
    assert queue.tasks.next_due() == queue.now + 10


def test_waiting_tasks_expire_whatever_they_wait_for_and_held_ones_do_not(queue):
    parent = queue.publish()
    ready = queue.publish(expires_at=queue.now + 10)
    later = queue.publish(expires_at=queue.now + 10, run_at=queue.now + 60)
    blocked = queue.publish(expires_at=queue.now + 10, depends_on=(parent,))
    held = queue.publish(expires_at=queue.now + 10)
    queue.claim(task_id=held, lease=100)
    queue.later(10)
    assert queue.maintain() == Maintained(expired=3)
    assert [queue.status(each) for each in (ready, later, blocked)] == [TaskStatus.EXPIRED] * 3
    assert queue.status(held) is TaskStatus.RUNNING
    assert queue.tasks.get(ready).error == "Expired before it could start."
    assert queue.tasks.next_due() == queue.now + 90


def test_a_task_that_comes_back_after_its_expiry_expires_instead_of_running_again(queue):
    task_id = queue.publish(expires_at=queue.now + 10)
    claim = queue.take(lease=100)
    queue.later(20)
    queue.settle(claim, TaskStatus.PENDING, error="again")
    assert queue.claim() == []
    queue.maintain()
    assert queue.status(task_id) is TaskStatus.EXPIRED


def test_what_depends_on_an_expired_task_follows_its_own_wish(queue):
    parent = queue.publish(expires_at=queue.now + 10)
    waits = queue.publish(depends_on=(parent,))
    cancels = queue.publish(depends_on=(parent,), on_dependency_failure=CANCEL)
    queue.later(10)
    assert queue.maintain() == Maintained(expired=1, cancelled=1)
    assert (queue.status(waits), queue.status(cancels)) == (TaskStatus.PENDING, TaskStatus.CANCELLED)
    assert queue.tasks.get(cancels).error == f"Cancelled because task {parent}, on which it depends, expired."


def test_a_lost_lease_gives_the_task_back_and_the_cut_attempt_is_free(queue):
    task_id = queue.publish()
    queue.claim(lease=10)
    queue.later(9.9)
    assert queue.maintain() == Maintained()
    queue.later(0.1)
    assert queue.maintain() == Maintained(interrupted=1)
    claim = queue.take("w2")
    assert (claim.task_id, claim.attempt, claim.interruptions) == (task_id, 2, 1)
    [cut, _] = queue.tasks.attempts(task_id)
    assert (cut.worker, cut.outcome.value, cut.error) == (
        "w1",
        "interrupted",
        "The worker stopped renewing its lease: its process died or hung.",
    )


def test_a_task_that_outlives_too_many_workers_fails_and_says_why(queue):
    task_id = queue.publish()
    child = queue.publish(depends_on=(task_id,), on_dependency_failure=CANCEL)
    for _ in range(2):
        queue.claim(lease=10)
        queue.later(10)
        assert queue.maintain(poison_limit=2).interrupted == 1
    queue.claim(lease=10)
    queue.later(10)
    assert queue.maintain(poison_limit=2) == Maintained(poisoned=1, cancelled=1)
    task = queue.tasks.get(task_id)
    assert (task.status, task.interruptions) == (TaskStatus.FAILED, 3)
    assert "its worker died 3 times" in task.error
    assert queue.outcomes(task_id) == ["interrupted"] * 3
    assert queue.status(child) is TaskStatus.CANCELLED


def test_a_retry_by_hand_starts_the_poison_count_anew(queue):
    task_id = queue.publish()
    queue.claim(lease=1)
    queue.later(1)
    assert queue.maintain(poison_limit=0).poisoned == 1
    assert queue.tasks.retry(task_id, queue.now).interruptions == 0
    queue.claim(lease=1)
    queue.later(1)
    assert queue.maintain(poison_limit=1).interrupted == 1


def test_a_round_is_bounded_and_rounds_finish_the_work(queue):
    for _ in range(25):
        queue.publish(expires_at=queue.now + 1)
    queue.later(1)
    assert [queue.maintain(limit=10).expired for _ in range(4)] == [10, 10, 5, 0]


def test_upkeep_by_several_at_once_changes_each_task_once(queue):
    queue.publish(expires_at=queue.now + 1)
    queue.later(1)
    assert [queue.maintain().expired for _ in range(3)] == [1, 0, 0]


@pytest.fixture
def ended(queue):
    """One task for each final status, ended a day apart, oldest first."""
    made = {}
    for status in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED):
        task_id = queue.publish(expires_at=queue.now + 5 if status is TaskStatus.EXPIRED else None, tags=("t",))
        if status is TaskStatus.COMPLETED:
            queue.complete(task_id)
        elif status is TaskStatus.FAILED:
            queue.fail(task_id)
        elif status is TaskStatus.CANCELLED:
            queue.tasks.cancel(task_id, queue.now, "no")
        queue.later(5)
        queue.maintain()
        made[status] = task_id
        queue.later(86_395)
    return made


def test_a_purge_removes_what_ended_long_enough_ago_with_all_that_belongs_to_it(queue, ended):
    purged = queue.tasks.purge(FINAL, queue.now - 2.5 * 86_400, dry_run=False, limit=100)
    assert (purged.tasks, purged.attempts, purged.by_status) == (2, 2, {"completed": 1, "failed": 1})
    assert queue.tasks.get(ended[TaskStatus.COMPLETED]) is None
    assert queue.tasks.attempts(ended[TaskStatus.COMPLETED]) == []
    assert queue.status(ended[TaskStatus.CANCELLED]) is TaskStatus.CANCELLED
    stats = queue.tasks.stats()
    assert sum(stats.by_status.values()) == 2
    assert (stats.completed_count, stats.completed_seconds) == (0, 0.0)


def test_a_dry_run_counts_the_same_and_removes_nothing(queue, ended):
    dry = queue.tasks.purge(FINAL, queue.now, dry_run=True, limit=100)
    assert sum(queue.tasks.stats().by_status.values()) == 4
    assert queue.tasks.purge(FINAL, queue.now, dry_run=False, limit=100) == dry
    assert dry.tasks == 4


def test_a_purge_takes_only_the_statuses_asked_for_and_no_more_than_its_limit(queue, ended):
    assert queue.tasks.purge({TaskStatus.FAILED}, queue.now, dry_run=False, limit=100).by_status == {"failed": 1}
    assert queue.tasks.purge(FINAL, queue.now, dry_run=False, limit=2).tasks == 2
    assert queue.tasks.purge(FINAL, queue.now, dry_run=False, limit=2).tasks == 1


@pytest.mark.parametrize("child_status", ["pending", "running", "failed", "completed"])
def test_a_result_that_a_task_may_still_need_is_not_purged(queue, child_status):
    parent = queue.publish()
    queue.complete(parent)
    child = queue.publish(depends_on=(parent,))
    if child_status == "running":
        queue.claim(task_id=child, lease=1e9)
    elif child_status == "failed":
        queue.fail(child)
    elif child_status == "completed":
        queue.complete(child)
    queue.later(10)
    purged = queue.tasks.purge({TaskStatus.COMPLETED}, queue.now - 5, dry_run=False, limit=1)
    assert purged.tasks == (1 if child_status == "completed" else 0)
    assert queue.tasks.get(child).status.value == child_status


def test_waiting_and_held_tasks_are_never_purged(queue):
    queue.publish()
    queue.publish()
    queue.claim()
    assert queue.tasks.purge(set(TaskStatus), queue.now + 1e9, dry_run=False, limit=100).tasks == 0
