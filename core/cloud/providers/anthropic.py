"""The messages format of Anthropic. Pure."""

from urllib.parse import urlsplit

from core.cloud.chat import ChatRequest
from core.cloud.endpoint import ApiEndpoint
from core.cloud.providers.anthropic_messages import for_anthropic
from core.cloud.providers.prepared import PreparedRequests
from core.cloud.providers.sse import Event
from core.cloud.providers.told_error import error_told
from core.cloud.providers.wire_format import (
    Delta,
    WireError,
    as_object,
    as_request,
    as_text,
    event_object,
    finish_reason_of,
    model_of,
    reasoning_of,
    text_of,
)
from core.cloud.replies.token_counts import TokenCounts, as_count
from core.json_types import JsonObject
from core.network import HttpRequest, join_path

VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 4096
"""The format requires a limit; this one is within every model's."""


class Anthropic:
    """POST {base_url}/v1/messages; `base_url` may end with /v1 or not."""

    def __init__(self) -> None:
        self._prepared = PreparedRequests(_url, _headers)

    def request(self, endpoint: ApiEndpoint, request: ChatRequest, *, stream: bool) -> HttpRequest:
        system, messages = for_anthropic(request)
        body: JsonObject = {
            "model": model_of(endpoint, request),
            "max_tokens": DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            "messages": messages,
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
        return as_request(endpoint, prepared.url, headers, body)

    def answer(self, body: JsonObject) -> Delta:
        tokens = _usage(body)
        content = body.get("content")
        stopped = body.get("stop_reason")
        error = error_told(body, tokens)
        if error is not None:
            raise error
        if not isinstance(content, list | str) and not stopped:
            raise WireError("has no content", tokens=tokens)
        return Delta(
            text_of(content),
            finish_reason=finish_reason_of(stopped, tokens) or "stop",
            model=as_text(body.get("model")),
            tokens=tokens,
            reasoning=reasoning_of(content),
            calls_tool=stopped == "tool_use",
        )

    def event(self, event: Event) -> Delta:
        if event.data.strip() == "[DONE]":  # of a gateway that speaks both formats
            return Delta(end=True)
        body = event_object(event)
        kind = as_text(body.get("type")) or event.name
        if kind in _BLOCKS:
            return _block(as_object(body.get(_BLOCKS[kind])))
        message = as_object(body.get("message")) if kind == "message_start" else body
        tokens = _usage(message)
        error = error_told(body, tokens)
        if error is not None:
            raise error
        stopped = as_object(body.get("delta")).get("stop_reason")
        return Delta(
            finish_reason=finish_reason_of(stopped, tokens),
            tokens=tokens,
            model=as_text(message.get("model")),
            end=kind == "message_stop",
        )


_BLOCKS = {"content_block_start": "content_block", "content_block_delta": "delta"}
"""Events that carry content, and where it is in them."""


def _block(block: JsonObject) -> Delta:
    """A content block, or a piece of one: text, thinking, a signature, a tool's input, or something of later days."""
    kind = as_text(block.get("type"))
    calls_tool = kind == "tool_use"
    text = as_text(block.get("text"))
    reasoning = as_text(block.get("thinking"))
    # A signature, a tool's input and thinking that is kept back cannot be shown, but are work.
    progress = bool(text or reasoning or calls_tool) or kind.endswith("_delta") or kind == "redacted_thinking"
    return Delta(text, progress, reasoning=reasoning, calls_tool=calls_tool)


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


def _usage(body: JsonObject) -> TokenCounts:
    usage = as_object(body.get("usage"))
    counts = [
        as_count(usage.get(name)) for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    tokens_in = None if counts[0] is None else sum(count or 0 for count in counts)
    return tokens_in, as_count(usage.get("output_tokens"))
