"""Upkeep of the queue: each duty one small class, done by the one process that leads.

Every process that runs tasks offers to lead; the leader holds a row in the store for `leader_ttl` seconds and renews it.
When a leader dies, nobody waits for that: what is overdue by OVERDUE seconds is done by whoever notices, which is safe
because every duty marked `by_anyone` is one guarded transaction.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from core.clock import Clock, SystemClock, to_iso
from core.cloud.queue.patience import LEASE, Patience
from core.cloud.retry import POISON_LIMIT
from core.cloud.running.wakeup import Signal, WakeUp
from core.cloud.store_contract import Store, TaskStore
from core.cloud.task import FINAL
from core.errors import HeablcoinError
from core.failpoints import failpoint

log = logging.getLogger(__name__)

DUTY = "upkeep"
LEADER_TTL = 10.0
LONGEST_WAIT = 1.0
"""Seconds between two looks when nobody says that something changed."""
SHORTEST_WAIT = 0.02
"""Seconds between two looks, however often somebody does."""
OVERDUE = 1.0
RETENTION_DAYS = 30.0
ROUND = 500
"""Rows changed in one transaction, so that nobody waits long for the database."""
ROUNDS = 20
"""Transactions of one duty before the others get their turn."""


class Duty(Protocol):
    """Something to be done from time to time."""

    name: str
    by_anyone: bool
    """True when a process that does not lead may do it, should it be overdue."""

    def next_due(self) -> float | None:
        """When there will be something to do (epoch seconds); None for not as far as is known."""
        ...

    def run(self, now: float) -> bool:
        """Do what is due. True when something may have become ready to run."""
        ...


class TaskUpkeep:
    """Expires tasks, takes back lost leases, makes delayed tasks ready."""

    name = "tasks"
    by_anyone = True

    def __init__(self, tasks: TaskStore, poison_limit: int = POISON_LIMIT, *, patience: Patience | None = None) -> None:
        self._tasks = tasks
        self._poison_limit = poison_limit
        self._patience = patience

    def _may_take_back(self) -> bool:
        return self._patience is None or self._patience.may_take_back()

    def next_due(self) -> float | None:
        return self._tasks.next_due(take_back=self._may_take_back())

    def run(self, now: float) -> bool:
        """Rounds until nothing is left, or it is the others' turn."""
        changed, take_back = False, self._may_take_back()
        for _ in range(ROUNDS):
            done = self._tasks.maintain(now, self._poison_limit, ROUND, take_back=take_back)
            if not (done.expired or done.interrupted or done.poisoned or done.promoted):
                break
            changed = True
            if done.interrupted or done.poisoned:
                log.warning(
                    "%d running tasks were taken back from workers that died or hung: %d will run again, %d gave up",
                    done.interrupted + done.poisoned,
                    done.interrupted,
                    done.poisoned,
                )
            log.debug("upkeep: %d expired, %d made ready, %d cancelled", done.expired, done.promoted, done.cancelled)
        return changed


