"""The HTTP port: what the rest asks of a client, in two methods, and how a client says that it failed."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from core.errors import HeablcoinError

MAX_BODY = 16 * 1024 * 1024
"""Bytes of one response body, after decompression, that are read before it is refused."""

FailureKind = Literal["connect", "timeout", "protocol", "cut"]
"""`connect`: nothing was sent; `timeout`: no (or no more) answer in time; `protocol`: not HTTP, or too large;
`cut`: the connection was lost after the request went out."""


class HttpError(HeablcoinError):
    """An exchange that did not end in a response. Names the host, never headers or bodies."""

    def __init__(self, message: str, fix: str = "", *, kind: FailureKind, code: str = "") -> None:
        super().__init__(message, fix)
        self.kind: FailureKind = kind
        self.code = code
        """Finer than `kind`: dns, offline, refused, tls, connect_timeout, proxy, too_large, encoding, no_response, ..."""


_PUBLIC_HEADERS = frozenset({"accept", "accept-encoding", "content-type", "user-agent", "anthropic-version"})


class RequestHeaders(Mapping[str, str]):
    """Headers to send; later ones replace earlier ones whatever their case. The repr shows no value that could be a key."""

    __slots__ = ("_items", "vetted")

    def __init__(self, *layers: Mapping[str, str]) -> None:
        self.vetted: dict[str, str] | None = None
        """The same as they are sent, once `sendable_headers` had a look at them. Never changed."""
        self._items: dict[str, str] = {}
        for layer in layers:
            for name, value in layer.items():
                self._items[name.lower()] = value

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        shown = (f"{name}: {value if name in _PUBLIC_HEADERS else '...'}" for name, value in self._items.items())
        return f"<headers {', '.join(shown)}>"


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class HttpRequest:
    """One request. `url` is sent as written; redirects are answers like any other and never followed."""

    method: str
    url: str
    headers: RequestHeaders = field(default_factory=RequestHeaders)
    body: bytes = field(default=b"", repr=False)


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class HttpResponse:
    """A whole response."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case; of repeated ones the last."""
    body: bytes = field(repr=False)


class HttpStream(Protocol):
    """A response whose body is still coming."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The decompressed body as it arrives. Raises HttpError when it is cut off."""
        ...

    async def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole rest, refused (`too_large`) beyond `limit` bytes."""
        ...


class Transport(Protocol):
    """An HTTP client with one URL policy, safe to share by event loops and threads."""

    async def send(self, request: HttpRequest, timeout: float, limit: int = MAX_BODY) -> HttpResponse:
        """The whole response within `timeout` seconds and `limit` bytes. Raises HttpError, UrlRefused."""
        ...

    def stream(self, request: HttpRequest, timeout: float) -> AbstractAsyncContextManager[HttpStream]:
        """The response once its head is there, within `timeout` seconds; the caller bounds the body. Raises as `send`."""
        ...

    async def aclose(self) -> None:
        """Close this event loop's connections. Those of another loop close when that loop ends."""
        ...
