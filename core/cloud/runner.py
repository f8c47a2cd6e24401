"""Runs tasks: claim -> run (timeout, progress, renewed lease) -> settle (fenced).

One transaction settles what finished and claims what is next (`exchanger.py`). Async handlers run on an event loop of
their own (`lane.py`), sync ones in daemon threads (`crew.py`), those with `isolation="process"` in a child that can be
killed (`isolation.py`). `watchdog.py` keeps the deadlines and `lease_keeper.py` the leases, each from a thread that no
handler can hold up.
"""

import asyncio
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

from core.clock import Clock, SystemClock
from core.cloud.crew import Crew
from core.cloud.exchanger import Exchanger
from core.cloud.flight import Flight, Flights, StopReason
from core.cloud.handlers import HandlerRegistry
from core.cloud.lane import Lane
from core.cloud.lease_keeper import LeaseKeeper
from core.cloud.outcome import Outcomes
from core.cloud.retry import RetryPolicy
from core.cloud.store.base import Claim, Settlement, Store, WorkerInfo
from core.cloud.task_context import TaskContext
from core.cloud.wakeup import Signal, WakeUp
from core.cloud.watchdog import Watchdog
from core.errors import HeablcoinError, InvalidArgument
from core.failpoints import failpoint
from core.json_types import Json, loads

log = logging.getLogger(__name__)

CANCEL_GRACE = 1.0
"""Seconds an async handler has to end after it was cancelled, before its attempt is settled without it."""


def new_worker_id(rng: random.Random | None = None) -> str:
    """A name for this process in the worker table: host, process id, and a part that no restart repeats."""
    drawn = (rng or random.SystemRandom()).randrange(16**6)
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{drawn:06x}"


