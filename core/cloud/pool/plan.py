"""What a caller asked of the pool. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.cloud.pool.grant import PoolGrant
from core.cloud.pool.pool import NO_USAGE, ReportedUsage

if TYPE_CHECKING:
    from core.cloud.chat import ChatRequest


def no_usage(_result: object, _epoch: float) -> ReportedUsage:
    """For results that tell nothing."""
    return NO_USAGE


@dataclass(slots=True)
class CallPlan:
    """What the caller asked for."""

    strategy: str = "priority"
    max_attempts: int = 3
    backoff_factor: float = 1.5
    deadline: float = 120.0
    """Seconds for everything: waits, attempts, hedges."""
    endpoint: str = ""
    """Only this one; '' for any."""
    hedge_after: float | str | None = None
    keep_open: bool = False
    """A success is the beginning of a stream: the caller settles its sending at the end."""
    model: str = ""
    """The model that the call names; '' for each endpoint's own."""
    needs: frozenset[str] = frozenset()
    """Fields without which the answer means something else: endpoints that are known to refuse them are asked last."""
    patient: bool = False
    """It waits for the endpoints of the first priority that are able, where a limit keeps it from them; else others are asked."""
    grant: PoolGrant | None = None
    """The slot of a task's first request. A call that has one raises Snoozed where it would wait for a limit."""
    request: "ChatRequest | None" = None
    """What is going to be sent, where that is known: it tells how many tokens to reserve."""
    usage_of: Callable[[Any, float], ReportedUsage] = no_usage
    """What a result says about tokens and limits; the number is the time (epoch)."""
