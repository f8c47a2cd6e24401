"""Where async handlers run: one event loop in a daemon thread, replaced when a handler blocks it."""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from core.cloud.pool import wait_reports
from core.cloud.running.running_attempt import RunningAttempt
from core.failpoints import failpoint, survived
from core.safe_text import type_name

log = logging.getLogger(__name__)

Ending = tuple[RunningAttempt, object, BaseException | None]
"""What an attempt ended with: its handler's value, or its error."""
Ended = Callable[[Sequence[Ending]], None]

MOST_THREADS = 64
"""Calls of asyncio.to_thread that run at once on one event loop. A call that hangs keeps its thread for good."""

_numbers = itertools.count(1)


class AsyncExecutor:
    """An event loop of its own thread.

    A handler that blocks the loop stops the executor, not the process: the runner then abandons it and starts another.
    """

    def __init__(self, ended: Ended, too_late: Callable[[RunningAttempt], bool]) -> None:
        self._ended = ended
        self._too_late = too_late
        self._finished: list[Ending] = []
        self._queue: deque[RunningAttempt] = deque()
        """Given, not yet begun; whoever pops an attempt has it."""
        self._tasks: dict[asyncio.Task[None], RunningAttempt] = {}
        self._loop = asyncio.new_event_loop()
        self._answered = True
        self._ending = False
        try:
            self._loop.set_default_executor(DaemonExecutor())
            self._thread = threading.Thread(target=self._run, name=f"heablcoin-handlers-{next(_numbers)}", daemon=True)
            self._thread.start()
        except BaseException:
            self._loop.close()
            raise

    def start(self, attempts: Sequence[RunningAttempt]) -> None:
        """Run these. From any thread. Raises RuntimeError, with none of them begun, when the loop has ended."""
        self._queue.extend(attempts)
        if threading.current_thread() is self._thread:
            self._start()
        elif not self._post(self._start):
            self.recall()
            raise RuntimeError("the event loop for handlers has ended")

    def recall(self) -> list[RunningAttempt]:
        """Take back what the loop has not begun. From any thread."""
        recalled = []
        with contextlib.suppress(IndexError):
            while True:
                recalled.append(self._queue.popleft())
        return recalled

    def cancel(self, attempt: RunningAttempt) -> None:
        """Cancel one; `attempt.cancel_seen` becomes True once the loop has done so. From any thread."""
        self._post(self._cancel, attempt)

    def answers(self) -> bool:
        """Whether the loop has moved since the last call; asks it to move again. True the first time."""
        answered, self._answered = self._answered, False
        self._post(self._answer)
        return answered

    def close(self) -> None:
        """Cancel all that still runs and end the loop as soon as it can. From any thread; does not wait."""
        self._post(self._shut)

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread to end; True when it did."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _post(self, callback: Callable[..., None], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            log.debug("an event loop for handlers has already ended")
            return False
        return True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._ending and not self._loop.is_closed():
                # A handler can end the loop from inside: by its stop(), or by a task or callback of its own that raises
                # SystemExit or KeyboardInterrupt. The others on it know nothing of that.
                try:
                    self._loop.run_forever()
                except BaseException as error:  # noqa: BLE001
                    log.warning("a handler raised %s out of its event loop; the loop goes on", type_name(error))
        finally:
            self._loop.close()
            if not self._ending:
                closed = RuntimeError("A handler closed the event loop that others run on.")
                self._ended([(attempt, None, closed) for attempt in (*self._tasks.values(), *self.recall())])

    def _start(self) -> None:
        while self._queue:
            try:
                attempt = self._queue.popleft()
            except IndexError:
                return
            coroutine = self._run_one(attempt)
            try:
                task = self._loop.create_task(coroutine)
            except BaseException as error:  # noqa: BLE001  # a handler may have put a task factory of its own there
                coroutine.close()
                self._end(attempt, None, error)
                continue
            self._tasks[task] = attempt
            attempt.task = task
            task.add_done_callback(partial(self._done, attempt))

    async def _run_one(self, attempt: RunningAttempt) -> None:
        value: object = None
        failure: BaseException | None = None
        handler, context = attempt.handler, attempt.context
        attempt.begun = True
        try:
            failpoint("before_handler")
            if attempt.settled or attempt.unwanted() or self._too_late(attempt):
                raise asyncio.CancelledError
            wait_reports.tell(attempt.rest)  # the context is the asyncio task's own
            value = await (
                handler.func(attempt.payload, context) if handler.takes_context else handler.func(attempt.payload)
            )
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its task's failure, never ours
            failure = error
        survived("after_handler")
        self._end(attempt, value, failure)

    def _end(self, attempt: RunningAttempt, value: object, failure: BaseException | None) -> None:
        attempt.done = True
        finished = self._finished
        finished.append((attempt, value, failure))
        if len(finished) == 1:
            # After the other attempts that are ready to end in this turn of the loop, so that they settle together.
            self._loop.call_soon(self._flush)

    def _done(self, attempt: RunningAttempt, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not attempt.done:
            # Cancelled from inside the loop before its first step, which it then never makes.
            failure = None if task.cancelled() else task.exception()
            self._end(attempt, None, failure or asyncio.CancelledError())

    def _flush(self) -> None:
        finished, self._finished = self._finished, []
        self._ended(finished)

    def _cancel(self, attempt: RunningAttempt) -> None:
        attempt.cancel_seen = True
        if attempt.begun and attempt.task is not None:
            attempt.task.cancel()
        # Else it finds out when it begins. A task cancelled before its first step would end without a word.

    def _answer(self) -> None:
        self._answered = True

    def _shut(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        self._loop.create_task(self._stop_when_idle())

    async def _stop_when_idle(self) -> None:
        try:
            if self._tasks:
                await asyncio.wait(list(self._tasks), timeout=1.0)
            await self._loop.shutdown_asyncgens()
        finally:
            self._ending = True
            self._loop.call_soon(self._loop.stop)


def run_to_its_end(awaitable: Awaitable[object]) -> object:
    """Run one async handler in this thread, on a loop of its own. Raises what it raises.

    Unlike asyncio.run it waits no longer than a second for what the handler leaves running, threads included.
    """
    loop = asyncio.new_event_loop()
    try:
        loop.set_default_executor(DaemonExecutor())
        asyncio.set_event_loop(loop)
        value = loop.run_until_complete(_await(awaitable))
    finally:
        try:
            _clear(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    return value


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _clear(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with contextlib.suppress(BaseException):  # of what was left running; the handler's own error is on its way
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), 1.0))


class DaemonExecutor(ThreadPoolExecutor):
    """What `asyncio.to_thread` uses inside handlers: a daemon thread a call, up to `MOST_THREADS` at once; then they wait.

    The standard pool's threads are joined when the interpreter exits, so a stuck one would keep the process alive.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._lock = threading.Lock()
        self._running = 0
        self._calls: deque[Callable[[], None]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` in a new daemon thread. Raises RuntimeError when the system refuses one."""
        future: Future[Any] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  # handed to whoever awaits it
                future.set_exception(error)

        with self._lock:
            if self._running >= MOST_THREADS:
                if not self._calls:
                    log.error(
                        "%d calls of asyncio.to_thread run at once in handlers, or hang; further ones wait",
                        MOST_THREADS,
                    )
                self._calls.append(call)
                return future
            self._running += 1
        try:
            threading.Thread(target=self._work, args=(call,), name="heablcoin-to-thread", daemon=True).start()
        except BaseException:
            with self._lock:
                self._running -= 1
            raise
        return future

    def _work(self, call: Callable[[], None]) -> None:
        while True:
            call()
            with self._lock:
                if not self._calls:
                    self._running -= 1
                    return
                call = self._calls.popleft()
