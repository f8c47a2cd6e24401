"""Messages as Anthropic writes them in the shape that OpenAI's API takes, and those already in it unchanged. Pure."""

from collections.abc import Mapping, Sequence

from core.cloud.chat import Message
from core.cloud.providers.content import as_parts
from core.cloud.providers.wire_format import text_of
from core.json_types import Json, JsonObject, dumps

_BLOCKS = frozenset({"image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"})
"""Kinds of parts that only Anthropic's format has."""


def for_openai(messages: Sequence[Message]) -> list[JsonObject]:
    """`messages`, which are checked, with what is written in Anthropic's way rewritten.

    Images and documents become parts, `tool_use` blocks tool calls, and each `tool_result` a message of its own before
    what the user said beside it. Thinking is left out: the format has no place for it.
    """
    found: list[JsonObject] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(_kind(part) in _BLOCKS for part in content):
            found += _rewritten(message, content)
        else:
            found.append(dict(message))
    return found


def _rewritten(message: Message, content: list[Json]) -> list[JsonObject]:
    results = [part for part in content if isinstance(part, dict) and part.get("type") == "tool_result"]
    calls: list[Json] = [_call(part) for part in content if isinstance(part, dict) and part.get("type") == "tool_use"]
    rest = as_parts([part for part in content if _kind(part) not in {"tool_use", "tool_result"}])
    found = [_result(result) for result in results]
    if calls:
        found.append({**message, "content": text_of(rest) or None, "tool_calls": calls})
    elif rest:
        found.append({**message, "content": text_of(rest) if message["role"] == "assistant" else rest})
    return found


def _kind(part: Json) -> Json:
    return part.get("type") if isinstance(part, Mapping) else ""


def _call(block: JsonObject) -> JsonObject:
    function: JsonObject = {"name": block.get("name"), "arguments": dumps(block.get("input") or {}, "a tool call")}
    return {"id": block.get("id"), "type": "function", "function": function}


def _result(block: JsonObject) -> JsonObject:
    content = block.get("content")
    if isinstance(content, list):
        parts = as_parts(content)
        content = text_of(parts) if all(_kind(part) == "text" for part in parts) else parts
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content or ""}
