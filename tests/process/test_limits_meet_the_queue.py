"""Where the pool meets the queue: a limit shapes what starts, and nothing else. Minutes pass by the clock that is handed in."""

import asyncio
import threading
from collections import Counter

import pytest

from core.cloud.pool.rate_limit import WINDOW
from core.cloud.providers.fake import FakeStep
from core.cloud.scheduler import CloudScheduler
from core.cloud.store_contract import ClaimRequest
from core.cloud.task import TaskPriority
from core.errors import AllEndpointsFailed
from tests.process.limited_processes import clock, make, pass_time, process
from tests.support.waiting import wait_until

__all__ = ["clock", "make", "process"]

HOLD = 60.0


def test_what_waits_for_a_limit_holds_no_slot_no_lease_and_no_attempt(process):
    process.add(max_requests_per_minute=10)
    tasks = process.ask(60)
    process.settled()

    assert process.statuses(tasks) == {"completed": 10, "pending": 50}
    waiting = [task for task in map(process.publisher.get_task, (task.task_id for task in tasks)) if not task.done]
    assert {(task.attempts, task.worker, task.lease_until) for task in waiting} == {(0, None, None)}
    assert {tuple(process.publisher.attempts(task.task_id)) for task in waiting} == {()}

    [echo] = process.ask(1, "echo", priority=TaskPriority.URGENT)
    wait_until(lambda: process.publisher.get_task(echo.task_id).done, "the echo, at once")


def test_a_schedule_runs_on_time_beside_what_waits(process):
    process.add(max_requests_per_minute=60)
    calls = process.ask(200)
    schedule = CloudScheduler(process.publisher, clock=process.clock)
    schedule.add_task("echo", "now", every=5)
    started = process.clock.now()
    process.settled()

    for _ in range(60):
        process.clock.advance(1)
        schedule.fire_due()
        process.look()
        process.settled()

    ticks = process.publisher.list_tasks(name="echo")
    assert [round((tick.started_at.timestamp() - started) / 5) for tick in ticks] == list(range(1, 13))
    assert {tick.status.value for tick in ticks} == {"completed"}
    assert process.statuses(calls)["completed"] == 60


def test_all_complete_by_the_minute_and_the_limit_is_kept_exactly(process):
    process.add(max_requests_per_minute=5)
    tasks = process.ask(20, timeout=10)

    done = []
    for _ in range(4):
        process.settled()
        done.append(process.statuses(tasks)["completed"])
        pass_time(WINDOW, process, step=WINDOW / 4)

    assert done == [5, 10, 15, 20]
    assert process.attempts(tasks) == {1}


def test_a_task_without_retries_waits_as_long_as_it_takes(process):
    process.add(max_requests_per_minute=1)
    tasks = process.ask(8, max_retries=0, timeout=1)

    process.settled()
    pass_time(8 * WINDOW, process, step=WINDOW / 4)

    assert process.statuses(tasks) == {"completed": 8}
    assert process.attempts(tasks) == {1}


def test_a_task_that_may_not_wait_longer_expires_without_an_attempt(process):
    process.add(max_requests_per_minute=1)
    first, second = process.ask(2, expires_in=30)
    process.settled()

    process.clock.advance(31)
    process.store.tasks.maintain(process.clock.now(), 5)

    assert process.publisher.get_task(first.task_id).status == "completed"
    assert process.publisher.get_task(second.task_id).status == "expired"
    assert process.publisher.attempts(second.task_id) == []


def test_the_next_slot_goes_to_the_most_urgent_that_wants_it(process):
    process.add(max_requests_per_minute=1)
    normal = process.ask(30)
    process.settled()
    urgent, bound = (
        process.ask(1, priority=TaskPriority.URGENT)[0],
        process.ask(1, priority=TaskPriority.HIGH, payload={"endpoint": "deepseek"})[0],
    )

    ends = []
    for _ in range(3):
        pass_time(WINDOW, process, step=WINDOW / 4)
        ends.append([process.publisher.get_task(each.task_id).status == "completed" for each in (urgent, bound)])

    assert ends == [[True, False], [True, True], [True, True]]
    assert process.statuses(normal)["completed"] == 2


