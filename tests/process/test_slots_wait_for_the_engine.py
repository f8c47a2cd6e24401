"""A task takes its slot when the request can leave at once: what calls need is loaded before, and holds up nothing else."""

import threading

import pytest

import core.cloud.providers
from core.cloud.api_manager import ApiEndpoint
from core.cloud.providers.fake import FakeProvider
from core.runtime import Runtime, RuntimeOptions
from tests.support.waiting import wait_until


@pytest.fixture
def runtime(tmp_path):
    made = Runtime(RuntimeOptions(database=str(tmp_path / "queue.db"), synchronous="NORMAL", keys="process"))
    made.manager.add_endpoint(
        ApiEndpoint("slow", "fake://", provider="fake", model="m", max_requests_per_minute=5, timeout=5)
    )
    yield made
    made.stop(0.2)


def slots(runtime):
    return runtime.store.pool.used_by("slow", runtime.clock.now())


def done(runtime, task):
    return runtime.publisher.get_task(task.task_id).status.value


def test_no_slot_is_taken_while_the_engine_is_loaded_and_other_tasks_run(runtime, monkeypatch):
    asked, release = threading.Event(), threading.Event()

    def provider_for(name, **_):
        asked.set()
        assert release.wait(30)
        return FakeProvider()

    monkeypatch.setattr(core.cloud.providers, "provider_for", provider_for)
    call = runtime.publisher.publish("ai_call", {"prompt": "hello"}, max_retries=0)
    runtime.start()
    assert asked.wait(10)

    echo = runtime.publisher.publish("echo", {})
    wait_until(lambda: done(runtime, echo) == "completed", "the echo, while the engine is loaded")
    assert (done(runtime, call), slots(runtime)) == ("pending", 0)

    release.set()

    wait_until(lambda: done(runtime, call) == "completed", "the call")
    assert slots(runtime) == 1


def test_an_engine_that_cannot_be_loaded_keeps_no_task_waiting(runtime, monkeypatch):
    def provider_for(name, **_):
        raise RuntimeError("no such library")

    monkeypatch.setattr(core.cloud.providers, "provider_for", provider_for)
    call = runtime.publisher.publish("ai_call", {"prompt": "hello"}, max_retries=0)
    runtime.start()

    wait_until(lambda: done(runtime, call) == "failed", "the call to say what is wrong")
