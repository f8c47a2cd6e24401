"""Completions: task ids, endpoint names, statuses and the other words a client may ask for while a user types."""

from collections.abc import Iterable

from mcp.server import MCPServer
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from core.cloud.task import TaskStatus
from server.context import App

LIMIT = 100
"""Values the protocol lets one completion carry."""
RECENT = 500
"""Newest tasks whose ids are offered."""


def add_completions(server: MCPServer, app: App) -> None:
    """Register the completion handler."""

    @server.completion()
    async def complete(
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        values = await app.store(_values, app, argument.name)
        return None if values is None else matching(values, argument.value)


def matching(values: Iterable[str], typed: str) -> Completion:
    """Those of `values` that start with what was typed, whatever the case."""
    found = [value for value in values if value.lower().startswith(typed.lower())]
    return Completion(values=found[:LIMIT], total=len(found), has_more=len(found) > LIMIT)


def _values(app: App, name: str) -> list[str] | None:
    match name:
        case "task_id":
            return app.runtime.store.tasks.newest_ids(RECENT)
        case "name" | "endpoint":
            return sorted(endpoint.name for endpoint in app.runtime.manager.endpoints)
        case "status":
            return [status.value for status in TaskStatus]
        case "priority":
            return ["1", "2", "3", "4"]
        case "timeout":
            return ["30", "60", "300"]
        case "per_minute":
            return ["10", "60", "100"]
    return None
