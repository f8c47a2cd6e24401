"""Limits of the user's own handlers, over runners and processes. Minutes pass by the clock that is handed in."""

import json
import math
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handler_limits import HandlerLimits
from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.handlers.files import load_handlers
from core.cloud.handlers.http_request import register_http_request
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.queue.reader import WaitingTasks
from core.cloud.running.maintenance import Maintenance
from core.cloud.running.runner import TaskRunner
from core.cloud.running.wakeup import WakeUp
from core.cloud.store import open_store
from core.cloud.task import TaskPriority
from core.errors import InvalidArgument
from tests.process.limited_processes import Runs, clock, making, pass_time
from tests.process.queue_setup import FAST_RETRIES, NEVER
from tests.support.waiting import wait_until

__all__ = ["clock"]

ROOT = Path(__file__).parents[2]


class Process(Runs):
    """A runner and a publisher on one database: what one process of ours is. It keeps the times at which its handler began."""

    def __init__(self, location, clock, **options):
        self.clock = clock
        self.store = open_store(location, synchronous="NORMAL")
        self.handlers = builtin_handlers()
        self.wakeup = WakeUp(self.store.workers, clock=clock)
        self.publisher = EnhancedCloudTaskPublisher(
            store=self.store, clock=clock, handlers=self.handlers, wakeup=self.wakeup
        )
        settings = {"poll_interval": NEVER, "retry": FAST_RETRIES, "clock": clock, "wakeup": self.wakeup, **options}
        maintenance = Maintenance(self.store, [], worker="nobody", wakeup=self.wakeup, clock=clock)
        self.runner = TaskRunner(self.store, self.handlers, maintenance=maintenance, **settings)
        self.began = []

    def limit(self, **limits):
        self.publisher.register_handler("report", self.report, **limits)

    def report(self, payload):
        self.began.append((self.clock.now(), payload.get("customer")))
        return payload

    def publish(self, *customers, name="report", **settings):
        return [self.publisher.publish(name, {"customer": each}, **settings) for each in customers or (None,)]

    def close(self):
        self.runner.stop(0.2)
        self.publisher.close()
        self.wakeup.close()
        self.store.close()


@pytest.fixture
def make(tmp_path, clock):
    with making(Process, tmp_path, clock) as make:
        yield make


def test_what_has_to_wait_holds_nothing_and_holds_up_nothing(make):
    process = make()
    process.limit(max_per_minute=10)
    process.runner.start()
    tasks = process.publish(*[None] * 60, priority=TaskPriority.URGENT)
    process.settled()

    waiting = [task for task in (process.publisher.get_task(task.task_id) for task in tasks) if not task.done]
    assert process.statuses(tasks) == {"completed": 10, "pending": 50}
    assert {(task.attempts, task.worker, task.lease_until) for task in waiting} == {(0, None, None)}

    [echo] = process.publish(name="echo", priority=TaskPriority.LOW)
    wait_until(lambda: process.publisher.get_task(echo.task_id).done, "the echo, at once")


def test_all_complete_by_the_minute_without_losing_a_retry(make):
    process = make()
    process.limit(max_per_minute=5)
    process.runner.start()
    tasks = process.publish(*[None] * 15, max_retries=0, timeout=5)

    done = []
    for _ in range(3):
        process.settled()
        done.append(process.statuses(tasks)["completed"])
        pass_time(WINDOW, process, step=WINDOW / 4)

    assert done == [5, 10, 15]
    assert {process.publisher.get_task(task.task_id).attempts for task in tasks} == {1}


def test_two_processes_keep_one_limit_for_each_customer(make):
    processes = [make(), make()]
    for each in processes:
        each.limit(max_per_minute=3, key="customer")
        each.runner.start()
    first, second = processes
    tasks = first.publish(*["acme"] * 10, *["b"] * 2)
    for each in (*processes, *processes):
        each.look()
        each.settled()
    assert first.statuses(tasks) == {"completed": 5, "pending": 7}

    pass_time(WINDOW, *processes, step=WINDOW / 4)

    assert first.statuses(tasks) == {"completed": 8, "pending": 4}
    assert Counter(customer for _, customer in first.began + second.began) == {"acme": 6, "b": 2}


def test_no_more_run_at_once_in_two_processes_than_may(make):
    processes = [make(), make()]
    release, lock, running, most = threading.Event(), threading.Lock(), [], []

    def slow(payload):
        with lock:
            running.append(payload)
            most.append(len(running))
        release.wait(30)
        with lock:
            running.remove(payload)

    for each in processes:
        each.publisher.register_handler("report", slow, max_concurrency=3)
        each.runner.start()
    tasks = processes[0].publish(*range(12))
    wait_until(lambda: len(running) == 3, "three that run")
    for each in processes:
        each.look()
    assert processes[0].statuses(tasks) == {"running": 3, "pending": 9}

    release.set()

    wait_until(lambda: processes[0].statuses(tasks) == {"completed": 12}, "all, with no time passing")
    assert max(most) == 3


