"""Both transports over real sockets: vetting when connecting, bounds, proxies, TLS, event loops."""

import asyncio
import gc
import gzip
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import InvalidArgument, UrlRefused
from core.network import HttpError, HttpRequest, RequestHeaders, Transport, UrlPolicy, fetch, open_transport
from core.network.aiohttp_transport import AiohttpTransport
from core.network.httpcore_transport import HttpcoreTransport
from core.network.lookups import Lookup
from core.network.resolve import system_lookup
from tests.support.llm_server import Gate, LlmServer, Step
from tests.support.tls import make_certificates

MakeTransport = Callable[..., Transport]


@pytest.fixture(params=[HttpcoreTransport, AiohttpTransport], ids=["httpx2", "aiohttp"])
def make(request: pytest.FixtureRequest) -> MakeTransport:
    def made(policy: UrlPolicy | None = None, lookup: Lookup = system_lookup) -> Transport:
        found: Transport = request.param(policy, lookup=lookup)
        return found

    return made


def post(url: str, body: bytes = b"{}", **headers: str) -> HttpRequest:
    return HttpRequest("POST", url, RequestHeaders({"content-type": "application/json", **headers}), body)


async def sent(transport: Transport, request: HttpRequest, timeout: float = 5, limit: int = 1 << 20) -> int:
    return (await transport.send(request, timeout, limit)).status


# Vetting


async def test_a_name_that_resolves_to_loopback_is_refused_when_connecting_and_nothing_is_sent(
    make: MakeTransport, llm_server: LlmServer
) -> None:
    transport = make(UrlPolicy(), lambda _host, _port: ["127.0.0.1"])
    with pytest.raises(UrlRefused, match="loopback"):
        await sent(transport, post(f"https://evil.example:{llm_server.port}/alpha"))
    assert llm_server.arrivals() == []


