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
    hangs: bool = False
    """Nothing more comes after the pieces, and the connection stays open; otherwise the body ends there."""
    cut: bool = False
    """The connection is lost after the pieces."""


class ScriptedTransport:
    """Gives `reply` to every request, or what `reply_to` makes of it."""

    def __init__(self, reply: Reply | None = None) -> None:
        self.reply = reply or Reply([b"{}"])
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
        return ScriptedStream(self.reply)

    async def aclose(self) -> None:
        pass


class ScriptedStream:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.status = reply.status
        self.headers = {"content-type": reply.content_type, **reply.headers}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for piece in self._reply.pieces:
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
