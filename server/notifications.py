"""Tells subscribers that a resource changed, in both eras of the protocol.

Since 2026-07-28 a client listens on `subscriptions/listen`, fed by the SDK's bus. Before that it sent
`resources/subscribe` and hears `notifications/resources/updated` on its connection; the SDK leaves that method to us.
"""

import logging
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from mcp.server import MCPServer
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from server.answers.records import task_uri
from server.context import App
from server.lowlevel import lowlevel
from server.resources import ENDPOINTS_URI, QUEUE_URI

log = logging.getLogger(__name__)

COALESCE_SECONDS = 0.25
"""Changes this close together are told of once."""
MAX_SUBSCRIPTIONS = 1_000
"""Resources one connection may subscribe to."""


class Notifier:
    """Subscriptions of this process's clients, and the loop that tells them."""

    def __init__(self, app: App) -> None:
        self.bus = InMemorySubscriptionBus()
        self._app = app
        self._subscribed: WeakKeyDictionary[Connection, set[str]] = WeakKeyDictionary()

    def attach(self, server: MCPServer) -> None:
        """Let `server` accept subscriptions of clients before 2026-07-28."""
        inner = lowlevel(server)
        inner.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        inner.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    async def run(self) -> None:
        """Tell subscribers of every change, until cancelled."""
        with self._app.changes.watch() as watch:
            while True:
                await watch.changed.wait()
                await anyio.sleep(COALESCE_SECONDS)
                changed = [task_uri(task_id) for task_id in sorted(watch.take()) if task_id]
                await self.tell([*changed, QUEUE_URI, ENDPOINTS_URI])

    async def tell(self, uris: Iterable[str]) -> None:
        """Say that these resources changed."""
        for uri in uris:
            await self.bus.publish(ResourceUpdated(uri))
            for connection, subscribed in list(self._subscribed.items()):
                if uri in subscribed:
                    await connection.notify("notifications/resources/updated", {"uri": uri})

    async def _subscribe(self, context: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        subscribed = self._subscribed.setdefault(_connection(context), set())
        if len(subscribed) >= MAX_SUBSCRIPTIONS:
            raise MCPError(INVALID_PARAMS, f"One connection can subscribe to {MAX_SUBSCRIPTIONS} resources at most.")
        subscribed.add(str(params.uri))
        return EmptyResult()

    async def _unsubscribe(
        self, context: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        self._subscribed.get(_connection(context), set()).discard(str(params.uri))
        return EmptyResult()


def _connection(context: ServerRequestContext[Any, Any]) -> Connection:
    """The client's connection, which outlives the request's session object."""
    return context.session._connection  # noqa: SLF001 - the session is made anew for each request