async def test_only_the_vetted_address_of_a_rebinding_name_is_connected_to(
    make: MakeTransport, llm_server: LlmServer
) -> None:
    answers = [["10.0.0.1", "127.0.0.1"], ["127.0.0.1"]]
    asked: list[str] = []

    def lookup(host: str, _port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    # 10.0.0.1 is refused, 127.0.0.1 is allowed by network: the first is left out instead of tried.
    transport = make(UrlPolicy.parse("127.0.0.0/8"), lookup)
    assert await sent(transport, post(f"http://two.example:{llm_server.port}/alpha")) == 200
    assert asked == ["two.example"]


async def test_the_server_sees_the_name_and_not_the_vetted_address(make: MakeTransport, llm_server: LlmServer) -> None:
    transport = make(UrlPolicy.parse(f"api.example:{llm_server.port}"), lambda _host, _port: ["127.0.0.1"])
    assert await sent(transport, post(f"http://api.example:{llm_server.port}/alpha")) == 200
    assert llm_server.arrivals()[0].headers["host"] == f"api.example:{llm_server.port}"


async def test_the_certificate_is_checked_against_the_name_and_a_private_authority_comes_from_the_environment(
    make: MakeTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, ca_file = make_certificates(tmp_path, "api.example")
    seen: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    with LlmServer(ssl_context=context) as server:
        policy = UrlPolicy.parse("127.0.0.0/8")
        stranger = make(policy, lambda _host, _port: ["127.0.0.1"])
        with pytest.raises(HttpError, match="SSL_CERT_FILE") as caught:
            await sent(stranger, post(f"https://api.example:{server.port}/alpha"))
        assert (caught.value.kind, caught.value.code) == ("connect", "tls")
        monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
        transport = make(policy, lambda _host, _port: ["127.0.0.1"])
        assert await sent(transport, post(f"https://api.example:{server.port}/alpha")) == 200
        with pytest.raises(HttpError) as caught:
            await sent(transport, post(f"https://other.example:{server.port}/alpha"))
        assert caught.value.code == "tls"
        assert seen == ["api.example", "api.example", "other.example"]


async def test_without_a_policy_loopback_may_be_called(make: MakeTransport, llm_server: LlmServer) -> None:
    assert await sent(make(), post(llm_server.base_url("alpha"))) == 200


async def test_a_refused_address_says_the_same_on_both_transports(make: MakeTransport) -> None:
    transport = make(UrlPolicy(), lambda _host, _port: ["10.0.0.9"])
    with pytest.raises(UrlRefused) as caught:
        await sent(transport, post("https://gpu.lan/v1"))
    assert str(caught.value) == (
        "The URL https://gpu.lan leads to a private address: gpu.lan (10.0.0.9). Fix: if you trust that server, set "
        "HEABLCOIN_CLOUD_ALLOW_HOSTS=gpu.lan:443 for this server and start it again."
    )


async def test_the_second_address_is_tried_when_the_first_refuses(make: MakeTransport, llm_server: LlmServer) -> None:
    transport = make(None, lambda _host, _port: ["::1", "127.0.0.1"])
    assert await sent(transport, post(f"http://two.example:{llm_server.port}/alpha")) == 200


# Proxies


async def test_a_proxy_of_the_environment_is_used_and_no_proxy_is_honoured(
    make: MakeTransport, llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise OSError("only the proxy can resolve it")

    monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@127.0.0.1:{llm_server.port}")
    monkeypatch.setenv("NO_PROXY", "direct.example")
    transport = make(UrlPolicy(require_https=False), unknown)
    assert await sent(transport, post("http://api.example/v1")) == 200
    arrival = llm_server.arrivals()[0]
    assert arrival.path in {"http://api.example/v1", "http://api.example:80/v1"}
    assert arrival.headers["host"] == "api.example"
    assert arrival.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"
    with pytest.raises(HttpError) as caught:
        await sent(transport, post("http://direct.example/v1"))
    assert caught.value.kind == "connect"


async def test_a_private_name_is_refused_behind_a_proxy_too(
    make: MakeTransport, llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{llm_server.port}")
    transport = make(UrlPolicy(require_https=False), lambda _host, _port: ["192.168.1.1"])
    with pytest.raises(UrlRefused):
        await sent(transport, post("http://router.example/"))
    assert llm_server.arrivals() == []


async def test_a_proxy_that_is_not_there_is_a_connection_failure(
    make: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(HttpError) as caught:
        await sent(make(), post("https://api.example/v1"))
    assert caught.value.kind == "connect"


# Failures and bounds


async def test_dns_refused_and_unreachable_are_told_apart(make: MakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.network.failures.offline", lambda: False)
    with pytest.raises(HttpError) as caught:
        await sent(make(), post("http://nothing-here.invalid/"))
    assert (caught.value.kind, caught.value.code) == ("connect", "dns")
    monkeypatch.setattr("core.network.failures.offline", lambda: True)
    with pytest.raises(HttpError) as caught:
        await sent(make(), post("http://nothing-here.invalid/"))
    assert (caught.value.kind, caught.value.code) == ("connect", "offline")
    with pytest.raises(HttpError) as caught:
        await sent(make(), post("http://127.0.0.1:9/"))
    assert (caught.value.kind, caught.value.code) == ("connect", "refused")


async def test_plain_http_to_a_tls_port_and_the_reverse_are_errors(
    make: MakeTransport, llm_server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.network.failures.CONNECT_TIMEOUT", 0.1)
    with pytest.raises(HttpError) as caught:
        await sent(make(), post(f"https://127.0.0.1:{llm_server.port}/alpha"), timeout=30)
    assert caught.value.kind == "connect"
    context, _ = make_certificates(tmp_path, "localhost")
    with LlmServer(ssl_context=context) as server, pytest.raises(HttpError) as caught:
        await sent(make(), post(f"http://127.0.0.1:{server.port}/alpha"))
    assert caught.value.kind in {"cut", "protocol"}


async def test_a_body_over_the_limit_is_refused_and_the_connection_given_up(
    make: MakeTransport, llm_server: LlmServer
) -> None:
    llm_server.script("alpha", Step(raw=b"x" * 5000), Step())
    transport = make()
    with pytest.raises(HttpError) as caught:
        await sent(transport, post(llm_server.base_url("alpha")), limit=4999)
    assert (caught.value.kind, caught.value.code) == ("protocol", "too_large")
    assert await sent(transport, post(llm_server.base_url("alpha"))) == 200


async def test_a_compressed_bomb_unfolds_no_further_than_the_limit(make: MakeTransport, llm_server: LlmServer) -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    llm_server.script("alpha", Step(raw=bomb, headers={"content-encoding": "gzip"}))
    with pytest.raises(HttpError) as caught:
        await sent(make(), post(llm_server.base_url("alpha")))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("br", b"xx", "encoding"),
        ("gzip", b"not gzip", "encoding"),
        ("gzip", gzip.compress(b"abc" * 99, mtime=0)[:-9], "encoding"),
    ],
)
async def test_a_body_that_cannot_be_unfolded_is_an_error(
    make: MakeTransport, llm_server: LlmServer, encoding: str, body: bytes, code: str
) -> None:
    llm_server.script("alpha", Step(raw=body, headers={"content-encoding": encoding}))
    with pytest.raises(HttpError) as caught:
        await sent(make(), post(llm_server.base_url("alpha")))
    assert caught.value.code == code


async def test_a_compressed_body_is_unfolded(make: MakeTransport, llm_server: LlmServer) -> None:
    llm_server.script("alpha", Step(raw=gzip.compress(b"hello"), headers={"content-encoding": "GZip"}))
    assert (await make().send(post(llm_server.base_url("alpha")), 5)).body == b"hello"


async def test_redirects_and_cookies_are_left_alone(make: MakeTransport, llm_server: LlmServer) -> None:
    llm_server.script("alpha", Step(fault="redirect", location="/beta", headers={"set-cookie": "a=b"}), Step())
    transport = make()
    response = await transport.send(post(llm_server.base_url("alpha")), 5)
    assert (response.status, response.headers["location"]) == (302, "/beta")
    await transport.send(post(llm_server.base_url("alpha")), 5)
    assert [arrival.backend for arrival in llm_server.arrivals()] == ["alpha", "alpha"]
    assert "cookie" not in llm_server.arrivals()[1].headers


async def test_a_netrc_file_is_never_read(
    make: MakeTransport, llm_server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    await sent(make(), post(llm_server.base_url("alpha")))
    assert "authorization" not in llm_server.arrivals()[0].headers


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Proxy-Authorization"])
async def test_a_header_that_routes_or_frames_the_request_may_not_be_set(
    make: MakeTransport, llm_server: LlmServer, name: str
) -> None:
    with pytest.raises(HttpError, match="may not be set"):
        await sent(make(), post(llm_server.base_url("alpha"), **{name: "1"}))
    assert llm_server.arrivals() == []


async def test_nothing_is_sent_that_the_request_does_not_say(make: MakeTransport, llm_server: LlmServer) -> None:
    await make().send(HttpRequest("POST", llm_server.base_url("alpha"), body=b"{}"), 5)
    assert set(llm_server.arrivals()[0].headers) == {"host", "content-length", "accept-encoding"}
    assert llm_server.arrivals()[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("value", ["line\r\nbreak: x", "ключ", "nul\0"])
async def test_a_header_http_cannot_carry_is_named_and_not_shown(
    make: MakeTransport, llm_server: LlmServer, value: str
) -> None:
    with pytest.raises(HttpError, match="'x-key'") as caught:
        await sent(make(), post(llm_server.base_url("alpha"), **{"x-key": value}))
    assert value not in str(caught.value)
    assert llm_server.arrivals() == []


async def test_a_slow_answer_ends_at_its_timeout(make: MakeTransport, llm_server: LlmServer) -> None:
    gate: Gate = llm_server.gate()
    llm_server.script("alpha", Step(), Step(gate=gate))
    transport = make()
    await sent(transport, post(llm_server.base_url("alpha")))
    with pytest.raises(HttpError) as caught:
        await sent(transport, post(llm_server.base_url("alpha")), timeout=0.05)
    assert caught.value.kind == "timeout"
    gate.open()


async def test_a_cancelled_call_is_cancelled_and_leaves_the_transport_usable(
    make: MakeTransport, llm_server: LlmServer
) -> None:
    gate: Gate = llm_server.gate()
    llm_server.script("alpha", Step(gate=gate), Step())
    transport = make()
    task = asyncio.create_task(sent(transport, post(llm_server.base_url("alpha")), 30))
    await asyncio.to_thread(llm_server.wait_for_arrivals, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await sent(transport, post(llm_server.base_url("alpha"))) == 200


# Connections and event loops


async def test_connections_are_reused(make: MakeTransport, llm_server: LlmServer) -> None:
    transport = make()
    for _ in range(3):
        await sent(transport, post(llm_server.base_url("alpha")))
    assert llm_server.connections == 1


def test_one_transport_serves_loops_one_after_the_other_and_leaves_no_socket_open(
    make: MakeTransport, llm_server: LlmServer
) -> None:
    transport = make()
    for _ in range(3):
        assert asyncio.run(sent(transport, post(llm_server.base_url("alpha")))) == 200
    gc.collect()  # an unclosed connection would warn here, and a warning fails the test
    llm_server.wait_until_idle()


def test_one_transport_serves_loops_in_several_threads_at_once(make: MakeTransport, llm_server: LlmServer) -> None:
    transport = make()
    results: list[int] = []

    async def several() -> None:
        results.extend(await asyncio.gather(*(sent(transport, post(llm_server.base_url("alpha"))) for _ in range(5))))

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [200] * 20


async def test_after_aclose_the_next_call_opens_a_new_connection(make: MakeTransport, llm_server: LlmServer) -> None:
    transport = make()
    await sent(transport, post(llm_server.base_url("alpha")))
    await transport.aclose()
    await transport.aclose()
    assert await sent(transport, post(llm_server.base_url("alpha"))) == 200
    assert llm_server.connections == 2


# fetch and open_transport


async def test_fetch_returns_the_response_whatever_its_status(llm_server: LlmServer) -> None:
    llm_server.script("alpha", Step(status=404, raw=b"gone", content_type="text/plain"))
    response = await fetch(llm_server.base_url("alpha"), "get", {"X-One": "1"})
    assert (response.status, response.body, response.headers["content-type"]) == (404, b"gone", "text/plain")
    arrival = llm_server.arrivals()[0]
    assert (arrival.method, arrival.headers["x-one"], arrival.headers["user-agent"]) == ("GET", "1", "heablcoin-cloud")


async def test_fetch_keeps_to_its_policy_and_limit(llm_server: LlmServer) -> None:
    with pytest.raises(UrlRefused):
        await fetch(llm_server.base_url("alpha"), policy=UrlPolicy())
    llm_server.script("alpha", Step(raw=b"x" * 100))
    with pytest.raises(HttpError, match="larger than 99 bytes"):
        await fetch(llm_server.base_url("alpha"), limit=99)


async def test_fetch_refuses_a_method_http_does_not_have(llm_server: LlmServer) -> None:
    with pytest.raises(InvalidArgument, match="DELETE"):
        await fetch(llm_server.base_url("alpha"), "BREW")


def test_an_unknown_transport_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="auto, httpx2, aiohttp"):
        open_transport(kind="curl")


def test_the_default_works_where_aiohttp_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, llm_server: LlmServer
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "aiohttp" else real(name, *rest)
    )
    assert asyncio.run(sent(open_transport(), post(llm_server.base_url("alpha")))) == 200
    with pytest.raises(InvalidArgument, match=r"heablcoin-cloud\[fast\]"):
        open_transport(kind="aiohttp")


def test_request_headers_show_no_value_that_could_be_a_key() -> None:
    headers = RequestHeaders({"Authorization": "Bearer sk-canary-123456"}, {"X-Other": "canary", "Accept": "*/*"})
    assert repr(headers) == "<headers authorization: ..., x-other: ..., accept: */*>"
    assert headers["AUTHORIZATION"] == "Bearer sk-canary-123456"
