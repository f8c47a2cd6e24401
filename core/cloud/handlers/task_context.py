"""What a handler is told about the task it runs, and how it reports back."""

import math
from collections.abc import Callable, Mapping

from core.cloud.gate import Grant
from core.errors import InvalidArgument
from core.json_types import Json
from core.safe_text import repr_of, text_of

ProgressSink = Callable[[float | None, str], None]

LONGEST_MESSAGE = 500
"""Characters of a progress message that are kept."""


def _share(share: float) -> float | None:
    try:
        done = float(share)
    except (TypeError, ValueError, OverflowError):
        done = -1.0
    if math.isnan(done):
        return None
    if not 0 <= done <= 1:
        raise InvalidArgument(
            f"Progress is a share from 0 to 1, not {repr_of(share, 60)}.", "divide by the total first."
        )
    return done


class TaskContext:
    """The second argument of a handler that takes one."""

    __slots__ = ("_cancelled", "_report", "attempt", "grant", "name", "results", "task_id")

    def __init__(
        self,
        task_id: str,
        name: str,
        attempt: int,
        *,
        results: Mapping[str, Json] | None = None,
        report: ProgressSink | None = None,
        cancelled: Callable[[], bool] | None = None,
        grant: Grant | None = None,
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.attempt = attempt
        """1 for the first attempt."""
        self.results: Mapping[str, Json] = results or {}
        """Results of the tasks it depends on, by their ids. Those of many are read from the store one at a time, when looked at."""
        self.grant = grant
        """What the gate of its handler took for this attempt; None for a handler without one."""
        self._report = report
        self._cancelled = cancelled

    def progress(self, share: float | None, message: str = "") -> None:
        """Report the share done (0 to 1, None when unknown) and a short message.

        Any number will do, NumPy's too; NaN counts as unknown. A message that is no text is written as one, what no store can
        hold (half characters, NUL) as U+FFFD. Never waits: what is written is the latest report, a few times a second at
        most. Raises InvalidArgument for a share that is no number or outside 0 to 1.
        """
        done = None if share is None else _share(share)
        if self._report is not None:
            self._report(done, text_of(message, LONGEST_MESSAGE))

    @property
    def cancelled(self) -> bool:
        """True once the result is no longer wanted (cancelled, timed out, shutting down): stop as soon as you can."""
        return self._cancelled is not None and self._cancelled()

    def __repr__(self) -> str:
        return f"TaskContext(task_id={self.task_id!r}, name={self.name!r}, attempt={self.attempt})"
