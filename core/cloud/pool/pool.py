"""The pool's state in one process: its members, and what a call does to them."""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.clock import Clock
from core.cloud.pool.admission import ENDS, Refusal, Refused
from core.cloud.pool.health import CLOCK_SKEW
from core.cloud.pool.hedge import HedgeBudget
from core.cloud.pool.member import Member
from core.cloud.pool.outcome import CANCELLED, OK, Outcome, OutcomeClass
from core.cloud.pool.pool_state import outdated
from core.cloud.pool.selection import Roster
from core.cloud.pool.tally import Report, counted
from core.cloud.pool.wait_queue import WaitQueue
from core.cloud.replies.adaptation import Adaptation, described, merged
from core.cloud.replies.token_counts import tokens_told
from core.errors import UnknownEndpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReportedUsage:
    """What an answer says about itself."""

    tokens_in: int = 0
    tokens_out: int = 0
    exhausted_for: float | None = None


NO_USAGE = ReportedUsage()


@dataclass(slots=True, eq=False)
class Sending:
    """A call to one endpoint that is under way."""

    member: Member
    token: int
    began: float
    """Pool time at which it was admitted."""
    started: float
    """Monotonic."""
    hedge: bool = False
    generation: int = -1
    """Of the endpoint's health when it began."""
    key_version: int = 0
    """Of the endpoint's key when it began."""
    allowed: float = 0.0
    """Seconds it was given."""
    cost: float = 0.0
    """What it was charged, by the endpoint's prices, once it is over."""
    settled: bool = False
    """It is over and counted: once, whatever happens."""
    told: ReportedUsage = NO_USAGE
    """What a stream told so far: it counts however the call ends."""

    def tokens_told(self, error: Exception) -> tuple[int, int]:
        """What it was charged for although it failed, as far as its error or its stream told."""
        tokens_in, tokens_out = tokens_told(error)
        return max(tokens_in, self.told.tokens_in), max(tokens_out, self.told.tokens_out)


