"""The Tasks extension in one process: handles over the queue, for clients that declare it and for those that do not."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ElicitResult, TextContent

from core.cloud.endpoint import ApiEndpoint
from core.cloud.task import Task, TaskStatus
from core.errors import Permanent
from core.json_types import Json
from core.runtime import Runtime, RuntimeOptions
from server.app import build_server
from server.changes import ChangeFeed
from server.context import App
from server.settings import Settings
from tests.support.llm_server import LlmServer, Step
from tests.support.tasks_client import (
    IDENTIFIER,
    REVISION,
    CreateTask,
    Tasks,
    cancel,
    defer,
    eventually,
    get,
    until,
    update,
)

INVALID_PARAMS = -32602
METHOD_NOT_FOUND = -32601
MISSING_CAPABILITY = -32021


class Bench:
    """A server over its own database, and clients to it."""

    def __init__(self, app: App, server: MCPServer[Any]) -> None:
        self.app = app
        self.server = server
        self.publisher = app.runtime.publisher

    def client(self, *, asks: bool = True) -> Client:
        """One that declares the extension, and (`asks`) that it can put questions to its user."""

        async def answer(context: Any, params: Any) -> ElicitResult:
            raise AssertionError("questions of a task come through tasks/get")

        return Client(self.server, mode=REVISION, extensions=[Tasks()], elicitation_callback=answer if asks else None)

    def plain_client(self, mode: str = REVISION) -> Client:
        return Client(self.server, mode=mode)

    async def has_ended(self, task_id: str) -> bool:
        return self.publisher.get_task(task_id).done

    async def something_runs(self) -> bool:
        return bool(self.publisher.list_tasks(status="running"))

    def count(self) -> int:
        return int(self.publisher.get_stats()["total"])

    def only(self, name: str) -> Task:
        (task,) = self.publisher.list_tasks(name=name)
        return task


@asynccontextmanager
async def bench_on(database: Path, *, concurrency: int = 10, **settings: Any) -> AsyncIterator[Bench]:
    said = Settings(database=str(database), keys="process", allow_hosts=("127.0.0.1",), **settings)
    runtime = Runtime.open(
        RuntimeOptions(database=said.database, keys=said.keys, allow_hosts=said.allow_hosts, concurrency=concurrency)
    )
    runtime.start()
    try:
        app = App(runtime, said, ChangeFeed(runtime.publisher))
        yield Bench(app, build_server(app))
    finally:
        await anyio.to_thread.run_sync(runtime.stop, 1.0)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(tmp_path / "cloud.db") as bench:
        yield bench


def text_of(result: dict[str, Any] | CallToolResult) -> str:
    """The text of a tool's answer, with the names of its fences made equal."""
    if isinstance(result, CallToolResult):
        assert isinstance(result.content[0], TextContent)
        text = result.content[0].text
    else:
        text = result["content"][0]["text"]
    return re.sub(r"untrusted-[0-9a-f]{8}", "untrusted-X", text)


def structured(result: dict[str, Any] | CallToolResult) -> Any:
    body = result.structured_content if isinstance(result, CallToolResult) else result["structuredContent"]
    assert body is not None
    return {name: value for name, value in body.items() if name not in ("notice", "waited_seconds")}


async def refused(client: Client, code: int, *task_ids: str) -> None:
    for task_id in task_ids:
        for ask in (get, partial(update, responses={}), cancel):
            with pytest.raises(MCPError) as caught:
                await ask(client, task_id)
            assert caught.value.error.code == code, task_id


# Who gets a handle


async def test_a_client_that_does_not_declare_the_extension_gets_plain_answers(bench: Bench) -> None:
    task = bench.publisher.publish("echo", {"x": 1})
    async with bench.plain_client() as client:
        waited = await client.call_tool("wait_for_task", {"task_id": task.task_id})
        graph = await client.call_tool("publish_task_graph", {"tasks": [{"key": "a", "name": "echo"}]})
    assert waited.structured_content is not None
    assert waited.structured_content["done"] is True
    assert graph.structured_content is not None
    assert [row["key"] for row in graph.structured_content["tasks"]] == ["a"]
    assert bench.count() == 2, "no task was added for a handle"


