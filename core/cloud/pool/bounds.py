"""How often and how long a call may try: the bounds of what a caller may ask for. Pure."""

from core.cloud.endpoint import is_whole
from core.errors import InvalidArgument

MOST_ATTEMPTS = 100
MOST_PER_MINUTE = 1_000_000


def check_bounds(max_retries: object, deadline: object) -> None:
    """Raise InvalidArgument for a number of attempts or a deadline (seconds, None for the default) that no call can have."""
    if not is_whole(max_retries) or not 1 <= max_retries <= MOST_ATTEMPTS:  # type: ignore[operator]
        raise InvalidArgument(
            f"max_retries must be a whole number from 1 to {MOST_ATTEMPTS}, not {max_retries!r}.",
            "it counts attempts in all: 3 means one call and at most two more",
        )
    if deadline is not None and not 0 < deadline < float("inf"):  # type: ignore[operator]
        raise InvalidArgument(f"deadline must be seconds above 0, not {deadline!r}.", "give seconds, such as 60")


def check_max_per_minute(limit: object) -> int:
    """`limit` itself; InvalidArgument unless it is a whole number of at least 0."""
    if not is_whole(limit) or not 0 <= limit <= MOST_PER_MINUTE:  # type: ignore[operator]
        raise InvalidArgument(
            f"max_per_minute must be a whole number from 0 to {MOST_PER_MINUTE:,}, not {limit!r}.",
            "give the requests that the whole pool may start in a minute, or 0 for no limit",
        )
    return limit  # type: ignore[return-value]
