"""A database that is deleted or restored under a worker and a publisher: nothing acknowledged is lost, and work goes on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.store import open_store
from core.errors import StoreReplaced
from tests.process.worker_process import WorkerProcess, wait_for_word, words
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="an open file stays where it is on Windows")

LEASE = 0.6


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "home" / "queue.db"


@pytest.fixture
def worker(database: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(str(database), lease=LEASE, poll_interval=0.2).ready()
    yield made
    made.kill()


def remove(database: Path) -> None:
    for each in database.parent.glob("queue.db*"):
        each.unlink()


def test_a_worker_whose_database_is_deleted_ends_what_it_runs_in_the_copy_and_serves_the_new_one(
    database: Path, worker: WorkerProcess, tmp_path: Path
) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    publisher = EnhancedCloudTaskPublisher(str(database))
    running = publisher.publish("wait_for_file", {"file": str(notes), "go": str(go)})
    waiting = publisher.publish("nobody_can_run_this")
    wait_for_word(notes, "begin-1")

    remove(database)
    with pytest.raises(StoreReplaced, match="bring its tasks back"):
        publisher.publish("prints")
    kept = publisher.store.database.kept
    after = publisher.publish("prints")
    assert publisher.wait(after.task_id, 20).result == "printed"

    wait_until(lambda: publisher.store.workers.alive(0), "the worker to be known to the new database", timeout=20)
    go.touch()
    copy = open_store(kept)
    wait_until(lambda: copy.tasks.get(running.task_id).done, "the end of what ran", timeout=20)
    ended = copy.tasks.get(running.task_id)
    assert (ended.status, ended.result) == ("completed", {"pid": worker.pid, "attempt": 1})
    assert words(notes) == ["begin-1", "end-1"]
    assert copy.tasks.get(waiting.task_id).status == "pending"

    moved = tmp_path / "tasks.jsonl"
    EnhancedCloudTaskPublisher(store=copy).export(moved)
    assert publisher.import_(moved).added == 2
    assert publisher.get_task(running.task_id).result == ended.result
    copy.close()
    publisher.close()


def test_a_worker_goes_on_with_a_backup_that_is_put_in_the_place_of_its_database(
    database: Path, worker: WorkerProcess, tmp_path: Path
) -> None:
    script = EnhancedCloudTaskPublisher(str(database))
    in_backup = script.publish("prints", delay=1.5)
    for number in range(2):
        backup = open_store(str(tmp_path / f"backup-{number}.db"))
        EnhancedCloudTaskPublisher(store=script.store).export(tmp_path / "t.jsonl")
        EnhancedCloudTaskPublisher(store=backup).import_(tmp_path / "t.jsonl")
        backup.close()
        shutil.copy(tmp_path / f"backup-{number}.db", f"{database}.new")
        Path(f"{database}.new").replace(database)
        with pytest.raises(StoreReplaced, match="was replaced by another"):
            script.publish("prints")
    assert script.wait(in_backup.task_id, 20).result == "printed"
    assert [str(each.outcome) for each in script.attempts(in_backup.task_id)] == ["completed"]
    assert script.store.health().sound
    worker.end()
    assert worker.exit_code(20) == 0
    script.close()
    fresh = open_store(str(database))
    assert fresh.health().sound
    assert fresh.tasks.get(in_backup.task_id).status == "completed"
    fresh.close()
