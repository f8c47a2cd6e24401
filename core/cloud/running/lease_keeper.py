"""The thread that tells the store what is in flight: leases renewed, progress noted, the process alive."""

import logging
import threading
from collections.abc import Callable, Sequence

from core.clock import Clock
from core.cloud.running.running_attempt import AttemptKey, RunningAttempt, RunningAttempts
from core.cloud.store_contract import TaskStore
from core.errors import StoreError
from core.failpoints import failpoint

log = logging.getLogger(__name__)

PROGRESS_INTERVAL = 0.25
"""Seconds between two writes of progress, whatever the handlers report."""
GLANCE_INTERVAL = 1.0
"""Seconds between two looks at what this process can run: another process may have changed that."""

Lost = Callable[[RunningAttempt], None]


class LeaseKeeper:
    """Renews every third of a lease, from its own thread, so that a handler that blocks costs nobody a lease."""

    def __init__(
        self,
        tasks: TaskStore,
        attempts: RunningAttempts,
        unsettled: Callable[[], list[AttemptKey]],
        *,
        worker: str,
        lease: float,
        clock: Clock,
        lost: Lost,
        beat: Callable[[], None],
        announce: Callable[[Sequence[str]], None],
        glance: Callable[[], None] = lambda: None,
    ) -> None:
        self._tasks = tasks
        self._attempts = attempts
        self._unsettled = unsettled
        self._worker = worker
        self._lease = lease
        self._clock = clock
        self._lost = lost
        self._beat = beat
        self._announce = announce
        self._glance = glance
        self._changed = threading.Condition(threading.RLock())
        self._progress: dict[AttemptKey, tuple[RunningAttempt, float | None, str]] = {}
        self._asked = False
        self._renew_at = clock.monotonic() + lease / 3
        self._write_at = float("-inf")
        self._glance_at = clock.monotonic() + GLANCE_INTERVAL
        self._thread: threading.Thread | None = None
        """The one that is to go on."""

    def start(self) -> None:
        """Begin, also after `close`. Raises RuntimeError, and nothing has begun, when the system refuses a thread."""
        self._thread = threading.Thread(target=self._run, name="heablcoin-leases", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Renew at once: somebody else may have changed what we hold. Never waits."""
        with self._changed:
            self._asked = True
            self._changed.notify()

    def report(self, attempt: RunningAttempt, share: float | None, message: str) -> None:
        """Have the latest progress of an attempt written soon. Never waits."""
        with self._changed:
            first = not self._progress
            self._progress[attempt.key] = (attempt, share, message)
            if first:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._thread = None
            self._changed.notify_all()

    def step(self) -> None:
        """One round: write progress and renew leases, each when its time has come or somebody asked."""
        with self._changed:
            now = self._clock.monotonic()
            renewing = self._asked or now >= self._renew_at
            self._asked = False
            reports = {}
            if self._progress and now >= self._write_at:
                reports, self._progress = self._progress, {}
        if reports:
            self._write_at = now + PROGRESS_INTERVAL
            self._guarded(self._write, list(reports.values()))
        if renewing:
            self._renew_at = self._clock.monotonic() + self._lease / 3
            self._guarded(self._renew)
            self._guarded(self._beat)
        if self._clock.monotonic() >= self._glance_at:
            self._glance_at = self._clock.monotonic() + GLANCE_INTERVAL
            self._guarded(self._glance)

    def _run(self) -> None:
        while self._wait():
            self.step()

    def _wait(self) -> bool:
        """Wait until there may be something to do; False once it is closed."""
        with self._changed:
            wake_at = min(self._renew_at, self._glance_at, *([self._write_at] if self._progress else []))
            left = wake_at - self._clock.monotonic()
            if self._goes_on() and not self._asked and left > 0:
                self._changed.wait(left)
            return self._goes_on()

    def _goes_on(self) -> bool:
        return self._thread is threading.current_thread()

    def _guarded(self, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
        except StoreError as error:
            log.warning("the queue's store is in trouble: %s", error.message)
        except Exception:
            log.exception("keeping the leases failed; trying again")

    def renew_now(self) -> None:
        """Renew before this returns, from the caller's thread. Raises StoreError."""
        self._renew()

    def _renew(self) -> None:
        failpoint("before_renew")
        held = [attempt.key for attempt in self._attempts.all()]
        held.extend(self._unsettled())
        if not held:
            return
        now = self._clock.now()
        lost = self._tasks.renew(self._worker, held, self._lease, now)
        for key in set(held).difference(lost):
            if (kept := self._attempts.get(key)) is not None:
                kept.lease_until = now + self._lease
        for key in lost:
            attempt = self._attempts.get(key)
            if attempt is not None:
                self._lost(attempt)

    def _write(self, reports: list[tuple[RunningAttempt, float | None, str]]) -> None:
        written = []
        for attempt, share, message in reports:
            if attempt.settled:
                continue
            claim = attempt.claim
            if self._tasks.progress(claim.task_id, claim.attempt, self._worker, share, message):
                written.append(claim.task_id)
            elif not attempt.settled:
                self._lost(attempt)
        if written:
            self._announce(written)
