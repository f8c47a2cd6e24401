"""Resources, and the notifications of both eras when they change."""

import json
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError

from core.runtime import Runtime
from server import notifications
from tests.mcp.conftest import Connect

as_last_year = pytest.mark.filterwarnings("ignore:resources/.*subscribe is removed")

KEY = "sk-canary-31c9f0aa77"


async def read(client: Client, uri: str) -> Any:
    [content] = (await client.read_resource(uri)).contents
    assert content.mime_type == "application/json"
    return json.loads(content.text)  # type: ignore[union-attr]


async def test_the_three_resources_are_listed(client: Client) -> None:
    listed = {resource.uri for resource in (await client.list_resources()).resources}
    templates = {template.uri_template for template in (await client.list_resource_templates()).resource_templates}
    assert listed == {"queue://stats", "endpoints://stats"}
    assert templates == {"task://{task_id}"}


async def test_a_task_is_read_whole_with_its_attempts(client: Client, call: Any) -> None:
    task = await call("publish_enhanced_task", name="echo", payload={"long": "x" * 20_000})
    await call("wait_for_task", task_id=task["task_id"])
    shown = await read(client, f"task://{task['task_id']}")
    assert shown["result"] == {"long": "x" * 20_000}
    assert [attempt["outcome"] for attempt in shown["attempt_history"]] == ["completed"]


async def test_statistics_can_be_read(client: Client, call: Any) -> None:
    await call("add_api_endpoint", name="a", base_url="https://api.example.com/v1", api_key=KEY, model="m")
    await call("publish_enhanced_task", name="nobody")
    assert (await read(client, "queue://stats"))["by_status"]["pending"] == 1
    endpoints = await read(client, "endpoints://stats")
    assert endpoints["endpoints"]["a"]["status"] == "active"
    assert KEY not in json.dumps(endpoints)


@pytest.mark.parametrize("uri", ["task://feedface00000000", "nothing://here"])
async def test_an_unknown_resource_is_refused_in_words(client: Client, uri: str) -> None:
    with pytest.raises(MCPError) as caught:
        await client.read_resource(uri)
    assert "Traceback" not in str(caught.value)


async def test_a_listener_of_this_year_is_told_of_each_change(
    connect: Connect, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "COALESCE_SECONDS", 0.01)
    task = runtime.publisher.publish("nobody")
    uris = [f"task://{task.task_id}", "queue://stats"]
    async with connect("2026-07-28") as client, client.listen(resource_subscriptions=uris) as events:
        await anyio.to_thread.run_sync(runtime.publisher.cancel_task, task.task_id)
        seen: set[str] = set()
        with anyio.fail_after(10):
            async for event in events:
                seen.add(event.uri)
                if seen == set(uris):
                    break


async def test_a_listener_is_told_when_an_endpoint_changes(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "COALESCE_SECONDS", 0.01)
    endpoint = {"name": "a", "base_url": "https://api.example.com/v1", "model": "m", "api_key": KEY}
    async with connect("2026-07-28") as client, client.listen(resource_subscriptions=["endpoints://stats"]) as events:
        await client.call_tool("add_api_endpoint", endpoint)
        with anyio.fail_after(10):
            async for event in events:
                assert event.uri == "endpoints://stats"
                break


@as_last_year
async def test_a_subscriber_of_last_year_is_told_until_it_unsubscribes(
    connect: Connect, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "COALESCE_SECONDS", 0.01)
    told: list[str] = []
    heard = anyio.Event()

    async def hear(message: Any) -> None:
        nonlocal heard
        uri = getattr(getattr(message, "params", None), "uri", None)
        if uri:
            told.append(str(uri))
            heard.set()

    task = runtime.publisher.publish("nobody")
    async with connect("legacy", message_handler=hear) as client:
        uri = f"task://{task.task_id}"
        await client.subscribe_resource(uri)
        await anyio.to_thread.run_sync(runtime.publisher.cancel_task, task.task_id)
        with anyio.fail_after(10):
            await heard.wait()
        assert set(told) == {uri}
        await client.unsubscribe_resource(uri)
        await client.subscribe_resource("queue://stats")
        told.clear()
        heard = anyio.Event()
        await anyio.to_thread.run_sync(runtime.publisher.retry_task, task.task_id)
        with anyio.fail_after(10):
            await heard.wait()
        assert set(told) == {"queue://stats"}


async def test_a_client_of_last_year_sees_that_it_can_subscribe(connect: Connect) -> None:
    async with connect("legacy") as client:
        capabilities = client.server_capabilities
        assert capabilities is not None
        assert capabilities.resources is not None
        assert capabilities.resources.subscribe is True
        assert capabilities.completions is not None


@as_last_year
async def test_one_connection_cannot_subscribe_without_end(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "MAX_SUBSCRIPTIONS", 2)
    async with connect("legacy") as client:
        await client.subscribe_resource("task://1")
        await client.subscribe_resource("task://2")
        with pytest.raises(MCPError, match="at most"):
            await client.subscribe_resource("task://3")
