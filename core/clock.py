"""Time as the core sees it: two readings, injected everywhere so that tests own them."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the core reads the time."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC. Stored, compared between processes."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go back. For durations in one process."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # The functions themselves: a call of the pool reads the time a dozen times.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class ManualClock:
    """A clock that stands still until told to move; for tests and simulations."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both readings forward by `seconds` (0 or more)."""
        if seconds < 0:
            raise ValueError("a clock moves forward; use set_now() for a wall clock that was put back")
        self._now += seconds
        self._monotonic += seconds

    def set_now(self, now: float) -> None:
        """Put the wall clock to `now`, forward or back, as an administrator or NTP would."""
        self._now = now


def to_datetime(timestamp: float | None) -> datetime | None:
    """An epoch reading as an aware UTC datetime; None stays None."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


def to_iso(timestamp: float | None) -> str:
    """An epoch reading as ISO 8601 UTC with milliseconds (`2026-11-23T19:55:17.250Z`); None is ''."""
    if timestamp is None:
        return ""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
