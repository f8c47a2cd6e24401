"""What both transports share: reading a body in bounds, and a whole exchange made of a streamed one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from core.network.body import Decoder
from core.network.failures import timeout_failure, too_large
from core.network.headers import header_fault
from core.network.http import MAX_BODY, HttpError, HttpRequest, HttpResponse, HttpStream
from core.network.policy import UrlPolicy
from core.network.resolve import Targets
from core.network.url import Target


class BodyStream:
    """An HttpStream over a library's own iterator of raw bytes."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        raw: AsyncIterable[bytes],
        target: Target,
        as_failure: Callable[[BaseException, Target], HttpError | None],
    ) -> None:
        self.status = status
        self.headers = headers
        self._raw = raw
        self._target = target
        self._as_failure = as_failure

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        decoder = Decoder(self.headers.get("content-encoding", ""))
        received = False
        try:
            async for raw in self._raw:
                received = received or bool(raw)
                for chunk in decoder.feed(raw):
                    yield chunk
        except Exception as error:
            failure = self._as_failure(error, self._target)
            if failure is None:
                raise
            raise failure from None
        if received:
            decoder.finish()

    async def read(self, limit: int = MAX_BODY) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise too_large(self._target.host, limit)
        return bytes(body)


async def read_whole(read: Callable[[], Awaitable[bytes]], headers: Mapping[str, str], limit: int, host: str) -> bytes:
    """The body that `read` gives in pieces, b"" at its end: decompressed, refused (`too_large`) beyond `limit` bytes."""
    encoding = headers.get("content-encoding", "")
    decoder = Decoder(encoding) if encoding else None
    body = bytearray()
    received = False
    while raw := await read():
        received = True
        for chunk in (raw,) if decoder is None else decoder.feed(raw):
            body += chunk
            if len(body) > limit:
                raise too_large(host, limit)
    if decoder is not None and received:
        decoder.finish()
    return bytes(body)


class StreamingTransport:
    """The half of a Transport that needs only `stream`."""

    def __init__(self, policy: UrlPolicy | None) -> None:
        self._targets = Targets(policy)

    def stream(self, request: HttpRequest, timeout: float) -> AbstractAsyncContextManager[HttpStream]:
        raise NotImplementedError

    async def send(self, request: HttpRequest, timeout: float, limit: int = MAX_BODY) -> HttpResponse:
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(request, timeout, limit)
        except HttpError as error:
            failure = error.with_traceback(None)
        except TimeoutError:
            failure = timeout_failure(self._targets.check(request.url))
        # Raised out here, it drags along no exception whose frames held headers.
        raise failure

    async def _exchange(self, request: HttpRequest, timeout: float, limit: int) -> HttpResponse:
        """A whole exchange; its caller bounds the time."""
        async with self.stream(request, timeout) as response:
            return HttpResponse(response.status, response.headers, await response.read(limit))


def sendable_headers(request: HttpRequest) -> dict[str, str]:
    """The headers to send, empty ones left out. Raises HttpError naming the one that cannot be sent, never its value."""
    if request.headers.vetted is not None:
        return request.headers.vetted
    headers = {"accept-encoding": "identity"}
    for name, value in request.headers.items():
        if wrong := header_fault(name, value):
            raise HttpError(f"The header {name[:40]!r} {wrong}.", "correct it.", kind="protocol", code="unsendable")
        if text := value.strip():
            headers[name] = text
    request.headers.vetted = headers
    return headers
