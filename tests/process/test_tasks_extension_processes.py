"""Task handles over real processes: they outlive kill -9, and any process on the same database answers for them."""

import json
import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.process.servers import HttpServer, StdioServer, environment, until
from tests.support.llm_server import LlmServer, Step

REVISION = "2026-07-28"
TOKEN = "test-token-0123456789abcdef"
META = {
    "io.modelcontextprotocol/protocolVersion": REVISION,
    "io.modelcontextprotocol/clientCapabilities": {
        "elicitation": {},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    },
}
HEADER_MISMATCH = -32020
INVALID_PARAMS = -32602


class Host(StdioServer):
    """A server on stdio whose host speaks the revision without a handshake and declares the extension."""

    def __enter__(self) -> Self:
        return self

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> "queue.Queue[dict[str, Any]]":
        return super().ask(method, {**(params or {}), "_meta": META})

    def defer(self, tool: str, **arguments: Any) -> str:
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        assert result["resultType"] == "task", result
        return str(result["taskId"])

    def get(self, handle: str) -> dict[str, Any]:
        return dict(self.request("tasks/get", {"taskId": handle}))

    def final(self, handle: str) -> dict[str, Any]:
        def state() -> dict[str, Any] | None:
            state = self.get(handle)
            return state if state["status"] in ("completed", "failed", "cancelled") else None

        return dict(until(state, f"the end of {handle}; log:\n{self.errors}"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def host(folder: Path, **settings: str) -> Host:
    env = environment(folder, lease="2", allow_hosts="127.0.0.1", **settings)
    return Host(folder, env={**env, "ALPHA_API_KEY": "sk-test-alpha-key"})


def add_endpoint(server: Host, llm: LlmServer) -> None:
    arguments = {"name": "alpha", "base_url": llm.base_url("alpha"), "model": "m", "api_key_env": "ALPHA_API_KEY"}
    added = server.request("tools/call", {"name": "add_api_endpoint", "arguments": arguments})
    assert not added.get("isError"), added


GRAPH = [
    {"key": "slow", "name": "sleep", "payload": {"seconds": 1}},
    {"key": "ask", "name": "ask_user", "payload": {"message": "Go on?"}},
    {"key": "end", "name": "echo", "payload": {"said": "${ask.answer}"}, "depends_on": "slow,ask"},
]


def test_a_graphs_handle_survives_kill_9_with_its_questions_open(tmp_path: Path) -> None:
    with host(tmp_path) as first:
        handle = first.defer("publish_task_graph", tasks=GRAPH)
        until(lambda: first.get(handle)["status"] == "input_required", "the question")
        first.kill()
    with host(tmp_path) as second:
        state = second.get(handle)
        assert state["status"] == "input_required"
        (key,) = state["inputRequests"]
        second.request(
            "tasks/update",
            {"taskId": handle, "inputResponses": {key: {"action": "accept", "content": {"answer": "yes"}}}},
        )
        state = second.final(handle)
    rows = state["result"]["structuredContent"]["tasks"]
    assert [(row["key"], row["status"]) for row in rows] == [
        ("slow", "completed"),
        ("ask", "completed"),
        ("end", "completed"),
    ]
    assert rows[2]["result"] == {"said": "yes"}


def test_a_call_in_flight_survives_kill_9_and_its_handle_gives_the_answer(
    tmp_path: Path, llm_server: LlmServer
) -> None:
    gate = llm_server.gate()
    llm_server.script("alpha", Step(gate=gate, text="never sent"), Step(text="after the crash"))
    with host(tmp_path) as first:
        add_endpoint(first, llm_server)
        handle = first.defer("call_api", prompt="hi")
        llm_server.wait_for_arrivals(1, "alpha")
        first.kill()
    gate.open()
    with host(tmp_path) as second:
        state = second.final(handle)
    assert state["status"] == "completed"
    assert state["result"]["structuredContent"]["text"] == "after the crash"


def test_a_call_is_cancelled_through_another_process_than_the_one_that_runs_it(
    tmp_path: Path, llm_server: LlmServer
) -> None:
    gate = llm_server.gate()
    llm_server.script("alpha", Step(gate=gate))
    with host(tmp_path) as first, host(tmp_path) as second:
        add_endpoint(first, llm_server)
        handle = first.defer("call_api", prompt="hi")
        until(lambda: first.get(handle).get("statusMessage", "").startswith("ai_call is running"), "the call to run")
        assert second.get(handle)["status"] == "working"
        second.request("tasks/cancel", {"taskId": handle})
        assert first.final(handle)["status"] == "cancelled"
        gate.open()


def test_a_listener_hears_of_a_task_that_another_process_finished(tmp_path: Path) -> None:
    with host(tmp_path, concurrency="0") as listener, host(tmp_path) as worker:
        handle = listener.defer(
            "wait_for_task",
            task_id=worker.call("publish_enhanced_task", name="sleep", payload='{"seconds": 1}')["task_id"],
        )
        listener.ask("subscriptions/listen", {"notifications": {"taskIds": [handle, "wait_for_task.0123456789abcdef"]}})

        def heard(method: str) -> list[dict[str, Any]]:
            said = [json.loads(line) for line in list(listener.said)]
            return [message["params"] for message in said if message.get("method") == method]

        def finished() -> dict[str, Any] | None:
            return next((said for said in heard("notifications/tasks") if said["status"] == "completed"), None)

        told = until(finished, f"the notification; log:\n{listener.errors}")
        (acknowledged,) = heard("notifications/subscriptions/acknowledged")
        assert acknowledged["notifications"] == {"taskIds": [handle]}, "of the unknown handle nothing is promised"
        answer = listener.get(handle)
    assert told["taskId"] == handle
    assert told["result"]["structuredContent"]["tasks"] == answer["result"]["structuredContent"]["tasks"]
    assert "io.modelcontextprotocol/subscriptionId" in told["_meta"]


def test_over_http_the_routing_header_must_name_the_task(tmp_path: Path) -> None:
    with HttpServer(tmp_path, env=environment(tmp_path, token=TOKEN)) as server:

        def post(method: str, params: dict[str, Any], name: str | None) -> tuple[int, dict[str, Any]]:
            headers = {
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": REVISION,
                "Mcp-Method": method,
            }
            if name is not None:
                headers["Mcp-Name"] = name
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
            status, body = server.ask("/mcp", body=json.dumps(request).encode(), headers=headers)
            return status, json.loads(body)

        def call(tool: str, **arguments: Any) -> dict[str, Any]:
            status, body = post("tools/call", {"name": tool, "arguments": arguments}, tool)
            assert status == 200, body
            return dict(body["result"])

        task_id = call("publish_enhanced_task", name="sleep", payload='{"seconds": 60}')["structuredContent"]["task_id"]
        handle = call("wait_for_task", task_id=task_id)["taskId"]
        for method, more in (("tasks/get", {}), ("tasks/update", {"inputResponses": {}}), ("tasks/cancel", {})):
            params = {"taskId": handle, **more}
            for name in (None, "", task_id, handle + "x"):
                status, body = post(method, params, name)
                assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH), (method, name)
        status, body = post("tasks/get", {"taskId": handle}, handle)
        assert (status, body["result"]["status"]) == (200, "working")
        status, body = post("tasks/get", {"taskId": "nothing"}, "nothing")
        assert body["error"]["code"] == INVALID_PARAMS
