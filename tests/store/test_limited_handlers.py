"""What every task store promises about handlers with limits: what starts keeps to them, exactly, and nothing waits for another's."""

import json
import math

import pytest

from core.cloud.handler_limits import HandlerLimits
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.queue.graph import resolve
from core.cloud.store import partitions
from core.cloud.store_contract import ClaimRequest, NewTask, Settlement, TaskQuery
from core.cloud.task import AttemptOutcome, TaskStatus
from core.errors import InvalidArgument, StoreError
from tests.store.test_gates import SlotGate


class Limited:
    """The queue with a handler `report` that has limits."""

    def __init__(self, queue):
        self.queue = queue
        self.tasks = queue.tasks

    def set(self, max_per_minute=0, max_concurrency=0, key="", name="report"):
        self.tasks.set_limits({name: HandlerLimits(max_per_minute, max_concurrency, key)}, self.queue.now)

    def publish(self, customer=None, name="report", **fields):
        fields.setdefault("payload", json.dumps({} if customer is None else {"customer": customer}))
        return self.queue.publish(name, **fields)

    def exchange(self, *ends, limit=10, worker="w1", names=("report", "work"), **fields):
        fields.setdefault("limited", ("report",))
        request = ClaimRequest(worker, names, limit, 30.0, resolve=resolve, **fields)
        settlements = [
            Settlement(end.task_id, end.attempt, worker, AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, '"done"')
            for end in ends
        ]
        return self.tasks.exchange(settlements, request, self.queue.now)

    def started(self, *ends, **fields):
        return [claim.task_id for claim in self.exchange(*ends, **fields).claims]


@pytest.fixture
def limited(queue):
    return Limited(queue)


def test_no_more_start_in_any_minute_than_may_and_the_moment_of_the_next_is_told(limited):
    limited.set(max_per_minute=2)
    tasks = [limited.publish() for _ in range(5)]

    first = limited.exchange()
    limited.queue.later(20)
    second = limited.exchange()
    limited.queue.later(WINDOW - 20)
    third = limited.exchange()

    assert [claim.task_id for claim in first.claims] == tasks[:2]
    assert (second.claims, second.opens_in) == ([], pytest.approx(WINDOW - 20))
    assert [claim.task_id for claim in third.claims] == tasks[2:4]


def test_a_task_that_has_to_wait_stays_as_it_is(limited):
    limited.set(max_per_minute=1)
    limited.publish()
    waiting = limited.publish()
    before = limited.tasks.get(waiting)

    limited.exchange()
    limited.exchange()

    assert limited.tasks.get(waiting) == before
    assert (before.status, before.attempts, before.worker) == ("pending", 0, None)


def test_no_more_run_at_once_than_may_and_an_end_starts_the_next_in_the_same_exchange(limited):
    limited.set(max_concurrency=2)
    tasks = [limited.publish() for _ in range(4)]

    first = limited.exchange()
    assert limited.exchange().opens_in == math.inf
    ended = limited.exchange(first.claims[0])

    assert [claim.task_id for claim in first.claims] == tasks[:2]
    assert [claim.task_id for claim in ended.claims] == [tasks[2]]
    assert [limited.queue.status(task) for task in tasks] == ["completed", "running", "running", "pending"]


def test_both_limits_hold_together(limited):
    limited.set(max_per_minute=3, max_concurrency=2)
    tasks = [limited.publish() for _ in range(5)]

    [first, second] = limited.exchange().claims
    [third] = limited.exchange(first).claims
    assert limited.started(second, third) == []

    limited.queue.later(WINDOW)
    assert limited.started() == tasks[3:]


def test_each_value_of_the_key_is_limited_by_itself(limited):
    limited.set(max_per_minute=1, max_concurrency=5, key="customer")
    acme, _, other, _, nobody, _ = (limited.publish(each) for each in ("acme", "acme", "b", "b", None, None))

    assert limited.started() == [acme, other, nobody]


def test_ten_thousand_tasks_of_one_value_do_not_delay_another(limited):
    limited.set(max_per_minute=1, key="customer")
    limited.tasks.publish(
        [NewTask(f"a{number:015}", "report", '{"customer":"a"}', "report", priority=4) for number in range(10_000)],
        limited.queue.now,
    )
    other = limited.publish("b", priority=1)
    free = limited.publish(name="work", priority=1)

    started = []
    for _ in range(40):  # sorted in parts; what has no limit does not wait for that
        started += limited.started()
        assert free in started

    assert started == [free, "a" + "0" * 15, other]


def test_priority_and_age_count_within_a_value_and_between_them(limited):
    limited.set(max_per_minute=2, key="customer")
    low, old, normal, high, free, urgent = (
        limited.publish("a", priority=1),
        limited.publish("a", priority=2),
        limited.publish("b", priority=2),
        limited.publish("b", priority=3),
        limited.publish(name="work", priority=3),
        limited.publish("a", priority=4),
    )

    assert limited.started() == [urgent, high, free, old, normal]
    assert limited.queue.status(low) == "pending"