class RetriesAhead:
    """Brings back the retries that a clock set while it was ahead: their tasks would be silent until it is there again."""

    name = "retries"
    by_anyone = True
    INTERVAL = 30.0

    def __init__(self, tasks: TaskStore, clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock
        self._due = clock.monotonic()

    def next_due(self) -> float | None:
        """By the monotonic clock, because the other may be what was put back."""
        return self._clock.now() + self._due - self._clock.monotonic()

    def run(self, now: float) -> bool:
        """One bounded round; comes back soon when there may be more."""
        moved = self._tasks.put_retries_back(now, ROUND)
        self._due = self._clock.monotonic() + (LONGEST_WAIT if len(moved) >= ROUND else self.INTERVAL)
        if moved:
            log.warning(
                "%d tasks were to be tried again later than any wait explains, as after a clock that was ahead; each now has"
                " its whole wait from now on: task %s at %s, no longer at %s",
                len(moved),
                moved[0].task_id,
                to_iso(moved[0].due),
                to_iso(moved[0].was),
            )
        return bool(moved)


class Retention:
    """Removes tasks that ended more than `days` ago, a little at a time."""

    name = "retention"
    by_anyone = False
    INTERVAL = 3600.0

    def __init__(self, tasks: TaskStore, days: float = RETENTION_DAYS, *, first_at: float = 0.0) -> None:
        self._tasks = tasks
        self._days = days
        self._due = first_at

    def next_due(self) -> float | None:
        return self._due

    def run(self, now: float) -> bool:
        """One bounded purge; comes back soon when there was more."""
        purged = self._tasks.purge(FINAL, now - self._days * 86_400.0, dry_run=False, limit=ROUND)
        self._due = now + (LONGEST_WAIT if purged.tasks >= ROUND else self.INTERVAL)
        if purged.tasks:
            log.info("retention: removed %d tasks that ended over %g days ago", purged.tasks, self._days)
        return False


class ScheduleSource(Protocol):
    """The part of the scheduler that upkeep drives."""

    def next_due(self) -> float | None: ...

    def fire_due(self, now: float) -> object: ...


class Schedules:
    """Publishes the tasks of schedules whose time came."""

    name = "schedules"
    by_anyone = True

    def __init__(self, source: ScheduleSource) -> None:
        self._source = source

    def next_due(self) -> float | None:
        return self._source.next_due()

    def run(self, now: float) -> bool:
        self._source.fire_due(now)
        return True


def standard_duties(
    tasks: TaskStore,
    *,
    poison_limit: int = POISON_LIMIT,
    retention_days: float | None = RETENTION_DAYS,
    clock: Clock | None = None,
    lease: float = LEASE,
) -> list[Duty]:
    """What every queue needs; `retention_days=None` keeps finished tasks for good. `lease` is what runners here use."""
    clock = clock or SystemClock()
    patience = Patience(clock, lease, regular=True)
    duties: list[Duty] = [RetriesAhead(tasks, clock), TaskUpkeep(tasks, poison_limit, patience=patience)]
    if retention_days is not None:
        duties.append(Retention(tasks, retention_days))
    return duties


class Maintenance:
    """Does the duties at their times while this process leads. Thread-safe; its thread is a daemon."""

    def __init__(
        self,
        store: Store,
        duties: Sequence[Duty],
        *,
        worker: str,
        wakeup: WakeUp,
        clock: Clock | None = None,
        leader_ttl: float = LEADER_TTL,
    ) -> None:
        self._store = store
        self._duties = tuple(duties)
        self._worker = worker
        self._wakeup = wakeup
        self._clock = clock or SystemClock()
        self._ttl = leader_ttl
        self._changed = threading.Condition(threading.Lock())
        self._poked = False
        self._lead_until = 0.0
        """Monotonic; until then this process need not ask whether it leads."""
        self._ask_at = 0.0
        self._thread: threading.Thread | None = None
        """The one that is to go on."""
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin, also after `stop`; a second call does nothing.

        Raises RuntimeError, and nothing has begun, when the system refuses a thread.
        """
        with self._changed:
            if self._thread is not None:
                return
            self._unsubscribe = self._wakeup.subscribe(self._on_signal)
            self._thread = threading.Thread(target=self._run, name="heablcoin-upkeep", daemon=True)
            try:
                self._thread.start()
            except BaseException:
                self._thread = None
                self._unsubscribe()
                raise

    def poke(self) -> None:
        """Something may be due sooner than was known. Never waits."""
        if not self._poked:
            with self._changed:
                self._poked = True
                self._changed.notify()

    def stop(self, timeout: float = 1.0) -> None:
        """End, and let another process lead; returns within about `timeout` seconds."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def step(self) -> float:
        """One round: do what is due. Returns the seconds until the next look is worth it."""
        leading = self._leading()
        moments = []
        for duty in self._duties:
            moment = self._do(duty, leading=leading)
            if moment is not None:
                moments.append(moment if leading else moment + OVERDUE)
        soonest = min(moments, default=float("inf")) - self._clock.now()
        return min(LONGEST_WAIT, max(0.0, soonest))

    def _do(self, duty: Duty, *, leading: bool) -> float | None:
        if not leading and not duty.by_anyone:
            return None
        due = duty.next_due()
        now = self._clock.now()
        if due is None or due > (now if leading else now - OVERDUE):
            return due
        failpoint("before_upkeep")
        if duty.run(now):
            self._wakeup.notify(origin=self)
        return duty.next_due()

    def _leading(self) -> bool:
        now = self._clock.monotonic()
        if now >= self._ask_at:
            self._ask_at = now + self._ttl / 3
            if self._store.workers.lead(DUTY, self._worker, self._ttl, self._clock.now()):
                self._lead_until = now + self._ttl
            else:
                self._lead_until = 0.0
        return now < self._lead_until

    def _on_signal(self, signal: Signal) -> None:
        if signal.work and signal.origin is not self:
            self.poke()

    def _run(self) -> None:
        while self._goes_on():
            try:
                wait = self.step()
            except HeablcoinError as error:
                log.warning("upkeep of the queue failed, trying again: %s", error.message)
                wait = LONGEST_WAIT
            except Exception:
                log.exception("upkeep of the queue failed, trying again")
                wait = LONGEST_WAIT
            self._pause(wait)
        try:
            self._store.workers.resign(DUTY, self._worker)
        except HeablcoinError as error:
            log.debug("leadership was not given back: %s", error.message)

    def _goes_on(self) -> bool:
        return self._thread is threading.current_thread()

    def _pause(self, seconds: float) -> None:
        """Wait, but not so short that a busy queue keeps this thread busy too."""
        shortest = self._clock.monotonic() + SHORTEST_WAIT
        with self._changed:
            if not self._poked and self._goes_on():
                self._changed.wait(seconds)
            self._poked = False
            while self._goes_on() and (left := shortest - self._clock.monotonic()) > 0:
                self._changed.wait(left)
