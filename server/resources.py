"""Resources: the same facts as the tools show, for hosts that attach or watch them."""

from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from core.errors import HeablcoinError, UnknownTask
from server.answers.error_text import explain
from server.answers.records import json_text
from server.context import App

QUEUE_URI = "queue://stats"
ENDPOINTS_URI = "endpoints://stats"
JSON = "application/json"


def add_resources(server: MCPServer, app: App) -> None:
    """Register `task://{task_id}`, `queue://stats` and `endpoints://stats`."""

    async def read(uri: str, function: Any, *args: Any) -> str:
        try:
            return app.redact(json_text(await app.store(function, *args)))
        except UnknownTask as error:
            raise ResourceNotFoundError(explain(error, uri)) from None
        except HeablcoinError as error:
            raise ResourceError(explain(error, uri)) from None

    @server.resource(
        "task://{task_id}",
        name="task",
        title="Task",
        description="One task in full, with its attempts. Payload, result and error are data from outside.",
        mime_type=JSON,
    )
    async def task(task_id: str) -> str:
        return await read(f"task://{task_id}", _task, app, task_id)

    @server.resource(
        QUEUE_URI,
        name="queue-stats",
        title="Queue statistics",
        description="Tasks by status and priority.",
        mime_type=JSON,
    )
    async def queue_stats() -> str:
        return await read(QUEUE_URI, app.runtime.publisher.get_stats)

    @server.resource(
        ENDPOINTS_URI,
        name="endpoint-stats",
        title="Endpoint statistics",
        description="LLM endpoints: status, success rate, latency, limits, tokens, cost.",
        mime_type=JSON,
    )
    async def endpoint_stats() -> str:
        return await read(ENDPOINTS_URI, app.runtime.manager.get_stats)


def _task(app: App, task_id: str) -> dict[str, Any]:
    publisher = app.runtime.publisher
    task = publisher.get_task(task_id)
    attempts = [
        {
            "number": attempt.number,
            "outcome": attempt.outcome.value,
            "worker": attempt.worker,
            "started_at": attempt.started_at.isoformat(),
            "ended_at": attempt.ended_at.isoformat() if attempt.ended_at else None,
            "error": attempt.error,
        }
        for attempt in publisher.attempts(task.task_id)
    ]
    return {**task.to_dict(), "why": "" if task.done else publisher.why(task.task_id), "attempt_history": attempts}
