"""What every task store promises about looking: pages, counters, prefixes, what a task waits for."""

import pytest

from core.cloud.store_contract import TaskQuery, WorkerInfo
from core.cloud.task import TaskStatus
from core.errors import InvalidArgument


def ids(queue, **query):
    return [task.task_id for task in queue.tasks.list(TaskQuery(**query), queue.now).tasks]


def walk(queue, **query):
    """Every page after another; checks that no page but the last is short."""
    found, cursor = [], ""
    while True:
        page = queue.tasks.list(TaskQuery(cursor=cursor, **query), queue.now)
        found += [task.task_id for task in page.tasks]
        cursor = page.next_cursor
        if not cursor:
            return found
        assert len(page.tasks) == query["limit"]


@pytest.fixture
def mixed(queue):
    """Forty tasks of every priority, four names, three tags and six statuses, by id."""
    made = {}
    for number in range(40):
        task_id = queue.publish(
            f"name{number % 4}",
            capability="work",
            priority=1 + number % 4,
            tags=[tag for tag, every in (("two", 2), ("three", 3), ("five", 5)) if number % every == 0],
            run_at=queue.now + 50 if number % 10 == 7 else None,
        )
        made[task_id] = None
    blocked = queue.publish("name1", depends_on=[next(iter(made))])
    made[blocked] = None
    for task_id, end in zip(list(made)[1:6], ("complete", "fail", "cancel", "complete", "hold"), strict=True):
        if end == "complete":
            queue.complete(task_id)
        elif end == "fail":
            queue.fail(task_id)
        elif end == "cancel":
            queue.tasks.cancel(task_id, queue.now, "no")
        else:
            queue.claim(task_id=task_id)
    return {task_id: queue.tasks.get(task_id) for task_id in made}


def expected(mixed, newest_first=False, **conditions):
    def meets(task):
        return (
            (conditions.get("status") in (None, task.status))
            and (conditions.get("name") in (None, task.name))
            and task.priority >= (conditions.get("priority_min") or 0)
            and set(conditions.get("tags", ())) <= set(task.tags)
        )

    found = [task_id for task_id, task in mixed.items() if meets(task)]
    return found[::-1] if newest_first else sorted(found, key=lambda each: (-mixed[each].priority, each))


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    "conditions",
    [
        {},
        *({"status": status} for status in TaskStatus),
        {"name": "name1"},
        {"name": "unheard of"},
        {"priority_min": 3},
        {"tags": ("two",)},
        {"tags": ("two", "three")},
        {"tags": ("two", "three", "five")},
        {"tags": ("none",)},
        {"status": TaskStatus.PENDING, "name": "name2", "priority_min": 2, "tags": ("two",)},
        {"status": TaskStatus.PENDING, "name": "name1"},
    ],
    ids=str,
)
def test_a_list_holds_exactly_what_meets_its_conditions_page_by_page(queue, mixed, conditions, newest_first):
    wanted = expected(mixed, newest_first, **conditions)
    for limit in (1, 7, 100):
        assert walk(queue, limit=limit, newest_first=newest_first, **conditions) == wanted


def test_the_ready_list_leaves_out_what_is_blocked_delayed_or_held(queue, mixed):
    ready = ids(queue, ready=True)
    assert ready == [claim.task_id for claim in queue.claim(limit=100)]


def test_the_ready_list_leaves_out_what_has_expired_but_was_not_marked_yet(queue):
    queue.publish(expires_at=queue.now + 5)
    kept = queue.publish()
    queue.later(5)
    assert ids(queue, ready=True) == [kept]
    assert ids(queue, ready=True, limit=1) == [kept]


@pytest.mark.parametrize("cursor", ["x", "1", "1.x", ".", "-1.5", "1.5.2", "9" * 40 + ".1", "２.1"])
def test_a_cursor_that_no_list_returned_is_refused(queue, cursor):
    with pytest.raises(InvalidArgument, match="cursor"):
        queue.tasks.list(TaskQuery(cursor=cursor), queue.now)


