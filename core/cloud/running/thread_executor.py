"""Where sync handlers run: daemon threads of our own, replaced when one is stuck."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from core.cloud.running.running_attempt import RunningAttempt

log = logging.getLogger(__name__)

Execute = Callable[[RunningAttempt], None]
Refused = Callable[[Sequence[RunningAttempt], BaseException], None]
"""Told which attempts no thread could be had for, and why."""

IDLE_SECONDS = 30.0
"""A thread without work for so long ends."""

_numbers = itertools.count(1)


class ThreadExecutor:
    """Threads that run one attempt each, started when needed.

    Never a ThreadPoolExecutor: its threads are joined when the interpreter exits, and a stuck one would keep the process
    alive for good.
    """

    def __init__(self, execute: Execute, refused: Refused) -> None:
        self._execute = execute
        self._refused = refused
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[RunningAttempt] = deque()
        self._idle = 0
        self._closed = False

    def start(self, attempts: Sequence[RunningAttempt]) -> None:
        """Run these, each at once: a thread is started for each that finds none idle."""
        with self._changed:
            self._queue.extend(attempts)
            refusal = self._wake_one()
        self._tell(refusal)

    def close(self) -> None:
        """Let idle threads end; busy ones end after their attempt."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wake_one(self) -> "_Refusal | None":
        # One at a time, each waking the next before it starts to work: with handlers that take microseconds a single
        # thread then empties the queue, instead of ten that fight for the interpreter.
        if not self._queue:
            return None
        if self._idle:
            self._changed.notify()
            return None
        try:
            threading.Thread(target=self._work, name=f"heablcoin-thread-{next(_numbers)}", daemon=True).start()
        except Exception as error:  # noqa: BLE001  # no thread, or no memory for one
            stranded = list(self._queue)
            self._queue.clear()
            return stranded, error
        return None

    def _tell(self, refusal: "_Refusal | None") -> None:
        # Without the lock: whoever is told may start others.
        if refusal is not None:
            self._refused(*refusal)

    def _next(self) -> RunningAttempt | None:
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._idle += 1
                try:
                    woken = self._changed.wait(IDLE_SECONDS)
                finally:
                    self._idle -= 1
                if not woken and not self._queue:
                    return None
            attempt = self._queue.popleft()
            refusal = self._wake_one()
        self._tell(refusal)
        return attempt

    def _work(self) -> None:
        while (attempt := self._next()) is not None:
            try:
                self._execute(attempt)
            except BaseException:
                log.exception("running task %s failed inside the runner", attempt.claim.task_id)


_Refusal = tuple[list[RunningAttempt], BaseException]
