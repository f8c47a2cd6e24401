"""The server as a host runs it: a subprocess on stdio, which must be gone when its host is."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.task import AttemptOutcome, TaskStatus
from server import cli
from tests.process.servers import ROOT, StdioServer, command, environment, until

HANDLERS = str(ROOT / "tests" / "process" / "handlers_for_tests.py")

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and reparenting are POSIX's")


def end_by_eof(server: StdioServer) -> None:
    server.close_stdin()


def end_by_sigterm(server: StdioServer) -> None:
    server.process.send_signal(signal.SIGTERM)


def end_by_sigint(server: StdioServer) -> None:
    server.process.send_signal(signal.SIGINT)


ENDS = [end_by_eof, pytest.param(end_by_sigterm, marks=posix), pytest.param(end_by_sigint, marks=posix)]


@pytest.mark.parametrize("end", ENDS)
def test_an_idle_server_leaves_with_0(tmp_path: Path, end: object) -> None:
    with StdioServer(tmp_path) as server:
        server.call("get_enhanced_task_stats")
        end(server)  # type: ignore[operator]
        assert server.gone() == 0


@pytest.mark.parametrize(
    ("handler", "end"),
    [
        ("stuck", end_by_eof),
        ("blocks_the_loop", end_by_eof),
        pytest.param("stuck", end_by_sigterm, marks=posix),
        pytest.param("blocks_the_loop", end_by_sigint, marks=posix),
    ],
)
def test_a_server_with_a_stuck_handler_leaves_and_gives_its_task_back(
    tmp_path: Path, end: object, handler: str
) -> None:
    with StdioServer(tmp_path, "--handlers", HANDLERS) as server:
        task = server.call("publish_enhanced_task", name=handler)
        until((tmp_path / "marks").exists, "the handler to run")
        end(server)  # type: ignore[operator]
        assert server.gone() == 0
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
        after = publisher.get_task(task["task_id"])
        assert after.status is TaskStatus.PENDING
        assert [attempt.outcome for attempt in publisher.attempts(after.task_id)] == [AttemptOutcome.INTERRUPTED]


@posix
def test_a_worker_leaves_although_the_signal_came_to_the_thread_of_a_stuck_handler(tmp_path: Path) -> None:
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
        task = publisher.publish("takes_the_signal")
        ended = subprocess.run(
            command("worker", "--handlers", HANDLERS), env=environment(tmp_path), cwd=tmp_path, timeout=20, check=False
        )
        assert ended.returncode == 0
        assert publisher.get_task(task.task_id).status is TaskStatus.PENDING


@posix
def test_a_server_whose_parent_died_leaves_although_its_pipes_stay_open(tmp_path: Path) -> None:
    launcher = textwrap.dedent("""
        import subprocess, sys, time
        child = subprocess.Popen(sys.argv[1:])
        time.sleep(600)
    """)
    read_end, write_end = os.pipe()
    out_read, out_write = os.pipe()
    try:
        parent = subprocess.Popen(
            [sys.executable, "-c", launcher, *command()],
            stdin=read_end,
            stdout=out_write,
            stderr=subprocess.DEVNULL,
            env=environment(tmp_path),
            cwd=tmp_path,
        )
        os.close(out_write)
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        }
        os.write(write_end, json.dumps(hello).encode() + b"\n")
        with os.fdopen(out_read, "rb") as output:
            assert b'"id":1' in output.readline()
            parent.kill()
            parent.wait(10)
            # The pipe's other end closes when the last process that holds it has ended: the orphan.
            assert output.read() == b""
    finally:
        os.close(read_end)
        os.close(write_end)


def test_nothing_but_the_protocol_is_on_stdout(tmp_path: Path) -> None:
    with StdioServer(tmp_path, "--handlers", HANDLERS, env=environment(tmp_path, log_level="DEBUG")) as server:
        task = server.call("publish_enhanced_task", name="noisy")
        done = server.call("wait_for_task", task_id=task["task_id"])
        assert done["tasks"][0]["result"] == "quiet"
        server.close_stdin()
        assert server.gone() == 0
        server._listener.join(5)
        for line in server.said:
            assert json.loads(line)["jsonrpc"] == "2.0"


def test_logs_are_json_lines_on_stderr(tmp_path: Path) -> None:
    with StdioServer(tmp_path, env=environment(tmp_path, log_level="DEBUG")) as server:
        server.call("publish_enhanced_task", name="echo", payload={"password": "hunter2hunter2"})
        server.close_stdin()
        assert server.gone() == 0
        lines = [json.loads(line) for line in server.errors.splitlines()]
        assert lines
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        assert "hunter2" not in server.errors


def test_two_servers_started_at_once_on_a_new_database_both_serve(tmp_path: Path) -> None:
    first, second = StdioServer(tmp_path), StdioServer(tmp_path)
    with first, second:
        ids = [
            server.call("publish_enhanced_task", name="echo", payload={"n": n})["task_id"]
            for n in range(10)
            for server in (first, second)
        ]
        seen = second.call("wait_for_task", task_id=ids)
        assert seen["done"] is True
        assert [task["result"]["n"] for task in seen["tasks"]] == [n for n in range(10) for _ in range(2)]
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
        assert all(len(publisher.attempts(task_id)) == 1 for task_id in ids)


def test_a_chain_cut_by_kill_9_is_finished_by_the_next_server_and_nothing_runs_again(tmp_path: Path) -> None:
    env = environment(tmp_path, lease="2")
    with StdioServer(tmp_path, "--handlers", HANDLERS, env=env) as server:
        chain = [
            {"key": "one", "name": "step", "payload": {"n": 1}},
            {"key": "two", "name": "step", "payload": {"n": 2}, "depends_on": "one"},
            {"key": "three", "name": "step", "payload": {"n": 3, "before": "${two.n}"}, "depends_on": "two"},
        ]
        made = server.call("publish_task_graph", tasks=chain)
        ids = {row["key"]: row["task_id"] for row in made["tasks"]}
        until(lambda: "step-2" in _marks(tmp_path), "the second step to run")
        server.process.kill()
        server.process.wait(10)
    (tmp_path / "go").touch()
    with StdioServer(tmp_path, "--handlers", HANDLERS, env=env) as server:
        done = server.call("wait_for_task", task_id=list(ids.values()))
        assert [task["status"] for task in done["tasks"]] == ["completed"] * 3
        second = server.call("get_task_status", task_id=ids["two"])
        assert [attempt["outcome"] for attempt in second["attempts"]] == ["interrupted", "completed"]
        assert len(server.call("get_task_status", task_id=ids["one"])["attempts"]) == 1
    runs = [mark.split()[0] for mark in _marks(tmp_path).splitlines()]
    assert (runs.count("step-1"), runs.count("step-2"), runs.count("step-3")) == (1, 2, 1)


def test_a_client_that_leaves_while_it_waits_loses_nothing(tmp_path: Path) -> None:
    with StdioServer(tmp_path, "--handlers", HANDLERS) as server:
        task = server.call("publish_enhanced_task", name="step", payload={"n": 2})
        until(lambda: "step-2" in _marks(tmp_path), "the step to run")
        server.ask("tools/call", {"name": "wait_for_task", "arguments": {"task_id": task["task_id"]}})
        server.close_stdin()
        assert server.gone() == 0
    (tmp_path / "go").touch()
    with StdioServer(tmp_path, "--handlers", HANDLERS) as server:
        done = server.call("wait_for_task", task_id=task["task_id"])
        assert done["tasks"][0]["result"] == {"n": 2}


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"concurrency": "many"}, "HEABLCOIN_CLOUD_CONCURRENCY"),
        ({"handlers": "/no/such/file.py"}, "/no/such/file.py"),
        ({"toolsets": "tasks,nonsense"}, "HEABLCOIN_CLOUD_TOOLSETS"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_what_to_do(
    settings: dict[str, str], hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"HEABLCOIN_CLOUD_{name.upper()}", value)
    assert cli.main([]) == 1
    told = capsys.readouterr()
    assert hint in told.err
    assert "Fix:" in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_process_that_cannot_start_says_why_and_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        command(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(tmp_path, database="/proc/nowhere/queue.db"),
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "HEABLCOIN_CLOUD_DATABASE" in said
    assert "Fix:" in said
    assert "Traceback" not in said
    assert done.stdout == b""


def _marks(folder: Path) -> str:
    file = folder / "marks"
    return file.read_text("utf-8") if file.exists() else ""


@posix
def test_on_a_terminal_it_says_what_it_is(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command(),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
            cwd=tmp_path,
        )
        assert process.stderr is not None
        with process.stderr:
            said = b""
            while b"started" not in said:
                line = process.stderr.readline()
                assert line, f"it ended: {said!r}"
                said += line
            assert b"MCP server" in said
            assert b"heablcoin-cloud demo" in said
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == 0
    finally:
        os.close(ours)
        os.close(theirs)
