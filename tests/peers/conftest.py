"""The peers: LiteLLM's proxy as a process of its own on loopback, and the SDKs of OpenAI and Anthropic.

They live in `.venv-peers` (made by `make peers`), because what they pin clashes with what we use.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.llm_server import LlmServer

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers" / "bin"
KEY = "sk-loopback-5f1c9d27a3b84e6c90d1"
STARTS_WITHIN = 150
"""Seconds: the proxy imports a great deal."""

MOCKS = {
    "plain": "Hello from the mock, 世界",
    "limited": "litellm.RateLimitError",
    "broken": "litellm.InternalServerError",
    "small": "litellm.ContextWindowExceededError",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.peers)


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "NO_PROXY": "127.0.0.1",
        "PYTHONUTF8": "1",
    }


@pytest.fixture(scope="session")
def upstream() -> Iterator[LlmServer]:
    """What the proxy's models without a mock ask."""
    with LlmServer() as server:
        yield server


@pytest.fixture(scope="session")
def litellm(upstream: LlmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The proxy's base URL."""
    assert (PEERS / "litellm").exists(), "the peers are not installed: run `make peers`"
    folder = tmp_path_factory.mktemp("litellm")
    models: list[dict[str, Any]] = [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": "sk-none", "mock_response": mock},
        }
        for name, mock in MOCKS.items()
    ]
    forwarded = {"model": "hosted_vllm/m", "api_base": upstream.base_url("upstream"), "api_key": "sk-none"}
    models.append({"model_name": "forwarded", "litellm_params": forwarded})
    config = {
        "model_list": models,
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PEERS / "litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_it_answers(process, f"{url}/health/liveliness", folder / "log")
        warm_up(url)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_until_it_answers(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    ends = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < ends:
        assert process.poll() is None, f"the proxy ended: {log.read_text(encoding='utf-8')[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the proxy did not start within {STARTS_WITHIN} s: {log.read_text(encoding='utf-8')[-2000:]}")


def warm_up(url: str) -> None:
    """Its first streamed answer loads a tokenizer, for seconds, before it tells its usage."""
    body = {"model": "plain", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body["stream_options"] = {"include_usage": True}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()


@pytest.fixture(scope="session")
def ask_sdks(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]:
    """What the SDKs make of the answers at some addresses; see sdks.py for the form. One process for all: they take long to import."""
    said = tmp_path_factory.mktemp("sdks") / "stderr"
    with said.open("wb") as errors:
        process = subprocess.Popen(
            [PEERS / "python", Path(__file__).with_name("sdks.py")],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    asking, answering = process.stdin, process.stdout

    def ask(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = []
        for one in asked:
            asking.write(json.dumps(one).encode() + b"\n")
            asking.flush()
            line = answering.readline()
            assert line, said.read_text(encoding="utf-8")[-2000:]
            answers.append(json.loads(line))
        return answers

    yield ask
    asking.close()
    try:
        process.wait(10)
    finally:
        process.kill()
        answering.close()
