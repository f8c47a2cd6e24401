"""One life of the real server: a subprocess on stdio, driven by the SDK's own client."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent

from core.json_types import Json, JsonObject
from core.paths import DATABASE_ENV

ROOT = Path(__file__).parents[2]
"""What holds the `server` package: the checkout, or the environment's site-packages."""


class ToolError(RuntimeError):
    """A tool answered with an error."""


class Session:
    """A connected client. `heard` collects everything the server ever said, to be searched for what it must not say."""

    def __init__(self, client: Client, heard: list[str]) -> None:
        self._client = client
        self._heard = heard

    async def call(self, tool: str, **arguments: Json) -> JsonObject:
        """The tool's structured content; ToolError with its text when it answers with an error."""
        answer = await self._client.call_tool(tool, arguments)
        text = "\n".join(block.text for block in answer.content if isinstance(block, TextContent))
        content = cast(JsonObject, answer.structured_content or {})
        self._heard += [text, json.dumps(content, ensure_ascii=False)]
        if answer.is_error:
            raise ToolError(f"{tool}: {text}")
        return content


@asynccontextmanager
async def serve(home: Path, environment: dict[str, str], heard: list[str]) -> AsyncIterator[Session]:
    """Start the server with all its files under `home`; leaving the block closes its stdin, which ends it."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "server", "--handlers", str(Path(__file__).with_name("handlers.py"))],
        env={
            **own_files(home),
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        },
        cwd=home,
    )
    with (home / "server.log").open("a", encoding="utf-8") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            yield Session(client, heard)


def own_files(home: Path) -> dict[str, str]:
    """Environment that keeps everything the server writes under `home`, on each platform."""
    return {
        DATABASE_ENV: str(home / "cloud.db"),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "WIN_PD_OVERRIDE_APPDATA": str(home / "config"),
        "WIN_PD_OVERRIDE_LOCAL_APPDATA": str(home / "data"),
        "HEABLCOIN_CLOUD_KEYS": "file",
    }
