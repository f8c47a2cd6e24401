"""What every task store promises about tasks whose workers die: the guilty fails, whoever ran beside it does not."""

import pytest

from core.cloud.task import TaskStatus

LIMIT = 5


def die(queue, worker="w1", **fields):
    """A worker takes what it may and dies; returns what it had taken."""
    taken = queue.claim(worker, **{"limit": 10, "lease": 1, "suspects": 1, **fields})
    queue.later(2)
    queue.maintain(poison_limit=LIMIT)
    return [claim.task_id for claim in taken]


def test_after_one_death_all_go_on_side_by_side_and_after_two_one_at_a_time(queue):
    ids = [queue.publish() for _ in range(3)]
    assert die(queue) == ids
    assert die(queue) == ids
    claims = queue.claim(limit=10, suspects=1)
    assert [(claim.task_id, claim.suspect) for claim in claims] == [(ids[0], True)]
    assert queue.claim("w1", limit=10, suspects=0) == []
    assert [claim.task_id for claim in queue.claim("w2", limit=10, suspects=1)] == [ids[1]]


def test_fresh_tasks_run_beside_a_suspect_and_the_order_is_kept(queue):
    ids = [queue.publish() for _ in range(2)]
    die(queue)
    die(queue)
    low, urgent = queue.publish(priority=1), queue.publish(priority=4)
    claims = queue.claim(limit=3, suspects=1)
    assert [claim.task_id for claim in claims] == [urgent, ids[0], low]
    assert [claim.suspect for claim in claims] == [False, True, False]


def test_an_agent_and_a_claim_by_id_take_any_number_of_suspects(queue):
    ids = [queue.publish() for _ in range(3)]
    die(queue)
    die(queue)
    assert queue.take(task_id=ids[2]).suspect
    assert [claim.task_id for claim in queue.claim(limit=10, capabilities=None)] == ids[:2]


@pytest.mark.parametrize(
    "fields", [{"capability": "other", "name": "other"}, {"expires_at": 10**10}, {"priority": 4, "capability": "other"}]
)
def test_a_suspect_that_cannot_be_run_here_holds_up_no_other(queue, fields):
    first, second = queue.publish(**fields), queue.publish()
    for _ in range(2):
        die(queue, capabilities=("work", "other"))
    if "expires_at" in fields:
        queue.now = 10**10 + 1
    [claim] = queue.claim(limit=10, suspects=1)
    assert claim.task_id == second
    assert queue.tasks.get(first).status == "pending"


def test_the_innocent_finish_and_the_guilty_is_given_up(queue):
    innocent, guilty, other = queue.publish(), queue.publish(), queue.publish()
    for _ in range(20):
        claims = queue.claim(limit=10, lease=1, suspects=1)
        if guilty in [claim.task_id for claim in claims]:
            queue.later(2)
            queue.maintain(poison_limit=LIMIT)
        else:
            assert all(queue.settle(claim, result="1") for claim in claims)
    assert [queue.tasks.get(each).status for each in (innocent, guilty, other)] == ["completed", "failed", "completed"]
    failed = queue.tasks.get(guilty)
    assert failed.interruptions == LIMIT + 1
    assert "died 6 times while running it, the last time with nothing else running in it" in failed.error


def test_what_ran_beside_others_is_doubted_twice_as_long(queue):
    suspect = queue.publish()
    for deaths in range(1, 2 * LIMIT + 2):
        fresh = queue.publish()  # perhaps it is this that kills the worker
        assert suspect in die(queue)
        queue.tasks.cancel(fresh, queue.now, "only to make room")
        assert (queue.tasks.get(suspect).status == "failed") == (deaths > 2 * LIMIT)
    assert "nothing else" not in queue.tasks.get(suspect).error


def test_a_retry_by_hand_ends_the_suspicion(queue):
    ids = [queue.publish() for _ in range(2)]
    die(queue)
    die(queue)
    for task_id in ids:
        queue.tasks.cancel(task_id, queue.now, "looked at")
        queue.tasks.retry(task_id, queue.now)
    assert [claim.task_id for claim in queue.claim(limit=10, suspects=1)] == ids


@pytest.mark.parametrize("ends", ["failed", "timed out", "worker died", "given back", "cancelled and retried", "twice"])
def test_a_task_that_expires_after_it_ran_keeps_what_went_wrong(queue, ends):
    task_id = queue.publish(expires_at=queue.now + 100)
    claim = queue.take(lease=10)
    last = f"no luck: {ends}"
    if ends == "worker died":
        queue.later(11)
        queue.maintain()
        last = "The worker stopped renewing its lease: its process died or hung."
    elif ends == "given back":
        assert queue.tasks.release("w1", queue.now) == 1
        last = "Given back: its worker was shut down."
    elif ends == "cancelled and retried":
        queue.tasks.cancel(task_id, queue.now, last)
        queue.tasks.retry(task_id, queue.now)
    else:
        assert queue.settle(claim, TaskStatus.PENDING, error=last)
    queue.later(100)
    queue.maintain()
    ended = queue.tasks.get(task_id)
    assert (ended.status, ended.error) == ("expired", f"Expired before it could start again. Last error: {last}")
    if ends == "twice":
        queue.tasks.retry(task_id, queue.now)
        queue.tasks.cancel(task_id, queue.now, ended.error)
        queue.tasks.retry(task_id, queue.now)
        assert queue.tasks.get(task_id).error == ended.error


def test_a_task_that_expires_without_having_run_says_so(queue):
    task_id = queue.publish(expires_at=queue.now + 1)
    queue.later(2)
    queue.maintain()
    assert queue.tasks.get(task_id).error == "Expired before it could start."
