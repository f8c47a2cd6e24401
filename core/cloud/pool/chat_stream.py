"""A streamed answer: other endpoints are asked as long as no text came, never after."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from core.cloud.chat import ChatChunk, ChatRequest
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool import telemetry
from core.cloud.pool.call import AT_DEADLINE, Call, Success
from core.cloud.pool.commands import Admit, Command, Event, Pause, Send, SendEnded
from core.cloud.pool.drivers import async_admit, async_pause
from core.cloud.pool.outcome import CANCELLED, OK, Outcome, OutcomeClass, classify
from core.cloud.pool.plan import CallPlan
from core.cloud.pool.pool import Pool, ReportedUsage, Sending
from core.cloud.pool.wait_reports import Presence, attend
from core.cloud.provider import Provider, ProviderError
from core.errors import AllEndpointsFailed


async def stream_chat(
    pool: Pool, plan: CallPlan, request: ChatRequest, provider_of: Callable[[ApiEndpoint], Provider]
) -> AsyncGenerator[ChatChunk, None]:
    """The chunks of one answer. `plan` must keep its sending open, and not hedge.

    Reasoning is passed on as it comes; when its endpoint fails before any text, that of the next one follows, under its name.
    Raises AllEndpointsFailed when no endpoint gave text, and ProviderError, with the text so far in `partial`, when the answer broke off or
    the deadline came after it.
    """
    presence = attend(pool.clock)
    try:
        opening = _Opening(pool, plan, presence)
        async with aclosing(opening.chunks(request, provider_of)) as before:
            async for chunk in before:
                yield chunk
        sending, attempt = opening.success.sending, opening.attempt
        outcome = CANCELLED
        try:
            async with aclosing(attempt.rest()) as chunks:
                async for chunk in chunks:
                    yield chunk
            outcome = OK
        except ProviderError as error:
            outcome = _judged(error, pool.clock.now())
            raise
        finally:
            pool.settle(sending, outcome, pool.shown(outcome.reason), sending.told)
            await attempt.close()
    finally:
        presence.over()


def _judged(error: ProviderError, epoch: float) -> Outcome:
    if error.code == AT_DEADLINE:
        return Outcome(OutcomeClass.CANCELLED, reason="still answering at the call's deadline")
    return classify(error, epoch)


class _Opening:
    """The part of the call in which endpoints are chosen: until one gives text."""

    success: Success
    attempt: "_Attempt"

    def __init__(self, pool: Pool, plan: CallPlan, presence: Presence) -> None:
        self._pool = pool
        self._presence = presence
        self._call = Call(pool, plan)
        self._ends = asyncio.get_running_loop().time() + plan.deadline

    async def chunks(
        self, request: ChatRequest, provider_of: Callable[[ApiEndpoint], Provider]
    ) -> AsyncGenerator[ChatChunk, None]:
        """Reasoning, then `success` and `attempt` are there."""
        steps = self._call.steps()
        event: Event = None
        attempt: _Attempt | None = None
        try:
            while True:
                command = steps.send(event)
                if isinstance(command, Send):
                    self._presence.asks()
                    attempt = self.attempt = _Attempt(self._pool, command, self._ends)
                    async with aclosing(attempt.begin(request, provider_of)) as before:
                        async for chunk in before:
                            yield chunk
                    event = attempt.ended_send
                else:
                    event = await self._carry_out(command)
        except StopIteration as stop:
            self.success, attempt = stop.value, None
        except AllEndpointsFailed as failure:
            raise failure from self._call.cause()
        finally:
            steps.close()
            if attempt is not None:
                await attempt.close()

    async def _carry_out(self, command: Command) -> Event:
        if isinstance(command, Admit):
            return await async_admit(self._pool, command)
        if isinstance(command, Pause):
            await async_pause(command, self._presence)
            return None
        raise AssertionError("a stream has nothing else under way between its steps")


class _Attempt:
    """One endpoint's answer, first until it has text, then to its end."""

    def __init__(self, pool: Pool, command: Send, ends: float) -> None:
        self.ended_send = SendEnded(command.sending)
        self._pool = pool
        self._sending: Sending = command.sending
        self._seconds = command.timeout
        self._ends = ends
        self._chunks: AsyncIterator[ChatChunk] | None = None
        self._first: ChatChunk | None = None
        self._alive = False
        self._said: list[str] = []
        self._finished = False

    async def begin(
        self, request: ChatRequest, provider_of: Callable[[ApiEndpoint], Provider]
    ) -> AsyncGenerator[ChatChunk, None]:
        """What comes before the first text: reasoning. Then `ended_send` says whether it may go on, or what went wrong."""
        endpoint = self._sending.member.endpoint
        span = telemetry.begin(endpoint)
        error: BaseException | None = asyncio.CancelledError()
        try:
            provider = provider_of(endpoint)
            self._chunks = provider.stream(endpoint, request, self._seconds)
            # A provider of ours sees to it that a first token comes in time.
            first_by = self._ends
            if not getattr(provider, "keeps_time", False):
                first_by = min(self._ends, asyncio.get_running_loop().time() + self._seconds)
            while self._first is None:
                chunk = await self._next(self._ends if self._alive else first_by)
                if chunk is None:
                    self._check_finished()
                    break
                if chunk.text or chunk.finish_reason:
                    self._first = chunk
                elif chunk.reasoning:
                    yield chunk
            error = None
        except Exception as problem:  # noqa: BLE001 - whatever the provider raises is an outcome
            error = self.ended_send.error = problem
            self._add_usage(problem)
            await self.close()
        finally:
            if span is not None:
                telemetry.end(span, None, error)

    async def rest(self) -> AsyncGenerator[ChatChunk, None]:
        """The first text and what comes after it. Raises ProviderError unless it ends as it should."""
        chunk = self._first
        try:
            while chunk is not None:
                yield chunk
                chunk = await self._next(self._ends)
            self._check_finished()
        except ProviderError as error:
            error.partial = error.partial or "".join(self._said)
            self._add_usage(error)
            raise

    async def close(self) -> None:
        """Let go of the connection."""
        chunks, self._chunks = self._chunks, None
        close: Any = getattr(chunks, "aclose", None)
        if close is not None:
            await close()

    async def _next(self, until: float) -> ChatChunk | None:
        """The next chunk, before `until` (loop time); None at the end."""
        chunks = self._chunks
        if chunks is None:
            return None
        try:
            async with asyncio.timeout_at(until):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise self._too_late(until) from None
        if chunk is None:
            return None
        if not self._alive:
            self._alive = True
            self._pool.first_token(self._sending)
        self._finished = self._finished or bool(chunk.finish_reason)
        if chunk.usage is not None:
            self._sending.told = ReportedUsage(chunk.usage.tokens_in, chunk.usage.tokens_out)
        if chunk.text:
            self._said.append(chunk.text)
        return ChatChunk(
            chunk.text, chunk.finish_reason, chunk.usage, self._sending.member.name, chunk.reasoning, chunk.adapted
        )

    def _too_late(self, until: float) -> ProviderError:
        name = self._sending.member.name
        if not self._alive:
            return ProviderError(
                f"{name} gave no first token within {self._seconds:.3g} s.",
                "raise the endpoint's timeout if the model is slow.",
                kind="timeout",
                code="first_token",
            )
        return ProviderError(
            f"{name} was still answering at the call's deadline.",
            "allow a longer deadline.",
            kind="timeout",
            code=AT_DEADLINE,
        )

    def _check_finished(self) -> None:
        if not self._finished:
            raise ProviderError(
                f"The answer of {self._sending.member.name} broke off without a finish reason.",
                "ask again; part of it is in `partial`.",
                kind="cut",
            )

    def _add_usage(self, error: Exception) -> None:
        """Count what an error tells besides."""
        self._sending.told = ReportedUsage(*self._sending.tokens_told(error))
