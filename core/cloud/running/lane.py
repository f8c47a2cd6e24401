"""Where async handlers run: one event loop in a daemon thread, replaced when a handler blocks it."""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from core.cloud.running.flight import Flight
from core.failpoints import failpoint

log = logging.getLogger(__name__)

Ending = tuple[Flight, object, BaseException | None]
"""What a flight ended with: its handler's value, or its error."""
Ended = Callable[[Sequence[Ending]], None]

_numbers = itertools.count(1)


class Lane:
    """An event loop of its own thread.

    A handler that blocks the loop stops the lane, not the process: the runner then abandons it and starts another.
    """

    def __init__(self, ended: Ended, too_late: Callable[[Flight], bool]) -> None:
        self._ended = ended
        self._too_late = too_late
        self._finished: list[Ending] = []
        self._queue: deque[Flight] = deque()
        """Given, not yet begun; whoever pops a flight has it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(DaemonExecutor())
        self._answered = True
        self.abandoned = False
        self._thread = threading.Thread(target=self._run, name=f"heablcoin-handlers-{next(_numbers)}", daemon=True)
        self._thread.start()

    def start(self, flights: Sequence[Flight]) -> None:
        """Run these. From any thread."""
        self._queue.extend(flights)
        if threading.current_thread() is self._thread:
            self._start()
        else:
            self._post(self._start)

    def recall(self) -> list[Flight]:
        """Take back what the loop has not begun. From any thread."""
        recalled = []
        with contextlib.suppress(IndexError):
            while True:
                recalled.append(self._queue.popleft())
        return recalled

    def cancel(self, flight: Flight) -> None:
        """Cancel one; `flight.cancel_seen` becomes True once the loop has done so. From any thread."""
        self._post(self._cancel, flight)

    def answers(self) -> bool:
        """Whether the loop has moved since the last call; asks it to move again. True the first time."""
        answered, self._answered = self._answered, False
        self._post(self._answer)
        return answered

    def close(self) -> None:
        """Cancel all that still runs and end the loop as soon as it can. From any thread; does not wait."""
        self.abandoned = True
        self._post(self._shut)

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread to end; True when it did."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            log.debug("an event loop for handlers has already ended")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _start(self) -> None:
        while self._queue:
            try:
                flight = self._queue.popleft()
            except IndexError:
                return
            task = self._loop.create_task(self._fly(flight))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            flight.task = task

    async def _fly(self, flight: Flight) -> None:
        value: object = None
        failure: BaseException | None = None
        handler, context = flight.handler, flight.context
        flight.begun = True
        failpoint("before_handler")
        try:
            if flight.unwanted() or self._too_late(flight):
                raise asyncio.CancelledError
            value = await (
                handler.func(flight.payload, context) if handler.takes_context else handler.func(flight.payload)
            )
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its task's failure, never ours
            failure = error
        failpoint("after_handler")
        finished = self._finished
        finished.append((flight, value, failure))
        if len(finished) == 1:
            # After the other flights that are ready to end in this turn of the loop, so that they settle together.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        finished, self._finished = self._finished, []
        self._ended(finished)

    def _cancel(self, flight: Flight) -> None:
        flight.cancel_seen = True
        if flight.begun and flight.task is not None:
            flight.task.cancel()
        # Else it finds out when it begins. A task cancelled before its first step would end without a word.

    def _answer(self) -> None:
        self._answered = True

    def _shut(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._loop.create_task(self._stop_when_idle())

    async def _stop_when_idle(self) -> None:
        others = self._tasks.copy()
        if others:
            await asyncio.wait(others, timeout=1.0)
        await self._loop.shutdown_asyncgens()
        self._loop.call_soon(self._loop.stop)


class DaemonExecutor(ThreadPoolExecutor):
    """What `asyncio.to_thread` uses inside handlers: a daemon thread a call.

    The standard pool's threads are joined when the interpreter exits, so a stuck one would keep the process alive.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` in a new daemon thread."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  # handed to whoever awaits it
                future.set_exception(error)

        threading.Thread(target=run, name="heablcoin-to-thread", daemon=True).start()
        return future
