"""The default transport: httpcore2, the engine under httpx2.

Its public `network_backend` is where an address can be vetted and connected to in one step. The layers of the httpx2
client above it (redirects, cookies, .netrc, a log line with each URL) are what a call with a key must not have.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpcore2

from core.network.failures import (
    CONNECT_TIMEOUT,
    connect_failure,
    connect_patience,
    cut_failure,
    no_proxy_there,
    not_http,
    proxy_answered,
    proxy_down,
    timeout_failure,
    unsendable,
)
from core.network.http import HttpError, HttpRequest, HttpStream
from core.network.lookups import Lookup
from core.network.per_loop import PerLoop
from core.network.policy import UrlPolicy
from core.network.proxies import proxy_for
from core.network.resolve import system_lookup, vet_behind_proxy, vetted_addresses
from core.network.stale import SENDING, Sent, sending_on
from core.network.streaming import BodyStream, StreamingTransport, sendable_headers
from core.network.url import Target
from core.redaction import RedactingFilter

for _name in ("httpcore2.connection", "httpcore2.http11", "httpcore2.proxy"):
    # At DEBUG they log response headers, in which a server may quote the key back.
    logging.getLogger(_name).addFilter(RedactingFilter())

KEEP_ALIVE = 20.0
"""Seconds an idle connection is kept; most servers close theirs later than that."""


class HttpcoreTransport(StreamingTransport):
    """HTTP/1.1 over httpcore2. Proxies and CA files come from the environment, as in httpx2."""

    def __init__(self, policy: UrlPolicy | None = None, *, lookup: Lookup = system_lookup) -> None:
        super().__init__(policy)
        self._clients = PerLoop(lambda: _Client(policy, lookup))

    @asynccontextmanager
    async def stream(self, request: HttpRequest, timeout: float) -> AsyncIterator[HttpStream]:
        target = self._targets.check(request.url)
        response: httpcore2.Response | None = None
        try:
            response, received = await self._begin(request, target, timeout)
            yield BodyStream(response.status, received, response.aiter_stream(), target, as_failure)
        except _ERRORS as error:
            raise as_failure(error, target) or error from None
        finally:
            if response is not None:
                await response.aclose()

    async def _begin(
        self, request: HttpRequest, target: Target, timeout: float
    ) -> tuple[httpcore2.Response, dict[str, str]]:
        """Send the request, once more if its connection turned out to be stale; a response as soon as its head is there."""
        headers = sendable_headers(request)
        client = await self._clients.get()
        pool = await client.pool(target)
        sent = Sent()
        token = SENDING.set(sent)
        try:
            response = await pool.handle_async_request(core_request(request, headers, target, timeout))
        except BaseException as error:
            if not (isinstance(error, _LOST) and sent.unheard):
                await _leave_proxy(error, sent, target)
                raise
        else:
            received = _received(response)
            if response.status == 407 and proxy_for(target):
                await response.aclose()
                raise proxy_answered(target, 407)
            if not sent.gave_up(response.status, received):
                return response, received
            await response.aclose()
        finally:
            SENDING.reset(token)
        pool = await client.pool(target, fresh=True)
        left = max(0.1, timeout - sent.since)
        response = await pool.handle_async_request(core_request(request, headers, target, left))
        return response, _received(response)

    async def aclose(self) -> None:
        await self._clients.aclose()


async def _leave_proxy(error: BaseException, sent: Sent, target: Target) -> None:
    """After a failure: close what a proxy was to open a way on. Raises HttpError when what was there is no proxy."""
    if not isinstance(sent.connection, _HeardStream) or not sent.tunnelling:
        return
    proxy = proxy_for(target)
    if proxy.startswith("socks"):
        # httpcore2 leaves it open when the handshake fails.
        await sent.connection.aclose()
    # socksio's own errors, and the assertions beside it, for what is no SOCKS proxy.
    odd = type(error).__module__.startswith("socksio") or isinstance(error, AssertionError)
    lost = isinstance(error, _LOST) and not isinstance(error, httpcore2.ConnectError) and target.scheme == "https"
    if proxy and (odd or lost):
        raise no_proxy_there(target) from None


def _received(response: httpcore2.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def core_request(request: HttpRequest, given: Mapping[str, str], target: Target, timeout: float) -> httpcore2.Request:
    headers = [(b"host", target.authority.encode())]
    headers += [(name.encode(), value.encode()) for name, value in given.items()]
    if request.body or request.method not in {"GET", "HEAD"}:
        headers.append((b"content-length", b"%d" % len(request.body)))
    return httpcore2.Request(
        request.method,
        httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
        headers=headers,
        content=request.body,
        extensions={
            "timeout": {"connect": connect_patience(timeout), "read": timeout, "write": timeout, "pool": timeout}
        },
    )


_ERRORS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    OSError,
)
_LOST = (httpcore2.NetworkError, httpcore2.RemoteProtocolError)
_CLOSED = re.compile(r"disconnected|closed|incomplete", re.IGNORECASE)


def as_failure(error: BaseException, target: Target) -> HttpError | None:
    """An httpcore2 exception in our words, None for any other. Its own text is not used: h11 quotes headers in it."""
    if not isinstance(error, _ERRORS):
        return None
    if isinstance(error, (_ProxyDown, httpcore2.ProxyError)):
        return _of_proxy(error, target)
    if isinstance(error, (httpcore2.ConnectTimeout, httpcore2.ConnectError)):
        return connect_failure(target, error, timed_out=isinstance(error, httpcore2.ConnectTimeout))
    if isinstance(error, httpcore2.TimeoutException):
        return timeout_failure(target)
    if isinstance(error, httpcore2.LocalProtocolError):
        return unsendable("request")
    odd = isinstance(error, httpcore2.RemoteProtocolError) and not _CLOSED.search(str(error))
    return not_http(target) if odd else cut_failure(target)


def _of_proxy(error: "_ProxyDown | httpcore2.ProxyError", target: Target) -> HttpError:
    if isinstance(error, _ProxyDown):
        return proxy_down(target, error, timed_out=error.timed_out)
    return proxy_answered(target, _status_of(str(error)))


def _status_of(told: str) -> int:
    """What a ProxyError tells, as an HTTP status: that of an HTTP proxy, or what a SOCKS proxy's words come to."""
    number = told[:3]
    if number.isdigit():
        return int(number)
    if "could not connect" in told:
        return 403 if "ruleset" in told else 502
    return 407


