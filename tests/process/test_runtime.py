"""The runtime: one process's parts, wired."""

from core.runtime import Runtime, RuntimeOptions
from tests.support.waiting import wait_until


def test_a_runtime_that_runs_nothing_is_told_of_changes_made_by_another_process(tmp_path):
    database = str(tmp_path / "cloud.db")
    watcher = Runtime.open(RuntimeOptions(database=database, concurrency=0))
    worker = Runtime.open(RuntimeOptions(database=database, concurrency=1))
    heard: list[str] = []
    watcher.publisher.on_change(heard.append)
    try:
        watcher.start()
        assert [info.capabilities for info in watcher.store.workers.alive(0)] == [()]
        worker.start()
        task = worker.publisher.publish("echo", {"a": 1})
        wait_until(lambda: watcher.publisher.get_task(task.task_id).done, "the task is completed")
        wait_until(lambda: task.task_id in heard, "the watcher heard of the task")
    finally:
        watcher.stop()
        worker.stop()


def test_stopping_twice_is_stopping_once(tmp_path):
    runtime = Runtime.open(RuntimeOptions(database=str(tmp_path / "cloud.db")))
    runtime.start()
    runtime.stop()
    runtime.stop()
