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
from core.cloud.gate import Snoozed
from core.cloud.handlers.registry import HandlerRegistry, Place
from core.cloud.handlers.task_context import TaskContext
from core.cloud.pool import wait_reports
from core.cloud.running.async_executor import Ending, Lane
from core.cloud.running.outage import NEEDS, NotStarted, Outages
from core.cloud.running.preparing import Report, load
from core.cloud.running.rest import Rests
from core.cloud.running.running_attempt import Flight, Flights, StopReason
from core.cloud.running.settling import Outcomes
from core.cloud.running.thread_executor import Crew
from core.cloud.running.watchdog import Watchdog
from core.cloud.store_contract import Claim, Settlement, TaskStore
from core.errors import Permanent, StoreError
from core.failpoints import FailpointError, failpoint, survived
from core.safe_text import describe, text_of

log = logging.getLogger(__name__)

CANCEL_GRACE = 1.0
"""Seconds an async handler has to end after it was cancelled, before its attempt is settled without it."""

LONGEST_QUEUE = 0.1
"""Seconds a claimed task waits for a slot here before it is given back."""

LEFT_BEHIND = 2
"""For each slot: threads that a timeout or cancellation may leave behind before sync handlers are no longer begun here."""

NO_ROOM = "Given back: too many threads of its worker are held by handlers that do not end."

