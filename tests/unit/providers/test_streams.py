"""Streamed answers over real sockets: what ends well, what does not, and what neither passes for the other."""

import asyncio

import pytest

from core.cloud.chat import ChatChunk, Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import Provider, ProviderError
from core.cloud.providers import provider_for
from core.network import open_transport
from tests.support.llm_server import Fault, LlmServer, Step
from tests.unit.providers.conftest import REQUEST

TEXT = "one two three four"


async def collect(
    provider: Provider, endpoint: ApiEndpoint, timeout: float = 5
) -> tuple[list[ChatChunk], ProviderError | None]:
    """The chunks, and the error the stream ended with."""
    chunks: list[ChatChunk] = []
    try:
        async for chunk in provider.stream(endpoint, REQUEST, timeout):
            chunks.append(chunk)
    except ProviderError as error:
        return chunks, error
    return chunks, None


def text_of(chunks: list[ChatChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("cut", "cut", "closed"),
        ("stall", "timeout", "stall"),
        ("no_finish", "cut", "no_finish_reason"),
        ("bad_chunk", "protocol", ""),
        ("empty", "empty", "stop"),
        ("error_event", "status", "overloaded_error"),
        ("html", "protocol", "content_type"),
        ("redirect", "protocol", "redirect"),
        ("reset", "cut", "closed"),
        ("garbage", "protocol", "not_http"),
    ],
)
async def test_a_stream_that_does_not_end_well_is_an_error_that_carries_what_came(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint, fault: Fault, kind: str, code: str
) -> None:
    llm_server.script("alpha", Step(text=TEXT, fault=fault, code="overloaded_error" if fault == "error_event" else ""))
    chunks, error = await collect(provider, alpha)
    assert error is not None
    assert (error.kind, error.code) == (kind, code)
    assert error.partial == text_of(chunks)
    assert all(chunk.finish_reason is None for chunk in chunks)
    if fault == "error_event":
        assert error.status == 529


async def test_a_stream_gives_its_text_in_pieces_then_reason_and_usage(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(text=TEXT))
    chunks, error = await collect(provider, alpha)
    assert error is None
    assert text_of(chunks) == TEXT
    assert len(chunks) == 5
    assert chunks[-1] == ChatChunk("", "stop", Usage(7, 3))


async def test_a_first_token_that_does_not_come_in_time_is_a_timeout_even_after_the_head(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(), Step(first_token_delay=30))
    await provider.chat(alpha, REQUEST, 5)
    chunks, error = await collect(provider, alpha, 0.3)
    assert chunks == []
    assert error is not None
    assert (error.kind, error.code, error.status) == ("timeout", "first_token", 200)


async def test_signs_of_life_are_no_tokens(llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint) -> None:
    llm_server.script("alpha", Step(), Step(fault="comments"))
    await provider.chat(alpha, REQUEST, 5)
    chunks, error = await collect(provider, alpha, 0.3)
    assert chunks == []
    assert error is not None
    assert (error.kind, error.code) == ("timeout", "first_token")


async def test_an_error_status_of_a_streamed_call_is_read_like_any_other(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(status=429, code="rate_limit_exceeded", headers={"retry-after": "3"}))
    _, error = await collect(provider, alpha)
    assert error is not None
    assert (error.kind, error.status, error.code, error.headers["retry-after"]) == (
        "status",
        429,
        "rate_limit_exceeded",
        "3",
    )


async def test_an_endless_error_body_is_read_no_further_than_it_needs(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(status=500, raw=b"x" * (1 << 20), content_type="text/plain"))
    _, error = await collect(provider, alpha)
    assert error is not None
    assert (error.kind, error.status) == ("status", 500)


async def test_a_server_that_ignores_stream_still_answers(
    llm_server: LlmServer, alpha: ApiEndpoint, transport_kind: str
) -> None:
    body = b'{"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}'
    llm_server.script("alpha", Step(raw=body))
    provider = provider_for("openai", transport=open_transport(kind=transport_kind))
    chunks, error = await collect(provider, alpha)
    await provider.aclose()
    assert error is None
    assert chunks == [ChatChunk("whole"), ChatChunk("", "stop", Usage(1, 0))]


async def test_a_finished_stream_is_a_success_although_its_usage_never_comes(
    llm_server: LlmServer, alpha: ApiEndpoint, transport_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import core.cloud.providers.http_provider as driver

    monkeypatch.setattr(driver, "AFTER_FINISH", 0.05)
    events = (
        b'data: {"choices": [{"delta": {"content": "done"}}]}\n\n'
        b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
    )
    # The server promises more than it sends, then waits.
    llm_server.script("alpha", Step(raw=events, content_type="text/event-stream", fault="cut"))
    llm_server.script("alpha", Step(raw=events * 2, content_type="text/event-stream", fault="cut"))
    provider = provider_for("openai", transport=open_transport(kind=transport_kind))
    chunks, error = await collect(provider, alpha)
    await provider.aclose()
    assert error is None
    assert chunks == [ChatChunk("done"), ChatChunk("", "stop", None)]


async def test_a_reader_who_stops_early_closes_the_connection(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(text=TEXT, fault="stall"))
    chunks = provider.stream(alpha, REQUEST, 5)
    assert (await anext(chunks)).text == "one "
    await chunks.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(llm_server.wait_until_idle)


async def test_a_cancelled_reader_leaves_the_provider_usable(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(fault="hang"), Step(text=TEXT))
    task = asyncio.create_task(collect(provider, alpha, 30))
    await asyncio.to_thread(llm_server.wait_for_arrivals, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    chunks, error = await collect(provider, alpha)
    assert (text_of(chunks), error) == (TEXT, None)
