"""Runs claimed attempts: each in the right place, stopped when it must be, settled exactly once.

Async handlers run on an event loop of their own (`lane.py`), sync ones in daemon threads (`crew.py`), those with
`isolation="process"` in a child that can be killed (`isolation.py`).
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import cast

from core.clock import Clock
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.cloud.queue.graph import resolve
from core.cloud.running.crew import Crew
from core.cloud.running.flight import Flight, Flights, StopReason
from core.cloud.running.lane import Ending, Lane
from core.cloud.running.outcome import Outcomes
from core.cloud.running.watchdog import Watchdog
from core.cloud.store.base import Claim, Settlement, TaskStore
from core.errors import Permanent
from core.failpoints import failpoint
from core.json_types import Json, loads

log = logging.getLogger(__name__)

CANCEL_GRACE = 1.0
"""Seconds an async handler has to end after it was cancelled, before its attempt is settled without it."""

LONGEST_QUEUE = 0.1
"""Seconds a claimed task waits for a slot here before it is given back."""

Settle = Callable[[Sequence[Settlement]], None]
Report = Callable[[Flight, float | None, str], None]


class Executor:
    """Starts and stops attempts. Thread-safe; none of its methods waits for a handler."""

    def __init__(
        self,
        tasks: TaskStore,
        handlers: HandlerRegistry,
        flights: Flights,
        outcomes: Outcomes,
        watchdog: Watchdog,
        *,
        clock: Clock,
        concurrency: int,
        settle: Settle,
        report: Report,
    ) -> None:
        self._tasks = tasks
        self._handlers = handlers
        self._flights = flights
        self._outcomes = outcomes
        self._watchdog = watchdog
        self._clock = clock
        self._settle = settle
        self._report = report
        self._concurrency = concurrency
        self._crew = Crew(self._run_here)
        self._lock = threading.Lock()
        self._waiting: deque[Flight] = deque()
        self._active = 0
        self._lane: Lane | None = None
        self._retired: list[Lane] = []
        self._closing = False

    # Starting: from the exchange thread.

    def start(self, claims: Sequence[Claim], lease_until: float) -> None:
        """Run these, in this order, as slots get free. `lease_until` is when another process may take them over."""
        boarded = [flight for claim in claims if (flight := self._board(claim, lease_until)) is not None]
        with self._lock:
            self._waiting.extend(boarded)
        self._launch()
        if self._closing:
            self.stop_all()
        elif self._waiting:
            self._watchdog.at(self._clock.monotonic() + LONGEST_QUEUE, self._give_back_stale)

    def _launch(self) -> None:
        """Start what waits for a slot, as far as there are any."""
        coroutines: list[Flight] = []
        threads: list[Flight] = []
        with self._lock:
            while self._waiting and self._active < self._concurrency:
                flight = self._waiting.popleft()
                if flight.settled:
                    continue
                self._active += 1
                flight.launched = True
                if flight.handler.is_async and flight.handler.isolation == "thread":
                    flight.lane = self._open_lane()
                    coroutines.append(flight)
                else:
                    threads.append(flight)
        for flight in (*coroutines, *threads):
            if flight.timeout is not None:
                deadline = self._clock.monotonic() + flight.timeout
                self._watchdog.at(deadline, partial(self.stop, flight, StopReason.TIMEOUT))
        for lane, flights in groupby(coroutines, key=_lane_of):
            lane.start(list(flights))
        if threads:
            self._crew.start(threads)

    def _move(self, flights: Sequence[Flight]) -> None:
        """Run on another loop what a blocked one had not begun."""
        if flights:
            with self._lock:
                lane = self._open_lane()
                for flight in flights:
                    flight.lane = lane
            lane.start(flights)

    def _open_lane(self) -> Lane:
        """The event loop for new attempts. Call it with the lock held."""
        if self._lane is None:
            self._lane = Lane(self._finish, self._too_late)
        return self._lane

    def _give_back_stale(self) -> None:
        """Tasks were claimed ahead because others ended fast; now that they do not, let other processes have them."""
        oldest = self._clock.monotonic() - LONGEST_QUEUE
        with self._lock:
            stale = bool(self._waiting) and self._waiting[0].boarded_at <= oldest
            waiting = list(self._waiting) if stale else []
        for flight in waiting:
            if not flight.launched:
                self.stop(flight, StopReason.CUT)

    def _board(self, claim: Claim, lease_until: float) -> Flight | None:
        """A flight ready to start; None when its task already failed for its payload."""
        handler = self._handlers.get(claim.name)
        if handler is None:
            error = Permanent(
                f"No handler is registered for tasks named {claim.name!r}.", "register one, then retry_task"
            )
            self._settle([self._outcomes.raised(claim, error)])
            return None
        flight = Flight(claim, handler, self._clock.monotonic(), lease_until)
        self._flights.add(flight)
        results: dict[str, Json] = {}
        try:
            if claim.depends_on and (handler.takes_context or "${" in claim.payload):
                found = self._tasks.results(claim.depends_on)
                results = {task_id: loads(text) for task_id, text in found.items()}
            payload = loads(claim.payload)
            flight.payload = resolve(payload, results) if "${" in claim.payload else payload
        except Exception as error:  # noqa: BLE001  # a payload that cannot be filled in is its task's failure
            self._finish([(flight, None, error)])
            return None
        if handler.takes_context:
            flight.context = TaskContext(
                claim.task_id,
                claim.name,
                claim.attempt,
                results=results,
                report=partial(self._report, flight),
                cancelled=flight.unwanted,
            )
        return flight

    # Ending: from event loops and crew threads.

    def _too_late(self, flight: Flight) -> bool:
        """True when its lease ended before it began, as in a process that was suspended: it may run elsewhere by now."""
        late = flight.stop_reason is None and self._clock.now() >= flight.lease_until
        if late:
            flight.stop_reason = StopReason.CUT
            log.info("task %s attempt %d is not begun: its lease ended while it waited here", *flight.key)
        return late

    def _run_here(self, flight: Flight) -> None:
        if flight.settled:
            return
        if self._too_late(flight):
            self._conclude(flight)
            return
        value: object = None
        failure: BaseException | None = None
        failpoint("before_handler")
        try:
            if flight.handler.isolation == "process":
                value = self._run_isolated(flight)
            else:
                value = flight.handler.call(flight.payload, cast(TaskContext, flight.context))
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its task's failure, never ours
            failure = error
        failpoint("after_handler")
        self._finish([(flight, value, failure)])

    def _run_isolated(self, flight: Flight) -> object:
        from core.cloud.running.isolation import IsolatedRun

        run = IsolatedRun(flight.handler)
        flight.kill = run.kill
        if flight.unwanted():
            run.kill()
        return run.run(flight.payload, flight.context, partial(self._report, flight))

    def _finish(self, endings: Sequence[Ending]) -> None:
        """Settle flights that ended; those already settled without their handler's leave are passed over."""
        settlements: list[Settlement] = []
        launched = 0
        for flight, value, error in endings:
            settlement = self._judge(flight, value, error)
            if self._flights.take(flight):
                launched += flight.launched
                if settlement is not None:
                    settlements.append(settlement)
        failpoint("before_settle")
        self._settle(settlements)
        with self._lock:
            self._active -= launched
        if self._waiting:
            self._launch()

    def _judge(self, flight: Flight, value: object, error: BaseException | None) -> Settlement | None:
        """How an attempt counts that ended with a value, or an error, after it was perhaps told to stop."""
        reason = flight.stop_reason
        if reason is StopReason.LOST:
            return None
        if reason is StopReason.TIMEOUT:
            return self._outcomes.timed_out(flight.claim, flight.timeout)
        if error is None:
            return self._outcomes.returned(flight.claim, value)
        if reason is StopReason.CUT:
            return self._outcomes.interrupted(flight.claim)
        if isinstance(error, asyncio.CancelledError):
            error = RuntimeError("The handler cancelled itself.")
        return self._outcomes.raised(flight.claim, error)

    # Stopping: from the watchdog, the lease keeper, or whoever stops the runner.

    def stop(self, flight: Flight, reason: StopReason) -> None:
        """Have an attempt end before its time. What can be stopped is; what cannot is settled without waiting for it."""
        if flight.settled or flight.stop_reason is not None:
            return
        flight.stop_reason = reason
        log.debug("task %s attempt %d is stopped: %s", *flight.key, reason.value)
        with self._lock:
            launched, lane = flight.launched, flight.lane
        if not launched:
            self._conclude(flight)
        elif lane is not None:
            lane.cancel(flight)
            self._watchdog.at(self._clock.monotonic() + CANCEL_GRACE, partial(self._leave_behind, flight))
        elif flight.handler.isolation == "process":
            if flight.kill is not None:
                flight.kill()
            self._conclude(flight)
        elif reason is not StopReason.CUT:
            log.warning("the handler %s cannot be stopped; its thread is left behind", flight.claim.name)
            self._conclude(flight)
        # A thread that is cut off by a shutdown has the grace to end by itself.

    def stop_all(self) -> None:
        """Begin the shutdown: cancel, kill, ask to end."""
        self._closing = True
        for flight in self._flights.all():
            self.stop(flight, StopReason.CUT)

    def conclude_all(self) -> None:
        """End the shutdown: what still runs is given back, and what it does from now on counts for nothing."""
        for flight in self._flights.all():
            flight.stop_reason = flight.stop_reason or StopReason.CUT
            self._conclude(flight)

    def close(self) -> None:
        """Let the threads and event loops end as soon as they can."""
        self._closing = True
        self._crew.close()
        with self._lock:
            lanes = [*self._retired, *([self._lane] if self._lane is not None else [])]
        for lane in lanes:
            lane.close()

    def _conclude(self, flight: Flight) -> None:
        self._finish([(flight, None, asyncio.CancelledError())])

    def _leave_behind(self, flight: Flight) -> None:
        """The grace after a cancellation is over: settle what has not ended, and leave a blocked loop."""
        if flight.settled:
            return
        self._conclude(flight)
        lane = flight.lane
        if lane is None or flight.cancel_seen:
            log.error("the handler %s did not end when it was cancelled; it is left behind", flight.claim.name)
            return
        log.error(
            "an async handler blocks its event loop (%s had to stop and could not); a new loop takes over. "
            'Put blocking code into a plain `def` handler, or register it with isolation="process".',
            flight.claim.name,
        )
        with self._lock:
            if self._lane is not None and self._lane is lane:
                self._lane = None
        self._move(lane.recall())
        lane.close()
        for other in self._flights.all():
            if other.lane is lane:
                other.stop_reason = other.stop_reason or StopReason.CUT
                self._conclude(other)

    def inspect(self) -> None:
        """Called now and then: what a loop that has not moved since the last call has not begun runs on another."""
        recalled: list[Flight] = []
        with self._lock:
            lane = self._lane
            if lane is not None and not lane.answers():
                names = sorted({flight.claim.name for flight in self._flights.all() if flight.lane is lane})
                log.warning("an async handler holds up its event loop (one of %s); new tasks get another", names)
                self._lane = None
                self._retired.append(lane)
                recalled = lane.recall()
            busy = {id(flight.lane) for flight in self._flights.all()}
            done = [retired for retired in self._retired if id(retired) not in busy]
            self._retired = [retired for retired in self._retired if id(retired) in busy]
        self._move(recalled)
        for retired in done:
            retired.close()


def _lane_of(flight: Flight) -> Lane:
    return cast(Lane, flight.lane)
