"""What a wire format gives the driver: requests out, answers and stream events in. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from core.cloud.pool.endpoint import ApiEndpoint
from core.cloud.providers.base import ChatRequest, ErrorKind, Message
from core.cloud.providers.sse import Event
from core.errors import InvalidArgument
from core.json_types import Json, JsonObject
from core.network import HttpRequest

JSON_INSTRUCTION = "Answer with one JSON object and nothing else."


class WireError(Exception):
    """An answer that is not what the format promises, or an error the provider put into one."""

    def __init__(
        self, message: str, *, kind: ErrorKind = "protocol", status: int = 0, code: str = "", detail: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind: ErrorKind = kind
        self.status = status
        self.code = code
        self.detail = detail
        """The provider's own words, unredacted: not for showing as they are."""


TokenCounts = tuple[int | None, int | None]
"""Tokens in and out, None where nothing was said."""


@dataclass(slots=True)
class Delta:
    """What an answer, or one event of a streamed one, adds."""

    text: str = ""
    progress: bool = False
    """The model is at work (text, reasoning): restarts the wait for the next token."""
    finish_reason: str | None = None
    tokens: TokenCounts = (None, None)
    model: str = ""
    end: bool = False
    """Nothing more will come."""


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


def split_system(request: ChatRequest) -> tuple[str, list[JsonObject]]:
    """The system text (the request's and that of leading system messages) apart from the other messages, each checked.

    Raises InvalidArgument for messages no provider would take.
    """
    system = [request.system] if request.system else []
    messages: list[JsonObject] = []
    for message in check_messages(request.messages):
        role, content = message["role"], message.get("content")
        if role in {"system", "developer"} and not messages and isinstance(content, str):
            system.append(content)
        else:
            messages.append(dict(message))
    return "\n\n".join(system), messages


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


def as_count(value: Json) -> int | None:
    """A token count, None when there is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def parse_json(text: str | bytes) -> Json:
    """JSON from a provider. Raises WireError."""
    try:
        return cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        raise WireError("is not JSON") from None
