"""A database that is taken away under an MCP server: it says so, a worker on the same file too, and both go on."""

import os
import shutil
from pathlib import Path

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.store import open_store
from tests.process.servers import StdioServer, until
from tests.process.worker_process import WorkerProcess

pytestmark = pytest.mark.skipif(os.name != "posix", reason="an open file stays where it is on Windows")


def publish(server: StdioServer) -> tuple[str, str]:
    """The task's id, and what the chat was told first: '' when a thread of the server had noticed before it."""
    answer = server.request("tools/call", {"name": "publish_enhanced_task", "arguments": {"name": "prints"}})
    if not answer.get("isError"):
        return str(answer["structuredContent"]["task_id"]), ""
    again = server.call("publish_enhanced_task", name="prints")
    return str(again["task_id"]), str(answer["content"][0]["text"])


@pytest.mark.parametrize("restored", [False, True])
def test_the_server_and_a_worker_say_so_keep_what_was_there_and_serve_the_file_that_is_there_now(
    tmp_path: Path, restored: bool
) -> None:
    database = tmp_path / "queue.db"
    with EnhancedCloudTaskPublisher(str(tmp_path / "backup.db")) as publisher:
        in_backup = publisher.publish("prints", delay=2.0)
    with StdioServer(tmp_path) as server:
        worker = WorkerProcess(str(database), lease=2.0, poll_interval=0.2).ready()
        try:
            waiting = server.call("publish_enhanced_task", name="nobody_can_run_this")
            database.unlink()
            if restored:
                shutil.copy(tmp_path / "backup.db", database)
            task_id, told = publish(server)
            [kept] = tmp_path.glob("queue.db.lost-*")
            if told:
                assert ("was replaced by another" if restored else "was deleted") in told
                assert "Fix: call again" in told
                assert kept.name in told
            assert "while this process used it" in server.errors
            with EnhancedCloudTaskPublisher(str(database)) as script:
                assert script.wait(task_id, 20).result == "printed"
                if restored:
                    assert script.wait(in_backup.task_id, 20).result == "printed"
                assert script.store.health().sound
        finally:
            worker.kill()
        copy = open_store(str(kept))
        assert copy.tasks.get(waiting["task_id"]) is not None
        copy.close()
        server.close_stdin()
        assert server.gone() == 0
    until(lambda: not list(tmp_path.glob("*.unfinished")), "no half-written file to be left")
