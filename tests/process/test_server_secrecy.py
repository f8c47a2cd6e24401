"""A key given to the server is found nowhere but where keys are kept: a canary through every failure, at DEBUG."""

import json
import stat
import sys
from pathlib import Path

import pytest

from tests.process.servers import StdioServer, environment, until
from tests.support.llm_server import LlmServer, Step

CANARY = "sk-canary-5f0d9b77e1c2a4"
"""A key of the usual look."""
PLAIN_CANARY = "zx81plainwordkey0987654321"
"""A key that looks like nothing: only those who know it can mask it."""


def files_with(needle: str, folder: Path) -> set[str]:
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and needle.encode() in file.read_bytes()
    }


@pytest.mark.parametrize("key", [CANARY, PLAIN_CANARY])
@pytest.mark.parametrize("kept", ["process", "file"])
def test_a_key_is_nowhere_but_where_keys_are_kept(tmp_path: Path, llm_server: LlmServer, key: str, kept: str) -> None:
    llm_server.script("refuses", Step(status=401, message="bad key", echo_key=True))
    llm_server.script("picky", Step(status=400, message="bad request", echo_key=True))
    llm_server.script("works", Step(text="fine"))
    env = environment(tmp_path, keys=kept, log_level="DEBUG", allow_hosts="127.0.0.1", retention_days="1")
    with StdioServer(tmp_path, env=env) as server:
        for priority, name in enumerate(("refuses", "picky", "works"), 1):
            server.call(
                "add_api_endpoint",
                name=name,
                base_url=llm_server.base_url(name),
                api_key=key,
                model="m",
                priority=priority,
            )
        for endpoint in ("refuses", "picky", "works"):
            task = server.call(
                "publish_enhanced_task", name="ai_call", payload={"prompt": "x", "endpoint": endpoint}, max_retries=0
            )
            server.call("wait_for_task", task_id=task["task_id"])
            server.call("get_task_status", task_id=task["task_id"])
            server.request(
                "tools/call", {"name": "call_api", "arguments": {"prompt": "x", "endpoint": endpoint, "timeout": 5}}
            )
            waits = server.call("publish_enhanced_task", name="ai_call", payload={"prompt": "x", "endpoint": endpoint})
            server.call("get_task_status", task_id=waits["task_id"])
        for wrong in (
            {"name": key},
            {"base_url": key},
            {"api_key_env": key},
            {"model": [key]},
            {"priority": key},
            {key: 1},
        ):
            given = {"name": "w", "base_url": "https://api.example.com/v1", "model": "m", "api_key": key, **wrong}
            result = server.request("tools/call", {"name": "add_api_endpoint", "arguments": given})
            assert result["isError"], wrong
        server.call("get_api_manager_stats")
        for uri in ("endpoints://stats", "queue://stats"):
            server.request("resources/read", {"uri": uri})
        server.call("remove_api_endpoint", name="picky")
        assert any(arrival.headers.get("authorization") == f"Bearer {key}" for arrival in llm_server.arrivals())
        server.close_stdin()
        assert server.gone() == 0
        server._listener.join(5)
        said = b"".join(server.said).decode()
    assert key not in said
    found = files_with(key, tmp_path)
    if kept == "process":
        assert found == set()
    else:
        assert {Path(name).name for name in found} == {"keys.json"}
        [file] = [tmp_path / name for name in found]
        if sys.platform != "win32":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_kept_key_outlives_the_server(tmp_path: Path, llm_server: LlmServer) -> None:
    llm_server.script("a", Step(text="fine"))
    env = environment(tmp_path, keys="file", allow_hosts="127.0.0.1")
    with StdioServer(tmp_path, env=env) as server:
        server.call("add_api_endpoint", name="a", base_url=llm_server.base_url("a"), api_key=CANARY, model="m")
        server.close_stdin()
        assert server.gone() == 0
    with StdioServer(tmp_path, env=env) as server:
        assert server.call("call_api", prompt="x")["text"] == "fine"
    assert [arrival.headers["authorization"] for arrival in llm_server.arrivals()] == [f"Bearer {CANARY}"]


def test_a_twin_uses_an_endpoint_the_other_added(tmp_path: Path, llm_server: LlmServer) -> None:
    llm_server.script("a", Step(text="fine"))
    env = environment(tmp_path, keys="file", allow_hosts="127.0.0.1")
    with StdioServer(tmp_path, env=env) as first, StdioServer(tmp_path, env=env) as second:
        first.call("add_api_endpoint", name="a", base_url=llm_server.base_url("a"), api_key=CANARY, model="m")
        until(lambda: "a" in second.call("get_api_manager_stats")["endpoints"], "the twin to see the endpoint")
        assert second.call("call_api", prompt="x")["endpoint"] == "a"


def test_an_unexpected_error_is_a_number_for_the_model_and_details_without_data_in_the_log(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "def register(publisher):\n"
        "    def page(query):\n"
        "        raise RuntimeError('secret data of a caller')\n"
        "    publisher.page = page\n"
        "    publisher.register_handler('anything', print)\n",
        encoding="utf-8",
    )
    with StdioServer(tmp_path, "--handlers", str(broken)) as server:
        result = server.request("tools/call", {"name": "list_enhanced_tasks", "arguments": {}})
        assert result["isError"]
        text = result["content"][0]["text"]
        assert "secret data" not in text
        number = text.partition("(error ")[2][:8]
        [line] = [json.loads(line) for line in server.errors.splitlines() if number in line]
        assert any("broken.py" in frame for frame in line["trace"])
        assert "RuntimeError" in line["trace"][0]
        assert "secret data" not in server.errors
