"""A worker process that moves only when it is told to: the runner's own parts, without any of its threads.

The dispatcher, the executor, the lease keeper, the announcer, the outcomes and the upkeep are the real ones, wired by the real
TaskRunner. Two parts that own threads have stand-ins: deadlines pass when `deadlines()` is called, and a handler begins and
ends when the test says so (in a thread of its own, which waits inside the handler).
"""

import random
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from unittest import mock

from core.clock import ManualClock
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.cloud.running import executor, runner
from core.cloud.running.maintenance import Maintenance, TaskUpkeep
from core.cloud.running.running_attempt import RunningAttempt
from core.cloud.running.wakeup import Signal, WakeUp
from core.cloud.store_contract import Claim, Store
from core.errors import Permanent, RetryLater, StoreBusy
from tests.support.queue_model import JITTER, LATER, POISON

LEASE = 30.0
PATIENCE = 30.0
"""Seconds after which a handover between two threads of this test has failed."""


class Killed(BaseException):
    """The process is gone in the middle of what it did."""


class EvenChance(random.Random):
    """Chance without surprises."""

    def random(self) -> float:
        return JITTER


def carry_out(end: str, value: object) -> object:
    """What a handler does in the end."""
    if end == "raises":
        raise ConnectionError("the other side hung up")
    if end == "later":
        raise RetryLater(LATER)
    if end == "permanent":
        raise Permanent("this can never work")
    if end == "killed":
        raise KeyboardInterrupt
    return object() if end == "unwritable" else value


class Call:
    """A handler's call in a thread, which stops inside the handler until it is told how to end."""

    def __init__(self, run, attempt: RunningAttempt) -> None:
        self.key = attempt.key
        self.begun = False
        self.payload: object = None
        self.context: TaskContext | None = None
        self._end = ("returns", None)
        self._quiet, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(run, attempt), daemon=True)

    @property
    def thread_started(self) -> bool:
        return self._thread.ident is not None

    def begin(self) -> None:
        self._thread.start()
        assert self._quiet.wait(PATIENCE), "the handler neither begins nor is passed over"

    def finish(self, end: str, value: object = None) -> None:
        self._end = (end, value)
        self._go.set()
        if self.thread_started:
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the handler does not end"

    def inside(self, payload: object, context: TaskContext) -> object:
        self.begun, self.payload, self.context = True, payload, context
        self._quiet.set()
        self._go.wait()
        return carry_out(*self._end)

    def _run(self, run, attempt: RunningAttempt) -> None:
        try:
            run(attempt)
        finally:
            self._quiet.set()


class Seats:
    """In the place of `ThreadExecutor`: those who are to run wait until they are called."""

    def __init__(self, execute, refused) -> None:
        self._execute = execute
        self.calls: dict[tuple[str, int], Call] = {}

    def start(self, attempts: Sequence[RunningAttempt]) -> None:
        for attempt in attempts:
            self.calls[attempt.key] = Call(self._execute, attempt)


