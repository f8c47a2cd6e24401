"""Clients that nobody here wrote, each over every transport it has. Run with `make clients`.

Each driver in `drivers/` holds the same conversation through its client, in the client's own environment, and writes down
what it saw; the tests here read that. They start together, a few at once, because most of their time is imports.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.app import selected_tools
from server.settings import Settings
from tests.clients.environments import HERE, python_of
from tests.process.servers import HttpServer, command, environment
from tests.support import node
from tests.support.llm_server import LlmServer, Step

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

TOKEN = "clients-token-0123456789"
AT_ONCE = 3
DRIVER_SECONDS = 200
LEAST_NODE = 20
TRANSPORTS = ("stdio", "http", "sse")
REMOTE = HERE / "node_modules/mcp-remote/dist/proxy.js"


@dataclass(frozen=True)
class Client:
    """A client and what it has no way to do."""

    name: str
    group: str
    """`v1` and `v2` are Python environments, `npm` the packages from npm."""
    driver: str
    lacks: frozenset[str] = frozenset()
    special: Any = None
    """What the driver's own step must have seen."""
    settings: Mapping[str, str] = field(default_factory=dict)


CLIENTS = [
    Client("mcp 1.x", "v1", "sdk_v1.py", special=[]),  # nothing came that nobody waited for
    Client(
        "langchain-mcp-adapters", "v1", "langchain_client.py", frozenset({"lists", "templates"}), special="published"
    ),
    Client("mcp-use", "v1", "mcp_use_client.py", frozenset({"progress", "templates"})),
    Client("fastmcp", "v2", "fastmcp_client.py"),
    Client("openai-agents", "v2", "openai_agents_client.py", frozenset({"progress"}), special=[]),  # all are strict
    Client("pydantic-ai", "v2", "pydantic_ai_client.py"),
    Client("typescript-sdk 1.x", "npm", "typescript.mjs", special=[], settings={"package": "sdk"}),
    Client("typescript-sdk 2.x", "npm", "typescript.mjs", special=[], settings={"package": "client"}),
    Client("mcp-remote", "npm", "sdk_v1.py", special=[]),
]
TALKS = [
    (client, transport)
    for client in CLIENTS
    for transport in TRANSPORTS
    if not (client.name == "mcp-remote" and transport == "stdio")  # it is a bridge from stdio to the other two
]


