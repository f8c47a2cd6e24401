"""LiteLLM's proxy as an endpoint of the pool, in both formats: answers, streams, and each refusal for what it is."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.provider import ProviderError
from core.errors import AllEndpointsFailed
from tests.peers.conftest import KEY, MOCKS
from tests.support.llm_server import LlmServer, Step

WIRES = ("openai", "anthropic")


@pytest.fixture
def manager() -> Iterator[ApiManager]:
    manager = ApiManager()
    yield manager
    manager.close()


def add(manager: ApiManager, litellm: str, wire: str, name: str, model: str, priority: int = 1, key: str = KEY) -> None:
    url = f"{litellm}/v1" if wire == "openai" else litellm
    manager.add_endpoint(ApiEndpoint(name, url, key, model, provider=wire, priority=priority, timeout=60))


@dataclass
class Said:
    text: str
    finish_reason: str
    endpoint: str


async def ask(manager: ApiManager, way: str) -> Said:
    if way == "whole":
        answer = await manager.achat("hi", max_tokens=50, deadline=90)
        return Said(answer.text, answer.finish_reason, answer.endpoint)
    chunks = [chunk async for chunk in manager.astream("hi", max_tokens=50, deadline=90)]
    return Said("".join(chunk.text for chunk in chunks), chunks[-1].finish_reason or "", chunks[-1].endpoint)


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
async def test_an_answer_comes_through_the_proxy(manager: ApiManager, litellm: str, wire: str, way: str) -> None:
    add(manager, litellm, wire, "proxy", "plain")
    said = await ask(manager, way)
    assert said == Said(MOCKS["plain"], "stop", "proxy")
    info = manager.get_stats()["endpoints"]["proxy"]
    assert (info["status"], info["outcomes"], info["in_flight"]) == ("active", {"ok": 1}, 0)
    assert info["tokens_in"] > 0
    assert info["tokens_out"] > 0


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_real_stream_is_translated_by_the_proxy_and_read_by_the_pool(
    manager: ApiManager, litellm: str, upstream: LlmServer, wire: str, way: str
) -> None:
    upstream.script("upstream", Step(text="one two three, 四", tokens_in=11, tokens_out=5))
    add(manager, litellm, wire, "proxy", "forwarded")
    said = await ask(manager, way)
    assert said == Said("one two three, 四", "stop", "proxy")
    info = manager.get_stats()["endpoints"]["proxy"]
    assert (info["outcomes"], info["tokens_in"], info["tokens_out"]) == ({"ok": 1}, 11, 5)


REFUSALS = {
    "limited": "rate_limited",
    "broken": "transient",
    "small": "unsuited",
    "nowhere": "endpoint_fault",
}


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("model", "outcome"), REFUSALS.items(), ids=REFUSALS)
async def test_a_refusal_of_the_proxy_is_known_for_what_it_is_and_the_next_endpoint_is_asked(
    manager: ApiManager, litellm: str, wire: str, way: str, model: str, outcome: str
) -> None:
    add(manager, litellm, wire, "first", model)
    add(manager, litellm, wire, "second", "plain", priority=2)
    assert (await ask(manager, way)).endpoint == "second"
    info = manager.get_stats()["endpoints"]["first"]
    assert (info["outcomes"], info["in_flight"]) == ({outcome: 1}, 0)
    assert (info["status"] == "active") == (outcome == "unsuited")


@pytest.mark.parametrize("wire", WIRES)
async def test_a_window_that_is_too_small_everywhere_is_named(manager: ApiManager, litellm: str, wire: str) -> None:
    add(manager, litellm, wire, "first", "small")
    with pytest.raises(AllEndpointsFailed, match="context window"):
        await ask(manager, "whole")


@pytest.mark.parametrize("fault", ["cut", "error_event"])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_stream_that_breaks_off_behind_the_proxy_is_no_whole_answer(
    manager: ApiManager, litellm: str, upstream: LlmServer, wire: str, fault: str
) -> None:
    upstream.script("upstream", Step(text="one two three four", fault=fault))  # type: ignore[arg-type]
    add(manager, litellm, wire, "proxy", "forwarded")
    with pytest.raises((ProviderError, AllEndpointsFailed)):
        await ask(manager, "streamed")
    info = manager.get_stats()["endpoints"]["proxy"]
    assert info["successes"] == 0
    assert info["in_flight"] == 0