class TaskRunner:
    """The part of a process that runs tasks. Thread-safe; all its threads are daemons.

    `lease` is how many seconds after the death of the process its tasks are given back to others.
    """

    def __init__(
        self,
        store: Store,
        handlers: HandlerRegistry,
        *,
        wakeup: WakeUp | None = None,
        concurrency: int = 10,
        lease: float = 30.0,
        poll_interval: float = 1.0,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        worker_id: str | None = None,
    ) -> None:
        if concurrency < 1 or lease <= 0 or poll_interval <= 0:
            raise InvalidArgument(
                f"A runner cannot have concurrency={concurrency}, lease={lease}, poll_interval={poll_interval}.",
                "use a concurrency of 1 or more, and seconds above 0.",
            )
        self.worker_id = worker_id or new_worker_id()
        self._store = store
        self._handlers = handlers
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._wakeup = wakeup or WakeUp(store.workers, clock=self._clock)
        self._owns_wakeup = wakeup is None
        self._lease = lease
        self._lock = threading.RLock()
        self._state = "new"
        self._stopped = threading.Event()
        self._started_at = self._clock.now()
        self._unsubscribe = _nothing
        self._lane: Lane | None = None
        self._retired: list[Lane] = []
        self._flights = Flights()
        self._outcomes = Outcomes(self.worker_id, retry or RetryPolicy(), self._clock, self._rng)
        self._watchdog = Watchdog(self._clock)
        self._crew = Crew(self._run_here)
        self._exchanger = Exchanger(
            store.tasks,
            handlers,
            self._flights,
            worker=self.worker_id,
            concurrency=concurrency,
            lease=lease,
            poll_interval=poll_interval,
            clock=self._clock,
            rng=self._rng,
            dispatch=self._dispatch,
            announce=self._announce_settled,
        )
        self._keeper = LeaseKeeper(
            store,
            self._flights,
            self._exchanger.unsettled,
            worker=self.worker_id,
            lease=lease,
            clock=self._clock,
            lost=partial(self._stop_flight, reason=StopReason.LOST),
            tick=self._tick,
            announce=self._announce_progress,
        )

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._state == "running"

    @property
    def in_flight(self) -> int:
        """How many attempts run now."""
        return len(self._flights)

    def start(self) -> None:
        """Begin to claim and run tasks; a second call does nothing. Raises StoreError when the store is unusable."""
        with self._lock:
            if self._state == "running":
                return
            if self._state == "stopped":
                raise InvalidArgument("This runner was stopped.", "make a new TaskRunner.")
            port = self._wakeup.listen()
            self._register(port)
            self._unsubscribe = self._wakeup.subscribe(self._on_signal)
            self._state = "running"
            self._keeper.start()
            self._exchanger.start()
        log.info("runner %s started: %s", self.worker_id, ", ".join(sorted(self._handlers.capabilities())))

    def stop(self, grace_seconds: float = 3.0) -> None:
        """Stop claiming, cancel what runs, give the rest back; returns within `grace_seconds` and half a second.

        Async handlers are cancelled and child processes killed at once; sync handlers see `context.cancelled` and have
        the grace to end. What has not ended by then is given back as interrupted, which is free. Idempotent, from any
        thread.
        """
        with self._lock:
            state, self._state = self._state, "stopped"
        if state == "new":
            self._stopped.set()
            return
        if state == "stopped":
            self._stopped.wait(grace_seconds + 0.5)
            return
        deadline = time.monotonic() + max(0.0, grace_seconds)
        self._unsubscribe()
        self._exchanger.stop_claiming()
        for flight in self._flights.all():
            self._stop_flight(flight, StopReason.SHUTDOWN)
        self._flights.wait_until_empty(max(0.0, deadline - time.monotonic()))
        self._give_back(max(deadline, time.monotonic()) + 0.3)
        self._watchdog.close()
        self._crew.close()
        for lane in (*self._retired, *([self._lane] if self._lane else [])):
            lane.close()
        if self._owns_wakeup:
            self._wakeup.close()
        self._stopped.set()
        log.info("runner %s stopped", self.worker_id)

    def _give_back(self, deadline: float) -> None:
        """Settle what ended, release the rest; the store may be slow, we are not."""
        for flight in self._flights.all():
            if self._flights.take(flight):
                self._exchanger.settle([self._outcomes.interrupted(flight.claim)])
        self._exchanger.close()
        self._keeper.close()
        if not self._exchanger.join(deadline - time.monotonic()):
            log.warning("the queue's store is slow; what was not written is given back when its lease ends")
            return
        farewell = threading.Thread(target=self._farewell, name="heablcoin-farewell", daemon=True)
        farewell.start()
        farewell.join(max(0.05, deadline - time.monotonic()))

    def _farewell(self) -> None:
        try:
            self._store.tasks.release(self.worker_id, self._clock.now())
            self._store.workers.forget(self.worker_id)
        except HeablcoinError as error:
            log.warning("leaving the worker table failed: %s", error.message)

    # Claims: from the exchange thread.

    def _dispatch(self, claims: Sequence[Claim]) -> None:
        coroutines: list[Flight] = []
        threads: list[Flight] = []
        for claim in claims:
            flight = self._board(claim)
            if flight is None:
                continue
            asynchronous = flight.handler.is_async and flight.handler.isolation == "thread"
            (coroutines if asynchronous else threads).append(flight)
        if coroutines:
            if self._lane is None:
                self._lane = Lane(self._ended)
            for flight in coroutines:
                flight.lane = self._lane
            self._lane.start(coroutines)
        if threads:
            self._crew.start(threads)
        if self._state == "stopped":
            for flight in (*coroutines, *threads):
                self._stop_flight(flight, StopReason.SHUTDOWN)

    def _board(self, claim: Claim) -> Flight | None:
        handler = self._handlers.get(claim.name)
        if handler is None:
            self._exchanger.settle([self._outcomes.interrupted(claim)])
            return None
        flight = Flight(claim, handler, None)
        self._flights.add(flight)
        try:
            results: dict[str, Json] = {}
            if claim.depends_on and (handler.takes_context or "${" in claim.payload):
                found = self._store.tasks.results(claim.depends_on)
                results = {task_id: loads(text) for task_id, text in found.items()}
            flight.payload = resolve_payload(claim.payload, results)
        except Exception as error:  # noqa: BLE001  # a payload that cannot be filled in is its task's failure
            self._settle(flight, self._outcomes.raised(flight, error))
            return None
        if handler.takes_context:
            flight.context = TaskContext(
                claim.task_id,
                claim.name,
                claim.attempt,
                results=results,
                report=partial(self._keeper.report, flight),
                cancelled=flight.unwanted,
            )
        if flight.timeout is not None:
            self._watchdog.at(
                self._clock.monotonic() + flight.timeout, partial(self._stop_flight, flight, StopReason.TIMEOUT)
            )
        return flight

    # Ends: from event loops and crew threads.

    def _ended(self, endings: list[tuple[Flight, object, BaseException | None]]) -> None:
        settlements = []
        for flight, value, error in endings:
            settlement = self._judge(flight, value, error)
            if self._flights.take(flight) and settlement is not None:
                settlements.append(settlement)
        if settlements:
            failpoint("before_settle")
            self._exchanger.settle(settlements)
        else:
            self._exchanger.look()

    def _judge(self, flight: Flight, value: object, error: BaseException | None) -> Settlement | None:
        reason = flight.stop_reason
        if reason is StopReason.LOST:
            return None
        if reason is StopReason.TIMEOUT:
            return self._outcomes.timed_out(flight)
        if error is None:
            return self._outcomes.returned(flight, value)
        if reason is StopReason.SHUTDOWN:
            return self._outcomes.interrupted(flight.claim)
        if isinstance(error, asyncio.CancelledError):
            error = RuntimeError("The handler cancelled itself.")
        return self._outcomes.raised(flight, error)

    def _run_here(self, flight: Flight) -> None:
        if flight.settled:
            return
        flight.started = True
        failpoint("before_handler")
        value: object = None
        failure: BaseException | None = None
        try:
            if flight.handler.isolation == "process":
                value = self._run_isolated(flight)
            else:
                value = flight.handler.call(flight.payload, cast(TaskContext, flight.context))
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its task's failure, never ours
            failure = error
        failpoint("after_handler")
        self._ended([(flight, value, failure)])

    def _run_isolated(self, flight: Flight) -> object:
        from core.cloud.isolation import IsolatedRun

        run = IsolatedRun(flight.handler.name, flight.handler.func)
        flight.stopper = run
        if flight.stop_reason is not None:
            run.kill()
        return run.run(flight.payload, flight.claim, partial(self._keeper.report, flight))

    def _settle(self, flight: Flight, settlement: Settlement | None) -> None:
        if self._flights.take(flight) and settlement is not None:
            self._exchanger.settle([settlement])

    # Stops: from the watchdog, the lease keeper, or whoever calls stop().

    def _stop_flight(self, flight: Flight, reason: StopReason) -> None:
        if flight.settled or flight.stop_reason is not None:
            return
        flight.stop_reason = reason
        log.debug("task %s attempt %d is stopped: %s", *flight.key, reason.value)
        if flight.handler.isolation == "process":
            kill = getattr(flight.stopper, "kill", None)
            if kill is not None:
                kill()
        elif flight.handler.is_async:
            lane = flight.lane
            if isinstance(lane, Lane):
                lane.cancel(flight)
            self._watchdog.at(self._clock.monotonic() + CANCEL_GRACE, partial(self._give_up_on, flight))
            return
        if reason is StopReason.SHUTDOWN and flight.handler.isolation == "thread":
            return  # It has the grace to end by itself.
        self._conclude(flight)

    def _conclude(self, flight: Flight) -> None:
        """Settle an attempt that will not end by itself in time, for the reason it was stopped."""
        settlement = self._judge(flight, None, asyncio.CancelledError())
        self._settle(flight, settlement)
        self._exchanger.look()

    def _give_up_on(self, flight: Flight) -> None:
        if flight.settled:
            return
        self._conclude(flight)
        if flight.cancel_seen:
            log.error("the handler %s did not end when it was cancelled; it was left behind", flight.claim.name)
        elif isinstance(flight.lane, Lane):
            self._replace(flight.lane, flight)

    def _replace(self, lane: Lane, culprit: Flight) -> None:
        """Leave a blocked event loop behind; the other attempts on it are cut off, which is free."""
        log.error(
            "an async handler blocks its event loop (%s timed out on it); a new loop takes over. "
            'Run blocking code in a plain `def` handler, or with isolation="process".',
            culprit.claim.name,
        )
        if self._lane is lane:
            self._lane = None
        lane.close()
        for flight in self._flights.all():
            if flight.lane is lane:
                flight.stop_reason = flight.stop_reason or StopReason.SHUTDOWN
                self._conclude(flight)

    def _tick(self) -> None:
        """Every third of a lease: the process is alive; a loop that does not move gets no more work."""
        self._register(self._wakeup.port)
        lane = self._lane
        if lane is not None and not lane.answers():
            names = sorted({flight.claim.name for flight in self._flights.all() if flight.lane is lane})
            log.warning("an async handler holds up its event loop; new tasks run on another (%s)", ", ".join(names))
            self._lane = None
            self._retired.append(lane)
        for retired in self._retired.copy():
            if not any(flight.lane is retired for flight in self._flights.all()):
                retired.close()
                self._retired.remove(retired)

    # Signals.

    def _register(self, port: int) -> None:
        now = self._clock.now()
        self._store.workers.register(
            WorkerInfo(
                worker=self.worker_id,
                pid=os.getpid(),
                host=socket.gethostname(),
                wake_port=port,
                capabilities=tuple(sorted(self._handlers.capabilities())),
                started_at=self._started_at,
                seen_at=now,
            )
        )

    def _on_signal(self, signal: Signal) -> None:
        if signal.origin is self:
            return
        if signal.work:
            self._exchanger.look()
        if signal.task_ids and len(self._flights) and self._flights.of_tasks(signal.task_ids):
            self._keeper.check()

    def _announce_settled(self, settlements: Sequence[Settlement]) -> None:
        # Work for others only when something may be ready that this process does not take: it looks for itself.
        self._wakeup.notify([each.task_id for each in settlements], work=True, origin=self)

    def _announce_progress(self, task_ids: Iterable[str]) -> None:
        self._wakeup.notify(task_ids, work=False, origin=self)


def resolve_payload(text: str, results: dict[str, Json]) -> Json:
    """The payload with its `${...}` references filled in from the results of its dependencies."""
    payload = loads(text)
    if "${" not in text:
        return payload
    from core.cloud.graph import resolve

    return resolve(payload, results)


def _nothing() -> None:
    return None
