"""Attempts whose calls of the pool wait and ask in any order, that end, are stopped and run out of time: slots and deadlines stay exact."""

import heapq
import itertools
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.clock import ManualClock
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.running.resting import FEWEST_FULL, Rests
from core.cloud.running.running_attempt import RunningAttempt, RunningAttempts
from core.cloud.store_contract import Claim
from tests.support.examples import examples

HANDLERS = HandlerRegistry()
HANDLER = HANDLERS.register("n", lambda payload: 0)
SLOTS = 3
NAMES = ("often", "sometimes")


class ManualWatchdog:
    """Calls what is due when the test lets time pass."""

    def __init__(self) -> None:
        self.heap = []
        self.numbers = itertools.count()

    def at(self, moment, action) -> None:
        heapq.heappush(self.heap, (moment, next(self.numbers), action))

    def next(self) -> float:
        return self.heap[0][0] if self.heap else float("inf")

    def run(self, now: float) -> None:
        while self.next() <= now:
            heapq.heappop(self.heap)[2]()


@dataclass
class Attempt:
    """What one attempt must come to, reckoned apart."""

    running: RunningAttempt
    calls: list[str] = field(default_factory=list)
    """Each "waits", "asks" or "begins"."""
    worked: float = 0.0
    """Seconds in which it did not rest."""

    @property
    def rests(self) -> bool:
        return "waits" in self.calls and "asks" not in self.calls


class RestMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.clock, self.watchdog, self.held = ManualClock(), ManualWatchdog(), RunningAttempts()
        self.attempts: list[Attempt] = []
        self.expired: list[RunningAttempt] = []
        self.numbers = itertools.count()
        self.freed = self.changes = 0
        self.crowded: frozenset[str] = frozenset()
        self.rests = Rests(
            self.held,
            self.watchdog,
            self.clock,
            SLOTS,
            freed=lambda: setattr(self, "freed", self.freed + 1),
            abilities_changed=lambda: setattr(self, "crowded", self.rests.full()),
        )
        self.rests.attach(launch=lambda: None, expire=self.expired.append)

    @rule(name=st.sampled_from(NAMES), timeout=st.sampled_from([None, 1.0, 3.0]), many=st.sampled_from([1, 1, 1, 20]))
    def some_begin(self, name: str, timeout: float | None, many: int) -> None:
        for _ in range(many):
            claim = Claim(f"t{next(self.numbers)}", 1, name, "{}", 2, timeout, 1, 0, ())
            running = RunningAttempt(claim, HANDLER, self.clock.monotonic())
            self.held.add(running)
            assert self.rests.begin(running)
            self.attempts.append(Attempt(running))

    def picked(self, pick: int) -> Attempt:
        return self.attempts[pick % len(self.attempts)]

    @precondition(lambda self: self.attempts)
    @rule(pick=st.integers(0, 99), do=st.sampled_from(["waits", "asks"]))
    def a_call_begins(self, pick: int, do: str) -> None:
        attempt = self.picked(pick)
        attempt.calls.append("begins")
        self.becomes(attempt, len(attempt.calls) - 1, do)

    @rule(name=st.sampled_from(NAMES))
    def all_of_a_handler_wait(self, name: str) -> None:
        for attempt in self.attempts:
            if attempt.running.claim.name == name and not attempt.calls:
                attempt.calls.append("begins")
                self.becomes(attempt, 0, "waits")

    @precondition(lambda self: any(attempt.calls for attempt in self.attempts))
    @rule(pick=st.integers(0, 99), call=st.integers(0, 9), do=st.sampled_from(["waits", "asks", "ends"]))
    def a_call_goes_on(self, pick: int, call: int, do: str) -> None:
        busy = [attempt for attempt in self.attempts if attempt.calls]
        attempt = busy[pick % len(busy)]
        self.becomes(attempt, call % len(attempt.calls), do)

    def becomes(self, attempt: Attempt, call: int, do: str) -> None:
        before, rested, settled = attempt.calls[call], attempt.rests, attempt.running.settled
        freed = self.freed
        attempt.calls[call] = do
        attempt.running.rest.count(
            asking=(do == "asks") - (before == "asks"), waiting=(do == "waits") - (before == "waits")
        )
        if do == "ends":
            del attempt.calls[call]
        assert self.freed - freed == (attempt.rests and not rested and not settled)

    @precondition(lambda self: self.attempts)
    @rule(pick=st.integers(0, 99))
    def an_attempt_is_settled_whatever_its_calls_do(self, pick: int) -> None:
        self.held.take(self.picked(pick).running)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5]))
    def time_passes(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while True:
            step = min(end, self.watchdog.next()) - self.clock.monotonic()
            self.clock.advance(max(0.0, step))
            for attempt in self.attempts:
                attempt.worked += 0.0 if attempt.rests else max(0.0, step)
            self.watchdog.run(self.clock.monotonic())
            if self.clock.monotonic() >= end:
                break
        for running in self.expired:
            self.held.take(running)

    @invariant()
    def slots_are_those_of_the_attempts_that_do_not_wait(self) -> None:
        if not hasattr(self, "attempts"):
            return
        held = [attempt for attempt in self.attempts if not attempt.running.settled]
        resting = [attempt for attempt in held if attempt.rests]
        assert len(self.held) == len(held)
        assert self.held.resting == len(resting)
        assert self.held.busy == len(held) - len(resting)
        by_name = {name: sum(attempt.running.claim.name == name for attempt in resting) for name in NAMES}
        full = {name for name, count in by_name.items() if count >= FEWEST_FULL}
        assert self.rests.full() == full
        assert full <= self.crowded, "a handler is full, and nobody was told"

    @invariant()
    def an_attempt_ends_when_it_has_worked_for_its_timeout_and_not_before(self) -> None:
        for attempt in getattr(self, "attempts", ()):
            running = attempt.running
            if running.timeout is None:
                assert running not in self.expired
            elif running in self.expired:
                assert attempt.worked >= running.timeout - 1e-6
            elif not running.settled and not attempt.rests:
                assert attempt.worked <= running.timeout + 1e-6


TestRests = RestMachine.TestCase
TestRests.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
