"""One conversation with the server, held through whichever client a driver wraps. Runs in the client's own environment.

`python DRIVER TARGET REPORT`: TARGET is JSON (transport, command, env, url, headers, name, llm), REPORT the file that
gets what was seen, as JSON. What a client has no way to do is missing from its wrapper, and `None` in the report.
"""

import asyncio
import json
import os
import re
import sys
import time
import traceback
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

Target = dict[str, Any]
STEP_SECONDS = 60


class Outcome(dict):
    """What a tool call came to, as the client showed it."""

    def __init__(self, text: str, *, error: bool = False, kinds: list[str] | None = None) -> None:
        super().__init__(text=text, error=error, kinds=kinds)


class Wrapped(Protocol):
    """A connected client. Only `tools` and `call` are in all of them."""

    async def tools(self) -> list[str]: ...
    async def call(self, name: str, arguments: dict[str, Any]) -> Outcome: ...


class Wrapper(Protocol):
    def __call__(self, target: Target) -> AbstractAsyncContextManager[Wrapped]: ...


def of_blocks(result: Any) -> Outcome:
    """A CallToolResult of either SDK."""
    text = "\n".join(getattr(block, "text", "") for block in result.content)
    error = getattr(result, "is_error", None)
    return Outcome(
        text,
        error=bool(result.isError if error is None else error),
        kinds=[block.type for block in result.content],
    )


def task_id_in(outcome: Outcome) -> str:
    found = re.search(r"task_id\W+([0-9a-f]{16})", outcome["text"])
    assert found, f"no task id in {outcome}"
    return found[1]


async def converse(wrapper: Wrapper, target: Target) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    async with wrapper(target) as client:
        seen["tools"] = await client.tools()
        published = await client.call(
            "publish_enhanced_task",
            {"name": "echo", "payload": '{"symbol": "BTC/USDT"}', "priority": 3, "tags": "analysis", "timeout": 60},
        )
        seen["publish_enhanced_task"] = published
        first = task_id_in(published)
        await client.call("wait_for_task", {"task_id": first, "timeout": 20})
        seen["list_enhanced_tasks"] = await client.call("list_enhanced_tasks", {"tags": "analysis", "limit": 50})
        seen["add_api_endpoint"] = await client.call(
            "add_api_endpoint",
            {
                "name": target["name"],
                "base_url": "https://api.deepseek.com/v1",
                "model": "deepseek-chat",
                "api_key_env": "DEEPSEEK_API_KEY",
                "priority": 2,
                "max_requests_per_minute": 100,
            },
        )
        seen["get_api_manager_stats"] = await client.call("get_api_manager_stats", {})
        seen["wrong call"] = await client.call("get_task_status", {"task_id": "no-such-task"})
        seen["graph"] = await client.call(
            "publish_task_graph",
            {
                "tasks": [
                    {"key": "a", "name": "echo", "payload": '{"n": 1}'},
                    {"key": "b", "name": "echo", "payload": '{"before": "${a.n}"}', "depends_on": "a"},
                ]
            },
        )
        await waiting(client, seen)
        for step in ("resources", "prompts", "special"):
            method = getattr(client, step, None)
            seen[step] = await asyncio.wait_for(method(first), STEP_SECONDS) if method else None
    async with wrapper(target) as again:
        seen["reconnect"] = await again.call("get_task_status", {"task_id": first})
    seen["task"] = first
    return seen


async def waiting(client: Any, seen: dict[str, Any]) -> None:
    """Progress while a tool waits, and the end of the wait by the client."""
    long = task_id_in(await client.call("publish_enhanced_task", {"name": "sleep", "payload": '{"seconds": 50}'}))
    arguments = {"task_id": long, "timeout": 50}
    progress: list[Any] = []
    begun = asyncio.Event()

    async def heard(*given: Any) -> None:
        progress.append(given[0])
        begun.set()

    with_progress = hasattr(client, "call_with_progress")
    call = (
        client.call_with_progress("wait_for_task", arguments, heard)
        if with_progress
        else client.call("wait_for_task", arguments)
    )
    waits = asyncio.ensure_future(call)
    if with_progress:
        await asyncio.wait_for(begun.wait(), STEP_SECONDS)
    else:
        await asyncio.sleep(1)
    seen["progress"] = len(progress) if with_progress else None
    started = time.monotonic()
    waits.cancel()
    await asyncio.wait([waits], timeout=STEP_SECONDS)
    seen["cancel"] = "cancelled" if waits.cancelled() else f"{waits!r}"
    await client.call("get_enhanced_task_stats", {})  # over HTTP the next request may overtake the word of the end
    seen["after cancel"] = await client.call("cancel_task", {"task_id": long})
    seen["seconds after cancel"] = round(time.monotonic() - started, 1)


def main(wrapper: Wrapper) -> None:
    target, report = json.loads(sys.argv[1]), Path(sys.argv[2])
    os.environ.update(
        MCP_USE_ANONYMIZED_TELEMETRY="false",
        OPENAI_AGENTS_DISABLE_TRACING="1",
        LANGSMITH_TRACING="false",
        DO_NOT_TRACK="1",
    )
    try:
        seen = asyncio.run(asyncio.wait_for(converse(wrapper, target), 150))
    except BaseException:
        seen = {"crash": traceback.format_exc()}
    report.write_text(json.dumps(seen, default=str), encoding="utf-8")
