"""The chat completions format of OpenAI, which DeepSeek, Gemini, Groq, Moonshot, Zhipu, Ollama, vLLM and others speak. Pure."""

from urllib.parse import urlsplit

from core.cloud.chat import ChatRequest
from core.cloud.endpoint import ApiEndpoint
from core.cloud.providers.openai_messages import for_openai
from core.cloud.providers.prepared import PreparedRequests
from core.cloud.providers.sse import Event
from core.cloud.providers.told_error import error_told
from core.cloud.providers.wire_format import (
    Delta,
    WireError,
    as_object,
    as_request,
    as_text,
    check_messages,
    event_object,
    finish_reason_of,
    model_of,
    reasoning_of,
    text_of,
)
from core.cloud.replies.adaptation import JSON_INSTRUCTION
from core.cloud.replies.token_counts import TokenCounts, as_count
from core.json_types import Json, JsonObject, dumps
from core.network import HttpRequest, join_path

PATH = "chat/completions"


class OpenAiCompatible:
    """POST {base_url}/chat/completions."""

    def __init__(self) -> None:
        self._prepared = PreparedRequests(_url, _headers)

    def request(self, endpoint: ApiEndpoint, request: ChatRequest, *, stream: bool) -> HttpRequest:
        body: JsonObject = {"model": model_of(endpoint, request), "messages": list(_messages(request))}
        if request.max_tokens is not None:
            body[_max_tokens_field(endpoint.base_url)] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.json:
            body["response_format"] = {"type": "json_object"}
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        body.update(endpoint.extra_body)
        prepared = self._prepared.of(endpoint)
        headers = prepared.stream if stream else prepared.whole
        return as_request(endpoint, prepared.url, headers, body)

    def answer(self, body: JsonObject) -> Delta:
        tokens = _usage(body)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            raise error_told(body, tokens) or WireError("has no choices", tokens=tokens)
        choice = as_object(choices[0])
        message = as_object(choice.get("message")) or as_object(choice.get("delta"))
        finish_reason = _finish_reason(body, choice, tokens)
        if not message and not finish_reason:
            raise error_told(body, tokens) or WireError("has no message in its first choice", tokens=tokens)
        return _delta(body, message, finish_reason or "stop", tokens)

    def event(self, event: Event) -> Delta:
        data = event.data.strip()
        if data == "[DONE]":
            return Delta(end=True)
        body = event_object(event)
        tokens = _usage(body)
        choices = body.get("choices")
        choice = as_object(choices[0]) if isinstance(choices, list) and choices else {}
        if not choice:
            # Usage, the news that a prompt was filtered, or an error; a server written in Go has null for an empty list.
            error = error_told(body, tokens)
            if error is not None:
                raise error
            return Delta(model=as_text(body.get("model")), tokens=tokens)
        return _delta(body, as_object(choice.get("delta")), _finish_reason(body, choice, tokens), tokens)


def _finish_reason(body: JsonObject, choice: JsonObject, tokens: TokenCounts) -> str | None:
    """Why the model stopped. Raises WireError for an error beside the choice, or in it."""
    error = error_told(body, tokens) or error_told(choice, tokens)
    if error is not None:
        raise error
    return finish_reason_of(choice.get("finish_reason"), tokens)


def _delta(body: JsonObject, message: JsonObject, finish_reason: str | None, tokens: TokenCounts) -> Delta:
    content = message.get("content")
    text = text_of(content) or as_text(message.get("refusal"))
    reasoning = _reasoning(message, content)
    calls_tool = bool(message.get("tool_calls") or message.get("function_call"))
    # Encrypted reasoning cannot be shown, but is work.
    progress = bool(text or reasoning or calls_tool or message.get("reasoning_details"))
    return Delta(
        text,
        progress,
        finish_reason,
        tokens,
        as_text(body.get("model")),
        reasoning=reasoning,
        calls_tool=calls_tool,
    )


def _reasoning(message: JsonObject, content: Json) -> str:
    """DeepSeek, Moonshot, vLLM: `reasoning_content`; OpenRouter, Groq, Ollama: `reasoning`; Mistral: thinking parts."""
    told = as_text(message.get("reasoning_content")) or as_text(message.get("reasoning")) or reasoning_of(content)
    details = message.get("reasoning_details")
    if told or not isinstance(details, list):
        return told
    parts = (as_object(part) for part in details)
    return "".join(as_text(part.get("text")) or as_text(part.get("summary")) for part in parts)


def _url(base_url: str) -> str:
    return base_url if urlsplit(base_url).path.endswith(f"/{PATH}") else join_path(base_url, PATH)


def _headers(key: str, accept: str) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": accept,
        "accept-encoding": "identity",
        "user-agent": "heablcoin-cloud",
    }
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers


def _messages(request: ChatRequest) -> list[Json]:
    messages: list[Json] = [*for_openai(check_messages(request.messages))]
    # JSON mode is refused by OpenAI unless some message mentions JSON.
    needs_word = request.json and "json" not in dumps(messages, "messages").lower() + request.system.lower()
    system = "\n\n".join(part for part in (request.system, JSON_INSTRUCTION if needs_word else "") if part)
    return [{"role": "system", "content": system}, *messages] if system else messages


def _max_tokens_field(base_url: str) -> str:
    """OpenAI's own newer models refuse `max_tokens`; the servers that imitate it know only that."""
    return "max_completion_tokens" if urlsplit(base_url).hostname == "api.openai.com" else "max_tokens"


def _usage(body: JsonObject) -> TokenCounts:
    usage = as_object(body.get("usage"))
    return as_count(usage.get("prompt_tokens")), as_count(usage.get("completion_tokens"))
