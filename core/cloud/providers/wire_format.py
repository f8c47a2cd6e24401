"""What a wire format gives the driver: requests out, answers and stream events in. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from core.cloud.chat import ChatRequest, Message, Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import ErrorKind
from core.cloud.providers.sse import Event
from core.cloud.replies.adaptation import adapt
from core.cloud.replies.complaint import Complaint
from core.cloud.replies.token_counts import TokenCounts
from core.errors import InvalidArgument
from core.json_types import Json, JsonObject, dumps
from core.network import HttpRequest, RequestHeaders

NOT_COUNTED: TokenCounts = (None, None)


class WireError(Exception):
    """An answer that is not what the format promises, or an error the provider put into one."""

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind = "protocol",
        status: int = 0,
        code: str = "",
        detail: str = "",
        tokens: TokenCounts = NOT_COUNTED,
        complaint: Complaint | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind: ErrorKind = kind
        self.status = status
        self.code = code
        self.detail = detail
        """The provider's own words, unredacted: not for showing as they are."""
        self.tokens = tokens
        """What it says was used all the same."""
        self.complaint = complaint
        """All that its body says, where it is an error's."""


@dataclass(slots=True)
class Delta:
    """What an answer, or one event of a streamed one, adds."""

    text: str = ""
    progress: bool = False
    """The model is at work (text, reasoning, a tool call): restarts the wait for the next token."""
    finish_reason: str | None = None
    tokens: TokenCounts = NOT_COUNTED
    model: str = ""
    end: bool = False
    """Nothing more will come."""
    reasoning: str = ""
    """What the model thought, as far as the provider shows it."""
    calls_tool: bool = False
    """Instead of answering, or besides, the model calls a tool."""


@dataclass(slots=True)
class AdaptedRequest(HttpRequest):
    """A request that was changed because the endpoint refuses it otherwise."""

    adapted: tuple[str, ...] = ()


def as_request(endpoint: ApiEndpoint, url: str, headers: RequestHeaders, body: JsonObject) -> HttpRequest:
    """`body` for `endpoint`, changed by what is known of it."""
    if endpoint.adapted:
        names = adapt(body, endpoint.adapted)
        if names:
            return AdaptedRequest("POST", url, headers, dumps(body, "request").encode(), names)
    return HttpRequest("POST", url, headers, dumps(body, "request").encode())


def adapted_in(request: HttpRequest) -> tuple[str, ...]:
    """Names of what was changed in it."""
    return request.adapted if isinstance(request, AdaptedRequest) else ()


class WireFormat(Protocol):
    """One provider API: three pure functions."""

    def request(self, endpoint: ApiEndpoint, request: ChatRequest, *, stream: bool) -> HttpRequest: ...

    def answer(self, body: JsonObject) -> Delta:
        """A whole answer. Raises WireError."""
        ...

    def event(self, event: Event) -> Delta:
        """One event of a streamed answer. Raises WireError."""
        ...


def model_of(endpoint: ApiEndpoint, request: ChatRequest) -> Json:
    """The model to ask for. Raises InvalidArgument when neither the call nor the endpoint names one: "" asks for nothing."""
    model = endpoint.extra_body.get("model") or request.model or endpoint.model
    if not model:
        raise InvalidArgument(
            f"The endpoint {endpoint.name} has no model, and the call names none; nothing was sent.",
            "add the endpoint again with a model, or pass model with the call",
        )
    return model


def check_messages(messages: Sequence[Message]) -> Sequence[Message]:
    """`messages` when each is an object with a role; InvalidArgument otherwise."""
    given: object = messages
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise InvalidArgument(
            "A chat needs at least one message.", 'pass for example [{"role": "user", "content": "Hello"}].'
        )
    for position, message in enumerate(given):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidArgument(
                f"Message {position + 1} is no object with a role.",
                'write it like {"role": "user", "content": "Hello"}.',
            )
    return messages


def text_of(content: Json) -> str:
    """The text of a message's content: itself, or its text parts joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (
        part.get("text") for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")
    )
    return "".join(part for part in parts if isinstance(part, str))


def as_object(value: Json) -> JsonObject:
    """`value` when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def more_tokens(old: TokenCounts, new: TokenCounts) -> TokenCounts:
    """What was told so far. Providers count up, and some tell again without a part of it: the larger figure holds."""
    if new == NOT_COUNTED:
        return old
    (old_in, old_out), (new_in, new_out) = old, new
    return _larger(old_in, new_in), _larger(old_out, new_out)


def _larger(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else max(old, new)


def as_usage(tokens: TokenCounts) -> Usage | None:
    """None when nothing was told."""
    return None if tokens == NOT_COUNTED else Usage(tokens[0] or 0, tokens[1] or 0)


_FINISH_REASONS = {
    "": None,
    "null": None,
    "none": None,
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "completed": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_length": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "refusal": "content_filter",
    "content_filtered": "content_filter",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
    "sensitive": "content_filter",
    "guardrail_intervened": "content_filter",
}
"""What providers say, in OpenAI's words."""

_NOT_FINISHED = frozenset({"error", "network_error", "insufficient_system_resource", "abort"})
"""Reasons that mean: broken off by the server. (Zhipu, DeepSeek, vLLM and SGLang; `error` is OpenRouter's.)"""


def finish_reason_of(value: Json, tokens: TokenCounts = NOT_COUNTED) -> str | None:
    """Why the model stopped, in OpenAI's words where they have one; None while it has not. Raises WireError when it broke down."""
    if not isinstance(value, str):
        return None
    known = value.lower()
    if known in _NOT_FINISHED:
        raise WireError(f"ended with {known}", kind="status", status=500, code=known, tokens=tokens)
    if known in {"stop", "length", "content_filter", "tool_calls"}:
        return known
    return _FINISH_REASONS.get(known, value)


def reasoning_of(content: Json) -> str:
    """The reasoning in a message's content: its thinking parts joined, whose text may be a list of parts again (Mistral)."""
    if not isinstance(content, list):
        return ""
    found = []
    for part in content:
        if isinstance(part, dict) and as_text(part.get("type")) in {"thinking", "reasoning"}:
            told = part.get("thinking", part.get("text"))
            found.append(told if isinstance(told, str) else text_of(told))
    return "".join(found)


def event_object(event: Event) -> JsonObject:
    """The object an event holds; an empty one for an event that says nothing. Raises WireError."""
    data = event.data.strip()
    if event.name == "error":
        # Whatever it holds, and in whatever shape, it is one.
        try:
            body = parse_json(data)
        except WireError:
            body = data
        return body if isinstance(body, dict) and body.get("error") else {"error": body or "no reason given"}
    if data in {"", "null"}:
        return {}
    body = parse_json(data)
    if not isinstance(body, dict):
        raise WireError("has an event that is no object")
    return body


def parse_json(text: str | bytes) -> Json:
    """JSON from a provider. Raises WireError."""
    try:
        return cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise WireError("is not JSON") from None
