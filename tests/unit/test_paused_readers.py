"""A reader that pauses, on both transports: what was received is delivered, and no timeout runs while nobody reads."""

import asyncio

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.network import HttpError, HttpRequest, HttpStream, Transport
from core.network.aiohttp_transport import AiohttpTransport
from core.network.httpcore_transport import HttpcoreTransport
from tests.support.llm_server import LlmServer, Step
from tests.support.raw_server import Action, RawServer
from tests.support.waiting import wait_until

TIMEOUT = 0.15
PAUSE = 0.4
"""Well over TIMEOUT: what is tried is that time goes by while nobody reads."""
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
FIRST = b"5\r\nfirst\r\n"
SECOND = b"6\r\nsecond\r\n"


@pytest.fixture(params=[HttpcoreTransport, AiohttpTransport], ids=["httpx2", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    found: Transport = request.param()
    return found


def get(server: RawServer) -> HttpRequest:
    return HttpRequest("GET", server.url)


async def read_slowly(response: HttpStream) -> tuple[bytes, str]:
    """All there is, with a pause before each piece; and the kind of error it ended with."""
    received = b""
    pieces = response.chunks()
    try:
        while True:
            await asyncio.sleep(PAUSE)
            piece = await anext(pieces, b"")
            if not piece:
                return received, ""
            received += piece
    except HttpError as error:
        return received, error.kind


BODIES = {
    "all there before the pause": (Action(CHUNKED + FIRST + SECOND + b"0\r\n\r\n"), b"firstsecond", ""),
    "of a told length": (Action(PLAIN + b"content-length: 11\r\n\r\nfirstsecond"), b"firstsecond", ""),
    "ended by the connection's end": (
        Action(PLAIN + b"connection: close\r\n\r\nfirstsecond", then="close"),
        b"firstsecond",
        "",
    ),
    "cut without its last chunk": (Action(CHUNKED + FIRST + SECOND, then="close"), b"firstsecond", "cut"),
    "cut before its told length": (Action(PLAIN + b"content-length: 20\r\n\r\nfirst", then="close"), b"first", "cut"),
    "cut in the middle of a chunk": (Action(CHUNKED + FIRST + b"6\r\nsec", then="close"), b"firstsec", "cut"),
    "nothing more while somebody waits": (Action(CHUNKED + FIRST, then="hang"), b"first", "timeout"),
    "empty": (Action(b"HTTP/1.1 204 No Content\r\n\r\n"), b"", ""),
    "larger than what is buffered": (
        Action(PLAIN + b"content-length: 3000000\r\n\r\n" + b"x" * 3_000_000),
        b"x" * 3_000_000,
        "",
    ),
}


@pytest.mark.parametrize(("action", "received", "ended"), BODIES.values(), ids=BODIES)
async def test_a_body_whose_reader_pauses_longer_than_the_timeout_is_delivered_as_far_as_it_came(
    transport: Transport, action: Action, received: bytes, ended: str
) -> None:
    with RawServer([action]) as server:
        async with transport.stream(get(server), TIMEOUT) as response:
            slowly = read_slowly(response) if len(received) < 100 else read_after_one_pause(response)
            assert await slowly == (received, ended)
        await transport.aclose()


async def read_after_one_pause(response: HttpStream) -> tuple[bytes, str]:
    await asyncio.sleep(PAUSE)
    return await response.read(), ""


@pytest.mark.parametrize("kind", ["httpx2", "aiohttp"])
async def test_the_pool_delivers_all_to_a_slow_reader_and_blames_nobody(
    llm_server: LlmServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.cloud.providers import provider_for
    from core.network import open_transport

    llm_server.script("alpha", Step(text="one two three four"))
    provider = provider_for("openai", transport=open_transport(kind=kind))
    manager = ApiManager(providers={"openai": provider})
    manager.add_endpoint(ApiEndpoint("alpha", llm_server.base_url("alpha"), "sk-x", "m", timeout=TIMEOUT * 2))
    text = ""
    async for chunk in manager.astream("hi"):
        text += chunk.text
        if chunk.text and len(text) < 6:
            await asyncio.sleep(PAUSE)
    assert text == "one two three four"
    entry = manager.get_stats()["endpoints"]["alpha"]
    assert (entry["status"], entry["success_rate"]) == ("active", "100.0%")
    await provider.aclose()
    wait_until(lambda: len(llm_server.arrivals("alpha")) == 1, "the only request")
