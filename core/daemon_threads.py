"""Threads for work that may block for as long as it likes: no piece of it waits for another's, and none keeps the process.

The event loop's own executor has a few threads for everybody: eight look-ups that hang stop all others, and `asyncio.run`
waits for them at its end (python/cpython 112169, 108951). Here each piece of work has a daemon thread at once, an idle one
where there is one.
"""

import asyncio
import contextvars
import itertools
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

R = TypeVar("R")

IDLE_SECONDS = 10.0
"""A thread without work for so long ends."""

_numbers = itertools.count(1)


class _Worker:
    """A thread and the one place where its next work is put."""

    def __init__(self) -> None:
        self.work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()


class DaemonThreads:
    """Runs each piece of work at once. Thread-safe."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child there are none of the threads."""
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def run(self, work: Callable[[], None]) -> None:
        """Start `work`, which raises nothing. Raises OSError when the system gives no further thread."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is not None:
            worker.work.put(work)
            return
        worker = _Worker()
        worker.work.put(work)
        try:
            threading.Thread(
                target=self._serve, args=(worker,), name=f"heablcoin-blocking-{next(_numbers)}", daemon=True
            ).start()
        except RuntimeError as error:
            raise OSError(f"no further thread can be started: {error}") from None

    def _serve(self, worker: _Worker) -> None:
        work: Callable[[], None] | None = worker.work.get()
        while work is not None:
            work()
            work = None  # what it refers to is not kept while idle
            with self._lock:
                self._idle.append(worker)
            try:
                work = worker.work.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    given = worker not in self._idle
                    if not given:
                        self._idle.remove(worker)
                if given:
                    work = worker.work.get()


THREADS = DaemonThreads()
"""Those of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=THREADS.forget)


async def in_thread(func: Callable[..., R], *args: Any) -> R:
    """What `func(*args)` gives or raises, run in a thread of its own with the context of the caller.

    A caller that is cancelled leaves at once; the function goes on, and what comes of it is dropped.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[R] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            result = context.run(func, *args)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its caller's
            settle(waiter, None, RuntimeError("the function raised StopIteration") if _stops(error) else error)
        else:
            settle(waiter, result, None)

    THREADS.run(work)
    return await waiter


def settle(waiter: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    """From any thread: give a future of some event loop its result, unless nobody waits any more."""
    # The loop may have been closed meanwhile.
    with suppress(RuntimeError):
        waiter.get_loop().call_soon_threadsafe(_settle, waiter, result, error)


def _settle(waiter: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if waiter.done():
        return
    if error is None:
        waiter.set_result(result)
    else:
        waiter.set_exception(error)


def _stops(error: BaseException) -> bool:
    # A future cannot hold it.
    return isinstance(error, StopIteration)