def test_the_order_holds_when_a_claim_takes_one_at_a_time(limited):
    limited.set(max_concurrency=3, key="customer")
    tasks = [limited.publish(each) for each in "abcabcabc"]

    assert [limited.started(limit=1) for _ in range(9)] == [[task] for task in tasks]
    assert limited.started(limit=1) == []


def test_with_ageing_waiting_counts(limited):
    limited.set(max_concurrency=10, key="customer")
    old = limited.publish("a", priority=1)
    limited.queue.later(1000)
    urgent = limited.publish("b", priority=2)
    middle = limited.publish(name="work", priority=4)

    assert limited.started(ageing=60.0) == [old, middle, urgent]


def test_what_waits_for_a_limit_delays_neither_the_free_nor_those_behind_a_gate(limited):
    limited.set(max_per_minute=1)
    first = limited.publish(priority=4)
    for _ in range(20):
        limited.publish(priority=4)
    free, gated = limited.publish(name="work", priority=1), limited.publish(name="other", priority=1)

    started = limited.started(limit=3, names=("report", "work", "other"), gates={"other": SlotGate(5)})

    assert started == [first, free, gated]


@pytest.mark.parametrize("granted", [0, 1, 2])
def test_no_more_tasks_with_limits_are_taken_than_asked_for(limited, granted):
    limited.set(max_concurrency=5)
    tasks = [limited.publish(priority=4) for _ in range(3)]
    free = limited.publish(name="work")

    assert limited.started(granted=granted) == [*tasks[:granted], free]


def test_tasks_published_before_there_were_limits_obey_them(limited):
    tasks = [limited.publish(each) for each in "aab"]
    limited.set(max_per_minute=1, key="customer")

    assert limited.started() == [tasks[0], tasks[2]]


def test_a_task_that_gets_ready_later_obeys_them(limited):
    limited.set(max_concurrency=1, key="customer")
    parent = limited.publish(name="work")
    child = limited.publish("a", depends_on=[parent])
    delayed = limited.publish("a", run_at=limited.queue.now + 5)
    [held] = limited.exchange().claims

    assert limited.started(held) == [child]
    limited.queue.later(6)
    limited.queue.maintain()
    assert (limited.started(), limited.queue.status(delayed)) == ([], "pending")


def test_a_retry_obeys_them_and_keeps_its_value(limited):
    limited.set(max_per_minute=1, key="customer")
    task = limited.publish("a")
    [claim] = limited.exchange().claims
    limited.queue.settle(claim, TaskStatus.PENDING, run_at=limited.queue.now + 1, error="boom")
    limited.queue.later(2)
    limited.queue.maintain()

    assert limited.started() == []
    limited.queue.later(WINDOW)
    assert limited.started() == [task]


def test_other_limits_count_from_their_registration_on_with_the_starts_there_were(limited):
    limited.set(max_per_minute=2)
    tasks = [limited.publish() for _ in range(6)]
    limited.exchange()

    limited.set(max_per_minute=5)

    assert limited.started() == tasks[2:5]


def test_another_key_sorts_anew_what_waits(limited):
    limited.set(max_per_minute=1, key="customer")
    tasks = [
        limited.publish(payload=json.dumps({"customer": customer, "exchange": exchange}))
        for customer, exchange in ("ax", "ay", "bx", "by")
    ]
    assert limited.started() == [tasks[0], tasks[2]]

    limited.set(max_per_minute=1, key="exchange")

    assert limited.started() == [tasks[1]]


def test_limits_that_are_lifted_hold_nothing_back(limited):
    limited.set(max_per_minute=1, key="customer")
    tasks = [limited.publish(each) for each in "aaab"]
    limited.exchange()

    limited.set()

    assert limited.tasks.limits() == {}
    assert limited.started() == tasks[1:3]


def test_a_process_that_knows_of_no_limits_runs_what_others_have_sorted(limited):
    limited.set(max_per_minute=1, key="customer")
    tasks = [limited.publish(each) for each in "aa"]
    limited.exchange()

    assert limited.started(limited=()) == tasks[1:]


