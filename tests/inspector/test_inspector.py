"""Every tool, driven by the MCP Inspector's command line over every transport. Run with `make inspector`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from tests.process.servers import HttpServer, environment
from tests.support import node
from tests.support.llm_server import LlmServer, Step

pytestmark = [pytest.mark.inspector, pytest.mark.timeout(300)]

HERE = Path(__file__).resolve().parent
LEAST_NODE = 20
LAUNCHER = HERE / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
TRANSPORTS = ("stdio", "http", "sse")
TOKEN = "inspector-token-0123456789"
SETTINGS = {"token": TOKEN, "toolsets": "all", "allow_hosts": "127.0.0.1"}
AT_ONCE = 3
"""Inspectors run beside each other; each is a process, over stdio with a server of its own."""
CALL_SECONDS = 60

Chain = list[tuple[str, dict[str, Any]]]
"""Tools and their arguments, in order."""


@pytest.fixture(scope="session")
def node_binary() -> str:
    try:
        found = node.find(HERE, LEAST_NODE)
        node.install(HERE)
    except node.NodeMissingError as error:
        pytest.skip(f"the Inspector cannot be run: {error}")
    return found


@dataclass(frozen=True)
class Inspector:
    """One way to reach the server, and the Inspector that takes it."""

    node: str
    transport: str
    folder: Path
    target: list[str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.node, str(LAUNCHER), "--cli", *self.target, *arguments, "--format", "json", "-q"]
        env = {**os.environ, "MCP_INSPECTOR_SECRET_STORE": "memory", "NODE_NO_WARNINGS": "1"}
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=CALL_SECONDS, check=False
        )

    def result(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return dict(json.loads(done.stdout)["result"])

    def call(self, tool: str, given: dict[str, Any], *more: str) -> dict[str, Any]:
        arguments = ("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(given))
        result = self.result(*arguments, *more)
        assert not result.get("isError"), (tool, result)
        return result


@pytest.fixture
def llm() -> Iterator[LlmServer]:
    with LlmServer() as server:
        server.script("alpha", Step(text="hello from alpha"))
        yield server


@pytest.fixture
def inspect(node_binary: str, tmp_path: Path) -> Iterator[Callable[[str], Inspector]]:
    """Makes an Inspector for a transport; all of them on one database and, over HTTP and SSE, one server."""
    env = {**environment(tmp_path, **SETTINGS), "ALPHA_API_KEY": "sk-test-alpha-key"}
    servers: list[HttpServer] = []

    def make(transport: str) -> Inspector:
        if transport == "stdio":
            ours = {
                name: value
                for name, value in env.items()
                if name.startswith(("HEABLCOIN_", "ALPHA_", "PYTHON", "XDG_")) or name == "HOME"
            }
            flags = [part for name, value in ours.items() for part in ("-e", f"{name}={value}")]
            return Inspector(node_binary, transport, tmp_path, [sys.executable, "-m", "server", *flags])
        if not servers:
            servers.append(HttpServer(tmp_path, env=env))
        path = "/mcp" if transport == "http" else "/sse"
        target = [servers[0].url + path, "--transport", transport, "--header", f"Authorization: Bearer {TOKEN}"]
        return Inspector(node_binary, transport, tmp_path, target)

    yield make
    for server in servers:
        server.__exit__()


def chains(publisher: EnhancedCloudTaskPublisher, llm: LlmServer) -> list[Chain]:
    """Calls of every tool that must succeed; those in one chain one after the other."""

    def waiting(name: str = "nobody_does_this") -> str:
        return publisher.publish(name).task_id

    failed = waiting()
    publisher.update_status(failed, "failed", error="on purpose")
    done = waiting()
    publisher.update_status(done, "completed", result={"x": 1})
    publisher.publish("for_an_agent")
    endpoint = {
        "name": "alpha",
        "base_url": llm.base_url("alpha"),
        "api_key_env": "ALPHA_API_KEY",
        "model": "m",
        "priority": 2,
        "max_requests_per_minute": 100,
    }
    return [
        [
            ("add_api_endpoint", endpoint),
            ("call_api", {"prompt": "hello?", "temperature": 0.5}),
            ("get_api_manager_stats", {}),
            ("reset_api_stats", {"name": "alpha"}),
            ("remove_api_endpoint", {"name": "alpha"}),
        ],
        [
            ("schedule_task", {"name": "nightly", "task": "echo", "cron": "0 3 * * *"}),
            ("list_schedules", {}),
            ("trigger_cloud_queue", {"name": "nightly"}),
            ("cloud_scheduler_snapshot", {}),
            ("remove_schedule", {"name": "nightly"}),
        ],
        [
            ("publish_enhanced_task", {"name": "echo", "payload": '{"symbol": "BTC/USDT"}', "tags": "analysis,urgent"}),
            ("list_enhanced_tasks", {"status": "pending", "priority_min": 2, "limit": 10}),
            ("get_task_status", {"task_id": done}),
            ("wait_for_task", {"task_id": done, "timeout": 5}),
            ("retry_failed_task", {"task_id": failed}),
        ],
        [
            (
                "publish_task_graph",
                {"tasks": [{"key": "a", "name": "echo"}, {"key": "b", "name": "echo", "depends_on": "a"}]},
            ),
            ("cancel_task", {"task_id": waiting()}),
            ("get_enhanced_task_stats", {}),
            ("claim_task", {"worker": "inspector", "names": "for_an_agent"}),
            ("update_task_status", {"task_id": waiting(), "status": "completed", "result": '{"ok": true}'}),
        ],
        [
            ("cleanup_expired_tasks", {"remove_older_than_days": 30, "dry_run": True}),
            ("publish_cloud_task", {"name": "echo", "payload": "{}"}),
            ("list_cloud_tasks", {"limit": 5}),
            ("start_cloud_scheduler", {}),
        ],
    ]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_tool_answers_the_inspector(
    inspect: Callable[[str], Inspector], llm: LlmServer, tmp_path: Path, transport: str
) -> None:
    inspector = inspect(transport)
    offered = {tool["name"] for tool in inspector.result("--method", "tools/list")["tools"]}
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
        plan = chains(publisher, llm)
    assert {tool for chain in plan for tool, _ in chain} == offered, "the plan leaves no tool out"

    def drive(chain: Chain) -> dict[str, dict[str, Any]]:
        return {tool: inspector.call(tool, given) for tool, given in chain}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = {tool: answer for part in pool.map(drive, plan) for tool, answer in part.items()}
    for tool, answer in answers.items():
        assert answer["structuredContent"], tool
        assert answer["content"][0]["text"], tool
    assert answers["call_api"]["structuredContent"]["text"] == "hello from alpha"


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_the_schemas_are_portable_in_both_eras(inspect: Callable[[str], Inspector], transport: str, era: str) -> None:
    done = inspect(transport).run("--method", "tools/list", "--strict", "--protocol-era", era)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_inspector_follows_task_handles_to_their_results(
    inspect: Callable[[str], Inspector], llm: LlmServer
) -> None:
    inspector = inspect("http")
    endpoint = {"name": "alpha", "base_url": llm.base_url("alpha"), "api_key_env": "ALPHA_API_KEY", "model": "m"}
    modern = ("--protocol-era", "modern")
    inspector.call("add_api_endpoint", endpoint, *modern)
    answer = inspector.call("call_api", {"prompt": "hello?"}, *modern)
    assert answer["structuredContent"]["text"] == "hello from alpha"
    graph = [{"key": "a", "name": "echo", "payload": {"x": 1}}, {"key": "b", "name": "echo", "depends_on": "a"}]
    finished = inspector.call("publish_task_graph", {"tasks": graph}, *modern)
    assert [row["status"] for row in finished["structuredContent"]["tasks"]] == ["completed", "completed"]
    slow = inspector.call("publish_enhanced_task", {"name": "sleep", "payload": '{"seconds": 1}'}, *modern)
    task_id = slow["structuredContent"]["task_id"]
    waited = inspector.call("wait_for_task", {"task_id": task_id}, *modern)
    assert waited["structuredContent"]["done"] is True


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_eight_callers_at_once_see_no_error(inspect: Callable[[str], Inspector], transport: str) -> None:
    load = ("--load", "--load-concurrency", "8", "--load-requests", "200")
    call = ("--method", "tools/call", "--tool-name", "get_enhanced_task_stats")
    done = inspect(transport).run(*call, *load)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    summary = summary.get("result", summary)
    assert summary["requests"] == 200, summary
    assert summary["errors"] == 0, summary
