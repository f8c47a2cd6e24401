"""Every kind of fault of a real HTTP server (our replica of Failover Bench's list), and what the pool makes of each."""

import socket
from email.utils import formatdate

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.provider import ProviderError
from core.cloud.providers import provider_for
from core.errors import AllEndpointsFailed
from tests.support.llm_server import Step

PROMPT = "hello"
ASK = {"messages": PROMPT, "deadline": 20.0}


@pytest.fixture
def manager():
    manager = ApiManager(providers={name: provider_for(name, stall_timeout=0.3) for name in ("openai", "anthropic")})
    yield manager
    manager.close()


def pair(manager, server, *steps, timeout=5.0, base_url=""):
    """A first endpoint that fails as scripted, and a second one that works."""
    server.script("first", *steps)
    server.script("second", Step(text="from the second"))
    manager.add_endpoint(
        ApiEndpoint("first", base_url or server.base_url("first"), "sk-canary-first", "m", timeout=timeout)
    )
    manager.add_endpoint(ApiEndpoint("second", server.base_url("second"), "sk-canary-second", "m", priority=2))


def held(manager):
    """Seconds for which the first endpoint is held."""
    return manager.get_stats()["endpoints"]["first"]["cooldown_seconds"]


async def stream(manager):
    return [chunk async for chunk in manager.astream(PROMPT, deadline=20.0)]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


FAULTS = {
    "500": (Step(status=500), "transient"),
    "502": (Step(status=502), "transient"),
    "401": (Step(status=401), "endpoint_fault"),
    "402": (Step(status=402), "endpoint_fault"),
    "403": (Step(status=403), "endpoint_fault"),
    "404": (Step(status=404), "endpoint_fault"),
    "429": (Step(status=429), "rate_limited"),
    "529": (Step(status=529), "rate_limited"),
    "read timeout": (Step(fault="hang"), "transient"),
    "connection reset": (Step(fault="reset"), "transient"),
    "connection closed": (Step(fault="close"), "transient"),
    "answer cut": (Step(fault="cut"), "transient"),
    "empty answer": (Step(fault="empty"), "transient"),
    "web page instead of JSON": (Step(fault="html"), "transient"),
    "broken JSON": (Step(fault="not_json"), "transient"),
    "JSON of another shape": (Step(fault="no_choices"), "transient"),
    "redirect": (Step(fault="redirect"), "endpoint_fault"),
    "bytes that are not HTTP": (Step(fault="garbage"), "transient"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_second_endpoint_answers_when_the_first_fails(manager, llm_server, fault):
    step, kind = FAULTS[fault]
    pair(manager, llm_server, step, timeout=0.5)
    result = await manager.achat(**ASK)
    assert (result.text, result.endpoint) == ("from the second", "second")
    assert [str(attempt.outcome) for attempt in result.attempts] == [kind, "ok"]
    assert len(llm_server.arrivals("first")) == 1
    assert held(manager) > 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/v1", "http://no-such-host.invalid/v1"])
async def test_an_endpoint_that_cannot_be_reached_is_passed_over(manager, llm_server, url):
    pair(manager, llm_server, base_url=url.format(port=closed_port()))
    result = await manager.achat(**ASK)
    assert result.endpoint == "second"
    assert result.attempts[0].outcome == "transient"


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "7"}, 6, 7),
        ({"retry-after": "2.5"}, 2, 2.5),
        ({"retry-after-ms": "3500"}, 3, 3.5),
        ({"retry-after": "DATE"}, 18, 21),
    ],
)
async def test_a_429_holds_the_endpoint_for_as_long_as_it_says(manager, llm_server, headers, least, most):
    headers = {
        name: formatdate(manager._clock.now() + 20, usegmt=True) if value == "DATE" else value
        for name, value in headers.items()
    }
    pair(manager, llm_server, Step(status=429, headers=headers))
    assert (await manager.achat(**ASK)).endpoint == "second"
    assert least <= held(manager) <= most
    assert manager.get_stats()["endpoints"]["first"]["status"] == "rate_limited"
    assert (await manager.achat(**ASK)).endpoint == "second"
    assert len(llm_server.arrivals("first")) == 1


