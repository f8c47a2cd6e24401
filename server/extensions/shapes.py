"""The Tasks extension on the wire: its names, its parameters, its shapes. Pure.

Source: the extension's specification (modelcontextprotocol/ext-tasks, specification/draft/tasks.md, SEP-2663).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from mcp.types import CallToolResult, RequestParams
from pydantic import Field

from core.json_types import JsonObject

IDENTIFIER: Final = "io.modelcontextprotocol/tasks"
REVISIONS: Final = frozenset({"2026-07-28"})
"""Protocol revisions that know the extension; the one before had tasks of another kind in its core."""

LONGEST_HANDLE: Final = 4_000
"""Characters; a handle also travels in an HTTP header."""


class TaskParams(RequestParams):
    """Of `tasks/get` and `tasks/cancel`."""

    task_id: str = Field(min_length=1, max_length=LONGEST_HANDLE)


class UpdateParams(TaskParams):
    """Of `tasks/update`."""

    input_responses: dict[str, Any]


class Status(StrEnum):
    """What a client is told a task does."""

    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    """Only when the request ended in a JSON-RPC error; a tool's own failure is COMPLETED with isError."""
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Handle:
    """What a client calls a task: the tool it called and the ids of the queue's tasks behind it.

    Everything needed to find the task again is in it, so that any process on the same database can answer, after any
    restart. As hard to guess as the queue's ids are.
    """

    tool: str
    task_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.tool}.{'+'.join(self.task_ids)}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The handle written as `text`, or None when it is not one."""
        tool, _, ids = text.partition(".")
        task_ids = tuple(ids.split("+"))
        return cls(tool, task_ids) if tool and all(task_ids) else None


@dataclass(frozen=True, slots=True)
class State:
    """Where the request behind a handle stands."""

    status: Status
    created_at: datetime
    updated_at: datetime
    message: str = ""
    poll_seconds: float = 1.0
    """When looking again makes sense."""
    ttl_seconds: float | None = None
    """Seconds from creation for which it is kept at least; None is for ever."""
    input_requests: Mapping[str, JsonObject] = field(default_factory=dict)
    """With INPUT_REQUIRED: the open questions."""
    result: CallToolResult | None = None
    """With COMPLETED."""
    error: Mapping[str, Any] | None = None
    """With FAILED: the JSON-RPC error."""


def seed(handle: Handle, state: State) -> dict[str, Any]:
    """The answer to `tools/call` that stands for the result to come (CreateTaskResult)."""
    return {"resultType": "task", **_task(handle, state)}


def detail(handle: Handle, state: State) -> dict[str, Any]:
    """The answer to `tasks/get` (DetailedTask), which is also what `notifications/tasks` carries."""
    body = _task(handle, state)
    match state.status:
        case Status.INPUT_REQUIRED:
            body["inputRequests"] = dict(state.input_requests)
        case Status.COMPLETED if state.result is not None:
            body["result"] = state.result.model_dump(by_alias=True, mode="json", exclude_none=True)
        case Status.FAILED:
            body["error"] = dict(state.error or {})
    return body


def _task(handle: Handle, state: State) -> dict[str, Any]:
    body: dict[str, Any] = {
        "taskId": str(handle),
        "status": state.status.value,
        "createdAt": _iso(state.created_at),
        "lastUpdatedAt": _iso(state.updated_at),
        "ttlMs": None if state.ttl_seconds is None else round(state.ttl_seconds * 1000),
        "pollIntervalMs": round(state.poll_seconds * 1000),
    }
    if state.message:
        body["statusMessage"] = state.message
    return body


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
