"""Telling others what a runner changed, without a datagram for each of ten thousand tasks a second."""

import logging
import threading
from collections.abc import Iterable

from core.clock import Clock
from core.cloud.running.wakeup import WakeUp
from core.cloud.running.watchdog import Watchdog

log = logging.getLogger(__name__)

INTERVAL = 0.01
"""Seconds: the first change is told at once, those within this time after it together."""
MOST_IDS = 1000
"""More changes than this in one interval are told as `something changed`."""


class Announcer:
    """Gathers changed tasks and tells of them at most once an interval. Thread-safe; never waits, never raises: a hint that is lost is made up for by polling."""

    def __init__(self, wakeup: WakeUp, watchdog: Watchdog, clock: Clock, origin: object) -> None:
        self._wakeup = wakeup
        self._watchdog = watchdog
        self._clock = clock
        self._origin = origin
        self._lock = threading.Lock()
        self._ids: list[str] = []
        self._work = False
        self._told_at = float("-inf")
        self._scheduled = False

    def tell(self, task_ids: Iterable[str], *, work: bool) -> None:
        """These tasks changed; `work` when others may find something to run because of it."""
        with self._lock:
            self._ids.extend(task_ids)
            self._work = self._work or work
            if self._scheduled:
                return
            now = self._clock.monotonic()
            due = self._told_at + INTERVAL
            if due > now and self._later(due):
                return
        self.flush()

    def flush(self) -> None:
        """Tell what was gathered, now."""
        with self._lock:
            ids, self._ids = self._ids, []
            work, self._work = self._work, False
            self._scheduled = False
            self._told_at = self._clock.monotonic()
        if not (ids or work):
            return
        try:
            self._wakeup.notify(ids if len(ids) <= MOST_IDS else (), work=work, origin=self._origin)
        except Exception:
            log.exception("other processes could not be told of a change; they will find it when they poll")

    def _later(self, due: float) -> bool:
        try:
            self._watchdog.at(due, self.flush)
        except RuntimeError:  # no thread to be had
            return False
        self._scheduled = True
        return True
