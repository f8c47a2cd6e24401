"""What providers send that no document of theirs tells of: shapes that are read as what they mean, and errors in every dress.

One table for both formats. Each row is read whole, and byte by byte, through the real provider.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from core.cloud.chat import ChatRequest, Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import ProviderError
from core.cloud.providers import provider_for
from tests.support.scripted_transport import Reply, ScriptedTransport

REQUEST = ChatRequest([{"role": "user", "content": "hi"}], "m")


def events(*values: Any) -> bytes:
    """An event stream: objects as data lines; texts as they stand."""
    return "".join(value if isinstance(value, str) else f"data: {json.dumps(value)}\n\n" for value in values).encode()


def delta(content: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content, **more}, "finish_reason": finish}]}


def named(kind: str, **more: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n"


def block(kind: str, **more: Any) -> str:
    return named("content_block_delta", index=0, delta={"type": kind, **more})


START = named("message_start", message={"model": "c", "usage": {"input_tokens": 3, "output_tokens": 1}})
STOPPED = named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOP = named("message_stop")
DONE = "data: [DONE]\n\n"
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
END = delta(None, "stop")


@dataclass(frozen=True)
class Told:
    """What an answer comes to."""

    text: str = "Hello"
    finish_reason: str = "stop"
    usage: Usage | None = field(default_factory=lambda: Usage(3, 2))
    reasoning: str = ""


NO_USAGE = Told(usage=None)

TOLERATED: dict[str, tuple[str, bytes, Told]] = {
    # OpenAI's format: nulls, and what is left out
    "null for every empty list": (
        "openai",
        events({"choices": None, "usage": None}, delta("Hello"), END, {"choices": None, "usage": USAGE["usage"]}, DONE),
        Told(),
    ),
    "a null delta": (
        "openai",
        events(delta("Hello"), {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}, USAGE, DONE),
        Told(),
    ),
    "no delta in the last choice": (
        "openai",
        events(delta("Hello"), {"choices": [{"finish_reason": "stop"}]}, USAGE, DONE),
        Told(),
    ),
    "a null choice": ("openai", events({"choices": [None]}, delta("Hello"), END, USAGE, DONE), Told()),
    "an empty finish reason until the last": (
        "openai",
        events(delta("Hel", ""), delta("lo", ""), END, USAGE, DONE),
        Told(),
    ),
    "a finish reason that is the word null": ("openai", events(delta("Hello", "null"), END, USAGE, DONE), Told()),
    "no choices in the usage event": (
        "openai",
        events(delta("Hello"), END, {"usage": USAGE["usage"]}, DONE),
        Told(),
    ),
    "an empty object": ("openai", events({}, delta("Hello"), END, USAGE, DONE), Told()),
    "null as an event": ("openai", events("data: null\n\n", delta("Hello"), END, USAGE, DONE), Told()),
    "data without anything": ("openai", events("data:\n\n", delta("Hello"), END, USAGE, DONE), Told()),
    "null beside every field": (
        "openai",
        events(
            {**delta("Hello", role=None, tool_calls=None, refusal=None, function_call=None), "error": None}, END, USAGE
        ),
        Told(),
    ),
    "an error whose every field is empty": (
        "openai",
        events({**delta("Hello"), "error": {"message": "", "type": "", "code": None}}, END, USAGE, DONE),
        Told(),
    ),
    # OpenAI's format: what comes besides
    "Azure's filter before the first choice": (
        "openai",
        events({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}, delta("Hello"), END, USAGE, DONE),
        Told(),
    ),
    "Azure's filter with an empty delta after the end": (
        "openai",
        events(
            delta("Hello"),
            END,
            {"choices": [{"delta": None, "content_filter_offsets": {"check_offset": 1}}]},
            USAGE,
            DONE,
        ),
        Told(),
    ),
    "a role and nothing else": ("openai", events(delta(None, role="assistant"), delta("Hello"), END, USAGE), Told()),
    "usage in the middle": ("openai", events(delta("Hel"), USAGE, delta("lo"), END, DONE), Told()),
    "usage that grows in every event": (
        "openai",
        events(
            {**delta("Hel"), "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
            {**delta("lo", "stop"), "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
            DONE,
        ),
        Told(),
    ),
    "usage after the end mark": ("openai", events(delta("Hello"), END, DONE, USAGE), Told()),
    "usage inside the choice's last event": (
        "openai",
        events(delta("Hello"), {**END, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}, DONE),
        Told(),
    ),
    "usage as numeric texts": (
        "openai",
        events(delta("Hello"), END, {"choices": [], "usage": {"prompt_tokens": "3", "completion_tokens": "2.0"}}),
        Told(),
    ),
    "usage as floats": (
        "openai",
        events(delta("Hello"), END, {"choices": [], "usage": {"prompt_tokens": 3.0, "completion_tokens": 2.0}}),
        Told(),
    ),
    "usage of nulls": (
        "openai",
        events(delta("Hello"), END, {"choices": [], "usage": {"prompt_tokens": None, "completion_tokens": None}}, DONE),
        NO_USAGE,
    ),
    "text after the end mark": ("openai", events(delta("Hello"), END, USAGE, DONE, delta("again")), Told()),
    # OpenAI's format: content
    "content as a list of parts": (
        "openai",
        events(delta([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]), END, USAGE, DONE),
        Told(),
    ),
    "thinking as a part of the content": (
        "openai",
        events(
            delta([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
            delta([{"type": "text", "text": "Hello"}]),
            END,
            USAGE,
        ),
        Told(reasoning="hm"),
    ),
    "reasoning_content": (
        "openai",
        events(delta(None, reasoning_content="hm"), delta("Hello", reasoning_content=None), END, USAGE, DONE),
        Told(reasoning="hm"),
    ),
    "reasoning": ("openai", events(delta("", reasoning="hm"), delta("Hello"), END, USAGE), Told(reasoning="hm")),
    "reasoning twice, in two fields": (
        "openai",
        events(
            delta("", reasoning="hm", reasoning_details=[{"type": "reasoning.text", "text": "hm"}]),
            delta("Hello"),
            END,
            USAGE,
        ),
        Told(reasoning="hm"),
    ),
    "reasoning in details only, partly encrypted": (
        "openai",
        events(
            delta("", reasoning_details=[{"type": "reasoning.summary", "summary": "hm"}]),
            delta("", reasoning_details=[{"type": "reasoning.encrypted", "data": "Zm9v"}]),
            delta("Hello"),
            END,
            USAGE,
        ),
        Told(reasoning="hm"),
    ),
    "a refusal in place of content": ("openai", events(delta(None, refusal="Hello"), END, USAGE, DONE), Told()),
    "the whole message again at the end": (
        "openai",
        events(
            delta("Hello"),
            {"choices": [{"message": {"content": "Hello"}, "delta": {}, "finish_reason": "stop"}]},
            USAGE,
        ),
        Told(),
    ),
    "text beside the finish reason": ("openai", events(delta("Hel"), delta("lo", "stop"), USAGE, DONE), Told()),
    "a finish reason in other words": (
        "openai",
        events(delta("Hello"), delta(None, "MAX_TOKENS"), USAGE, DONE),
        Told(finish_reason="length"),
    ),
    "eos": ("openai", events(delta("Hello"), delta(None, "eos"), USAGE, DONE), Told()),
    # The stream itself
    "comments and keep-alives": (
        "openai",
        events(": OPENROUTER PROCESSING\n\n", ": keep-alive\n\n", delta("Hello"), ":\n\n", END, USAGE, DONE),
        Told(),
    ),
    "no space after data:": (
        "openai",
        events(f"data:{json.dumps(delta('Hello'))}\n\n", END, USAGE, "data:[DONE]\n\n"),
        Told(),
    ),
    "carriage returns": ("openai", events(delta("Hello"), END, USAGE, DONE).replace(b"\n", b"\r\n"), Told()),
    "no empty lines between events": (
        "openai",
        events(delta("Hel"), delta("lo"), END, USAGE, DONE).replace(b"\n\n", b"\n") + b"\n",
        Told(),
    ),
    "no empty line after the last event": ("openai", events(delta("Hello"), END, USAGE)[:-2], Told()),
    "no end mark": ("openai", events(delta("Hello"), END, USAGE), Told()),
    "an id and an event name": (
        "openai",
        events(f"id: 1\nevent: completion\ndata: {json.dumps(delta('Hello'))}\n\n", END, USAGE, DONE),
        Told(),
    ),
    "the answer whole, as plain JSON": (
        "openai",
        json.dumps(
            {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE["usage"]}, indent=1
        ).encode(),
        Told(),
    ),
    # Answers without text
    "all tokens went into reasoning": (
        "openai",
        events(delta(None, reasoning_content="hm"), delta(None, "length"), USAGE, DONE),
        Told("", "length", reasoning="hm"),
    ),
    "cut before the first text": ("openai", events(delta(""), delta(None, "length"), USAGE), Told("", "length")),
    "a tool call": (
        "openai",
        events(delta(None, tool_calls=[{"index": 0, "function": {"name": "f"}}]), delta(None, "tool_calls"), USAGE),
        Told("", "tool_calls"),
    ),
    "a tool call that claims to have stopped": (
        "openai",
        events(delta(None, tool_calls=[{"index": 0, "function": {"name": "f"}}]), END, USAGE),
        Told("", "tool_calls"),
    ),
    "reasoning and then nothing": (
        "openai",
        events(delta(None, reasoning="hm"), END, USAGE),
        Told("", reasoning="hm"),
    ),
    # Anthropic's format
    "pings": ("anthropic", events(named("ping"), START, named("ping"), block("text_delta", text="Hello"), STOPPED, STOP), Told()),
    "an event of later days": (
        "anthropic",
        events(START, named("content_block_sparkle", sparkle={}), block("text_delta", text="Hello"), STOPPED, STOP),
        Told(),
    ),
    "a block of later days": (
        "anthropic",
        events(
            START,
            named("content_block_start", index=0, content_block={"type": "hologram", "data": []}),
            block("hologram_delta", data="x"),
            block("text_delta", text="Hello"),
            STOPPED,
            STOP,
        ),
        Told(),
    ),
    "thinking with its signature": (
        "anthropic",
        events(
            START,
            named("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
            block("thinking_delta", thinking="hm"),
            block("signature_delta", signature="c2ln"),
            block("text_delta", text="Hello"),
            STOPPED,
            STOP,
        ),
        Told(reasoning="hm"),
    ),
    "thinking that is not shown": (
        "anthropic",
        events(
            START,
            named("content_block_start", index=0, content_block={"type": "redacted_thinking", "data": "Zm9v"}),
            block("text_delta", text="Hello"),
            STOPPED,
            STOP,
        ),
        Told(),
    ),
    "text in the start of its block": (
        "anthropic",
        events(
            START,
            named("content_block_start", index=0, content_block={"type": "text", "text": "Hel"}),
            block("text_delta", text="lo"),
            STOPPED,
            STOP,
        ),
        Told(),
    ),
    "null deltas and blocks": (
        "anthropic",
        events(
            START,
            named("content_block_start", index=0, content_block=None),
            named("content_block_delta", index=0, delta=None),
            block("text_delta", text="Hello"),
            named("content_block_delta", index=0, delta={"type": "text_delta", "text": None}),
            STOPPED,
            STOP,
        ),
        Told(),
    ),
    "a null message, a null usage": (
        "anthropic",
        events(
            named("message_start", message=None),
            block("text_delta", text="Hello"),
            named("message_delta", delta={"stop_reason": "end_turn"}, usage=None),
            STOP,
        ),
        NO_USAGE,
    ),
    "an empty stop reason before the last": (
        "anthropic",
        events(START, named("message_delta", delta={"stop_reason": ""}), block("text_delta", text="Hello"), STOPPED, STOP),
        Told(),
    ),
    "input tokens only at the end": (
        "anthropic",
        events(
            named("message_start", message={"usage": {"input_tokens": 0, "output_tokens": 0}}),
            block("text_delta", text="Hello"),
            named("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 3, "output_tokens": 2}),
            STOP,
        ),
        Told(),
    ),
    "input tokens told again without the cached ones": (
        "anthropic",
        events(
            named("message_start", message={"usage": {"input_tokens": 1, "cache_read_input_tokens": 2}}),
            block("text_delta", text="Hello"),
            named("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 1, "output_tokens": 2}),
            STOP,
        ),
        Told(),
    ),
    "no message_stop": ("anthropic", events(START, block("text_delta", text="Hello"), STOPPED), Told()),
    "OpenAI's end mark": ("anthropic", events(START, block("text_delta", text="Hello"), STOPPED, DONE), Told()),
    "no event names": (
        "anthropic",
        b"\n".join(
            line for line in events(START, block("text_delta", text="Hello"), STOPPED, STOP).split(b"\n") if b"event:" not in line
        ),
        Told(),
    ),
    "all tokens went into thinking": (
        "anthropic",
        events(
            START,
            block("thinking_delta", thinking="hm"),
            named("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 2}),
            STOP,
        ),
        Told("", "length", reasoning="hm"),
    ),
    "a tool call of Anthropic's": (
        "anthropic",
        events(
            START,
            named("content_block_start", index=0, content_block={"type": "tool_use", "name": "f", "input": {}}),
            block("input_json_delta", partial_json="{}"),
            named("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 2}),
            STOP,
        ),
        Told("", "tool_calls"),
    ),
}  # fmt: skip


async def streamed(wire: str, reply: Reply) -> Told:
    transport = ScriptedTransport(reply)
    provider = provider_for(wire, transport=transport, stall_timeout=5)
    endpoint = ApiEndpoint("alpha", "https://alpha.example/v1", api_key="sk-1", model="m", provider=wire)
    text, reasoning, finish_reason, usage = "", "", "", None
    async for chunk in provider.stream(endpoint, REQUEST, 5):
        assert not finish_reason, "a chunk came after the last one"
        text, reasoning = text + chunk.text, reasoning + chunk.reasoning
        finish_reason = chunk.finish_reason or ""
        usage = chunk.usage or usage
    assert transport.open == 0
    return Told(text, finish_reason, usage, reasoning)


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[start : start + size] for start in range(0, len(stream), size)]


@pytest.mark.parametrize("size", [1, 7, 1 << 20], ids=["byte by byte", "by seven", "at once"])
@pytest.mark.parametrize(("wire", "stream", "told"), TOLERATED.values(), ids=TOLERATED)
async def test_a_shape_nobody_promised_is_read_as_what_it_means(
    wire: str, stream: bytes, told: Told, size: int
) -> None:
    assert await streamed(wire, Reply(pieces(stream, size), content_type="text/event-stream")) == told


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", "application/octet-stream"])
async def test_an_event_stream_is_read_under_any_name(content_type: str) -> None:
    for stream in (events(delta("Hello"), END, USAGE, DONE), events(": hello\n\n", delta("Hello"), END, USAGE, DONE)):
        assert await streamed("openai", Reply([stream], content_type=content_type)) == Told()


async def test_a_server_that_always_streams_answers_a_whole_call_too() -> None:
    stream = events({**delta("Hel"), "model": "big"}, delta("lo", reasoning="hm"), END, USAGE, DONE)
    for content_type in ("text/event-stream", "application/json"):
        transport = ScriptedTransport(Reply([stream], content_type=content_type))
        endpoint = ApiEndpoint("alpha", "https://alpha.example/v1", model="m")
        answer = await provider_for("openai", transport=transport).chat(endpoint, REQUEST, 5)
        assert (answer.text, answer.reasoning, answer.usage, answer.finish_reason, answer.model) == (
            ("Hello", "hm", Usage(3, 2), "stop", "big")
        )


OPENING = delta("Hel")

# wire, stream, kind, status, code
ERRORS: dict[str, tuple[str, bytes, str, int, str]] = {
    "an error with a status": ("openai", events({"error": {"code": 502, "message": "upstream"}}), "status", 502, ""),
    "an error with a status as text": ("openai", events({"error": {"code": "429", "message": "slow"}}), "status", 429, ""),
    "an error with a word": ("openai", events({"error": {"code": "rate_limit_exceeded"}}), "status", 429, "rate_limit_exceeded"),
    "an error that is a text": ("openai", events({"error": "boom"}), "status", 500, ""),
    "an error that is true": ("openai", events({"error": True}), "status", 500, ""),
    "an error after text": ("openai", events(OPENING, {"error": {"code": 503}}), "status", 503, ""),
    "an error beside a choice": (
        "openai", events({**delta("", "error"), "error": {"code": "server_error", "message": "lost"}}), "status", 500, "server_error"
    ),
    "an error inside a choice": (
        "openai", events({"choices": [{"error": {"code": 502, "message": "x"}, "delta": {}}]}), "status", 502, ""
    ),
    "an error under its event's name": (
        "openai", events('event: error\ndata: {"message": "overloaded", "code": 503}\n\n'), "status", 503, ""
    ),
    "an error that is no JSON, under its event's name": ("openai", events("event: error\ndata: worker died\n\n"), "status", 500, ""),
    "an error as a field of the stream": ("openai", events('error: {"code": 503, "message": "slot lost"}\n\n'), "status", 503, ""),
    "an error as plain JSON": ("openai", b'{"error": {"message": "bad key", "code": "invalid_api_key"}}', "status", 401, "invalid_api_key"),
    "an error as an object of that name": (
        "openai", events({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}), "status", 400, "BadRequestError"
    ),
    "an error as its type": ("openai", events({"type": "error", "message": "no"}), "status", 500, ""),
    "MiniMax without balance": (
        "openai", events({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}), "status", 402, ""
    ),
    "MiniMax beside a choice": (
        "openai", events({**delta(""), "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}), "status", 429, ""
    ),
    "MiniMax with a filter": (
        "openai", events({"base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}}), "status", 400, "content_filter"
    ),
    "a code and a message": ("openai", events({"code": 500, "msg": "404 NOT_FOUND", "success": False}), "status", 500, ""),
    "a status and a message": ("openai", events({"status": "449", "msg": "exceeded your current rate limit"}), "status", 429, "449"),
    "a word and a message": ("openai", events({"code": "InvalidApiKey", "message": "no such key"}), "status", 500, "InvalidApiKey"),
    "a detail": ("openai", events({"detail": "Not authenticated"}), "status", 500, ""),
    "Baidu's": ("openai", events({"error_code": 17, "error_msg": "Open api daily request limit reached"}), "status", 500, ""),
    "a list of errors": ("openai", events({"success": False, "errors": [{"code": 10000, "message": "auth"}]}), "status", 500, ""),
    "a finish reason of a failed server": (
        "openai", events(OPENING, delta(None, "insufficient_system_resource")), "status", 500, "insufficient_system_resource"
    ),
    "a finish reason of a lost network": ("openai", events(OPENING, delta(None, "network_error")), "status", 500, "network_error"),
    "a finish reason of an aborted request": ("openai", events(OPENING, delta(None, "abort")), "status", 500, "abort"),
    "no finish reason": ("openai", events(OPENING), "cut", 200, "no_finish_reason"),
    # A gateway ends every stream so, one that broke off upstream too.
    "no finish reason but the end mark": ("openai", events(OPENING, USAGE, DONE), "cut", 200, "no_finish_reason"),
    "nothing at all": ("openai", b"", "cut", 200, "no_finish_reason"),
    "nothing but the end mark": ("openai", events(DONE), "cut", 200, "no_finish_reason"),
    "nothing but comments": ("openai", events(": hello\n\n" * 3), "cut", 200, "no_finish_reason"),
    "an event cut in two": ("openai", events(OPENING, END)[:-9], "cut", 200, "no_finish_reason"),
    "an event that is no object": ("openai", events(OPENING, [1], END), "protocol", 200, ""),
    "an event that is no JSON": ("openai", events(OPENING, "data: {'a'\n\n", END), "protocol", 200, ""),
    "two events run together": ("openai", events('data: {"choices": [{"del\ndata: {"error": {"code": 502}}\n\n'), "protocol", 200, ""),
    "bytes that are no text": ("openai", events(OPENING) + b"data: \xff\n\n", "protocol", 200, ""),
    "a page": ("openai", b"<!doctype html><title>Sign in</title>", "protocol", 200, ""),
    "an empty answer": ("openai", events(delta(""), END, USAGE, DONE), "empty", 200, "stop"),
    "a filtered answer": ("openai", events(delta(""), delta(None, "content_filter"), USAGE, DONE), "empty", 200, "content_filter"),
    "an answer filtered in other words": ("openai", events(delta(None, "sensitive"), USAGE, DONE), "empty", 200, "content_filter"),
    "Anthropic's error": (
        "anthropic", events(START, named("error", error={"type": "overloaded_error", "message": "Overloaded"})), "status", 529, "overloaded_error"
    ),
    "Anthropic's error without a name": (
        "anthropic", events({"type": "error", "error": {"type": "rate_limit_error"}}), "status", 429, "rate_limit_error"
    ),
    "Anthropic's error that is empty": ("anthropic", events("event: error\ndata: {}\n\n"), "status", 500, ""),
    "an error of a gateway before Anthropic's format": (
        "anthropic", events({"error": {"message": "no upstream", "code": 503}}), "status", 503, ""
    ),
    "Anthropic's refusal": (
        "anthropic", events(START, named("message_delta", delta={"stop_reason": "refusal"}), STOP), "empty", 200, "content_filter"
    ),
    "Anthropic's stream without an end": ("anthropic", events(START, block("text_delta", text="Hel")), "cut", 200, "no_finish_reason"),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "at once"])
@pytest.mark.parametrize(("wire", "stream", "kind", "status", "code"), ERRORS.values(), ids=ERRORS)
async def test_an_error_is_told_from_an_answer_in_any_dress(
    wire: str, stream: bytes, kind: str, status: int, code: str, size: int
) -> None:
    with pytest.raises(ProviderError) as caught:
        await streamed(wire, Reply(pieces(stream, size), content_type="text/event-stream"))
    assert (caught.value.kind, caught.value.status, caught.value.code) == (kind, status, code)
    assert caught.value.fix


def message(**more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "Hello", **more}, "finish_reason": "stop"}], "usage": USAGE["usage"]}


WHOLE: dict[str, tuple[str, Any, Told | tuple[str, int, str]]] = {
    "parts": ("openai", message(content=[{"type": "text", "text": "Hello"}]), Told()),
    "nulls": ("openai", {**message(tool_calls=None, refusal=None), "error": None, "base_resp": None}, Told()),
    "a status of no fault": ("openai", {**message(), "base_resp": {"status_code": 0, "status_msg": ""}}, Told()),
    "no finish reason": ("openai", {"choices": [{"message": {"content": "Hello"}}], "usage": USAGE["usage"]}, Told()),
    "a delta for a message": (
        "openai", {"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE["usage"]}, Told()
    ),
    "usage as text": ("openai", {**message(), "usage": {"prompt_tokens": "3", "completion_tokens": 2.0}}, Told()),
    "reasoning": ("openai", message(reasoning_content="hm"), Told(reasoning="hm")),
    "thinking parts": (
        "openai", message(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hello"}]),
        Told(reasoning="hm"),
    ),
    "only reasoning": (
        "openai", {"choices": [{"message": {"content": "", "reasoning": "hm"}, "finish_reason": "length"}], "usage": USAGE["usage"]},
        Told("", "length", reasoning="hm"),
    ),
    "null content, no reasoning, cut": (
        "openai", {"choices": [{"message": {"content": None}, "finish_reason": "length"}], "usage": USAGE["usage"]}, Told("", "length")
    ),
    "a tool call": (
        "openai",
        {"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}, "finish_reason": "tool_calls"}], "usage": USAGE["usage"]},
        Told("", "tool_calls"),
    ),
    "the old name of a tool call": (
        "openai",
        {"choices": [{"message": {"content": None, "function_call": {"name": "f"}}, "finish_reason": "function_call"}]},
        Told("", "tool_calls", Usage(0, 0)),
    ),
    "a refusal": ("openai", message(content=None, refusal="Hello"), Told()),
    "filtered": (
        "openai", {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}, ("empty", 200, "content_filter")
    ),
    "empty": ("openai", message(content=""), ("empty", 200, "stop")),
    "no message": ("openai", {"choices": [{"finish_reason": None}]}, ("protocol", 200, "")),
    "MiniMax without balance": (
        "openai", {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, ("status", 402, "")
    ),
    "a code and a message": ("openai", {"code": 500, "msg": "404 NOT_FOUND", "success": False}, ("status", 500, "")),
    "an error beside choices": ("openai", {"choices": [], "error": {"code": 429, "message": "x"}}, ("status", 429, "")),
    "broken off by the server": (
        "openai", {"choices": [{"message": {"content": "Hel"}, "finish_reason": "insufficient_system_resource"}]},
        ("status", 500, "insufficient_system_resource"),
    ),
    "Anthropic's thinking": (
        "anthropic",
        {"type": "message", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hello"}],
         "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}},
        Told(reasoning="hm"),
    ),
    "Anthropic's thinking alone": (
        "anthropic",
        {"type": "message", "content": [{"type": "thinking", "thinking": "hm"}], "stop_reason": "max_tokens",
         "usage": {"input_tokens": "3", "output_tokens": 2.0}},
        Told("", "length", reasoning="hm"),
    ),
    "content as a text": (
        "anthropic", {"content": "Hello", "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}, Told()
    ),
    "null content of a refusal": (
        "anthropic", {"type": "message", "content": None, "stop_reason": "refusal"}, ("empty", 200, "content_filter")
    ),
    "a block of later days": (
        "anthropic",
        {"content": [{"type": "hologram"}, None, {"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
         "usage": {"input_tokens": 3, "output_tokens": 2}},
        Told(),
    ),
    "a tool call of Anthropic's": (
        "anthropic",
        {"content": [{"type": "tool_use", "name": "f", "input": {}}], "stop_reason": "tool_use",
         "usage": {"input_tokens": 3, "output_tokens": 2}},
        Told("", "tool_calls"),
    ),
    "Anthropic's error": ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}, ("status", 529, "overloaded_error")),
    "an empty answer of Anthropic's": ("anthropic", {"content": [], "stop_reason": "end_turn"}, ("empty", 200, "stop")),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["asked whole", "asked as a stream"])
@pytest.mark.parametrize(("wire", "body", "told"), WHOLE.values(), ids=WHOLE)
async def test_a_whole_answer_is_read_as_what_it_means(
    wire: str, body: Any, told: Told | tuple[str, int, str], stream: bool
) -> None:
    reply = Reply([json.dumps(body).encode()])
    endpoint = ApiEndpoint("alpha", "https://alpha.example/v1", model="m", provider=wire)
    try:
        if stream:
            found: Any = await streamed(wire, reply)
        else:
            answer = await provider_for(wire, transport=ScriptedTransport(reply)).chat(endpoint, REQUEST, 5)
            found = Told(answer.text, answer.finish_reason, answer.usage, answer.reasoning)
    except ProviderError as error:
        found = (error.kind, error.status, error.code)
    assert found == told
