"""Processes that share a pool, in any order of calls, ends, failures, deaths and time: limits, probes and counts stay exact."""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.admission import Refused
from core.cloud.pool.call import Call
from core.cloud.pool.commands import Admit, Pause, Send, SendEnded
from core.cloud.pool.member import Member
from core.cloud.pool.plan import CallPlan
from core.cloud.pool.rate_limit import MINUTE
from core.cloud.pool.token_limit import FIRST_CALL
from core.cloud.store.database import Database
from core.cloud.store.pool_rows import read_health
from core.cloud.store.sqlite_pool_state import SqlitePoolState
from core.errors import AllEndpointsFailed
from tests.support.examples import examples
from tests.support.pool_world import HttpError, most_in_window

RETRY_AFTER = 20
LIMITS = {"a": 5, "b": 3, "c": 0}
TOKENS = 4 * FIRST_CALL
"""A minute for `a`, whose calls tell none: so they keep what was reserved, but for those that were refused."""
ENDS = {
    "ok": None,
    "caller_fault": HttpError(400),
    "transient": HttpError(503),
    "rate_limited": HttpError(429, {"retry-after": str(RETRY_AFTER)}),
    "endpoint_fault": HttpError(401),
    "timeout": TimeoutError(),
}
FAILURES = ["rate_limited", "transient", "endpoint_fault", "rate_limited", "timeout", "ok"]
STRATEGIES = ["priority", "round_robin", "random", "least_latency", "least_busy", "weighted"]


class Process:
    """One process: its own connection, store and manager, and a writer that runs when the test says so."""

    def __init__(self, path: Path, clock: ManualClock, seed: int, pool_limit: int) -> None:
        self.database = Database(str(path))
        self.store = SqlitePoolState(self.database)
        self.store._writer.close()
        self.manager = ApiManager(self.store, clock=clock, rng=random.Random(seed), max_per_minute=pool_limit)
        self.calls: list[Running] = []
        self.patience = {name: Patience() for name in LIMITS}

    def close(self) -> None:
        for call in self.calls:
            call.steps.close()
        self.manager.close()
        self.store.close()
        self.database.close()


class Running:
    def __init__(self, process: Process, plan: CallPlan) -> None:
        self.process = process
        self.steps = Call(process.manager._pool, plan).steps()
        self.sending = None
        self.wakes_at = None


class Patience:
    """What calls waited for one endpoint of one process, reckoned here: calls cut short in a row blame it when they fill its timeout."""

    def __init__(self) -> None:
        self.vain = self.until = 0.0

    def blames(self, sending, fair_time: float, now: float) -> bool:
        waited, self.until = now - max(sending.started, self.until), now
        if sending.allowed < fair_time:
            self.vain += waited
        return sending.allowed >= fair_time or self.vain >= sending.member.endpoint.timeout


