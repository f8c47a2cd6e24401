"""Reasoning that streams is work: only a stall and the deadline end it, and it is shown as it comes."""

import asyncio
import json
from typing import Any

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.provider import ProviderError
from core.cloud.providers import provider_for
from core.errors import AllEndpointsFailed
from tests.support.scripted_transport import Reply, ScriptedTransport


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def delta(**parts: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": parts}]})


def block(kind: str, **parts: Any) -> bytes:
    return event({"type": "content_block_delta", "index": 0, "delta": {"type": kind, **parts}})


OPENAI_END = [delta(content="Hello"), event({"choices": [{"delta": {}, "finish_reason": "stop"}]}), event(b"[DONE]")]
CLAUDE_END = [
    block("text_delta", text="Hello"),
    event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
    event({"type": "message_stop"}),
]

# wire, one piece of work, what of it is shown
WORK: dict[str, tuple[str, bytes, str]] = {
    "reasoning_content": ("openai", delta(reasoning_content="hm "), "hm "),
    "reasoning": ("openai", delta(content="", reasoning="hm "), "hm "),
    "reasoning_details": ("openai", delta(reasoning_details=[{"type": "reasoning.text", "text": "hm "}]), "hm "),
    "encrypted reasoning": ("openai", delta(reasoning_details=[{"type": "reasoning.encrypted", "data": "Zg=="}]), ""),
    "thinking parts": ("openai", delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm "}]}]), "hm "),
    "a tool's arguments": ("openai", delta(tool_calls=[{"index": 0, "function": {"arguments": "{"}}]), ""),
    "thinking_delta": ("anthropic", block("thinking_delta", thinking="hm "), "hm "),
    "signature_delta": ("anthropic", block("signature_delta", signature="c2ln"), ""),
    "input_json_delta": ("anthropic", block("input_json_delta", partial_json="{"), ""),
    "redacted thinking": (
        "anthropic",
        event({"type": "content_block_start", "content_block": {"type": "redacted_thinking", "data": "Zg=="}}),
        "",
    ),
}  # fmt: skip
PIECES, GAP, TIMEOUT = 10, 0.2, 1.2


def manager_of(wire: str, timeout: float = TIMEOUT, **replies: Reply) -> tuple[ApiManager, ScriptedTransport]:
    transport = ScriptedTransport(**replies)
    manager = ApiManager(providers={wire: provider_for(wire, transport=transport)})
    for priority, name in enumerate(replies, 1):
        url = f"https://{name}.example/v1"
        manager.add_endpoint(
            ApiEndpoint(name, url, "sk-test-1", "m", provider=wire, priority=priority, timeout=timeout)
        )
    return manager, transport


def reply(*pieces: bytes, **more: Any) -> Reply:
    return Reply(pieces, content_type="text/event-stream", **more)


async def test_work_that_streams_past_the_timeout_is_waited_for_whatever_it_is() -> None:
    async def one(wire: str, piece: bytes) -> tuple[str, str, str, int]:
        end = OPENAI_END if wire == "openai" else CLAUDE_END
        manager, _ = manager_of(wire, first=reply(*[piece] * PIECES, *end, gap=GAP))
        chunks = [chunk async for chunk in manager.astream("hi", deadline=60)]
        info = manager.get_stats()["endpoints"]["first"]
        return (
            "".join(chunk.text for chunk in chunks),
            "".join(chunk.reasoning for chunk in chunks),
            info["status"],
            info["calls"],
        )

    # Together, because each takes its time.
    found = await asyncio.gather(*(one(wire, piece) for wire, piece, _ in WORK.values()))
    assert dict(zip(WORK, found, strict=True)) == {
        kind: ("Hello", shown * PIECES, "active", 1) for kind, (_, _, shown) in WORK.items()
    }


async def test_reasoning_is_shown_before_the_text_is_there() -> None:
    manager, _ = manager_of("openai", first=reply(delta(reasoning="hm"), hangs=True))
    chunks = manager.astream("hi", deadline=60)
    chunk = await anext(chunks)
    assert (chunk.text, chunk.reasoning, chunk.endpoint) == ("", "hm", "first")
    await chunks.aclose()
    info = manager.get_stats()["endpoints"]["first"]
    assert (info["outcomes"], info["in_flight"], info["status"]) == ({"cancelled": 1}, 0, "active")


BROKEN = {
    "stalls": ({"hangs": True}, b"", "stopped coming between two tokens"),
    "is cut off": ({"cut": True}, b"", "the connection was lost"),
    "ends": ({}, b"", "ended without a finish reason"),
    "ends in an error": ({}, event({"error": {"code": 502, "message": "upstream"}}), "reports an error"),
    "ends in nonsense": ({}, b"data: {\n\n", "is not JSON"),
}


@pytest.mark.parametrize(("more", "piece", "said"), BROKEN.values(), ids=BROKEN)
async def test_reasoning_that_breaks_off_before_any_text_goes_to_the_next_endpoint(
    more: dict[str, Any], piece: bytes, said: str
) -> None:
    first = reply(delta(reasoning="hm"), piece, **more)
    manager, _ = manager_of("openai", 0.3, first=first, second=reply(delta(reasoning="so"), *OPENAI_END))
    chunks = [chunk async for chunk in manager.astream("hi", deadline=60)]
    assert [(chunk.reasoning, chunk.endpoint) for chunk in chunks if chunk.reasoning] == [
        ("hm", "first"),
        ("so", "second"),
    ]
    assert "".join(chunk.text for chunk in chunks) == "Hello"
    info = manager.get_stats()["endpoints"]
    assert info["first"]["outcomes"] == {"transient": 1}
    assert said in info["first"]["last_error"]
    assert info["second"]["outcomes"] == {"ok": 1}


@pytest.mark.parametrize("text", [False, True], ids=["in reasoning", "in text"])
async def test_a_stream_that_is_at_work_at_the_deadline_blames_nobody(text: bool) -> None:
    piece = delta(content="la ") if text else delta(reasoning="hm ")
    manager, transport = manager_of("openai", 30, first=reply(*[piece] * 1000, gap=0.05))
    shown = []
    with pytest.raises(ProviderError if text else AllEndpointsFailed) as failure:
        async for chunk in manager.astream("hi", deadline=0.5):
            shown.append(chunk)
    assert "at the call's deadline" in str(failure.value)
    assert "TimeoutError" not in str(failure.value)
    assert len(shown) > 1
    info = manager.get_stats()["endpoints"]["first"]
    assert (info["outcomes"], info["status"], info["in_flight"]) == ({"cancelled": 1}, "active", 0)
    assert transport.open == 0


async def test_a_stream_without_a_first_token_is_a_timeout_in_words() -> None:
    manager, _ = manager_of("openai", 0.2, first=reply(b": waiting\n\n", hangs=True))
    with pytest.raises(AllEndpointsFailed) as failure:
        _ = [chunk async for chunk in manager.astream("hi", deadline=60, max_retries=1)]
    assert "did not start in time" in str(failure.value)