async def test_the_methods_are_refused_to_a_client_that_does_not_declare_the_extension(bench: Bench) -> None:
    async with bench.plain_client() as client:
        await refused(client, MISSING_CAPABILITY, "wait_for_task.0123456789abcdef")


async def test_the_methods_do_not_exist_in_revisions_that_had_tasks_of_another_kind(bench: Bench) -> None:
    async with Client(bench.server, mode="legacy", extensions=[advertise(IDENTIFIER)]) as client:
        with pytest.raises(MCPError) as caught:
            await get(client, "wait_for_task.0123456789abcdef")
        assert caught.value.error.code == METHOD_NOT_FOUND
        task = bench.publisher.publish("echo", {})
        waited = await client.call_tool("wait_for_task", {"task_id": task.task_id})
    assert waited.structured_content is not None
    assert waited.structured_content["done"] is True


async def test_the_extension_is_advertised_in_the_modern_era_only(bench: Bench) -> None:
    async with bench.plain_client("auto") as modern, bench.plain_client("legacy") as legacy:
        assert IDENTIFIER in (modern.server_capabilities.extensions or {})
        assert not legacy.server_capabilities.extensions


async def test_tools_that_answer_at_once_answer_at_once(bench: Bench) -> None:
    async with bench.client() as client:
        result = await client.session.call_tool("get_enhanced_task_stats", {}, allow_claimed=True)
    assert isinstance(result, CallToolResult)


# Unknown handles


async def test_an_id_that_leads_to_no_task_is_an_invalid_parameter(bench: Bench) -> None:
    task = bench.publisher.publish("sleep", {"seconds": 60})
    async with bench.client() as client:
        await refused(
            client,
            INVALID_PARAMS,
            "x",
            ".",
            "wait_for_task.",
            "wait_for_task.0123456789abcdef",
            f"list_enhanced_tasks.{task.task_id}",
            f"wait_for_task.{task.task_id[:8]}",
            f"wait_for_task.{task.task_id}+",
            f"publish_task_graph.{task.task_id}",
            task.task_id,
            "wait_for_task.\N{SNOWMAN}",
        )
    assert not bench.publisher.get_task(task.task_id).done


async def test_a_handle_of_a_task_that_was_purged_leads_to_no_task(bench: Bench) -> None:
    task = bench.publisher.publish("sleep", {"seconds": 60})
    async with bench.client() as client:
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
        bench.publisher.cancel_task(task.task_id)
        bench.publisher.purge()
        await refused(client, INVALID_PARAMS, handle.task_id)


# wait_for_task


async def test_a_wait_ends_with_what_the_plain_tool_answers(bench: Bench) -> None:
    tasks = [bench.publisher.publish("sleep", {"seconds": 0.3}), bench.publisher.publish("echo", {"x": [1]})]
    ids = ",".join(task.task_id for task in tasks)
    async with bench.client() as client, bench.plain_client() as plain:
        handle = await defer(client, "wait_for_task", task_id=ids)
        assert handle.body["status"] == "working"
        state = await until(client, handle.task_id)
        answered = await plain.call_tool("wait_for_task", {"task_id": ids})
    assert state["status"] == "completed"
    assert structured(state["result"]) == structured(answered)
    seconds = re.compile(r"waited_seconds: \S+")
    assert seconds.sub("", text_of(state["result"])) == seconds.sub("", text_of(answered))


async def test_a_wait_for_tasks_that_have_ended_is_answered_at_once(bench: Bench) -> None:
    task = bench.publisher.publish("echo", {})
    await anyio.to_thread.run_sync(bench.publisher.wait, task.task_id)
    async with bench.client() as client:
        result = await client.session.call_tool("wait_for_task", {"task_id": task.task_id}, allow_claimed=True)
    assert isinstance(result, CallToolResult)
    assert structured(result)["done"] is True


