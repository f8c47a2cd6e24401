"""What clients are shown: portable to the strictest host, described, small, and changed only on purpose.

`UPDATE_SNAPSHOTS=1 pytest tests/mcp/test_schemas.py` writes the snapshots anew.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from server.answers.schema import result_schema, strip_noise
from server.app import INSTRUCTIONS, selected_tools
from server.commands.list_tools import shown_to_models
from server.settings import TOOLSETS, Settings
from server.tools import all_toolsets
from server.tools.tool_registry import ToolSpec
from tests.mcp.conftest import Connect

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = os.environ.get("UPDATE_SNAPSHOTS")
SPECS = [spec for toolset in all_toolsets() for spec in toolset.specs]
BY_NAME = {spec.name: spec for spec in SPECS}
MOST_TOOLS = 20
MOST_SHOWN_TOKENS = 4_500
MOST_LIST_TOKENS = 9_000
PYTHON_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}

each_tool = pytest.mark.parametrize("spec", SPECS, ids=BY_NAME)


def tokens(value: Any) -> float:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) / 4


def schemas_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for part in schema.get("properties", {}).values():
        yield from schemas_in(part)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from schemas_in(schema[key])


@each_tool
def test_a_schema_uses_nothing_a_strict_host_refuses(spec: ToolSpec) -> None:
    for root in (spec.arguments.schema, result_schema(spec.record)):
        assert root["type"] == "object"
        for schema in schemas_in(root):
            assert not {"anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "title", "const", "format"} & schema.keys()
            assert isinstance(schema.get("type", "any"), str)
            assert schema.get("type") != "array" or schema["items"]
            assert "" not in schema.get("enum", [])
            assert not isinstance(schema.get("exclusiveMinimum"), bool)
            assert "description" not in schema or schema["description"]


@each_tool
def test_every_object_an_argument_may_hold_is_closed_and_says_what_is_in_it(spec: ToolSpec) -> None:
    """As OpenAI's strict mode wants it; a converter refuses an open object, or narrows it to an empty one."""
    for schema in schemas_in(spec.arguments.schema):
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False
            assert schema["properties"] or spec.arguments.schema is schema
            assert set(schema.get("required", [])) <= schema["properties"].keys()


def test_a_task_of_a_graph_takes_what_a_published_task_takes() -> None:
    item = BY_NAME["publish_task_graph"].arguments.schema["properties"]["tasks"]["items"]  # type: ignore[index,call-overload]
    alone = BY_NAME["publish_enhanced_task"].arguments.schema
    assert item["properties"].keys() == {"key", *alone["properties"]}  # type: ignore[index,call-overload]
    assert item["required"] == ["key", "name"]  # type: ignore[index,call-overload]
    for name, part in alone["properties"].items():  # type: ignore[union-attr]
        assert item["properties"][name]["type"] == part["type"], name  # type: ignore[index,call-overload]


@each_tool
def test_every_argument_is_described_and_bounded(spec: ToolSpec) -> None:
    schema = spec.arguments.schema
    assert schema["additionalProperties"] is False
    for name, part in schema["properties"].items():
        assert part["description"].endswith((".", ")")), name
        assert part["type"] in PYTHON_TYPES, name
        if part["type"] in ("number", "integer"):
            assert part["minimum"] < part["maximum"], name
        if "default" in part:
            assert isinstance(part["default"], PYTHON_TYPES[part["type"]]), name
        else:
            assert name in schema["required"]


@each_tool
def test_every_tool_has_a_good_name_a_title_and_all_four_hints(spec: ToolSpec) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", spec.name)
    assert 3 < len(spec.title) < 40
    assert spec.title != spec.name
    assert len(spec.description.partition("\n")[0]) > 20
    assert not (spec.hints.read_only and (spec.hints.destructive or not spec.hints.idempotent))
    assert spec.toolset in TOOLSETS


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_the_hints_and_schemas_reach_the_client(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == [spec.name for spec in SPECS]
    for name, tool in tools.items():
        hints = tool.annotations
        assert hints is not None
        assert None not in (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint)
        assert tool.title == BY_NAME[name].title
        assert tool.input_schema == BY_NAME[name].arguments.schema
        assert tool.output_schema == result_schema(BY_NAME[name].record)


def test_what_a_model_is_shown_stays_small() -> None:
    specs = selected_tools(Settings())
    assert len(specs) <= MOST_TOOLS
    assert tokens([shown_to_models(spec) for spec in specs]) < MOST_SHOWN_TOKENS


async def test_the_whole_list_of_tools_stays_small(connect: Connect, settings: Settings) -> None:
    default = {spec.name for spec in selected_tools(Settings())}
    async with connect() as client:
        listed = (await client.list_tools()).model_dump(by_alias=True, mode="json", exclude_none=True)
    assert tokens([tool for tool in listed["tools"] if tool["name"] in default]) < MOST_LIST_TOKENS


def test_the_instructions_are_few_lines() -> None:
    assert len(INSTRUCTIONS.splitlines()) <= 10
    for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", INSTRUCTIONS):
        known = name in BY_NAME or name in {"ai_call", "http_request", "update_status", "api_key_env", "api_key"}
        assert known, name


@each_tool
def test_a_schema_changes_only_on_purpose(spec: ToolSpec) -> None:
    now = {
        **shown_to_models(spec),
        "title": spec.title,
        "hints": asdict(spec.hints),
        "outputSchema": result_schema(spec.record),
    }
    file = SNAPSHOTS / f"{spec.name}.json"
    if UPDATE:
        SNAPSHOTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert file.exists(), "no snapshot: run with UPDATE_SNAPSHOTS=1 and review the diff"
    assert now == json.loads(file.read_text(encoding="utf-8"))


def test_no_snapshot_is_left_of_a_tool_that_is_gone() -> None:
    assert {file.stem for file in SNAPSHOTS.glob("*.json")} == set(BY_NAME)


def test_a_toolset_can_be_left_out_and_read_only_leaves_only_readers() -> None:
    assert {spec.toolset for spec in selected_tools(Settings(toolsets=("workers",)))} == {"workers"}
    readers = selected_tools(Settings(read_only=True, toolsets=TOOLSETS))
    assert readers
    assert all(spec.hints.read_only for spec in readers)
    assert "cancel_task" not in {spec.name for spec in readers}


@pytest.mark.parametrize("keyword", ["anyOf", "$ref", "oneOf"])
def test_a_tool_whose_schema_offers_a_choice_cannot_be_made(keyword: str) -> None:
    with pytest.raises(TypeError, match=re.escape(keyword)):
        strip_noise({"type": "object", "properties": {"a": {keyword: []}}})


def test_an_argument_that_is_called_title_is_not_taken_for_noise() -> None:
    kept = strip_noise({"title": "X", "type": "object", "properties": {"title": {"title": "Title", "type": "string"}}})
    assert kept == {"type": "object", "properties": {"title": {"type": "string"}}}
