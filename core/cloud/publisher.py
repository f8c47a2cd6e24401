"""The guide's basic publisher: three calls over the same queue as the enhanced one, so that old callers keep working."""

import hashlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.scheduler import CloudScheduler
from core.cloud.task import Task, TaskStatus
from core.errors import InvalidArgument
from core.json_types import dumps

__all__ = ["CloudTaskPublisher"]

TIMES = frozenset({"every", "cron", "timezone", "missed"})

Schedule = float | str | Mapping[str, object]
"""Seconds between runs, a cron expression, or `CloudScheduler.add_task` arguments: every or cron, timezone, missed."""


class CloudTaskPublisher:
    """Publish, list, update. `enhanced` is the publisher behind it, `scheduler` what keeps its schedules.

    `database` is as for EnhancedCloudTaskPublisher; a `publisher` given instead is used and not closed.
    """

    def __init__(
        self,
        database: str | None = None,
        *,
        publisher: EnhancedCloudTaskPublisher | None = None,
        scheduler: CloudScheduler | None = None,
    ) -> None:
        self._owned = publisher is None
        self.enhanced = EnhancedCloudTaskPublisher(database) if publisher is None else publisher
        self.scheduler = scheduler or CloudScheduler(self.enhanced)

    def publish(
        self,
        name: str,
        payload: object = None,
        schedule: Schedule | None = None,
        tags: str | Iterable[str] | None = None,
    ) -> Task:
        """Store a task; with `schedule` also a durable schedule, whose first run is the task that comes back.

        The same call made again changes nothing. A script starts `scheduler` to have the later runs published; the MCP
        server and `heablcoin-cloud worker` do so by themselves. Raises InvalidArgument; nothing is stored then.
        """
        if schedule is None:
            return self.enhanced.publish(name, payload, tags=tags)
        if tags is not None and not isinstance(tags, str):
            tags = list(tags)
        times = _times(schedule)
        said = dumps([name, payload, times, tags], "schedule")
        record = self.scheduler.add_task(
            f"{str(name)[:80]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}",
            payload,
            task=name,
            tags=tags,
            **times,  # type: ignore[arg-type]  # add_task checks every value
        )
        return self.enhanced.get_task(self.scheduler.publish_ahead(record.name))

    def list_tasks(self, status: str | TaskStatus | None = None, limit: int = 100) -> list[Task]:
        """Tasks, all or with one status: URGENT first, then oldest."""
        return self.enhanced.list_tasks(status=status, limit=limit)

    def update_status(
        self, task_id: str, status: str | TaskStatus, result: object = None, error: str | None = None
    ) -> Task:
        """Say what became of a task. Raises UnknownTask, InvalidTransition, InvalidArgument."""
        return self.enhanced.update_status(task_id, status, result, error)

    def close(self) -> None:
        """Stop the scheduler's thread and close what this publisher opened; a second call does nothing."""
        self.scheduler.stop()
        if self._owned:
            self.enhanced.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _times(schedule: object) -> dict[str, object]:
    """`schedule` as arguments of `CloudScheduler.add_task`."""
    if isinstance(schedule, str):
        return {"cron": schedule}
    if isinstance(schedule, int | float):
        return {"every": schedule}
    if isinstance(schedule, Mapping) and set(schedule) <= TIMES:
        return dict(schedule)
    raise InvalidArgument(
        "The schedule is neither seconds, a cron expression nor an object of times.",
        f'use 3600, "0 9 * * 1-5", or an object with some of: {", ".join(sorted(TIMES))}.',
    )
