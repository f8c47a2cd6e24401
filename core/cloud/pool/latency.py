"""How fast an endpoint answers: a peak-sensitive moving average to choose by, a histogram to report. Pure."""

import math
from collections.abc import Iterator, Mapping

DECAY = 10.0
"""Seconds in which a sample loses all but 1/e of its weight (tau)."""
UNMEASURED = 1.0
"""Seconds assumed for each call in flight on an endpoint that has not answered yet."""


class PeakEwma:
    """Moving average that takes a slow sample at once and forgets it slowly.

    Finagle's and Tower's PeakEwma. It decays while nothing is measured too, so that an endpoint that was slow once is tried again.
    """

    __slots__ = ("at", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.at = -1.0

    def observe(self, seconds: float, now: float) -> None:
        if seconds >= self.value or self.at < 0.0:
            self.value = seconds
        else:
            weight = math.exp((self.at - now) / DECAY)
            self.value = self.value * weight + seconds * (1.0 - weight)
        self.at = now

    def put_back(self, now: float) -> None:
        """The clock went back to `now`: what was measured later counts as measured now."""
        self.at = min(self.at, now)

    def load(self, in_flight: int, now: float) -> float:
        """Seconds a further call can expect, roughly: the average, times the calls it would share the endpoint with."""
        if self.at < 0.0:
            return UNMEASURED * in_flight
        return self.value * math.exp((self.at - now) / DECAY) * (in_flight + 1)


GROWTH = 1.1
"""Each bucket ends this much later than the one before: percentiles are exact to 5%."""
SHORTEST = 0.0001
_LOG_GROWTH = math.log(GROWTH)


def bucket_of(seconds: float) -> int:
    """The bucket of a latency: 0 for up to 0.1 ms, then one for each further 10%."""
    return 0 if seconds <= SHORTEST else 1 + int(math.log(seconds / SHORTEST) / _LOG_GROWTH)


def percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """The latency in seconds that `share` (0 to 1) of the samples do not exceed; None without samples."""
    total = sum(buckets.values())
    if not total:
        return None
    wanted = max(1, math.ceil(share * total))
    for bucket, seen in _cumulated(buckets):
        if seen >= wanted:
            return SHORTEST if bucket == 0 else SHORTEST * GROWTH ** (bucket - 0.5)
    raise AssertionError("unreachable: the last bucket holds all samples")


def _cumulated(buckets: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        yield bucket, seen
