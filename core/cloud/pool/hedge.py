"""A budget for hedges: second calls beside slow ones must stay few. Pure.

Dean and Barroso, The Tail at Scale (CACM 2013): asking a second server when the first is slow cuts the tail for a few percent more
load, as long as the share of such requests is bounded.
"""

from core.errors import InvalidArgument

SHARE = 0.2
"""Hedges per call, in the long run."""
SAVED = 50.0
"""Hedges that may be made in a burst."""


class HedgeBudget:
    """Each call earns a share of a hedge."""

    __slots__ = ("saved",)

    def __init__(self) -> None:
        self.saved = SAVED

    def earn(self) -> None:
        self.saved = min(SAVED, self.saved + SHARE)

    def take(self) -> bool:
        """Use one hedge; False when the budget is spent."""
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True


def checked_hedge(after: object) -> float | str | None:
    """When to hedge: seconds, "p95" (slower than the endpoint's own 95th percentile), or None for never."""
    if after is None or after == "p95":
        return after
    if isinstance(after, int | float) and not isinstance(after, bool) and 0 < after < float("inf"):
        return float(after)
    raise InvalidArgument(
        f'hedge_after must be seconds above 0, or "p95", not {after!r}.', 'give seconds such as 2.5, or "p95"'
    )
