"""A worker process with a handler that will not end: timed out, and gone within five seconds when asked."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from tests.process.worker_process import ROOT, WorkerProcess, alive, pids, wait_for_word
from tests.support.waiting import wait_until

STUCK = [
    "stuck_in_thread",
    "spinning_thread",
    "stuck_in_process",
    "endless_coroutine",
    "blocking_coroutine",
    "spinning_coroutine",
    "stuck_in_default_executor",
]


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[EnhancedCloudTaskPublisher]:
    made = EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"))
    yield made
    made.close()


@pytest.fixture
def worker(publisher: EnhancedCloudTaskPublisher) -> Iterator[WorkerProcess]:
    made = WorkerProcess(publisher.store.location, lease=0.9, concurrency=len(STUCK) + 1).ready()
    yield made
    made.kill()


def test_every_kind_of_stuck_handler_is_timed_out_and_the_worker_goes_on_and_ends_in_time(
    publisher: EnhancedCloudTaskPublisher, worker: WorkerProcess, tmp_path: Path
) -> None:
    tasks = {
        name: publisher.publish(name, {"file": str(tmp_path / name)}, timeout=0.2, max_retries=0).task_id
        for name in STUCK
    }

    ended = {name: publisher.wait(task_id, 20).status.value for name, task_id in tasks.items()}
    assert ended == dict.fromkeys(STUCK, "failed")
    for task_id in tasks.values():
        assert publisher.attempts(task_id)[-1].outcome == "timed_out"
    after = publisher.publish("prints")
    assert publisher.wait(after.task_id, 20).result == "printed"

    worker.end()
    assert worker.exit_code() == 0


@pytest.mark.parametrize("ending", ["end of input", signal.SIGTERM, signal.SIGINT])
def test_no_stuck_handler_keeps_its_process_alive_and_all_are_given_back(
    publisher: EnhancedCloudTaskPublisher, worker: WorkerProcess, tmp_path: Path, ending: str | int
) -> None:
    tasks = {}
    for name in STUCK:
        tasks[name] = publisher.publish(name, {"file": str(tmp_path / name)}).task_id
        wait_for_word(tmp_path / name, "begin")

    if isinstance(ending, str):
        worker.end()
    else:
        worker.signal(ending)

    assert worker.exit_code() == 0
    statuses = {name: publisher.get_task(task_id).status.value for name, task_id in tasks.items()}
    assert statuses == dict.fromkeys(STUCK, "pending")
    for task_id in tasks.values():
        assert [attempt.outcome for attempt in publisher.attempts(task_id)] == ["interrupted"]
    assert publisher.store.workers.alive(0) == []
    (child,) = pids(tmp_path / "stuck_in_process")
    wait_until(lambda: not alive(child), "the child's end")


def test_a_child_process_dies_with_a_worker_that_is_killed(
    publisher: EnhancedCloudTaskPublisher, worker: WorkerProcess, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    publisher.publish("stuck_in_process", {"file": str(notes)})
    wait_for_word(notes, "begin")
    (child,) = pids(notes)
    assert child != worker.pid
    assert alive(child)

    worker.kill()

    wait_until(lambda: not alive(child), "the child's end")


FORGETFUL = """
import sys, threading
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.running.runner import TaskRunner
publisher = EnhancedCloudTaskPublisher(sys.argv[1])
began = threading.Semaphore(0)
def spins(payload):
    began.release()
    while True:
        pass
async def blocks(payload):
    spins(payload)
publisher.register_handler("spins", spins)
publisher.register_handler("blocks", blocks)
TaskRunner(publisher.store, publisher.handlers, wakeup=publisher.wakeup).start()
for name in ("spins", "blocks"):
    publisher.publish(name)
    began.acquire()
"""


@pytest.mark.parametrize("turn", range(3))
def test_a_script_that_forgets_its_runner_ends_all_the_same_and_gives_back_what_ran(
    publisher: EnhancedCloudTaskPublisher, turn: int
) -> None:
    script = [sys.executable, "-c", FORGETFUL, publisher.store.location]
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 0, ended.stderr
    tasks = publisher.list_tasks()
    assert [task.status.value for task in tasks] == ["pending", "pending"]
    for task in tasks:
        assert [attempt.outcome for attempt in publisher.attempts(task.task_id)] == ["interrupted"]
    assert publisher.store.workers.alive(0) == []
