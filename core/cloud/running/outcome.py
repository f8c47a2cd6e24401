"""From how a handler ended to what becomes of its task. No I/O: the settlement is written elsewhere."""

import logging
import random
import traceback

from core.clock import Clock
from core.cloud.retry import RetryPolicy, decide, retries_used
from core.cloud.running.isolated_error import IsolatedError
from core.cloud.store.base import Claim, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus
from core.errors import InvalidArgument, Permanent
from core.json_types import dumps
from core.redaction import KNOWN_SECRETS, redact

log = logging.getLogger(__name__)

LARGEST_RESULT = 1024 * 1024
"""Bytes of JSON a task may return."""
LONGEST_ERROR = 2_000
"""Characters of an error that are kept."""


class Outcomes:
    """Makes settlements for one worker."""

    def __init__(self, worker: str, policy: RetryPolicy, clock: Clock, rng: random.Random) -> None:
        self._worker = worker
        self._policy = policy
        self._clock = clock
        self._rng = rng

    def returned(self, claim: Claim, value: object) -> Settlement:
        """The handler returned `value`; what is not JSON or too large fails the task for good."""
        try:
            text = result_text(value)
        except Permanent as error:
            return self.raised(claim, error)
        return Settlement(
            claim.task_id, claim.attempt, self._worker, AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, text
        )

    def raised(self, claim: Claim, error: BaseException) -> Settlement:
        """The handler raised `error`: the task runs again later, or has failed."""
        settlement = self._failure(claim, error, AttemptOutcome.FAILED, describe(error))
        log.info(
            "task %s (%s) attempt %d failed with %s at %s: %s",
            claim.task_id,
            claim.name,
            claim.attempt,
            type(error).__name__,
            origin_of(error),
            fate(settlement, self._clock.now()),
        )
        return settlement

    def timed_out(self, claim: Claim, timeout: float | None) -> Settlement:
        """The attempt took longer than it may."""
        text = f"Timed out after {timeout:g} s." if timeout is not None else "Timed out."
        settlement = self._failure(claim, None, AttemptOutcome.TIMED_OUT, text)
        log.info(
            "task %s (%s) attempt %d timed out: %s",
            claim.task_id,
            claim.name,
            claim.attempt,
            fate(settlement, self._clock.now()),
        )
        return settlement

    def interrupted(self, claim: Claim) -> Settlement:
        """The attempt was cut off through no fault of its own: at once available again, and free."""
        return Settlement(claim.task_id, claim.attempt, self._worker, AttemptOutcome.INTERRUPTED, TaskStatus.PENDING)

    def _failure(self, claim: Claim, error: BaseException | None, outcome: AttemptOutcome, text: str) -> Settlement:
        decision = decide(
            self._policy,
            error,
            used=retries_used(claim.attempt, claim.interruptions),
            allowed=claim.max_retries,
            share=self._rng.random(),
        )
        if not decision.again:
            return Settlement(claim.task_id, claim.attempt, self._worker, outcome, TaskStatus.FAILED, error=text)
        return Settlement(
            claim.task_id,
            claim.attempt,
            self._worker,
            outcome,
            TaskStatus.PENDING,
            error=text,
            run_at=self._clock.now() + decision.wait,
        )


def result_text(value: object) -> str:
    """A handler's value as JSON text; Permanent when it is not JSON or too large to keep."""
    if value is None:
        return "null"
    try:
        text = dumps(value, "result")
    except InvalidArgument as error:
        raise Permanent(
            f"The handler returned a {type(value).__name__} that is not JSON.",
            "return only dict with text keys, list, str, finite numbers, bool or None.",
        ) from error
    if len(text) > LARGEST_RESULT // 4 and len(text.encode()) > LARGEST_RESULT:
        raise Permanent(
            f"The handler returned {len(text.encode()):,} bytes of JSON; a result may have {LARGEST_RESULT:,}.",
            "write large data to a file and return its path.",
        )
    return text


def describe(error: BaseException) -> str:
    """An error as it is kept with the task: type and message, bounded, secrets taken out."""
    message = str(error).strip()
    if isinstance(error, IsolatedError):
        text = message
    else:
        text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    # Redacted before it is cut, so that no half of a key survives at the edge.
    return redact(text[: LONGEST_ERROR * 10], KNOWN_SECRETS.values())[:LONGEST_ERROR]


def origin_of(error: BaseException) -> str:
    """Where an error was raised, as `file:line`, for the log."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"


def fate(settlement: Settlement, now: float) -> str:
    """What becomes of the task, for the log."""
    if settlement.status is TaskStatus.PENDING and settlement.run_at is not None:
        return f"again in {max(0.0, settlement.run_at - now):.1f} s"
    return "no retries left, task failed" if settlement.status is TaskStatus.FAILED else settlement.status.value