async def test_a_wait_of_no_seconds_is_a_look_and_answered_at_once(bench: Bench) -> None:
    task = bench.publisher.publish("sleep", {"seconds": 60})
    async with bench.client() as client:
        arguments = {"task_id": task.task_id, "timeout": 0}
        result = await client.session.call_tool("wait_for_task", arguments, allow_claimed=True)
    assert isinstance(result, CallToolResult)
    assert structured(result)["done"] is False


async def test_a_wait_writes_nothing(bench: Bench) -> None:
    task = bench.publisher.publish("sleep", {"seconds": 60})
    async with bench.client() as client:
        await defer(client, "wait_for_task", task_id=task.task_id)
    assert bench.count() == 1


async def test_a_wait_tells_why_nothing_happens(bench: Bench) -> None:
    task = bench.publisher.publish("nobody_can_do_this", {})
    async with bench.client() as client:
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
        state = await get(client, handle.task_id)
    assert state["status"] == "working"
    assert "nobody_can_do_this" in state["statusMessage"]


async def test_cancelling_a_wait_ends_the_wait_and_not_the_task(bench: Bench) -> None:
    task = bench.publisher.publish("sleep", {"seconds": 60})
    async with bench.client() as client:
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
        assert (await cancel(client, handle.task_id))["resultType"] == "complete"
        assert (await get(client, handle.task_id))["status"] == "cancelled"
        assert not bench.publisher.get_task(task.task_id).done
        again = await defer(client, "wait_for_task", task_id=task.task_id)
        assert (await get(client, again.task_id))["status"] == "working"


async def test_a_wait_for_a_task_that_is_cancelled_completes_and_says_so(bench: Bench) -> None:
    task = bench.publisher.publish("sleep", {"seconds": 60})
    async with bench.client() as client:
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
        bench.publisher.cancel_task(task.task_id)
        state = await until(client, handle.task_id)
    assert state["status"] == "completed"
    assert structured(state["result"])["tasks"][0]["status"] == "cancelled"


@pytest.mark.parametrize("arguments", [{"task_id": "0123456789abcdef"}, {"task": "x"}, {}])
async def test_bad_arguments_are_answered_as_ever(bench: Bench, arguments: dict[str, str]) -> None:
    async with bench.client() as client, bench.plain_client() as plain:
        result = await client.session.call_tool("wait_for_task", arguments, allow_claimed=True)
        answered = await plain.call_tool("wait_for_task", arguments)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert text_of(result) == text_of(answered)


# call_api


def add_endpoint(bench: Bench, llm: LlmServer, name: str = "alpha") -> None:
    bench.app.runtime.manager.add_endpoint(ApiEndpoint(name, llm.base_url(name), api_key="sk-secret-1234", model="m"))


async def test_a_call_ends_with_what_the_plain_tool_answers(bench: Bench, llm_server: LlmServer) -> None:
    add_endpoint(bench, llm_server)
    llm_server.script("alpha", Step(text="forty-two"))
    async with bench.client() as client, bench.plain_client() as plain:
        asked = {"prompt": "what?", "system": "be brief", "temperature": 0.5, "when_limited": "wait"}
        handle = await defer(client, "call_api", **asked)
        state = await until(client, handle.task_id)
        answered = await plain.call_tool("call_api", asked)
    deferred, direct = structured(state["result"]), structured(answered)
    assert deferred.pop("latency") >= 0
    assert direct.pop("latency") >= 0
    assert deferred == direct
    first, second = llm_server.arrivals("alpha")
    assert first.body == second.body


