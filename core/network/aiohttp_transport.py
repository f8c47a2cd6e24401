"""The fast transport, with the extra `fast`: aiohttp, several times the calls a second of httpx2's engine."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Any

import aiohttp
import httpcore2
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from core.network.failures import (
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
from core.network.http import HttpError, HttpRequest, HttpResponse, HttpStream
from core.network.lookups import Lookup
from core.network.per_loop import PerLoop
from core.network.policy import UrlPolicy
from core.network.proxies import behind_proxy, proxy_for, shown
from core.network.resolve import system_lookup, vet_behind_proxy, vetted_addresses
from core.network.stale import SENDING, Sent, sending_on
from core.network.streaming import BodyStream, StreamingTransport, read_whole, sendable_headers
from core.network.url import Target

KEEP_ALIVE = 20.0
ROUTES = 1024
"""URLs of which the way is remembered."""
LARGE_BODY = 1 << 20
"""Bytes from which on a body is written in pieces."""
_NOT_OURS = frozenset({"accept", "content-type", "user-agent"})
"""Headers aiohttp would make up when the request has none."""


class AiohttpTransport(StreamingTransport):
    """HTTP/1.1 over aiohttp, without its cookies, redirects and .netrc. Proxies and CA files come from the environment."""

    def __init__(self, policy: UrlPolicy | None = None, *, lookup: Lookup = system_lookup) -> None:
        super().__init__(policy)
        self._clients = PerLoop(lambda: _Client(policy, lookup))

    @asynccontextmanager
    async def stream(self, request: HttpRequest, timeout: float) -> AsyncIterator[HttpStream]:
        target = self._targets.check(request.url)
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(timeout):
                response = await self._begin(request, target, timeout)
            raw = _Pieces(response.content, timeout)
            yield BodyStream(response.status, _received(response), raw, target, as_failure)
        except _ERRORS as error:
            raise as_failure(error, target) or error from None
        finally:
            if response is not None:
                _leave(response)

    async def _exchange(self, request: HttpRequest, timeout: float, limit: int) -> HttpResponse:
        # The same as by way of `stream`, without its generators and with one timer less: three quarters of the time.
        target = self._targets.check(request.url)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._begin(request, target, timeout)
            headers = _received(response)
            body = await read_whole(response.content.readany, headers, limit, target.host)
            return HttpResponse(response.status, headers, body)
        except _ERRORS as error:
            raise as_failure(error, target) or error from None
        finally:
            if response is not None:
                _leave(response)

    async def _begin(self, request: HttpRequest, target: Target, timeout: float) -> aiohttp.ClientResponse:
        """Send the request, once more if its connection turned out to be stale; a response as soon as its head is there."""
        headers, patience = sendable_headers(request), _patience(connect_patience(timeout))
        client = await self._clients.get()
        sent = Sent()
        token = SENDING.set(sent)
        try:
            response = await _request(request, headers, await client.route(target), patience)
        except (aiohttp.ClientConnectionError, OSError) as error:
            if isinstance(error, TimeoutError) or not sent.unheard:
                lost = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
                if lost and not isinstance(error, _NOT_CONNECTED) and sent.tunnelling and behind_proxy(target):
                    raise no_proxy_there(target) from None
                raise
        else:
            if response.status == 407 and proxy_for(target):
                response.close()
                raise proxy_answered(target, 407)
            if not (response.status == 408 and sent.gave_up(408, _received(response))):
                return response
            response.close()
        finally:
            SENDING.reset(token)
        return await _request(request, headers, await client.route(target, fresh=True), patience)

    async def aclose(self) -> None:
        await self._clients.aclose()


async def _request(
    request: HttpRequest, headers: dict[str, str], route: "_Route", patience: aiohttp.ClientTimeout
) -> aiohttp.ClientResponse:
    session, proxy, url = route
    return await session.request(
        request.method,
        url,
        data=_payload(request.body) if request.body else None,
        headers=headers,
        allow_redirects=False,
        proxy=proxy,
        timeout=patience,
    )


def _payload(body: bytes) -> aiohttp.payload.Payload:
    # In pieces when it is large, so that other calls of this loop are not held up.
    return aiohttp.BytesIOPayload(io.BytesIO(body)) if len(body) > LARGE_BODY else aiohttp.BytesPayload(body)


@lru_cache(64)
def _patience(connect: float) -> aiohttp.ClientTimeout:
    # No `sock_read`: it goes on while nobody reads, and then throws away what was received.
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_read=None)


class _Pieces:
    """A body as it arrives. What was received is given even after the connection was lost; `timeout` seconds bound each
    wait for more, and go by only while somebody waits.
    """

    def __init__(self, content: aiohttp.StreamReader, timeout: float) -> None:
        self._content = content
        self._timeout = timeout

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        content = self._content
        if content.at_eof():
            raise StopAsyncIteration
        # readany and its like raise the error first and keep what came before it to themselves.
        piece = content._read_nowait(-1)  # noqa: SLF001
        if not piece:
            async with asyncio.timeout(self._timeout):
                piece = await content.readany()
        if not piece:
            raise StopAsyncIteration
        return piece


def _received(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _leave(response: aiohttp.ClientResponse) -> None:
    # Released when read to its end, else closed: its connection is of no more use.
    response.release() if response.content.at_eof() else response.close()


_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ConnectionTimeoutError,
)
_ERRORS = (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError)


def as_failure(error: BaseException, target: Target) -> HttpError | None:
    """An aiohttp exception in our words, None for any other. Its own text is not used: it may hold the request."""
    if not isinstance(error, _ERRORS):
        return None
    if isinstance(error, _NOT_CONNECTED):
        return _not_connected(error, target)
    if isinstance(error, TimeoutError):
        return timeout_failure(target)
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.http_exceptions.HttpProcessingError)):
        return not_http(target)
    return unsendable("URL") if isinstance(error, aiohttp.InvalidURL) else cut_failure(target)


def _not_connected(error: BaseException, target: Target) -> HttpError:
    names_proxy = isinstance(error, aiohttp.ClientConnectorDNSError) and bool(proxy_for(target))
    if isinstance(error, aiohttp.ClientProxyConnectionError) or names_proxy:
        return proxy_down(target, error)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_answered(target, error.status)
    return connect_failure(target, error, timed_out=isinstance(error, aiohttp.ConnectionTimeoutError))


_Route = tuple[aiohttp.ClientSession, str | None, URL]
"""The session to use, its proxy if any, and the URL as it takes it."""


class _Client:
    """The sessions of one event loop: for each scheme a vetting one and one for proxies, and beside each of them one
    whose connections serve one request only.
    """

    def __init__(self, policy: UrlPolicy | None, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup
        self._routes: dict[Target, _Route] = {}
        self._by_origin: dict[tuple[str, bool], tuple[aiohttp.ClientSession, str]] = {}
        self._sessions: dict[tuple[str, bool, bool], aiohttp.ClientSession] = {}

    async def route(self, target: Target, *, fresh: bool = False) -> _Route:
        """The way to `target`; a `fresh` one opens a connection for each request."""
        known = None if fresh else self._routes.get(target)
        if known is None:
            session, proxy = await self._session(target, fresh)
            known = session, proxy or None, URL(target.url, encoded=True)
            if not fresh:
                if len(self._routes) >= ROUTES:
                    self._routes.clear()
                self._routes[target] = known
        return known

    async def _session(self, target: Target, fresh: bool) -> tuple[aiohttp.ClientSession, str]:
        found = self._by_origin.get((target.origin, fresh))
        if found is None:
            proxy = proxy_for(target)
            if proxy.startswith("socks"):
                raise HttpError(
                    f"The proxy {shown(proxy)} speaks SOCKS, which the aiohttp transport does not.",
                    'open the transport with kind="httpx2" (or "auto").',
                    kind="connect",
                    code="proxy",
                )
            if proxy:
                await vet_behind_proxy(target, self._policy, self._lookup)
            key = (target.scheme, bool(proxy), fresh)
            if key not in self._sessions:
                self._sessions[key] = self._make(*key)
            found = self._by_origin[target.origin, fresh] = (self._sessions[key], proxy)
        return found

    def _make(self, scheme: str, proxied: bool, fresh: bool) -> aiohttp.ClientSession:
        connector = _Connector(
            # The proxy itself is the administrator's, and not vetted.
            resolver=_VettedResolver(scheme, None if proxied else self._policy, self._lookup),
            use_dns_cache=False,
            limit=0,
            force_close=fresh,
            keepalive_timeout=None if fresh else KEEP_ALIVE,
            ssl=httpcore2.default_ssl_context() if scheme == "https" else True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_OURS,
            auto_decompress=False,
            trust_env=False,
        )
        # It would send idempotent requests twice even on a connection that was never used before.
        session._retry_connection = False  # noqa: SLF001
        return session

    async def aclose(self) -> None:
        sessions = list(self._sessions.values())
        self._sessions.clear()
        self._by_origin.clear()
        self._routes.clear()
        for session in sessions:
            await session.close()


class _HeardProtocol(ResponseHandler):
    """A connection that counts what it receives."""

    heard = 0
    secure = True  # what is written to a proxy to open a way is not told of

    def data_received(self, data: bytes) -> None:
        self.heard += len(data)
        super().data_received(data)


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = partial(_HeardProtocol, loop=self._loop)  # type: ignore[assignment]


class _Request(aiohttp.ClientRequest):
    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if isinstance(conn.protocol, _HeardProtocol):
            sending_on(conn.protocol)
        return await super().send(conn)


class _VettedResolver(AbstractResolver):
    """Gives aiohttp only vetted addresses, which are then the ones it connects to. SNI and Host keep the name."""

    def __init__(self, scheme: str, policy: UrlPolicy | None, lookup: Lookup) -> None:
        self._scheme = scheme
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await vetted_addresses(Target(self._scheme, host, port, "/"), self._policy, self._lookup)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""
