"""Requests and answers of the two formats, without a network."""

import json
from typing import Any

import pytest

from core.cloud.chat import ChatRequest
from core.cloud.endpoint import ApiEndpoint
from core.cloud.providers.anthropic import Anthropic
from core.cloud.providers.error_body import read_error
from core.cloud.providers.openai_compatible import OpenAiCompatible
from core.cloud.providers.sse import Event
from core.cloud.providers.wire_format import Delta, WireError, WireFormat
from core.errors import InvalidArgument
from core.network import HttpRequest

KEY = "sk-canary-0123456789abcdef"
USER = {"role": "user", "content": "hi"}


def endpoint(base_url: str = "https://api.example.com/v1", **values: Any) -> ApiEndpoint:
    return ApiEndpoint("alpha", base_url, api_key=KEY, model="m", **values)


def body_of(wire: WireFormat, request: ChatRequest, *, stream: bool = False, **values: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(wire.request(endpoint(**values), request, stream=stream).body)
    return found


def event(data: Any, name: str = "message") -> Event:
    return Event(name, data if isinstance(data, str) else json.dumps(data))


@pytest.mark.parametrize("wire", [OpenAiCompatible(), Anthropic()], ids=["openai", "anthropic"])
def test_a_chat_for_which_nobody_names_a_model_is_refused_before_anything_is_sent(wire: WireFormat) -> None:
    bare = ApiEndpoint("alpha", "https://api.example.com/v1", api_key=KEY)
    with pytest.raises(InvalidArgument, match="alpha has no model") as refused:
        wire.request(bare, ChatRequest([USER], ""), stream=False)
    assert "pass model" in refused.value.fix
    assert json.loads(wire.request(bare, ChatRequest([USER], "m2"), stream=False).body)["model"] == "m2"
    own = ApiEndpoint("alpha", "https://api.example.com/v1", api_key=KEY, extra_body={"model": "m3"})
    assert json.loads(wire.request(own, ChatRequest([USER], ""), stream=False).body)["model"] == "m3"


# OpenAI-compatible


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/v1/", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/v1/chat/completions", "https://api.example.com/v1/chat/completions"),
        ("https://h.example/openai?api-version=1", "https://h.example/openai/chat/completions?api-version=1"),
    ],
)
def test_openai_url(base_url: str, url: str) -> None:
    assert OpenAiCompatible().request(endpoint(base_url), ChatRequest([USER], "m"), stream=False).url == url


def test_openai_body() -> None:
    request = ChatRequest([USER], "other", max_tokens=9, temperature=0.5, system="Be brief.")
    assert body_of(OpenAiCompatible(), request, extra_body={"seed": 1}) == {
        "model": "other",
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 1,
    }


def test_openai_asks_for_usage_when_it_streams() -> None:
    body = body_of(OpenAiCompatible(), ChatRequest([USER], ""), stream=True)
    assert (body["model"], body["stream"], body["stream_options"]) == ("m", True, {"include_usage": True})


def test_openai_itself_gets_the_field_its_newer_models_demand() -> None:
    body = body_of(OpenAiCompatible(), ChatRequest([USER], "m", max_tokens=9), base_url="https://api.openai.com/v1")
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body


def test_openai_json_mode_mentions_json_because_it_must() -> None:
    body = body_of(OpenAiCompatible(), ChatRequest([USER], "m", json=True))
    assert body["response_format"] == {"type": "json_object"}
    assert "JSON" in body["messages"][0]["content"]
    asked = ChatRequest([{"role": "user", "content": "as json please"}], "m", json=True)
    assert len(body_of(OpenAiCompatible(), asked)["messages"]) == 1


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "plain"}, "plain"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
    ],
)
def test_openai_text(message: dict[str, Any], text: str) -> None:
    assert OpenAiCompatible().answer({"choices": [{"message": message, "finish_reason": "stop"}]}).text == text


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": "five", "completion_tokens": -1}, {"prompt_tokens": True}]
)
def test_openai_usage_that_is_none_is_not_guessed(usage: Any) -> None:
    answer = OpenAiCompatible().answer({"choices": [{"message": {"content": "x"}}], "usage": usage})
    assert answer.tokens == (None, None)


@pytest.mark.parametrize(
    ("data", "delta"),
    [
        ("[DONE]", Delta(end=True)),
        ({"choices": []}, Delta()),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, Delta()),
        ({"choices": [{"delta": {"content": "x"}}]}, Delta("x", progress=True)),
        ({"choices": [{"delta": {"reasoning_content": "hm"}}]}, Delta("", progress=True, reasoning="hm")),
        ({"choices": [{"delta": {}, "finish_reason": "length"}]}, Delta(finish_reason="length")),
        (
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
            Delta(tokens=(3, 4)),
        ),
    ],
)
def test_openai_events(data: Any, delta: Delta) -> None:
    assert OpenAiCompatible().event(event(data)) == delta


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        ("{", "protocol", 0),
        ("[]", "protocol", 0),
        ({"error": {"message": "busy", "code": 502}}, "status", 502),
        ({"error": {"type": "rate_limit_exceeded"}}, "status", 429),
        ({"error": "boom"}, "status", 500),
        ({"choices": [{"delta": {}, "finish_reason": "error"}]}, "status", 500),
        ({"choices": [{"delta": {}}], "error": {"code": 503}}, "status", 503),
    ],
)
def test_openai_events_that_are_errors(data: Any, kind: str, status: int) -> None:
    with pytest.raises(WireError) as caught:
        OpenAiCompatible().event(event(data))
    assert (caught.value.kind, caught.value.status) == (kind, status)