async def test_a_call_passes_its_prompt_on_to_the_letter(bench: Bench, llm_server: LlmServer) -> None:
    add_endpoint(bench, llm_server)
    task = bench.publisher.publish("echo", "secret result")
    prompt = f"${{HOME}} $${{x}} ${{{task.task_id}}} ${{{task.task_id}.a}} $$ {{}}"
    async with bench.client() as client:
        handle = await defer(client, "call_api", prompt=prompt)
        await until(client, handle.task_id)
    (arrival,) = llm_server.arrivals("alpha")
    assert arrival.body["messages"] == [{"role": "user", "content": prompt}]


async def test_a_call_that_fails_completes_with_an_error_for_the_model(bench: Bench, llm_server: LlmServer) -> None:
    add_endpoint(bench, llm_server)
    llm_server.script("alpha", Step(status=400, message="bad request sk-secret-1234"))
    async with bench.client() as client:
        handle = await defer(client, "call_api", prompt="hi")
        state = await until(client, handle.task_id)
    assert state["status"] == "completed", "failed is for errors of the protocol"
    assert state["result"]["isError"] is True
    assert "Fix:" in text_of(state["result"])
    assert "sk-secret" not in str(state)


async def test_a_call_that_nobody_could_answer_fails_at_once_and_queues_nothing(bench: Bench) -> None:
    async with bench.client() as client, bench.plain_client() as plain:
        result = await client.session.call_tool("call_api", {"prompt": "hi"}, allow_claimed=True)
        answered = await plain.call_tool("call_api", {"prompt": "hi"})
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert text_of(result) == text_of(answered)
    assert bench.count() == 0


async def test_a_call_of_an_unknown_endpoint_fails_at_once(bench: Bench, llm_server: LlmServer) -> None:
    add_endpoint(bench, llm_server)
    async with bench.client() as client:
        arguments = {"prompt": "hi", "endpoint": "beta"}
        result = await client.session.call_tool("call_api", arguments, allow_claimed=True)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert bench.count() == 0


async def test_cancelling_a_call_cancels_its_task_for_good(bench: Bench, llm_server: LlmServer) -> None:
    add_endpoint(bench, llm_server)
    gate = llm_server.gate()
    llm_server.script("alpha", Step(gate=gate))
    async with bench.client() as client:
        handle = await defer(client, "call_api", prompt="hi")
        assert (await cancel(client, handle.task_id))["resultType"] == "complete"
        assert (await get(client, handle.task_id))["status"] == "cancelled"
        assert (await cancel(client, handle.task_id))["resultType"] == "complete", "cancelling twice is no error"
    gate.open()
    assert bench.only("ai_call").status is TaskStatus.CANCELLED


async def test_a_read_only_server_defers_no_call(tmp_path: Path, llm_server: LlmServer) -> None:
    async with bench_on(tmp_path / "cloud.db", read_only=True) as bench, bench.client() as client:
        add_endpoint(bench, llm_server)
        result = await client.session.call_tool("call_api", {"prompt": "hi"}, allow_claimed=True)
        assert isinstance(result, CallToolResult)
        assert result.is_error
        assert bench.count() == 0


# publish_task_graph

CHAIN = [
    {"key": "a", "name": "echo", "payload": {"x": 1}},
    {"key": "b", "name": "echo", "payload": {"y": "${a.x}"}, "depends_on": "a"},
    {"key": "c", "name": "echo", "payload": {"z": "${a.x}"}, "depends_on": ["a"]},
]


async def test_a_graph_ends_with_its_ids_and_the_results_nothing_else_waited_for(bench: Bench) -> None:
    async with bench.client() as client:
        handle = await defer(client, "publish_task_graph", tasks=CHAIN)
        state = await until(client, handle.task_id)
    rows = structured(state["result"])["tasks"]
    assert [(row["key"], row["status"], row.get("result")) for row in rows] == [
        ("a", "completed", None),
        ("b", "completed", {"y": 1}),
        ("c", "completed", {"z": 1}),
    ]
    assert all(bench.publisher.get_task(row["task_id"]).done for row in rows)
    assert state["result"]["isError"] is False
    for part in ('{"y":1}', '{"z":1}', rows[0]["task_id"]):
        assert part in text_of(state["result"]), "text and structured content say the same"


