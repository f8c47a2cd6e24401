"""A thread that writes down what others leave for it: soon, or at once."""

import logging
import threading
from collections.abc import Callable

from core.errors import StoreError

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR = 1.0


class WriteBehind:
    """Calls `flush` within `within` seconds of `soon()` and immediately after `now()`. Costs nothing while idle.

    A flush that fails with a StoreError is tried again each second; what it should have written must still be there.
    """

    def __init__(self, flush: Callable[[], None], within: float) -> None:
        self._flush, self._within = flush, within
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._urgent = threading.Event()
        self._closed = False

    def soon(self) -> None:
        if not self._wanted.is_set():
            self._start()
            self._wanted.set()

    def now(self) -> None:
        self._urgent.set()
        self.soon()

    def close(self) -> None:
        """Stop the thread. What is left is for the caller to flush."""
        self._closed = True
        self._urgent.set()
        self._wanted.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(10.0)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="pool-writer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._urgent.wait(self._within)
            if self._closed:
                return
            self._urgent.clear()
            self._wanted.clear()
            try:
                self._flush()
            except StoreError as error:
                log.warning("the pool's statistics could not be written; trying again: %s", error)
                self._urgent.wait(PAUSE_AFTER_ERROR)
                self._wanted.set()
