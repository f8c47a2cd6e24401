"""What is counted for an endpoint. Pure: tallies add up, so they can be kept, sent and merged in any order."""

from collections import Counter
from dataclasses import dataclass, field, replace

from core.cloud.pool.latency import bucket_of
from core.cloud.pool.outcome import Outcome, OutcomeClass
from core.cloud.replies.token_counts import MOST_TOKENS

DAY = 86_400
LARGEST_SUM = 10**18
"""Sums stop here: a 64-bit integer of a database holds it, and another call beside it."""
FAILURES = (OutcomeClass.TRANSIENT, OutcomeClass.RATE_LIMITED, OutcomeClass.ENDPOINT_FAULT)


@dataclass(slots=True)
class Report:
    """How one attempt went."""

    outcome: Outcome
    began: float
    """Pool time at which it was admitted."""
    ended: float
    """Pool time."""
    at: float
    """Epoch seconds at its end."""
    latency: float
    """Seconds it took."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    error: str = ""
    """What went wrong, without secrets."""
    exhausted_for: float | None = None
    """Seconds for which the endpoint's headers say nothing is left."""
    opened: bool = False
    """Not the end of the attempt but its first token: only the endpoint's health learns of it."""
    jitter: float = 0.0
    """Uniform in [-1, 1]; drawn once, so that every process computes the same hold."""
    generation: int = -1
    """Of the health the call began under; -1 for whichever there is."""
    outdated: bool = False
    """It used a key that has been replaced since: it says nothing about the present one."""


@dataclass(slots=True)
class Tally:
    """Sums over attempts."""

    successes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """The other attempts by outcome class."""
    seconds: float = 0.0
    """Sum of the latencies of successful attempts."""
    buckets: Counter[int] = field(default_factory=Counter)
    """Successful attempts by latency bucket."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    last_error: str = ""
    last_error_at: float = 0.0
    last_used_at: float = 0.0

    def add(self, report: Report) -> None:
        kind = report.outcome.kind
        if kind is OutcomeClass.OK:
            self.successes += 1
            self.seconds += report.latency
            self.buckets[bucket_of(report.latency)] += 1
        else:
            self.outcomes[kind.value] += 1
            if report.error and report.at >= self.last_error_at:
                self.last_error, self.last_error_at = report.error, report.at
        if report.tokens_in or report.tokens_out:
            self.tokens_in = min(self.tokens_in + report.tokens_in, LARGEST_SUM)
            self.tokens_out = min(self.tokens_out + report.tokens_out, LARGEST_SUM)
            self.cost = min(self.cost + report.cost, LARGEST_SUM)
        self.last_used_at = max(self.last_used_at, report.at)

    def copy(self) -> "Tally":
        return replace(self, outcomes=self.outcomes.copy(), buckets=self.buckets.copy())

    def merge(self, other: "Tally") -> None:
        """Add what `other` counted."""
        self.successes += other.successes
        self.outcomes.update(other.outcomes)
        self.seconds += other.seconds
        self.buckets.update(other.buckets)
        self.tokens_in = min(self.tokens_in + other.tokens_in, LARGEST_SUM)
        self.tokens_out = min(self.tokens_out + other.tokens_out, LARGEST_SUM)
        self.cost = min(self.cost + other.cost, LARGEST_SUM)
        if other.last_error_at > self.last_error_at:
            self.last_error, self.last_error_at = other.last_error, other.last_error_at
        self.last_used_at = max(self.last_used_at, other.last_used_at)

    @property
    def failures(self) -> int:
        """Attempts that failed by the endpoint's fault or state; the caller's own faults and cancellations are none."""
        return sum(self.outcomes[kind.value] for kind in FAILURES)

    def by_outcome(self) -> dict[str, int]:
        """Attempts by outcome class, `ok` included."""
        counts = {OutcomeClass.OK.value: self.successes, **self.outcomes}
        return {kind: count for kind, count in sorted(counts.items()) if count}

    @property
    def calls(self) -> int:
        return self.successes + sum(self.outcomes.values())


@dataclass(slots=True)
class Spending:
    """What an endpoint was used for on one UTC day."""

    day: int = 0
    """Days since the epoch."""
    requests: int = 0
    tokens: int = 0
    cost: float = 0.0

    def add(self, report: Report) -> None:
        """Count what a call was charged for."""
        self.tokens = min(self.tokens + report.tokens_in + report.tokens_out, LARGEST_SUM)
        self.cost = min(self.cost + report.cost, LARGEST_SUM)


def counted(tokens: object) -> int:
    """A token figure as it is counted: a whole number up to MOST_TOKENS; 0 for one that is not believed, which would use up the day's limit."""
    if type(tokens) is int and 0 <= tokens <= MOST_TOKENS:
        return tokens
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens <= MOST_TOKENS else 0


def day_of(epoch: float) -> int:
    """The UTC day of an epoch time, in days since the epoch."""
    return int(epoch // DAY)
