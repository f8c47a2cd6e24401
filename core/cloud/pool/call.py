"""One call of the pool, without I/O: a generator that makes every decision and leaves every effect to its driver.

It yields commands and is sent what came of them:

    Admit(member)      -> a token, or Refused     take a slot (the driver may have to ask a database)
    Send(sending)    -> SendEnded, or None         call the endpoint; None when `hedge_after` went by first
    KeepWaiting()      -> SendEnded                  wait for a call that is under way
    Pause(seconds)     -> None                    do nothing for a while, or until the turn is called

It returns Success or raises. The drivers in `drivers.py`, one sync and one async, hold no policy at all.
"""

import logging
import traceback
from collections.abc import Generator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from core.cloud.pool.admission import BUSY_POLL, Refusal, Refused
from core.cloud.pool.attempt_records import STAYS, AttemptRecord, exhausted
from core.cloud.pool.commands import Admit, Command, Event, KeepWaiting, Pause, Send, SendEnded
from core.cloud.pool.grant import met_a_fault, met_only_limits, snoozed
from core.cloud.pool.health import HoldKind
from core.cloud.pool.member import Member
from core.cloud.pool.outcome import OK, Outcome, OutcomeClass, classify, headers_of
from core.cloud.pool.plan import CallPlan
from core.cloud.pool.pool import NO_USAGE, Pool, ReportedUsage, Sending
from core.cloud.pool.selection import Roster
from core.cloud.pool.token_needs import TokenNeeds
from core.cloud.pool.unsuited import Unsuited
from core.cloud.pool.wait_queue import EVERYONE, LOOK_AROUND, Waiter
from core.cloud.replies.limit import Limit
from core.cloud.replies.retry_after import exhausted_for
from core.errors import AllEndpointsFailed, HeablcoinError, UnknownEndpoint

log = logging.getLogger(__name__)

FAR = float("inf")
FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 8.0
"""Seconds: ceilings of the full jitter before the same endpoint is asked again."""
LONGEST_NAP = 15.0
"""Seconds: a call that waits longer looks again meanwhile, because sleeping does not notice that the machine was suspended."""
SPREAD = 0.005
"""Seconds: processes that wait for one slot wake up within this time of each other."""


AT_DEADLINE = "deadline"
"""Code of the error of a stream that was at work when the call's own time was over: nobody's fault."""


def pool_failed(error: Exception) -> HeablcoinError:
    """What a caller is told about a fault of our own; the log has the rest."""
    log.error("the pool failed in the middle of a call", exc_info=error)
    return HeablcoinError(
        f"The pool itself failed in the middle of a call ({type(error).__name__}); nothing is held by the call.",
        "try again; if it goes on, please report it, with the log.",
    )


@dataclass(slots=True)
class Success:
    result: Any
    sending: Sending
    usage: ReportedUsage
    latency: float
    attempts: tuple[AttemptRecord, ...]