@pytest.mark.parametrize("fault", ["hang", "empty", "close", "html"])
async def test_a_stream_that_fails_before_its_first_token_goes_to_the_second_endpoint(manager, llm_server, fault):
    pair(manager, llm_server, Step(fault=fault), timeout=0.5)
    assert "".join(chunk.text for chunk in await stream(manager)) == "from the second"
    assert manager.get_stats()["endpoints"]["first"]["outcomes"] == {"transient": 1}


@pytest.mark.parametrize("fault", ["stall", "cut", "no_finish", "bad_chunk", "error_event"])
async def test_a_stream_that_fails_after_its_first_token_says_so_and_keeps_the_text(manager, llm_server, fault):
    pair(manager, llm_server, Step(fault=fault, text="one two three four five six"))
    with pytest.raises(ProviderError) as failure:
        await stream(manager)
    assert failure.value.partial.startswith("one")
    info = manager.get_stats()["endpoints"]
    assert info["first"]["outcomes"] == {"transient": 1}
    assert info["second"]["calls"] == 0
    assert info["first"]["in_flight"] == 0


async def test_a_stream_that_is_left_early_blames_nobody_and_holds_nothing(manager, llm_server):
    pair(manager, llm_server, Step(text="one two three"))
    chunks = manager.astream(PROMPT)
    await anext(chunks)
    await chunks.aclose()
    info = manager.get_stats()["endpoints"]["first"]
    assert info["outcomes"] == {"cancelled": 1}
    assert (info["in_flight"], info["status"]) == (0, "active")


async def test_a_stream_counts_its_tokens_and_ends_with_a_finish_reason(manager, llm_server):
    pair(manager, llm_server, Step(text="one two three"))
    chunks = await stream(manager)
    assert "".join(chunk.text for chunk in chunks) == "one two three"
    assert chunks[-1].finish_reason == "stop"
    assert {chunk.endpoint for chunk in chunks} == {"first"}
    info = manager.get_stats()["endpoints"]["first"]
    assert info["successes"] == 1
    assert info["tokens_out"] > 0


@pytest.mark.parametrize("status", [400, 422])
async def test_a_request_that_is_wrong_is_raised_at_once_and_blames_nobody(manager, llm_server, status):
    pair(manager, llm_server, Step(status=status))
    with pytest.raises(ProviderError) as failure:
        await manager.achat(**ASK)
    assert failure.value.status == status
    assert len(llm_server.arrivals("second")) == 0
    assert manager.get_stats()["endpoints"]["first"]["status"] == "active"


async def test_when_every_endpoint_fails_the_error_tells_each_attempt_and_shows_no_key(manager, llm_server):
    pair(manager, llm_server, Step(status=401))
    llm_server.script("second", Step(status=503))
    with pytest.raises(AllEndpointsFailed) as failure:
        await manager.achat(messages=PROMPT, deadline=3.0, max_retries=2)
    text = str(failure.value)
    assert "1. first: endpoint_fault" in text
    assert "2. second: transient" in text
    assert "canary" not in text
    assert [attempt.endpoint for attempt in failure.value.attempts] == ["first", "second"]


@pytest.mark.parametrize("way", ["chat", "stream"])
async def test_the_http_engine_is_loaded_before_a_slot_is_taken(llm_server, monkeypatch, way):
    manager = ApiManager()
    pair(manager, llm_server, Step())
    state = manager._pool.get("first").state
    admit, ready = type(state).admit, []

    def admitting(self, clock, **options):
        ready.append("openai" in manager._providers)
        return admit(self, clock, **options)

    monkeypatch.setattr(type(state), "admit", admitting)
    await (manager.achat(**ASK) if way == "chat" else stream(manager))
    assert ready == [True]
    await manager.aclose()