def test_a_page_stays_put_when_tasks_are_added_or_end_between_pages(queue):
    made = [queue.publish() for _ in range(6)]
    first = queue.tasks.list(TaskQuery(limit=3, status=TaskStatus.PENDING), queue.now)
    queue.complete(made[0])
    queue.publish(priority=1)
    rest = queue.tasks.list(TaskQuery(limit=3, status=TaskStatus.PENDING, cursor=first.next_cursor), queue.now)
    assert [task.task_id for task in rest.tasks] == made[3:]


def test_counters_agree_with_the_tasks(queue, mixed):
    stats = queue.tasks.stats()
    for status in TaskStatus:
        assert stats.by_status[status] == len(expected(mixed, status=status))
    for priority in range(1, 5):
        assert stats.by_priority[priority] == sum(task.priority == priority for task in mixed.values())
    assert stats.blocked == 1
    assert stats.later == sum(t.run_at is not None and t.status is TaskStatus.PENDING for t in mixed.values())
    assert stats.ready + stats.blocked + stats.later == stats.by_status[TaskStatus.PENDING]


def test_the_mean_time_is_over_tasks_that_had_a_start(queue):
    for seconds in (1.0, 3.0):
        queue.publish()
        claim = queue.take()
        queue.later(seconds)
        queue.settle(claim)
    stats = queue.tasks.stats()
    assert (stats.completed_seconds, stats.completed_count) == (pytest.approx(4.0), 2)


def test_an_id_is_found_by_a_prefix_only_when_it_is_the_only_one(queue):
    for task_id in ("abc1" + "0" * 12, "abc2" + "0" * 12, "abc2"):
        queue.publish(task_id=task_id)
    assert queue.tasks.resolve_id("abc1") == "abc1" + "0" * 12
    assert queue.tasks.resolve_id("abc2") == "abc2"
    assert queue.tasks.resolve_id("abc") is None
    assert queue.tasks.resolve_id("zzzz") is None
    assert queue.tasks.resolve_id("abc_") is None


def test_the_newest_ids_come_newest_first(queue):
    made = [queue.publish() for _ in range(5)]
    assert queue.tasks.newest_ids(3) == made[:1:-1]


def test_attempts_of_a_task_nobody_knows_are_none(queue):
    assert queue.tasks.attempts("unknown") == []


def test_the_attempt_that_runs_is_listed_last(queue):
    task_id = queue.publish()
    queue.settle(queue.take(), TaskStatus.PENDING, error="boom")
    queue.take("w2")
    assert [(a.number, a.worker, a.outcome.value, a.error) for a in queue.tasks.attempts(task_id)] == [
        (1, "w1", "failed", "boom"),
        (2, "w2", "running", None),
    ]


def test_results_are_only_of_completed_tasks(queue):
    done, failed, waiting = (queue.publish() for _ in range(3))
    queue.complete(done, result="null")
    queue.fail(failed)
    assert queue.tasks.results([done, failed, waiting]) == {done: "null"}


def test_the_situation_of_a_task_says_what_it_waits_for(queue, store):
    first, second = queue.publish(), queue.publish(priority=4)
    child = queue.publish(depends_on=(first, second), capability="rare")
    queue.fail(first)
    situation = queue.tasks.situation(child, queue.now)
    assert situation.unfinished == [(first, TaskStatus.FAILED), (second, TaskStatus.PENDING)]
    assert (situation.able_workers, situation.capability, situation.task.task_id) == (0, "rare", child)
    for name, can, seen in (("w1", ("rare", "x"), 0), ("w2", ("x",), 0), ("w3", ("rare",), 3600)):
        store.workers.register(WorkerInfo(name, 1, "h", 0, can, queue.now, queue.now - seen))
    assert queue.tasks.situation(child, queue.now).able_workers == 1
    assert queue.tasks.situation("unknown", queue.now) is None


def test_the_situation_counts_who_is_ahead_up_to_a_limit(queue):
    for _ in range(3):
        queue.publish(priority=4)
    early, late, urgent = queue.publish(), queue.publish(), queue.publish(priority=4)
    assert [queue.tasks.situation(each, queue.now).ahead for each in (early, late, urgent)] == [4, 5, 3]


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_everything_is_every_task_in_the_order_of_publication(queue, mixed, batch):
    batches = list(queue.tasks.everything(batch))
    assert [task.task_id for each in batches for task, _ in each] == list(mixed)
    assert all(len(each) <= batch for each in batches)
