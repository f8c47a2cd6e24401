"""Whole answers over real sockets, both formats over both transports."""

from collections.abc import AsyncIterator

import pytest

from core.cloud.endpoint import ApiEndpoint
from core.cloud.providers import provider_for
from core.cloud.providers.base import ChatRequest, Provider, ProviderError, Usage
from core.network import open_transport
from tests.support.llm_server import Fault, LlmServer, Step

REQUEST = ChatRequest(messages=[{"role": "user", "content": "Say hello"}], model="small-1")
KEY = "sk-canary-0123456789abcdef"


@pytest.fixture(params=["httpx2", "aiohttp"])
def transport_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["openai", "anthropic"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(wire: str, transport_kind: str) -> AsyncIterator[Provider]:
    found = provider_for(wire, transport=open_transport(kind=transport_kind), stall_timeout=0.3)
    yield found
    await found.aclose()


def endpoint(server: LlmServer, name: str = "alpha", **values: object) -> ApiEndpoint:
    return ApiEndpoint(name, server.base_url(name), api_key=KEY, **values)


async def test_an_answer_arrives_whole_with_its_usage_and_reason(llm_server: LlmServer, provider: Provider) -> None:
    llm_server.script("alpha", Step(text="Hello, 世界", tokens_in=5, tokens_out=2))
    answer = await provider.chat(endpoint(llm_server), REQUEST, 5)
    assert (answer.text, answer.model, answer.usage, answer.finish_reason) == (
        "Hello, 世界",
        "small-1",
        Usage(5, 2),
        "stop",
    )


FAULTS: list[tuple[Step, str, int, str]] = [
    (Step(fault="reset"), "cut", 0, "closed"),
    (Step(fault="close"), "cut", 0, "closed"),
    (Step(fault="cut"), "cut", 0, "closed"),
    (Step(fault="hang"), "timeout", 0, "read"),
    (Step(fault="garbage"), "protocol", 0, "not_http"),
    (Step(fault="html"), "protocol", 200, "content_type"),
    (Step(fault="not_json"), "protocol", 200, ""),
    (Step(fault="no_choices"), "protocol", 200, ""),
    (Step(fault="redirect"), "protocol", 302, "redirect"),
    (Step(fault="empty"), "empty", 200, "stop"),
    (Step(status=500), "status", 500, "scripted"),
    (Step(status=429, code="insufficient_quota"), "status", 429, "insufficient_quota"),
    (Step(status=503, raw=b"<html>busy</html>", content_type="text/html"), "status", 503, ""),
]


@pytest.mark.parametrize(("step", "kind", "status", "code"), FAULTS, ids=lambda value: getattr(value, "fault", None))
async def test_every_fault_is_an_error_of_its_own_kind(
    llm_server: LlmServer, provider: Provider, step: Step, kind: str, status: int, code: str
) -> None:
    llm_server.script("alpha", step)
    with pytest.raises(ProviderError) as caught:
        await provider.chat(endpoint(llm_server), REQUEST, 0.3 if step.fault == "hang" else 5)
    error = caught.value
    assert (error.kind, error.status, error.code) == (kind, status, code)


async def test_streams(llm_server: LlmServer, provider: Provider) -> None:
    llm_server.script("alpha", Step(text="one two three"))
    chunks = [chunk async for chunk in provider.stream(endpoint(llm_server), REQUEST, 5)]
    assert "".join(chunk.text for chunk in chunks) == "one two three"
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == Usage(7, 3)


SF: list[tuple[Fault, str, str]] = [
    ("cut", "cut", "closed"),
    ("stall", "timeout", "stall"),
    ("no_finish", "cut", "no_finish_reason"),
    ("bad_chunk", "protocol", ""),
    ("empty", "empty", "stop"),
    ("error_event", "status", "overloaded_error"),
    ("html", "protocol", "content_type"),
]


@pytest.mark.parametrize(("fault", "kind", "code"), SF)
async def test_stream_faults(llm_server: LlmServer, provider: Provider, fault: Fault, kind: str, code: str) -> None:
    llm_server.script(
        "alpha", Step(text="one two three four", fault=fault, code="overloaded_error" if fault == "error_event" else "")
    )
    got = []
    with pytest.raises(ProviderError) as caught:
        async for chunk in provider.stream(endpoint(llm_server), REQUEST, 5):
            got.append(chunk)
    assert (caught.value.kind, caught.value.code) == (kind, code)
    assert caught.value.partial == "".join(chunk.text for chunk in got)
