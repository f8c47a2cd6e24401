"""How many examples a property test draws: more of them by `make property TIMES=10`."""

import os

TIMES = int(os.environ.get("TIMES", "1"))


def examples(count: int) -> int:
    """`count`, as many times as asked for."""
    return count * TIMES