class Deadlines:
    """In the place of `Watchdog`: calls what is due when it is told to look at the clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._actions: list[tuple[float, object]] = []

    def at(self, moment: float, action) -> None:
        self._actions.append((moment, action))

    def pass_by(self) -> None:
        due = [each for each in self._actions if each[0] <= self._clock.monotonic()]
        self._actions = [each for each in self._actions if each not in due]
        for _, action in sorted(due, key=lambda each: each[0]):
            action()


class Disk:
    """A task store whose next exchange may go wrong."""

    def __init__(self, tasks) -> None:
        self._tasks = tasks
        self.trouble: Exception | None = None

    def __getattr__(self, name: str):
        return getattr(self._tasks, name)

    def exchange(self, *arguments):
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
        return self._tasks.exchange(*arguments)


class Upkeep(TaskUpkeep):
    """The real duty, with a note of whether it was done."""

    ran = False

    def run(self, now: float) -> bool:
        self.ran = True
        return super().run(now)


class SteppedRunner(runner.TaskRunner):
    claimed: tuple[Claim, ...] = ()
    dies_with_claims = False

    def _dispatch(self, claims: Sequence[Claim], lease_until: float) -> None:
        self.claimed = tuple(claims)
        if self.dies_with_claims:
            raise Killed
        super()._dispatch(claims, lease_until)


class Process:
    def __init__(self, store: Store, clock: ManualClock, worker: str, names: Sequence[str], slots: int) -> None:
        self.worker, self.names, self.slots = worker, names, slots
        self.store = store
        self._disk = Disk(store.tasks)
        self._upkeep = Upkeep(store.tasks, POISON)
        watched = SimpleNamespace(tasks=self._disk, workers=store.workers)
        wakeup = WakeUp(clock=clock)
        handlers = HandlerRegistry()
        for name in names:
            handlers.register(
                name, lambda payload, context: self.calls[context.task_id, context.attempt].inside(payload, context)
            )
        # The model knows no limit of threads left behind.
        with (
            mock.patch.object(runner, "Watchdog", Deadlines),
            mock.patch.object(executor, "ThreadExecutor", Seats),
            mock.patch.object(executor, "LEFT_BEHIND", 1_000_000),
        ):
            self.runner = SteppedRunner(
                watched,
                handlers,
                wakeup=wakeup,
                concurrency=slots,
                lease=LEASE,
                clock=clock,
                rng=EvenChance(),
                worker_id=worker,
                maintenance=Maintenance(store, [self._upkeep], worker=worker, wakeup=wakeup, clock=clock),
            )
        self.runner._register()

    @property
    def claimed(self) -> tuple[Claim, ...]:
        """What the last exchange claimed."""
        return self.runner.claimed

    @property
    def calls(self) -> dict[tuple[str, int], Call]:
        return self.runner._executor._threads.calls

    def exchange(self, *, poll: bool, trouble: str = "") -> str:
        """One transaction; says what came of the trouble: '', busy, broken or killed."""
        if poll:
            self.runner._dispatcher.look()
        self.runner.claimed = ()
        self._disk.trouble = {"busy": StoreBusy("locked"), "broken": TypeError("no such thing")}.get(trouble)
        self.runner.dies_with_claims = trouble == "killed"
        armed = self._disk.trouble is not None
        try:
            backoff = self.runner._dispatcher.step()
        except Killed:
            return "killed"
        struck = armed and self._disk.trouble is None
        self._disk.trouble = None
        assert (backoff > 0) == struck
        return trouble if struck else ""

    def deadlines(self) -> None:
        self.runner._watchdog.pass_by()

    def renew(self, *, asked: bool) -> None:
        if asked:
            self.runner._keeper.check()
        self.runner._keeper.step()

    def hear(self, task_id: str) -> None:
        self.runner._on_signal(Signal((task_id,)))

    def upkeep(self) -> bool:
        """True when it was this process that did something."""
        self._upkeep.ran = False
        self.runner._maintenance.step()
        return self._upkeep.ran

    def renew_before_taking_back(self) -> None:
        """As a started runner does; not where others share its store, which are other processes here."""
        self.store.tasks.on_take_back(self.runner._keeper.renew_now)

    def held(self) -> set[tuple[str, int]]:
        return {attempt.key for attempt in self.runner._attempts.all()}

    def unsettled(self) -> list[tuple[str, int]]:
        return self.runner._dispatcher.unsettled()

    # A shutdown in its two halves, as TaskRunner.stop makes it: in between, handlers have their grace.

    def stop(self) -> None:
        self.runner._dispatcher.stop_claiming()
        self.runner._executor.stop_all()

    def leave(self) -> None:
        """What has not ended is given back by its end."""
        self.runner._executor.conclude_all()
        self.runner._keeper.close()
        self.runner._dispatcher.close()
        assert self.runner._dispatcher.step() == 0
        self.farewell()

    def farewell(self) -> None:
        """What is still held in this process's name is given back by the store."""
        self.runner._farewell()

    def end_threads(self) -> None:
        for call in self.calls.values():
            call.finish("returns")
