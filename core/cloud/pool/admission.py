"""Whether an endpoint takes a call now, and if not, why and until when. Pure; asked by every state of an endpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.health import Health
from core.cloud.pool.tally import DAY, Spending

BUSY_POLL = 0.02
"""Seconds after which a full endpoint is asked again; a call's end is not announced to other processes."""


class Refusal(StrEnum):
    """Why an endpoint does not take a call now."""

    HELD = "held"
    PROBING = "probing"
    LIMITED = "rate limit"
    POOL = "the pool's limit"
    TOKENS = "token limit"
    BUSY = "busy"
    SPENT = "daily limit"
    AWAITED = "a direct call comes first"
    REMOVED = "removed"


MINUTES = frozenset({Refusal.LIMITED, Refusal.POOL})
"""Limits of what starts in a minute: only time frees their slots, and calls that never left."""

ENDS = frozenset({Refusal.BUSY, Refusal.TOKENS})
"""Limits that the end of any call may open."""


@dataclass(frozen=True, slots=True)
class Refused:
    """No slot was taken."""

    why: Refusal
    until: float
    """Pool time from which asking again makes sense."""
    detail: str = ""
    """Which limit, in words."""
    each_minute: int = 0
    """How many calls it lets start in a minute, where it is such a limit."""

    def __str__(self) -> str:
        if self.why is Refusal.SPENT and self.detail:
            return f"{self.why} ({self.detail})"
        return self.detail or str(self.why)


def limited(endpoint: ApiEndpoint, until: float) -> Refused:
    """The endpoint's slots of the last minute are all taken."""
    most = endpoint.max_requests_per_minute
    return Refused(Refusal.LIMITED, until, f"{Refusal.LIMITED} of {most} a minute", most)


def pool_limited(limit: int, until: float) -> Refused:
    """The whole pool's slots of the last minute are all taken."""
    return Refused(Refusal.POOL, until, f"{Refusal.POOL} of {limit} a minute", limit)


def token_limited(endpoint: ApiEndpoint, until: float) -> Refused:
    """Too few of the endpoint's tokens of the last minute are left for this call; a smaller one may find enough."""
    return Refused(Refusal.TOKENS, until, f"limit of {endpoint.max_tokens_per_minute:,} tokens a minute")


def refusal(
    endpoint: ApiEndpoint,
    health: Health,
    *,
    opens: float,
    now: float,
    epoch: float,
    in_flight: Callable[[], int],
    spent: Callable[[], Spending],
) -> Refused | None:
    """Why the endpoint takes no call now, before any window is asked for a slot; None when nothing speaks against it.

    `opens` is the pool time at which its health lets this call in. What is in flight (over all that share the state) and spent today is asked
    only where it counts.
    """
    if opens > now:
        return Refused(Refusal.HELD if health.held_until > now else Refusal.PROBING, opens)
    if endpoint.max_concurrency and in_flight() >= endpoint.max_concurrency:
        return Refused(Refusal.BUSY, now + BUSY_POLL)
    if has_daily_limit(endpoint):
        over = over_daily_limit(endpoint, spent())
        if over:
            return Refused(Refusal.SPENT, until_tomorrow(now, epoch), over)
    return None


def over_daily_limit(endpoint: ApiEndpoint, spent: Spending) -> str:
    """Which daily limit the endpoint has reached, in words; '' for none."""
    if endpoint.max_requests_per_day and spent.requests >= endpoint.max_requests_per_day:
        return f"{spent.requests} of {endpoint.max_requests_per_day} requests used today"
    if endpoint.max_tokens_per_day and spent.tokens >= endpoint.max_tokens_per_day:
        return f"{spent.tokens} of {endpoint.max_tokens_per_day} tokens used today"
    if endpoint.max_cost_per_day and spent.cost >= endpoint.max_cost_per_day:
        return f"{spent.cost:.4g} of {endpoint.max_cost_per_day:g} spent today"
    return ""


def has_daily_limit(endpoint: ApiEndpoint) -> bool:
    return bool(endpoint.max_requests_per_day or endpoint.max_tokens_per_day or endpoint.max_cost_per_day)


def is_unlimited(endpoint: ApiEndpoint) -> bool:
    """Nothing about it is counted before a call."""
    return not (
        endpoint.max_requests_per_minute
        or endpoint.max_tokens_per_minute
        or endpoint.max_concurrency
        or has_daily_limit(endpoint)
    )


def until_tomorrow(now: float, epoch: float) -> float:
    """Pool time at which the next UTC day begins."""
    return now + DAY - epoch % DAY
