"""What is counted for an endpoint. Pure: tallies add up, so they can be kept, sent and merged in any order."""

from collections import Counter
from dataclasses import dataclass, field, replace

from core.cloud.call_outcome import Outcome, OutcomeClass
from core.cloud.latency import bucket_of

DAY = 86_400


@dataclass(frozen=True, slots=True)
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
    jitter: float = 0.0
    """Uniform in [-1, 1]; drawn once, so that every process computes the same hold."""


@dataclass(slots=True)
class Tally:
    """Sums over attempts."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Attempts by outcome class."""
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
        self.outcomes[kind] += 1
        if kind is OutcomeClass.OK:
            self.seconds += report.latency
            self.buckets[bucket_of(report.latency)] += 1
        elif report.error and report.at >= self.last_error_at:
            self.last_error, self.last_error_at = report.error, report.at
        self.tokens_in += report.tokens_in
        self.tokens_out += report.tokens_out
        self.cost += report.cost
        self.last_used_at = max(self.last_used_at, report.at)

    def copy(self) -> "Tally":
        return replace(self, outcomes=self.outcomes.copy(), buckets=self.buckets.copy())

    def merge(self, other: "Tally") -> None:
        """Add what `other` counted."""
        self.outcomes.update(other.outcomes)
        self.seconds += other.seconds
        self.buckets.update(other.buckets)
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.cost += other.cost
        if other.last_error_at > self.last_error_at:
            self.last_error, self.last_error_at = other.last_error, other.last_error_at
        self.last_used_at = max(self.last_used_at, other.last_used_at)

    @property
    def successes(self) -> int:
        return self.outcomes[OutcomeClass.OK]

    @property
    def failures(self) -> int:
        """Attempts that failed by the endpoint's fault or state; the caller's own faults and cancellations are none."""
        return (
            self.outcomes[OutcomeClass.TRANSIENT]
            + self.outcomes[OutcomeClass.RATE_LIMITED]
            + self.outcomes[OutcomeClass.ENDPOINT_FAULT]
        )

    @property
    def calls(self) -> int:
        return sum(self.outcomes.values())


@dataclass(slots=True)
class Spending:
    """What an endpoint was used for on one UTC day."""

    day: int = 0
    """Days since the epoch."""
    requests: int = 0
    tokens: int = 0
    cost: float = 0.0


def day_of(epoch: float) -> int:
    """The UTC day of an epoch time, in days since the epoch."""
    return int(epoch // DAY)
