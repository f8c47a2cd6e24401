"""What a person or an agent outside any runner may claim and report. Pure."""

from collections.abc import Collection

from core.cloud.queue.submission import check_name
from core.cloud.store_contract import ClaimRequest, StatusReport
from core.cloud.task import HELD, Task, TaskStatus
from core.errors import InvalidArgument
from core.json_types import plain_dumps
from core.safe_text import encodable

MANUAL_LEASE = 3600.0
"""Seconds for which a task set to running by hand is held, when it has no timeout of its own."""
AGENT_LEASE = 900.0
"""Seconds an agent that claimed a task has until its next report."""
LONGEST_LEASE = 86_400.0


def claim_request(worker: object, names: Collection[str] | None, limit: int, lease: float) -> ClaimRequest:
    """A claim of ready tasks for `lease` seconds; InvalidArgument for values that cannot be used."""
    if not 1 <= lease <= LONGEST_LEASE:
        raise InvalidArgument(f"The lease is {lease!r} seconds.", f"use 1 to {LONGEST_LEASE:,.0f} seconds.")
    wanted = None if names is None else tuple(check_name(name) for name in names)
    return ClaimRequest(check_worker(worker), wanted, limit, lease, TaskStatus.ACKNOWLEDGED)


def status_report(
    task: Task,
    status: TaskStatus,
    result: object,
    error: str | None,
    *,
    worker: object,
    attempt: int | None,
    progress: float | None,
    progress_message: str | None,
) -> StatusReport:
    """A report on `task`; InvalidArgument for values that do not go together."""
    _check_report(status, result, error, progress)
    return StatusReport(
        task.task_id,
        status,
        check_worker(worker),
        attempt,
        result=plain_dumps(result, "The result") if status is TaskStatus.COMPLETED else None,
        error=None if error is None else encodable(error),
        lease=(task.timeout or MANUAL_LEASE) if status in HELD else MANUAL_LEASE,
        progress=progress,
        progress_message=None if progress_message is None else encodable(str(progress_message)),
    )


def check_worker(worker: object) -> str:
    """The name of a worker, or InvalidArgument."""
    if not isinstance(worker, str) or not 1 <= len(worker) <= 200 or not worker.isprintable():
        raise InvalidArgument("A worker's name is 1 to 200 printable characters.", "use a name such as claude-1.")
    return worker


def _check_report(status: TaskStatus, result: object, error: object, progress: object) -> None:
    if result is not None and status is not TaskStatus.COMPLETED:
        raise InvalidArgument(f"A task that is {status} has no result.", "give a result with status completed only.")
    if error is not None and (not isinstance(error, str) or status is TaskStatus.COMPLETED):
        raise InvalidArgument("An error is a text that goes with a status other than completed.", "leave error out.")
    if progress is not None:
        number = isinstance(progress, (int, float)) and not isinstance(progress, bool)
        if not number or not 0 <= progress <= 1:  # type: ignore[operator]
            raise InvalidArgument(f"Progress is {progress!r}.", "give the share done, from 0 to 1.")
        if status not in HELD:
            raise InvalidArgument(f"A task that is {status} makes no progress.", "give progress with status running.")
