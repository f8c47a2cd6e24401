"""A transport that answers from memory: bytes in given pieces, without a socket. For thousands of answers in a second."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.network.http import MAX_BODY, HttpError, HttpRequest, HttpResponse


@dataclass
class Reply:
    """What one request gets."""

    pieces: Sequence[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    gap: float = 0.0
    """Seconds before each piece but the first."""
    hangs: bool = False
    """Nothing more comes after the pieces, and the connection stays open; otherwise the body ends there."""
    cut: bool = False
    """The connection is lost after the pieces."""


class ScriptedTransport:
    """Gives `reply` to every request, or the one its host has in `by_host`."""

    def __init__(self, reply: Reply | None = None, **by_host: Reply) -> None:
        self.reply = reply or Reply([b"{}"])
        self.by_host = by_host
        """By the first label of the host: `https://first.example` gets that of `first`."""
        self.requests: list[HttpRequest] = []
        self.open = 0
        """Streams that were opened and not closed."""

    async def send(self, request: HttpRequest, timeout: float, limit: int = MAX_BODY) -> HttpResponse:
        stream = self._stream(request)
        try:
            async with asyncio.timeout(timeout):
                body = await stream.read(limit)
        except TimeoutError:
            raise HttpError("did not answer in time.", kind="timeout", code="read") from None
        return HttpResponse(stream.status, stream.headers, body)

    @asynccontextmanager
    async def stream(self, request: HttpRequest, timeout: float) -> AsyncIterator["ScriptedStream"]:
        del timeout
        self.open += 1
        try:
            yield self._stream(request)
        finally:
            self.open -= 1

    def _stream(self, request: HttpRequest) -> "ScriptedStream":
        self.requests.append(request)
        host = request.url.partition("://")[2].partition(".")[0]
        return ScriptedStream(self.by_host.get(host, self.reply))

    async def aclose(self) -> None:
        pass


class ScriptedStream:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.status = reply.status
        self.headers = {"content-type": reply.content_type, **reply.headers}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for position, piece in enumerate(self._reply.pieces):
            if position and self._reply.gap:
                await asyncio.sleep(self._reply.gap)
            if piece:
                yield piece
        if self._reply.hangs:
            await asyncio.Event().wait()
        if self._reply.cut:
            raise HttpError("the connection was lost.", kind="cut", code="closed")

    async def read(self, limit: int = MAX_BODY) -> bytes:
        body = b"".join([piece async for piece in self.chunks()])
        if len(body) > limit:
            raise HttpError("the answer is too large.", kind="protocol", code="too_large")
        return body
