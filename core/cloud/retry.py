"""When a failed attempt is tried again: pure decisions, randomness passed in."""

import math
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidArgument, Permanent, RetryLater
from core.safe_text import leaves

LONGEST_WAIT = 86_400.0
"""Seconds. A provider that asks for more than a day is not taken at its word."""
EXPLAINED = 1.0
"""Seconds by which an attempt may have ended later than now: clocks are corrected by as much all the time."""
POISON_LIMIT = 5
"""A task whose worker died more often than this while running it has failed: it is taken to be what kills them."""
SUSPECT_AFTER = 2
"""Deaths of its worker after which a task is a suspect: a process runs one of them at a time.

Not after one, because a power cut or `kill -9` interrupts whatever runs, and that is to go on side by side.
"""
DOUBT = 2
"""Times POISON_LIMIT: so often a worker may die while it runs a suspect and others, before the suspect has failed."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter.

    With the defaults retry 1, 2, 3, ... waits a uniformly random time of up to 1, 2, 4, 8, ... seconds, never more than
    300. Full jitter spreads clients that failed together better than any other jitter (Marc Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    base: float = 1.0
    """Seconds: the longest wait before the first retry."""
    factor: float = 2.0
    """By which each further retry may wait longer."""
    cap: float = 300.0
    """Seconds: no retry waits longer."""

    def __post_init__(self) -> None:
        if not (self.base > 0 and self.factor >= 1 and self.cap >= self.base):
            raise InvalidArgument(
                f"No back-off can be made of base={self.base}, factor={self.factor}, cap={self.cap}.",
                "use base > 0, factor >= 1 and cap >= base (seconds).",
            )

    def ceiling(self, retry: int) -> float:
        """The longest wait in seconds before retry number `retry` (1 for the first)."""
        # In logarithms, because factor ** retry overflows a float after about a thousand retries.
        exponent = math.log(self.base) + (max(1, retry) - 1) * math.log(self.factor)
        return self.cap if exponent >= math.log(self.cap) else math.exp(exponent)

    def wait(self, retry: int, share: float) -> float:
        """Seconds to wait before retry number `retry`; `share` is a random number of 0 up to 1."""
        return self.ceiling(retry) * share


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What becomes of a task whose attempt failed."""

    again: bool
    wait: float = 0.0
    """Seconds until it may run again."""


GIVE_UP = RetryDecision(again=False)


def retries_used(attempt: int, interruptions: int) -> int:
    """How many retries attempt number `attempt` has behind it; cut-off attempts are free."""
    return max(0, attempt - interruptions - 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error asks for."""

    final: bool = False
    """Running the task again cannot help."""
    later: float | None = None
    """Seconds after which the handler asked to be run again."""
    hint: float | None = None
    """Seconds that must pass at least, as a provider's Retry-After."""


def verdict_of(error: BaseException | None) -> Verdict:
    """What an error asks for; of a group of them (as asyncio.TaskGroup raises, nested or not) what its errors ask for together.

    Permanent and InvalidArgument go before all else, because the same payload can only fail the same way; then RetryLater, the
    longest wait of several, so that nobody is asked too soon; then the longest `retry_after`.
    """
    final, later, hint = False, list[float](), list[float]()
    for each in leaves(error):
        # By type(), because isinstance asks the error's own __class__, which may lie or raise.
        kind = type(each)
        final = final or issubclass(kind, (Permanent, InvalidArgument))
        asked = _seconds(each, "seconds") if issubclass(kind, RetryLater) else None
        hinted = retry_after_of(each)
        later += [] if asked is None else [asked]
        hint += [] if hinted is None else [hinted]
    return Verdict(final, max(later, default=None), max(hint, default=None))


def decide(policy: RetryPolicy, error: BaseException | None, *, used: int, allowed: int, share: float) -> RetryDecision:
    """Whether and when a task runs again after `error` (None for a timeout).

    `used` and `allowed` are retries; `share` is a random number of 0 up to 1. See `verdict_of` for what an error asks for:
    RetryLater waits what the handler asked for, an error with a `retry_after` (seconds; as AllEndpointsFailed has from the
    provider's Retry-After) at least that.
    """
    if used >= allowed:
        return GIVE_UP
    asked = verdict_of(error)
    if asked.final:
        return GIVE_UP
    if asked.later is not None:
        return RetryDecision(again=True, wait=min(asked.later, LONGEST_WAIT))
    wait = policy.wait(used + 1, share)
    if asked.hint is not None:
        # Nobody may come before the hint; the jitter on top keeps those who got the same hint apart.
        wait = min(asked.hint, LONGEST_WAIT) + policy.base * share
    return RetryDecision(again=True, wait=wait)


def put_back(run_at: float, ended_at: float, now: float) -> float | None:
    """When a retry set for `run_at` is due whose attempt ended at `ended_at`; None for one that stays as it is.

    An end that is still to come was written by a clock that has been put back since. The retry gets the whole of its wait from now
    on, because nobody knows how much of it has passed: so it is never sooner than its handler or a provider asked for. The
    longest back-off would be no bound to go by: RetryLater may ask for a day, and a policy of one's own for more.
    """
    if ended_at <= now + EXPLAINED:
        return None
    return now + max(0.0, run_at - ended_at)


def retry_after_of(error: BaseException | None) -> float | None:
    """The `retry_after` an error carries, in seconds, when it is a sane number."""
    return _seconds(error, "retry_after")


def _seconds(error: BaseException | None, name: str) -> float | None:
    try:
        value: Any = getattr(error, name, None)
        number = issubclass(type(value), (int, float)) and type(value) is not bool and 0 <= value < math.inf
        return float(value) if number else None
    except BaseException:  # noqa: BLE001  # a stranger's attribute may raise anything
        return None
