"""Runs tasks: claim -> run (timeout, progress, renewed lease) -> settle (fenced).

`dispatcher.py` settles what finished and claims what is next in one transaction, `executor.py` runs it, `watchdog.py`
keeps the deadlines, `lease_keeper.py` the leases and `maintenance.py` the queue: each from a thread of its own that no
handler can hold up. The runner here starts them, connects them and ends them.
"""

import atexit
import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from core.clock import Clock, SystemClock
from core.cloud.handlers.registry import Handler, HandlerRegistry
from core.cloud.queue.submission import handler_of
from core.cloud.retry import RetryPolicy
from core.cloud.running.announcer import Announcer
from core.cloud.running.dispatcher import Dispatcher
from core.cloud.running.executor import Executor
from core.cloud.running.lease_keeper import LeaseKeeper
from core.cloud.running.maintenance import Maintenance, standard_duties
from core.cloud.running.registered_limits import RegisteredLimits
from core.cloud.running.resting import Rests
from core.cloud.running.running_attempt import RunningAttempt, RunningAttempts, StopReason
from core.cloud.running.settling import Settler
from core.cloud.running.wakeup import PEERS_FOR, Signal, WakeUp
from core.cloud.running.watchdog import Watchdog
from core.cloud.store_contract import Claim, Settlement, Store, WorkerInfo
from core.errors import HeablcoinError, InvalidArgument
from core.main_script import refuse_while_imported
from core.safe_text import encodable

log = logging.getLogger(__name__)

LAST_WORDS = 0.9
"""Seconds beyond the grace that `stop` may take to write what ended and give back the rest."""
SIGN_OF_LIFE = 10.0
"""Seconds at most between two signs of life, however long the lease: who gives none for 30 s counts as gone."""
GRACE_AT_EXIT = 0.5
"""Seconds that handlers have when the program ends without a word to the runner."""


def new_worker_id() -> str:
    """A name for this process in the worker table: host, process id, and a part that no restart repeats."""
    return f"{encodable(socket.gethostname())[:40]}-{os.getpid()}-{random.SystemRandom().randrange(16**6):06x}"


