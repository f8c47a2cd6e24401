"""Processes that share a queue and a pool, beside a naive model of what limits promise. See limits_model, limits_process.

Each method does one thing; `check` compares what the database says with what was seen to happen. What exactly is done is up to
`choose(options)`, which hypothesis or a seeded generator answers. Time passes as it does for threads: whatever is due in a process
is done at its moment, and nobody is told to look who would not have looked by himself.
"""

import asyncio
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from core.clock import ManualClock
from core.cloud import api_manager
from core.cloud.api_manager import ApiEndpoint
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.pool.commands import Admit, Send
from core.cloud.pool.wait_queue import PATIENCE
from core.cloud.running.wakeup import Signal, WakeUp
from core.cloud.store import open_store
from core.cloud.store_contract import Claim
from core.cloud.task import TaskPriority
from tests.support.limits_calls import Mover, Watch, stepwise
from tests.support.limits_checks import Checks
from tests.support.limits_model import UNNOTICED, LimitsModel, Start, Tried
from tests.support.limits_process import Killed, Process
from tests.support.pool_world import HttpError

Choose = Callable[[Sequence[Any]], Any]
HOUR = 3600.0
ENDPOINTS: dict[str, list[dict[str, Any]]] = {
    "a": [{"max_requests_per_minute": limit} for limit in (1, 2, 5)],
    "b": [
        {"max_requests_per_minute": 0, "max_concurrency": 1, "priority": 2},
        {"max_requests_per_minute": 3, "max_concurrency": 2, "priority": 2},
        {"max_requests_per_minute": 2, "max_concurrency": 1, "priority": 1},
    ],
    "c": [
        {"max_requests_per_minute": 0, "max_requests_per_day": 2, "priority": 2},
        {"max_requests_per_minute": 4, "max_requests_per_day": 3, "priority": 3},
    ],
    "d": [{"max_requests_per_minute": 0, "priority": 3}],
}
ENDS: dict[str, Callable[[], Exception | None]] = {
    "ok": lambda: None,
    "429": lambda: HttpError(429),
    "429 for 20": lambda: HttpError(429, {"retry-after": "20"}),
    "429 for 200": lambda: HttpError(429, {"retry-after": "200"}),
    "500": lambda: HttpError(500),
    "401": lambda: HttpError(401),
}
LIKELY = ["ok"] * 6 + ["429", "429 for 20", "429 for 20", "429 for 200", "500", "500", "401"]
UNFINISHED = ("ready", "later", "blocked", "running")
ANSWERED = 0.7
"""Share of the requests that end by themselves; the others are ended by hand, or time out."""


class Doing(NamedTuple):
    """What somebody published."""

    max_retries: int
    expires_at: float | None