class Suite:
    """The server over HTTP, the environments, and the conversations, each begun once."""

    def __init__(self, folder: Path, server: HttpServer, llm: LlmServer) -> None:
        self.folder, self.server, self.llm = folder, server, llm
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.node, self.no_node = self._node()
        self.pythons = {group: self.pool.submit(python_of, group) for group in ("v1", "v2")}
        self.talks: dict[tuple[str, str], Future[dict[str, Any]]] = {}

    def _node(self) -> tuple[str, str]:
        try:
            found = node.find(HERE, LEAST_NODE)
            node.install(HERE)
        except node.NodeMissingError as error:
            return "", str(error)
        return found, ""

    def begin(self) -> None:
        for python in self.pythons.values():
            python.result()
        for client, transport in TALKS:
            if client.group != "npm" or self.node:
                self.talks[client.name, transport] = self.pool.submit(partial(self.talk, client, transport))

    def talk(self, client: Client, transport: str) -> dict[str, Any]:
        name = f"{client.name}-{transport}".replace(" ", "-")
        folder = self.folder / name
        folder.mkdir()
        target = {
            "transport": transport,
            "command": command(),
            "env": environment(folder),
            "url": self.server.url,
            "headers": {"Authorization": f"Bearer {TOKEN}"},
            "name": name,
            "llm": self.llm.base_url("chat"),
            **client.settings,
        }
        if client.name == "mcp-remote":
            target |= {
                "transport": "stdio",
                "command": self.remote(transport, "--header", f"Authorization: Bearer {TOKEN}"),
            }
            target["env"] = {**os.environ, "MCP_REMOTE_CONFIG_DIR": str(folder)}
        runs = (
            self.node
            if client.driver.endswith(".mjs")
            else self.pythons["v2" if client.group == "v2" else "v1"].result()
        )
        report = folder / "report.json"
        done = subprocess.run(
            [runs, str(HERE / "drivers" / client.driver), json.dumps(target), str(report)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DRIVER_SECONDS,
            check=False,
        )
        if not report.exists():
            return {"crash": f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"}
        return dict(json.loads(report.read_text("utf-8")))

    def remote(self, transport: str, *more: str) -> list[str]:
        """mcp-remote in front of the server."""
        url = self.server.url + ("/mcp" if transport == "http" else "/sse")
        return [self.node, str(REMOTE), url, "--allow-http", "--transport", f"{transport}-only", *more]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("clients")
    with LlmServer() as llm, HttpServer(folder, env=environment(folder, token=TOKEN)) as server:
        llm.script("chat", *[Step(text="published")] * len(TRANSPORTS))
        suite = Suite(folder, server, llm)
        suite.begin()
        yield suite
        suite.pool.shutdown(cancel_futures=True)


def needs_node(suite: Suite) -> None:
    if not suite.node:
        pytest.skip(f"LEFT OUT, the clients from npm: {suite.no_node}")


@pytest.mark.parametrize(("client", "transport"), TALKS, ids=[f"{client.name}-{via}" for client, via in TALKS])
def test_a_client_does_all_it_can_do(suite: Suite, client: Client, transport: str) -> None:
    if client.group == "npm":
        needs_node(suite)
    seen = suite.talks[client.name, transport].result(DRIVER_SECONDS * 2)
    assert "crash" not in seen, seen["crash"]
    task, endpoint = seen["task"], f"{client.name}-{transport}".replace(" ", "-")

    assert seen["tools"] == [spec.name for spec in selected_tools(Settings())]
    calls = {
        "publish_enhanced_task": task,
        "list_enhanced_tasks": task,
        "add_api_endpoint": endpoint,
        "get_api_manager_stats": endpoint,
        "graph": "blocked_by",
        "after cancel": "cancelled",
        "reconnect": task,
    }
    for name, expected in calls.items():
        assert not seen[name]["error"], (name, seen[name])
        assert expected in seen[name]["text"], (name, seen[name])
        assert seen[name]["kinds"] in (["text"], None), name
    assert seen["wrong call"]["error"]
    assert "There is no task 'no-such-task'. Fix:" in seen["wrong call"]["text"]
    assert "completed" in seen["reconnect"]["text"]

    if "progress" in client.lacks:
        assert seen["progress"] is None
    else:
        assert seen["progress"] >= 1
    assert seen["cancel"] == "cancelled"
    assert seen["seconds after cancel"] < 30  # the wait itself would have taken 50

    assert task in seen["resources"]["read"]
    assert "ETH/USDT" in seen["prompts"]["got"]
    if "lists" not in client.lacks:
        assert "queue://stats" in seen["resources"]["listed"]
        assert "publish_market_analysis" in seen["prompts"]["listed"]
    if "templates" not in client.lacks:
        assert seen["resources"]["templates"] == ["task://{task_id}"]
    assert seen["special"] == client.special


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_mcp_remote_without_a_token_ends_with_what_to_set(suite: Suite, tmp_path: Path, transport: str) -> None:
    needs_node(suite)
    done = subprocess.run(
        suite.remote(transport),
        input="",
        env={**os.environ, "MCP_REMOTE_CONFIG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode != 0
    for needed in ("no OAuth", "--header", "Authorization: Bearer TOKEN", "HEABLCOIN_CLOUD_TOKEN"):
        assert needed in done.stderr, done.stderr[-3000:]


def test_no_client_made_the_server_log_an_error(suite: Suite) -> None:
    for talk in suite.talks.values():
        talk.result(DRIVER_SECONDS * 2)
    assert '"level": "error"' not in suite.server.errors
    assert "Traceback" not in suite.server.errors