class TaskRunner:
    """The part of a process that runs tasks. Thread-safe; all its threads are daemons.

    `concurrency` attempts run at once. `lease` is how many seconds after the death of this process its tasks are given
    to others. With `ageing`, so many seconds of waiting count as much as one step of priority (above 0; None: priority goes
    first, however long the others wait). `wakeup` is shared with the publisher of this process, so that a publish starts a task at once.
    `maintenance` is this process's share in the upkeep; None makes one with the standard duties.
    """

    def __init__(
        self,
        store: Store,
        handlers: HandlerRegistry,
        *,
        wakeup: WakeUp | None = None,
        concurrency: int = 10,
        lease: float = 30.0,
        ageing: float | None = None,
        poll_interval: float = 1.0,
        retry: RetryPolicy | None = None,
        maintenance: Maintenance | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        worker_id: str | None = None,
    ) -> None:
        if ageing is not None and not 0 < ageing < math.inf:
            raise InvalidArgument(f"The ageing is {ageing!r} seconds.", "use more than 0, or None for none.")
        if concurrency < 0 or lease <= 0 or poll_interval <= 0:
            raise InvalidArgument(
                f"A runner cannot have concurrency={concurrency}, lease={lease}, poll_interval={poll_interval}.",
                "use a concurrency of 0 (run nothing, hear of everything) or more, and seconds above 0.",
            )
        clock = clock or SystemClock()
        rng = rng or random.Random()
        self.worker_id = worker_id or new_worker_id()
        self._store = store
        self._handlers = handlers
        self._clock = clock
        self._owns_wakeup = wakeup is None
        self._wakeup = wakeup or WakeUp(store.workers, clock=clock)
        self._lock = threading.Lock()
        self._state = "new"
        self._stopped = threading.Event()
        self._started_at = clock.now()
        self._pid = 0
        self._runs = concurrency > 0
        self._unsubscribe = _nothing
        self._unwatch = _nothing
        self._end_service = _nothing
        self._registering = threading.Lock()
        self._offered: tuple[str, ...] | None = None
        self._seen_at = float("-inf")
        self._no_longer_holds: Callable[[], object] = _nothing
        self._attempts = RunningAttempts()
        self._limits = RegisteredLimits(store.tasks, handlers, clock)
        self._watchdog = Watchdog(clock)
        self._announcer = Announcer(self._wakeup, self._watchdog, clock, origin=self)
        self._dispatcher = Dispatcher(
            store.tasks,
            self._able,
            self._attempts,
            gates=handlers.gates,
            limited=self._limits.among,
            worker=self.worker_id,
            concurrency=concurrency,
            lease=lease,
            poll_interval=poll_interval,
            clock=clock,
            rng=rng,
            dispatch=self._dispatch,
            announce=self._announce,
            ageing=ageing,
        )
        self._keeper = LeaseKeeper(
            store.tasks,
            self._attempts,
            self._dispatcher.unsettled,
            worker=self.worker_id,
            lease=lease,
            clock=clock,
            lost=self._lose,
            beat=self._beat,
            announce=partial(self._announcer.tell, work=False),
            glance=self._glance,
        )
        self._rests = Rests(
            self._attempts,
            self._watchdog,
            clock,
            concurrency,
            freed=self._dispatcher.freed,
            abilities_changed=self._dispatcher.reconsider,
        )
        self._executor = Executor(
            store.tasks,
            handlers,
            self._attempts,
            Settler(self.worker_id, retry or RetryPolicy(), clock, rng),
            self._watchdog,
            clock=clock,
            concurrency=concurrency,
            settle=self._dispatcher.settle,
            report=self._keeper.report,
            rests=self._rests,
            abilities_changed=self._dispatcher.reconsider,
        )
        self._maintenance = maintenance or Maintenance(
            store,
            standard_duties(store.tasks, clock=clock, lease=lease),
            worker=self.worker_id,
            wakeup=self._wakeup,
            clock=clock,
        )

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._state == "running"

    @property
    def in_flight(self) -> int:
        """How many attempts run now."""
        return len(self._attempts)

    def start(self) -> None:
        """Begin to claim and run tasks; a second call does nothing.

        Raises StoreError when the store is unusable, InvalidArgument when the runner was stopped before, RuntimeError when the
        system refuses a thread. Then nothing of it runs, and it may be started again.
        """
        with self._lock:
            if self._state == "running":
                return
            if self._state == "stopped":
                raise InvalidArgument("This runner was stopped.", "make a new TaskRunner.")
            refuse_while_imported("starts to run tasks")
            heard = self._wakeup.port > 0
            try:
                self._begin()
            except BaseException:
                self._undo(heard)
                raise
        log.info("runner %s started: %s", self.worker_id, ", ".join(self._offers()) or "runs nothing")

    def _begin(self) -> None:
        self._wakeup.listen()
        if self._runs:
            self._end_service = self._handlers.serve(self._offer, self._hindrance)
        self._register()
        self._wakeup.notify(work=False, origin=self)
        self._unsubscribe = self._wakeup.subscribe(self._on_signal)
        self._unwatch = self._handlers.on_opening(self._dispatcher.reconsider)
        self._no_longer_holds = self._store.tasks.on_take_back(self._keeper.renew_now)
        self._state = "running"
        self._pid = os.getpid()
        atexit.register(self._at_exit)
        self._keeper.start()
        self._maintenance.start()
        # Whoever published in between with a list of processes that was without this one has told nobody.
        self._watchdog.at(self._clock.monotonic() + PEERS_FOR, self._dispatcher.look)
        # The last, because it claims: until it is there nothing runs that would have to be given back.
        self._dispatcher.start()

    def _undo(self, heard: bool) -> None:
        """Take back what `_begin` did before it failed; `heard` says whether this process could be woken before."""
        self._state, self._pid = "new", 0
        atexit.unregister(self._at_exit)
        self._watchdog.clear()
        self._maintenance.stop()
        self._keeper.close()
        self._no_longer_holds()
        self._unsubscribe()
        self._unwatch()
        self._end_service()
        if not heard:
            self._wakeup.deafen()
        registered, self._offered = self._offered is not None, None
        if registered:
            try:
                self._store.workers.forget(self.worker_id)
                self._wakeup.notify(work=False, origin=self)
            except HeablcoinError as error:
                log.warning("a runner that did not start is still in the table of processes: %s", error.message)

    def stop(self, grace_seconds: float = 3.0) -> None:
        """Stop claiming, cancel what runs, give the rest back; returns within `grace_seconds` and a second.

        Async handlers are cancelled and child processes killed at once; sync handlers see `context.cancelled` and have
        the grace to end. What has not ended by then is given back as interrupted, which is free. Idempotent, from any
        thread; a second caller waits for the first.

        A program that ends without it gives back what runs all the same, as long as it ends by itself: by the end of its
        main module or by sys.exit, not by os._exit or a signal that kills.
        """
        if self._pid not in {0, os.getpid()}:
            return  # In a fork of its process: it runs there, and the tasks are held there.
        with self._lock:
            state, self._state = self._state, "stopped"
        if state == "new":
            self._stopped.set()
        if state != "running":
            self._stopped.wait(grace_seconds + LAST_WORDS)
            return
        atexit.unregister(self._at_exit)
        grace_end = time.monotonic() + max(0.0, grace_seconds)
        self._unsubscribe()
        self._unwatch()
        self._end_service()
        self._dispatcher.stop_claiming()
        self._executor.stop_all()
        self._attempts.wait_until_empty(grace_end - time.monotonic())
        end = time.monotonic() + LAST_WORDS
        self._executor.conclude_all()
        self._no_longer_holds()
        self._keeper.close()
        self._dispatcher.close()
        if self._dispatcher.join(end - time.monotonic()):
            self._say_farewell(max(0.0, end - time.monotonic()))
        else:
            log.warning("the queue's store is slow; what was not written is given back when its lease ends")
        self._watchdog.close()
        self._executor.close()
        self._stopped.set()
        log.info("runner %s stopped", self.worker_id)

    def _at_exit(self) -> None:
        # Not in a fork of this process, whose end is not ours: it has none of the threads, and owns none of the tasks.
        if os.getpid() == self._pid:
            self.stop(GRACE_AT_EXIT)

    def _say_farewell(self, timeout: float) -> None:
        farewell = threading.Thread(target=self._farewell, name="heablcoin-farewell", daemon=True)
        try:
            farewell.start()
        except RuntimeError:
            self._farewell()  # Since Python 3.12 no thread can be started while the interpreter exits.
        else:
            farewell.join(timeout)

    def _farewell(self) -> None:
        """What is polite but not necessary: leases and rows left behind end by themselves."""
        try:
            self._store.tasks.release(self.worker_id, self._clock.now())
            self._store.workers.forget(self.worker_id)
            self._maintenance.stop()
            self._announcer.flush()
            self._wakeup.notify(origin=self)
        except HeablcoinError as error:
            log.warning("the runner could not say goodbye: %s", error.message)
        if self._owns_wakeup:
            self._wakeup.close()

    def _register(self, offers: tuple[str, ...] | None = None) -> None:
        offers = self._offers() if offers is None else offers
        with self._registering:
            self._store.workers.register(
                WorkerInfo(
                    worker=self.worker_id,
                    pid=os.getpid(),
                    host=encodable(socket.gethostname()),
                    wake_port=self._wakeup.port,
                    capabilities=offers,
                    started_at=self._started_at,
                    seen_at=self._clock.now(),
                )
            )
            self._offered = offers
            self._seen_at = self._clock.monotonic()
        self._heed_limits(look=True)

    def _heed_limits(self, *, look: bool) -> None:
        if self._runs and self._limits.bring_up_to_date(look=look):
            self._dispatcher.reconsider()
            self._wakeup.notify(origin=self)

    def _offer(self) -> None:
        """Write down what this process can run as soon as it is other than what was written last; then claim it."""
        self._heed_limits(look=False)
        if (offers := self._offers()) == self._offered:
            return
        # Somebody else may write what he saw a moment earlier: whoever writes last looks again.
        while offers != self._offered:
            self._register(offers)
            offers = self._offers()
        log.debug("this process now runs: %s", ", ".join(offers) or "nothing")
        self._dispatcher.reconsider()
        self._wakeup.notify(origin=self)

    def _glance(self) -> None:
        if self._state != "running":
            return
        self._offer()
        if self._clock.monotonic() - self._seen_at >= SIGN_OF_LIFE:
            self._register()

    def _able(self) -> frozenset[str]:
        """What can be begun here now: without what the system refuses, what stuck threads leave no room for, and handlers of
        which enough attempts wait in the pool.
        """
        able = self._handlers.capabilities(without=self._executor.unable())
        full = self._rests.full()
        return frozenset(each for each in able if handler_of(each) not in full) if full else able

    def _hindrance(self, handler: Handler) -> str:
        """Why nothing is begun with it here now, in words; '' when it is."""
        return self._executor.hindrance(handler.place) or self._rests.hindrance(handler.name)

    def _offers(self) -> tuple[str, ...]:
        return tuple(sorted(self._handlers.capabilities())) if self._runs else ()

    def _beat(self) -> None:
        self._register()
        self._executor.inspect()

    def _on_signal(self, signal: Signal) -> None:
        if signal.origin is self:
            return
        if signal.work:
            self._dispatcher.look()
        if signal.task_ids and len(self._attempts) and self._attempts.of_tasks(signal.task_ids):
            self._keeper.check()

    def _dispatch(self, claims: Sequence[Claim], lease_until: float) -> None:
        self._executor.start(claims, lease_until)

    def _lose(self, attempt: RunningAttempt) -> None:
        self._executor.stop(attempt, StopReason.LOST)

    def _announce(self, settlements: Sequence[Settlement]) -> None:
        self._announcer.tell([each.task_id for each in settlements], work=True)


def _nothing() -> None:
    return None
