"""Choosing a transport, and the one call for those who need no more than a response."""

import threading
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from core.errors import InvalidArgument
from core.network.http import MAX_BODY, HttpRequest, HttpResponse, HttpStream, RequestHeaders, Transport
from core.network.policy import UrlPolicy
from core.network.proxies import wants_socks

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
DEFAULT_HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "heablcoin-cloud"}
KINDS = ("auto", "httpx2", "aiohttp")


def open_transport(policy: UrlPolicy | None = None, kind: str = "auto", *, at_once: bool = False) -> Transport:
    """A client under `policy`; None vets nothing, for URLs the programmer wrote.

    `auto` takes aiohttp where the extra `fast` is installed and no SOCKS proxy is asked for, else httpx2's engine. Raises
    InvalidArgument for proxies in the environment that cannot be used. The library is imported at the
    first request, not here, unless `at_once`: a third of a second that should not lie between a limiter's slot and its request.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"There is no HTTP transport {kind[:20]!r}.", f"use one of: {', '.join(KINDS)}.")
    from importlib.util import find_spec

    installed = find_spec("aiohttp") is not None
    if kind == "aiohttp" and not installed:
        raise InvalidArgument("The aiohttp transport is not installed.", "install heablcoin-cloud[fast].")
    # aiohttp knows no SOCKS.
    fast = kind == "aiohttp" or (kind == "auto" and installed and not wants_socks())
    transport = _Lazy(policy, "aiohttp" if fast else "httpx2")
    return transport._made() if at_once else transport  # noqa: SLF001


async def fetch(
    url: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    timeout: float = 30.0,
    policy: UrlPolicy | None = None,
    limit: int = MAX_BODY,
    transport: Transport | None = None,
) -> HttpResponse:
    """One request, whatever its status; redirects are returned, not followed.

    `timeout` seconds bound the whole exchange, `limit` bytes the body. Raises UrlRefused, InvalidArgument, HttpError.
    With a `transport` its policy holds instead of `policy` and its connections are reused.
    """
    if method.upper() not in METHODS:
        raise InvalidArgument(f"There is no HTTP method {method[:20]!r}.", f"use one of: {', '.join(sorted(METHODS))}.")
    request = HttpRequest(method.upper(), url, RequestHeaders(DEFAULT_HEADERS, headers or {}), body)
    if transport is not None:
        return await transport.send(request, timeout, limit)
    own = open_transport(policy)
    try:
        return await own.send(request, timeout, limit)
    finally:
        await own.aclose()


class _Lazy:
    """A transport whose library is imported when it is first needed."""

    def __init__(self, policy: UrlPolicy | None, kind: str) -> None:
        self._policy = policy
        self._kind = kind
        self._lock = threading.Lock()
        self._transport: Transport | None = None

    def _made(self) -> Transport:
        with self._lock:
            if self._transport is None:
                if self._kind == "aiohttp":
                    from core.network.aiohttp_transport import AiohttpTransport

                    self._transport = AiohttpTransport(self._policy)
                else:
                    from core.network.httpcore_transport import HttpcoreTransport

                    self._transport = HttpcoreTransport(self._policy)
            return self._transport

    async def send(self, request: HttpRequest, timeout: float, limit: int = MAX_BODY) -> HttpResponse:
        return await (self._transport or self._made()).send(request, timeout, limit)

    def stream(self, request: HttpRequest, timeout: float) -> AbstractAsyncContextManager[HttpStream]:
        return (self._transport or self._made()).stream(request, timeout)

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