class Pool:
    """Members by name and everything a call needs to decide. Members are replaced, never changed, when settings change."""

    def __init__(self, clock: Clock, rng: random.Random, redact: Callable[[str], str], *, shared: bool) -> None:
        self.clock, self.rng = clock, rng
        self.shared = shared
        """Its states are in a database, so that asking them may take a while."""
        self.redact = redact
        self.time: Callable[[], float] = self._wall_time if shared else clock.monotonic
        self._latest = float("-inf")
        self._ahead = clock.now() - clock.monotonic()
        """Seconds by which the wall clock is ahead of the monotonic one."""
        self.members: dict[str, Member] = {}
        self.roster = Roster((), rng)
        self.bent = False
        """Some member is known to refuse a field that gives answers their meaning."""
        self.faulty = False
        """Some endpoint is wrongly set up, so that somebody may be about to correct it."""
        self.hedges = HedgeBudget()
        self.wait_queue = WaitQueue(clock)
        self.limits_tokens = False
        """Some member limits its tokens a minute."""
        self.watchers: list[Callable[[], None]] = []
        """Called, from any thread, when an endpoint may take calls earlier than it seemed; must not raise or wait."""
        self.given_back = 0
        """Slots of calls that never left, so far: a refusal of before the last of them may no longer be true."""
        self._executor: ThreadPoolExecutor | None = None

    def looked_at(self) -> float:
        """The time, when something is about to be chosen or told by it.

        A private pool's is the monotonic clock's, which stands still while a machine is suspended: when the wall clock went on, waits told
        in its time are over.

        A wall clock that was put back changes nothing: then the monotonic one ends them.
        """
        if self.shared:
            return self.time()
        now = self.clock.monotonic()
        ahead = self.clock.now() - now
        before, self._ahead = self._ahead, ahead
        if ahead - before > CLOCK_SKEW:
            log.debug("the wall clock went on for %.0f s while the monotonic one stood still", ahead - before)
            for member in self.members.values():
                member.slept(ahead - before, now)
        return now

    def _wall_time(self) -> float:
        """Epoch seconds, the only time that processes share. When somebody put the clock back, what members noted for later is void."""
        now = self.clock.now()
        if now > self._latest:
            self._latest = now
        elif now < self._latest - CLOCK_SKEW:
            log.debug("the wall clock was put back by %.0f s", self._latest - now)
            self._latest = now
            for member in self.members.values():
                member.put_back(now)
        return now

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The thread in which async callers ask a shared pool state: one, because writers take turns anyway."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "heablcoin-pool-state")
        return self._executor

    def begin_anew(self, rng: random.Random | None) -> None:
        """In a forked child: nobody waits, no thread is there, and chance takes another course than the parent's."""
        self._executor = None
        self.wait_queue = WaitQueue(self.clock)
        if rng is not None:
            rng.seed()

    def install(self, members: Iterable[Member]) -> None:
        """These are the pool's members from now on."""
        self.members = {member.name: member for member in members}
        self.roster = Roster((member for member in self.members.values() if not member.keyless), self.rng)
        self.bent = any(_loses(member) for member in self.members.values())
        self.limits_tokens = any(member.endpoint.max_tokens_per_minute for member in self.members.values())
        self.tell()

    def tell(self) -> None:
        """Those who wait for an endpoint outside of any call are to look again."""
        for changed in self.watchers:
            changed()

    def only(self, name: str) -> Roster:
        """A roster of one. Raises UnknownEndpoint."""
        member = self.get(name)
        return Roster(() if member.keyless else (member,), self.rng)

    def get(self, name: str) -> Member:
        """The member of that name. Raises UnknownEndpoint, naming those there are."""
        member = self.members.get(name)
        if member is None:
            if not self.members:
                raise UnknownEndpoint("The pool is empty.", f"add {name[:100]!r} with add_endpoint")
            known = ", ".join(sorted(self.members)[:20])
            raise UnknownEndpoint(
                f"There is no endpoint named {name[:100]!r}.", f"use one of: {known}; or add it with add_endpoint"
            )
        return member

    def start(self, member: Member, token: int, *, hedge: bool = False) -> Sending:
        """A call that the member's state admitted begins."""
        now = self.time()
        endpoint, health = member.endpoint, member.state.health
        sending = Sending(member, token, now, self.clock.monotonic(), hedge, health.generation, endpoint.key_version)
        if health.failures or health.held_until:
            try:
                member.refresh(now)
            except Exception:
                log.exception("what is known of %s could not be brought up to date", member.name)
        return sending

    def settle(self, sending: Sending, outcome: Outcome, error: str = "", usage: ReportedUsage = NO_USAGE) -> float:
        """A call is over; returns its latency in seconds. Its slot is free afterwards, whatever goes wrong in here: it never raises.

        A second time it does nothing.
        """
        if sending.settled:
            return 0.0
        sending.settled = True
        member = sending.member
        try:
            report = self._report(sending, outcome, error, usage)
        except Exception:
            log.exception("the accounting of a call of %s failed; it is counted without its figures", member.name)
            report = Report(outcome, sending.began, sending.began, self.clock.now(), 0.0)
        sending.cost = report.cost
        state = member.state
        clean = state.health.clean
        hard = not clean and state.health.hard
        try:
            state.settle(sending.token, report)
            self._learn(member, report, clean=clean, hard=hard)
        except Exception:
            log.exception("a call of %s is over, and nothing was learnt from it", member.name)
        return report.latency

    def _report(self, sending: Sending, outcome: Outcome, error: str, usage: ReportedUsage) -> Report:
        tokens_in, tokens_out = usage.tokens_in, usage.tokens_out
        cost = 0.0
        if tokens_in or tokens_out:
            tokens_in, tokens_out = counted(tokens_in), counted(tokens_out)
            cost = sending.member.endpoint.cost(tokens_in, tokens_out)
        return Report(
            outcome,
            sending.began,
            self.time(),
            self.clock.now(),
            max(0.0, self.clock.monotonic() - sending.started),
            tokens_in,
            tokens_out,
            cost,
            error,
            usage.exhausted_for,
            jitter=0.0 if outcome is OK else self.rng.uniform(-1.0, 1.0),
            generation=sending.generation,
            outdated=self._outdated(sending, outcome),
        )

    def _outdated(self, sending: Sending, outcome: Outcome) -> bool:
        """Whether its key was replaced since it began. Only before a key is blamed for a fault it is looked up anew."""
        endpoint = sending.member.endpoint
        if outcome.kind is OutcomeClass.ENDPOINT_FAULT:
            endpoint.found_key  # noqa: B018 - finding another key makes another version
        return sending.key_version != endpoint.key_version

    def _learn(self, member: Member, report: Report, *, clean: bool, hard: bool) -> None:
        """What this process makes of a call's end; `clean` and `hard` are what the health was before."""
        state, now = member.state, report.ended
        if outdated(state.health, report):
            member.refresh(now)
            return
        member.observe(report, now)
        if report.outcome.kind is OutcomeClass.ENDPOINT_FAULT:
            self.faulty = True
        # Another thread may have changed the health meanwhile, so it is read again.
        clean_now = state.health.clean
        if not (clean and clean_now):
            member.refresh(now)
            if hard and clean_now:
                member.budget.refill()
                log.debug("%s works again", member.name)
        waited_for = self.wait_queue.waiters or self.watchers
        if waited_for and member.blocked is not None and member.blocked.why in ENDS:
            member.blocked = None
            member.refresh(now)
        if self.wait_queue.waiters:
            self.wait_queue.freed(member)
        elif member.endpoint.max_concurrency or member.endpoint.max_tokens_per_minute or not (clean and clean_now):
            self.tell()

    def shown(self, text: str) -> str:
        """A text from outside without keys, and fit to be written; '' when that cannot be made sure."""
        if not text:
            return text
        try:
            return self.redact(text).encode("utf-8", "replace").decode()
        except Exception as error:  # noqa: BLE001 - a text that may hold a key is better left out
            log.warning("the text of an error could not be made safe and is left out (%s)", type(error).__name__)
            return ""

    def first_token(self, sending: Sending) -> None:
        """A stream gave its first token: if it is the probe of its endpoint, others need not wait for its end."""
        member = sending.member
        state = member.state
        if state.health.probe != sending.token:
            return
        try:
            hard = state.health.hard
            now = self.time()
            state.settle(sending.token, Report(OK, sending.began, now, self.clock.now(), 0.0, opened=True))
            member.refresh(now)
            if hard and state.health.clean:
                member.budget.refill()
                log.debug("%s gives tokens again", member.name)
            if self.wait_queue.waiters:
                self.wait_queue.freed(member)
            self.tell()
        except Exception:
            log.exception("the first token of a probe of %s taught nothing", member.name)

    def adapt(self, member: Member, found: Sequence[Adaptation]) -> None:
        """`member` refused a request in a way that these mend: it is asked otherwise from now on, by every process."""
        known = member.endpoint.adapted
        adaptations = merged(known, found)
        if adaptations == known:
            return
        member.adapt(adaptations)
        self.bent = self.bent or _loses(member)
        log.warning(
            "endpoint %s refuses part of its requests, which are changed from now on: %s",
            member.name,
            "; ".join(described(adaptations[len(known) :] or adaptations, member.endpoint.model)),
        )
        if self.members.get(member.name) is member:
            member.state.adapt(member.endpoint)

    def abandon(self, sending: Sending) -> float:
        """A call was cancelled: nothing is known but that it took this long, and what it told until then."""
        return self.settle(sending, CANCELLED, usage=sending.told)

    def refused(self, member: Member, refused: Refused, now: float, given_back: int) -> None:
        """The member's state would not take a call, asked when so many slots had been given back."""
        member.refused(refused, now)
        if self.given_back != given_back:
            member.unblock(now)  # it was refused for a slot that may be free by now

    def give_back(self, member: Member, token: int) -> None:
        """A call that was admitted, and not started, never leaves: its slots are free again. Never raises."""
        try:
            member.state.give_back(token)
            self.given_back += 1
            now = self.time()
            member.unblock(now)
            # The slot may be one of the whole pool's.
            for other in self.members.values():
                if other.blocked is not None and other.blocked.why is Refusal.POOL:
                    other.unblock(now)
                    self.wait_queue.freed(other)
            self.wait_queue.freed(member)
            self.tell()
        except Exception:
            log.exception("what a call of %s that never left held is not known to be free", member.name)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()


def _loses(member: Member) -> bool:
    return any(one.loses for one in member.endpoint.adapted)
