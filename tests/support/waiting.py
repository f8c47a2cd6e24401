"""Waiting for something to become true, instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LONGEST = 10.0
"""Seconds; far more than anything takes on a busy machine, and only spent when a test fails."""


def wait_until(condition: Callable[[], T], what: str, timeout: float = LONGEST) -> T:
    """The first true value of `condition`; AssertionError naming `what` when it does not come in time."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.005)
