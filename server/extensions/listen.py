"""`notifications/tasks` on `subscriptions/listen`: clients that name task handles are told of every change of state."""

from collections.abc import Sequence
from typing import Any, Literal

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp.server import MCPServer
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import require_client_extension
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY, ListenHandler, ServerEvent, SubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import event_matches, event_to_notification
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    Notification,
    NotificationParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from pydantic import ConfigDict

from server.context import App
from server.extensions.shapes import IDENTIFIER
from server.extensions.tasks_extension import TasksExtension
from server.lowlevel import lowlevel

Context = ServerRequestContext[Any, Any]

MOST_HANDLES = 100
"""Handles one stream may follow."""
MOST_STREAMS = 64
"""Streams that follow handles at one time in one process; each looks its handles up again and again."""
NET_SECONDS = 2.0
"""How often a stream looks by itself, should a wake-up from another process have been lost."""
COALESCE_SECONDS = 0.1
"""Changes this close together are told of once."""


class TaskChangedParams(NotificationParams):
    """A whole DetailedTask, as `tasks/get` would answer."""

    model_config = ConfigDict(extra="allow")


class TaskChanged(Notification[TaskChangedParams, Literal["notifications/tasks"]]):
    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: TaskChangedParams


class TaskListenHandler(ListenHandler):
    """The SDK's listen handler, which also follows task handles (`taskIds` in the filter)."""

    def __init__(self, app: App, extension: TasksExtension, bus: SubscriptionBus) -> None:
        super().__init__(bus)
        self._app = app
        self._extension = extension
        self._events = bus
        self._following = 0

    def attach(self, server: MCPServer[Any]) -> None:
        """Answer `subscriptions/listen` of `server`."""
        lowlevel(server).add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self)

    async def __call__(self, ctx: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        wanted = (params.notifications.model_extra or {}).get("taskIds")
        if not wanted:
            return await super().__call__(ctx, params)
        require_client_extension(ctx, IDENTIFIER)
        if (
            not isinstance(wanted, list)
            or len(wanted) > MOST_HANDLES
            or not all(isinstance(each, str) for each in wanted)
        ):
            raise MCPError(INVALID_PARAMS, f"taskIds is not a list of at most {MOST_HANDLES} task ids.")
        if self._following >= MOST_STREAMS:
            raise MCPError(INTERNAL_ERROR, "Subscription limit reached")
        if ctx.request_id is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen requires a request id")
        self._following += 1
        try:
            return await self._follow(ctx, params.notifications, list(dict.fromkeys(wanted)))
        finally:
            self._following -= 1

    async def _follow(
        self, ctx: Context, asked: SubscriptionFilter, wanted: Sequence[str]
    ) -> SubscriptionsListenResult:
        meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        known = [handle for handle in wanted if await self._known(handle, ctx)]
        honored = _honored(asked, known)
        uris = frozenset(honored.resource_subscriptions or ())
        send, receive = anyio.create_memory_object_stream[ServerEvent](1024)

        def deliver(event: ServerEvent) -> None:
            if event_matches(honored, uris, event):
                try:
                    send.send_nowait(event)
                except (anyio.ClosedResourceError, anyio.WouldBlock):
                    # A client that stopped reading: end its stream; it listens anew and reads what it missed.
                    send.close()

        unsubscribe = self._events.subscribe(deliver)
        # The parent's close() ends every stream in this set, at shutdown.
        self._streams.add(send)
        try:
            acknowledged = SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
            await ctx.session.send_notification(
                SubscriptionsAcknowledgedNotification(params=acknowledged), related_request_id=ctx.request_id
            )
            async with anyio.create_task_group() as group:
                group.start_soon(self._tell, ctx, known, meta)
                await _forward(ctx, receive, meta)
                group.cancel_scope.cancel()
        finally:
            unsubscribe()
            self._streams.discard(send)
            send.close()
            receive.close()
        return SubscriptionsListenResult(_meta=meta)

    async def _known(self, handle: str, ctx: Context) -> bool:
        try:
            await self._extension.describe(handle, ctx)
        except MCPError:
            return False
        return True

    async def _tell(self, ctx: Context, handles: Sequence[str], meta: dict[str, Any]) -> None:
        """Send the state of each handle now and whenever it changed, until it is final."""
        said: dict[str, dict[str, Any]] = {}
        following = list(handles)
        with self._app.changes.watch() as watch:
            while following:
                watch.take()
                for handle in list(following):
                    try:
                        state = await self._extension.describe(handle, ctx)
                    except MCPError:
                        following.remove(handle)
                        continue
                    if said.get(handle) != state:
                        said[handle] = state
                        params = TaskChangedParams.model_validate({**state, "_meta": meta})
                        await ctx.session.send_notification(
                            TaskChanged(params=params),  # type: ignore[arg-type]  # the SDK lists only core notifications
                            related_request_id=ctx.request_id,
                        )
                    if state["status"] in ("completed", "failed", "cancelled"):
                        following.remove(handle)
                with anyio.move_on_after(NET_SECONDS):
                    await watch.changed.wait()
                    await anyio.sleep(COALESCE_SECONDS)


async def _forward(ctx: Context, receive: MemoryObjectReceiveStream[ServerEvent], meta: dict[str, Any]) -> None:
    """Pass the ordinary events on until the stream is closed."""
    async for event in receive:
        await ctx.session.send_notification(event_to_notification(event, meta), related_request_id=ctx.request_id)


def _honored(asked: SubscriptionFilter, handles: Sequence[str]) -> SubscriptionFilter:
    """What of `asked` will be delivered: everything but unknown task ids."""
    return SubscriptionFilter.model_validate(
        {
            "tools_list_changed": asked.tools_list_changed or None,
            "prompts_list_changed": asked.prompts_list_changed or None,
            "resources_list_changed": asked.resources_list_changed or None,
            "resource_subscriptions": asked.resource_subscriptions or None,
            "taskIds": list(handles),
        }
    )
