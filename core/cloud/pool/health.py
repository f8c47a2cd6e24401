"""Whether an endpoint may be called: a circuit breaker with growing holds and one probe at a time. Pure.

closed -> (failure) soft hold -> (third failure in a row) failed -> (hold over) half-open: one probe -> closed, or a longer hold.

A soft hold steers calls to other endpoints and is ignored when there is none. After TRIP failures in a row, after a fault of the
endpoint's setup and after a rate limit the hold is hard: nobody calls until it is over, then one caller does, as the probe.
Nygard, Release It! (circuit breaker); Envoy's outlier detection (growing ejection) and panic threshold (the last host stays).
"""

from dataclasses import dataclass
from enum import StrEnum

from core.cloud.pool.outcome import Outcome, OutcomeClass

TRIP = 3
"""Failures in a row that make an endpoint failed."""
FIRST_HOLD = 0.5
LONGEST_HOLD = 4.0
"""Seconds: transient failures hold for 0.5, 1, 2, 4, 4, ..."""
FIRST_FAULT_HOLD = 60.0
LONGEST_FAULT_HOLD = 600.0
"""Seconds: a wrong key or an empty account holds for 60, 120, 240, 480, 600, ..."""
FIRST_LIMIT_HOLD = 1.0
LONGEST_LIMIT_HOLD = 60.0
"""Seconds: a 429 without Retry-After holds for 1, 2, 4, ... 60, ..."""
JITTER = 0.2
"""Holds vary by this share either way, so that processes do not probe in step."""

CLOCK_SKEW = 1.0
"""Seconds by which two readings of one wall clock may differ before it counts as put back."""

_HOLDS = {
    OutcomeClass.TRANSIENT: (FIRST_HOLD, LONGEST_HOLD),
    OutcomeClass.ENDPOINT_FAULT: (FIRST_FAULT_HOLD, LONGEST_FAULT_HOLD),
    OutcomeClass.RATE_LIMITED: (FIRST_LIMIT_HOLD, LONGEST_LIMIT_HOLD),
}


class HoldKind(StrEnum):
    """Why an endpoint is held, from mild to severe."""

    NONE = ""
    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    ENDPOINT_FAULT = "endpoint_fault"


_SEVERITY = {kind: rank for rank, kind in enumerate(HoldKind)}
"""A milder failure does not replace the reason of a hold that is in force."""


@dataclass(slots=True)
class Health:
    """What is known of one endpoint. Times are the pool's; 0.0 is the distant past."""

    failures: int = 0
    """In a row, not counting those of calls that began before the newest hold."""
    kind: HoldKind = HoldKind.NONE
    hold: float = 0.0
    """Length of the newest hold before jitter, which the next one doubles."""
    held_from: float = 0.0
    held_until: float = 0.0
    probe: int = 0
    """Token of the call that tests the endpoint, 0 for none."""
    probe_until: float = 0.0
    """When the probe counts as lost, so that a process that died with it blocks nobody."""
    generation: int = 0
    """Another number whenever the endpoint's settings were replaced or its holds lifted: calls of before say nothing about it."""

    @property
    def clean(self) -> bool:
        """Nothing is held against it."""
        return self.failures == 0 and self.held_until == 0.0

    @property
    def hard(self) -> bool:
        """Its holds bind even when no other endpoint is there."""
        return self.failures >= TRIP or self.kind in {HoldKind.ENDPOINT_FAULT, HoldKind.RATE_LIMITED}

    def opens_at(self, now: float, *, last_resort: bool = False, new_key: bool = False) -> float:
        """The moment from which a call may start: `now` or earlier when it may at once.

        With `new_key` a fault of the endpoint's setup is no reason to wait: it may have been the key that was there before.
        """
        if self.clean or (last_resort and not self.hard):
            return now
        until = now if new_key and self.kind is HoldKind.ENDPOINT_FAULT else self.held_until
        if self.probe and self.probe_until > now:
            return max(until, self.probe_until)
        return until

    def begin(self, token: int, probe_until: float) -> bool:
        """A call starts; True when it is the probe."""
        if self.clean:
            return False
        self.probe, self.probe_until = token, probe_until
        return True

    def end(self, token: int) -> None:
        """The call is over, however it ended: the probe's place is free."""
        if token == self.probe:
            self.probe, self.probe_until = 0, 0.0

    def first_token(self, token: int, began: float) -> None:
        """The probe's stream begins: the endpoint is back, whatever becomes of this one answer.

        Where only a soft hold steers callers elsewhere, the stream's end decides: one that breaks off each time would else never add up.
        """
        if token == self.probe:
            if self.hard:
                self.succeeded(began)
            self.end(token)

    def succeeded(self, began: float) -> None:
        """A call that began at `began` was answered.

        One that began before a hard hold, or at the same reading of the clock, says nothing about what came after it. A probe is always later.
        """
        if not self.hard or began > self.held_from:
            self.failures, self.kind, self.hold = 0, HoldKind.NONE, 0.0
            self.held_from = self.held_until = 0.0

    def failed(self, outcome: Outcome, began: float, now: float, jitter: float) -> None:
        """A call that began at `began` failed by the endpoint's fault; `jitter` is uniform in [-1, 1].

        Several calls in flight that fail together are one incident: only the first of them lengthens the hold.
        A hold is extended by Retry-After or a worse failure, never shortened.
        """
        first, longest = _HOLDS[outcome.kind]
        kind = HoldKind(outcome.kind.value)
        milder = self.held_until > now and _SEVERITY[kind] < _SEVERITY[self.kind]
        if not milder and (began >= self.held_from or kind is not self.kind):
            same = kind is self.kind
            self.hold = min(longest, self.hold * 2 if same and self.hold else first)
            self.failures += 1
            self.kind = kind
            self.held_from = now
            self.held_until = max(self.held_until, now + self.hold * (1 + JITTER * jitter))
        if outcome.retry_after is not None and now + outcome.retry_after > self.held_until:
            # News from now: a probe that began before them must not lift it.
            self.held_from, self.held_until = now, now + outcome.retry_after

    def slept(self, seconds: float) -> None:
        """The machine slept for so long, which the clock that holds are measured by did not notice."""
        if self.held_until:
            self.held_until = max(self.held_from, self.held_until - seconds)

    def rewind(self, now: float) -> bool:
        """Whether the wall clock was put back; what is known then counts from now: a hold must not last until the old time comes again."""
        ahead = self.held_from - now
        if ahead <= CLOCK_SKEW:
            return False
        self.held_from -= ahead
        self.held_until = max(0.0, self.held_until - ahead)
        self.probe_until = max(0.0, self.probe_until - ahead)
        return True

    def exhausted(self, until: float, now: float) -> None:
        """The endpoint's own headers say that nothing is left until `until`."""
        if self.clean:
            self.kind, self.held_from = HoldKind.RATE_LIMITED, now
        self.held_until = max(self.held_until, until)