def test_tasks_of_a_limited_endpoint_delay_none_of_another(process):
    process.add("slow", max_requests_per_minute=1)
    process.add("fast", max_requests_per_minute=0)
    slow = process.ask(20, payload={"endpoint": "slow"}, priority=TaskPriority.URGENT)
    fast = process.ask(20, payload={"endpoint": "fast"}, priority=TaskPriority.LOW)

    process.settled()

    assert process.statuses(slow) == {"completed": 1, "pending": 19}
    assert process.statuses(fast) == {"completed": 20}


@pytest.mark.parametrize(
    ("payload", "pool", "shares"),
    [
        ({}, "next", (5, 5)),
        ({"when_limited": "wait"}, "next", (10, 0)),
        ({}, "wait", (10, 0)),
        ({"when_limited": "next"}, "wait", (5, 5)),
        ({"when_limited": "wait", "strategy": "round_robin"}, "next", (5, 5)),
        ({"strategy": "round_robin"}, "wait", (5, 5)),
    ],
)
def test_a_task_waits_for_the_first_endpoint_or_goes_to_the_next_as_it_says(make, payload, pool, shares):
    process = make(when_limited=pool)
    process.add("first", max_requests_per_minute=5)
    process.add("second", max_requests_per_minute=5, priority=2)
    process.runner.start()
    tasks = process.ask(10, payload=payload)
    process.settled()
    at_once = process.statuses(tasks)["completed"]

    pass_time(2 * WINDOW, process, step=WINDOW / 4)

    assert process.statuses(tasks) == {"completed": 10}
    assert process.attempts(tasks) == {1}
    assert (process.asked().count("first"), process.asked().count("second")) == shares
    assert at_once == 5 if 0 in shares else 10


def test_a_task_that_waits_for_the_first_endpoint_leaves_it_when_that_fails(process):
    process.add("first", max_requests_per_minute=5)
    process.add("second", max_requests_per_minute=5, priority=2)
    process.fake.script("first", *[FakeStep(status=401)] * 20)

    tasks = process.ask(4, payload={"when_limited": "wait"})
    process.settled()

    assert process.statuses(tasks) == {"completed": 4}
    assert process.asked().count("second") == 4


def test_two_processes_keep_one_limit_and_one_order(make):
    processes = [make(), make()]
    for each in processes:
        each.runner.start()
    first, second = processes
    first.add(max_requests_per_minute=6)
    low = first.ask(30, priority=TaskPriority.LOW)
    for _ in range(2):
        for each in processes:
            each.look()
            each.settled()
    high = second.ask(6, priority=TaskPriority.HIGH)

    seen = []
    for _ in range(3):
        pass_time(WINDOW, *processes, step=WINDOW / 4)
        seen.append((first.statuses(high)["completed"], first.statuses(low)["completed"]))

    assert seen == [(6, 6), (6, 12), (6, 18)]
    assert first.attempts([*high, *low]) == {0, 1}


def test_a_refusal_by_the_server_costs_no_retry_and_all_wait_until_it_is_over(process):
    process.add()
    process.fake.script("deepseek", FakeStep(status=429, retry_after=HOLD))
    tasks = process.ask(5, max_retries=0)
    process.settled()

    before = process.statuses(tasks)
    pass_time(HOLD + 5, process, step=5)

    assert before["failed"] == before["running"] == 0
    assert process.statuses(tasks) == {"completed": 5}


