"""What every task store promises about claiming, settling and the lease between them."""

import pytest

from core.cloud.store_contract import ClaimRequest, Settlement, StatusReport
from core.cloud.task import AttemptOutcome, OnDependencyFailure, TaskStatus
from core.errors import StoreBusy

CANCEL = OnDependencyFailure.CANCEL
COMPLETED, FAILED, CANCELLED, PENDING = (
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
    TaskStatus.CANCELLED,
    TaskStatus.PENDING,
)


def test_urgent_tasks_come_first_then_the_oldest(queue):
    low, normal, urgent, normal2 = (queue.publish(priority=priority) for priority in (1, 2, 4, 2))
    assert [claim.task_id for claim in queue.claim(limit=10)] == [urgent, normal, normal2, low]


def test_the_order_holds_across_capabilities(queue):
    ids = [queue.publish(f"kind{number % 3}", priority=1 + number % 4) for number in range(24)]
    expected = sorted(ids, key=lambda task_id: (-queue.tasks.get(task_id).priority, task_id))
    claimed = []
    while batch := queue.claim(capabilities=("kind0", "kind1", "kind2"), limit=5):
        claimed += [claim.task_id for claim in batch]
    assert claimed == expected


def test_a_worker_gets_only_what_it_has_the_capability_for(queue):
    queue.publish("ai_call", capability="ai_call@openai")
    assert queue.claim(capabilities=("ai_call", "work")) == []
    assert queue.claim(capabilities=()) == []
    assert queue.take(capabilities=("ai_call@openai",)).name == "ai_call"


def test_a_worker_that_can_do_anything_gets_anything(queue):
    ids = [queue.publish(name) for name in ("a", "b", "c")]
    assert [claim.task_id for claim in queue.claim(capabilities=None, limit=9)] == ids


def test_a_limit_of_nothing_claims_nothing(queue):
    queue.publish()
    assert queue.claim(limit=0) == []


def test_a_claim_holds_the_task_for_its_lease_under_a_new_attempt(queue):
    task_id = queue.publish(timeout=3.0, max_retries=2, payload='{"x":1}')
    claim = queue.take(lease=20.0)
    assert (claim.task_id, claim.attempt, claim.payload, claim.timeout) == (task_id, 1, '{"x":1}', 3.0)
    assert (claim.max_retries, claim.interruptions, claim.depends_on) == (2, 0, ())
    task = queue.tasks.get(task_id)
    assert (task.status, task.worker, task.attempts) == (TaskStatus.RUNNING, "w1", 1)
    assert task.lease_until.timestamp() == queue.now + 20
    assert task.started_at.timestamp() == queue.now


def test_an_agent_holds_a_task_as_acknowledged(queue):
    task_id = queue.publish()
    queue.claim(status=TaskStatus.ACKNOWLEDGED)
    assert queue.status(task_id) is TaskStatus.ACKNOWLEDGED


def test_no_task_is_given_twice(queue):
    for _ in range(20):
        queue.publish()
    taken = [claim.task_id for worker in ("w1", "w2", "w3") for claim in queue.claim(worker, limit=9)]
    assert len(taken) == len(set(taken)) == 20


def test_a_given_task_is_claimed_whatever_its_capability_but_only_when_ready(queue):
    parent = queue.publish("strange")
    child = queue.publish(depends_on=(parent,))
    assert queue.claim(task_id=child) == []
    assert queue.claim(task_id=parent)[0].task_id == parent
    assert queue.claim(task_id=parent) == []
    assert queue.claim(task_id="unknown") == []


def test_a_task_past_its_expiry_is_never_claimed_even_before_upkeep_saw_it(queue):
    task_id = queue.publish(expires_at=queue.now + 10)
    queue.later(10)
    assert queue.claim() == []
    assert queue.claim(task_id=task_id) == []


def test_a_delayed_task_is_claimed_only_after_its_time(queue):
    task_id = queue.publish(run_at=queue.now + 10)
    queue.later(9.9)
    assert queue.maintain().promoted == 0
    assert queue.claim() == []
    queue.later(0.1)
    assert queue.maintain().promoted == 1
    assert queue.take().task_id == task_id


