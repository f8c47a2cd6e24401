"""A kept-alive connection that the server gives up as the next request goes out: both transports, real sockets."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.network import HttpError, HttpRequest, RequestHeaders, Transport
from core.network.aiohttp_transport import AiohttpTransport
from core.network.httpcore_transport import HttpcoreTransport
from core.network.stale import SOON, Sent
from tests.support.llm_server import LlmServer, Step
from tests.support.raw_server import GAVE_UP, Action, RawServer, answer
from tests.support.tls import make_certificates

HALF = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n{"


@pytest.fixture(params=[HttpcoreTransport, AiohttpTransport], ids=["httpx2", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    found: Transport = request.param()
    return found


async def by_send(transport: Transport, request: HttpRequest, timeout: float) -> int:
    return (await transport.send(request, timeout)).status


async def by_stream(transport: Transport, request: HttpRequest, timeout: float) -> int:
    async with transport.stream(request, timeout) as response:
        await response.read()
        return response.status


Ask = Callable[[Transport, HttpRequest, float], "asyncio.Future[int]"]


@pytest.fixture(params=[by_send, by_stream], ids=["whole", "streamed"])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


def post(url: str, body: bytes = b"{}", method: str = "POST") -> HttpRequest:
    return HttpRequest(method, url, RequestHeaders({"content-type": "application/json"}), body)


LOST = {
    "closed when the head of the request was read": Action(then="close", reads="head"),
    "closed when all of the request was read": Action(then="close"),
    "reset when the request was read": Action(then="reset"),
    "reset in the middle of the request": Action(then="reset", reads="start"),
    "given up waiting with a 408": Action(GAVE_UP, then="close", reads="head"),
    "given up waiting with a 408, connection reset": Action(GAVE_UP, then="reset", reads="start"),
}


@pytest.mark.parametrize("body", [b"{}", b"x" * 3_000_000], ids=["small", "large"])
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_a_request_lost_with_a_used_connection_is_sent_once_more_on_a_fresh_one(
    transport: Transport, ask: Ask, lost: Action, body: bytes
) -> None:
    with RawServer([answer(), lost, answer()]) as server:
        assert await ask(transport, post(server.url), 5) == 200
        assert await ask(transport, post(server.url, body), 5) == 200
        assert server.requests == [1, 1, 2]
        await transport.aclose()


async def test_a_connection_closed_after_the_answer_before_it_costs_nothing(transport: Transport, ask: Ask) -> None:
    with RawServer([answer(then="close")]) as server:
        for _ in range(10):
            assert await ask(transport, post(server.url), 5) == 200
        await transport.aclose()


async def test_the_same_through_tls_with_its_goodbye(
    transport: Transport, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, ca_file = make_certificates(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with RawServer([answer(), Action(then="close"), answer()], context) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        assert await ask(transport, post(url), 5) == 200
        assert await ask(transport, post(url), 5) == 200
        assert server.requests == [1, 1, 2]
        await transport.aclose()
    assert isinstance(context, ssl.SSLContext)


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("lost", [Action(then="close"), Action(then="reset")], ids=["closed", "reset"])
async def test_a_request_lost_with_a_fresh_connection_is_not_sent_again(
    transport: Transport, ask: Ask, lost: Action, method: str
) -> None:
    with RawServer([lost]) as server:
        with pytest.raises(HttpError) as caught:
            await ask(transport, post(server.url, b"", method), 5)
        assert (caught.value.kind, server.requests) == ("cut", [1])


@pytest.mark.parametrize(
    "lost",
    [
        Action(b"HTTP/1.1 2", then="close"),
        Action(b"HTTP/1.1 200 OK\r\ncontent-", then="reset"),
        Action(b"HTTP/1.1 103 Early Hints\r\n\r\n", then="close"),
        Action(HALF, then="close"),
        Action(HALF, then="reset"),
        Action(b"\r\n", then="close"),
    ],
    ids=["part of a status", "part of a head", "a hint", "half of a body", "half of a body, reset", "an empty line"],
)
async def test_a_request_to_which_a_byte_came_back_is_not_sent_again(
    transport: Transport, ask: Ask, lost: Action
) -> None:
    with RawServer([answer(), lost, answer()]) as server:
        await ask(transport, post(server.url), 5)
        with pytest.raises(HttpError):
            await ask(transport, post(server.url), 5)
        assert server.requests == [1, 1]


async def test_a_request_is_sent_once_more_and_no_oftener(transport: Transport, ask: Ask) -> None:
    with RawServer([answer(), Action(then="close")]) as server:
        await ask(transport, post(server.url), 5)
        with pytest.raises(HttpError) as caught:
            await ask(transport, post(server.url), 5)
        assert (caught.value.kind, server.requests) == ("cut", [1, 1, 2])


async def test_a_used_connection_on_which_no_answer_comes_in_time_is_a_timeout(transport: Transport, ask: Ask) -> None:
    with RawServer([answer(), Action(then="hang")]) as server:
        await ask(transport, post(server.url), 5)
        with pytest.raises(HttpError) as caught:
            await ask(transport, post(server.url), 0.1)
        assert (caught.value.kind, server.requests) == ("timeout", [1, 1])


@pytest.mark.parametrize("head", [GAVE_UP, GAVE_UP.replace(b"close", b"keep-alive")], ids=["closing", "keeping"])
async def test_a_408_that_is_an_answer_stays_one(transport: Transport, ask: Ask, head: bytes) -> None:
    with RawServer([answer(), Action(head)] if b"keep-alive" in head else [Action(head, then="close")]) as server:
        if b"keep-alive" in head:
            await ask(transport, post(server.url), 5)
        assert await ask(transport, post(server.url), 5) == 408
        assert len(set(server.requests)) == 1
        await transport.aclose()


async def test_the_next_request_after_a_lost_one_keeps_its_connection_again(transport: Transport, ask: Ask) -> None:
    with RawServer([answer(), Action(then="close"), answer()]) as server:
        for _ in range(4):
            await ask(transport, post(server.url), 5)
        assert server.requests == [1, 1, 2, 3, 3]
        await transport.aclose()


def test_what_is_lost_after_the_server_worked_on_it_is_not_the_race() -> None:
    class Connection:
        heard = 100

    now = [0.0]
    sent = Sent(lambda: now[0])
    assert not sent.unheard
    sent.on(Connection())
    assert sent.unheard
    now[0] = SOON
    assert not sent.unheard


@pytest.mark.parametrize("fault", ["close", "reset"])
@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_the_pool_neither_counts_nor_blames_a_stale_connection(llm_server: LlmServer, wire: str, fault: str) -> None:
    llm_server.script("alpha", Step(), Step(fault=fault), Step())  # type: ignore[arg-type]
    with ApiManager() as manager:
        manager.add_endpoint(ApiEndpoint("alpha", llm_server.base_url("alpha"), "sk-x", "m", provider=wire))
        manager.chat("hi")
        result = manager.chat("hi")
        assert len(result.attempts) == 1
        assert len(llm_server.arrivals("alpha")) == 3
        entry = manager.get_stats()["endpoints"]["alpha"]
        assert (entry["status"], entry["success_rate"]) == ("active", "100.0%")
