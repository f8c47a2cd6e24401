"""Durations counted in buckets that grow with them: bounded memory, percentiles right to within 1/32. Pure.

A bucket is the sign, exponent and first four fraction bits of the IEEE 754 double: 16 buckets in each doubling, as in
HdrHistogram, and found without a logarithm.
"""

import math
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

SHIFT = 48
"""Bits of a double below those that name its bucket."""


class Histogram:
    """How often each duration (seconds, 0 or more) was seen."""

    __slots__ = ("_buckets", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, durations: Sequence[float]) -> None:
        """Count them; many at once cost little more than a few."""
        if not durations:
            return
        self.count += len(durations)
        self.total += math.fsum(durations)
        self.minimum = min(self.minimum, *durations)
        self.maximum = max(self.maximum, *durations)
        bits = memoryview(array("d", durations)).cast("B").cast("q")
        self._buckets.update([word >> SHIFT for word in bits])

    def percentile(self, share: float) -> float:
        """The duration that `share` (0 to 1) of the calls did not exceed; 0 when there were none."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(max(_middle(bucket), self.minimum), self.maximum)
        return 0.0

    @classmethod
    def merged(cls, parts: Iterable["Histogram"]) -> "Histogram":
        """One histogram with everything that `parts` hold."""
        whole = cls()
        for part in parts:
            whole.count += part.count
            whole.total += part.total
            whole.minimum = min(whole.minimum, part.minimum)
            whole.maximum = max(whole.maximum, part.maximum)
            whole._buckets.update(part._buckets)  # noqa: SLF001 - of the same class
        return whole


def _middle(bucket: int) -> float:
    """The duration in the middle of a bucket; the lowest holds those too short for any clock."""
    if bucket == 0:
        return 0.0
    word = struct.pack("q", (bucket << SHIFT) | (1 << (SHIFT - 1)))
    return float(struct.unpack("d", word)[0])
