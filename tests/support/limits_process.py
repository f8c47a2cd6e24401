"""A process with a pool and a queue that moves only when it is told to: no threads, no event loop, no network.

The store, the manager, the gate, the runner and all its parts are the real ones. Stand-ins are what would own a thread: the
event loop of handlers (`Bench`), the deadlines, the pool's writer; and `adrive`, so that each request and each pause of a call
ends when the test says so.
"""

import random
import types
from collections.abc import Sequence
from typing import Any
from unittest import mock

from core.clock import ManualClock
from core.cloud.api_manager import ApiManager
from core.cloud.handlers.ai_call import register_ai_call
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.providers.fake import FakeProvider
from core.cloud.queue.patience import Patience
from core.cloud.retry import POISON_LIMIT
from core.cloud.running import runner
from core.cloud.running.maintenance import Maintenance, RetriesAhead, TaskUpkeep
from core.cloud.running.wakeup import WakeUp
from core.cloud.store import open_store
from core.cloud.store_contract import Claim, Exchanged
from core.errors import StoreBusy
from tests.support.limits_calls import FOREVER, Bench, Mover, Watch
from tests.support.queue_process import Deadlines

LEASE = 30.0
POLL = 60.0
"""Seconds: so long that a gate whose opening is not waited for shows."""
SLOTS = 3
WRITTEN_WITHIN = 0.1


class Killed(BaseException):
    """The process is gone in the middle of what it did."""


