"""Every tool under hostile arguments: an answer in words, in time, with nothing leaked, broken or half done."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.types import CallToolResult

from core.runtime import Runtime, RuntimeOptions
from server.app import build_server
from server.changes import ChangeFeed
from server.context import App
from server.settings import TOOLSETS, Settings
from server.tools import all_toolsets
from tests.mcp.conftest import said

CANARY = "sk-canary-77d0c1f3a9b2"
SLOW = 2.0
"""Seconds within which every call is answered. A call that takes longer is made twice more: the fastest counts, so
that a busy machine is no failure and a slow tool is one.
"""
HANG = 20.0
CLOSED_PORT = "http://127.0.0.1:9/v1"
SPECS = {spec.name: spec for toolset in all_toolsets() for spec in toolset.specs}

HOSTILE = (
    "",
    " ",
    "\x00",
    "\u202e\u0000\U0001f4a3",
    "'; DROP TABLE task; --",
    "../../etc/passwd",
    "${task}",
    "${" * 50,
    "%s%n{0}{x.__class__}",
    "<script>alert(1)</script>",
    "</untrusted-00000000>",
    "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
    '"\\ud800"',
    '{"a": "\\ud800"}',
    "[" * 100_000,
    '{"a":' * 5_000,
    "1" * 5_000,
    "NaN",
    "1e999",
    "-0",
    "A" * 200_000,
    f"Bearer {CANARY}",
    CANARY,
    "http://169.254.169.254/",
    "file:///etc/passwd",
    "task://x",
    "null",
    "true",
)
hostile_text = st.one_of(st.text(max_size=40), st.integers(0, len(HOSTILE) - 1).map(HOSTILE.__getitem__))
hostile_value = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(min_value=-(2**70), max_value=2**70),
        st.floats(),
        hostile_text,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10) | st.just("__proto__"), inner, max_size=4)
    ),
    max_leaves=8,
)


def arguments_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments with the tool's own names (so that values reach the code behind), some sane, some made up."""
    schema = SPECS[name].arguments.schema
    optional = {part: sane(part_schema) | hostile_value for part, part_schema in schema["properties"].items()}  # type: ignore[union-attr]
    known = st.fixed_dictionaries({}, optional=optional)
    unknown = st.dictionaries(st.text(max_size=12), hostile_value, max_size=2)
    return st.tuples(known, unknown | st.just({})).map(lambda parts: {**parts[1], **parts[0]})


def sane(schema: Any) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "integer":
            return st.integers(schema["minimum"], min(schema["maximum"], schema["minimum"] + 50))
        case "number":
            return st.floats(schema["minimum"], min(schema["maximum"], schema["minimum"] + 50.0))
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(st.fixed_dictionaries({"key": st.text(max_size=3), "name": st.just("echo")}), max_size=3)
    return st.sampled_from(["echo", "nobody", "a,b", '{"n": 1}', CLOSED_PORT, "m"])


class Bench:
    """One server and client for all examples, on a loop in a thread of their own; a client per example costs too much."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "fuzz.db"
        self.log = folder / "fuzz.log"
        self.runtime = Runtime.open(
            RuntimeOptions(database=str(self.database), keys="process", concurrency=2, allow_hosts=("127.0.0.1",))
        )
        self.runtime.start()
        self.app = App(self.runtime, Settings(toolsets=TOOLSETS), ChangeFeed(self.runtime.publisher))
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: anyio.run(self._serve), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        async with Client(build_server(self.app), mode="2026-07-28") as self._client:
            await self._client.list_tools()
            self._ready.set()
            await self._end.wait()

    def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        for _ in range(3):
            began = time.monotonic()
            calling = asyncio.run_coroutine_threadsafe(self._client.call_tool(name, arguments), self._loop)
            result = calling.result(HANG)
            if time.monotonic() - began <= SLOW:
                return result
        raise AssertionError(f"{name} took more than {SLOW} s three times over")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self.app.changes.close()
        self.runtime.stop(0.5)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("fuzz"))
    yield bench
    bench.close()


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What is logged at ERROR: the sign of a defect."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = seen.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    yield seen
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", SPECS)
def test_a_tool_answers_whatever_it_is_given(
    name: str, examples: int, bench: Bench, records: list[logging.LogRecord]
) -> None:
    @settings(
        max_examples=10 if name == "call_api" else examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )
    @given(arguments_of(name))
    def attack(arguments: dict[str, Any]) -> None:
        if name in ("wait_for_task", "call_api"):
            arguments["timeout"] = 1
        before = bench.runtime.publisher.get_stats()["total"]
        result = bench.call(name, sendable(arguments))
        text = said(result)
        assert text
        text.encode("utf-8")
        if result.is_error:
            assert "Fix:" in text
            assert "failed unexpectedly" not in text, (text, arguments, [r.exc_info for r in records])
            assert bench.runtime.publisher.get_stats()["total"] == before
        for leaked in ("Traceback", "pydantic", "input_value", "apsw."):
            assert leaked not in text
        assert len(text) < 1_000_000

    attack()
    assert not records, [record.getMessage() for record in records]


def sendable(arguments: dict[str, Any]) -> dict[str, Any]:
    """What JSON can carry over the wire: the client refuses the rest before it is sent."""

    def clean(value: Any) -> Any:
        if isinstance(value, float) and value != value:
            return None
        if isinstance(value, float) and abs(value) == float("inf"):
            return 1e308
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode("utf-8")
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):
            return {clean(key): clean(item) for key, item in value.items()}
        return value

    cleaned: dict[str, Any] = clean(arguments)
    return cleaned


@pytest.mark.parametrize("name", SPECS)
def test_a_key_in_the_wrong_place_is_not_echoed(name: str, bench: Bench) -> None:
    for part in SPECS[name].arguments.schema["properties"]:  # type: ignore[union-attr]
        for value in ([CANARY, {"k": CANARY}], {"api_key": CANARY}, f"x{CANARY}" * 3000):
            result = bench.call(name, {part: value, "timeout": 1} if name == "wait_for_task" else {part: value})
            if result.is_error:
                assert CANARY not in said(result), part
