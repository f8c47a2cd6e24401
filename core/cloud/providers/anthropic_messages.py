"""Messages as OpenAI writes them in the shape that Anthropic's API takes, and those already in it unchanged. Pure."""

import re
from collections.abc import Iterable

from core.cloud.chat import ChatRequest, Message
from core.cloud.providers.content import as_blocks, as_input
from core.cloud.providers.wire_format import check_messages
from core.cloud.replies.adaptation import JSON_INSTRUCTION
from core.errors import InvalidArgument
from core.json_types import Json, JsonObject

_ID = re.compile(r"[^a-zA-Z0-9_-]")
NO_BEGINNING = "."
"""Stands for the user's part where a conversation begins with the assistant's: the API wants one first."""


def for_anthropic(request: ChatRequest) -> tuple[Json, list[Json]]:
    """The system text and the messages. Raises InvalidArgument for messages no provider would take, or without content.

    - The system text is a text, or a list of blocks when some of it was given as one (for `cache_control`). Messages with
      the role `system` or `developer` go into it wherever they stand; where there are no others they are the user's.
    - Tool calls become `tool_use` blocks, tool messages `tool_result` blocks, `image_url` parts images.
    - Messages in a row by the same role become one, blank texts and messages are left out, and so is white space at the
      end of an answer that the model is to go on with: the API refuses them all.
    """
    system = _System(request)
    turns = _Turns()
    for message in check_messages(request.messages):
        role = str(message["role"])
        content = message.get("content")
        if role in {"system", "developer"}:
            system.add(content)
        elif role in {"tool", "function"}:
            turns.add("user", [_result(message, turns.last_call)])
        else:
            turns.add(role, content if _plain(message) else _blocks(message))
    if not turns.messages:
        turns.add("user", system.as_given())
        return system.instruction() or "", turns.finished()
    return system.whole(), turns.finished()


class _System:
    """The system text as it comes together."""

    def __init__(self, request: ChatRequest) -> None:
        self._blocks: list[JsonObject] = []
        self._in_blocks = False
        self._json = request.json
        self.add(request.system)

    def add(self, content: Json) -> None:
        self._in_blocks = self._in_blocks or isinstance(content, list)
        self._blocks += as_blocks(content)

    def as_given(self) -> Json:
        if self._in_blocks:
            return list(self._blocks)
        return "\n\n".join(str(block["text"]) for block in self._blocks)

    def instruction(self) -> str:
        return JSON_INSTRUCTION if self._json else ""

    def whole(self) -> Json:
        # The instruction comes last, so that what is cached before it stays the same.
        self._blocks += as_blocks(self.instruction())
        return self.as_given()


class _Turns:
    """Messages whose roles alternate."""

    def __init__(self) -> None:
        self.messages: list[JsonObject] = []
        self.last_call = ""
        """Id of the newest tool call, for a result that does not say which it answers."""

    def add(self, role: str, content: Json) -> None:
        blocks = as_blocks(content)
        if not blocks:
            return
        for block in blocks:
            if block.get("type") == "tool_use":
                self.last_call = str(block.get("id"))
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == role:
            last["content"] = [*as_blocks(last["content"]), *blocks]
        else:
            self.messages.append({"role": role, "content": content if isinstance(content, str) else list(blocks)})

    def finished(self) -> list[Json]:
        if not self.messages:
            raise InvalidArgument("The messages hold nothing to answer.", "give at least one of them some text.")
        if self.messages[0]["role"] == "assistant":
            self.messages.insert(0, {"role": "user", "content": NO_BEGINNING})
        last = self.messages[-1]
        if last["role"] == "assistant":
            last["content"] = _without_end(last["content"])
        return list(self.messages)


def _plain(message: Message) -> bool:
    """Nothing but a role and a content, as in nearly every message."""
    return not (message.get("tool_calls") or message.get("function_call") or message.get("refusal"))


def _blocks(message: Message) -> list[Json]:
    blocks: list[Json] = [*as_blocks(message.get("content")), *as_blocks(message.get("refusal"))]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict):
            function = call.get("function")
            blocks.append(_call(call.get("id"), function if isinstance(function, dict) else {}))
    function = message.get("function_call")
    if isinstance(function, dict):
        blocks.append(_call(function.get("name"), function))
    return blocks


def _call(call_id: Json, function: JsonObject) -> JsonObject:
    return {
        "type": "tool_use",
        "id": _as_id(call_id),
        "name": function.get("name"),
        "input": as_input(function.get("arguments")),
    }


def _result(message: Message, last_call: str) -> JsonObject:
    given = message.get("tool_call_id") or (message.get("name") if message["role"] == "function" else None)
    result: JsonObject = {"type": "tool_result", "tool_use_id": _as_id(given) if given else last_call}
    content = message.get("content")
    if blocks := as_blocks(content):
        result["content"] = content if isinstance(content, str) else list(blocks)
    return result


def _as_id(given: Json) -> str:
    """The API takes letters, digits, _ and - only; the same id gives the same id."""
    return _ID.sub("_", given if isinstance(given, str) else "") or "call"


def _without_end(content: Json) -> Json:
    if isinstance(content, str):
        return content.rstrip()
    blocks: Iterable[Json] = content if isinstance(content, list) else []
    found = [dict(block) if isinstance(block, dict) else block for block in blocks]
    last = found[-1] if found else None
    if isinstance(last, dict) and last.get("type") == "text":
        last["text"] = str(last["text"]).rstrip()
    return list(found)
