"""An endpoint as one pool sees it: its state, and what this process measured of it."""

from collections.abc import Set as AbstractSet

from core.cloud.endpoint import ApiEndpoint, ApiStatus
from core.cloud.pool.admission import MINUTES, Refusal, Refused
from core.cloud.pool.attempt_records import KEYLESS
from core.cloud.pool.health import CLOCK_SKEW, HoldKind
from core.cloud.pool.latency import PeakEwma, bucket_of, percentile
from core.cloud.pool.outcome import BLAMELESS, OutcomeClass
from core.cloud.pool.pool_state import EndpointState
from core.cloud.pool.retry_budget import RetryBudget
from core.cloud.pool.tally import Report
from core.cloud.pool.token_limit import Habits, Need, estimate
from core.cloud.replies.adaptation import Adaptation

DEGRADED_SHARE = 0.25
"""Share of recent calls that failed from which an endpoint counts as degraded."""
RECENT = 0.1
"""Weight of the newest call in that share."""

ENOUGH = 20
"""Successful calls that make a percentile worth hedging by."""
SHORTEST_FAIR_TIME = 1.0
FIRST_FAIR_TIME = 5.0
"""Seconds an endpoint must have been given to be blamed for not answering: at least, and before it answered for the first time."""


class Member:
    """One endpoint in the pool. Its numbers are hints for choosing; the state decides."""

    __slots__ = (
        "_buckets",
        "_vain_until",
        "blocked",
        "budget",
        "endpoint",
        "failing",
        "faulty_generation",
        "faulty_key",
        "faulty_until",
        "habits",
        "in_vain",
        "incident_at",
        "keyless",
        "last_resort_at",
        "latency",
        "name",
        "needs_key",
        "noted_at",
        "ready_at",
        "state",
        "window",
    )

    def __init__(self, endpoint: ApiEndpoint, state: EndpointState, *, needs_key: bool = False) -> None:
        self.name = endpoint.name
        self.endpoint = endpoint
        self.state = state
        self.latency = PeakEwma()
        self._buckets: dict[int, int] = {}
        self.budget = RetryBudget()
        self.failing = 0.0
        """Moving share of recent calls that failed."""
        self.incident_at = 0.0
        """Pool time of the newest failure that was charged: calls that were under way then met the same incident."""
        self.in_vain = 0.0
        """Seconds in which it had calls and answered none, of calls that were cut short in a row; what overlaps counts once."""
        self._vain_until = 0.0
        self.blocked: Refused | None = None
        """The newest refusal that was not about health."""
        self.noted_at = 0.0
        """Pool time of that refusal."""
        self.faulty_key = -1
        """Version of the key with which it turned out to be wrongly set up, in this process; -1 for none."""
        self.faulty_generation = 0
        self.faulty_until = 0.0
        """Pool time until which that key is not tried again, also when another process has a better one and lifts the hold."""
        self.needs_key = needs_key
        self.keyless = False
        """It needs a key that this process does not have."""
        self.ready_at = 0.0
        """Pool time from which it is worth asking."""
        self.last_resort_at = 0.0
        """The same when no other endpoint is left."""
        self.window = endpoint.context_window
        """Tokens of its context window, as set or as its refusals told; 0 where it is not known."""
        self.habits = Habits() if endpoint.max_tokens_per_minute else None
        """What its calls take, where that is limited."""
        self.refresh(0.0)

    def tokens_for(self, need: Need | None) -> int:
        """Tokens that a call is to reserve here; `need` is None where nothing is known of its request. 0 where they are not limited.

        More than the limit for one that it never takes.
        """
        return 0 if self.habits is None else estimate(need, self.habits, self.endpoint)

    def never_takes(self, need: Need | None) -> bool:
        """Whether a call exceeds the limit of tokens by itself."""
        return self.habits is not None and self.tokens_for(need) > self.endpoint.max_tokens_per_minute

    def adapt(self, adaptations: tuple[Adaptation, ...]) -> None:
        """Change its requests by these from now on."""
        self.endpoint = self.endpoint.adapted_by(adaptations)

    def refuses(self, needs: AbstractSet[str], model: str) -> bool:
        """Whether it is known to refuse one of these fields, of a call for `model` ('' for its own)."""
        asked = self.endpoint.extra_body.get("model") or model or self.endpoint.model
        return any(one.loses and one.field in needs and one.model in {"", asked} for one in self.endpoint.adapted)

    @property
    def in_flight(self) -> int:
        return self.state.in_flight

    @property
    def p95(self) -> float | None:
        """Seconds that 95% of this process's successful calls took at most; None before there were enough to say."""
        return percentile(self._buckets, 0.95) if sum(self._buckets.values()) >= ENOUGH else None

    @property
    def fair_time(self) -> float:
        """Seconds an endpoint must have been given to be blamed for not answering in time: twice what 95% of its answers took."""
        slow = percentile(self._buckets, 0.95)
        return min(self.endpoint.timeout, FIRST_FAIR_TIME if slow is None else max(SHORTEST_FAIR_TIME, 2.0 * slow))

    def cut_short(self, started: float, allowed: float, now: float) -> bool:
        """Whether a call that timed out (monotonic times) says nothing about the endpoint, because its own deadline cut it short.

        A healthy endpoint is not blamed for a caller's short deadline: one call blames it only after its fair time. A hanging one does
        not hide behind short deadlines: what they waited in a row, without any answer in between, adds up to its timeout.
        """
        waited = now - max(started, self._vain_until)
        self._vain_until = now
        if allowed >= self.fair_time:
            return False
        self.in_vain += max(0.0, waited)
        return self.in_vain < self.endpoint.timeout

    def load(self, now: float) -> float:
        """Expected seconds for a further call."""
        return self.latency.load(self.state.in_flight, now)

    def refused(self, refused: Refused, now: float) -> None:
        """The state would not take a call."""
        if refused.why is Refusal.HELD or refused.why is Refusal.PROBING:
            self.refresh(now)
            if self.ready_at <= now:
                self.ready_at = refused.until
        else:
            self.blocked, self.noted_at = refused, now
            self.refresh(now)

    def unblock(self, now: float) -> None:
        """A slot was given back that it may have been refused for."""
        if self.blocked is not None and self.blocked.why is not Refusal.REMOVED:
            self.blocked = None
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """Work out `ready_at` after the state's health changed."""
        health, blocked = self.state.health, self.blocked
        least = blocked.until if blocked is not None else 0.0
        if health.held_from > now + CLOCK_SKEW:
            # Known from before the wall clock was put back: the state puts it right when it is asked. What refuses calls still holds, or
            # who waits would ask again and again.
            self.ready_at = self.last_resort_at = max(now, least)
            return
        if self.faulty_until > now:
            least = max(least, self._key_held_until())
        if health.failures == 0 and health.held_until == 0.0:
            self.ready_at = self.last_resort_at = least
            return
        self.ready_at = max(least, health.opens_at(now if self.new_key else 0.0, new_key=self.new_key))
        self.last_resort_at = self.ready_at if health.hard else least

    def able(self, now: float) -> bool:
        """Whether it takes calls, or nothing but a limit keeps it from it: its own, or its server's 429."""
        if self.ready_at <= now:
            return True
        health, blocked = self.state.health, self.blocked
        if blocked is not None and blocked.why is Refusal.REMOVED:
            return False
        if self.faulty_until > now and self._key_held_until() > now:
            return False
        return health.kind is HoldKind.RATE_LIMITED or health.opens_at(now, new_key=self.new_key) <= now

    @property
    def new_key(self) -> bool:
        """Whether it is held for a fault of its setup that this process's present key need not have.

        Other processes may have another key, and one that was corrected is another.
        """
        if self.state.health.kind is not HoldKind.ENDPOINT_FAULT or not self.needs_key:
            return False
        return bool(self.endpoint.found_key) and self.faulty_key != self.endpoint.key_version

    def _key_held_until(self) -> float:
        """Pool time until which this process has no key for it but one that just failed; 0.0 when that is not so."""
        endpoint = self.endpoint
        known = self.faulty_generation == self.state.health.generation and bool(endpoint.found_key)
        return self.faulty_until if known and self.faulty_key == endpoint.key_version else 0.0

    def slept(self, seconds: float, now: float) -> None:
        """The machine slept: what the server asked for, and the day's limit, go by the wall clock; the limit of a minute does not."""
        self.state.slept(seconds)
        self.faulty_until = max(0.0, self.faulty_until - seconds)
        if self.blocked is not None and self.blocked.why is Refusal.SPENT:
            self.blocked = None
        self.refresh(now)

    def put_back(self, now: float) -> None:
        """The wall clock went back to `now`: what was noted until a later time is asked anew."""
        self.latency.put_back(now)
        if self.noted_at > now:
            self.blocked, self.noted_at = None, 0.0
        self.faulty_until = 0.0
        self.incident_at = min(self.incident_at, now)
        self.refresh(now)

    def reset(self) -> None:
        """Forget what was measured."""
        self.latency, self.budget, self.failing = PeakEwma(), RetryBudget(), 0.0
        self._buckets, self.in_vain = {}, 0.0
        self.faulty_key, self.faulty_until = -1, 0.0
        if self.blocked is not None and self.blocked.why not in MINUTES:
            self.blocked = None
        self.refresh(0.0)

    def observe(self, report: Report, now: float) -> None:
        """Learn from an attempt that ended."""
        kind = report.outcome.kind
        if self.habits is not None:
            self.habits.learn(report)
        # A failure or an abandoned call took at least this long: left out, an endpoint that fails fast would look fast.
        self.latency.observe(report.latency, now)
        if self.in_vain and kind not in {OutcomeClass.CANCELLED, OutcomeClass.LOCAL_FAULT}:
            self.in_vain = 0.0
        if kind is OutcomeClass.ENDPOINT_FAULT:
            health = self.state.health
            self.faulty_key, self.faulty_generation = self.endpoint.key_version, health.generation
            self.faulty_until = health.held_until
        if kind is OutcomeClass.OK:
            self.faulty_key, self.faulty_until = -1, 0.0
            bucket = bucket_of(report.latency)
            self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
            self.failing -= RECENT * self.failing
            self.budget.succeeded()
        elif kind not in BLAMELESS and report.began >= self.incident_at:
            self.incident_at = now
            self.failing += RECENT * (1.0 - self.failing)
            self.budget.failed()

    def status(self, now: float) -> ApiStatus:
        """In the guide's words."""
        health = self.state.health
        if health.kind is HoldKind.RATE_LIMITED and health.held_until > now:
            return ApiStatus.RATE_LIMITED
        if not health.clean and health.hard and health.kind is not HoldKind.RATE_LIMITED:
            return ApiStatus.FAILED
        if (
            self.blocked is not None
            and self.blocked.until > now
            and (self.blocked.why in MINUTES or self.blocked.why is Refusal.SPENT)
        ):
            return ApiStatus.RATE_LIMITED
        if health.failures or self.failing >= DEGRADED_SHARE:
            return ApiStatus.DEGRADED
        return ApiStatus.ACTIVE

    def why_not(self, now: float) -> str:
        """Why it takes no call now, in words; '' when it does."""
        if self.keyless:
            return KEYLESS
        blocked, health = self.blocked, self.state.health
        if blocked is not None and blocked.until > now:
            return f"{blocked}, next slot in {blocked.until - now:.1f}s"
        if self.faulty_until > now and self._key_held_until() > health.held_until:
            return f"this process's key was refused; not tried for {self.faulty_until - now:.1f}s more"
        if health.held_until > now:
            return f"held for {health.held_until - now:.1f}s more ({health.kind})"
        if health.probe and health.probe_until > now:
            return "another call is testing whether it works again"
        return ""
