"""What every task store promises about publishing."""

import pytest

from core.cloud.store_contract import NewTask, TaskQuery
from core.cloud.task import OnDependencyFailure, TaskStatus
from core.errors import InvalidArgument, UnknownTask

CANCEL = OnDependencyFailure.CANCEL


def new(task_id, **fields):
    return NewTask(task_id=task_id, name="work", payload=fields.pop("payload", "{}"), capability="work", **fields)


def test_a_published_task_reads_back_as_it_was_given(queue):
    parent = queue.publish()
    task_id = queue.publish(
        "report",
        payload='{"n":1,"text":"日本"}',
        priority=4,
        tags=("b", "a"),
        depends_on=(parent,),
        timeout=5.0,
        max_retries=7,
        run_at=queue.now + 60,
        expires_at=queue.now + 600,
        idempotency_key="once",
    )
    task = queue.tasks.get(task_id)
    assert (task.task_id, task.name, task.payload) == (task_id, "report", {"n": 1, "text": "日本"})
    assert (task.priority, task.tags, task.depends_on, task.blocked_by) == (4, ("b", "a"), (parent,), (parent,))
    assert (task.timeout, task.max_retries, task.attempts, task.idempotency_key) == (5.0, 7, 0, "once")
    assert task.created_at.timestamp() == queue.now
    assert task.run_at.timestamp() == queue.now + 60
    assert task.expires_at.timestamp() == queue.now + 600
    assert task.status is TaskStatus.PENDING


def test_a_batch_with_one_unknown_dependency_stores_nothing(queue):
    with pytest.raises(UnknownTask, match="missing"):
        queue.tasks.publish([new("a" * 16), new("b" * 16, depends_on=("missing",))], queue.now)
    assert queue.tasks.list(TaskQuery(), queue.now).tasks == []
    assert sum(queue.tasks.stats().by_status.values()) == 0


def test_a_dependency_on_a_later_task_of_the_batch_is_unknown(queue):
    with pytest.raises(UnknownTask):
        queue.tasks.publish([new("b" * 16, depends_on=("a" * 16,)), new("a" * 16)], queue.now)


def test_the_same_key_returns_the_first_task_and_inserts_nothing(queue):
    first = queue.publish(idempotency_key="k")
    [again] = queue.tasks.publish([new("f" * 16, idempotency_key="k")], queue.now)
    assert (again.task_id, again.created) == (first, False)
    assert queue.tasks.get("f" * 16) is None


def test_the_same_key_twice_in_one_batch_makes_one_task_and_later_entries_depend_on_it(queue):
    batch = [
        new("a" * 16, idempotency_key="k"),
        new("b" * 16, idempotency_key="k"),
        new("c" * 16, depends_on=("b" * 16,)),
    ]
    published = queue.tasks.publish(batch, queue.now)
    assert [each.task_id for each in published] == ["a" * 16, "a" * 16, "c" * 16]
    assert [each.created for each in published] == [True, False, True]
    assert queue.tasks.get("c" * 16).depends_on == ("a" * 16,)


@pytest.mark.parametrize("change", [{"payload": '{"other":1}'}, {"name": "other"}])
def test_a_key_that_another_task_has_is_refused(queue, change):
    queue.publish(idempotency_key="k")
    with pytest.raises(InvalidArgument, match="already used for a different task"):
        queue.publish(idempotency_key="k", **{"name": "work", **change})
    assert len(queue.tasks.list(TaskQuery(), queue.now).tasks) == 1


def test_a_dependency_named_twice_counts_once(queue):
    parent = queue.publish()
    child = queue.publish(depends_on=(parent, parent))
    queue.complete(parent)
    assert queue.take().task_id == child


def test_a_task_whose_dependencies_are_completed_is_ready_at_once(queue):
    parent = queue.publish()
    queue.complete(parent)
    child = queue.publish(depends_on=(parent,))
    assert queue.take().task_id == child


def test_a_dependent_that_waits_stays_pending_when_its_dependency_had_failed_before(queue):
    parent = queue.publish()
    queue.fail(parent)
    child = queue.publish(depends_on=(parent,))
    assert queue.tasks.get(child).blocked_by == (parent,)
    assert queue.status(child) is TaskStatus.PENDING


def test_a_dependent_that_cancels_is_cancelled_at_once_and_so_are_those_after_it_in_the_batch(queue):
    parent = queue.publish()
    queue.fail(parent)
    queue.tasks.publish(
        [
            new("a" * 16, depends_on=(parent,), on_dependency_failure=CANCEL),
            new("b" * 16, depends_on=("a" * 16,), on_dependency_failure=CANCEL),
            new("c" * 16, depends_on=("a" * 16,)),
        ],
        queue.now,
    )
    assert [queue.status(each * 16) for each in "abc"] == [
        TaskStatus.CANCELLED,
        TaskStatus.CANCELLED,
        TaskStatus.PENDING,
    ]
    assert queue.tasks.get("a" * 16).error == f"Cancelled because task {parent}, on which it depends, failed."


def test_a_batch_of_many_tasks_keeps_its_order(queue):
    ids = [f"{number:016x}" for number in range(5000)]
    queue.tasks.publish([new(task_id) for task_id in ids], queue.now)
    assert [claim.task_id for claim in queue.claim(limit=5000)] == ids


def test_an_id_that_is_taken_is_refused_and_changes_nothing(queue):
    first = queue.publish(payload='{"first":1}')
    with pytest.raises(Exception, match="changed"):
        queue.publish(task_id=first, payload='{"second":2}')
    assert queue.tasks.get(first).payload == {"first": 1}