@pytest.mark.parametrize(
    ("key", "payloads", "groups"),
    [
        ("customer", [{"customer": 17}, {"customer": "17"}, {"customer": "18"}], [1, 1, 2]),
        ("customer", [{"customer": None}, {}, [], "text", 5, None, {"customer": ""}], [1, 1, 1, 1, 1, 1, 1]),
        ("customer", [{"customer": "=a"}, {"customer": "a"}, {"customer": "客户"}], [1, 2, 3]),
        ("customer", [{"customer": {"id": 1}}, {"customer": {"id": 2}}, {"customer": {"id": 1}}], [1, 2, 1]),
        ("customer", [{"customer": "a" * 300}, {"customer": "a" * 299 + "b"}, {"customer": "a" * 300}], [1, 2, 1]),
        ("order.customer", [{"order": {"customer": "a"}}, {"order": "a"}, {"order": {"customer": "b"}}], [1, 2, 3]),
        ("host(url)", [{"url": "https://A.example/1"}, {"url": "http://a.example:8080"}, {"url": "https://b.example"}], [1, 1, 2]),
        ("host(url)", [{"url": "https://[::1]/"}, {"url": "https://[broken"}, {"url": 5}, {}], [1, 2, 2, 2]),
    ],
)  # fmt: skip
def test_tasks_with_one_value_share_a_limit(limited, key, payloads, groups):
    limited.set(max_concurrency=1, key=key)
    tasks = [limited.publish(payload=json.dumps(payload)) for payload in payloads]

    firsts = [task for index, task in enumerate(tasks) if groups.index(groups[index]) == index]
    assert limited.started() == firsts


@pytest.mark.parametrize(
    ("key", "refer"),
    [
        ("order.customer", {"order": {"customer": "${%s.order.customer}"}}),
        ("order.customer", {"order": "${%s.order}"}),
        ("order.customer", "${%s}"),
        ("host(order.url)", {"order": {"url": "https://${%s.order.customer}/path"}}),
    ],
)
def test_a_value_that_comes_from_a_result_is_limited_as_what_it_is(limited, key, refer):
    limited.set(max_concurrency=1, key=key)
    parents = [limited.publish(name="work") for _ in range(3)]
    tasks = [
        limited.publish(payload=json.dumps(refer).replace("%s", parent), depends_on=[parent]) for parent in parents
    ]
    plain = limited.publish(payload=json.dumps({"order": {"customer": "acme", "url": "https://acme"}}), priority=3)
    for parent, customer in zip(parents, ("acme", "b", "acme"), strict=True):
        limited.queue.complete(parent, result=json.dumps({"order": {"customer": customer}}))

    assert limited.started() == [plain, tasks[1]]


def test_a_value_that_refers_to_nothing_that_is_there_counts_as_none(limited):
    limited.set(max_concurrency=1, key="customer")
    parent = limited.publish(name="work")
    limited.queue.complete(parent, result='{"other": 1}')
    first, _ = limited.publish(None), limited.publish(f"${{{parent}.customer}}", depends_on=[parent])

    assert limited.started() == [first]


def test_a_worker_that_died_keeps_its_place_until_its_lease_ends(limited):
    limited.set(max_concurrency=1)
    first, second = limited.publish(), limited.publish()
    limited.exchange(worker="dead")

    limited.queue.later(31)
    assert limited.started() == []
    limited.queue.maintain()

    assert limited.started() == [first]
    assert limited.queue.status(second) == "pending"


def test_what_an_agent_holds_counts_as_running_and_is_not_held_up_itself(limited):
    limited.set(max_concurrency=1)
    tasks = [limited.publish() for _ in range(3)]
    [by_hand] = limited.queue.claim("agent", ("report",), status=TaskStatus.ACKNOWLEDGED)

    assert limited.started() == []
    assert [each.task_id for each in limited.queue.claim("other", None)] == [tasks[1]]
    limited.queue.settle(by_hand, worker="agent")
    assert limited.started() == []


def test_what_ran_before_there_were_limits_counts_as_running(limited):
    first, second, other = limited.publish("a"), limited.publish("a"), limited.publish("b")
    [held] = limited.exchange(limit=1).claims
    assert held.task_id == first

    limited.set(max_concurrency=1, key="customer")
    assert limited.started() == [other]
    limited.set(max_concurrency=3)
    assert limited.started() == [second]


def test_a_claim_that_fails_has_started_nothing(limited):
    limited.set(max_per_minute=1)
    task = limited.publish(priority=4)
    limited.publish(name="other")

    class Failing(SlotGate):
        def take(self, capability, payload):
            raise StoreError("the disk is full")

    for _ in range(2):
        with pytest.raises(StoreError):
            limited.exchange(names=("report", "other"), gates={"other": Failing(1)})

    assert limited.started() == [task]


def test_a_suspect_with_a_limit_runs_when_no_other_does(limited):
    limited.set(max_concurrency=5, key="customer")
    first, second, healthy = (limited.publish(each) for each in "aba")
    for _ in range(2):
        limited.exchange(limit=2)
        limited.queue.later(31)
        limited.queue.maintain()

    assert limited.started(suspects=0) == [healthy]
    assert limited.started(suspects=1) == [first]
    assert limited.started(suspects=1) == [second]