def test_the_newest_registration_counts_in_every_process(make):
    first, second = make(), make()
    first.limit(max_per_minute=2)
    first.runner.start()
    tasks = first.publish(*[None] * 8)
    first.settled()
    assert first.statuses(tasks)["completed"] == 2

    second.limit(max_per_minute=5)
    second.runner.start()
    wait_until(lambda: first.statuses(tasks)["completed"] == 5, "three more, by whichever process")

    first.limit()
    wait_until(lambda: first.statuses(tasks)["completed"] == 8, "the others, when the limits are lifted")
    assert first.store.tasks.limits() == {}


def test_a_process_that_registered_none_before_keeps_to_limits_once_it_has_heard_of_them(make):
    first, second = make(), make()
    first.limit()
    first.runner.start()
    second.limit(max_per_minute=1)
    second.runner.start()
    second.runner.stop()

    first.runner._register()  # its next sign of life, within 10 s
    tasks = first.publish(*[None] * 3)
    first.settled()

    assert first.statuses(tasks) == {"completed": 1, "pending": 2}


def test_handlers_that_are_registered_while_the_runner_runs_are_limited_from_then_on(make):
    process = make()
    process.runner.start()
    tasks = process.publish(*["a"] * 3, "b")
    process.settled()

    process.limit(max_per_minute=1, key="customer")
    process.settled()

    assert process.statuses(tasks) == {"completed": 2, "pending": 2}


def test_http_requests_are_limited_by_host_and_the_setting_that_is_not_made_leaves_it_so(make):
    process = make()
    register_http_request(process.handlers, max_per_minute=2)
    process.runner.start()
    assert process.store.tasks.limits() == {"http_request": HandlerLimits(2, 0, "host(url)")}
    one = [process.publisher.publish("http_request", {"url": f"http://10.0.0.1/{number}"}) for number in range(4)]
    other = process.publisher.publish("http_request", {"url": "http://10.0.0.2/"})
    wait_until(lambda: process.publisher.get_task(other.task_id).attempts, "the other host")
    wait_until(lambda: sum(process.publisher.get_task(task.task_id).attempts for task in one) == 2, "two to the first")
    assert [process.publisher.get_task(task.task_id).attempts for task in one[2:]] == [0, 0]

    make().runner.start()
    assert process.store.tasks.limits() == {"http_request": HandlerLimits(2, 0, "host(url)")}
    third = make()
    register_http_request(third.handlers, max_per_minute=0)
    third.runner.start()
    assert process.store.tasks.limits() == {}


def test_why_says_which_limit_a_task_waits_for(make):
    process = make()
    process.limit(max_per_minute=2, key="customer")
    process.runner.start()
    tasks = process.publish(*["acme"] * 5)
    process.settled()
    process.clock.advance(WINDOW - 35)

    assert process.publisher.why(tasks[3].task_id) == (
        "It waits for report's limit of 2 a minute (customer acme): about 35 s, 1 before it. "
        "Waiting uses up no retry and none of its timeout."
    )


def test_statistics_tell_how_many_wait_for_which_limit_and_until_when(make):
    process = make()
    process.limit(max_per_minute=2, key="customer")
    process.runner.start()
    process.publish(*["acme"] * 7, *["b"] * 3)
    process.settled()

    assert process.publisher.waiting_for_limits() == [
        WaitingTasks("report's limit of 2 a minute (customer acme)", 5, WINDOW, WINDOW * 3),
        WaitingTasks("report's limit of 2 a minute (customer b)", 1, WINDOW, WINDOW),
    ]


def test_of_many_values_those_with_the_most_are_told_and_the_others_together(make):
    process = make()
    process.limit(max_per_minute=1, key="customer")
    process.runner.start()
    process.publish(*[f"c{number}" for number in range(30) for _ in range(2)], "c7")
    process.settled()

    told = process.publisher.waiting_for_limits()

    assert len(told) == 11
    assert {waiting.limit: waiting.tasks for waiting in told}["report's limit of 1 a minute (customer c7)"] == 2
    assert told[-1] == WaitingTasks("report's limits (20 other values of customer)", 20, WINDOW, math.inf)
    assert sum(waiting.tasks for waiting in told) == 31


