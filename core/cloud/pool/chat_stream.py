"""A streamed answer: another endpoint is asked as long as no token came, never after."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from core.cloud.pool.call import CallPlan
from core.cloud.pool.drivers import adrive, within
from core.cloud.pool.endpoint import ApiEndpoint
from core.cloud.pool.outcome import CANCELLED, OK, Outcome, classify
from core.cloud.pool.pool import Flight, Pool, Usage
from core.cloud.providers.base import ChatChunk, ChatRequest, Provider, ProviderError


@dataclass(slots=True)
class _Opened:
    """A stream whose first token came."""

    chunks: AsyncIterator[ChatChunk]
    first: list[ChatChunk]


async def stream_chat(
    pool: Pool, plan: CallPlan, request: ChatRequest, provider_of: Callable[[ApiEndpoint], Provider]
) -> AsyncGenerator[ChatChunk, None]:
    """The chunks of one answer. `plan` must keep its flight open.

    Raises AllEndpointsFailed when no endpoint gave a first token, and ProviderError, with the text so far in `partial`, when the answer
    broke off or the deadline came after it.
    """
    ends = asyncio.get_running_loop().time() + plan.deadline

    async def ask(endpoint: ApiEndpoint, seconds: float) -> _Opened:
        return await within(seconds, _open(provider_of(endpoint).stream(endpoint, request, seconds)))

    success = await adrive(pool, plan, ask)
    opened: _Opened = success.result
    outcome, said, usage = CANCELLED, "", Usage()
    name = success.flight.member.name
    try:
        async with aclosing(_rest(opened, ends, success.flight)) as chunks:
            async for chunk in chunks:
                said += chunk.text
                if chunk.usage is not None:
                    usage = Usage(chunk.usage.tokens_in, chunk.usage.tokens_out)
                yield ChatChunk(chunk.text, chunk.finish_reason, chunk.usage, name)
        outcome = OK
    except ProviderError as error:
        outcome = classify(error, pool.clock.now())
        error.partial = error.partial or said
        raise
    finally:
        _settle(pool, success.flight, outcome, usage)


def _settle(pool: Pool, flight: Flight, outcome: Outcome, usage: Usage) -> None:
    pool.settle(flight, outcome, pool.shown(outcome.reason), usage)


async def _open(chunks: AsyncIterator[ChatChunk]) -> _Opened:
    """Wait for the first chunk that has text."""
    first: list[ChatChunk] = []
    try:
        async for chunk in chunks:
            first.append(chunk)
            if chunk.text:
                return _Opened(chunks, first)
    except BaseException:
        await _close(chunks)
        raise
    raise ProviderError("The stream ended without any text.", "try again, or ask another endpoint.", kind="empty")


async def _rest(opened: _Opened, ends: float, flight: Flight) -> AsyncGenerator[ChatChunk, None]:
    """What came already, then what comes before the deadline; an end without a finish reason is an error."""
    finished = False
    try:
        for chunk in opened.first:
            finished = finished or bool(chunk.finish_reason)
            yield chunk
        while True:
            try:
                async with asyncio.timeout_at(ends):
                    chunk = await anext(opened.chunks)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise ProviderError(
                    f"{flight.member.name} was still answering at the call's deadline.",
                    "allow a longer deadline.",
                    kind="timeout",
                ) from None
            finished = finished or bool(chunk.finish_reason)
            yield chunk
    finally:
        await _close(opened.chunks)
    if not finished:
        raise ProviderError(
            f"The answer of {flight.member.name} broke off without a finish reason.",
            "ask again; part of it is in `partial`.",
            kind="cut",
        )


async def _close(chunks: AsyncIterator[ChatChunk]) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await cast(Callable[[], "asyncio.Future[None]"], close)()