Settle = Callable[[Sequence[Settlement]], None]


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
        rests: Rests,
        abilities_changed: Callable[[], None],
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
        self._abilities_changed = abilities_changed
        self._crew = Crew(self._run_here, self._no_thread)
        self._lock = threading.Lock()
        self._waiting: deque[Flight] = deque()
        self._watching = False
        """True while a look at what waits is to come."""
        self._active = 0
        self._lane: Lane | None = None
        self._retired: list[Lane] = []
        self._closing = False
        self._outages = Outages(LEFT_BEHIND * max(1, concurrency))
        self._rests = rests
        rests.attach(launch=self._launch, expire=partial(self.stop, reason=StopReason.TIMEOUT))

    def unable(self) -> frozenset[Place]:
        """Where nothing can be begun for now: what is to run there is not to be claimed."""
        return self._outages.closed(self._clock.monotonic())

    def hindrance(self, place: Place) -> str:
        """Why that is so of one place, in words; '' when it is not."""
        return self._outages.hindrance(place, self._clock.monotonic())

    # Starting: from the exchange thread.

    def start(self, claims: Sequence[Claim], lease_until: float) -> None:
        """Run these, in this order, as slots get free. `lease_until` is when another process may take them over."""
        boarded = [flight for claim in claims if (flight := self._board(claim, lease_until)) is not None]
        with self._lock:
            self._waiting.extend(boarded)
        self._launch()
        if self._closing:
            self.stop_all()
        else:
            self._watch_queue()

    def _call_at(self, moment: float, action: Callable[[], None]) -> bool:
        """False when there is no thread that could do it."""
        try:
            self._watchdog.at(moment, action)
        except RuntimeError as error:
            log.warning("no thread for deadlines: %s", error)
            return False
        return True

    def _launch(self) -> None:
        """Start what waits for a slot, as far as there are any. What cannot be started is given back."""
        coroutines, threads, endings = self._take_slots()
        if endings:
            self._finish(endings)
        for flight in (*coroutines, *threads):
            if not self._rests.begin(flight):
                self._refuse([flight], RuntimeError("no thread could keep its deadline"))
        for lane, flights in groupby(coroutines, key=_lane_of):
            self._take_off(lane, list(flights))
        if threads:
            self._crew.start(threads)

    def _take_slots(self) -> tuple[list[Flight], list[Flight], list[Ending]]:
        """Flights that have a slot now, for event loops and for threads; and the ends of those for which there is no room."""
        coroutines: list[Flight] = []
        threads: list[Flight] = []
        endings: list[Ending] = []
        with self._lock:
            crowded = self._outages.crowded
            while self._waiting and self._active - self._flights.resting < self._concurrency:
                flight = self._waiting.popleft()
                place = flight.handler.place
                if flight.settled:
                    continue
                if crowded and place is Place.THREAD:
                    endings.append((flight, None, NotStarted(NO_ROOM)))
                    continue
                self._active += 1
                flight.launched = True
                (coroutines if place is Place.LOOP else threads).append(flight)
            refusal = self._give_lanes(coroutines)
        if refusal is not None:
            self._refuse(coroutines, refusal)
            coroutines = []
        return coroutines, threads, endings

    def _give_lanes(self, flights: Sequence[Flight]) -> Exception | None:
        """Have these run on the event loop for new attempts; why there is none. Call it with the lock held."""
        try:
            for flight in flights:
                flight.lane = self._open_lane()
        except Exception as error:  # noqa: BLE001  # no thread, no file descriptors or no memory for a loop
            return error
        return None

    def _open_lane(self) -> Lane:
        if self._lane is None:
            self._lane = Lane(self._finish, self._too_late)
        return self._lane

    def _take_off(self, lane: Lane, flights: Sequence[Flight]) -> None:
        try:
            lane.start(flights)
        except Exception as error:  # noqa: BLE001  # its loop has ended
            with self._lock:
                if self._lane is lane:
                    self._lane = None
            self._refuse(flights, error)
        else:
            self._outages.works(Place.LOOP, self._clock.monotonic())

    def _move(self, flights: Sequence[Flight]) -> None:
        """Run on another loop what a blocked one had not begun."""
        if not flights:
            return
        with self._lock:
            refusal = self._give_lanes(flights)
        if refusal is not None:
            self._refuse(flights, refusal)
        else:
            self._take_off(_lane_of(flights[0]), flights)

    def _no_thread(self, flights: Sequence[Flight], error: BaseException) -> None:
        for place in (Place.THREAD, Place.PROCESS):
            if concerned := [flight for flight in flights if flight.handler.place is place]:
                self._refuse(concerned, error, NEEDS[Place.THREAD])

    def _refuse(self, flights: Sequence[Flight], error: BaseException, what: str = "") -> None:
        """Give back, unharmed, what could not be begun, and begin nothing more of its kind for a while."""
        place = flights[0].handler.place
        said = error.message if type(error) is NotStarted else describe(error)[:200]
        reason = f"{what or NEEDS[place]} could not be had ({said})"
        now = self._clock.monotonic()
        until = self._outages.refused(place, now)
        with self._lock:
            also = [flight for flight in self._waiting if flight.handler.place is place]
        if until is not None:
            log.warning("%s: tasks that need it are given back, and tried here again in %.0f s", reason, until - now)
            self._abilities_changed()
            self._call_at(until, self._abilities_changed)
        self._finish([(flight, None, NotStarted(f"Given back: {reason}.")) for flight in (*flights, *also)])

    def _watch_queue(self) -> None:
        """Have a look at what waits for a slot when the first of it has waited for too long: one look at a time."""
        with self._lock:
            if self._watching or not self._waiting:
                return
            self._watching = True
            moment = self._waiting[0].boarded_at + LONGEST_QUEUE
        if not self._call_at(moment, self._give_back_stale):
            self._watching = False

    def _give_back_stale(self) -> None:
        """Tasks were claimed ahead because others ended fast; now that they do not, let other processes have them."""
        oldest = self._clock.monotonic() - LONGEST_QUEUE
        with self._lock:
            self._watching = False
            stale = bool(self._waiting) and self._waiting[0].boarded_at <= oldest
            waiting = list(self._waiting) if stale else []
        for flight in waiting:
            if not flight.launched:
                self.stop(flight, StopReason.CUT)
        self._watch_queue()

    def _board(self, claim: Claim, lease_until: float) -> Flight | None:
        """A flight ready to start; None when its attempt is over already, one way or the other."""
        handler = self._handlers.get(claim.name)
        if handler is None:
            missing = Permanent(
                f"No handler is registered for tasks named {claim.name!r}.", "register one, then retry_task"
            )
            if claim.grant is not None:
                claim.grant.give_back()
            self._settle([self._outcomes.raised(claim, missing)])
            return None
        flight = Flight(claim, handler, self._clock.monotonic(), lease_until)
        self._flights.add(flight)
        try:
            load(flight, self._tasks, self._report)
        except (StoreError, MemoryError) as error:
            self._refuse([flight], error, "what it builds on")
        except Exception as error:  # noqa: BLE001  # a payload that cannot be filled in is its task's failure
            self._finish([(flight, None, error)])
        else:
            return flight
        return None

    # Ending: from event loops and crew threads.

    def _too_late(self, flight: Flight) -> bool:
        """True when its lease ended before it began, as in a process that was suspended: it may run elsewhere by now."""
        late = flight.stop_reason is None and self._clock.now() >= flight.lease_until
        if late:
            flight.stop_reason = StopReason.CUT
            log.info("task %s attempt %d is not begun: its lease ended while it waited here", *flight.key)
        return late

    def _run_here(self, flight: Flight) -> None:
        """One attempt in this thread."""
        try:
            if not flight.settled:
                ending = self._attempt(flight)
                if type(ending[2]) is NotStarted:
                    self._refuse([flight], ending[2])
                else:
                    self._finish([ending])
        finally:
            self._landed(flight)

    def _attempt(self, flight: Flight) -> Ending:
        value: object = None
        failure: BaseException | None = None
        try:
            if self._too_late(flight):
                return flight, None, asyncio.CancelledError()
            failpoint("before_handler")
            if flight.handler.place is Place.PROCESS:
                value = self._run_isolated(flight)
            else:
                self._outages.works(Place.THREAD, self._clock.monotonic())
                with wait_reports.told_to(flight.rest):
                    value = flight.handler.call(flight.payload, cast(TaskContext, flight.context))
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its task's failure, never ours
            failure = error
        survived("after_handler")
        return flight, value, failure

    def _landed(self, flight: Flight) -> None:
        """Its thread is free again; if it had been left behind, there may be room for others now."""
        with self._lock:
            flight.landed = True
        if flight.left_behind:
            count, room = self._outages.come_back()
            if room:
                log.warning("%d threads are held by handlers that do not end; sync handlers are begun again", count)
                self._abilities_changed()

    def _leave_thread(self, flight: Flight) -> None:
        """Its handler goes on in its thread, which nothing can stop; its attempt does not wait for that."""
        with self._lock:
            if flight.landed or flight.left_behind:
                return
            flight.left_behind = True
        count, full = self._outages.leave_behind()
        log.warning("the handler %s cannot be stopped; its thread is left behind", flight.claim.name)
        if full:
            log.error(
                "%d threads are left behind by sync handlers that did not end in time, so no more of these are begun here "
                'until one ends. Let such handlers heed context.cancelled, or register them with isolation="process".',
                count,
            )
            self._abilities_changed()

    def _run_isolated(self, flight: Flight) -> object:
        from core.cloud.running.process_executor import IsolatedRun

        run = IsolatedRun(flight.handler)
        flight.kill = run.kill
        if flight.unwanted():
            run.kill()
        value = run.run(flight.payload, flight.context, partial(self._report, flight))
        self._outages.works(Place.PROCESS, self._clock.monotonic())
        return value

    def _finish(self, endings: Sequence[Ending]) -> None:
        """Settle flights that ended; those already settled without their handler's leave are passed over."""
        settlements: list[Settlement] = []
        launched = 0
        for flight, value, error in endings:
            settlement = self._judged(flight, value, error)
            if self._flights.take(flight):
                if flight.claim.grant is not None:
                    flight.claim.grant.give_back()
                launched += flight.launched
                if settlement is not None:
                    settlements.append(settlement)
        survived("before_settle")
        self._settle(settlements)
        with self._lock:
            self._active -= launched
        if self._waiting:
            self._launch()

    def _judged(self, flight: Flight, value: object, error: BaseException | None) -> Settlement | None:
        """`_judge`, and a settlement too when that fails: an attempt that ended must not look as if it ran."""
        try:
            return self._judge(flight, value, error)
        except BaseException as broken:
            log.exception("how task %s attempt %d ended could not be worked out", *flight.key)
            return self._outcomes.untold(flight.claim, broken)

    def _judge(self, flight: Flight, value: object, error: BaseException | None) -> Settlement | None:
        """How an attempt counts that ended with a value, or an error, after it was perhaps told to stop."""
        reason = flight.stop_reason
        if reason is StopReason.LOST:
            return None
        if reason is StopReason.TIMEOUT:
            return self._outcomes.timed_out(flight.claim, flight.timeout)
        if error is None:
            return self._outcomes.returned(flight.claim, value)
        kind = type(error)
        if reason is StopReason.CUT or kind in (NotStarted, Snoozed, FailpointError):
            return self._outcomes.interrupted(flight.claim, text_of(error) if reason is None else None)
        if issubclass(kind, asyncio.CancelledError):
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
            flight.wake()
            self._watchdog.at(self._clock.monotonic() + CANCEL_GRACE, partial(self._leave_behind, flight))
        elif flight.handler.place is Place.PROCESS:
            if flight.kill is not None:
                flight.kill()
            self._conclude(flight)
        else:
            self._stop_thread(flight, reason)

    def _stop_thread(self, flight: Flight, reason: StopReason) -> None:
        """A thread ends by itself or not at all: what it waits for in the pool ends now, and it may see `context.cancelled`."""
        woken = flight.wake()
        if reason is StopReason.CUT:
            return  # by a shutdown, which gives it the grace
        if not (woken and self._call_at(self._clock.monotonic() + CANCEL_GRACE, partial(self._leave_thread, flight))):
            self._leave_thread(flight)
        self._conclude(flight)

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
