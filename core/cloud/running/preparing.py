"""What an attempt needs before its handler can begin: its payload with references filled in, and its context."""

from collections.abc import Callable, Mapping
from functools import partial

from core.cloud.handlers.task_context import TaskContext
from core.cloud.queue.graph import resolve
from core.cloud.running.running_attempt import Flight
from core.cloud.running.stored_results import results_of
from core.cloud.store_contract import TaskStore
from core.json_types import Json, loads

Report = Callable[[Flight, float | None, str], None]


def load(flight: Flight, tasks: TaskStore, report: Report) -> None:
    """Fill in `flight.payload` and `flight.context`. Raises Permanent for a reference that leads nowhere, StoreError."""
    claim, handler = flight.claim, flight.handler
    results: Mapping[str, Json] = {}
    if claim.depends_on and (handler.takes_context or "${" in claim.payload):
        results = results_of(tasks, claim.depends_on)
    payload = loads(claim.payload)
    flight.payload = resolve(payload, results) if "${" in claim.payload else payload
    if handler.takes_context:
        flight.context = TaskContext(
            claim.task_id,
            claim.name,
            claim.attempt,
            results=results,
            report=partial(report, flight),
            cancelled=flight.unwanted,
            grant=claim.grant,
        )