class _Client:
    """The connection pools of one event loop: for each scheme the direct one and one for each proxy, and beside
    each of them one whose connections serve one request only.
    """

    def __init__(self, policy: UrlPolicy | None, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup
        self._tls: ssl.SSLContext | None = None
        self._by_origin: dict[tuple[str, bool], httpcore2.AsyncConnectionPool] = {}
        self._pools: dict[tuple[str, str, bool], httpcore2.AsyncConnectionPool] = {}

    async def pool(self, target: Target, *, fresh: bool = False) -> httpcore2.AsyncConnectionPool:
        """The pool to use; a `fresh` one opens a connection for each request."""
        found = self._by_origin.get((target.origin, fresh))
        if found is None:
            proxy = proxy_for(target)
            if proxy:
                await vet_behind_proxy(target, self._policy, self._lookup)
            key = (target.scheme, proxy, fresh)
            if key not in self._pools:
                self._pools[key] = self._make(target.scheme, proxy, fresh)
            found = self._by_origin[target.origin, fresh] = self._pools[key]
        return found

    def _make(self, scheme: str, proxy: str, fresh: bool) -> httpcore2.AsyncConnectionPool:
        if scheme == "https" and self._tls is None:
            self._tls = httpcore2.default_ssl_context()
        # The proxy itself is the administrator's, and not vetted.
        sockets = (
            _ProxyBackend(scheme, None, self._lookup) if proxy else _VettedBackend(scheme, self._policy, self._lookup)
        )
        return httpcore2.AsyncConnectionPool(
            ssl_context=self._tls,
            proxy=as_proxy(proxy) if proxy else None,
            max_connections=None,
            max_keepalive_connections=0 if fresh else 100,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=_HeardBackend(sockets),
        )

    async def aclose(self) -> None:
        pools = list(self._pools.values())
        self._pools.clear()
        self._by_origin.clear()
        for pool in pools:
            await pool.aclose()


def as_proxy(url: str) -> httpcore2.Proxy:
    """A proxy URL as httpcore2 wants it, its user and password apart."""
    parts = urlsplit(url)
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return httpcore2.Proxy(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "/", "", "")), auth=auth)


class _VettedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves, vets, and connects to exactly the address it vetted. SNI and Host keep the name: they are set above."""

    def __init__(self, scheme: str, policy: UrlPolicy | None, lookup: Lookup) -> None:
        self._scheme = scheme
        self._policy = policy
        self._lookup = lookup
        self._sockets = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        patience = CONNECT_TIMEOUT if timeout is None else timeout
        try:
            async with asyncio.timeout(patience):
                target = Target(self._scheme, host, port, "/")
                addresses = await vetted_addresses(target, self._policy, self._lookup)
                return await self._first(addresses, port, patience, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout from error
        except OSError as error:
            raise httpcore2.ConnectError from error

    async def _first(
        self,
        addresses: list[str],
        port: int,
        patience: float,
        local_address: str | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
    ) -> httpcore2.AsyncNetworkStream:
        """The first address that answers; each but the last gets a share of the time, so that one dead route costs little."""
        for address in addresses[:-1]:
            try:
                share = patience / len(addresses)
                return await self._sockets.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._sockets.connect_tcp(addresses[-1], port, patience, local_address, socket_options)


class _ProxyDown(httpcore2.ConnectError):
    """The connection that failed was one to a proxy."""

    def __init__(self, message: str = "proxy", *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class _ProxyBackend(_VettedBackend):
    """Connects to proxies only."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await super().connect_tcp(host, port, timeout, local_address, socket_options)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            raise _ProxyDown(timed_out=isinstance(error, httpcore2.ConnectTimeout)) from error


class _HeardBackend(httpcore2.AsyncNetworkBackend):
    """Another backend, whose connections count what they receive."""

    def __init__(self, sockets: httpcore2.AsyncNetworkBackend) -> None:
        self._sockets = sockets

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _HeardStream(await self._sockets.connect_tcp(host, port, timeout, local_address, socket_options))


class _HeardStream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream, *, secure: bool = False) -> None:
        self._stream = stream
        self.heard = 0
        self.secure = secure

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        received = await self._stream.read(max_bytes, timeout)
        self.heard += len(received)
        return received

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        sending_on(self)
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return _HeardStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), secure=True)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
