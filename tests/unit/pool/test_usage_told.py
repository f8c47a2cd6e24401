"""Tokens that were told count, however the call ended, and whatever they were written as."""

import json
from typing import Any

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.provider import ProviderError
from core.cloud.providers import provider_for
from core.cloud.replies.token_counts import as_count, tokens_of
from core.errors import AllEndpointsFailed
from tests.support.scripted_transport import Reply, ScriptedTransport

USAGE = {"prompt_tokens": 70, "completion_tokens": 30}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(text: str | None, finish_reason: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}], **more})


CLAUDE = event({"type": "message_start", "message": {"usage": {"input_tokens": 70, "output_tokens": 30}}})
CLAUDE_TEXT = event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hel"}})


def manager_of(wire: str, reply: Reply, **settings: Any) -> ApiManager:
    manager = ApiManager(providers={wire: provider_for(wire, transport=ScriptedTransport(reply))})
    settings = {"timeout": 0.3, "max_requests_per_minute": 0, **settings}
    manager.add_endpoint(ApiEndpoint("only", "https://only.example/v1", "sk-test-1", "m", provider=wire, **settings))
    return manager


def counted(manager: ApiManager) -> tuple[int, int]:
    info = manager.get_stats()["endpoints"]["only"]
    assert info["in_flight"] == 0
    return info["tokens_in"], info["tokens_out"]


def stream(*pieces: bytes, **more: Any) -> Reply:
    return Reply(pieces, content_type="text/event-stream", **more)


ENDS: dict[str, tuple[str, Reply]] = {
    "cut after text": ("openai", stream(chunk("Hel", usage=USAGE), cut=True)),
    "cut before text": ("openai", stream(event({"choices": [], "usage": USAGE}), cut=True)),
    "stalled": ("openai", stream(chunk("Hel", usage=USAGE), hangs=True)),
    "no first token": ("openai", stream(event({"choices": [], "usage": USAGE}), hangs=True)),
    "no finish reason": ("openai", stream(chunk("Hel", usage=USAGE))),
    "an error after text": ("openai", stream(chunk("Hel", usage=USAGE), event({"error": {"code": 502}}))),
    "an error with usage": ("openai", stream(event({"error": {"code": 502}, "usage": USAGE}))),
    "broken off by the server": ("openai", stream(chunk("Hel", "insufficient_system_resource", usage=USAGE))),
    "nonsense after text": ("openai", stream(chunk("Hel", usage=USAGE), b"data: {\n\n")),
    "an empty stream": ("openai", stream(chunk("", "stop", usage=USAGE))),
    "a filtered stream": ("openai", stream(chunk("", "content_filter", usage=USAGE))),
    "Anthropic, cut after text": ("anthropic", stream(CLAUDE, CLAUDE_TEXT, cut=True)),
    "Anthropic, cut before text": ("anthropic", stream(CLAUDE, cut=True)),
    "Anthropic, overloaded in the middle": (
        "anthropic", stream(CLAUDE, CLAUDE_TEXT, event({"type": "error", "error": {"type": "overloaded_error"}}))
    ),
    "Anthropic, a refusal": (
        "anthropic", stream(CLAUDE, event({"type": "message_delta", "delta": {"stop_reason": "refusal"}}))
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wire", "reply"), ENDS.values(), ids=ENDS)
async def test_a_stream_that_ends_badly_is_counted_as_far_as_it_told(wire: str, reply: Reply) -> None:
    manager = manager_of(wire, reply)
    with pytest.raises((ProviderError, AllEndpointsFailed)):
        _ = [chunk async for chunk in manager.astream("hi", max_retries=1, deadline=20)]
    assert counted(manager) == (70, 30)


@pytest.mark.parametrize(
    ("wire", "first"), [("openai", [chunk("Hel", usage=USAGE)]), ("anthropic", [CLAUDE, CLAUDE_TEXT])]
)
async def test_a_stream_that_is_left_is_counted_as_far_as_it_told(wire: str, first: list[bytes]) -> None:
    manager = manager_of(wire, stream(*first, hangs=True))
    chunks = manager.astream("hi", deadline=20)
    await anext(chunks)
    await chunks.aclose()
    assert counted(manager) == (70, 30)


async def test_a_stream_that_is_left_while_it_reasons_is_counted() -> None:
    reasoning = event({"choices": [{"delta": {"reasoning": "hm"}}], "usage": USAGE})
    manager = manager_of("openai", stream(reasoning, hangs=True))
    chunks = manager.astream("hi", deadline=20)
    await anext(chunks)
    await chunks.aclose()
    assert counted(manager) == (70, 30)


WHOLE: dict[str, tuple[str, int, Any]] = {
    "an empty answer": ("openai", 200, {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}], "usage": USAGE}),
    "a filtered answer": (
        "openai", 200, {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}], "usage": USAGE}
    ),
    "no choices": ("openai", 200, {"choices": [], "usage": USAGE}),
    "an error in an answer": ("openai", 200, {"error": {"code": 502}, "usage": USAGE}),
    "an error": ("openai", 500, {"error": {"message": "lost"}, "usage": USAGE}),
    "a timeout of a gateway": ("openai", 504, {"error": {"message": "lost", "usage": USAGE}}),
    "an empty answer of Anthropic's": (
        "anthropic", 200, {"content": [], "stop_reason": "end_turn", "usage": {"input_tokens": 70, "output_tokens": 30}}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wire", "status", "body"), WHOLE.values(), ids=WHOLE)
async def test_an_answer_that_is_an_error_is_counted_as_far_as_it_told(wire: str, status: int, body: Any) -> None:
    manager = manager_of(wire, Reply([json.dumps(body).encode()], status=status))
    with pytest.raises(AllEndpointsFailed):
        await manager.achat("hi", max_retries=1, deadline=20)
    assert counted(manager) == (70, 30)


async def test_a_daily_limit_binds_on_what_was_paid_in_vain() -> None:
    body = {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}], "usage": USAGE}
    manager = manager_of("openai", Reply([json.dumps(body).encode()]), max_tokens_per_day=100)
    with pytest.raises(AllEndpointsFailed, match="has no text"):
        await manager.achat("hi", max_retries=1, deadline=20)
    with pytest.raises(AllEndpointsFailed, match="100 of 100 tokens used today"):
        await manager.achat("hi", max_retries=1, deadline=1)


