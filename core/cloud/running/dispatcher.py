"""The one thread of a runner that settles finished attempts and claims new ones, both in one transaction."""

import logging
import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from core.clock import Clock
from core.cloud.gate import Gate
from core.cloud.queue.graph import resolve
from core.cloud.running.prefetch import Prefetch
from core.cloud.running.running_attempt import AttemptKey, RunningAttempts
from core.cloud.store_contract import Claim, ClaimRequest, Exchanged, Settlement, TaskStore
from core.cloud.task import AttemptOutcome, TaskStatus
from core.errors import StoreError, StoreRefused
from core.failpoints import failpoint, survived

log = logging.getLogger(__name__)

SHORTEST_BACKOFF = 0.05
LONGEST_BACKOFF = 5.0
SHORTEST_WAIT = 0.001
SPREAD = 0.005
"""Seconds: processes that wait for one gate look within this time of each other."""

Dispatch = Callable[[list[Claim], float], None]
"""Given the claims and the moment (epoch seconds) at which their leases end."""
Announce = Callable[[Sequence[Settlement]], None]


class Dispatcher:
    """Batches: whatever finished since the last transaction is settled in the next, which also fills the free slots.

    Handlers never wait for the disk: they hand over a settlement and are done. A settlement is kept until the store has
    taken or refused it, whatever the store's trouble in between.
    """

    def __init__(
        self,
        tasks: TaskStore,
        abilities: Callable[[], frozenset[str]],
        attempts: RunningAttempts,
        *,
        gates: Callable[[frozenset[str]], Mapping[str, Gate]],
        limited: Callable[[frozenset[str]], frozenset[str]],
        worker: str,
        concurrency: int,
        lease: float,
        poll_interval: float,
        clock: Clock,
        rng: random.Random,
        dispatch: Dispatch,
        announce: Announce,
        ageing: float | None = None,
    ) -> None:
        self._ageing = ageing
        self._tasks = tasks
        self._abilities = abilities
        self._gates_of = gates
        self._limited_of = limited
        self._attempts = attempts
        self._worker = worker
        self._concurrency = concurrency
        self._lease = lease
        self._poll_interval = poll_interval
        self._clock = clock
        self._rng = rng
        self._dispatch = dispatch
        self._announce = announce
        self._changed = threading.Condition(threading.RLock())
        self._waiting: list[Settlement] = []
        self._writing: list[Settlement] = []
        self._look = True
        """True when there may be something to claim."""
        self._claiming = True
        self._closing = False
        self._capabilities: frozenset[str] = frozenset()
        self._gates: Mapping[str, Gate] = {}
        self._limited: frozenset[str] = frozenset()
        self._opens_at = math.inf
        """Monotonic time at which the first gate may open before which ready tasks wait."""
        self._suspect: AttemptKey | None = None
        """The last task claimed whose workers died repeatedly; no second one runs beside it."""
        self._prefetch = Prefetch(concurrency)
        self._thread = threading.Thread(target=self._run, name="heablcoin-dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Have these written with the next transaction. Never waits."""
        with self._changed:
            self._waiting.extend(settlements)
            # An end may free dependents, and frees a slot in any case.
            self._look = True
            self._changed.notify()

    def look(self) -> None:
        """Something may be ready: claim as soon as there is a free slot. Never waits."""
        if self._look:
            return
        with self._changed:
            self._look = True
            self._changed.notify()

    def freed(self) -> None:
        """A slot came free, though nothing ended: claim for it. Never waits."""
        with self._changed:
            self._look = True
            self._changed.notify()

    def reconsider(self) -> None:
        """What this process can run may have changed: ask anew before the next claim, or what it could run before takes slots that
        something more urgent wants by now. Never waits.
        """
        with self._changed:
            self._capabilities = frozenset()
            self._look = True
            self._changed.notify()

    def unsettled(self) -> list[AttemptKey]:
        """Attempts that are done but not yet written; still under their leases."""
        with self._changed:
            return [(each.task_id, each.attempt) for each in (*self._writing, *self._waiting)]

    def stop_claiming(self) -> None:
        with self._changed:
            self._claiming = False
            self._changed.notify()

    def close(self) -> None:
        """Write what is waiting, then end. Returns at once; `join` waits."""
        with self._changed:
            self._claiming = False
            self._closing = True
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the end; True when it came."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _free(self) -> int:
        if not (self._claiming and self._look):
            return 0
        return self._concurrency + self._prefetch.ahead - self._attempts.busy

    def step(self, backoff: float = 0.0) -> float:
        """One round: write what ended, claim for the free slots.

        Returns the seconds after which the next round is worth it: 0, or more than `backoff` when the store is in trouble.
        """
        with self._changed:
            self._writing, self._waiting = self._waiting, []
            free = self._free()
            self._look = self._look and free <= 0
            self._prefetch.ended(len(self._writing), self._clock.monotonic())
        try:
            self._exchange(free)
        except StoreRefused:
            backoff = longer(backoff)
            log.exception("the queue's store refused a batch; its parts are tried one by one")
            self._one_by_one()
        except StoreError as error:
            backoff = longer(backoff)
            log.warning("the queue's store is in trouble, trying again in %.2f s: %s", backoff, error.message)
            self._keep()
        except Exception:
            backoff = longer(backoff)
            log.exception("the queue's store refused a batch; its parts are tried one by one")
            self._one_by_one()
        else:
            return 0.0
        return backoff

    def _run(self) -> None:
        backoff = 0.0
        while self._wait(backoff):
            backoff = self.step(backoff)

    def _wait(self, backoff: float) -> bool:
        """Wait until there is something to do; False when there is nothing more to do, ever."""
        with self._changed:
            if backoff and not self._closing:
                self._changed.wait(backoff * (0.5 + self._rng.random()))
            while not self._waiting and self._free() <= 0:
                if self._closing:
                    return False
                idle = self._claiming and self._attempts.busy < self._concurrency
                if not self._changed.wait(self._patience() if idle else None) and idle:
                    self._look = True
        return True

    def _patience(self) -> float:
        """Seconds until it is worth a look without a reason: a slow poll, or the opening of a gate."""
        poll = self._poll_interval * (0.75 + 0.5 * self._rng.random())
        opening = self._opens_at - self._clock.monotonic() + SPREAD * self._rng.random()
        return min(poll, max(SHORTEST_WAIT, opening))

    def _exchange(self, free: int) -> None:
        settlements = self._writing
        capabilities = self._capabilities or self._refresh()
        now = self._clock.now()
        exchanged = self._attempt(settlements, free, capabilities, now)
        if exchanged.claims:  # before anything that may fail: nobody else knows of them
            self._dispatch(exchanged.claims, now + self._lease)
        if free > 0 and len(exchanged.claims) < free:
            # Nothing more for what we could do a moment ago: perhaps we can do something else by now.
            fresh = self._refresh()
            if fresh != capabilities:
                now = self._clock.now()
                further = self._attempt([], free - len(exchanged.claims), fresh, now)
                if further.claims:
                    self._dispatch(further.claims, now + self._lease)
        elif free > 0:
            self._look = True

    def _attempt(
        self, settlements: Sequence[Settlement], free: int, capabilities: frozenset[str], now: float
    ) -> Exchanged:
        request = None
        if free > 0 and capabilities:
            suspects = 0 if self._suspect is not None and self._attempts.get(self._suspect) is not None else 1
            request = ClaimRequest(
                self._worker,
                capabilities,
                free,
                self._lease,
                ageing=self._ageing,
                suspects=suspects,
                gates=self._gates,
                limited=self._limited,
                resolve=resolve,
                # None ahead of a free slot: what was granted is sent at once.
                granted=max(0, min(free, self._concurrency - self._attempts.busy)),
            )
        elif not settlements:
            return Exchanged([], [])
        failpoint("before_exchange")
        exchanged = self._tasks.exchange(settlements, request, now)
        self._writing = []
        if request is not None:
            self._opens_at = self._clock.monotonic() + exchanged.opens_in
        # From here on nothing may fail: what was claimed must come to be run.
        survived("after_exchange_commit")
        for refused in exchanged.refused:
            log.warning(
                "task %s attempt %d was no longer ours; its end (%s) counts for nothing",
                refused.task_id,
                refused.attempt,
                refused.outcome.value,
            )
        if settlements:
            self._announce(settlements)
        for claim in exchanged.claims:
            if claim.suspect:
                self._suspect = (claim.task_id, claim.attempt)
                log.warning("task %s is run with no other suspect beside it: its workers died", claim.task_id)
        return exchanged

    def _refresh(self) -> frozenset[str]:
        self._capabilities = self._abilities()
        self._gates = self._gates_of(self._capabilities)
        self._limited = self._limited_of(self._capabilities)
        return self._capabilities

    def _keep(self) -> None:
        with self._changed:
            self._waiting[:0] = self._writing
            self._writing = []
            self._look = True

    def _one_by_one(self) -> None:
        """Write each settlement alone, so that one bad one holds up none of the others."""
        settlements, self._writing = self._writing, []
        self._look = True
        for settlement in settlements:
            if not self._stored(settlement):
                least = _least(settlement)
                log.error("the end of task %s is stored without what it said", settlement.task_id)
                if not self._stored(least):
                    log.error(
                        "the end of task %s cannot be stored; it is given back when its lease ends", least.task_id
                    )

    def _stored(self, settlement: Settlement) -> bool:
        """Write one alone, now or with the next batch; False when the store will not have it as it is."""
        try:
            refused = self._tasks.exchange([settlement], None, self._clock.now()).refused
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreRefused):
                with self._changed:
                    self._waiting.append(settlement)
                return True
            log.exception("the end of task %s could not be stored", settlement.task_id)
            return False
        if not refused:
            self._announce([settlement])
        return True


def _least(settlement: Settlement) -> Settlement:
    """What any store can hold of it: failed where it had a result, else as it was, without its text."""
    if settlement.status is TaskStatus.COMPLETED:
        return replace(
            settlement,
            outcome=AttemptOutcome.FAILED,
            status=TaskStatus.FAILED,
            result=None,
            error="The handler returned, but the database refused its result; see the log of its worker.",
        )
    return replace(settlement, result=None, error="The database refused the text of this attempt's error; see the log.")


def longer(backoff: float) -> float:
    """The next wait, in seconds, after a failure that followed a wait of `backoff`."""
    return min(LONGEST_BACKOFF, max(SHORTEST_BACKOFF, backoff * 2))