class LimitsWorld(Checks):
    def __init__(
        self, seed: int = 0, *, pool_limit: int = 0, ageing: float | None = None, when_limited: str = "next"
    ) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.rng = random.Random(seed)
        self.pool_limit, self.ageing, self.when_limited = pool_limit, ageing, when_limited
        self.model = LimitsModel(self.clock, pool_limit)
        self.numbers, self.ids = itertools.count(1), itertools.count(1)
        self.patch = mock.patch.object(api_manager, "adrive", stepwise)
        self.patch.start()
        self.published: dict[str, Doing] = {}
        self.broken: AssertionError | None = None
        """What was found out in a place where it could not be raised."""
        self.store = open_store(self.location, synchronous="NORMAL")
        wakeup = WakeUp(clock=self.clock)
        wakeup.subscribe(lambda signal: self.heard(signal, None))
        self.publisher = EnhancedCloudTaskPublisher(
            store=self.store, clock=self.clock, wakeup=wakeup, rng=self.rng, draw_id=lambda: f"{next(self.ids):016x}"
        )
        self.dead: list[Process] = []
        self.processes = [self.new_process() for _ in range(1 + seed % 3)]
        self.set_endpoint("a", ENDPOINTS["a"][1])
        self.set_endpoint("b", ENDPOINTS["b"][0])

    @property
    def location(self) -> str:
        return str(self.folder / "queue.db")

    def new_process(self) -> Process:
        number = next(self.numbers)
        process = Process(
            self.location,
            self.clock,
            f"w{number}",
            self.rng.randrange(1000) + number,
            Watch(self.claimed, self.admitted, self.left, self.ended_send, self.wrote),
            ageing=self.ageing,
            max_per_minute=self.pool_limit,
            when_limited=self.when_limited,
        )
        process.wakeup.subscribe(lambda signal: self.heard(signal, process))
        self.model.living |= {process.name}
        return process

    def close(self) -> None:
        self.patch.stop()
        for process in (*self.processes, *self.dead):
            for mover in (*process.bench.movers.values(), *process.direct):
                mover.close()
            process.close()
        self.store.close()
        shutil.rmtree(self.folder)

    def heard(self, signal: Signal, sender: Process | None) -> None:
        """What a datagram would tell the other processes."""
        for process in self.processes if hasattr(self, "processes") else ():
            if process is not sender:
                process.runner._on_signal(signal)

    # What users do

    def publish(self, choose: Choose) -> None:
        for _ in range(choose([1, 1, 2, 5])):
            name = choose(["ai_call"] * 6 + ["plain"])
            payload = {"prompt": "?", **choose([{}, {}, {"when_limited": "wait"}, {"when_limited": "next"}])}
            payload |= choose([{}, {}, {"endpoint": choose(sorted(ENDPOINTS))}, {"strategy": "round_robin"}])
            max_retries, expires_in = choose([0, 0, 1, 3]), choose([None, None, 3.0, 40.0])
            task = self.publisher.publish(
                name,
                payload,
                priority=choose(list(TaskPriority)),
                timeout=choose([None, 5.0, 60.0]),
                expires_in=expires_in,
                max_retries=max_retries,
            )
            self.published[task.task_id] = Doing(max_retries, expires_in and self.clock.now() + expires_in)

    def direct_call(self, choose: Choose) -> None:
        self.some_process(choose).call(
            endpoint=choose(["", "", *sorted(self.model.settings)]),
            deadline=choose([500.0, 30.0, 2.0]),
            when_limited=choose(["next", "wait"]),
        )

    def cancel(self, choose: Choose) -> None:
        waiting = [row.task_id for row in self.rows() if row.state in ("ready", "later", "running")]
        begins = [sending.claim.task_id for process in self.processes for sending in process.bench.queue]
        choices = choose([waiting, [each for each in begins if each in waiting]]) or waiting
        if choices:
            self.publisher.cancel_task(choose(choices))
            for process in self.processes if choose([True, False]) else ():
                process.runner._keeper.step()  # it learns of it before anything else happens

    def change_endpoint(self, choose: Choose) -> None:
        name = choose(sorted(ENDPOINTS))
        self.set_endpoint(name, choose(ENDPOINTS[name]), self.some_process(choose))

    def remove_endpoint(self, choose: Choose) -> None:
        if len(self.model.settings) > 1:
            name = choose(sorted(self.model.settings))
            self.model.changes(name, None)
            self.some_process(choose).manager.remove_endpoint(name)

    def set_endpoint(self, name: str, settings: dict[str, Any], process: Process | None = None) -> None:
        endpoint = ApiEndpoint(name, "fake://", provider="fake", timeout=6.0, **settings)
        self.model.changes(name, endpoint)
        (process or self.processes[0]).manager.add_endpoint(endpoint)

    # What processes do

    def some_process(self, choose: Choose) -> Process:
        return choose(self.processes)

    def look(self, choose: Choose) -> None:
        """One exchange, perhaps a while after anything was done, and perhaps what it claimed begins."""
        process = self.some_process(choose)
        for each in self.processes:
            each.bench.step()
        self.clock.advance(choose([0.0, 0.0, 0.0, 0.5, 4.0]))
        process.runner._dispatcher.look()
        process.exchange()
        if choose([True, True, False]):
            process.bench.step()
        elif process.bench.queue and choose([True, False]):
            self.cancel(choose)

    def commit_fails(self, choose: Choose) -> None:
        process = self.some_process(choose)
        for mover in process.asking()[: choose([0, 1])]:
            mover.finish(ENDS[choose(LIKELY)]())
        process.commit_fails = True
        process.runner._dispatcher.look()
        process.exchange()
        process.commit_fails = False

    def end_calls(self, choose: Choose) -> None:
        """Some of the calls that are under way end, each in its way."""
        asking = [mover for process in self.processes for mover in process.asking()]
        for _ in range(min(len(asking), choose([1, 2, 6]))):
            mover = choose([each for each in asking if each.sending is not None])
            asking.remove(mover)
            self.end(mover, choose(LIKELY))

    def end(self, mover: Mover, how: str) -> None:
        mover.finish(ENDS[how]())

    def crash(self, choose: Choose) -> None:
        process = self.some_process(choose)
        if choose([True, False]):
            process.runner.dies_with_claims = True
            process.runner._dispatcher.look()
            with suppress(Killed):
                process.exchange()
        self.bury(process)

    def bury(self, process: Process) -> None:
        process.die()
        self.dead.append(process)
        self.model.living -= {process.name}
        self.model.dies(process.name)
        self.processes[self.processes.index(process)] = self.new_process()

    # Time

    def wait(self, choose: Choose) -> None:
        self.pass_time(choose([0.05, 0.5, 2.0, 2.0, 7.0, 20.0, 61.1, 61.1, 130.0]))

    def clock_jumps(self, choose: Choose) -> None:
        seconds = choose([HOUR, -HOUR])
        self.clock.set_now(self.clock.now() + seconds)
        self.model.clock_jumps(seconds)

    def next_day(self, choose: Choose) -> None:
        """Nothing moves until shortly after midnight."""
        self.pass_time(UNNOTICED)
        self.sleep(86_400.0 - self.clock.now() % 86_400.0 + choose([0.0, 1.0]))
        self.pass_time(UNNOTICED)

    def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.sleeps(seconds)

    def pass_time(self, seconds: float) -> None:
        """And whoever may start has started at the end: what could at the beginning of the last moments, and could all along."""
        self.tick(max(0.0, seconds - UNNOTICED))
        before = self.owed() if seconds >= UNNOTICED else set()
        self.tick(min(seconds, UNNOTICED))
        left = before & self.owed() if before else set()
        assert self.broken is None, self.broken
        assert not left, f"these could have started: {sorted(left)}"

    def tick(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while True:
            for _ in range(2):  # a second time for what the others told
                for process in self.processes:
                    process.do_what_is_due()
            now = self.clock.monotonic()
            if now >= end:
                return
            due = min(process.next_due() for process in self.processes)
            self.clock.advance(min(end, max(due, now + 0.001)) - now)

    def come_to_an_end(self) -> None:
        """All endpoints take what there is, everybody is answered, and all that was published ends."""
        for name in ENDPOINTS:
            self.set_endpoint(name, {"max_requests_per_minute": 0})
        for number in range(60):
            if number in {30, 45}:  # for what a clock set that was ahead, and for what waits for another day's budget
                self.sleep(HOUR if number == 30 else 86_400.0)
            for mover in [each for process in self.processes for each in process.asking()]:
                if mover.sending is not None:
                    mover.finish(None)
            self.pass_time(20.0)
            self.check()
            left = [row for row in self.rows() if row.state in UNFINISHED]
            if not left and not any(process.direct for process in self.processes):
                self.check_totals()
                return
        raise AssertionError(f"these do not come to an end: {left}")

    def check_totals(self) -> None:
        """Each request that ended is counted once."""
        stats = self.processes[0].manager.get_stats()["endpoints"]
        for name in set(stats) - self.model.uncounted:
            assert sum(stats[name]["outcomes"].values()) == self.model.ended(name), (
                f"the calls of {name} are miscounted"
            )

    # What processes tell

    def claimed(self, process: Process, claims: Sequence[Claim]) -> None:
        try:
            self.notice_what_is_given_back()
            self.takes_note(process, claims)
        except AssertionError as error:  # the dispatcher would log it and go on
            self.broken = self.broken or error

    def takes_note(self, process: Process, claims: Sequence[Claim]) -> None:
        for claim in claims:
            key = (claim.task_id, claim.attempt)
            self.model.tried[key] = Tried(process.name)
            if claim.grant is not None:
                endpoint = claim.grant.member.endpoint
                self.model.takes(process.name, endpoint, claim.grant._token, key)
        self.check_order(process, claims)
        self.check_patience(process, claims)
        self.check_direct_calls_first(process, claims)

    def check_direct_calls_first(self, process: Process, claims: Sequence[Claim]) -> None:
        now = self.clock.monotonic()
        waiters = [turn for turn in process.manager._pool.wait_queue.waiters if turn.due + PATIENCE >= now]
        for claim in claims:
            for turn in waiters:
                assert claim.grant is None or claim.grant.member not in turn.wants, "a task went before a direct call"

    def admitted(self, process: Process, command: Admit, token: int) -> None:
        self.notice_what_is_given_back()
        self.model.takes(process.name, command.member.endpoint, token)

    def left(self, process: Process, mover: Mover, command: Send) -> None:
        sending = command.sending
        mover.start = self.start_of(process, sending.member.name, sending.token)
        tried = self.model.tried.get(mover.key)
        if tried is not None:
            assert tried.sent or mover.start.attempt == mover.key, (
                "a first request left in another slot than was granted"
            )
            tried.sent += 1
        self.model.sends(mover.start)
        if self.rng.random() < ANSWERED:
            ends = ENDS[self.rng.choice(LIKELY)]()
            mover.fate = (self.clock.monotonic() + self.rng.choice([0.3, 1.0, 3.0]), ends)

    def ended_send(self, mover: Mover, error: BaseException | None) -> None:
        mover.start.over, mover.start.answered = True, error is None
        if isinstance(error, HttpError) and "retry-after" in error.headers:
            mover.start.asked_at = self.clock.monotonic()
            mover.start.asked_until = mover.start.asked_at + float(error.headers["retry-after"])
        tried = self.model.tried.get(mover.key)
        if tried is not None:
            tried.ends.append(how_it_ended(error))

    def wrote(self, process: Process) -> None:
        self.model.writes(process.name)

    def start_of(self, process: Process, name: str, token: int) -> Start:
        found = [
            each
            for each in self.model.starts
            if (each.process, each.endpoint, each.token) == (process.name, name, token)
        ]
        if self.broken is not None:
            raise self.broken
        assert len(found) == 1, "a request left that no slot was taken for"
        return found[0]


def how_it_ended(error: BaseException | None) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cut"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "ok" if error is None else str(error.status_code)