def test_a_suspect_whose_limit_is_used_up_holds_up_no_other_suspect(limited):
    limited.set(max_concurrency=1, key="customer")
    _, other = (limited.publish(each) for each in "ab")
    for _ in range(2):
        limited.exchange(limit=2)
        limited.queue.later(31)
        limited.queue.maintain()
    limited.publish("a", priority=4)
    assert len(limited.started(suspects=0)) == 1

    assert limited.started(suspects=1) == [other]


def test_an_expired_task_uses_up_nothing(limited):
    limited.set(max_per_minute=1)
    limited.publish(expires_at=limited.queue.now + 1)
    alive = limited.publish()
    limited.queue.later(5)

    assert limited.started() == [alive]


def test_a_clock_that_is_put_back_opens_nothing_early_and_closes_nothing_for_long(limited):
    limited.set(max_per_minute=1)
    tasks = [limited.publish() for _ in range(2)]
    limited.exchange()
    limited.exchange()

    limited.queue.later(-7200)
    assert limited.started() == []
    limited.queue.later(WINDOW)
    assert limited.started() == tasks[1:]


def test_lists_and_counts_show_tasks_whatever_they_wait_for(limited):
    limited.set(max_per_minute=1, key="customer")
    tasks = [limited.publish(each) for each in "aabb"]
    running = limited.started()
    limited.tasks.cancel(next(task for task in tasks if task not in running), limited.queue.now, "no")

    listed = limited.tasks.list(TaskQuery(name="report"), limited.queue.now).tasks

    assert sorted(task.task_id for task in listed) == sorted(tasks)
    assert {task.name for task in listed} == {"report"}
    assert limited.tasks.stats().by_status[TaskStatus.RUNNING] == 2


def test_a_cancelled_task_that_is_retried_waits_again(limited):
    limited.set(max_per_minute=1)
    limited.publish()
    second = limited.publish()
    limited.exchange()
    limited.tasks.cancel(second, limited.queue.now, "no")
    limited.tasks.retry(second, limited.queue.now)

    assert limited.started() == []
    limited.queue.later(WINDOW)
    assert limited.started() == [second]


def test_values_that_nobody_waits_for_are_forgotten(limited, store, monkeypatch):
    monkeypatch.setattr(partitions, "FORGET_EVERY", 10)
    limited.set(max_per_minute=1, key="customer")
    for number in range(100):
        limited.publish(f"c{number}")
        [claim] = limited.exchange().claims
        limited.queue.settle(claim)
        limited.queue.later(10)

    with store.database.read() as connection:
        kinds = connection.execute("SELECT count(*) FROM kind").fetchone()[0]
        starts = connection.execute("SELECT count(*) FROM pool_start").fetchone()[0]
    assert kinds <= 13
    assert starts <= 20


def test_two_handlers_do_not_share_a_limit(limited):
    for name in ("report", "other"):
        limited.set(max_per_minute=1, key="customer", name=name)
    tasks = [limited.publish("a", name=name) for name in ("report", "report", "other", "other")]

    started = limited.started(names=("report", "other"), limited=("report", "other"))

    assert started == [tasks[0], tasks[2]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_per_minute": -1},
        {"max_per_minute": 1.5},
        {"max_per_minute": True},
        {"max_per_minute": "10"},
        {"max_concurrency": 10_000_000},
        {"max_per_minute": 1, "key": 5},
        {"max_per_minute": 1, "key": "a b"},
        {"max_per_minute": 1, "key": "a..b"},
        {"max_per_minute": 1, "key": ".a"},
        {"max_per_minute": 1, "key": "host()"},
        {"max_per_minute": 1, "key": "path(url)"},
        {"max_per_minute": 1, "key": "x" * 200},
        {"key": "customer"},
    ],
)
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(InvalidArgument) as refused:
        HandlerLimits(**wrong)
    assert refused.value.fix


def test_a_list_of_a_name_goes_page_by_page_through_thousands_of_values(limited):
    limited.set(max_concurrency=1, key="customer")
    limited.tasks.publish(
        [
            NewTask(
                f"{number:016x}", "report", json.dumps({"customer": number % 300}), "report", priority=1 + number % 4
            )
            for number in range(1200)
        ],
        limited.queue.now,
    )
    while limited.exchange().opens_in == 0.0:
        pass

    for newest_first in (False, True):
        seen, cursor = [], ""
        while not seen or cursor:
            query = TaskQuery(name="report", limit=500, cursor=cursor, newest_first=newest_first)
            page = limited.tasks.list(query, limited.queue.now)
            seen += page.tasks
            cursor = page.next_cursor
        assert len({task.task_id for task in seen}) == len(seen) == 1200
        order = [(-task.priority, task.task_id) if not newest_first else int(task.task_id, 16) for task in seen]
        assert order == sorted(order, reverse=newest_first)
