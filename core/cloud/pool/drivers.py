"""The two ways to carry out a call's commands: in the caller's thread, and on an event loop. No policy here."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool import telemetry
from core.cloud.pool.admission import Refused
from core.cloud.pool.call import Call, Success, pool_failed
from core.cloud.pool.commands import Admit, Command, Event, Pause, Send, SendEnded
from core.cloud.pool.member import Member
from core.cloud.pool.plan import CallPlan
from core.cloud.pool.pool import Pool, Sending
from core.cloud.pool.wait_reports import Presence, attend
from core.daemon_threads import in_thread
from core.errors import AllEndpointsFailed, HeablcoinError, InvalidArgument

R = TypeVar("R")

AsyncWork = Callable[[ApiEndpoint, float], Awaitable[Any]]
"""Asks an endpoint, and is over within that many seconds: `within` sees to it for work that does not keep time itself."""


def admit(pool: Pool, command: Admit) -> int | Refused:
    """Take a slot; with a shared pool state this is a short transaction."""
    try:
        member = command.member
        return member.state.admit(
            pool.clock, last_resort=command.last_resort, new_key=member.new_key, tokens=command.tokens
        )
    except HeablcoinError:
        raise
    except Exception as error:
        raise pool_failed(error) from error


def drive(
    pool: Pool, plan: CallPlan, func: Callable[[ApiEndpoint], Any], sleep: Callable[[float], None] | None = None
) -> Success:
    """Carry out a call in this thread. `func` bounds its own time: a thread cannot be stopped. `sleep` replaces all waiting."""
    call = Call(pool, plan)
    steps = call.steps()
    presence = attend(pool.clock)
    event: Event = None
    try:
        while True:
            command = steps.send(event)
            if type(command) is Admit:
                event = admit(pool, command)
            elif type(command) is Send:
                presence.asks()
                event = _ask(command.sending, func)
            elif type(command) is Pause:
                _pause(command, sleep, presence)
                event = None
            else:
                raise AssertionError("a sync call has nothing under way between its steps")
    except StopIteration as stop:
        success: Success = stop.value
        return success
    except AllEndpointsFailed as failure:
        raise failure from call.cause()
    finally:
        presence.over()
        steps.close()


def _pause(command: Pause, sleep: Callable[[float], None] | None, presence: Presence) -> None:
    turn, called = command.turn, threading.Event()
    with presence.pauses(command.seconds, called.set):
        if sleep is not None:
            sleep(command.seconds)
            return
        if turn is not None:
            turn.listen(called.set)
        called.wait(command.seconds)
        if turn is not None:
            turn.listen(None)


def _ask(sending: Sending, func: Callable[[ApiEndpoint], Any]) -> SendEnded:
    span = telemetry.begin(sending.member.endpoint)
    ended_send = _asked(sending, func)
    if span is not None:
        telemetry.end(span, ended_send.result, ended_send.error)
    return ended_send


def _asked(sending: Sending, func: Callable[[ApiEndpoint], Any]) -> SendEnded:
    try:
        result = func(sending.member.endpoint)
        is_async = hasattr(type(result), "__await__")
        if is_async and (close := getattr(result, "close", None)) is not None:
            close()
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises is an outcome
        return SendEnded(sending, error=error)
    if is_async:
        return SendEnded(
            sending,
            error=InvalidArgument("call_with_retry was given an async function.", "use `await acall_with_retry(...)`"),
        )
    return SendEnded(sending, result)


async def adrive(pool: Pool, plan: CallPlan, work: AsyncWork) -> Success:
    """Carry out a call on the running event loop."""
    call = Call(pool, plan)
    steps = call.steps()
    presence = attend(pool.clock)
    event: Event = None
    under_way: dict[asyncio.Task[SendEnded], Sending] = {}
    try:
        while True:
            command = steps.send(event)
            if type(command) is Admit:
                event = await async_admit(pool, command)
            elif type(command) is Pause:
                await async_pause(command, presence)
                event = None
            else:
                presence.asks()
                event = await _next_end(command, under_way, work)
    except StopIteration as stop:
        success: Success = stop.value
        return success
    except AllEndpointsFailed as failure:
        raise failure from call.cause()
    finally:
        presence.over()
        steps.close()
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.gather(*under_way, return_exceptions=True)


async def async_pause(command: Pause, presence: Presence) -> None:
    turn, loop, called = command.turn, asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        # The caller may be another thread, and this loop may have been closed without ending its tasks.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(called.set)

    with presence.pauses(command.seconds, wake):
        if turn is not None:
            turn.listen(wake)
        try:
            async with asyncio.timeout(command.seconds):
                await called.wait()
        except TimeoutError:
            pass
        finally:
            if turn is not None:
                turn.listen(None)


async def _next_end(
    command: Command, under_way: dict[asyncio.Task[SendEnded], Sending], work: AsyncWork
) -> SendEnded | None:
    """Start the call that is asked for, if one is, and wait for the first that ends; None when it is time to hedge."""
    seconds = None
    if isinstance(command, Send):
        seconds = command.hedge_after
        if seconds is None and not under_way:
            return await _work(command, work)
        under_way[asyncio.ensure_future(_work(command, work))] = command.sending
    done, _ = await asyncio.wait(under_way, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        del under_way[task]
        return task.result()
    return None


def as_work(func: Callable[[ApiEndpoint], Any]) -> AsyncWork:
    """A user's function, async or not, as async work. A sync one runs in a thread, so that it cannot stop the event loop."""
    if inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None)):  # noqa: B004
        return lambda endpoint, seconds: within(seconds, func(endpoint))

    async def ask(endpoint: ApiEndpoint) -> Any:
        result = await in_thread(func, endpoint)
        return await result if inspect.isawaitable(result) else result

    return lambda endpoint, seconds: within(seconds, ask(endpoint))


async def within(seconds: float, asked: Awaitable[R]) -> R:
    """What `asked` gives. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        return await asked


async def async_admit(pool: Pool, command: Admit) -> int | Refused:
    """`admit`, but a shared pool state is asked from a thread, because the database may be busy; a slot taken for a caller that left is given back."""
    if not pool.shared:
        return admit(pool, command)
    asking = asyncio.get_running_loop().run_in_executor(pool.executor, admit, pool, command)
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        asking.add_done_callback(lambda done: _give_back(pool, command.member, done))
        raise


def _give_back(pool: Pool, member: Member, done: asyncio.Future[int | Refused]) -> None:
    if not done.cancelled() and done.exception() is None and isinstance(token := done.result(), int):
        pool.give_back(member, token)


async def _work(command: Send, work: AsyncWork) -> SendEnded:
    sending = command.sending
    span = telemetry.begin(sending.member.endpoint)
    ended_send = SendEnded(sending)
    try:
        ended_send.result = await work(sending.member.endpoint, command.timeout)
    except Exception as error:  # noqa: BLE001 - whatever the work raises is an outcome
        ended_send.error = error
    except asyncio.CancelledError as error:
        if span is not None:
            telemetry.end(span, None, error)
        raise
    if span is not None:
        telemetry.end(span, ended_send.result, ended_send.error)
    return ended_send
