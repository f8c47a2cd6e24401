"""A handlers file that takes its time while it is imported: the server answers meanwhile and says what is missing."""

import subprocess
from pathlib import Path

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from tests.process.servers import StdioServer, command, environment, until

WAITS = """
import pathlib, time
while not (pathlib.Path(__file__).parent / "go").exists():
    time.sleep(0.02)
{then}
def register(publisher):
    publisher.register_handler("slow_one", lambda payload: "here at last")
"""
NEVER = "import threading\nthreading.Event().wait()\n"


def handlers(folder: Path, text: str) -> str:
    file = folder / "slow_handlers.py"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_handlers_file_that_blocks_keeps_nobody_from_an_answer(tmp_path: Path) -> None:
    file = handlers(tmp_path, WAITS.format(then=""))
    with StdioServer(tmp_path, "--handlers", file) as server:  # entering it has `initialize` answered
        waiting = server.call("publish_enhanced_task", name="slow_one")
        assert f"still imports the handlers file {file}" in waiting["why"]
        assert "No live worker has a handler named 'slow_one'" in waiting["why"]
        other = server.call("publish_enhanced_task", name="echo", payload={"n": 1})
        assert server.call("wait_for_task", task_id=other["task_id"])["done"] is True
        looked = server.call("wait_for_task", task_id=waiting["task_id"], timeout=4)  # beyond where hopeless waits end
        assert looked["done"] is False
        assert file in looked["tasks"][0]["why"]
        assert file in server.call("get_task_status", task_id=waiting["task_id"])["why"]
        assert f"the handlers file {file} is still being imported" in server.errors
        (tmp_path / "go").touch()
        done = server.call("wait_for_task", task_id=waiting["task_id"])
        assert done["tasks"][0]["result"] == "here at last"
        assert f"the handlers file {file} is loaded" in server.errors


def test_a_handlers_file_that_fails_late_is_named_where_its_tasks_wait(tmp_path: Path) -> None:
    file = handlers(tmp_path, WAITS.format(then='raise RuntimeError("no licence")'))
    with StdioServer(tmp_path, "--handlers", file) as server:
        task = server.call("publish_enhanced_task", name="slow_one")
        (tmp_path / "go").touch()
        until(lambda: "could not be loaded" in server.errors, "the failure in the log")
        looked = server.call("wait_for_task", task_id=task["task_id"], timeout=30)
        for part in ("could not be loaded", "no licence", "slow_handlers.py"):
            assert part in looked["tasks"][0]["why"]
        assert server.call("get_enhanced_task_stats")["total"] == 1


def test_a_server_whose_handlers_never_come_leaves_with_its_client(tmp_path: Path) -> None:
    with StdioServer(tmp_path, "--handlers", handlers(tmp_path, NEVER)) as server:
        server.call("get_enhanced_task_stats")
        server.close_stdin()
        assert server.gone() == 0


def test_a_file_that_fails_at_once_ends_the_start_as_ever(tmp_path: Path) -> None:
    file = handlers(tmp_path, "raise RuntimeError('no licence')\n")
    done = subprocess.run(
        command("--handlers", file),
        input=b"",
        capture_output=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"no licence" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_worker_whose_handlers_fail_late_ends_with_an_error(tmp_path: Path) -> None:
    file = handlers(tmp_path, WAITS.format(then='raise RuntimeError("no licence")'))
    log = (tmp_path / "worker.log").open("w+b")
    worker = subprocess.Popen(
        command("worker", "--handlers", file),
        stdin=subprocess.DEVNULL,
        stderr=log,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    try:
        until(lambda: b"still being imported" in (tmp_path / "worker.log").read_bytes(), "the word that it waits", 60)
        (tmp_path / "go").touch()
        assert worker.wait(60) == 1
    finally:
        worker.kill()
        worker.wait(10)
        log.close()
    assert b"no licence" in (tmp_path / "worker.log").read_bytes()


def test_a_worker_begins_what_waited_for_its_slow_handlers(tmp_path: Path) -> None:
    file = handlers(tmp_path, WAITS.format(then=""))
    worker = subprocess.Popen(
        command("worker", "--handlers", file),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    try:
        with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
            task = publisher.publish("slow_one")
            (tmp_path / "go").touch()
            until(lambda: publisher.get_task(task.task_id).done, "the task to be done", 60)
            assert publisher.get_task(task.task_id).result == "here at last"
    finally:
        worker.kill()
        worker.wait(10)
