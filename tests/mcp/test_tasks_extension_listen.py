"""`notifications/tasks`: a client that names its handles hears of every change of state."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.extension import NotificationBinding
from mcp.shared.exceptions import MCPError
from mcp.types import (
    NotificationParams,
    SubscriptionFilter,
    SubscriptionsListenRequest,
    SubscriptionsListenRequestParams,
)
from pydantic import ConfigDict

from server.app import build_server
from server.context import App
from server.extensions import listen
from server.notifications import Notifier
from tests.support.tasks_client import ANSWER, REVISION, Tasks, cancel, defer, eventually, get

INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
MISSING_CAPABILITY = -32021


class Heard(NotificationParams):
    model_config = ConfigDict(extra="allow")

    @property
    def body(self) -> dict[str, Any]:
        return self.model_extra or {}


class Ears(Tasks):
    """Declares the extension and keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        return (NotificationBinding(method="notifications/tasks", params_type=Heard, handler=self._hear),)

    async def _hear(self, params: Heard) -> None:
        self.heard.append(params)

    def statuses(self, task_id: str) -> list[str]:
        return [params.body["status"] for params in self.heard if params.body["taskId"] == task_id]


def listening(**wanted: Any) -> SubscriptionsListenRequest:
    notifications = SubscriptionFilter.model_validate(wanted)
    return SubscriptionsListenRequest(params=SubscriptionsListenRequestParams(notifications=notifications))


@asynccontextmanager
async def connected(app: App, *extensions: Any) -> AsyncIterator[Client]:
    server = build_server(app, Notifier(app))
    async with Client(server, mode=REVISION, extensions=list(extensions)) as client:
        yield client


@asynccontextmanager
async def stream(client: Client, **wanted: Any) -> AsyncIterator[None]:
    """A `subscriptions/listen` that is open while the block runs."""
    async with anyio.create_task_group() as group:
        group.start_soon(client.session.send_request, listening(**wanted), ANSWER)
        yield
        group.cancel_scope.cancel()


async def test_a_listener_is_told_where_a_task_stands_and_of_its_end_once(app: App) -> None:
    ears = Ears()
    task = app.runtime.publisher.publish("ask_user", {"message": "?"})
    async with connected(app, ears) as client:
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
        async with stream(client, taskIds=[handle.task_id]):
            await eventually(lambda: said(ears, handle.task_id, "working"))
            app.runtime.publisher.update_status(task.task_id, "completed", result={"x": 1})
            await eventually(lambda: said(ears, handle.task_id, "completed"))
            answer = await get(client, handle.task_id)
    statuses = ears.statuses(handle.task_id)
    assert (statuses[0], statuses[-1], statuses.count("completed")) == ("working", "completed", 1)
    told = ears.heard[-1].body
    assert told.keys() == answer.keys() - {"_meta", "resultType"}
    assert told["result"]["structuredContent"]["tasks"] == answer["result"]["structuredContent"]["tasks"]


async def said(ears: Ears, task_id: str, status: str) -> bool:
    return status in ears.statuses(task_id)


async def test_a_listener_hears_of_its_own_tasks_only(app: App) -> None:
    ears = Ears()
    publisher = app.runtime.publisher
    mine, other = publisher.publish("nobody"), publisher.publish("nobody")
    async with connected(app, ears) as client:
        handle = await defer(client, "wait_for_task", task_id=mine.task_id)
        async with stream(client, taskIds=[handle.task_id]):
            publisher.cancel_task(other.task_id)
            await cancel(client, handle.task_id)
            publisher.cancel_task(mine.task_id)
            await eventually(lambda: said(ears, handle.task_id, "cancelled"))
    assert {params.body["taskId"] for params in ears.heard} == {handle.task_id}


async def test_one_stream_carries_tasks_and_resources(app: App) -> None:
    ears = Ears()
    task = app.runtime.publisher.publish("nobody")
    uri = f"task://{task.task_id}"
    notifier = Notifier(app)
    server = build_server(app, notifier)
    async with (
        Client(server, mode=REVISION, extensions=[ears]) as client,
        client.listen(resource_subscriptions=[uri]) as resources,
        anyio.create_task_group() as group,
    ):
        group.start_soon(notifier.run)
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
        async with stream(client, taskIds=[handle.task_id], resourceSubscriptions=[uri]):
            await eventually(lambda: said(ears, handle.task_id, "working"))
            app.runtime.publisher.update_status(task.task_id, "completed", result=1)
            await eventually(lambda: said(ears, handle.task_id, "completed"))
            with anyio.fail_after(20):
                event = await anext(aiter(resources))
        group.cancel_scope.cancel()
    assert event.uri == uri


async def test_a_client_that_does_not_declare_the_extension_may_not_listen_for_tasks(app: App) -> None:
    async with connected(app) as client:
        with pytest.raises(MCPError) as caught:
            await client.session.send_request(listening(taskIds=["wait_for_task.0123456789abcdef"]), ANSWER)
    assert caught.value.error.code == MISSING_CAPABILITY
    assert "io.modelcontextprotocol/tasks" in str(caught.value.error.data)


@pytest.mark.parametrize("wanted", ["wait_for_task.x", [1], ["x"] * (listen.MOST_HANDLES + 1), {"a": 1}])
async def test_task_ids_that_are_no_short_list_of_texts_are_refused(app: App, wanted: Any) -> None:
    async with connected(app, Ears()) as client:
        with pytest.raises(MCPError) as caught:
            await client.session.send_request(listening(taskIds=wanted), ANSWER)
    assert caught.value.error.code == INVALID_PARAMS


async def test_streams_beyond_the_limit_are_refused_and_closed_ones_give_their_place_back(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "MOST_STREAMS", 1)
    ears = Ears()
    task = app.runtime.publisher.publish("nobody")
    async with connected(app, ears) as client:
        handle = await defer(client, "wait_for_task", task_id=task.task_id)
        async with stream(client, taskIds=[handle.task_id]):
            await eventually(lambda: said(ears, handle.task_id, "working"))
            with pytest.raises(MCPError) as caught:
                await client.session.send_request(listening(taskIds=[handle.task_id]), ANSWER)
            assert caught.value.error.code == INTERNAL_ERROR
        ears.heard.clear()

        async def opens() -> bool:
            try:
                with anyio.move_on_after(0.5):
                    await client.session.send_request(listening(taskIds=[handle.task_id]), ANSWER)
            except MCPError:
                return False
            return bool(ears.heard)

        await eventually(opens)
