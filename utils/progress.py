"""A one-line progress bar for people who watch a terminal; silent everywhere else."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

WIDTH = 30
REDRAW = 0.1
"""Seconds between two drawings."""


def bar_text(done: int, total: int | None, failed: int, seconds: float) -> str:
    """One line such as `[#########.....]  60/100  12.0/s  1 failed`; without the bar when the total is unknown."""
    rate = f"{done / seconds:.1f}/s" if seconds > 0 else ""
    if total is None:
        parts = [f"{done} done", rate]
    else:
        filled = WIDTH if total == 0 else WIDTH * done // total
        parts = [f"[{'#' * filled}{'.' * (WIDTH - filled)}]", f"{done:>{len(str(total))}}/{total}", rate]
    if failed:
        parts.append(f"{failed} failed")
    return "  ".join(part for part in parts if part)


class ProgressBar:
    """Draws on `stream` (stderr) when that is a terminal, at most ten times a second."""

    def __init__(
        self,
        total: int | None,
        *,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self._stream = sys.stderr if stream is None else stream
        self._visible = enabled and self._stream is not None and self._stream.isatty()
        self._clock = clock
        self._started = clock()
        self._drawn_at = float("-inf")

    def step(self, *, success: bool) -> None:
        """Count one more item."""
        self.done += 1
        self.failed += not success
        if self._visible and self._clock() - self._drawn_at >= REDRAW:
            self._draw()

    def close(self) -> None:
        """Draw the last state and leave the line."""
        if self._visible:
            self._draw()
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        text = bar_text(self.done, self.total, self.failed, self._drawn_at - self._started)
        self._stream.write(f"\r\x1b[2K{text}")
        self._stream.flush()
