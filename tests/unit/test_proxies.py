"""Proxies of the environment: real ones on loopback, over both transports, and what is told when they do not work."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.outcome import OutcomeClass, classify
from core.errors import AllEndpointsFailed, InvalidArgument
from core.network import HttpError, HttpRequest, Transport, check_proxies, open_transport, parse_url
from core.network.aiohttp_transport import AiohttpTransport
from core.network.httpcore_transport import HttpcoreTransport
from core.network.proxies import bypasses, proxy_for
from tests.support.llm_server import LlmServer, Step
from tests.support.proxy_servers import HttpProxy, SocksProxy
from tests.support.raw_server import Action, RawServer
from tests.support.tls import make_certificates

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(params=[HttpcoreTransport, AiohttpTransport], ids=["httpx2", "aiohttp"])
def make(request: pytest.FixtureRequest) -> Callable[[], Transport]:
    found: Callable[[], Transport] = request.param
    return found


def post(url: str) -> HttpRequest:
    return HttpRequest("POST", url, body=b"{}")


# NO_PROXY

EXEMPT = [
    ("*", "https://api.example.com"),
    ("example.com", "https://example.com"),
    ("example.com", "https://api.example.com"),
    (".example.com", "https://api.example.com"),
    (".example.com", "https://example.com"),
    ("*.example.com", "https://api.example.com"),
    ("EXAMPLE.com", "https://api.example.COM"),
    ("other.example, api.example.com", "https://api.example.com"),
    ("other.example api.example.com", "https://api.example.com"),
    ("api.example.com:8443", "https://api.example.com:8443"),
    ("api.example.com:443", "https://api.example.com"),
    ("https://api.example.com/", "https://api.example.com"),
    ("10.0.0.0/8", "http://10.1.2.3:8000"),
    ("192.168.1.5", "http://192.168.1.5:11434"),
    ("192.168.1.5:11434", "http://192.168.1.5:11434"),
    ("172.16.0.0/12,10.0.0.0/8", "http://172.31.0.1"),
    ("10.1.2.3/8", "http://10.9.9.9"),
    ("fd00::/8", "http://[fd12::1]:8000"),
    ("2001:db8::1", "http://[2001:db8::1]"),
    ("[2001:db8::1]", "http://[2001:db8::1]"),
    ("[2001:db8::1]:8000", "http://[2001:db8::1]:8000"),
    ("<local>", "http://gpu:8000"),
    ("gpu", "http://gpu:8000"),
]
NOT_EXEMPT = [
    ("", "https://api.example.com"),
    ("example.com", "https://notexample.com"),
    ("api.example.com", "https://example.com"),
    ("example.com", "https://example.com.evil.example"),
    ("api.example.com:8443", "https://api.example.com"),
    ("10.0.0.0/8", "http://192.168.0.1"),
    ("10.0.0.0/33", "http://10.0.0.1"),
    ("10.0.0.0/8", "http://10.example.com"),
    ("0.1.2.3", "http://10.1.2.3"),
    ("192.168.1.5:11434", "http://192.168.1.5:8000"),
    ("fd00::/8", "http://[fe80::1]"),
    ("[2001:db8::1]:8000", "http://[2001:db8::1]:8001"),
    ("<local>", "http://gpu.lan"),
    (".", "https://api.example.com"),
]


@pytest.mark.parametrize(("no_proxy", "url"), EXEMPT)
def test_no_proxy_exempts(no_proxy: str, url: str) -> None:
    assert bypasses(no_proxy, parse_url(url))


@pytest.mark.parametrize(("no_proxy", "url"), NOT_EXEMPT)
def test_no_proxy_does_not_exempt(no_proxy: str, url: str) -> None:
    assert not bypasses(no_proxy, parse_url(url))


@pytest.mark.parametrize(
    "url", ["http://localhost:11434", "http://127.0.0.1:1", "http://[::1]:1", "http://a.localhost"]
)
def test_this_machine_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert proxy_for(parse_url(url)) == ""
    assert proxy_for(parse_url("http://192.168.0.1")) == "http://proxy.example:3128"


# Which variable says what

USABLE = [
    ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
    ({"https_proxy": "p:1"}, "http://p:1"),
    ({"ALL_PROXY": "http://p:1"}, "http://p:1"),
    ({"all_proxy": "socks5://p:1"}, "socks5://p:1"),
    ({"ALL_PROXY": "socks5h://u:x@p:1"}, "socks5h://u:x@p:1"),
    ({"ALL_PROXY": "socks://p:1/"}, "socks5://p:1/"),
    ({"ALL_PROXY": "socks5://p:1", "HTTPS_PROXY": "http://q:2"}, "http://q:2"),
    ({"HTTP_PROXY": "http://p:1"}, ""),
    ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.example"}, ""),
]


@pytest.mark.parametrize(("environment", "proxy"), USABLE)
def test_the_proxy_is_the_one_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(parse_url("https://api.example/v1")) == proxy


UNUSABLE = [
    ("socks4://p:1", "socks4://"),
    ("ftp://p:1", "ftp://"),
    ("http://", "no address"),
    ("http://p:port", "no address"),
    ("http://p:0", "no address"),
    ("http://user:secret1@:3128", "no address"),
    ("my proxy", "no address"),
]


@pytest.mark.parametrize(("value", "said"), UNUSABLE)
def test_a_proxy_that_no_request_could_use_is_refused_with_its_variable_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(InvalidArgument, match=r"(?i)all_proxy") as caught:
        check_proxies()
    assert said in caught.value.message
    assert "secret1" not in str(caught.value)
    with pytest.raises(HttpError) as failed:
        proxy_for(parse_url("https://api.example/v1"))
    assert failed.value.code == "proxy"


def test_a_socks_proxy_without_socksio_is_refused_when_a_transport_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "core.network.proxies.find_spec", lambda name, *rest: None if name == "socksio" else real(name, *rest)
    )
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret1@127.0.0.1:1080")
    with pytest.raises(InvalidArgument, match=r"heablcoin-cloud\[socks\]") as caught:
        open_transport()
    assert "socks5://127.0.0.1:1080" in caught.value.message
    assert "secret1" not in str(caught.value)
    # Where each kind of request has a proxy of its own, the other one is not asked for.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1081")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1081")
    open_transport()


@pytest.mark.parametrize("value", ["socks4://127.0.0.1:1080", "http://user:secret1@:3128"])
def test_the_server_does_not_start_with_a_proxy_that_cannot_be_used(tmp_path: Path, value: str) -> None:
    import os

    environment = {
        **os.environ,
        "ALL_PROXY": value,
        "HEABLCOIN_CLOUD_DATABASE": str(tmp_path / "queue.db"),
        "HEABLCOIN_CLOUD_KEYS": "process",
    }
    done = subprocess.run(
        [sys.executable, "-m", "server", "worker"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "ALL_PROXY" in done.stderr
    assert "secret1" not in done.stderr
    assert "Traceback" not in done.stderr


# Through real proxies


@pytest.mark.parametrize("user", ["", "me"])
async def test_a_plain_request_goes_through_an_http_proxy(
    make: Callable[[], Transport], llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    with HttpProxy({"api.example": llm_server.port}, user=user, password=user and "p@ss word") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("p@ss word", "p%40ss%20word"))
        transport = make()
        assert (await transport.send(post("http://api.example/alpha"), 10)).status == 200
        assert proxy.asked == ["api.example:80"]
        await transport.aclose()


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h", "socks"])
@pytest.mark.parametrize("user", ["", "me"])
async def test_an_encrypted_request_goes_through_a_tunnel_and_the_name_is_the_proxys_to_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, user: str
) -> None:
    context, ca_file = make_certificates(tmp_path, "api.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with LlmServer(ssl_context=context) as server:
        made = HttpProxy if kind == "http" else SocksProxy
        with made({"api.example": server.port}, user=user, password=user and "secret1") as proxy:
            monkeypatch.setenv("ALL_PROXY", proxy.url.replace("socks5:", f"{kind}:"))
            transport = open_transport()
            for _ in range(2):
                assert (await transport.send(post("https://api.example/alpha"), 10)).status == 200
            assert proxy.asked == ["api.example:443"]
            await transport.aclose()


async def test_a_plain_request_goes_through_a_socks_proxy(
    llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SocksProxy({"api.example": llm_server.port}) as proxy:
        monkeypatch.setenv("all_proxy", proxy.url)
        transport = open_transport()
        assert (await transport.send(post("http://api.example/alpha"), 10)).status == 200
        assert proxy.asked == ["api.example:80"]
        await transport.aclose()


async def test_a_tunnel_through_the_aiohttp_transport(
    make: Callable[[], Transport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, ca_file = make_certificates(tmp_path, "api.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with LlmServer(ssl_context=context) as server, HttpProxy({"api.example": server.port}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        transport = make()
        for _ in range(2):
            assert (await transport.send(post("https://api.example/alpha"), 10)).status == 200
        assert proxy.asked == ["api.example:443"]
        await transport.aclose()


# When the proxy does not work

BAD_HTTP = {
    "wrong password": ({"user": "me", "password": "right"}, "me:secret1@", "proxy", "wants a user"),
    "no password": ({"user": "me", "password": "right"}, "", "proxy", "wants a user"),
    "a host it forbids": ({"answers": 403}, "", "proxy_refused", "lets nothing through to api.example port 443"),
    "a host it cannot reach": ({}, "", "unreachable", "could not reach api.example port 443 (HTTP 502)"),
    "a gateway timeout": ({"answers": 504}, "", "unreachable", "(HTTP 504)"),
}


@pytest.mark.parametrize(("settings", "credentials", "code", "said"), BAD_HTTP.values(), ids=BAD_HTTP)
async def test_what_an_http_proxy_answers_instead_of_a_tunnel_is_told_of_the_proxy(
    make: Callable[[], Transport],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    credentials: str,
    code: str,
    said: str,
) -> None:
    with HttpProxy({}, **settings) as proxy:  # type: ignore[arg-type]
        monkeypatch.setenv("HTTPS_PROXY", f"http://{credentials}127.0.0.1:{proxy.port}")
        transport = make()
        with pytest.raises(HttpError) as caught:
            await transport.send(post("https://api.example/v1"), 10)
        assert (caught.value.kind, caught.value.code) == ("connect", code)
        assert said in caught.value.message
        assert f"http://127.0.0.1:{proxy.port}" in caught.value.message
        assert "secret1" not in str(caught.value)
        await transport.aclose()


BAD_SOCKS = {
    "wrong password": ({"user": "me", "password": "right"}, "me:secret1@", "proxy", "wants a user"),
    "no password": ({"user": "me", "password": "right"}, "", "proxy", "wants a user"),
    "a host it cannot reach": ({}, "", "unreachable", "could not reach api.example port 443"),
}


@pytest.mark.parametrize(("settings", "credentials", "code", "said"), BAD_SOCKS.values(), ids=BAD_SOCKS)
async def test_what_a_socks_proxy_answers_instead_of_a_connection_is_told_of_the_proxy(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], credentials: str, code: str, said: str
) -> None:
    with SocksProxy({}, **settings) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5://{credentials}127.0.0.1:{proxy.port}")
        transport = open_transport()
        with pytest.raises(HttpError) as caught:
            await transport.send(post("https://api.example/v1"), 10)
        assert caught.value.code == code
        assert said in caught.value.message
        assert "secret1" not in str(caught.value)
        await transport.aclose()


async def test_a_plain_request_that_the_proxy_wants_a_password_for_is_told_of_the_proxy(
    make: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpProxy({}, user="me", password="right") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        transport = make()
        with pytest.raises(HttpError, match="wants a user") as caught:
            await transport.send(post("http://api.example/v1"), 10)
        assert caught.value.code == "proxy"
        await transport.aclose()


DOWN = {
    "nothing listens there": ("http://me:secret1@127.0.0.1:9", "refused the connection"),
    "its name is unknown": ("http://nothing-here.invalid:3128", "does not resolve"),
}


@pytest.mark.parametrize("url", ["https://api.example/v1", "http://api.example/v1"])
@pytest.mark.parametrize(("value", "said"), DOWN.values(), ids=DOWN)
async def test_a_proxy_that_is_down_is_named_and_not_the_server_behind_it(
    make: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch, value: str, said: str, url: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(HttpError) as caught:
        await make().send(post(url), 10)
    assert (caught.value.kind, caught.value.code) == ("connect", "proxy")
    assert said in caught.value.message
    assert caught.value.message.startswith(f"The proxy {value.replace('me:secret1@', '')}")
    assert "secret1" not in str(caught.value)


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_something_else_at_the_proxys_address_is_told_of_the_proxy(
    make: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    with RawServer([Action(then=then, reads="start")]) as server:  # type: ignore[arg-type]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        transport = make()
        with pytest.raises(HttpError, match="did not answer as a proxy") as caught:
            await transport.send(post("https://api.example/v1"), 10)
        assert caught.value.code == "proxy"
        await transport.aclose()


@pytest.mark.parametrize(
    "action", [Action(then="close", reads="start"), Action(b"HTTP/1.1 400 Bad\r\n\r\n", "close", "start")]
)
async def test_something_else_at_a_socks_proxys_address_is_told_of_the_proxy(
    monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    with RawServer([action]) as server:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{server.port}")
        transport = open_transport()
        with pytest.raises(HttpError, match="did not answer as a proxy") as caught:
            await transport.send(post("https://api.example/v1"), 10)
        assert caught.value.code == "proxy"
        await transport.aclose()


async def test_the_aiohttp_transport_says_that_it_knows_no_socks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(HttpError, match="httpx2") as caught:
        await AiohttpTransport().send(post("https://api.example/v1"), 10)
    assert caught.value.code == "proxy"


# The pool


def test_the_pool_blames_no_endpoint_for_a_proxy_that_is_down_and_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://me:secret1@127.0.0.1:9")
    with ApiManager() as manager:
        for name in ("a", "b"):
            manager.add_endpoint(ApiEndpoint(name, f"http://{name}.example/v1", "sk-x", "m"))
        with pytest.raises(AllEndpointsFailed) as caught:
            manager.chat("hi")
        told = str(caught.value)
        assert told.count("The proxy http://127.0.0.1:9 refused the connection") == 3
        assert "HTTPS_PROXY" in caught.value.fix
        assert "secret1" not in told
        assert {attempt.outcome for attempt in caught.value.attempts} == {OutcomeClass.LOCAL_FAULT}  # type: ignore[attr-defined]
        for row in manager.get_stats()["endpoints"].values():
            assert row["status"] == "active"


def test_an_endpoint_that_needs_no_proxy_answers_while_the_proxy_is_down(
    llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with ApiManager() as manager:
        manager.add_endpoint(ApiEndpoint("far", "http://far.example/v1", "sk-x", "m"))
        manager.add_endpoint(ApiEndpoint("near", llm_server.base_url("near"), "sk-x", "m", priority=2))
        for _ in range(10):
            assert manager.chat("hi").endpoint == "near"
        assert manager.get_stats()["endpoints"]["far"]["status"] == "active"


def test_the_pool_works_again_as_soon_as_the_proxy_does(llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    llm_server.script("alpha", Step())
    with HttpProxy({"api.example": llm_server.port}) as proxy, ApiManager() as manager:
        manager.add_endpoint(ApiEndpoint("a", "http://api.example/alpha", "sk-x", "m"))
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        for _ in range(6):
            with pytest.raises(AllEndpointsFailed):
                manager.chat("hi", max_retries=1)
        manager.close()
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert manager.chat("hi").endpoint == "a"


class ProxyError(Exception):
    """As httpx and requests have it."""


class Status(Exception):
    status_code = 407


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ProxyError("503 Service Unavailable"), OutcomeClass.LOCAL_FAULT),
        (Status("Proxy Authentication Required"), OutcomeClass.LOCAL_FAULT),
        (HttpError("x", kind="connect", code="proxy"), OutcomeClass.LOCAL_FAULT),
        (HttpError("x", kind="connect", code="proxy_refused"), OutcomeClass.ENDPOINT_FAULT),
        (HttpError("x", kind="connect", code="unreachable"), OutcomeClass.TRANSIENT),
        (HttpError("x", kind="connect", code="refused"), OutcomeClass.TRANSIENT),
    ],
)
def test_whose_fault_a_failure_at_a_proxy_is(error: Exception, outcome: OutcomeClass) -> None:
    assert classify(error, 0.0).kind is outcome
