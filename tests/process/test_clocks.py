"""Clocks that jump and processes that stand still: nobody takes back from himself what he still runs."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.clock import SystemClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.running.maintenance import Maintenance, TaskUpkeep
from core.cloud.running.runner import TaskRunner
from core.cloud.store import open_store
from tests.process.worker_process import WorkerProcess, wait_for_word, words
from tests.support.waiting import wait_until

LEASE = 0.5


class JumpingClock(SystemClock):
    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:  # type: ignore[override]
        return time.time() + self.ahead


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(str(tmp_path / "queue.db"), lease=LEASE).ready()
    yield made
    made.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["wait_for_file", "wait_in_thread"])
def test_a_worker_alone_that_stood_still_for_longer_than_its_lease_goes_on_with_what_it_runs(
    worker: WorkerProcess, tmp_path: Path, name: str
) -> None:
    publisher = EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"))
    notes, go = tmp_path / "notes", tmp_path / "go"
    task = publisher.publish(name, {"file": str(notes), "go": str(go)})
    wait_for_word(notes, "begin-1")

    for _ in range(3):
        worker.signal(signal.SIGSTOP)
        lease = publisher.get_task(task.task_id).lease_until
        assert lease is not None
        wait_until(lambda lease=lease: time.time() > lease.timestamp() + 0.2, "the lease to end")
        worker.signal(signal.SIGCONT)
        # Made ready by the same upkeep that takes lost leases back.
        later = publisher.publish("prints", delay=0.05)
        assert publisher.wait(later.task_id, 20).status == "completed"
    go.touch()

    assert publisher.wait(task.task_id, 20).result == {"pid": worker.pid, "attempt": 1}
    assert [str(each.outcome) for each in publisher.attempts(task.task_id)] == ["completed"]
    assert words(notes) == ["begin-1", "end-1"]
    publisher.close()


@pytest.mark.parametrize("jump", [3600.0, 86_400.0 * 365 * 174, LEASE * 3])
def test_a_runner_alone_whose_wall_clock_jumps_runs_nothing_twice(tmp_path: Path, jump: float) -> None:
    clock, go, begun = JumpingClock(), threading.Event(), []
    store = open_store(str(tmp_path / "queue.db"))
    publisher = EnhancedCloudTaskPublisher(store=store, clock=clock)

    def work(_payload: object) -> str:
        begun.append(1)
        assert go.wait(20)
        return "once"

    publisher.register_handler("work", work)
    # The bare duty: that it waits after a jump it noticed is not what protects what runs here.
    upkeep = Maintenance(store, [TaskUpkeep(store.tasks)], worker="w", wakeup=publisher.wakeup, clock=clock)
    runner = TaskRunner(
        store, publisher.handlers, wakeup=publisher.wakeup, clock=clock, worker_id="w", maintenance=upkeep, lease=LEASE
    )
    runner.start()
    task = publisher.publish("work")
    wait_until(lambda: begun, "the handler to run")
    later = publisher.publish("echo", delay=LEASE * 2)
    clock.ahead = jump
    assert publisher.wait(later.task_id, 20).status == "completed"
    publisher.get_ready_tasks()
    publisher.cleanup_expired()
    go.set()

    assert publisher.wait(task.task_id, 20).result == "once"
    assert [str(each.outcome) for each in publisher.attempts(task.task_id)] == ["completed"]
    assert len(begun) == 1
    runner.stop(0.5)
    publisher.close()
    store.close()


def test_what_is_run_by_hand_is_not_taken_back_by_its_own_process(tmp_path: Path) -> None:
    clock = JumpingClock()
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"), clock=clock) as publisher:

        def work(_payload: object) -> str:
            clock.ahead += 3600.0
            EnhancedCloudTaskPublisher(store=publisher.store, clock=clock).cleanup_expired()
            return "once"

        publisher.register_handler("work", work)
        task = publisher.publish("work")
        assert publisher.execute_task(task) == "once"
        assert [str(each.outcome) for each in publisher.attempts(task.task_id)] == ["completed"]
