"""An answer without text is an answer: nobody is blamed, nothing is paid for twice, and the caller learns why."""

import json
from typing import Any

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.providers import provider_for
from core.errors import AllEndpointsFailed
from tests.support.scripted_transport import Reply, ScriptedTransport

USAGE = {"prompt_tokens": 7, "completion_tokens": 50}
CLAUDE_USAGE = {"input_tokens": 7, "output_tokens": 50}


def answered(finish_reason: str, **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": USAGE}


def claude(stop_reason: str, *content: Any) -> dict[str, Any]:
    return {"type": "message", "content": list(content), "stop_reason": stop_reason, "usage": CLAUDE_USAGE}


# wire, the answer, finish reason, reasoning
NO_TEXT: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "DeepSeek: reasoning_content only": (
        "openai", answered("length", content="", reasoning_content="Let me see"), "length", "Let me see"
    ),
    "OpenRouter: reasoning only": ("openai", answered("length", content=None, reasoning="Let me see"), "length", "Let me see"),
    "OpenAI: hidden reasoning": ("openai", answered("length", content=""), "length", ""),
    "one token that shows nothing": ("anthropic", claude("max_tokens"), "length", ""),
    "Anthropic: thinking only": (
        "anthropic", claude("max_tokens", {"type": "thinking", "thinking": "Let me see"}), "length", "Let me see"
    ),
    "Mistral: thinking parts only": (
        "openai", answered("length", content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see"}]}]),
        "length", "Let me see",
    ),
    "a tool call": ("openai", answered("tool_calls", content=None, tool_calls=[{"id": "1"}]), "tool_calls", ""),
    "a tool call that claims to have stopped": (
        "openai", answered("stop", content="", tool_calls=[{"id": "1"}]), "tool_calls", ""
    ),
    "a tool call of Anthropic's": ("anthropic", claude("tool_use", {"type": "tool_use", "name": "f"}), "tool_calls", ""),
    "a turn that is to go on": ("anthropic", claude("pause_turn"), "pause_turn", ""),
    "reasoning, then nothing": ("openai", answered("stop", content="", reasoning="Let me see"), "stop", "Let me see"),
}  # fmt: skip


def manager_of(wire: str, body: dict[str, Any]) -> tuple[ApiManager, ScriptedTransport]:
    transport = ScriptedTransport(Reply([json.dumps(body).encode()]))
    manager = ApiManager(providers={wire: provider_for(wire, transport=transport)})
    for priority, name in enumerate(("first", "second"), 1):
        manager.add_endpoint(
            ApiEndpoint(name, f"https://{name}.example/v1", "sk-test-1", "m", provider=wire, priority=priority)
        )
    return manager, transport


def check_nobody_is_blamed(manager: ApiManager, transport: ScriptedTransport) -> None:
    assert len(transport.requests) == 1
    info = manager.get_stats()["endpoints"]["first"]
    assert (info["status"], info["outcomes"], info["in_flight"]) == ("active", {"ok": 1}, 0)
    assert (info["tokens_in"], info["tokens_out"]) == (7, 50)


@pytest.mark.parametrize(("wire", "body", "finish_reason", "reasoning"), NO_TEXT.values(), ids=NO_TEXT)
async def test_an_answer_without_text_is_returned_with_its_reasons_and_paid_for_once(
    wire: str, body: dict[str, Any], finish_reason: str, reasoning: str
) -> None:
    manager, transport = manager_of(wire, body)
    answer = await manager.achat("hi", max_tokens=50)
    assert (answer.text, answer.finish_reason, answer.reasoning) == ("", finish_reason, reasoning)
    check_nobody_is_blamed(manager, transport)


@pytest.mark.parametrize(("wire", "body", "finish_reason", "reasoning"), NO_TEXT.values(), ids=NO_TEXT)
async def test_a_stream_without_text_ends_with_its_reason(
    wire: str, body: dict[str, Any], finish_reason: str, reasoning: str
) -> None:
    manager, transport = manager_of(wire, body)
    chunks = [chunk async for chunk in manager.astream("hi", max_tokens=50)]
    assert ("".join(chunk.text for chunk in chunks), chunks[-1].finish_reason) == ("", finish_reason)
    assert "".join(chunk.reasoning for chunk in chunks) == reasoning
    check_nobody_is_blamed(manager, transport)


FILTERED: dict[str, tuple[str, dict[str, Any]]] = {
    "OpenAI": ("openai", answered("content_filter", content="")),
    "Azure, null content": ("openai", answered("content_filter", content=None)),
    "Zhipu": ("openai", answered("sensitive", content="")),
    "Gemini's word": ("openai", answered("SAFETY", content=None)),
    "Anthropic": ("anthropic", claude("refusal")),
    "Anthropic after thinking": ("anthropic", claude("refusal", {"type": "thinking", "thinking": "Let me see"})),
}


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize(("wire", "body"), FILTERED.values(), ids=FILTERED)
async def test_a_filtered_answer_goes_to_the_next_endpoint_and_blames_nobody(
    wire: str, body: dict[str, Any], way: str
) -> None:
    manager, transport = manager_of(wire, body)
    text = (
        answered("stop", content="Hello") if wire == "openai" else claude("end_turn", {"type": "text", "text": "Hello"})
    )
    transport.by_host["second"] = Reply([json.dumps(text).encode()])
    if way == "whole":
        said = (await manager.achat("hi")).text
    else:
        said = "".join([chunk.text async for chunk in manager.astream("hi")])
    assert said == "Hello"
    info = manager.get_stats()["endpoints"]["first"]
    assert (info["status"], info["outcomes"]) == ("active", {"unsuited": 1})
    assert (info["tokens_in"], info["tokens_out"]) == (7, 50)


async def test_when_all_answers_are_filtered_the_error_says_so() -> None:
    manager, transport = manager_of(*FILTERED["OpenAI"])
    with pytest.raises(AllEndpointsFailed, match="content filter") as failure:
        await manager.achat("hi")
    assert len(transport.requests) == 2
    assert "change what the messages say" in str(failure.value)


async def test_an_answer_with_nothing_in_it_at_all_is_asked_for_elsewhere() -> None:
    manager, transport = manager_of("openai", answered("stop", content=""))
    with pytest.raises(Exception, match="has no text"):
        await manager.achat("hi", max_retries=2)
    assert len(transport.requests) == 2
