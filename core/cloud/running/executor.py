"""Runs claimed attempts: each in the right place, stopped when it must be, settled exactly once.

Async handlers run on an event loop of their own (`async_executor.py`), sync ones in daemon threads (`thread_executor.py`), those with
`isolation="process"` in a child that can be killed (`process_executor.py`).
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
from core.cloud.running.async_executor import AsyncExecutor, Ending
from core.cloud.running.outage import NEEDS, NotStarted, Outages
from core.cloud.running.preparing import Report, load
from core.cloud.running.resting import Rests
from core.cloud.running.running_attempt import RunningAttempt, RunningAttempts, StopReason
from core.cloud.running.settling import Settler
from core.cloud.running.thread_executor import ThreadExecutor
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
        attempts: RunningAttempts,
        outcomes: Settler,
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
        self._attempts = attempts
        self._settler = outcomes
        self._watchdog = watchdog
        self._clock = clock
        self._settle = settle
        self._report = report
        self._concurrency = concurrency
        self._abilities_changed = abilities_changed
        self._threads = ThreadExecutor(self._run_here, self._no_thread)
        self._lock = threading.Lock()
        self._waiting: deque[RunningAttempt] = deque()
        self._watching = False
        """True while a look at what waits is to come."""
        self._active = 0
        self._async: AsyncExecutor | None = None
        self._retired: list[AsyncExecutor] = []
        self._closing = False
        self._outages = Outages(LEFT_BEHIND * max(1, concurrency))
        self._rests = rests
        rests.attach(launch=self._fill_slots, expire=partial(self.stop, reason=StopReason.TIMEOUT))

    def unable(self) -> frozenset[Place]:
        """Where nothing can be begun for now: what is to run there is not to be claimed."""
        return self._outages.closed(self._clock.monotonic())

    def hindrance(self, place: Place) -> str:
        """Why that is so of one place, in words; '' when it is not."""
        return self._outages.hindrance(place, self._clock.monotonic())

    # Starting: from the exchange thread.

    def start(self, claims: Sequence[Claim], lease_until: float) -> None:
        """Run these, in this order, as slots get free. `lease_until` is when another process may take them over."""
        prepared = [attempt for claim in claims if (attempt := self._prepare(claim, lease_until)) is not None]
        with self._lock:
            self._waiting.extend(prepared)
        self._fill_slots()
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

    def _fill_slots(self) -> None:
        """Start what waits for a slot, as far as there are any. What cannot be started is given back."""
        coroutines, threads, endings = self._take_slots()
        if endings:
            self._finish(endings)
        for attempt in (*coroutines, *threads):
            if not self._rests.begin(attempt):
                self._refuse([attempt], RuntimeError("no thread could keep its deadline"))
        for executor, attempts in groupby(coroutines, key=_executor_of):
            self._hand_over(executor, list(attempts))
        if threads:
            self._threads.start(threads)

    def _take_slots(self) -> tuple[list[RunningAttempt], list[RunningAttempt], list[Ending]]:
        """RunningAttempts that have a slot now, for event loops and for threads; and the ends of those for which there is no room."""
        coroutines: list[RunningAttempt] = []
        threads: list[RunningAttempt] = []
        endings: list[Ending] = []
        with self._lock:
            crowded = self._outages.crowded
            while self._waiting and self._active - self._attempts.resting < self._concurrency:
                attempt = self._waiting.popleft()
                place = attempt.handler.place
                if attempt.settled:
                    continue
                if crowded and place is Place.THREAD:
                    endings.append((attempt, None, NotStarted(NO_ROOM)))
                    continue
                self._active += 1
                attempt.has_slot = True
                (coroutines if place is Place.LOOP else threads).append(attempt)
            refusal = self._give_executors(coroutines)
        if refusal is not None:
            self._refuse(coroutines, refusal)
            coroutines = []
        return coroutines, threads, endings

    def _give_executors(self, attempts: Sequence[RunningAttempt]) -> Exception | None:
        """Have these run on the event loop for new attempts; why there is none. Call it with the lock held."""
        try:
            for attempt in attempts:
                attempt.executor = self._open_async()
        except Exception as error:  # noqa: BLE001  # no thread, no file descriptors or no memory for a loop
            return error
        return None

    def _open_async(self) -> AsyncExecutor:
        if self._async is None:
            self._async = AsyncExecutor(self._finish, self._too_late)
        return self._async

    def _hand_over(self, executor: AsyncExecutor, attempts: Sequence[RunningAttempt]) -> None:
        try:
            executor.start(attempts)
        except Exception as error:  # noqa: BLE001  # its loop has ended
            with self._lock:
                if self._async is executor:
                    self._async = None
            self._refuse(attempts, error)
        else:
            self._outages.works(Place.LOOP, self._clock.monotonic())

    def _move(self, attempts: Sequence[RunningAttempt]) -> None:
        """Run on another loop what a blocked one had not begun."""
        if not attempts:
            return
        with self._lock:
            refusal = self._give_executors(attempts)
        if refusal is not None:
            self._refuse(attempts, refusal)
        else:
            self._hand_over(_executor_of(attempts[0]), attempts)

    def _no_thread(self, attempts: Sequence[RunningAttempt], error: BaseException) -> None:
        for place in (Place.THREAD, Place.PROCESS):
            if concerned := [attempt for attempt in attempts if attempt.handler.place is place]:
                self._refuse(concerned, error, NEEDS[Place.THREAD])

    def _refuse(self, attempts: Sequence[RunningAttempt], error: BaseException, what: str = "") -> None:
        """Give back, unharmed, what could not be begun, and begin nothing more of its kind for a while."""
        place = attempts[0].handler.place
        said = error.message if type(error) is NotStarted else describe(error)[:200]
        reason = f"{what or NEEDS[place]} could not be had ({said})"
        now = self._clock.monotonic()
        until = self._outages.refused(place, now)
        with self._lock:
            also = [attempt for attempt in self._waiting if attempt.handler.place is place]
        if until is not None:
            log.warning("%s: tasks that need it are given back, and tried here again in %.0f s", reason, until - now)
            self._abilities_changed()
            self._call_at(until, self._abilities_changed)
        self._finish([(attempt, None, NotStarted(f"Given back: {reason}.")) for attempt in (*attempts, *also)])

    def _watch_queue(self) -> None:
        """Have a look at what waits for a slot when the first of it has waited for too long: one look at a time."""
        with self._lock:
            if self._watching or not self._waiting:
                return
            self._watching = True
            moment = self._waiting[0].claimed_at + LONGEST_QUEUE
        if not self._call_at(moment, self._give_back_stale):
            self._watching = False

    def _give_back_stale(self) -> None:
        """Tasks were claimed ahead because others ended fast; now that they do not, let other processes have them."""
        oldest = self._clock.monotonic() - LONGEST_QUEUE
        with self._lock:
            self._watching = False
            stale = bool(self._waiting) and self._waiting[0].claimed_at <= oldest
            waiting = list(self._waiting) if stale else []
        for attempt in waiting:
            if not attempt.has_slot:
                self.stop(attempt, StopReason.CUT)
        self._watch_queue()

    def _prepare(self, claim: Claim, lease_until: float) -> RunningAttempt | None:
        """A running attempt ready to start; None when its attempt is over already, one way or the other."""
        handler = self._handlers.get(claim.name)
        if handler is None:
            missing = Permanent(
                f"No handler is registered for tasks named {claim.name!r}.", "register one, then retry_task"
            )
            if claim.grant is not None:
                claim.grant.give_back()
            self._settle([self._settler.raised(claim, missing)])
            return None
        attempt = RunningAttempt(claim, handler, self._clock.monotonic(), lease_until)
        self._attempts.add(attempt)
        try:
            load(attempt, self._tasks, self._report)
        except (StoreError, MemoryError) as error:
            self._refuse([attempt], error, "what it builds on")
        except Exception as error:  # noqa: BLE001  # a payload that cannot be filled in is its task's failure
            self._finish([(attempt, None, error)])
        else:
            return attempt
        return None

    # Ending: from event loops and the threads of sync handlers.

    def _too_late(self, attempt: RunningAttempt) -> bool:
        """True when its lease ended before it began, as in a process that was suspended: it may run elsewhere by now."""
        late = attempt.stop_reason is None and self._clock.now() >= attempt.lease_until
        if late:
            attempt.stop_reason = StopReason.CUT
            log.info("task %s attempt %d is not begun: its lease ended while it waited here", *attempt.key)
        return late

    def _run_here(self, attempt: RunningAttempt) -> None:
        """One attempt in this thread."""
        try:
            if not attempt.settled:
                ending = self._attempt(attempt)
                if type(ending[2]) is NotStarted:
                    self._refuse([attempt], ending[2])
                else:
                    self._finish([ending])
        finally:
            self._thread_free(attempt)

    def _attempt(self, attempt: RunningAttempt) -> Ending:
        value: object = None
        failure: BaseException | None = None
        try:
            if self._too_late(attempt):
                return attempt, None, asyncio.CancelledError()
            failpoint("before_handler")
            if attempt.handler.place is Place.PROCESS:
                value = self._run_isolated(attempt)
            else:
                self._outages.works(Place.THREAD, self._clock.monotonic())
                with wait_reports.told_to(attempt.rest):
                    value = attempt.handler.call(attempt.payload, cast(TaskContext, attempt.context))
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its task's failure, never ours
            failure = error
        survived("after_handler")
        return attempt, value, failure

    def _thread_free(self, attempt: RunningAttempt) -> None:
        """Its thread is free again; if it had been left behind, there may be room for others now."""
        with self._lock:
            attempt.done = True
        if attempt.left_behind:
            count, room = self._outages.come_back()
            if room:
                log.warning("%d threads are held by handlers that do not end; sync handlers are begun again", count)
                self._abilities_changed()

    def _leave_thread(self, attempt: RunningAttempt) -> None:
        """Its handler goes on in its thread, which nothing can stop; its attempt does not wait for that."""
        with self._lock:
            if attempt.done or attempt.left_behind:
                return
            attempt.left_behind = True
        count, full = self._outages.leave_behind()
        log.warning("the handler %s cannot be stopped; its thread is left behind", attempt.claim.name)
        if full:
            log.error(
                "%d threads are left behind by sync handlers that did not end in time, so no more of these are begun here "
                'until one ends. Let such handlers heed context.cancelled, or register them with isolation="process".',
                count,
            )
            self._abilities_changed()

    def _run_isolated(self, attempt: RunningAttempt) -> object:
        from core.cloud.running.process_executor import ProcessRun

        run = ProcessRun(attempt.handler)
        attempt.kill = run.kill
        if attempt.unwanted():
            run.kill()
        value = run.run(attempt.payload, attempt.context, partial(self._report, attempt))
        self._outages.works(Place.PROCESS, self._clock.monotonic())
        return value

    def _finish(self, endings: Sequence[Ending]) -> None:
        """Settle attempts that ended; those already settled without their handler's leave are passed over."""
        settlements: list[Settlement] = []
        has_slot = 0
        for attempt, value, error in endings:
            settlement = self._judged(attempt, value, error)
            if self._attempts.take(attempt):
                if attempt.claim.grant is not None:
                    attempt.claim.grant.give_back()
                has_slot += attempt.has_slot
                if settlement is not None:
                    settlements.append(settlement)
        survived("before_settle")
        self._settle(settlements)
        with self._lock:
            self._active -= has_slot
        if self._waiting:
            self._fill_slots()

    def _judged(self, attempt: RunningAttempt, value: object, error: BaseException | None) -> Settlement | None:
        """`_judge`, and a settlement too when that fails: an attempt that ended must not look as if it ran."""
        try:
            return self._judge(attempt, value, error)
        except BaseException as broken:
            log.exception("how task %s attempt %d ended could not be worked out", *attempt.key)
            return self._settler.untold(attempt.claim, broken)

    def _judge(self, attempt: RunningAttempt, value: object, error: BaseException | None) -> Settlement | None:
        """How an attempt counts that ended with a value, or an error, after it was perhaps told to stop."""
        reason = attempt.stop_reason
        if reason is StopReason.LOST:
            return None
        if reason is StopReason.TIMEOUT:
            return self._settler.timed_out(attempt.claim, attempt.timeout)
        if error is None:
            return self._settler.returned(attempt.claim, value)
        kind = type(error)
        if reason is StopReason.CUT or kind in (NotStarted, Snoozed, FailpointError):
            return self._settler.interrupted(attempt.claim, text_of(error) if reason is None else None)
        if issubclass(kind, asyncio.CancelledError):
            error = RuntimeError("The handler cancelled itself.")
        return self._settler.raised(attempt.claim, error)

    # Stopping: from the watchdog, the lease keeper, or whoever stops the runner.

    def stop(self, attempt: RunningAttempt, reason: StopReason) -> None:
        """Have an attempt end before its time. What can be stopped is; what cannot is settled without waiting for it."""
        if attempt.settled or attempt.stop_reason is not None:
            return
        attempt.stop_reason = reason
        log.debug("task %s attempt %d is stopped: %s", *attempt.key, reason.value)
        with self._lock:
            has_slot, executor = attempt.has_slot, attempt.executor
        if not has_slot:
            self._conclude(attempt)
        elif executor is not None:
            executor.cancel(attempt)
            attempt.wake()
            self._watchdog.at(self._clock.monotonic() + CANCEL_GRACE, partial(self._leave_behind, attempt))
        elif attempt.handler.place is Place.PROCESS:
            if attempt.kill is not None:
                attempt.kill()
            self._conclude(attempt)
        else:
            self._stop_thread(attempt, reason)

    def _stop_thread(self, attempt: RunningAttempt, reason: StopReason) -> None:
        """A thread ends by itself or not at all: what it waits for in the pool ends now, and it may see `context.cancelled`."""
        woken = attempt.wake()
        if reason is StopReason.CUT:
            return  # by a shutdown, which gives it the grace
        if not (woken and self._call_at(self._clock.monotonic() + CANCEL_GRACE, partial(self._leave_thread, attempt))):
            self._leave_thread(attempt)
        self._conclude(attempt)

    def stop_all(self) -> None:
        """Begin the shutdown: cancel, kill, ask to end."""
        self._closing = True
        for attempt in self._attempts.all():
            self.stop(attempt, StopReason.CUT)

    def conclude_all(self) -> None:
        """End the shutdown: what still runs is given back, and what it does from now on counts for nothing."""
        for attempt in self._attempts.all():
            attempt.stop_reason = attempt.stop_reason or StopReason.CUT
            self._conclude(attempt)

    def close(self) -> None:
        """Let the threads and event loops end as soon as they can."""
        self._closing = True
        self._threads.close()
        with self._lock:
            executors = [*self._retired, *([self._async] if self._async is not None else [])]
        for executor in executors:
            executor.close()

    def _conclude(self, attempt: RunningAttempt) -> None:
        self._finish([(attempt, None, asyncio.CancelledError())])

    def _leave_behind(self, attempt: RunningAttempt) -> None:
        """The grace after a cancellation is over: settle what has not ended, and leave a blocked loop."""
        if attempt.settled:
            return
        self._conclude(attempt)
        executor = attempt.executor
        if executor is None or attempt.cancel_seen:
            log.error("the handler %s did not end when it was cancelled; it is left behind", attempt.claim.name)
            return
        log.error(
            "an async handler blocks its event loop (%s had to stop and could not); a new loop takes over. "
            'Put blocking code into a plain `def` handler, or register it with isolation="process".',
            attempt.claim.name,
        )
        with self._lock:
            if self._async is not None and self._async is executor:
                self._async = None
        self._move(executor.recall())
        executor.close()
        for other in self._attempts.all():
            if other.executor is executor:
                other.stop_reason = other.stop_reason or StopReason.CUT
                self._conclude(other)

    def inspect(self) -> None:
        """Called now and then: what a loop that has not moved since the last call has not begun runs on another."""
        recalled: list[RunningAttempt] = []
        with self._lock:
            executor = self._async
            if executor is not None and not executor.answers():
                names = sorted({attempt.claim.name for attempt in self._attempts.all() if attempt.executor is executor})
                log.warning("an async handler holds up its event loop (one of %s); new tasks get another", names)
                self._async = None
                self._retired.append(executor)
                recalled = executor.recall()
            busy = {id(attempt.executor) for attempt in self._attempts.all()}
            done = [retired for retired in self._retired if id(retired) not in busy]
            self._retired = [retired for retired in self._retired if id(retired) in busy]
        self._move(recalled)
        for retired in done:
            retired.close()


def _executor_of(attempt: RunningAttempt) -> AsyncExecutor:
    return cast(AsyncExecutor, attempt.executor)