class Call:
    """The state of one call; `steps` is the generator."""

    __slots__ = (
        "_again_at",
        "_asked",
        "_callers",
        "_ends",
        "_notes",
        "_plan",
        "_pool",
        "_records",
        "_snoozes",
        "_started",
        "_token_needs",
        "_under_way",
        "_unsuited",
        "_waiter",
        "error",
    )

    def __init__(self, pool: Pool, plan: CallPlan) -> None:
        self._pool, self._plan = pool, plan
        self._ends = pool.clock.monotonic() + plan.deadline
        self._started = 0
        self._records: list[AttemptRecord] = []
        self._under_way: list[Sending] = []
        self._asked: set[Member] = set()
        self._again_at: dict[Member, float] = {}
        """Members that were asked and may be asked again, and from when (monotonic)."""
        self._notes: dict[str, str] = {}
        self._unsuited: Unsuited | None = None
        """What refusals taught; None while there were none."""
        self._token_needs: TokenNeeds | None = None
        """What it needs of tokens; None until it comes to an endpoint that limits them."""
        self._waiter: Waiter | None = None
        """Its place among the calls that wait."""
        self._snoozes = False
        """It began with a task's grant, and waits for no limit."""
        self.error: Exception | None = None
        self._callers: Exception | None = None
        """The caller's own fault, raised as it came."""

    def steps(self) -> Generator[Command, Event, Success]:
        """Make the call. Closing the generator early frees what it holds."""
        self._pool.hedges.earn()
        try:
            if self._plan.needs and self._pool.bent:
                self._unsuited = Unsuited()
                self._asked |= self._unsuited.put_off(self._roster().members, self._plan.needs, self._plan.model)
            sending = self._granted()
            while True:
                if sending is None:
                    member, last_resort = self._choose()
                    if member is None:
                        yield from self._wait_or_bend()
                    else:
                        sending = yield from self._admit(member, last_resort=last_resort)
                    continue
                success = yield from self._attempt(sending)
                if success is not None:
                    return success
                sending = None
                self._go_on()
        except Exception as error:
            told = self._told(error)
            if told is error:
                raise
            raise told from error
        finally:
            for sending in self._under_way:
                self._pool.abandon(sending)
                log.debug("%s is not waited for any more", sending.member.name)
            self._leave_queue()

    def _told(self, error: Exception) -> Exception:
        """What its driver is told of an error."""
        if isinstance(error, UnknownEndpoint) and self._goes_back():
            return snoozed()  # removed meanwhile: its task waits for it as it did before
        return error if isinstance(error, HeablcoinError) or error is self._callers else pool_failed(error)

    def cause(self) -> Exception | None:
        """What to chain to the failure: the last error, or a stand-in when it would show a key in a traceback."""
        error = self.error
        if error is None:
            return None
        try:
            told = "".join(traceback.format_exception(error))
            if self._pool.redact(told) == told:
                return error
            return RuntimeError(self._pool.redact(f"{type(error).__name__}: {error}"))
        except Exception:  # noqa: BLE001 - an error that cannot be told must not replace the one about the call
            return RuntimeError(type(error).__name__)

    def _left(self) -> float:
        """Seconds until the deadline, which no change of the wall clock moves."""
        return self._ends - self._pool.clock.monotonic()

    def _granted(self) -> Sending | None:
        """The first request of a task, whose slot was taken when it was claimed."""
        grant = self._plan.grant
        if grant is None or self._plan.endpoint not in {"", grant.member.name}:
            return None
        if self._tokens(grant.member) is None:
            grant.give_back()
            return None
        sending = grant.begin()
        self._snoozes = sending is not None
        return None if sending is None else self._board(sending)

    def _board(self, sending: Sending) -> Sending:
        self._started += 1
        self._asked.add(sending.member)
        self._under_way.append(sending)
        return sending

    def _roster(self) -> Roster:
        return self._pool.only(self._plan.endpoint) if self._plan.endpoint else self._pool.roster

    def _choices(self) -> Roster:
        """The endpoints that it chooses among as things are; a patient call's stop where only a limit keeps it from the better ones."""
        roster = self._roster()
        return roster.patient(self._pool.time(), self._asked) if self._plan.patient else roster

    def _go_on(self) -> None:
        """Raise unless another attempt may be made."""
        if self._left() <= 0.0 or (self._started >= self._plan.max_attempts and not self._bend(last=True)):
            raise self._end(None)

    def _end(self, retry_after: float | None) -> HeablcoinError:
        """What it ends with, now that no further attempt may be made."""
        return snoozed() if self._goes_back() else self._failure(retry_after)

    def _goes_back(self) -> bool:
        """It is a task's, and met nothing but limits: its task goes back to wait for them."""
        return self._snoozes and met_only_limits(self._records)

    def _wait_or_bend(self) -> Generator[Command, Event, None]:
        if not self._bend():
            yield self._wait()

    def _bend(self, *, last: bool = False) -> bool:
        """Whether endpoints that were put off are to be asked now: nobody else is left (`last`: or no attempt is)."""
        unsuited = self._unsuited
        if unsuited is None or not unsuited.bent or not (last or self._others_failed()):
            return False
        if last:
            self._asked |= set(self._roster().members)
            self._again_at.clear()
            self._started = self._plan.max_attempts - 1
        self._asked -= unsuited.bent
        unsuited.bent = set()
        return True

    def _others_failed(self) -> bool:
        """No endpoint is left that was not asked yet and comes free before the deadline."""
        now, left = self._pool.time(), self._left()
        openings = (self._opens_at(member, now) for member in self._choices().members if member not in self._asked)
        return all(at is None or at - now > left for at in openings)

    def _choose(self) -> tuple[Member | None, bool]:
        """The endpoint to ask now, and whether it is a last resort; None when the call has to wait."""
        now = self._pool.looked_at()
        unsuited = self._unsuited
        again = None if unsuited is None else unsuited.take_again()
        if again is not None and again.ready_at <= now and self._pool.members.get(again.name) is again:
            return again, False
        if self._again_at:
            self._rest_over()
        if self._waiter is not None:
            if self._waiter.called and self._token_needs is not None:
                self._token_needs.forget()
            self._waiter.called = False
        while True:
            roster, avoid = self._choices(), self._avoided()
            if avoid is EVERYONE:
                return None, False
            member = None
            if unsuited is not None and unsuited.larger:
                member = roster.choose(self._plan.strategy, now, avoid | unsuited.not_larger(roster.members))
            member = member or roster.choose(self._plan.strategy, now, avoid)
            last_resort = member is None
            if member is None:
                member = roster.last_resort(now, avoid)
            if member is None or not self._started or member.budget.allows():
                return member, last_resort
            self._asked.add(member)
            self._notes[member.name] = "too many of its recent calls failed to spend more retries on it"

    def _rest_over(self) -> None:
        """Endpoints whose rest is over may be asked again."""
        monotonic = self._pool.clock.monotonic()
        for rested in [member for member, at in self._again_at.items() if at <= monotonic]:
            del self._again_at[rested]
            self._asked.discard(rested)

    def _avoided(self) -> AbstractSet[Member]:
        """Members not to ask: those that were, those that calls ahead of this one wait for, and those with too few tokens left."""
        queue, token_needs = self._pool.wait_queue, self._token_needs
        avoid = queue.ahead(self._waiter) | self._asked if queue.waiters else self._asked
        return avoid if token_needs is None else avoid | token_needs.short(self._pool.time())

    def _leave_queue(self) -> None:
        turn, self._waiter = self._waiter, None
        if turn is not None:
            self._pool.wait_queue.leave(turn)
            self._pool.tell()

    def _tokens(self, member: Member) -> int | None:
        """What to reserve of the tokens that `member` limits; None when it never takes so large a call, and is not asked any more."""
        if not member.endpoint.max_tokens_per_minute:
            return 0
        self._token_needs = self._token_needs or TokenNeeds(self._plan.request)
        tokens = self._token_needs.of(member)
        if tokens is None:
            self._asked.add(member)
        return tokens

    def _admit(
        self, member: Member, *, last_resort: bool = False, hedge: bool = False
    ) -> Generator[Command, Event, Sending | None]:
        """Take a slot; None when the endpoint does not take the call after all."""
        tokens = self._tokens(member)
        if tokens is None:
            return None
        given_back = self._pool.given_back
        token = yield Admit(member, last_resort, tokens)
        if isinstance(token, int):
            sending = self._board(self._pool.start(member, token, hedge=hedge))
            if self._waiter is not None:
                self._leave_queue()
            return sending
        if isinstance(token, Refused):
            now = self._pool.time()
            if token.why is not Refusal.TOKENS or self._token_needs is None:
                self._pool.refused(member, token, now, given_back)
            elif self._pool.given_back == given_back:
                self._token_needs.refused(member, token)
            log.debug("%s did not take the call (%s), free in %.3fs", member.name, token.why, token.until - now)
        return None

    def _wait(self) -> Pause:
        """A pause until some endpoint may take the call; raises when that is beyond the deadline or never."""
        pool, now, left = self._pool, self._pool.time(), self._left()
        members = self._choices().members
        openings = {member: at for member in members if (at := self._opens_at(member, now)) is not None}
        first = min(openings.values(), default=None)
        if first is None or first - now > left or left <= 0.0:
            raise self._end(self._retry_after(first, now))
        rests = any(at == first and member.last_resort_at < at for member, at in openings.items())
        if self._snoozes and not rests and (met_only_limits(self._records) or met_a_fault(self._records)):
            # What waits for a limit waits in the queue, where it holds nothing. A rest between two tries is no limit. Who was
            # refused as unsuited waits here for the others: from the queue it would be asked of the same endpoint again.
            raise self._end(self._retry_after(first, now))
        # Who only gives an endpoint a rest stands in nobody's way to it.
        wants: AbstractSet[Member] = openings.keys() - self._again_at.keys()
        if wants:
            anything = not (self._asked or self._plan.endpoint or self._plan.patient)
            self._waiter = pool.wait_queue.join(self._waiter, EVERYONE if anything else frozenset(wants))
        ahead = pool.wait_queue.ahead(self._waiter) if self._waiter is not None else frozenset()
        at = min((at for member, at in openings.items() if member not in ahead), default=FAR)
        wait = max(0.001, at - now) + pool.rng.uniform(0.0, SPREAD)
        wait = min(wait, max(0.001, left), LOOK_AROUND if ahead else LONGEST_NAP)
        log.debug("no endpoint is free; waiting %.3fs%s", wait, " behind others" if ahead else "")
        if self._waiter is not None:
            self._waiter.due = pool.clock.monotonic() + wait
        return Pause(wait, self._waiter)

    def _retry_after(self, first: float | None, now: float) -> float | None:
        """Seconds after which another call may be answered, None when that may be at once or never: it may ask those that this one did.

        `first` is when this one could go on.
        """
        if first is None:
            return None
        again = (
            member.last_resort_at
            for member in self._choices().members
            if member in self._asked and member.state.health.kind is not HoldKind.ENDPOINT_FAULT
        )
        wait = min(first, min(again, default=first)) - now
        return wait if wait > 0.0 else None

    def _opens_at(self, member: Member, now: float) -> float | None:
        """When this call may ask `member`; None for never."""
        health = member.state.health
        if member in self._asked and member not in self._again_at:
            return None
        if health.probe and health.probe_until > now:
            # The probe may end at any moment, and so may the hold.
            opens = now + BUSY_POLL
        elif health.kind is HoldKind.ENDPOINT_FAULT and health.held_until > now and not member.new_key:
            # It ends by somebody's action, not by waiting.
            return None
        else:
            opens = member.last_resort_at
        if self._token_needs is not None:
            opens = max(opens, self._token_needs.opens(member))
        again = self._again_at.get(member)
        return opens if again is None else max(opens, now + again - self._pool.clock.monotonic())

    def _attempt(self, sending: Sending) -> Generator[Command, Event, Success | None]:
        """Ask one endpoint, and with hedging a second one when it is slow; None when nobody answered."""
        member = sending.member
        event = yield Send(sending, self._timeout(sending), self._hedge_delay(member))
        while True:
            if not isinstance(event, SendEnded):
                second = yield from self._hedge()
                event = yield KeepWaiting() if second is None else Send(second, self._timeout(second))
                continue
            # Until it is settled it stays among those that `steps` frees at its end.
            if event.error is None:
                return self._succeeded(event.sending, event.result)
            self._failed(event.sending, event.error)
            if not self._under_way:
                return None
            event = yield KeepWaiting()

    def _hedge(self) -> Generator[Command, Event, Sending | None]:
        """A second endpoint beside a slow one; None when there is none or the budget is spent."""
        member = self._choices().choose(self._plan.strategy, self._pool.time(), self._avoided())
        if member is None or not self._pool.hedges.take():
            return None
        log.debug("hedging with %s", member.name)
        return (yield from self._admit(member, hedge=True))

    def _hedge_delay(self, member: Member) -> float | None:
        wanted = self._plan.hedge_after
        return member.p95 if isinstance(wanted, str) else wanted

    def _timeout(self, sending: Sending) -> float:
        sending.allowed = max(0.001, min(sending.member.endpoint.timeout, self._left()))
        return sending.allowed

    def _succeeded(self, sending: Sending, result: Any) -> Success:
        pool = self._pool
        try:
            usage = self._plan.usage_of(result, pool.clock.now())
        except Exception as error:  # noqa: BLE001 - an answer is not lost because it cannot be counted
            name = sending.member.name
            log.warning("the usage in an answer of %s cannot be read (%s): counted as none", name, type(error).__name__)
            usage = NO_USAGE
        if self._plan.keep_open:
            latency = pool.clock.monotonic() - sending.started
        else:
            latency = pool.settle(sending, OK, usage=usage)
        self._record(sending, OutcomeClass.OK, "", latency)
        success = Success(result, sending, usage, latency, tuple(self._records))
        self._under_way.remove(sending)
        return success

    def _failed(self, sending: Sending, error: Exception) -> None:
        member, pool = sending.member, self._pool
        outcome, exhausted = self._judged(error)
        if outcome.timed_out and getattr(error, "code", "") == AT_DEADLINE:
            outcome = Outcome(OutcomeClass.CANCELLED, reason="it was still at work at the call's deadline")
        elif outcome.timed_out and member.cut_short(sending.started, sending.allowed, pool.clock.monotonic()):
            outcome = Outcome(OutcomeClass.CANCELLED, reason="the call's deadline came before it could answer")
        reason = pool.shown(outcome.reason)
        latency = pool.settle(sending, outcome, reason, ReportedUsage(*sending.tokens_told(error), exhausted))
        self._under_way.remove(sending)
        self._record(sending, outcome.kind, reason, latency, outcome.status, outcome.limit)
        if outcome.kind is OutcomeClass.CALLER_FAULT:
            self._callers = error
            raise error
        self.error = error
        if outcome.kind is OutcomeClass.UNSUITED:
            self._refused(member, outcome)
            return
        if self._plan.patient and outcome.kind is OutcomeClass.RATE_LIMITED and outcome.same_again:
            # Its hold says when; a limit that nobody told is no more the call's fault than one that was.
            self._asked.discard(member)
            self._started -= self._plan.max_attempts > 1
            return
        alone = len(self._roster().members) == 1
        if outcome.kind is not OutcomeClass.ENDPOINT_FAULT and (outcome.same_again or alone):
            self._again_at[member] = pool.clock.monotonic() + self._backoff()

    def _judged(self, error: Exception) -> tuple[Outcome, float | None]:
        """What an error means, and for how long its headers say that nothing is left. An error that cannot be read is transient."""
        epoch = self._pool.clock.now()
        try:
            return classify(error, epoch), exhausted_for(headers_of(error), epoch)
        except Exception as trouble:  # noqa: BLE001 - an error that hides what it is still has to be counted
            name = type(error).__name__
            log.warning("an error of type %s cannot be read (%s): taken as transient", name, type(trouble).__name__)
            return Outcome(OutcomeClass.TRANSIENT, reason=name), None

    def _refused(self, member: Member, outcome: Outcome) -> None:
        """Ask again at once, at no attempt's cost, where a change of the request mends it; else never again in this call."""
        unsuited = self._unsuited = self._unsuited or Unsuited()
        fresh = unsuited.fresh(member, outcome.adaptations)
        if fresh:
            self._pool.adapt(member, fresh)
            self._started -= 1
            if unsuited.mended(member, fresh):
                self._asked.discard(member)
            return
        if self._plan.max_attempts > 1 and unsuited.free():
            self._started -= 1
        if outcome.limit is Limit.CONTEXT:
            for other in unsuited.too_small(member, outcome.window, self._roster().members):
                if other not in self._asked:
                    self._asked.add(other)
                    self._notes[other.name] = f"its context window of {other.window} tokens is no larger"

    def _backoff(self) -> float:
        """Full jitter, so that callers that failed together do not come back together."""
        from core.cloud.retry import RetryPolicy

        policy = RetryPolicy(FIRST_BACKOFF, self._plan.backoff_factor, LONGEST_BACKOFF)
        return self._pool.rng.uniform(0.0, policy.ceiling(self._started))

    def _record(  # noqa: PLR0917 - what an attempt's record holds, in its order
        self,
        sending: Sending,
        kind: OutcomeClass,
        reason: str,
        latency: float,
        status: int = 0,
        limit: Limit = Limit.NONE,
    ) -> None:
        record = AttemptRecord(sending.member.name, kind, reason, latency, status, sending.hedge, limit)
        self._records.append(record)
        log.debug("attempt %d, %s", len(self._records), record)

    def _failure(self, retry_after: float | None) -> AllEndpointsFailed:
        now = self._pool.time()
        asked = {record.endpoint for record in self._records}
        skipped, later = {}, self._left() <= 0.0
        smaller = self._unsuited.smaller if self._unsuited is not None else set()
        token_needs = self._token_needs or TokenNeeds(None)
        others = set(self._roster().members).difference(self._choices().members) if self._plan.patient else ()
        for member in self._pool.members.values():
            name = member.name
            if self._plan.endpoint in {"", name}:
                note, again = self._notes.get(name) or token_needs.too_large.get(name), name in asked
                later = later or not (again or name in smaller or name in token_needs.too_large)
                if note:
                    skipped[name] = f"not asked {'again' if again else ''}: {note}".replace(" :", ":")
                elif not again:
                    held = (
                        token_needs.why_not(member, now) or member.why_not(now) or (STAYS if member in others else "")
                    )
                    skipped |= {name: held} if held else {}
        return exhausted(tuple(self._records), skipped, retry_after, later=later, too_large=bool(token_needs.too_large))