def test_completing_stores_the_result_and_the_attempt(queue):
    task_id = queue.publish()
    claim = queue.take()
    queue.later(2.5)
    assert queue.settle(claim, result='{"n":1}')
    task = queue.tasks.get(task_id)
    assert (task.status, task.result, task.error, task.worker) == (COMPLETED, {"n": 1}, None, None)
    assert task.completed_at.timestamp() == queue.now
    [attempt] = queue.tasks.attempts(task_id)
    assert (attempt.number, attempt.worker, attempt.outcome) == (1, "w1", AttemptOutcome.COMPLETED)
    assert (attempt.ended_at - attempt.started_at).total_seconds() == 2.5
    assert queue.tasks.results([task_id, "unknown"]) == {task_id: '{"n":1}'}


def test_a_failed_attempt_waits_for_its_retry_and_keeps_its_error(queue):
    task_id = queue.publish()
    assert queue.settle(queue.take(), PENDING, error="boom", run_at=queue.now + 5)
    task = queue.tasks.get(task_id)
    assert (task.status, task.error, task.run_at.timestamp()) == (PENDING, "boom", queue.now + 5)
    assert queue.claim() == []
    queue.later(5)
    queue.maintain()
    claim = queue.take()
    assert (claim.attempt, claim.interruptions) == (2, 0)
    assert queue.settle(claim)
    assert queue.outcomes(task_id) == ["failed", "completed"]
    assert queue.tasks.get(task_id).error is None


def test_a_timed_out_attempt_is_recorded_as_such(queue):
    task_id = queue.publish()
    queue.settle(queue.take(), FAILED, outcome=AttemptOutcome.TIMED_OUT, error="Timed out after 5 s.")
    assert queue.outcomes(task_id) == ["timed_out"]
    assert queue.status(task_id) is FAILED


def test_an_attempt_given_back_in_good_order_uses_up_no_retry_and_counts_for_no_poison(queue):
    task_id = queue.publish()
    for number in range(1, 8):
        claim = queue.take()
        assert (claim.attempt, claim.interruptions) == (number, number - 1)
        assert queue.settle(claim, PENDING, outcome=AttemptOutcome.INTERRUPTED)
    assert queue.tasks.get(task_id).interruptions == 0


def test_a_late_finish_by_a_worker_that_lost_its_lease_is_refused(queue):
    task_id = queue.publish()
    late = queue.take("w1", lease=10)
    queue.later(10)
    assert queue.maintain().interrupted == 1
    current = queue.take("w2")
    assert not queue.settle(late, worker="w1", result='"late"')
    assert not queue.settle(late, worker="w2", result='"wrong attempt"')
    assert not queue.settle(current, worker="w1", result='"wrong worker"')
    assert queue.settle(current, worker="w2", result='"right"')
    assert queue.tasks.get(task_id).result == "right"
    assert queue.outcomes(task_id) == ["interrupted", "completed"]


def test_a_second_finish_of_the_same_attempt_is_refused(queue):
    queue.publish()
    claim = queue.take()
    end = Settlement(claim.task_id, 1, "w1", AttemptOutcome.COMPLETED, COMPLETED, '"a"')
    other = Settlement(claim.task_id, 1, "w1", AttemptOutcome.FAILED, FAILED, error="b")
    exchanged = queue.tasks.exchange([end, other], None, queue.now)
    assert exchanged.refused == [other]
    assert queue.tasks.get(claim.task_id).result == "a"
    assert queue.outcomes(claim.task_id) == ["completed"]


def test_a_finish_after_the_lease_ran_out_counts_while_nobody_took_the_task(queue):
    queue.publish()
    claim = queue.take(lease=10)
    queue.later(60)
    assert queue.settle(claim)


def test_one_refused_settlement_does_not_hold_up_the_others(queue):
    queue.publish()
    queue.publish()
    claims = queue.claim(limit=2)
    ends = [
        Settlement("unknown", 1, "w1", AttemptOutcome.COMPLETED, COMPLETED, "1"),
        *(Settlement(c.task_id, c.attempt, "w1", AttemptOutcome.COMPLETED, COMPLETED, "1") for c in claims),
    ]
    exchanged = queue.tasks.exchange(ends, None, queue.now)
    assert exchanged.refused == ends[:1]
    assert queue.tasks.stats().by_status[COMPLETED] == 2


