"""Who can run a task: every answer is right at once, in the process that changed something and in any other."""

from contextlib import ExitStack

import pytest

from core.cloud.api_manager import ApiEndpoint
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.running import runner as runners
from core.runtime import Runtime, RuntimeOptions
from tests.support.waiting import wait_until

VARIABLE = "WHO_CAN_RUN_KEY"


class World:
    """Two processes on one database file: `here` runs tasks, `there` only asks."""

    def __init__(self, file, stack, monkeypatch):
        self.file, self.stack, self.monkeypatch = str(file), stack, monkeypatch
        self.here = self.process(lease=3600.0)
        self.there = stack.enter_context(EnhancedCloudTaskPublisher(self.file))

    def process(self, **options):
        runtime = Runtime.open(RuntimeOptions(database=self.file, keys="process", **options))
        self.stack.callback(runtime.stop, 0.2)
        runtime.start()
        return runtime

    def add(self, name="a", runtime=None, **given):
        given = {"base_url": "https://api.example.com/v1", "api_key": "key-of-a-test", **given}
        (runtime or self.here).manager.add_endpoint(ApiEndpoint(name, **given))

    def block_all_slots(self):
        """Every slot of `here` is taken by a task that has no end of its own."""
        for _ in range(self.here.options.concurrency):
            self.here.publisher.publish("sleep", {"seconds": 600})
        wait_until(lambda: self.here.runner.in_flight == self.here.options.concurrency, "all slots to be taken")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with ExitStack() as stack:
        yield World(tmp_path / "queue.db", stack, monkeypatch)


def nothing(world):
    pass


def removed(world):
    world.add()
    world.here.manager.remove_endpoint("a")


def replaced_by_one_without_key(world):
    world.add()
    # At another address, to which the key kept for the first one is not sent.
    world.add(base_url="https://api.example.org/v1", api_key="", api_key_env=VARIABLE)


def reset(world):
    world.add()
    world.here.manager.reset_stats()


def one_of_two_removed(world):
    world.add()
    world.add("b")
    world.here.manager.remove_endpoint("a")


def second_process_started(world):
    second = world.process(concurrency=1)
    second.publisher.register_handler("work", print)


def second_process_stopped(world):
    second = world.process(concurrency=1)
    second.publisher.register_handler("work", print)
    second.stop(0.2)


def only_one_that_runs_nothing(world):
    world.process(concurrency=0).publisher.register_handler("work", print)


AI = "ai_call"
AT_ONCE = [
    ("no endpoint", nothing, AI, "The pool is empty: add one with add_api_endpoint."),
    ("an endpoint with its key", World.add, AI, ""),
    ("an endpoint that needs no key", lambda w: w.add(api_key="", provider="fake"), AI, ""),
    ("an endpoint whose key is not here", lambda w: w.add(api_key="", api_key_env=VARIABLE), AI, f"or set {VARIABLE} where"),
    ("one without key beside one with", lambda w: (w.add("b", api_key="", api_key_env=VARIABLE), w.add()), AI, ""),
    ("an endpoint removed", removed, AI, "The pool is empty"),
    ("one of two removed", one_of_two_removed, AI, ""),
    ("an endpoint replaced by one without key", replaced_by_one_without_key, AI, "Run `heablcoin-cloud set-key a`"),
    ("an endpoint reset", reset, AI, ""),
    ("bound to an endpoint that is there", World.add, "ai_call@a", ""),
    ("bound to an endpoint that is not", World.add, "ai_call@b", "There is no endpoint 'b'"),
    ("bound to one without key", lambda w: (w.add(), w.add("b", api_key="", api_key_env=VARIABLE)), "ai_call@b", "set-key b"),
    ("no handler", nothing, "work", "No live worker has a handler named 'work'"),
    ("a handler registered while it runs", lambda w: w.here.publisher.register_handler("work", print), "work", ""),
    ("a second process started", second_process_started, "work", ""),
    ("a second process started and stopped", second_process_stopped, "work", "No live worker"),
    ("a process that runs nothing", only_one_that_runs_nothing, "work", "No live worker"),
    ("a question to the user", nothing, "ask_user", "It waits for the user's answer."),
]  # fmt: skip


@pytest.mark.parametrize(("change", "name", "missing"), [row[1:] for row in AT_ONCE], ids=[row[0] for row in AT_ONCE])
def test_who_can_run_it_is_known_as_soon_as_it_changes(world, change, name, missing):
    change(world)
    name, _, bound = name.partition("@")
    payload = {"prompt": "x", "endpoint": bound} if bound else {"prompt": "x"} if name == AI else {}
    # Not to be run while it is asked about: it is to be explained, not done.
    task = world.there.publish(name, payload, delay=600)
    for asked in (world.here.publisher, world.there):
        said = asked.why(task.task_id)
        assert asked.nobody_can_run(task.task_id) is bool(missing), said
        assert ("No " in said or "user" in said) is bool(missing), said
    assert missing in world.here.publisher.why(task.task_id)


def a_key_in_the_environment(world):
    world.add(api_key="", api_key_env=VARIABLE)
    world.monkeypatch.setenv(VARIABLE, "key-of-a-test")


def an_endpoint_of_another_process(world):
    other = world.process(concurrency=0)
    world.monkeypatch.setenv(VARIABLE, "key-of-a-test")
    world.add(runtime=other, api_key="", api_key_env=VARIABLE)


def an_endpoint_of_another_process_while_busy(world):
    world.block_all_slots()
    an_endpoint_of_another_process(world)


@pytest.mark.parametrize(
    "change", [a_key_in_the_environment, an_endpoint_of_another_process, an_endpoint_of_another_process_while_busy]
)
def test_what_changed_elsewhere_is_known_before_a_waiter_gives_up(world, change, monkeypatch):
    monkeypatch.setattr(runners, "SIGN_OF_LIFE", float("inf"))  # the next sign of life would tell it too, in its time
    change(world)
    task = world.there.publish("ai_call", {"prompt": "x"}, delay=600)
    wait_until(lambda: not world.there.nobody_can_run(task.task_id), "the other process to know it")
    assert "No running process" not in world.there.why(task.task_id)


def test_what_was_taken_away_elsewhere_is_known_too(world):
    other = world.process(concurrency=0)
    world.add(api_key="", provider="fake")
    task = world.there.publish("ai_call", {"prompt": "x"}, delay=600)
    assert not world.there.nobody_can_run(task.task_id)
    other.manager.remove_endpoint("a")
    wait_until(lambda: world.there.nobody_can_run(task.task_id), "the other process to know it")


def test_a_waiting_task_starts_as_soon_as_its_endpoint_is_there(world):
    task = world.here.publisher.publish("ai_call", {"prompt": "x"})
    world.add(api_key="", provider="fake")
    wait_until(lambda: world.here.publisher.get_task(task.task_id).done, "the task to end")


def test_a_long_lease_does_not_make_a_process_seem_gone(world, monkeypatch):
    monkeypatch.setattr(runners, "SIGN_OF_LIFE", 0.0)
    patient = world.process(concurrency=1, lease=3600.0)
    (seen,) = (one.seen_at for one in world.here.store.workers.alive(0) if one.worker == patient.worker_id)
    wait_until(
        lambda: any(one.seen_at > seen for one in world.here.store.workers.alive(0) if one.worker == patient.worker_id),
        "a sign of life",
    )
