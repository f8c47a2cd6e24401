"""The MCP Tasks extension (`io.modelcontextprotocol/tasks`, SEP-2663) on the durable queue.

A client that declares it gets, from tools that take their time, a handle at once instead of a result later. What the
handle stands for are tasks of the queue, so it outlives the connection, the process and the machine's power.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams

from core.cloud.task import Task, TaskStatus
from core.errors import HeablcoinError, InvalidArgument, InvalidTransition, NotFound
from core.json_types import Json
from server.answers.error_text import explain
from server.context import App
from server.extensions.deferred import Deferral, DeferredTool
from server.extensions.questions import answered, key_of
from server.extensions.shapes import IDENTIFIER, REVISIONS, Handle, TaskParams, UpdateParams, detail, seed

log = logging.getLogger(__name__)

Context = ServerRequestContext[Any, Any]

ANSWERED_BY = "mcp-client"
"""Who is named as the worker of a question that was answered through `tasks/update`."""
COMPLETE: dict[str, Any] = {"resultType": "complete"}


class TasksExtension(Extension):
    """Answers `tools/call` with handles, and the three methods that follow them up."""

    identifier = IDENTIFIER

    def __init__(self, app: App, tools: Iterable[DeferredTool]) -> None:
        self._app = app
        self._tools = {tool.name: tool for tool in tools}

    def methods(self) -> Sequence[MethodBinding]:
        return (
            MethodBinding("tasks/get", TaskParams, self._get, REVISIONS),
            MethodBinding("tasks/update", UpdateParams, self._update, REVISIONS),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, REVISIONS),
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        tool = self._tools.get(params.name)
        if tool is None:
            return await call_next(ctx)
        if not _declared(ctx):
            if tool.required:
                require_client_extension(ctx, IDENTIFIER)
            return await call_next(ctx)
        started = await tool.start(Deferral(params, ctx, lambda: call_next(ctx)))
        if not isinstance(started, Handle):
            return started
        log.debug("%s is answered with the task handle %s", params.name, started)
        return seed(started, await tool.state(started, ctx))

    async def describe(self, text: str, ctx: Context) -> dict[str, Any]:
        """What `tasks/get` says of the handle written as `text`. Raises MCPError for one that leads nowhere."""
        handle, tool = self._find(text)
        try:
            return detail(handle, await tool.state(handle, ctx))
        except HeablcoinError as error:
            raise self._failure(error, "retrieve") from None

    async def _get(self, ctx: Context, params: TaskParams) -> HandlerResult:
        _admit(ctx, params)
        return {**COMPLETE, **await self.describe(params.task_id, ctx)}

    async def _update(self, ctx: Context, params: UpdateParams) -> HandlerResult:
        _admit(ctx, params)
        handle, tool = self._find(params.task_id)
        try:
            asked = {key_of(question): question for question in await tool.questions(handle)}
            # Checked before any is written: one bad answer changes nothing. Keys that are not open are ignored, as the
            # specification asks: another client may have been faster.
            answers = [
                (asked[key], *answered(asked[key], response))
                for key, response in params.input_responses.items()
                if key in asked
            ]
            for question, accepted, value in answers:
                await self._app.store(self._answer, question, accepted, value)
        except HeablcoinError as error:
            raise self._failure(error, "update") from None
        return COMPLETE

    async def _cancel(self, ctx: Context, params: TaskParams) -> HandlerResult:
        _admit(ctx, params)
        handle, tool = self._find(params.task_id)
        try:
            await tool.cancel(handle)
        except HeablcoinError as error:
            raise self._failure(error, "cancel") from None
        return COMPLETE

    def _find(self, text: str) -> tuple[Handle, DeferredTool]:
        handle = Handle.parse(text)
        tool = None if handle is None else self._tools.get(handle.tool)
        if handle is None or tool is None:
            raise MCPError(INVALID_PARAMS, "Failed to retrieve task: Task not found")
        return handle, tool

    def _answer(self, question: Task, accepted: bool, value: Json) -> None:
        publisher = self._app.runtime.publisher
        try:
            if accepted:
                publisher.update_status(question.task_id, TaskStatus.COMPLETED, result=value, worker=ANSWERED_BY)
                return
            # As an attempt, so that the question has another key should it be asked again.
            publisher.update_status(question.task_id, TaskStatus.RUNNING, worker=ANSWERED_BY)
            publisher.update_status(question.task_id, TaskStatus.FAILED, error=str(value), worker=ANSWERED_BY)
        except InvalidTransition:
            log.debug("the question %s was answered by somebody else", question.task_id)

    def _failure(self, error: HeablcoinError, doing: str) -> MCPError:
        if isinstance(error, NotFound):
            return MCPError(INVALID_PARAMS, f"Failed to {doing} task: Task not found")
        code = INVALID_PARAMS if isinstance(error, InvalidArgument) else INTERNAL_ERROR
        return MCPError(code, f"Failed to {doing} task: {self._app.redact(explain(error, f'tasks/{doing}'))}")


def _declared(ctx: Context) -> bool:
    declared = ctx.session.client_capabilities
    return ctx.protocol_version in REVISIONS and declared is not None and IDENTIFIER in (declared.extensions or {})


def _admit(ctx: Context, params: TaskParams) -> None:
    """Refuse a client that did not declare the extension, and an HTTP request whose routing header says another task."""
    require_client_extension(ctx, IDENTIFIER)
    headers = getattr(ctx.request, "headers", None)
    if headers is not None and headers.get("mcp-name") != params.task_id:
        raise MCPError(HEADER_MISMATCH, "The Mcp-Name header and the taskId of the request differ.")