def test_settling_frees_dependents_for_the_claim_of_the_same_exchange(queue):
    parent = queue.publish()
    child = queue.publish(depends_on=(parent,))
    claim = queue.take()
    end = Settlement(claim.task_id, claim.attempt, "w1", AttemptOutcome.COMPLETED, COMPLETED, "1")
    exchanged = queue.tasks.exchange([end], ClaimRequest("w1", ("work",), 5, 30.0), queue.now)
    assert [each.task_id for each in exchanged.claims] == [child]
    assert exchanged.claims[0].depends_on == (parent,)


def test_a_child_of_many_starts_only_after_the_last_of_them(queue):
    parents = [queue.publish() for _ in range(5)]
    child = queue.publish(depends_on=parents)
    for done, parent in enumerate(parents):
        assert queue.tasks.get(child).blocked_by == tuple(parents[done:])
        assert queue.claim(task_id=child) == []
        queue.complete(parent)
    assert queue.take().task_id == child


def test_a_freed_child_with_a_delay_still_waits_for_its_time(queue):
    parent = queue.publish()
    child = queue.publish(depends_on=(parent,), run_at=queue.now + 30)
    queue.complete(parent)
    assert queue.claim() == []
    assert queue.tasks.stats().later == 1
    queue.later(30)
    queue.maintain()
    assert queue.take().task_id == child


def test_a_retry_of_the_failed_dependency_revives_those_that_waited(queue):
    parent = queue.publish()
    child = queue.publish(depends_on=(parent,))
    queue.fail(parent)
    assert queue.status(child) is PENDING
    queue.tasks.retry(parent, queue.now)
    queue.complete(parent)
    assert queue.take().task_id == child


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_dependents_that_ask_for_it_are_cancelled_with_the_whole_tree_below(queue, how):
    root = queue.publish()
    child = queue.publish(depends_on=(root,), on_dependency_failure=CANCEL)
    grandchild = queue.publish(depends_on=(child,), on_dependency_failure=CANCEL)
    waiting = queue.publish(depends_on=(child,))
    other = queue.publish()
    if how == "failed":
        queue.fail(root)
    else:
        queue.tasks.cancel(root, queue.now, "no")
    assert [queue.status(each) for each in (child, grandchild, waiting, other)] == [
        CANCELLED,
        CANCELLED,
        PENDING,
        PENDING,
    ]
    assert root in queue.tasks.get(grandchild).error
    assert queue.tasks.get(grandchild).completed_at.timestamp() == queue.now


def test_cancelling_the_first_of_ten_thousand_in_a_row_cancels_them_all(queue):
    from core.cloud.store_contract import NewTask

    ids = [f"{number:016x}" for number in range(10_000)]
    queue.tasks.publish(
        [
            NewTask(
                task_id,
                "work",
                "{}",
                "work",
                depends_on=(ids[index - 1],) if index else (),
                on_dependency_failure=CANCEL,
            )
            for index, task_id in enumerate(ids)
        ],
        queue.now,
    )
    queue.tasks.cancel(ids[0], queue.now, "no")
    assert queue.tasks.stats().by_status[CANCELLED] == 10_000


def test_renewing_keeps_the_lease_and_names_what_is_lost(queue):
    queue.publish()
    queue.publish()
    kept, lost = queue.claim(limit=2, lease=10)
    queue.tasks.cancel(lost.task_id, queue.now, "no")
    queue.later(8)
    held = [(kept.task_id, kept.attempt), (lost.task_id, lost.attempt), ("unknown", 1)]
    assert queue.tasks.renew("w1", held, 10, queue.now) == held[1:]
    queue.later(8)
    assert queue.maintain().interrupted == 0
    assert queue.tasks.renew("w2", held[:1], 10, queue.now) == held[:1]


def test_a_lease_renewed_after_the_clock_was_put_back_ends_by_the_new_time(queue):
    queue.publish()
    claim = queue.take(lease=10)
    queue.now -= 7200
    queue.tasks.renew("w1", [(claim.task_id, 1)], 10, queue.now)
    assert queue.tasks.get(claim.task_id).lease_until.timestamp() == queue.now + 10


