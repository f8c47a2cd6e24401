"""A provider over HTTP: one wire format, one transport, and every way an answer can be wrong turned into ProviderError."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing

from core.cloud.endpoint import ApiEndpoint
from core.cloud.providers.base import ChatAnswer, ChatChunk, ChatRequest, ProviderError, Usage
from core.cloud.providers.error_report import check_head, provider_error
from core.cloud.providers.sse import BadEvent, SseDecoder
from core.cloud.providers.wire import Delta, WireError, WireFormat, parse_json
from core.network import HttpFailure, HttpStream, Transport
from core.network.http import MAX_BODY
from core.redaction import KNOWN_SECRETS

STALL_TIMEOUT = 20.0
"""Default for the longest pause between two tokens, in seconds; never more than the call's own timeout."""
AFTER_FINISH = 2.0
"""Seconds a finished stream may still take to tell its token usage."""
ERROR_BODY = 64 * 1024
"""Bytes read of an error's body."""

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL | re.IGNORECASE)


class HttpProvider:
    """Speaks one wire format. `stall_timeout` bounds the pause between tokens, a call's `timeout` the first token."""

    def __init__(self, wire: WireFormat, transport: Transport, *, stall_timeout: float = STALL_TIMEOUT) -> None:
        self._wire = wire
        self._transport = transport
        self._stall_timeout = stall_timeout

    async def chat(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> ChatAnswer:
        KNOWN_SECRETS.add(endpoint.api_key)
        problem: HttpFailure | WireError
        headers: Mapping[str, str] = {}
        try:
            sent = self._wire.request(endpoint, request, stream=False)
            response = await self._transport.send(sent, timeout)
            headers = response.headers
            check_head(response.status, headers, response.body, "json")
            return whole_answer(self._wire, response.body, headers, request)
        except (HttpFailure, WireError) as error:
            problem = error
        # Raised out here, the error drags along no exception whose frames held the request.
        raise provider_error(endpoint, problem, headers)

    async def stream(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> AsyncIterator[ChatChunk]:
        KNOWN_SECRETS.add(endpoint.api_key)
        problem: HttpFailure | WireError
        headers: Mapping[str, str] = {}
        so_far: list[str] = []
        try:
            sent = self._wire.request(endpoint, request, stream=True)
            started = asyncio.get_running_loop().time()
            async with self._transport.stream(sent, timeout) as response:
                headers = response.headers
                left = max(0.0, started + timeout - asyncio.get_running_loop().time())
                async for chunk in self._chunks(response, request, left, min(timeout, self._stall_timeout)):
                    so_far.append(chunk.text)
                    yield chunk
                return
        except (HttpFailure, WireError) as error:
            problem = error
        raise provider_error(endpoint, problem, headers, "".join(so_far))

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _chunks(
        self, response: HttpStream, request: ChatRequest, first: float, stall: float
    ) -> AsyncIterator[ChatChunk]:
        clock = asyncio.get_running_loop()
        answer = _Answer()
        deadline = clock.time() + first
        if not is_event_stream(response):
            async with asyncio.timeout_at(deadline):
                body = await response.read(MAX_BODY if response.status == 200 else ERROR_BODY)
            check_head(response.status, response.headers, body, "event-stream")
            whole = whole_answer(self._wire, body, response.headers, request)
            yield ChatChunk(whole.text)
            yield ChatChunk("", whole.finish_reason, whole.usage)
            return
        decoder = SseDecoder()
        async with aclosing(response.chunks()) as pieces:
            while not answer.ended:
                try:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, b"")
                except TimeoutError:
                    answer.ran_out()
                    break
                except HttpFailure:
                    if answer.finish_reason:
                        break
                    raise
                if not piece:
                    break
                progress = False
                for delta in self._deltas(decoder, piece):
                    progress |= delta.progress
                    answer.add(delta)
                    if delta.text:
                        yield ChatChunk(delta.text)
                if answer.finish_reason:
                    deadline = min(deadline, clock.time() + AFTER_FINISH)
                elif progress:
                    deadline = clock.time() + stall
        yield answer.last_chunk()

    def _deltas(self, decoder: SseDecoder, piece: bytes) -> Iterator[Delta]:
        try:
            for event in decoder.feed(piece):
                yield self._wire.event(event)
        except BadEvent as error:
            raise WireError(f"is no event stream: {error}") from None


class _Answer:
    """What a stream has said so far."""

    def __init__(self) -> None:
        self.finish_reason = ""
        self.ended = False
        self._size = 0
        self._tokens: tuple[int | None, ...] = (None, None)

    def add(self, delta: Delta) -> None:
        self._size += len(delta.text)
        if self._size > MAX_BODY:
            raise WireError("is too long", code="too_large")
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.ended = self.ended or delta.end
        self._tokens = tuple(old if new is None else new for old, new in zip(self._tokens, delta.tokens, strict=True))

    def ran_out(self) -> None:
        """Time is up: an error unless only the usage was still to come."""
        if self.finish_reason:
            return
        if self._size:
            raise WireError("stopped coming between two tokens", kind="timeout", code="stall")
        raise WireError("did not start in time", kind="timeout", code="first_token")

    def last_chunk(self) -> ChatChunk:
        """The end, if it is a proper one."""
        if not self.finish_reason:
            raise WireError("ended without a finish reason", kind="cut", code="no_finish_reason")
        if not self._size:
            raise WireError(
                f"has no text (finish reason {self.finish_reason[:30]})", kind="empty", code=self.finish_reason[:30]
            )
        usage = None if self._tokens == (None, None) else Usage(*(count or 0 for count in self._tokens))
        return ChatChunk("", self.finish_reason, usage)


def whole_answer(wire: WireFormat, body: bytes, headers: Mapping[str, str], request: ChatRequest) -> ChatAnswer:
    """A whole answer from its body. Raises WireError."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise WireError("is no JSON object")
    delta = wire.answer(value)
    finish_reason = delta.finish_reason or "stop"
    if not delta.text.strip():
        raise WireError(f"has no text (finish reason {finish_reason[:30]})", kind="empty", code=finish_reason[:30])
    text = unfenced(delta.text) if request.json else delta.text
    usage = Usage(*(count or 0 for count in delta.tokens))
    return ChatAnswer(text, delta.model or request.model, usage, finish_reason, headers)


def unfenced(text: str) -> str:
    """JSON without the Markdown fence that models like to put around it."""
    found = _FENCED.fullmatch(text.strip())
    return found[1].strip() if found else text


def is_event_stream(response: HttpStream) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.status == 200 and kind == "text/event-stream"
