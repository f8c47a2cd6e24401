"""One way to call a function, plain or async, with a time limit, from plain code or from a coroutine."""

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from utils.threads import start_in_thread

R = TypeVar("R")
P = ParamSpec("P")


async def call(func: Callable[P, Awaitable[R] | R], seconds: float | None, /, *args: P.args, **kwargs: P.kwargs) -> R:
    """What `func` returns, awaited if it can be; a plain function runs in a daemon thread.

    Raises TimeoutError after `seconds`: a coroutine is cancelled then, a thread abandoned.
    """
    try:
        async with asyncio.timeout(seconds) as scope:
            if is_async(func):
                value = func(*args, **kwargs)
            else:
                value = await in_thread(lambda: func(*args, **kwargs))
            return await value if inspect.isawaitable(value) else value
    except TimeoutError as error:
        if scope.expired() and seconds is not None:
            raise overran(seconds) from error
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("the call cancelled itself") from error


async def in_thread(work: Callable[[], R]) -> R:
    """The outcome of `work`, run in a daemon thread: nobody waits for it at exit."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[R | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(value: R | None, error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result((value, error))

    def run() -> Callable[[], None]:
        value: R | None = None
        error: BaseException | None = None
        try:
            value = context.run(work)
        except BaseException as caught:  # noqa: BLE001 - raised again in the caller
            error = caught

        def answer() -> None:
            with contextlib.suppress(RuntimeError):  # the loop ended: this call had been given up
                loop.call_soon_threadsafe(deliver, value, error)

        return answer

    start_in_thread(run)
    value, error = await outcome
    if isinstance(error, StopIteration):
        raise RuntimeError("the call raised StopIteration") from error  # noqa: TRY004 - a coroutine cannot raise it
    if error is not None:
        raise error
    return cast("R", value)


def drive(work: Coroutine[Any, Any, R]) -> R:
    """The result of `work` in plain code; in a thread of its own when this one already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _elsewhere(work)


def _elsewhere(work: Coroutine[Any, Any, R]) -> R:
    outcome: list[R] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller
            failure.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


async def settle(value: Awaitable[R]) -> R:
    """An awaitable as a coroutine, for `drive`."""
    return await value


def is_async(func: Callable[..., object]) -> bool:
    """True when calling `func` makes a coroutine, as far as can be told without calling it."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


def overran(seconds: float) -> TimeoutError:
    """The error for a call that took longer than `seconds`."""
    return TimeoutError(f"timed out after {seconds:g} s")
