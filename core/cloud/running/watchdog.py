"""Deadlines: calls something at its time, from a thread that nothing else can hold up."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

from core.clock import Clock

log = logging.getLogger(__name__)

Action = Callable[[], None]


class Watchdog:
    """A timer thread. Actions must be quick; one that raises is logged and stops nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())
        self._heap: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self._closed = False
        self._thread: threading.Thread | None = None

    def at(self, moment: float, action: Action) -> None:
        """Call `action` at `moment` (a reading of the clock's `monotonic`), or at once when that is past.

        Raises RuntimeError, and nothing will be called, when its thread is needed and the system refuses it.
        """
        with self._changed:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heablcoin-watchdog", daemon=True)
                try:
                    self._thread.start()
                except BaseException:
                    self._thread = None
                    raise
            entry = (moment, next(self._numbers), action)
            heapq.heappush(self._heap, entry)
            if self._heap[0] is entry:
                self._changed.notify()

    def wake(self) -> None:
        """Read the clock again; for tests that moved it."""
        with self._changed:
            self._changed.notify()

    def clear(self) -> None:
        """Forget what was to be called, and end the thread; another is started when it is needed."""
        with self._changed:
            self._heap.clear()
            self._thread = None
            self._changed.notify_all()

    def close(self) -> None:
        """Call nothing more."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._goes_on():
                    left = self._heap[0][0] - self._clock.monotonic() if self._heap else None
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                if not self._goes_on():
                    return
                action = heapq.heappop(self._heap)[2]
            try:
                action()
            except BaseException:
                log.exception("a deadline's action failed")

    def _goes_on(self) -> bool:
        return not self._closed and self._thread is threading.current_thread()
