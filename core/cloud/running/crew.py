"""Where sync handlers run: daemon threads of our own, replaced when one is stuck."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from core.cloud.running.flight import Flight

log = logging.getLogger(__name__)

Execute = Callable[[Flight], None]

IDLE_SECONDS = 30.0
"""A thread without work for so long ends."""

_numbers = itertools.count(1)


class Crew:
    """Threads that run one flight each, started when needed.

    Never a ThreadPoolExecutor: its threads are joined when the interpreter exits, and a stuck one would keep the process
    alive for good.
    """

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[Flight] = deque()
        self._idle = 0
        self._closed = False

    def start(self, flights: Sequence[Flight]) -> None:
        """Run these, each at once: a thread is started for each that finds none idle."""
        with self._changed:
            self._queue.extend(flights)
            self._wake_one()

    def close(self) -> None:
        """Let idle threads end; busy ones end after their flight."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wake_one(self) -> None:
        # One at a time, each waking the next before it starts to work: with handlers that take microseconds a single
        # thread then empties the queue, instead of ten that fight for the interpreter.
        if self._queue:
            if self._idle:
                self._changed.notify()
            else:
                threading.Thread(target=self._work, name=f"heablcoin-crew-{next(_numbers)}", daemon=True).start()

    def _next(self) -> Flight | None:
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._idle += 1
                woken = self._changed.wait(IDLE_SECONDS)
                self._idle -= 1
                if not woken and not self._queue:
                    return None
            flight = self._queue.popleft()
            self._wake_one()
            return flight

    def _work(self) -> None:
        while (flight := self._next()) is not None:
            try:
                self._execute(flight)
            except Exception:
                log.exception("running task %s failed inside the runner", flight.claim.task_id)