class SdkError(Exception):
    def __init__(self, body: object) -> None:
        super().__init__("the SDK says no")
        self.status_code = 500
        self.body = body


async def test_what_an_exception_of_an_sdk_tells_is_counted() -> None:
    manager = manager_of("openai", Reply([]))

    def ask(_endpoint: ApiEndpoint) -> None:
        raise SdkError({"error": {"message": "lost"}, "usage": {"prompt_tokens": 70, "completion_tokens": 30.0}})

    with pytest.raises(AllEndpointsFailed):
        manager.call_with_retry(ask, max_retries=1)
    assert counted(manager) == (70, 30)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (12, 12),
        (12.0, 12),
        ("12", 12),
        ("12.0", 12),
        (" 12 ", 12),
        (1e3, 1000),
        (0, 0),
        (-1, None),
        (14417.92, 14418),
        (2.25, 2),
        (-0.75, None),
        ("twelve", None),
        ("", None),
        (None, None),
        (True, None),
        ([12], None),
        ({"value": 12}, None),
        (float("nan"), None),
        (float("inf"), None),
        ("nan", None),
        ("inf", None),
        ("9" * 5000, None),
        (2**63, 2**63),
    ],
)
def test_a_count_is_read_as_the_number_it_is(value: object, count: int | None) -> None:
    assert as_count(value) == count


@pytest.mark.parametrize("figure", [2**63, 2**63 - 1, 9223372036854775808.0, "9223372036854775808", 10**400, 1e300])
@pytest.mark.parametrize("way", ["whole", "streamed", "function"])
async def test_a_figure_no_answer_can_have_is_named_and_not_counted(
    figure: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    usage = {"prompt_tokens": figure, "completion_tokens": 30}
    body = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": usage}
    if way == "streamed":
        manager = manager_of("openai", stream(chunk("Hello", "stop", usage=usage)))
        _ = [piece async for piece in manager.astream("hi")]
    elif way == "whole":
        manager = manager_of("openai", Reply([json.dumps(body).encode()]))
        await manager.achat("hi")
    else:
        manager = manager_of("openai", Reply([]))
        manager.call_with_retry(lambda endpoint: body)
    assert counted(manager) == (0, 30)
    assert ("A result" if way == "function" else "only") + " says that its prompt took" in caplog.text


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"prompt_tokens": "7", "completion_tokens": 3.0}, (7, 3)),
        ({"prompt_tokens": None, "completion_tokens": 3}, (0, 3)),
        (
            {"input_tokens": 1, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 3},
            (7, 3),
        ),
        ({"input_tokens": 7, "cache_read_input_tokens": None, "output_tokens": 3}, (7, 3)),
        ([], (0, 0)),
        ("many", (0, 0)),
    ],
)
def test_usage_is_found_in_results_of_any_make(usage: Any, told: tuple[int, int]) -> None:
    assert tokens_of({"usage": usage}) == told
    assert tokens_of(type("Answer", (), {"usage": usage})()) == told
    if isinstance(usage, dict):
        assert tokens_of(type("Answer", (), {"usage": type("Usage", (), usage)()})()) == told
