"""Loads the user's handlers beside the server: a file that takes long to import must not leave a client unanswered."""

import logging
import threading
from collections.abc import Callable

from core.cloud.handlers.files import load_handlers
from core.errors import HeablcoinError
from core.runtime import Runtime
from server.logs import redact

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that the start waits for the handlers, so that most servers begin with all of them: some clients give up on
`initialize` after 1.5.
"""
REMINDER = 30.0
"""Seconds after which the log says again that the file is still being imported."""


class HandlersFile:
    """A handlers file (or module), imported on a thread of its own. What waits for it says so."""

    def __init__(self, runtime: Runtime, spec: str, failed: Callable[[], object] | None = None) -> None:
        """`failed` is called when the file cannot be loaded after the start has gone on without it."""
        self._runtime, self._spec = runtime, spec
        self._failed = failed
        self._began = runtime.clock.monotonic()
        self._ended = threading.Event()
        self._late = False
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def start(self, patience: float = PATIENCE) -> None:
        """Begin to import it; returns when that is done or `patience` seconds have passed.

        Raises what the import raised (InvalidArgument that says what is wrong with the file) within that time.
        """
        self._runtime.handlers.coming, self._runtime.handlers.arriving = self.words, True
        threading.Thread(target=self._load, name="heablcoin-handlers", daemon=True).start()
        self._ended.wait(patience)
        with self._lock:
            self._late = not self._ended.is_set()
        if self._error is not None:
            raise self._error
        if self._late:
            log.warning(
                "the handlers file %s is still being imported after %.1f s; the server answers in the meantime, and its "
                "tasks wait",
                self._spec,
                self._seconds,
            )
            threading.Thread(target=self._remind, name="heablcoin-reminder", daemon=True).start()

    def words(self) -> str:
        """What is missing while the file is not there, for a task whose handler may be in it; '' once it is loaded."""
        if not self._ended.is_set():
            return (
                f"this process still imports the handlers file {self._spec} ({self._seconds:.0f} s so far) and begins what "
                "waits for it when that is done."
            )
        if self._error is None:
            return ""
        text = self._error.message if isinstance(self._error, HeablcoinError) else str(self._error)
        return f"its handlers file could not be loaded: {redact(text)} Correct it and start again."

    @property
    def _seconds(self) -> float:
        return self._runtime.clock.monotonic() - self._began

    def _load(self) -> None:
        error: BaseException | None = None
        try:
            load_handlers(self._spec, self._runtime.publisher, self._runtime.manager)
        except BaseException as raised:  # noqa: BLE001 - whatever a file of the user's may raise
            error = raised
        with self._lock:
            self._error = error
            self._runtime.handlers.arriving = False
            self._ended.set()
            late = self._late
        if not late:
            return
        if error is None:
            log.warning("the handlers file %s is loaded, after %.1f s", self._spec, self._seconds)
            return
        log.error("the handlers file %s could not be loaded: %s", self._spec, redact(str(error)))
        if self._failed is not None:
            self._failed()

    def _remind(self) -> None:
        while not self._ended.wait(REMINDER):
            log.warning("the handlers file %s is still being imported after %.0f s", self._spec, self._seconds)