# Anthropic


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/messages"),
        ("https://api.deepseek.com/anthropic", "https://api.deepseek.com/anthropic/v1/messages"),
    ],
)
def test_anthropic_url(base_url: str, url: str) -> None:
    assert Anthropic().request(endpoint(base_url), ChatRequest([USER], "m"), stream=False).url == url


def test_anthropic_headers() -> None:
    headers = Anthropic().request(endpoint(), ChatRequest([USER], "m"), stream=False).headers
    assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in headers


def test_anthropic_keeps_the_system_text_apart_and_always_sets_a_limit() -> None:
    messages = [{"role": "system", "content": "One."}, USER]
    assert body_of(Anthropic(), ChatRequest(messages, "m", system="Zero.", json=True)) == {
        "model": "m",
        "max_tokens": 4096,
        "system": "Zero.\n\nOne.\n\nAnswer with one JSON object and nothing else.",
        "messages": [USER],
    }


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("new", "new"),
    ],
)
def test_anthropic_reasons_in_the_words_of_openai(stop_reason: str, finish_reason: str) -> None:
    answer = Anthropic().answer({"content": [{"type": "text", "text": "x"}], "stop_reason": stop_reason})
    assert answer.finish_reason == finish_reason


def test_anthropic_counts_cached_tokens_as_read() -> None:
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 4, "output_tokens": 8}
    assert Anthropic().answer({"content": [], "usage": usage}).tokens == (7, 8)


@pytest.mark.parametrize(
    ("data", "delta"),
    [
        ({"type": "ping"}, Delta()),
        (
            {"type": "message_start", "message": {"model": "c", "usage": {"input_tokens": 3}}},
            Delta(model="c", tokens=(3, None)),
        ),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": ""}}, Delta()),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}, Delta("x", progress=True)),
        (
            {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
            Delta("", progress=True, reasoning="hm"),
        ),
        (
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
            Delta(finish_reason="stop", tokens=(None, 9)),
        ),
        ({"type": "message_stop"}, Delta(end=True)),
    ],
)
def test_anthropic_events(data: Any, delta: Delta) -> None:
    assert Anthropic().event(event(data)) == delta


def test_anthropic_error_event_has_the_status_it_would_have_had() -> None:
    with pytest.raises(WireError) as caught:
        Anthropic().event(
            event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error")
        )
    assert (caught.value.status, caught.value.code, caught.value.detail) == (529, "overloaded_error", "Overloaded")


# Error bodies


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ('{"error": {"message": "m", "type": "t", "code": "c"}}', "c", "m"),
        ('{"error": {"message": "m", "type": "t", "code": null}}', "t", "m"),
        ('{"error": {"message": "m", "code": 400, "status": "INVALID_ARGUMENT"}}', "INVALID_ARGUMENT", "m"),
        ('[{"error": {"message": "m", "status": "UNAVAILABLE"}}]', "UNAVAILABLE", "m"),
        ('{"type": "error", "error": {"type": "not_found_error", "message": "m"}}', "not_found_error", "m"),
        ('{"error": "m"}', "", "m"),
        ('{"detail": "m"}', "", "m"),
        ('{"message": "m"}', "", "m"),
        ('{"error": {"code": "two words; and <markup>", "message": "m"}}', "", "m"),
        ("<html>", "", ""),
        ("", "", ""),
        ("[]", "", ""),
        ("null", "", ""),
        ('{"error": 5}', "", ""),
    ],
)
def test_the_code_and_message_of_an_error_body(body: str, code: str, message: str) -> None:
    found = read_error(body.encode())
    assert (found.code, found.message) == (code, message)


@pytest.mark.parametrize("wire", [OpenAiCompatible(), Anthropic()], ids=["openai", "anthropic"])
def test_a_changed_key_address_or_header_of_an_endpoint_is_in_its_next_request(
    wire: WireFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(one: ApiEndpoint, *, stream: bool = False) -> HttpRequest:
        return wire.request(one, ChatRequest([USER], "m"), stream=stream)

    monkeypatch.setenv("POOL_KEY", "sk-canary-first")
    one = endpoint(api_key_env="POOL_KEY")
    assert "sk-canary-first" in " ".join(sent(one).headers.values())
    monkeypatch.setenv("POOL_KEY", "sk-canary-second")
    assert "sk-canary-second" in " ".join(sent(one).headers.values())
    assert "sk-canary-first" not in " ".join(sent(one, stream=True).headers.values())
    assert sent(one, stream=True).headers["accept"] == "text/event-stream"
    moved = sent(endpoint("https://api.example.org/v1", headers={"x-team": "blue"}))
    assert moved.url.startswith("https://api.example.org/v1/")
    assert moved.headers["x-team"] == "blue"
    assert KEY in " ".join(moved.headers.values())