class PoolMachine(RuleBasedStateMachine):
    @initialize(count=st.integers(2, 3), seed=st.integers(0, 99), pool_limit=st.sampled_from([0, 0, 6]))
    def start(self, count: int, seed: int, pool_limit: int) -> None:
        self.pool_limit = pool_limit
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.seed = seed
        self.processes = [self.process(seed + index) for index in range(count)]
        for name, limit in LIMITS.items():
            one = ApiEndpoint(
                name,
                f"https://{name}.example",
                timeout=20.0,
                max_requests_per_minute=limit,
                max_concurrency=3 if name == "c" else 0,
                priority=2 if name == "b" else 1,
                max_tokens_per_minute=TOKENS if name == "a" else 0,
            )
            self.processes[0].manager.add_endpoint(one)
        for process in self.processes:
            process.manager._membership.refresh()
        self.leaving = 0
        """Calls whose callers leave as soon as they are admitted, from now on."""
        self.ends = dict.fromkeys(LIMITS, "ok")
        self.arrivals: dict[str, list[float]] = {name: [] for name in LIMITS}
        self.ended: dict[str, Counter[str]] = {name: Counter() for name in LIMITS}
        self.probes: dict[str, tuple[Running, float]] = {}
        """Calls that test a failed endpoint, and when they began."""
        self.closed_until = dict.fromkeys(LIMITS, 0.0)
        """What servers asked for, reckoned here: nobody may call an endpoint before."""

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            self.totals_are_those_of_the_calls_that_ended()
            for process in self.processes:
                process.close()
            shutil.rmtree(self.folder)

    # What happens

    @rule(
        index=st.integers(0, 2),
        strategy=st.sampled_from(STRATEGIES),
        endpoint=st.sampled_from(["", "", "a", "b", "c"]),
        attempts=st.integers(1, 4),
        count=st.integers(1, 8),
        deadline=st.sampled_from([500.0, 500.0, 10.0, 1.5]),
        patient=st.booleans(),
    )
    def calls(
        self,
        index: int,
        strategy: str,
        endpoint: str,
        attempts: int,
        count: int,
        deadline: float = 500.0,
        patient: bool = False,
    ) -> None:
        process = self.processes[index % len(self.processes)]
        for _ in range(count):
            plan = CallPlan(strategy, attempts, deadline=deadline, endpoint=endpoint, patient=patient)
            running = Running(process, plan)
            process.calls.append(running)
            self.send(running, None)

    @rule(name=st.sampled_from(sorted(LIMITS)), end=st.sampled_from(sorted(ENDS)))
    def an_endpoint_changes(self, name: str, end: str) -> None:
        self.ends[name] = end

    @rule(count=st.integers(1, 12), newest=st.booleans())
    def calls_land(self, count: int, newest: bool) -> None:
        under_way = [call for process in self.processes for call in process.calls if call.sending is not None]
        under_way.sort(key=lambda call: call.sending.began, reverse=newest)
        for running in under_way[:count]:
            self.finish(running)

    @rule(index=st.integers(0, 2), name=st.sampled_from(sorted(LIMITS)), end=st.sampled_from(FAILURES))
    def a_call_fails_and_others_follow(self, index: int, name: str, end: str) -> None:
        self.ends[name] = end
        self.calls(index, "priority", name, 1, 1)
        for running in [call for call in self.processes[index % len(self.processes)].calls if call.sending is not None]:
            if running.sending.member.name == name:
                self.finish(running)
        self.all_call_shortly_before_a_hold_ends(name, 0.9)

    @rule(pick=st.integers(0, 50))
    def a_call_is_cancelled(self, pick: int) -> None:
        running = [call for process in self.processes for call in process.calls]
        if running:
            call = running[pick % len(running)]
            call.process.calls.remove(call)
            if call.sending is not None:
                self.finished(call, "cancelled")
            call.steps.close()

    @rule(count=st.integers(1, 3))
    def the_next_callers_leave_before_their_calls_are_sent(self, count: int) -> None:
        self.leaving = count

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.0, 3.0, 5.0, 20.0, 30.0, 59.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for process in self.processes:
            for running in list(process.calls):
                if running.wakes_at is not None and running.wakes_at <= self.clock.now():
                    running.wakes_at = None
                    self.send(running, None)

    @rule(name=st.sampled_from(sorted(LIMITS)), early=st.sampled_from([0.05, 0.9, 5.0]))
    def all_call_shortly_before_a_hold_ends(self, name: str, early: float) -> None:
        process = self.processes[0]
        process.store.flush()
        with process.database.read() as connection:
            until = max(read_health(connection, name).held_until, self.closed_until[name])
        if until - early > self.clock.now():
            self.time_passes(until - early - self.clock.now())
        for index in range(len(self.processes)):
            self.calls(index, "priority", name, 1, 1)

    @rule(index=st.integers(0, 2))
    def a_writer_runs(self, index: int) -> None:
        self.processes[index % len(self.processes)].store.flush()

    @rule(index=st.integers(0, 2))
    def a_process_looks_around(self, index: int) -> None:
        self.processes[index % len(self.processes)].manager._membership.refresh()

    @rule(index=st.integers(0, 2))
    def a_process_dies_and_starts_again(self, index: int) -> None:
        index %= len(self.processes)
        process = self.processes[index]
        process.store.flush()
        for running in process.calls:
            # It cannot say goodbye: what its calls would settle is lost.
            running.sending = None
            process.store._pending.clear()
        process.database.close()
        self.seed += 1
        self.processes[index] = self.process(self.seed)

    def process(self, seed: int) -> Process:
        return Process(self.folder / "pool.db", self.clock, seed, self.pool_limit)

    # What must hold

    @invariant()
    def no_window_holds_more_than_the_limit(self) -> None:
        for name, limit in LIMITS.items():
            if limit and hasattr(self, "arrivals"):
                assert most_in_window(self.arrivals[name], MINUTE) <= limit
        if hasattr(self, "arrivals") and self.pool_limit:
            whole = [at for arrivals in self.arrivals.values() for at in arrivals]
            assert most_in_window(whole, MINUTE) <= self.pool_limit

    @invariant()
    def no_window_holds_more_tokens_than_the_limit(self) -> None:
        if hasattr(self, "processes"):
            with self.processes[0].database.read() as connection:
                rows = connection.execute("SELECT at, tokens FROM pool_reservation WHERE tokens > 0").fetchall()
            assert most_in_window([at for at, _ in rows], MINUTE) <= TOKENS // FIRST_CALL
            assert {tokens for _, tokens in rows} <= {FIRST_CALL}

    @invariant()
    def no_more_calls_are_under_way_than_allowed(self) -> None:
        if hasattr(self, "processes"):
            now = self.clock.now()
            running = [
                call
                for process in self.processes
                for call in process.calls
                if call.sending is not None and call.sending.member.name == "c" and call.sending.began + 25 > now
            ]
            assert len(running) <= 3

    @rule()
    def totals_are_those_of_the_calls_that_ended(self) -> None:
        for process in self.processes:
            process.store.flush()
        for process in self.processes:
            stats = process.manager.get_stats()
            for name, info in stats["endpoints"].items():
                assert info["outcomes"] == {kind: count for kind, count in sorted(self.ended[name].items()) if count}

    # Driving

    def finish(self, running: Running) -> None:
        sending = running.sending
        end = self.ends[sending.member.name]
        patience = running.process.patience[sending.member.name]
        kind = end
        if end == "timeout":
            blamed = patience.blames(sending, sending.member.fair_time, self.clock.monotonic())
            kind = "transient" if blamed else "cancelled"
        if kind != "cancelled":
            patience.vain = 0.0
        self.finished(running, kind)
        self.send(running, SendEnded(sending, "answer", ENDS[end]))
        if end == "rate_limited":
            running.process.store.flush()
            self.closed_until[sending.member.name] = self.clock.now() + RETRY_AFTER

    def send(self, running: Running, event) -> None:
        process = running.process
        if running not in process.calls or process not in self.processes:
            return
        try:
            while True:
                command = running.steps.send(event)
                if isinstance(command, Admit):
                    event = self.admit(process, running, command)
                    if isinstance(event, int) and self.leaving:
                        self.leaves(process, running, command.member, event)
                        return
                elif isinstance(command, Pause):
                    running.wakes_at = self.clock.now() + command.seconds
                    if command.turn is not None:
                        command.turn.listen(lambda: setattr(running, "wakes_at", self.clock.now()))
                    return
                else:
                    assert isinstance(command, Send)
                    running.sending = command.sending
                    assert command.timeout == command.sending.allowed <= command.sending.member.endpoint.timeout
                    self.arrivals[command.sending.member.name].append(self.clock.now())
                    return
        except (StopIteration, AllEndpointsFailed, HttpError):
            process.calls.remove(running)

    def admit(self, process: Process, running: Running, command: Admit):
        name, now = command.member.name, self.clock.now()
        process.store.flush()
        with process.database.read() as connection:
            before = read_health(connection, name)
        answer = command.member.state.admit(self.clock, last_resort=command.last_resort, tokens=command.tokens)
        if not isinstance(answer, Refused):
            assert self.closed_until[name] <= now, "an endpoint was called before the time its server asked for"
        if before.hard and not before.clean and not isinstance(answer, Refused):
            assert before.held_until <= now, "a failed endpoint was called during its hold"
            probe = self.probes.get(name)
            assert probe is None or now >= probe[1] + 25.0, "a failed endpoint was called beside its probe"
            self.probes[name] = (running, now)
        return answer

    def leaves(self, process: Process, running: Running, member: Member, token: int) -> None:
        self.leaving -= 1
        process.calls.remove(running)
        running.steps.close()
        process.manager._pool.give_back(member, token)
        if member.name in self.probes and self.probes[member.name][0] is running:
            del self.probes[member.name]

    def finished(self, running: Running, end: str) -> None:
        name = running.sending.member.name
        running.sending = None
        self.ended[name][end] += 1
        if name in self.probes and self.probes[name][0] is running:
            del self.probes[name]


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=examples(120),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
