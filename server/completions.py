"""Completions: task ids, endpoint names, statuses and the other words a client may ask for while a user types."""

from collections.abc import Callable, Iterable, Mapping

from mcp.server import MCPServer
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from core.cloud.pool.discovery import VENDORS
from core.cloud.task import TaskStatus
from server.context import App
from server.prompts import STATUS_EN, STATUS_ZH

LIMIT = 100
"""Values the protocol lets one completion carry."""
RECENT = 500
"""Newest tasks whose ids are offered."""


def add_completions(server: MCPServer, app: App) -> None:
    """Register the completion handler."""

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]  # the SDK leaves it untyped
    async def complete(  # the SDK passes all three by position
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        _context: CompletionContext | None,
    ) -> Completion | None:
        in_chinese = isinstance(reference, PromptReference) and reference.name.endswith("_zh")
        source = (IN_CHINESE if in_chinese else {}).get(argument.name) or SOURCES.get(argument.name)
        return None if source is None else matching(await app.store(source, app), argument.value)


def matching(values: Iterable[str], typed: str) -> Completion:
    """Those of `values` that start with what was typed, whatever the case."""
    found = [value for value in values if value.lower().startswith(typed.lower())]
    return Completion(values=found[:LIMIT], total=len(found), has_more=len(found) > LIMIT)


SOURCES: Mapping[str, Callable[[App], list[str]]] = {
    "task_id": lambda app: app.runtime.store.tasks.newest_ids(RECENT),
    "name": lambda app: sorted(
        {*(vendor.name for vendor in VENDORS), *(endpoint.name for endpoint in app.runtime.manager.endpoints)}
    ),
    "status": lambda _app: [status.value for status in TaskStatus],
    "priority": lambda _app: ["1", "2", "3", "4"],
    "timeout": lambda _app: ["30", "60", "300"],
    "per_minute": lambda _app: ["10", "60", "100"],
}
"""For each argument of a prompt or resource, the values that make sense."""

IN_CHINESE: Mapping[str, Callable[[App], list[str]]] = {"status": lambda _app: [*STATUS_EN, *STATUS_ZH]}
"""The same for Chinese prompts, where they differ."""