class Writer:
    """In the place of the pool's `WriteBehind`: says when it would write."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.due = FOREVER

    def soon(self) -> None:
        self.due = min(self.due, self._clock.monotonic() + WRITTEN_WITHIN)

    def now(self) -> None:
        self.due = self._clock.monotonic()

    def close(self) -> None: ...


class SteppedManager(ApiManager):
    async def _arefresh(self, name: str | None = None) -> None:
        self._refresh(name)


class Watched:
    """The task store of a process, which tells what is claimed, and whose next exchange may come to nothing."""

    def __init__(self, process: "Process") -> None:
        self._process, self._tasks = process, process.store.tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tasks, name)

    def exchange(self, *arguments: Any) -> Exchanged:
        database, fails = self._process.store.database, self._process.commit_fails
        self._process.commit_fails = False
        refusal = mock.patch.object(database, "_refuse_a_lost_file", side_effect=StoreBusy("locked"))
        if fails:
            with refusal:
                exchanged = self._tasks.exchange(*arguments)
        else:
            exchanged = self._tasks.exchange(*arguments)
        self._process.watch.claimed(self._process, exchanged.claims)
        return exchanged


class SteppedRunner(runner.TaskRunner):
    dies_with_claims = False

    def _dispatch(self, claims: Sequence[Claim], lease_until: float) -> None:
        if self.dies_with_claims:
            raise Killed
        super()._dispatch(claims, lease_until)


async def plain(payload: object) -> object:
    """A handler without limits."""
    return payload


class Process:
    def __init__(
        self,
        location: str,
        clock: ManualClock,
        name: str,
        seed: int,
        watch: Watch,
        *,
        ageing: float | None,
        **pool: Any,
    ) -> None:
        self.clock, self.name, self.watch = clock, name, watch
        self.commit_fails = False
        self.store = open_store(location, synchronous="NORMAL")
        self.store.pool._clock = clock
        self.store.pool._writer.close()
        self.writer = self.store.pool._writer = Writer(clock)
        self.rng = random.Random(seed)
        # With its provider from the beginning: else a real thread would load that, while no time passes here.
        providers = {"fake": FakeProvider()}
        self.manager = SteppedManager(self.store.pool, clock=clock, rng=self.rng, providers=providers, **pool)
        self.handlers = HandlerRegistry()
        register_ai_call(self.handlers, self.manager)
        self.handlers.register("plain", plain)
        self.wakeup = WakeUp(clock=clock)
        upkeep = TaskUpkeep(self.store.tasks, POISON_LIMIT, patience=Patience(clock, LEASE, regular=True))
        self.maintenance = Maintenance(
            self.store,
            [RetriesAhead(self.store.tasks, clock), upkeep],
            worker=name,
            wakeup=self.wakeup,
            clock=clock,
        )
        watched = types.SimpleNamespace(tasks=Watched(self), workers=self.store.workers)
        with mock.patch.object(runner, "Watchdog", Deadlines):
            self.runner = SteppedRunner(
                watched,
                self.handlers,
                wakeup=self.wakeup,
                concurrency=SLOTS,
                lease=LEASE,
                ageing=ageing,
                poll_interval=POLL,
                maintenance=self.maintenance,
                clock=clock,
                rng=self.rng,
                worker_id=name,
            )
        executor = self.runner._executor
        self.bench = executor._async = Bench(self, executor._finish, executor._too_late)
        self.direct: list[Mover] = []
        """Calls that no task makes."""
        self._begin()
        self._look_at = clock.monotonic()
        self._upkeep_at = clock.monotonic()

    def _begin(self) -> None:
        """As TaskRunner does, without its threads."""
        self.handlers.serve(self.runner._offer, self.runner._hindrance)
        self.handlers.on_opening(self.runner._dispatcher.reconsider)
        self.wakeup.subscribe(self.runner._on_signal)
        self.store.tasks.on_take_back(self.runner._keeper.renew_now)
        self.runner._state = "running"
        self.runner._register()

    # What it holds

    def held(self) -> set[tuple[str, int]]:
        return {attempt.key for attempt in self.runner._attempts.all()} | set(self.runner._dispatcher.unsettled())

    def has_room(self) -> bool:
        return self.runner._attempts.busy < SLOTS

    def asking(self) -> list[Mover]:
        return [mover for mover in (*self.bench.movers.values(), *self.direct) if mover.sending is not None]

    # What it does

    def call(self, **options: Any) -> None:
        """A direct call begins."""
        mover = Mover(self, self.manager.achat("now", **options), lambda mover, *_: self.direct.remove(mover))
        self.direct.append(mover)
        mover.go()

    def exchange(self) -> None:
        """One round of the dispatcher."""
        dispatcher = self.runner._dispatcher
        backoff = dispatcher.step()
        self._look_at = self.clock.monotonic() + (backoff or dispatcher._patience())

    def do_what_is_due(self) -> None:
        """What its threads would do at this moment of the clock."""
        if not self._stirs():
            return
        for _ in range(1000):
            steps = (
                self._write,
                self.bench.step,
                self._call_on,
                self._deadlines,
                self._keep,
                self._maintain,
                self._look,
            )
            if sum(step() for step in steps) == 0:
                return
        raise AssertionError("a process does not come to rest")

    def next_due(self) -> float:
        """Monotonic: when it next has something to do."""
        keeper = self.runner._keeper
        movers = (*self.bench.movers.values(), *self.direct)
        return min(
            self.writer.due,
            self._look_at,
            self._upkeep_at,
            keeper._renew_at,
            keeper._glance_at,
            *(mover.due for mover in movers),
            *(moment for moment, _ in self.runner._watchdog._actions),
        )

    def _stirs(self) -> bool:
        bench, dispatcher = self.bench, self.runner._dispatcher
        told = bench.queue or bench._cancelled or self.runner._keeper._asked or self.maintenance._poked
        napping = any(mover.is_due() for mover in (*bench.movers.values(), *self.direct))
        looks = dispatcher._waiting or dispatcher._free() > 0
        return bool(told or napping or looks) or self.next_due() <= self.clock.monotonic()

    def _write(self) -> bool:
        if self.writer.due > self.clock.monotonic():
            return False
        self.writer.due = FOREVER
        self.store.pool.flush()
        self.watch.wrote(self)
        return True

    def _call_on(self) -> bool:
        due = [mover for mover in self.direct if mover.is_due()]
        for mover in due:
            mover.go_on()
        return bool(due)

    def _deadlines(self) -> bool:
        deadlines = self.runner._watchdog
        count = len(deadlines._actions)
        deadlines.pass_by()
        return len(deadlines._actions) != count

    def _keep(self) -> bool:
        keeper, now = self.runner._keeper, self.clock.monotonic()
        if not (keeper._asked or now >= min(keeper._renew_at, keeper._glance_at)):
            return False
        keeper.step()
        return True

    def _maintain(self) -> bool:
        now = self.clock.monotonic()
        if now < self._upkeep_at and not self.maintenance._poked:
            return False
        self.maintenance._poked = False
        self._upkeep_at = now + max(0.05, self.maintenance.step())
        return True

    def _look(self) -> bool:
        """As the dispatcher's thread waits: for something to write or claim, for a gate to open, or for the poll."""
        dispatcher = self.runner._dispatcher
        if not (dispatcher._waiting or dispatcher._free() > 0):
            if self.clock.monotonic() < self._look_at:
                return False
            if self.runner._attempts.busy >= SLOTS:
                self._look_at = FOREVER
                return False
            dispatcher.look()
        self.exchange()
        return True

    # Its end

    def die(self) -> None:
        """It cannot say goodbye: what it would have written is lost."""
        self.store.pool._pending.clear()
        for mover in (*self.bench.movers.values(), *self.direct):
            mover.turn is None or mover.turn.listen(None)
        self.store.database.close()

    def close(self) -> None:
        self.store.database.close()
