"""What an attempt needs before its handler can begin: its payload with references filled in, and its context."""

from collections.abc import Callable, Mapping
from functools import partial

from core.cloud.handlers.task_context import TaskContext
from core.cloud.queue.graph import resolve
from core.cloud.running.running_attempt import RunningAttempt
from core.cloud.running.stored_results import results_of
from core.cloud.store_contract import TaskStore
from core.json_types import Json, loads

Report = Callable[[RunningAttempt, float | None, str], None]


def load(attempt: RunningAttempt, tasks: TaskStore, report: Report) -> None:
    """Fill in `attempt.payload` and `attempt.context`. Raises Permanent for a reference that leads nowhere, StoreError."""
    claim, handler = attempt.claim, attempt.handler
    results: Mapping[str, Json] = {}
    if claim.depends_on and (handler.takes_context or "${" in claim.payload):
        results = results_of(tasks, claim.depends_on)
    payload = loads(claim.payload)
    attempt.payload = resolve(payload, results) if "${" in claim.payload else payload
    if handler.takes_context:
        attempt.context = TaskContext(
            claim.task_id,
            claim.name,
            claim.attempt,
            results=results,
            report=partial(report, attempt),
            cancelled=attempt.unwanted,
            grant=claim.grant,
        )
