"""A provider over HTTP: one wire format, one transport, and every way an answer can be wrong turned into ProviderError."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from core.cloud.chat import ChatAnswer, ChatChunk, ChatRequest, Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.providers.error_report import Problem, check_head, provider_error, telling_headers
from core.cloud.providers.stream_answer import StreamAnswer, checked_finish
from core.cloud.providers.wire_format import WireError, WireFormat, adapted_in, as_usage, parse_json
from core.cloud.replies.token_counts import plausible
from core.errors import UrlRefused
from core.network import HttpError, HttpStream, Transport
from core.network.http import MAX_BODY
from core.redaction import KNOWN_SECRETS

STALL_TIMEOUT = 20.0
"""Default for the longest pause between two tokens, in seconds; never more than the call's own timeout."""
AFTER_FINISH = 2.0
"""Seconds a finished stream may still take to tell its token usage."""
AFTER_END = 0.25
"""Seconds of the same for one that said itself that nothing more comes, as some servers do before they tell it."""
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
        sent = self._wire.request(endpoint, request, stream=False)
        try:
            response = await self._transport.send(sent, timeout)
            status, headers = response.status, telling_headers(response.headers)
            if not holds_events(status, response.body):
                check_head(status, response.headers, response.body, "JSON")
            answer = whole_answer(self._wire, response.body, headers, request, endpoint.name)
            if endpoint.adapted:
                answer.adapted = adapted_in(sent)
            return answer
        except (HttpError, WireError, UrlRefused) as error:
            problem = error
        # Raised out here, the error drags along no exception whose frames held the request.
        usage = usage_in(problem, endpoint.name)
        raise provider_error(endpoint, problem, status, headers, usage=usage, sent=sent.body, model=request.model)

    async def stream(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> AsyncIterator[ChatChunk]:
        KNOWN_SECRETS.add(endpoint.api_key)
        problem: Problem
        status, headers = 0, _NO_HEADERS
        so_far: list[str] = []
        answer = StreamAnswer(self._wire, endpoint.name)
        clock = asyncio.get_running_loop()
        first_by = clock.time() + timeout
        sent = self._wire.request(endpoint, request, stream=True)
        try:
            async with self._transport.stream(sent, timeout) as response:
                status, headers = response.status, telling_headers(response.headers)
                if is_event_stream(response):
                    found = self._events(response, answer, first_by, min(self._stall_timeout, timeout))
                else:
                    found = self._whole(response, answer, first_by, request)
                async with aclosing(found) as chunks:
                    async for chunk in chunks:
                        so_far.append(chunk.text)
                        if chunk.finish_reason and endpoint.adapted:
                            chunk.adapted = adapted_in(sent)
                        yield chunk
                return
        except (HttpError, WireError, UrlRefused) as error:
            problem = error
        usage = answer.usage or usage_in(problem, endpoint.name)
        so_long = "".join(so_far)
        failure = provider_error(
            endpoint, problem, status, headers, partial=so_long, usage=usage, sent=sent.body, model=request.model
        )
        raise failure

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _whole(
        self, response: HttpStream, answer: StreamAnswer, deadline: float, request: ChatRequest
    ) -> AsyncGenerator[ChatChunk, None]:
        """An error, the answer of a server that does not stream, or a stream under another name; `deadline` is in loop time."""
        failed = not 200 <= response.status <= 299
        body = b""
        try:
            async with asyncio.timeout_at(deadline):
                body = await (read_start(response, ERROR_BODY) if failed else response.read(MAX_BODY))
        except TimeoutError:
            if not failed:
                raise WireError("did not come in time", kind="timeout", code="read") from None
        if holds_events(response.status, body):
            for chunk in (*answer.feed(body), *answer.finish()):
                yield chunk
            return
        check_head(response.status, response.headers, body, "an event stream")
        found = whole_answer(self._wire, body, response.headers, request, answer.who)
        yield ChatChunk(found.text, reasoning=found.reasoning)
        yield ChatChunk("", found.finish_reason, found.usage)

    async def _events(
        self, response: HttpStream, answer: StreamAnswer, deadline: float, stall: float
    ) -> AsyncGenerator[ChatChunk, None]:
        """A streamed answer; `deadline` (loop time) is the first token's, then each has `stall` seconds."""
        clock = asyncio.get_running_loop()
        async with aclosing(response.chunks()) as pieces:
            while not answer.ended or answer.usage is None:
                try:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces, b"")
                    if not piece:
                        break
                    for chunk in answer.feed(piece):
                        yield chunk
                except (TimeoutError, HttpError, WireError) as error:
                    # Once the model said that it is done, only its token usage is missing.
                    if answer.finish_reason:
                        break
                    raise (answer.timed_out() if isinstance(error, TimeoutError) else error) from None
                if answer.ended or answer.finish_reason:
                    deadline = min(deadline, clock.time() + (AFTER_END if answer.ended else AFTER_FINISH))
                elif answer.progress:
                    deadline = clock.time() + stall
        for chunk in answer.finish():
            yield chunk


_NO_HEADERS: Mapping[str, str] = {}


def whole_answer(
    wire: WireFormat, body: bytes, headers: Mapping[str, str], request: ChatRequest, who: str
) -> ChatAnswer:
    """A whole answer of the endpoint `who` from its body. Raises WireError."""
    if holds_events(200, body):
        return _gathered(StreamAnswer(wire, who), body, headers, request)
    value = parse_json(body)
    if not isinstance(value, dict):
        raise WireError("is no JSON object")
    delta = wire.answer(value)
    tokens = plausible(delta.tokens, who)
    try:
        finish_reason = checked_finish(
            delta.finish_reason or "stop",
            blank=not delta.text.strip(),
            reasoned=bool(delta.reasoning),
            calls_tool=delta.calls_tool,
        )
    except WireError as error:
        error.tokens = tokens
        raise
    text = unfenced(delta.text) if request.json else delta.text
    usage = as_usage(tokens) or Usage()
    return ChatAnswer(text, delta.model or request.model, usage, finish_reason, headers, delta.reasoning)


def _gathered(answer: StreamAnswer, body: bytes, headers: Mapping[str, str], request: ChatRequest) -> ChatAnswer:
    """The whole of a stream, from a server that streams although it was not asked to."""
    try:
        chunks = [*answer.feed(body), *answer.finish()]
    except WireError as error:
        error.tokens = answer.tokens
        raise
    text = "".join(chunk.text for chunk in chunks)
    return ChatAnswer(
        unfenced(text) if request.json else text,
        answer.model or request.model,
        answer.usage or Usage(),
        answer.finish_reason,
        headers,
        "".join(chunk.reasoning for chunk in chunks),
    )


def holds_events(status: int, body: bytes) -> bool:
    """Whether a body is an event stream whatever its content type says: no other format begins so."""
    return 200 <= status <= 299 and body[:64].lstrip(b"\xef\xbb\xbf \r\n").startswith(_BEGINNINGS)


_BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b":")


def usage_in(problem: Problem, who: str) -> Usage | None:
    """What an error says was used all the same."""
    return as_usage(plausible(problem.tokens, who)) if isinstance(problem, WireError) else None


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