async def test_a_graph_that_is_refused_is_refused_as_ever_and_leaves_no_handle(bench: Bench) -> None:
    cycle = [{"key": "a", "name": "echo", "depends_on": "b"}, {"key": "b", "name": "echo", "depends_on": "a"}]
    async with bench.client() as client:
        result = await client.session.call_tool("publish_task_graph", {"tasks": cycle}, allow_claimed=True)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    assert bench.count() == 0


async def test_a_graph_in_which_a_task_fails_completes_and_names_what_to_retry(bench: Bench) -> None:
    broken = True

    def fragile(payload: Json) -> Json:
        if broken:
            raise Permanent("the disk is on fire")
        return {"x": 7}

    bench.app.runtime.handlers.register("fragile", fragile)
    graph = [{**CHAIN[0], "name": "fragile"}, CHAIN[1]]
    async with bench.client() as client:
        handle = await defer(client, "publish_task_graph", tasks=graph)
        state = await until(client, handle.task_id)
        assert state["status"] == "completed"
        body = structured(state["result"])
        failed, waiting = body["tasks"]
        assert (failed["status"], waiting["status"]) == ("failed", "pending")
        assert "the disk is on fire" in failed["error"]
        assert waiting["blocked_by"] == [failed["task_id"]]
        assert failed["task_id"] in body["next"]
        broken = False
        bench.publisher.retry_task(failed["task_id"])
        await eventually(lambda: bench.has_ended(waiting["task_id"]))
        state = await until(client, handle.task_id)
    assert [row["status"] for row in structured(state["result"])["tasks"]] == ["completed", "completed"]


async def test_cancelling_a_graph_cancels_all_of_it_that_has_not_ended(bench: Bench) -> None:
    graph = [
        {"key": "done", "name": "echo"},
        {"key": "runs", "name": "sleep", "payload": {"seconds": 60}, "depends_on": "done"},
        {"key": "waits", "name": "echo", "depends_on": "runs"},
    ]
    async with bench.client() as client:
        handle = await defer(client, "publish_task_graph", tasks=graph)
        await eventually(bench.something_runs)
        await cancel(client, handle.task_id)
        assert (await get(client, handle.task_id))["status"] == "cancelled"
    assert bench.only("sleep").status is TaskStatus.CANCELLED
    assert not bench.publisher.list_tasks(status="pending")


# Questions in the middle of a task

ASKING = [
    {"key": "who", "name": "ask_user", "payload": {"message": "Who?"}},
    {
        "key": "sure",
        "name": "ask_user",
        "payload": {
            "message": "Sure?",
            "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
        },
    },
    {"key": "said", "name": "echo", "payload": {"who": "${who.answer}", "ok": "${sure.ok}"}, "depends_on": "who,sure"},
]


async def test_questions_are_put_to_the_user_and_their_answers_go_on_into_the_graph(bench: Bench) -> None:
    async with bench.client() as client:
        handle = await defer(client, "publish_task_graph", tasks=ASKING)
        state = await until(client, handle.task_id, "input_required")
        by_message = {request["params"]["message"]: key for key, request in state["inputRequests"].items()}
        assert by_message.keys() == {"Who?", "Sure?"}
        answers = {by_message["Who?"]: {"action": "accept", "content": {"answer": "Ada"}}, "never asked": {}}
        assert (await update(client, handle.task_id, answers))["resultType"] == "complete"
        state = await get(client, handle.task_id)
        assert list(state["inputRequests"]) == [by_message["Sure?"]]
        await update(client, handle.task_id, {by_message["Sure?"]: {"action": "accept", "content": {"ok": True}}})
        state = await until(client, handle.task_id)
    assert structured(state["result"])["tasks"][2]["result"] == {"who": "Ada", "ok": True}


