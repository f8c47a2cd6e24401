"""The one thread of a runner that settles finished attempts and claims new ones, both in one transaction."""

import logging
import random
import threading
from collections.abc import Callable, Sequence

from core.clock import Clock
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.running.flight import FlightKey, Flights
from core.cloud.running.pace import Pace
from core.cloud.store.base import Claim, ClaimRequest, Exchanged, Settlement, TaskStore
from core.cloud.task import AttemptOutcome, TaskStatus
from core.errors import StoreError
from core.failpoints import failpoint

log = logging.getLogger(__name__)

SHORTEST_BACKOFF = 0.05
LONGEST_BACKOFF = 5.0

Dispatch = Callable[[list[Claim], float], None]
"""Given the claims and the moment (epoch seconds) at which their leases end."""
Announce = Callable[[Sequence[Settlement]], None]


class Exchanger:
    """Batches: whatever finished since the last transaction is settled in the next, which also fills the free slots.

    Handlers never wait for the disk: they hand over a settlement and are done. A settlement is kept until the store has
    taken or refused it, whatever the store's trouble in between.
    """

    def __init__(
        self,
        tasks: TaskStore,
        registry: HandlerRegistry,
        flights: Flights,
        *,
        worker: str,
        concurrency: int,
        lease: float,
        poll_interval: float,
        clock: Clock,
        rng: random.Random,
        dispatch: Dispatch,
        announce: Announce,
    ) -> None:
        self._tasks = tasks
        self._registry = registry
        self._flights = flights
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
        self._pace = Pace(concurrency)
        self._thread = threading.Thread(target=self._run, name="heablcoin-exchange", daemon=True)

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

    def unsettled(self) -> list[FlightKey]:
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
        return self._concurrency + self._pace.ahead - len(self._flights)

    def step(self, backoff: float = 0.0) -> float:
        """One round: write what ended, claim for the free slots.

        Returns the seconds after which the next round is worth it: 0, or more than `backoff` when the store is in trouble.
        """
        with self._changed:
            self._writing, self._waiting = self._waiting, []
            free = self._free()
            self._look = self._look and free <= 0
            self._pace.ended(len(self._writing), self._clock.monotonic())
        try:
            self._exchange(free)
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
                idle = self._claiming and len(self._flights) < self._concurrency
                poll = self._poll_interval * (0.75 + 0.5 * self._rng.random()) if idle else None
                if not self._changed.wait(poll) and idle:
                    self._look = True
        return True

    def _exchange(self, free: int) -> None:
        settlements = self._writing
        capabilities = self._capabilities or self._refresh()
        now = self._clock.now()
        exchanged = self._attempt(settlements, free, capabilities, now)
        if free > 0 and len(exchanged.claims) < free:
            # Nothing more for what we could do a moment ago: perhaps we can do something else by now.
            fresh = self._refresh()
            if fresh != capabilities:
                self._dispatch(exchanged.claims, now + self._lease)
                now = self._clock.now()
                exchanged = self._attempt([], free - len(exchanged.claims), fresh, now)
        elif free > 0:
            self._look = True
        if exchanged.claims:
            self._dispatch(exchanged.claims, now + self._lease)

    def _attempt(
        self, settlements: Sequence[Settlement], free: int, capabilities: frozenset[str], now: float
    ) -> Exchanged:
        request = None
        if free > 0 and capabilities:
            request = ClaimRequest(self._worker, capabilities, free, self._lease)
        elif not settlements:
            return Exchanged([], [])
        failpoint("before_exchange")
        exchanged = self._tasks.exchange(settlements, request, now)
        failpoint("after_exchange_commit")
        self._writing = []
        for refused in exchanged.refused:
            log.warning(
                "task %s attempt %d was no longer ours; its end (%s) counts for nothing",
                refused.task_id,
                refused.attempt,
                refused.outcome.value,
            )
        if settlements:
            self._announce(settlements)
        return exchanged

    def _refresh(self) -> frozenset[str]:
        self._capabilities = self._registry.capabilities()
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
            try:
                self._tasks.exchange([settlement], None, self._clock.now())
            except StoreError:
                with self._changed:
                    self._waiting.append(settlement)
            except Exception as error:
                log.exception("the end of task %s could not be stored", settlement.task_id)
                self._fail(settlement, error)

    def _fail(self, settlement: Settlement, error: Exception) -> None:
        if settlement.status is TaskStatus.FAILED:
            return  # Not even that can be stored: the lease will end and give the task back.
        self.settle(
            [
                Settlement(
                    settlement.task_id,
                    settlement.attempt,
                    settlement.worker,
                    AttemptOutcome.FAILED,
                    TaskStatus.FAILED,
                    error=f"The result could not be stored ({type(error).__name__}).",
                )
            ]
        )


def longer(backoff: float) -> float:
    """The next wait, in seconds, after a failure that followed a wait of `backoff`."""
    return min(LONGEST_BACKOFF, max(SHORTEST_BACKOFF, backoff * 2))
