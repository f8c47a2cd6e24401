"""A whole server in this process, and the SDK's client for it in both eras of the protocol."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from jsonschema import Draft202012Validator
from mcp import Client
from mcp.types import CallToolResult

from core.runtime import Runtime, RuntimeOptions
from server.app import build_server
from server.changes import ChangeFeed
from server.context import App
from server.notifications import Notifier
from server.settings import TOOLSETS, Settings

_examine = Draft202012Validator.check_schema
_SOUND: set[str] = set()


@pytest.fixture(autouse=True)
def schemas_are_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client examines the schema of each tool it calls, which takes longer than most tests; one found sound is sound."""

    def check_schema(schema: Any, *more: Any, **options: Any) -> None:
        text = json.dumps(schema, sort_keys=True)
        if text not in _SOUND:
            _examine(schema, *more, **options)
            _SOUND.add(text)

    monkeypatch.setattr(Draft202012Validator, "check_schema", check_schema)


ERAS = ("legacy", "2026-07-28")

Connect = Callable[..., AbstractAsyncContextManager[Client]]
CallTool = Callable[..., Awaitable[CallToolResult]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(toolsets=TOOLSETS, database=str(tmp_path / "queue.db"))


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    runtime = Runtime.open(RuntimeOptions(database=settings.database, keys="process", allow_hosts=("127.0.0.1",)))
    runtime.start()
    yield runtime
    runtime.stop(0.5)


@pytest.fixture
def app(runtime: Runtime, settings: Settings) -> Iterator[App]:
    app = App(runtime, settings, ChangeFeed(runtime.publisher))
    yield app
    app.changes.close()


@pytest.fixture
def connect(app: App) -> Connect:
    """Connects a client to a server over `app`, with changes being told of."""

    @asynccontextmanager
    async def connected(era: str = ERAS[1], **options: Any) -> AsyncIterator[Client]:
        notifier = Notifier(app)
        server = build_server(app, notifier)
        async with anyio.create_task_group() as group:
            group.start_soon(notifier.run)
            async with Client(server, mode=era, raise_exceptions=False, **options) as client:
                yield client
            group.cancel_scope.cancel()

    return connected


@pytest.fixture(params=ERAS)
async def client(request: pytest.FixtureRequest, connect: Connect) -> AsyncIterator[Client]:
    async with connect(request.param) as client:
        yield client


@pytest.fixture
def call(client: Client) -> CallTool:
    """Calls a tool that is to succeed; returns its record."""

    async def call(name: str, /, **arguments: Any) -> Any:
        result = await client.call_tool(name, arguments)
        assert not result.is_error, said(result)
        return result.structured_content

    return call


@pytest.fixture
def refused(client: Client) -> Callable[..., Awaitable[str]]:
    """Calls a tool that is to fail; returns what it says."""

    async def refused(name: str, /, **arguments: Any) -> str:
        result = await client.call_tool(name, arguments)
        assert result.is_error, said(result)
        return said(result)

    return refused


def said(result: CallToolResult) -> str:
    """The text of a result."""
    return "\n".join(block.text for block in result.content if block.type == "text")
