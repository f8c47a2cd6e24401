"""Processes of ours on one database and one clock, which the test moves."""

from collections import Counter
from contextlib import contextmanager

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.ai_call import register_ai_call
from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.providers.fake import FakeProvider
from core.cloud.running.runner import TaskRunner
from core.cloud.running.wakeup import WakeUp
from core.cloud.store import open_store
from tests.process.queue_setup import FAST_RETRIES, NEVER
from tests.support.waiting import wait_until


class Runs:
    """A runner and a publisher, and when the runner is at rest."""

    def look(self):
        self.runner._dispatcher.look()

    def idle(self):
        dispatcher = self.runner._dispatcher
        with dispatcher._changed:
            at_rest = bool(dispatcher._changed._waiters)  # between two rounds
            return at_rest and not (self.runner.in_flight or dispatcher._look or dispatcher._waiting)

    def settled(self):
        """Until it has started all it may, and that has ended."""
        wait_until(lambda: self.idle() and self.idle(), "the process to be idle")

    def statuses(self, tasks):
        return Counter(self.publisher.get_task(task.task_id).status.value for task in tasks)


class Process(Runs):
    """A runner, a pool and a publisher on one database: what one process of ours is."""

    def __init__(self, location, clock, when_limited="next", **options):
        self.clock = clock
        self.store = open_store(location, synchronous="NORMAL")
        self.store.pool._clock = clock
        self.fake = FakeProvider()
        self.manager = ApiManager(
            self.store.pool, clock=clock, providers={"fake": self.fake}, when_limited=when_limited
        )
        self.handlers = builtin_handlers()
        self.wakeup = WakeUp(self.store.workers, clock=clock)
        register_ai_call(self.handlers, self.manager)
        self.publisher = EnhancedCloudTaskPublisher(
            store=self.store, clock=clock, handlers=self.handlers, wakeup=self.wakeup
        )
        settings = {"poll_interval": NEVER, "retry": FAST_RETRIES, "clock": clock, "wakeup": self.wakeup, **options}
        self.runner = TaskRunner(self.store, self.handlers, **settings)

    def add(self, name="deepseek", **settings):
        self.manager.add_endpoint(ApiEndpoint(name, "fake://", provider="fake", model="m", **settings))

    def ask(self, count=1, name="ai_call", **settings):
        payload = settings.pop("payload", {})
        return [
            self.publisher.publish(name, {"prompt": f"p{number}", **payload}, **settings) for number in range(count)
        ]

    def attempts(self, tasks):
        return {self.publisher.get_task(task.task_id).attempts for task in tasks}

    def asked(self):
        return [call.endpoint for call in self.fake.calls]

    def close(self):
        self.runner.stop(0.2)
        self.manager.close()
        self.publisher.close()
        self.store.close()


@contextmanager
def making(kind, tmp_path, clock):
    """What makes processes of this kind on one database; they are closed at the end."""
    made = []

    def process(**options):
        made.append(kind(str(tmp_path / "queue.db"), clock, **options))
        return made[-1]

    try:
        yield process
    finally:
        for each in made:
            each.close()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make(tmp_path, clock):
    with making(Process, tmp_path, clock) as make:
        yield make


@pytest.fixture
def process(make):
    one = make()
    one.runner.start()
    return one


def pass_time(seconds, *processes, step=1.0):
    for _ in range(round(seconds / step)):
        processes[0].clock.advance(step)
        for process in processes:
            process.look()
        for process in processes:
            process.settled()
