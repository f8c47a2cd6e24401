"""`get_stats()`: what the pool did and how it is, as plain JSON values."""

from core.clock import to_iso
from core.cloud.endpoint import ApiEndpoint, ApiStatus
from core.cloud.pool.latency import percentile
from core.cloud.pool.member import Member
from core.cloud.pool.pool import Pool
from core.cloud.pool.tally import Spending, Tally
from core.cloud.replies.adaptation import described
from core.json_types import JsonObject

NONE_YET = "n/a"
"""Where a rate or an average has no call to be made of."""


def pool_stats(pool: Pool) -> JsonObject:
    """Sums over the pool and a table of its endpoints, by priority."""
    members = sorted(pool.members.values(), key=lambda member: (member.endpoint.priority, member.name))
    now, epoch = pool.looked_at(), pool.clock.now()
    totals = {member.name: member.state.totals() for member in members}
    everything = Tally()
    for tally in totals.values():
        everything.merge(tally)
    statuses = [member.status(now) for member in members]
    return {
        "total_endpoints": len(members),
        "active_endpoints": sum(status in {ApiStatus.ACTIVE, ApiStatus.DEGRADED} for status in statuses),
        **_counts(everything),
        "endpoints": {
            member.name: _endpoint_stats(member, status, totals[member.name], now, epoch)
            for member, status in zip(members, statuses, strict=True)
        },
    }


def _endpoint_stats(member: Member, status: ApiStatus, tally: Tally, now: float, epoch: float) -> JsonObject:
    endpoint, state = member.endpoint, member.state
    decided = tally.successes + tally.failures
    limit = endpoint.max_requests_per_minute
    used = state.used(now)
    return {
        "status": status.value,
        "success_rate": f"{tally.successes / decided:.1%}" if decided else NONE_YET,
        "avg_latency": f"{tally.seconds / tally.successes:.2f}s" if tally.successes else NONE_YET,
        "rate_limit": f"{used}/{limit or 'unlimited'}",
        **_tokens(member, now),
        "provider": endpoint.provider,
        "base_url": endpoint.base_url,
        "model": endpoint.model,
        "priority": endpoint.priority,
        "adapted": list(described(endpoint.adapted, endpoint.model)),
        "usable": not member.keyless,
        "why_not": member.why_not(now),
        "cooldown_seconds": round(max(0.0, member.ready_at - now), 3),
        "in_flight": state.in_flight,
        **_counts(tally),
        "today": _today(endpoint, state.spending(epoch)),
        "last_error": tally.last_error,
        "last_error_at": to_iso(tally.last_error_at or None),
        "last_used_at": to_iso(tally.last_used_at or None),
    }


def _tokens(member: Member, now: float) -> JsonObject:
    limit = member.endpoint.max_tokens_per_minute
    return {"token_limit": f"{member.state.used_tokens(now)}/{limit}"} if limit else {}


def _counts(tally: Tally) -> JsonObject:
    return {
        "calls": tally.calls,
        "successes": tally.successes,
        "failures": tally.failures,
        "outcomes": dict(tally.by_outcome()),
        "p50_latency": _rounded(percentile(tally.buckets, 0.50)),
        "p95_latency": _rounded(percentile(tally.buckets, 0.95)),
        "p99_latency": _rounded(percentile(tally.buckets, 0.99)),
        "tokens_in": tally.tokens_in,
        "tokens_out": tally.tokens_out,
        "cost": round(tally.cost, 9),
    }


def _today(endpoint: ApiEndpoint, spent: Spending) -> JsonObject:
    return {
        "requests": spent.requests,
        "tokens": spent.tokens,
        "cost": round(spent.cost, 9),
        "max_requests": endpoint.max_requests_per_day,
        "max_tokens": endpoint.max_tokens_per_day,
        "max_cost": endpoint.max_cost_per_day,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