def test_who_holds_tasks_in_this_process_renews_before_anything_is_taken_back(queue):
    queue.publish()
    queue.publish()
    ours, theirs = queue.claim(limit=2, lease=10)
    renewals = []

    def renew():
        renewals.append(queue.now)
        assert queue.tasks.renew("w1", [(ours.task_id, 1)], 10, queue.now) == []

    end = queue.tasks.on_take_back(renew)
    queue.later(9)
    queue.maintain()
    assert renewals == []
    queue.later(3600)
    assert queue.maintain().interrupted == 1
    assert renewals == [queue.now]
    assert [queue.tasks.get(each.task_id).status for each in (ours, theirs)] == ["running", "pending"]
    end()
    queue.later(3600)
    assert queue.maintain().interrupted == 1
    assert len(renewals) == 1


def test_nothing_is_taken_back_when_those_here_cannot_renew(queue):
    queue.publish()
    claim = queue.take(lease=10)

    def renew():
        raise StoreBusy("locked")

    queue.tasks.on_take_back(renew)
    queue.later(60)
    with pytest.raises(StoreBusy):
        queue.maintain()
    assert queue.tasks.get(claim.task_id).status == "running"


def test_leases_can_be_left_alone_while_all_else_is_kept_up(queue):
    queue.publish()
    queue.take(lease=10)
    expiring = queue.publish(expires_at=queue.now + 5)
    queue.later(60)
    assert queue.tasks.next_due(take_back=False) == queue.now - 55
    done = queue.tasks.maintain(queue.now, 5, take_back=False)
    assert (done.expired, done.interrupted) == (1, 0)
    assert queue.tasks.get(expiring).status == "expired"
    assert queue.tasks.next_due(take_back=False) is None
    assert queue.maintain().interrupted == 1


def test_progress_is_kept_for_its_attempt_and_refused_from_anybody_else(queue):
    task_id = queue.publish()
    claim = queue.take(lease=10)
    assert queue.tasks.progress(task_id, claim.attempt, "w1", 0.5, "half")
    assert not queue.tasks.progress(task_id, claim.attempt, "w2", 0.9, "not mine")
    task = queue.tasks.get(task_id)
    assert (task.progress, task.progress_message) == (0.5, "half")
    queue.later(10)
    queue.maintain()
    assert not queue.tasks.progress(task_id, claim.attempt, "w1", 0.9, "late")
    queue.take("w2")
    task = queue.tasks.get(task_id)
    assert (task.progress, task.progress_message) == (None, "")


def test_releasing_gives_back_only_the_workers_own_tasks_and_they_are_free(queue):
    mine, other = queue.publish(), queue.publish()
    queue.claim("w1")
    queue.claim("w2")
    assert queue.tasks.release("w1", queue.now) == 1
    assert queue.tasks.release("w1", queue.now) == 0
    assert (queue.status(mine), queue.status(other)) == (PENDING, TaskStatus.RUNNING)
    assert queue.outcomes(mine) == ["interrupted"]
    claim = queue.take("w3")
    assert (claim.task_id, claim.attempt, claim.interruptions) == (mine, 2, 1)


def test_twenty_thousand_ready_tasks_that_nobody_here_can_run_do_not_hide_one_that_can(queue):
    from core.cloud.store_contract import NewTask

    for start in range(0, 20_000, 5_000):
        queue.tasks.publish(
            [NewTask(f"{n:016x}", "x", "{}", "elsewhere", priority=4) for n in range(start, start + 5_000)], queue.now
        )
    mine = queue.publish(task_id="f" * 16)
    assert queue.take().task_id == mine


def test_an_exchange_that_fails_changes_nothing(queue):
    task_id = queue.publish()
    claim = queue.take()
    bad = Settlement(task_id, claim.attempt, "w1", AttemptOutcome.RUNNING, COMPLETED, "1")
    with pytest.raises(Exception, match="nothing was changed"):
        queue.tasks.exchange([bad], None, queue.now)
    assert queue.status(task_id) is TaskStatus.RUNNING
    assert queue.settle(claim)


def test_a_report_by_hand_and_a_runner_cannot_both_end_a_task(queue):
    task_id = queue.publish()
    claim = queue.take()
    queue.tasks.report(StatusReport(task_id, COMPLETED, "manual", result='"by hand"'), queue.now)
    assert not queue.settle(claim)
    assert queue.tasks.get(task_id).result == "by hand"
