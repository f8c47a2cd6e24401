"""How often and how long a call may try: the bounds of what a caller may ask for. Pure."""

from core.cloud.pool.endpoint import is_whole
from core.errors import InvalidArgument

MOST_ATTEMPTS = 100


def check_bounds(max_retries: object, deadline: object) -> None:
    """Raise InvalidArgument for a number of attempts or a deadline (seconds, None for the default) that no call can have."""
    if not is_whole(max_retries) or not 1 <= max_retries <= MOST_ATTEMPTS:  # type: ignore[operator]
        raise InvalidArgument(
            f"max_retries must be a whole number from 1 to {MOST_ATTEMPTS}, not {max_retries!r}.",
            "it counts attempts in all: 3 means one call and at most two more",
        )
    if deadline is not None and not 0 < deadline < float("inf"):  # type: ignore[operator]
        raise InvalidArgument(f"deadline must be seconds above 0, not {deadline!r}.", "give seconds, such as 60")
