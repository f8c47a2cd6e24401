"""What a task that waits for a limit is told to wait for, and who goes before it. Minutes pass by the clock that is handed in."""

import asyncio
import threading

import pytest

from core.cloud.pool.rate_limit import WINDOW
from core.cloud.providers.fake import FakeStep
from core.cloud.queue.reader import WaitingTasks
from core.cloud.store.pool_windows import COMES_WITHIN
from core.cloud.task import TaskPriority
from tests.process.limited_processes import clock, make, pass_time, process
from tests.support.waiting import wait_until

__all__ = ["clock", "make", "process"]


def test_why_names_the_limit_the_wait_and_how_many_go_before(process):
    process.add(max_requests_per_minute=10)
    tasks = process.ask(45)
    process.settled()
    process.clock.advance(26)

    said = [process.publisher.why(tasks[number].task_id) for number in (10, 19, 20, 44)]

    assert [each.split(". ")[0] for each in said] == [
        "It waits for deepseek's limit of 10 a minute: about 35 s",
        "It waits for deepseek's limit of 10 a minute: about 35 s, 9 before it",
        "It waits for deepseek's limit of 10 a minute: about 2 min, 10 before it",
        "It waits for deepseek's limit of 10 a minute: about 4 min, 34 before it",
    ]
    assert process.publisher.waiting_for_limits() == [
        WaitingTasks("deepseek's limit of 10 a minute", 35, 35.0, 35.0 + 3 * WINDOW)
    ]


WAITS_FOR = {
    "one at a time": ({"max_concurrency": 1}, [FakeStep(delay=9)], "deepseek, which takes 1 call at a time"),
    "the day's budget": ({"max_requests_per_day": 1}, [], "the next day (UTC) of deepseek: 1 of 1 requests used today"),
    "the server's 429": ({}, [FakeStep(status=429, retry_after=30)], "deepseek, whose server asked to be left alone"),
    "a wrong key": ({}, [FakeStep(status=401)] * 9, "deepseek, which refused its key, account or address"),
    "a broken server": ({}, [FakeStep(status=500)] * 9, "deepseek, which failed and is tried again later"),
}


@pytest.mark.parametrize("case", WAITS_FOR)
def test_why_says_what_it_waits_for_whatever_the_limit(make, case):
    settings, steps, said = WAITS_FOR[case]
    process, other = make(), make()
    process.add(**settings)
    process.fake.script("deepseek", *steps)
    release = threading.Event()

    async def delayed(_seconds):
        await asyncio.to_thread(release.wait, 30)

    process.fake._sleep = delayed
    process.runner.start()
    process.ask(1, max_retries=0)
    wait_until(
        lambda: process.clock.advance(0.01) or process.manager._pool.members["deepseek"].state.look(process.clock),
        "the limit to close",
    )
    [waiting] = process.ask(1)

    for asked in (process, other):  # the other never called anything, and reads it in the books
        other.manager._membership.refresh()
        assert f"It waits for {said}" in asked.publisher.why(waiting.task_id)
    assert process.publisher.get_task(waiting.task_id).status == "pending"
    release.set()


def test_of_several_endpoints_the_first_to_open_is_named_and_their_limits_add_up(process):
    process.add(max_requests_per_minute=2)
    process.add("openai", max_requests_per_minute=4, priority=2)
    tasks = process.ask(20)
    process.settled()

    assert "deepseek's limit of 2 a minute (the first of 2 endpoints to open): about 61 s" in process.publisher.why(
        tasks[6].task_id
    )
    [waiting] = process.publisher.waiting_for_limits()
    assert (waiting.tasks, waiting.next_starts_in, waiting.last_starts_in) == (14, WINDOW, 3 * WINDOW)


def test_nothing_waits_for_a_limit_that_is_not_used_up(process):
    process.add(max_requests_per_minute=2)
    process.ask(2)
    process.settled()

    assert process.publisher.waiting_for_limits() == []


def test_a_direct_call_that_waits_goes_before_the_tasks_of_its_process(make):
    process = make()
    process.add(max_requests_per_minute=1)
    process.runner.start()
    tasks = process.ask(3)
    process.settled()
    process.clock.advance(WINDOW - 5)
    answered = []

    def direct():
        answered.append(process.manager.chat("now", deadline=10_000).text)

    caller = threading.Thread(target=direct, daemon=True)
    caller.start()
    wait_until(lambda: process.manager._pool.wait_queue.waiters, "the direct call to wait")

    process.clock.advance(5.1)
    process.look()
    process.manager._pool.wait_queue.waiters[0].call(process.clock.monotonic())
    wait_until(lambda: answered, "the direct call")
    process.settled()

    assert process.statuses(tasks) == {"completed": 1, "pending": 2}
    assert answered == ["echo: now"]


@pytest.fixture
def waiting_elsewhere(make):
    """A process whose tasks wait for a limit that opens in 5 s, and another in which a direct call waits for the same."""
    process, other = make(), make()
    process.add(max_requests_per_minute=1)
    process.runner.start()
    tasks = process.ask(3, priority=TaskPriority.URGENT)
    process.settled()
    process.clock.advance(WINDOW - 5)
    answered = []

    def direct():
        answered.append(other.manager.chat("now", deadline=10_000).text)

    threading.Thread(target=direct, daemon=True).start()
    wait_until(lambda: other.manager._pool.wait_queue.waiters, "the direct call to wait")
    process.clock.advance(5.1)
    return process, other, tasks, answered


def test_a_direct_call_of_another_process_goes_before_the_tasks_too(waiting_elsewhere):
    process, other, tasks, answered = waiting_elsewhere
    process.look()
    process.settled()
    assert process.statuses(tasks) == {"completed": 1, "pending": 2}

    other.manager._pool.wait_queue.waiters[0].call(process.clock.monotonic())
    wait_until(lambda: answered, "the direct call")
    process.clock.advance(COMES_WITHIN)
    process.look()
    process.settled()
    assert process.statuses(tasks) == {"completed": 1, "pending": 2}

    pass_time(WINDOW, process, step=WINDOW / 4)
    assert process.statuses(tasks) == {"completed": 2, "pending": 1}


def test_a_slot_that_no_direct_call_comes_for_is_a_tasks_after_a_moment(waiting_elsewhere):
    process, _, tasks, answered = waiting_elsewhere
    process.look()
    process.settled()

    process.clock.advance(COMES_WITHIN)
    process.look()
    process.settled()

    assert process.statuses(tasks) == {"completed": 2, "pending": 1}
    assert answered == []
