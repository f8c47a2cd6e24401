"""A thread that writes down what others leave for it: soon, or at once."""

import logging
import threading
from collections.abc import Callable

from core.errors import StoreError

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR = 1.0
LONGEST_PAUSE = 10.0
"""Seconds."""


class WriteBehind:
    """Calls `flush` within `within` seconds of `soon()` and immediately after `now()`. Costs nothing while idle.

    A flush that fails, in whatever way, is tried again after one second, then two, four, up to ten; what it should have written must
    still be there. The thread outlives every error: without it nothing would be written any more.
    """

    def __init__(self, flush: Callable[[], None], within: float) -> None:
        self._flush, self._within = flush, within
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._urgent = threading.Event()
        self._stop = threading.Event()
        self._closed = False

    def soon(self) -> None:
        """Never raises, also when the system gives no more threads: whoever writes next then takes along what is left here."""
        if not self._wanted.is_set():
            self._start()
            if self._thread is not None:
                self._wanted.set()

    def now(self) -> None:
        self._urgent.set()
        self.soon()

    def close(self) -> None:
        """Stop the thread. What is left is for the caller to flush."""
        self._closed = True
        self._stop.set()
        self._urgent.set()
        self._wanted.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(10.0)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="pool-writer", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    log.warning("there is no thread to write the pool's statistics in (%s); trying again", error)
                else:
                    self._thread = thread

    def _run(self) -> None:
        pause = PAUSE_AFTER_ERROR
        while True:
            self._wanted.wait()
            self._urgent.wait(self._within)
            if self._closed:
                return
            self._urgent.clear()
            self._wanted.clear()
            try:
                self._flush()
                pause = PAUSE_AFTER_ERROR
            except StoreError as error:
                log.warning("the pool's statistics could not be written; trying again: %s", error)
                self._try_again_after(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception:
                log.exception("the pool's statistics could not be written; trying again")
                self._try_again_after(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _try_again_after(self, pause: float) -> None:
        self._stop.wait(pause)
        self._wanted.set()