@pytest.mark.parametrize(("endpoints", "hold"), [(1, 300.0), (3, HOLD)])
def test_refusals_alone_cost_no_retry_however_long_they_last_and_however_many_endpoints_refuse(
    process, endpoints, hold
):
    for number in range(endpoints):
        process.add(f"e{number}")
        process.fake.script(f"e{number}", FakeStep(status=429, retry_after=hold))
    [task] = process.ask(1, max_retries=0)
    process.settled()

    refused = len(process.asked())
    before = process.statuses([task])
    pass_time(hold + 5, process, step=5)

    assert (refused, before) == (endpoints, {"pending": 1})
    assert process.statuses([task]) == {"completed": 1}
    assert [each.outcome for each in process.publisher.attempts(task.task_id)] == ["interrupted", "completed"]


def test_a_task_that_one_endpoint_cannot_serve_waits_for_the_slot_of_another_and_asks_the_first_once(process):
    process.add("small", max_requests_per_minute=60)
    process.add("large", max_requests_per_minute=1, priority=2)
    process.ask(1, payload={"endpoint": "large"})
    process.settled()
    process.fake.script("small", *[FakeStep(status=400, code="context_length_exceeded")] * 20)

    [task] = process.ask(1, max_retries=0)
    wait_until(lambda: process.manager._pool.wait_queue.waiters, "the call to wait for the other")
    process.clock.advance(WINDOW)
    process.manager._pool.wait_queue.waiters[0].call(process.clock.monotonic())

    wait_until(lambda: process.publisher.get_task(task.task_id).done, "its end")
    assert process.statuses([task]) == {"completed": 1}
    assert process.asked() == ["large", "small", "large"]


def test_a_retry_waits_for_the_endpoint_that_failed_and_not_for_the_next_day_of_another(process):
    process.add("spent", max_requests_per_day=1)
    process.ask(1)
    process.settled()
    process.add("flaky", priority=2)
    process.fake.script("flaky", FakeStep(fail="timeout"))

    tasks = process.ask(1)
    pass_time(20, process)

    assert process.statuses(tasks) == {"completed": 1}
    assert process.asked() == ["spent", "flaky", "flaky"]


@pytest.mark.parametrize("answered", [False, True])
def test_a_task_whose_endpoint_is_removed_before_it_met_a_fault_waits_until_it_is_there_again(make, answered):
    process = make()
    process.add("bound")
    [task] = process.ask(1, payload={"endpoint": "bound"}, max_retries=0)
    if answered:
        process.fake.script("bound", FakeStep(status=429, retry_after=HOLD))
    begun, go_on = threading.Event(), threading.Event()
    held = process.fake if answered else process.manager
    name = "chat" if answered else "achat"
    real = getattr(held, name)

    async def later(*arguments, **options):
        begun.set()
        await asyncio.to_thread(go_on.wait, 30)
        return await real(*arguments, **options)

    setattr(held, name, later)
    process.runner.start()
    wait_until(begun.is_set, "the attempt to begin")
    process.manager.remove_endpoint("bound")
    setattr(held, name, real)
    go_on.set()
    wait_until(lambda: process.statuses([task]) == {"pending": 1}, "the task to be given back")

    process.add("bound")

    wait_until(lambda: process.statuses([task]) == {"completed": 1}, "its answer")
    assert [each.outcome for each in process.publisher.attempts(task.task_id)] == ["interrupted", "completed"]


def test_a_process_whose_pool_is_empty_is_at_rest(process):
    process.settled()
    rounds = []
    process.runner._dispatcher.step = lambda *_, real=process.runner._dispatcher.step: rounds.append(1) or real()

    [task] = process.ask(1)
    process.settled()

    assert process.statuses([task]) == {"pending": 1}
    assert len(rounds) < 20


def test_a_limit_that_is_taken_away_leaves_no_slot_to_who_waited_for_the_old_one(make):
    process, other = make(), make()
    process.add(max_requests_per_minute=1)
    process.manager.chat("takes the slot")
    with pytest.raises(AllEndpointsFailed):
        process.manager.chat("is told to wait", deadline=1.0)

    other.add(max_requests_per_minute=50)
    other.runner.start()
    [task] = other.ask(1)

    wait_until(lambda: other.statuses([task]) == {"completed": 1}, "the task, with no time passing")