def test_why_says_that_as_many_run_as_may(make):
    process = make()
    release = threading.Event()
    process.publisher.register_handler("report", lambda payload: release.wait(30), max_concurrency=1)
    process.runner.start()
    running, waiting = process.publish("a", "b")
    wait_until(lambda: process.publisher.get_task(running.task_id).status == "running", "the first")

    assert "It waits for report's limit of 1 at once: " in process.publisher.why(waiting.task_id)
    release.set()


@pytest.mark.parametrize(
    "wrong",
    [{"max_per_minute": -1}, {"max_concurrency": "2"}, {"key": "customer"}, {"max_per_minute": 1, "key": "a b"}],
)
def test_limits_that_cannot_be_are_refused_and_nothing_is_registered(make, wrong):
    process = make()
    with pytest.raises(InvalidArgument):
        process.limit(**wrong)
    assert process.handlers.get("report") is None


def test_a_handlers_file_sets_limits(make, tmp_path):
    file = tmp_path / "handlers_with_limits.py"
    file.write_text(
        "def report(payload):\n    return payload\n\n\ndef register(publisher):\n"
        '    publisher.register_handler("report", report, max_per_minute=10, max_concurrency=2, key="customer")\n'
    )
    process = make()
    load_handlers(str(file), process.publisher)
    process.runner.start()

    assert process.store.tasks.limits() == {"report": HandlerLimits(10, 2, "customer")}


WORKER = """
import json, os, sys, time
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.running.runner import TaskRunner
publisher = EnhancedCloudTaskPublisher(sys.argv[1])
def report(payload):
    os.write(1, (json.dumps([payload["customer"], time.time()]) + "\\n").encode())
    time.sleep(float(sys.argv[2]))
publisher.register_handler("report", report, max_per_minute=int(sys.argv[3]), max_concurrency=int(sys.argv[4]), key="customer")
runner = TaskRunner(publisher.store, publisher.handlers, wakeup=publisher.wakeup, lease=6.0, concurrency=int(sys.argv[5]))
runner.start()
print("ready", flush=True)
sys.stdin.readline()
runner.stop(0.5)
publisher.close()
"""


class Worker:
    """A real process with the handler; what it prints is what it began."""

    def __init__(self, database, *settings):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, database, *map(str, settings)],
            cwd=ROOT,
            env={**os.environ, "HEABLCOIN_CLOUD_TESTING": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"
        self.began = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        self.began.extend(json.loads(line) for line in self.process.stdout)

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def workers(tmp_path):
    made = []

    def start(seconds=0.0, per_minute=0, at_once=0, slots=20):
        made.append(Worker(str(tmp_path / "queue.db"), seconds, per_minute, at_once, slots))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_two_real_processes_start_as_many_of_each_customer_as_may_and_no_more(tmp_path, workers):
    publisher = EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"))
    both = [workers(per_minute=7), workers(per_minute=7)]
    publisher.publish_many([{"name": "report", "payload": {"customer": f"c{n % 3}"}} for n in range(60)])
    wait_until(lambda: sum(len(each.began) for each in both) == 21, "seven of each of three", 30)
    [echo] = publisher.publish_many([{"name": "echo", "payload": 1}])
    wait_until(lambda: publisher.get_task(echo.task_id).done, "what has no limit", 30)

    began = Counter(customer for each in both for customer, _ in each.began)
    assert began == {"c0": 7, "c1": 7, "c2": 7}
    assert publisher.get_stats()["by_status"]["pending"] == 39
    publisher.close()


def test_a_worker_that_is_killed_keeps_its_place_until_its_lease_ends_and_no_longer(tmp_path, workers):
    publisher = EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"))
    doomed = workers(seconds=3600, at_once=1, slots=1)
    task = publisher.publish("report", {"customer": "acme"})
    wait_until(lambda: doomed.began, "the task to begin", 30)
    heir = workers(seconds=0, at_once=1)
    other = publisher.publish("report", {"customer": "acme"})
    free = publisher.publish("report", {"customer": "b"})
    wait_until(lambda: publisher.get_task(free.task_id).done, "another customer", 30)
    assert publisher.get_task(other.task_id).status == "pending"

    lease_until = publisher.get_task(task.task_id).lease_until.timestamp()
    doomed.kill()
    wait_until(lambda: publisher.get_task(task.task_id).done and publisher.get_task(other.task_id).done, "both", 60)
    wait_until(lambda: len(heir.began) == 3, "what it wrote")

    assert [customer for customer, _ in heir.began] == ["b", "acme", "acme"]
    assert heir.began[1][1] >= lease_until
    publisher.close()
