"""The messages format of Anthropic. Pure."""

from urllib.parse import urlsplit

from core.cloud.pool.endpoint import ApiEndpoint
from core.cloud.providers.base import ChatRequest
from core.cloud.providers.error_body import error_in_answer
from core.cloud.providers.prepared import PreparedRequests
from core.cloud.providers.sse import Event
from core.cloud.providers.wire import (
    JSON_INSTRUCTION,
    Delta,
    TokenCounts,
    WireError,
    as_count,
    as_object,
    as_text,
    model_of,
    parse_json,
    split_system,
    text_of,
)
from core.json_types import Json, JsonObject, dumps
from core.network import HttpRequest, join_path

VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 4096
"""The format requires a limit; this one is within every model's."""

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class Anthropic:
    """POST {base_url}/v1/messages; `base_url` may end with /v1 or not."""

    def __init__(self) -> None:
        self._prepared = PreparedRequests(_url, _headers)

    def request(self, endpoint: ApiEndpoint, request: ChatRequest, *, stream: bool) -> HttpRequest:
        system, messages = split_system(request)
        if request.json:
            system = "\n\n".join(part for part in (system, JSON_INSTRUCTION) if part)
        listed: list[Json] = list(messages)
        body: JsonObject = {
            "model": model_of(endpoint, request),
            "max_tokens": DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            "messages": listed,
        }
        if system:
            body["system"] = system
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if stream:
            body["stream"] = True
        body.update(endpoint.extra_body)
        prepared = self._prepared.of(endpoint)
        headers = prepared.stream if stream else prepared.whole
        return HttpRequest("POST", prepared.url, headers, dumps(body, "request").encode())

    def answer(self, body: JsonObject) -> Delta:
        content = body.get("content")
        if body.get("type") == "error" or not isinstance(content, list):
            raise error_in_answer(body) or WireError("has no content")
        return Delta(
            text_of(content),
            finish_reason=_finish_reason(body.get("stop_reason")) or "stop",
            model=as_text(body.get("model")),
            tokens=_usage(body),
        )

    def event(self, event: Event) -> Delta:
        body = parse_json(event.data)
        if not isinstance(body, dict):
            raise WireError("has an event that is no object")
        kind = as_text(body.get("type")) or event.name
        if kind == "message_start":
            message = as_object(body.get("message"))
            return Delta(model=as_text(message.get("model")), tokens=_usage(message))
        if kind == "content_block_delta":
            delta = as_object(body.get("delta"))
            return Delta(as_text(delta.get("text")), progress=True)
        if kind == "message_delta":
            return Delta(
                finish_reason=_finish_reason(as_object(body.get("delta")).get("stop_reason")), tokens=_usage(body)
            )
        if kind == "message_stop":
            return Delta(end=True)
        if kind == "error":
            raise error_in_answer(body) or WireError("ended with an error", kind="status", status=500)
        return Delta()


def _url(base_url: str) -> str:
    path = urlsplit(base_url).path.rstrip("/")
    if path.endswith("/messages"):
        return base_url
    return join_path(base_url, "messages" if path.endswith("/v1") else "v1/messages")


def _headers(key: str, accept: str) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "accept": accept,
        "accept-encoding": "identity",
        "anthropic-version": VERSION,
        "user-agent": "heablcoin-cloud",
        "x-api-key": key,
    }


def _finish_reason(value: Json) -> str | None:
    return _FINISH_REASONS.get(value, value) if isinstance(value, str) and value else None


def _usage(body: JsonObject) -> TokenCounts:
    usage = as_object(body.get("usage"))
    counts = [
        as_count(usage.get(name)) for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    tokens_in = None if counts[0] is None else sum(count or 0 for count in counts)
    return tokens_in, as_count(usage.get("output_tokens"))