async def test_an_answer_that_does_not_fit_the_question_changes_nothing(bench: Bench) -> None:
    async with bench.client() as client:
        handle = await defer(client, "publish_task_graph", tasks=ASKING)
        state = await until(client, handle.task_id, "input_required")
        who, sure = state["inputRequests"]
        fitting = {"action": "accept", "content": {"answer": "Ada"}}
        for bad in ({"action": "accept", "content": {"ok": "yes"}}, {"action": "perhaps"}, "yes", None):
            with pytest.raises(MCPError) as caught:
                await update(client, handle.task_id, {who: fitting, sure: bad})
            assert caught.value.error.code == INVALID_PARAMS
        assert list((await get(client, handle.task_id))["inputRequests"]) == [who, sure]


async def test_a_declined_question_fails_and_is_asked_under_another_key_when_retried(bench: Bench) -> None:
    graph = [ASKING[0], {"key": "said", "name": "echo", "payload": {"who": "${who.answer}"}, "depends_on": "who"}]
    async with bench.client() as client:
        handle = await defer(client, "publish_task_graph", tasks=graph)
        state = await until(client, handle.task_id, "input_required")
        (key,) = state["inputRequests"]
        await update(client, handle.task_id, {key: {"action": "decline"}})
        state = await until(client, handle.task_id)
        assert "declined" in structured(state["result"])["tasks"][0]["error"]
        bench.publisher.retry_task(bench.only("ask_user").task_id)
        state = await until(client, handle.task_id, "input_required")
        (again,) = state["inputRequests"]
        assert again != key
        await update(client, handle.task_id, {key: {"action": "accept", "content": {"answer": "late"}}})
        assert (await get(client, handle.task_id))["status"] == "input_required", "an old key answers nothing"


async def test_a_client_that_cannot_ask_is_told_what_the_task_waits_for(bench: Bench) -> None:
    async with bench.client(asks=False) as client:
        handle = await defer(client, "publish_task_graph", tasks=ASKING)
        state = await get(client, handle.task_id)
        assert state["status"] == "working"
        assert "inputRequests" not in state
        assert "It waits for" in state["statusMessage"]
        for task in bench.publisher.list_tasks(name="ask_user"):
            bench.publisher.update_status(task.task_id, "completed", result={"answer": "Ada", "ok": False})
        state = await until(client, handle.task_id)
    assert structured(state["result"])["tasks"][2]["result"] == {"who": "Ada", "ok": False}


# Shape


async def test_a_handle_says_how_long_it_is_kept_and_when_to_look_again(tmp_path: Path) -> None:
    async with bench_on(tmp_path / "cloud.db", retention_days=2.0) as bench, bench.client() as client:
        task = bench.publisher.publish("sleep", {"seconds": 60})
        handle: CreateTask = await defer(client, "wait_for_task", task_id=task.task_id)
    assert handle.body["ttlMs"] == 2 * 86_400_000
    assert handle.body["pollIntervalMs"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", handle.body["createdAt"])
    assert {"result", "error", "inputRequests", "requestState"}.isdisjoint(handle.body)


async def test_a_handle_that_is_kept_for_ever_says_so(tmp_path: Path) -> None:
    async with bench_on(tmp_path / "cloud.db", retention_days=0.0) as bench, bench.client() as client:
        task = bench.publisher.publish("sleep", {"seconds": 60})
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
    assert handle.body["ttlMs"] is None


async def test_a_handle_is_good_in_another_server_on_the_same_database(tmp_path: Path) -> None:
    database = tmp_path / "cloud.db"
    async with bench_on(database, concurrency=0) as first, first.client() as client:
        handle = await defer(client, "publish_task_graph", tasks=CHAIN)
    async with bench_on(database) as second, second.client() as client:
        state = await until(client, handle.task_id)
    assert state["status"] == "completed"
    assert len(structured(state["result"])["tasks"]) == 3