def test_an_endpoint_that_is_added_goes_to_the_most_urgent_that_wants_it(process):
    process.add("first", max_requests_per_minute=1)
    normal = process.ask(20)
    [urgent] = process.ask(1, payload={"endpoint": "second"}, priority=TaskPriority.URGENT)
    process.settled()

    process.add("second", max_requests_per_minute=1, priority=2)
    wait_until(lambda: "second" in process.asked(), "its first request")
    process.settled()

    assert process.statuses([urgent]) == {"completed": 1}
    assert process.statuses(normal) == {"completed": 1, "pending": 19}


def test_a_task_whose_request_failed_by_a_fault_has_had_its_attempt(process):
    process.add(max_requests_per_minute=60)
    process.add("other", max_requests_per_minute=1, priority=2)
    process.fake.script("deepseek", *[FakeStep(status=500)] * 20)
    [blocker] = process.ask(1, payload={"endpoint": "other"})
    process.settled()

    [task] = process.ask(1, max_retries=0)
    wait_until(
        lambda: process.clock.advance(0.01) or process.publisher.get_task(task.task_id).done, "its tries to be over"
    )

    assert process.publisher.get_task(blocker.task_id).status == "completed"
    ended = process.publisher.get_task(task.task_id)
    assert (ended.status, ended.attempts) == ("failed", 1)
    assert "HTTP 500" in ended.error


def test_an_endpoint_that_takes_one_call_at_a_time_starts_the_next_when_the_last_one_ends(make):
    process = make()
    process.add(max_concurrency=1)
    running, most, release = [], [], threading.Event()

    async def wait(delay):
        running.append(delay)
        most.append(len(running))
        await asyncio.to_thread(release.wait, 30)
        running.pop()

    process.fake._sleep = wait
    process.fake.script("deepseek", *[FakeStep(delay=1.0)] * 5)
    process.runner.start()
    tasks = process.ask(5)
    wait_until(lambda: most, "the first call")
    assert process.statuses(tasks) == {"running": 1, "pending": 4}

    release.set()

    wait_until(lambda: process.statuses(tasks) == {"completed": 5}, "all of them, with no time passing")
    assert set(most) == {1}


def test_a_days_budget_holds_tasks_back_until_the_next_day(process):
    process.add(max_requests_per_day=2)
    tasks = process.ask(3)
    process.settled()
    assert process.statuses(tasks) == {"completed": 2, "pending": 1}

    pass_time(86_400, process, step=7_200)

    assert process.statuses(tasks) == {"completed": 3}


def test_a_limit_that_is_raised_lets_the_waiting_start_at_once(process):
    process.add(max_requests_per_minute=1)
    tasks = process.ask(6)
    process.settled()

    process.add(max_requests_per_minute=100)

    wait_until(lambda: process.statuses(tasks) == {"completed": 6}, "the others, with no time passing")


def test_an_endpoint_that_is_added_takes_what_waits_for_another(process):
    process.add(max_requests_per_minute=1)
    tasks = process.ask(6)
    process.settled()

    process.add("second", max_requests_per_minute=0, priority=2)

    wait_until(lambda: process.statuses(tasks) == {"completed": 6}, "the others, with no time passing")
    assert Counter(process.asked()) == {"deepseek": 1, "second": 5}


def test_a_task_taken_back_before_it_began_gives_its_slot_to_another(make):
    process = make()
    process.add(max_concurrency=1, max_requests_per_minute=1)
    process.ask(2)
    capabilities = process.handlers.capabilities()
    request = ClaimRequest("me", capabilities, 10, 30.0, gates=process.handlers.gates(capabilities))
    [claim] = process.store.tasks.exchange([], request, process.clock.now()).claims

    assert process.manager._pool.members["deepseek"].in_flight == 1
    claim.grant.give_back()
    claim.grant.give_back()
    assert process.manager._pool.members["deepseek"].in_flight == 0
    [other] = process.store.tasks.exchange([], request, process.clock.now()).claims
    assert other.task_id != claim.task_id
    other.grant.give_back()
