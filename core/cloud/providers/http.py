"""A provider over HTTP: one wire format, one transport, and every way an answer can be wrong turned into ProviderError."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from core.cloud.pool.endpoint import ApiEndpoint
from core.cloud.providers.base import ChatAnswer, ChatChunk, ChatRequest, Usage
from core.cloud.providers.error_report import Problem, check_head, provider_error, telling_headers
from core.cloud.providers.stream_answer import StreamAnswer, empty_answer
from core.cloud.providers.wire import WireError, WireFormat, parse_json
from core.errors import UrlRefused
from core.network import HttpError, HttpStream, Transport
from core.network.http import MAX_BODY
from core.redaction import KNOWN_SECRETS

STALL_TIMEOUT = 20.0
"""Default for the longest pause between two tokens, in seconds; never more than the call's own timeout."""
AFTER_FINISH = 2.0
"""Seconds a finished stream may still take to tell its token usage."""
ERROR_BODY = 64 * 1024
"""Bytes read of a streamed call's error body."""

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL | re.IGNORECASE)


class HttpProvider:
    """Speaks one wire format. `stall_timeout` bounds the pause between tokens, a call's `timeout` the first token."""

    keeps_time = True
    """`chat` is over within its timeout without a guard around it."""

    def __init__(self, wire: WireFormat, transport: Transport, *, stall_timeout: float = STALL_TIMEOUT) -> None:
        self._wire = wire
        self._transport = transport
        self._stall_timeout = stall_timeout

    async def chat(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> ChatAnswer:
        KNOWN_SECRETS.add(endpoint.api_key)
        problem: Problem
        status, headers = 0, _NO_HEADERS
        try:
            response = await self._transport.send(self._wire.request(endpoint, request, stream=False), timeout)
            status, headers = response.status, telling_headers(response.headers)
            check_head(status, response.headers, response.body, "JSON")
            return whole_answer(self._wire, response.body, headers, request)
        except (HttpError, WireError, UrlRefused) as error:
            problem = error
        # Raised out here, the error drags along no exception whose frames held the request.
        raise provider_error(endpoint, problem, status, headers)

    async def stream(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> AsyncIterator[ChatChunk]:
        KNOWN_SECRETS.add(endpoint.api_key)
        problem: Problem
        status, headers = 0, _NO_HEADERS
        so_far: list[str] = []
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            sent = self._wire.request(endpoint, request, stream=True)
            async with self._transport.stream(sent, timeout) as response:
                status, headers = response.status, telling_headers(response.headers)
                chunks = self._events if is_event_stream(response) else self._whole
                async with aclosing(chunks(response, request, deadline)) as found:
                    async for chunk in found:
                        so_far.append(chunk.text)
                        yield chunk
                return
        except (HttpError, WireError, UrlRefused) as error:
            problem = error
        raise provider_error(endpoint, problem, status, headers, "".join(so_far))

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _whole(
        self, response: HttpStream, request: ChatRequest, deadline: float
    ) -> AsyncGenerator[ChatChunk, None]:
        """An error, or the answer of a server that does not stream."""
        failed = not 200 <= response.status <= 299
        body = b""
        try:
            async with asyncio.timeout_at(deadline):
                body = await (read_start(response, ERROR_BODY) if failed else response.read(MAX_BODY))
        except TimeoutError:
            if not failed:
                raise WireError("did not come in time", kind="timeout", code="read") from None
        check_head(response.status, response.headers, body, "an event stream")
        answer = whole_answer(self._wire, body, response.headers, request)
        yield ChatChunk(answer.text)
        yield ChatChunk("", answer.finish_reason, answer.usage)

    async def _events(
        self, response: HttpStream, request: ChatRequest, deadline: float
    ) -> AsyncGenerator[ChatChunk, None]:
        """A streamed answer; `deadline` (loop time) is the first token's, then each has the stall timeout."""
        clock = asyncio.get_running_loop()
        stall = min(self._stall_timeout, max(0.0, deadline - clock.time()))
        answer = StreamAnswer(self._wire)
        async with aclosing(response.chunks()) as pieces:
            while not answer.ended:
                try:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, b"")
                    if not piece:
                        break
                    for text in answer.feed(piece):
                        yield ChatChunk(text)
                except (TimeoutError, HttpError, WireError) as error:
                    # Once the model said that it is done, only its token usage is missing.
                    if answer.finish_reason:
                        break
                    raise (answer.timed_out() if isinstance(error, TimeoutError) else error) from None
                if answer.finish_reason:
                    deadline = min(deadline, clock.time() + AFTER_FINISH)
                elif answer.progress:
                    deadline = clock.time() + stall
        yield answer.last_chunk()


_NO_HEADERS: Mapping[str, str] = {}


def whole_answer(wire: WireFormat, body: bytes, headers: Mapping[str, str], request: ChatRequest) -> ChatAnswer:
    """A whole answer from its body. Raises WireError."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise WireError("is no JSON object")
    delta = wire.answer(value)
    finish_reason = delta.finish_reason or "stop"
    if not delta.text.strip():
        raise empty_answer(finish_reason)
    text = unfenced(delta.text) if request.json else delta.text
    tokens_in, tokens_out = delta.tokens
    usage = Usage(tokens_in or 0, tokens_out or 0)
    return ChatAnswer(text, delta.model or request.model, usage, finish_reason, headers)


def unfenced(text: str) -> str:
    """JSON without the Markdown fence that models like to put around it."""
    found = _FENCED.fullmatch(text.strip())
    return found[1].strip() if found else text


def is_event_stream(response: HttpStream) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return 200 <= response.status <= 299 and kind == "text/event-stream"


async def read_start(response: HttpStream, limit: int) -> bytes:
    """The first `limit` bytes of a body, or what there is of it: enough for an error's message."""
    body = bytearray()
    try:
        async with aclosing(response.chunks()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= limit:
                    break
    except HttpError:
        pass
    return bytes(body[:limit])
