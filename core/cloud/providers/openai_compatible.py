"""The chat completions format of OpenAI, which DeepSeek, Gemini, Groq, Moonshot, Zhipu, Ollama, vLLM and others speak. Pure."""

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
    check_messages,
    model_of,
    parse_json,
    text_of,
)
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
        return HttpRequest("POST", prepared.url, headers, dumps(body, "request").encode())

    def answer(self, body: JsonObject) -> Delta:
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            raise error_in_answer(body) or WireError("has no choices")
        choice = as_object(choices[0])
        message = as_object(choice.get("message"))
        if not message:
            raise error_in_answer(choice) or WireError("has no message in its first choice")
        text = text_of(message.get("content")) or as_text(message.get("refusal"))
        finish_reason = as_text(choice.get("finish_reason"))
        if finish_reason == "error":
            raise error_in_answer(choice) or WireError("ended with an error", kind="status", status=500, code="error")
        return Delta(text, finish_reason=finish_reason or "stop", model=as_text(body.get("model")), tokens=_usage(body))

    def event(self, event: Event) -> Delta:
        if event.data.strip() == "[DONE]":
            return Delta(end=True)
        body = parse_json(event.data)
        if not isinstance(body, dict):
            raise WireError("has an event that is no object")
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise error_in_answer(body) or WireError("has an event without choices")
        model = as_text(body.get("model"))
        if not choices:
            return Delta(model=model, tokens=_usage(body))
        choice = as_object(choices[0])
        delta = as_object(choice.get("delta"))
        finish_reason = as_text(choice.get("finish_reason"))
        if finish_reason == "error" or "error" in body:
            raise (
                error_in_answer(body)
                or error_in_answer(choice)
                or WireError("ended with an error", kind="status", status=500)
            )
        text = text_of(delta.get("content")) or as_text(delta.get("refusal"))
        progress = bool(text or delta.get("reasoning_content") or delta.get("reasoning") or delta.get("tool_calls"))
        return Delta(text, progress, finish_reason or None, model=model, tokens=_usage(body))


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
    messages: list[Json] = [dict(message) for message in check_messages(request.messages)]
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
