"""A client of the Tasks extension, as far as tests need one."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import anyio
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, TypeAdapter

IDENTIFIER = "io.modelcontextprotocol/tasks"
REVISION = "2026-07-28"
ANSWER = TypeAdapter(dict[str, Any])
FINAL = ("completed", "failed", "cancelled")


class CreateTask(Result):
    """The handle a tool call was answered with; its other fields are extras."""

    model_config = ConfigDict(extra="allow")

    result_type: Literal["task"] = "task"

    @property
    def body(self) -> dict[str, Any]:
        return self.model_extra or {}

    @property
    def task_id(self) -> str:
        return str(self.body["taskId"])


class TaskParams(RequestParams):
    model_config = ConfigDict(extra="allow")

    task_id: str


class GetTask(Request[TaskParams, Literal["tasks/get"]]):
    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams


class UpdateTask(Request[TaskParams, Literal["tasks/update"]]):
    name_param = "taskId"
    method: Literal["tasks/update"] = "tasks/update"
    params: TaskParams


class CancelTask(Request[TaskParams, Literal["tasks/cancel"]]):
    name_param = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams


class Tasks(ClientExtension):
    """Declares the extension and leaves the handles to the test."""

    identifier = IDENTIFIER

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=CreateTask, resolve=_unexpected),)


async def _unexpected(created: CreateTask, context: ClaimContext) -> CallToolResult:
    raise AssertionError("tests follow handles themselves")


async def defer(client: Client, tool: str, **arguments: Any) -> CreateTask:
    """Call a tool that must answer with a handle."""
    result = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(result, CreateTask), result
    return result


async def get(client: Client, task_id: str) -> dict[str, Any]:
    return await client.session.send_request(GetTask(params=TaskParams(task_id=task_id)), ANSWER)


async def update(client: Client, task_id: str, responses: dict[str, Any]) -> dict[str, Any]:
    params = TaskParams.model_validate({"taskId": task_id, "inputResponses": responses})
    return await client.session.send_request(UpdateTask(params=params), ANSWER)


async def cancel(client: Client, task_id: str) -> dict[str, Any]:
    return await client.session.send_request(CancelTask(params=TaskParams(task_id=task_id)), ANSWER)


async def until(client: Client, task_id: str, *statuses: str, seconds: float = 20.0) -> dict[str, Any]:
    """Poll until the task has one of `statuses` (default: any final one)."""
    wanted = statuses or FINAL
    state: dict[str, Any] = {}

    async def reached() -> bool:
        nonlocal state
        state = await get(client, task_id)
        return state["status"] in wanted

    await eventually(reached, seconds)
    return state


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Wait until `check` holds; TimeoutError when it does not within the bound."""
    with anyio.fail_after(seconds):
        while True:
            if await check():
                return
            await anyio.sleep(0.02)
