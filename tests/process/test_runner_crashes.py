"""Workers that are killed, frozen or woken from another process."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.failpoints import NAMES
from tests.process.worker_process import WorkerProcess, wait_for_word, words
from tests.support.waiting import wait_until

LEASE = 0.4


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[EnhancedCloudTaskPublisher]:
    made = EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"))
    yield made
    made.close()


@pytest.fixture
def workers(publisher: EnhancedCloudTaskPublisher) -> Iterator[list[WorkerProcess]]:
    made: list[WorkerProcess] = []
    yield made
    for worker in made:
        worker.kill()


def outcomes(publisher: EnhancedCloudTaskPublisher, task_id: str) -> list[str]:
    return [str(attempt.outcome) for attempt in publisher.attempts(task_id)]


@pytest.mark.parametrize("name", ["wait_for_file", "wait_in_thread"])
def test_work_of_a_killed_worker_is_finished_by_another_and_the_cut_attempt_shows(
    publisher: EnhancedCloudTaskPublisher, workers: list[WorkerProcess], tmp_path: Path, name: str
) -> None:
    first = WorkerProcess(publisher.store.location, lease=LEASE).ready()
    workers.append(first)
    notes, go = tmp_path / "notes", tmp_path / "go"
    done = publisher.publish("prints")
    publisher.wait(done.task_id, 20)
    task = publisher.publish(name, {"file": str(notes), "go": str(go)}, max_retries=0)
    wait_for_word(notes, "begin-1")

    first.kill()
    second = WorkerProcess(publisher.store.location, lease=LEASE).ready()
    workers.append(second)
    wait_for_word(notes, "begin-2")
    go.touch()

    ended = publisher.wait(task.task_id, 20)
    assert ended.result == {"pid": second.pid, "attempt": 2}
    assert outcomes(publisher, task.task_id) == ["interrupted", "completed"]
    assert words(notes) == ["begin-1", "begin-2", "end-2"]
    # What had completed before the kill is not run again.
    assert outcomes(publisher, done.task_id) == ["completed"]


def test_a_worker_that_was_frozen_past_its_lease_is_refused_and_goes_on_working(
    publisher: EnhancedCloudTaskPublisher, workers: list[WorkerProcess], tmp_path: Path
) -> None:
    frozen = WorkerProcess(publisher.store.location, lease=LEASE).ready()
    workers.append(frozen)
    notes, go = tmp_path / "notes", tmp_path / "go"
    task = publisher.publish("wait_for_file", {"file": str(notes), "go": str(go)})
    wait_for_word(notes, "begin-1")

    frozen.signal(signal.SIGSTOP)
    other = WorkerProcess(publisher.store.location, lease=LEASE).ready()
    workers.append(other)
    wait_for_word(notes, "begin-2")
    go.touch()
    assert publisher.wait(task.task_id, 20).result == {"pid": other.pid, "attempt": 2}
    other.end()
    assert other.exit_code() == 0
    frozen.signal(signal.SIGCONT)

    after = publisher.publish("prints")
    assert publisher.wait(after.task_id, 20).status == "completed"
    assert publisher.attempts(after.task_id)[0].worker == frozen.worker
    assert publisher.get_task(task.task_id).result == {"pid": other.pid, "attempt": 2}
    assert outcomes(publisher, task.task_id) == ["interrupted", "completed"]


def test_a_task_that_kills_its_workers_is_given_up_at_the_poison_limit(
    publisher: EnhancedCloudTaskPublisher, workers: list[WorkerProcess], tmp_path: Path
) -> None:
    task = publisher.publish("kill_own_process", {"file": str(tmp_path / "notes")}, max_retries=0)
    options = {"lease": 0.3, "poison_limit": 1}

    for _ in range(2):
        victim = WorkerProcess(publisher.store.location, **options)
        workers.append(victim)
        assert victim.exit_code(20) == -signal.SIGKILL
    workers.append(WorkerProcess(publisher.store.location, **options).ready())

    ended = publisher.wait(task.task_id, 20)
    assert ended.status == "failed"
    assert ended.error.startswith("Given up: its worker died 2 times")
    assert outcomes(publisher, task.task_id) == ["interrupted", "interrupted"]


def test_of_crashers_beside_innocent_tasks_the_crashers_fail_by_name_and_the_innocent_finish(
    publisher: EnhancedCloudTaskPublisher, workers: list[WorkerProcess], tmp_path: Path
) -> None:
    notes = {"file": str(tmp_path / "notes")}
    crashers = [publisher.publish(name, notes, max_retries=0) for name in ("leaves_by_exit", "segfaults")]
    innocent = [publisher.publish("steady", notes, max_retries=0) for _ in range(2)]
    deaths = 0

    while not all(publisher.get_task(task.task_id).done for task in crashers):
        worker = WorkerProcess(publisher.store.location, lease=0.3, poison_limit=3)
        workers.append(worker)
        wait_until(
            lambda worker=worker: worker.process.poll() is not None or publisher.get_task(innocent[1].task_id).done,
            "the worker to die, or all to be done",
            timeout=30,
        )
        deaths += worker.process.poll() is not None
        assert deaths <= 8

    for task in crashers:
        ended = publisher.get_task(task.task_id)
        assert ended.status == "failed"
        assert (
            "Given up: its worker died 4 times while running it, the last time with nothing else running" in ended.error
        )
    for task in innocent:
        assert publisher.wait(task.task_id, 20).result == "steady"
        assert outcomes(publisher, task.task_id) == ["interrupted", "interrupted", "completed"]


def test_another_process_is_woken_by_a_publish_although_it_hardly_polls(
    publisher: EnhancedCloudTaskPublisher, workers: list[WorkerProcess]
) -> None:
    workers.append(WorkerProcess(publisher.store.location, poll_interval=3600.0).ready())
    wait_until(lambda: publisher.store.workers.alive(0), "the worker's row")

    for _ in range(3):
        task = publisher.publish("prints")
        assert publisher.wait(task.task_id, 20).result == "printed"


def test_a_cancelled_task_in_another_process_is_stopped_long_before_its_lease_is_renewed(
    publisher: EnhancedCloudTaskPublisher, workers: list[WorkerProcess], tmp_path: Path
) -> None:
    workers.append(WorkerProcess(publisher.store.location, lease=3600.0, concurrency=1, poll_interval=3600.0).ready())
    notes = tmp_path / "notes"
    task = publisher.publish("wait_for_file", {"file": str(notes), "go": str(tmp_path / "never")})
    wait_for_word(notes, "begin-1")

    publisher.cancel_task(task.task_id)

    after = publisher.publish("prints")
    assert publisher.wait(after.task_id, 20).result == "printed"
    assert outcomes(publisher, task.task_id) == ["cancelled"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"after_publish_commit", "during_migration"}])
def test_a_worker_cut_down_at_any_failpoint_leaves_nothing_another_cannot_finish(
    publisher: EnhancedCloudTaskPublisher, workers: list[WorkerProcess], tmp_path: Path, name: str
) -> None:
    parent = publisher.publish("prints", delay=0.05)
    child = publisher.publish("prints", depends_on=[parent])
    victim = WorkerProcess(publisher.store.location, f"{name}:kill", lease=LEASE)
    workers.append(victim)
    assert victim.exit_code(20) == -signal.SIGKILL

    workers.append(WorkerProcess(publisher.store.location, lease=LEASE).ready())

    for task in (parent, child):
        ended = publisher.wait(task.task_id, 20)
        assert ended.status == "completed"
        assert outcomes(publisher, task.task_id).count("completed") == 1
        assert set(outcomes(publisher, task.task_id)) <= {"interrupted", "completed"}
