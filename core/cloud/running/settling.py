"""From how a handler ended to what becomes of its task. No I/O: the settlement is written elsewhere."""

import logging
import random

from core.clock import Clock
from core.cloud.retry import RetryPolicy, decide, retries_used
from core.cloud.running.isolated_error import IsolatedError
from core.cloud.store_contract import Claim, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus
from core.errors import HeablcoinError, InvalidArgument, Permanent, TaskSignal
from core.json_types import dumps, plain_dumps
from core.redaction import KNOWN_SECRETS, redact
from core.safe_text import LONGEST_TEXT, encodable, leaves, origin_of, text_of, type_name
from core.safe_text import describe as text_of_error

log = logging.getLogger(__name__)

LARGEST_RESULT = 1024 * 1024
"""Bytes of JSON a task may return."""
KEPT_OF_A_LARGE_RESULT = 64 * 1024
"""Bytes of the JSON of a larger result that stay readable."""
LONGEST_ERROR = 2_000
"""Characters of an error that are kept."""
LONGEST_CAUSE = 500
"""Characters of an error of ours that the log has."""
MOST_CAUSES = 3
"""Errors of ours inside one group that the log names."""


class TooLarge(Permanent):
    """A result is larger than a task may have. `start` is the beginning of its JSON text."""

    def __init__(self, message: str, fix: str = "", *, start: str = "") -> None:
        super().__init__(message, fix)
        self.start = start


class Settler:
    """Makes settlements for one worker."""

    def __init__(self, worker: str, policy: RetryPolicy, clock: Clock, rng: random.Random) -> None:
        self._worker = worker
        self._policy = policy
        self._clock = clock
        self._rng = rng

    def returned(self, claim: Claim, value: object) -> Settlement:
        """The handler returned `value`; what cannot be written or is too large fails the task for good."""
        try:
            text = result_text(value)
        except Exception as error:  # noqa: BLE001  # MemoryError too: whatever it is, the attempt is over
            return self.raised(claim, error)
        return Settlement(
            claim.task_id, claim.attempt, self._worker, AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, text
        )

    def raised(self, claim: Claim, error: BaseException) -> Settlement:
        """The handler raised `error`: the task runs again later, or has failed."""
        settlement = self._failure(claim, error, AttemptOutcome.FAILED, describe(error))
        if type(error) is TooLarge:
            settlement.result = dumps(error.start)
        log.info(
            "task %s (%s) attempt %d failed with %s: %s",
            claim.task_id,
            claim.name,
            claim.attempt,
            cause(error),
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

    def interrupted(self, claim: Claim, why: str | None = None) -> Settlement:
        """The attempt was cut off through no fault of its own: at once available again, and free."""
        return Settlement(
            claim.task_id, claim.attempt, self._worker, AttemptOutcome.INTERRUPTED, TaskStatus.PENDING, error=why
        )

    def untold(self, claim: Claim, error: BaseException) -> Settlement:
        """How the attempt ended could not be worked out, because of `error`: failed, with the least that can be said."""
        return Settlement(
            claim.task_id,
            claim.attempt,
            self._worker,
            AttemptOutcome.FAILED,
            TaskStatus.FAILED,
            error=f"The handler ended, but how could not be worked out ({type_name(error)}).",
        )

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
    """A handler's value as JSON text (see `plain_dumps`); Permanent when it cannot be written or is too large to keep."""
    if value is None:
        return "null"
    try:
        text = plain_dumps(value, "What the handler returned", show=True)
    except InvalidArgument as error:
        raise Permanent(error.message, error.fix) from None
    if len(text) > LARGEST_RESULT // 4 and len(encoded := text.encode()) > LARGEST_RESULT:
        raise TooLarge(
            f"The handler returned {len(encoded):,} bytes of JSON; a result may have {LARGEST_RESULT:,}. "
            f"Its first {KEPT_OF_A_LARGE_RESULT:,} bytes are kept as the task's result, as text.",
            "write large data to a file and return its path.",
            start=encoded[:KEPT_OF_A_LARGE_RESULT].decode(errors="ignore"),
        )
    return text


def describe(error: BaseException) -> str:
    """An error as it is kept with the task: type and message, bounded, secrets taken out, such as any store can hold."""
    if type(error) is TooLarge:
        text = f"Permanent: {error}"
    else:
        text = text_of(error).strip() if type(error) is IsolatedError else text_of_error(error)
    # Redacted before it is cut, so that no half of a key survives at the edge.
    return encodable(redact(text[:LONGEST_TEXT], KNOWN_SECRETS.values())[:LONGEST_ERROR])


def cause(error: BaseException) -> str:
    """What went wrong, in one line for the log.

    An error of ours is told by what it says (which endpoint, what kind of failure, which status): it was raised at a line of
    ours, which tells nobody anything. Of others only type and line are told, because their text may quote a caller's data.
    """
    ours = [one for one in leaves(error) if issubclass(type(one), HeablcoinError)]
    said = "; ".join(text_of(one) for one in ours[:MOST_CAUSES])
    named = type_name(error)
    if not ours or any(issubclass(type(one), TaskSignal) for one in ours):
        named = f"{named} at {origin_of(error)}"  # who raises a signal is a handler: perhaps the user's
    if not said:
        return named
    # Redacted before it is cut, so that no half of a key survives at the edge.
    said = redact(" ".join(said.split()), KNOWN_SECRETS.values())
    return encodable(f"{named}: {said if len(said) <= LONGEST_CAUSE else said[: LONGEST_CAUSE - 3] + '...'}")


def fate(settlement: Settlement, now: float) -> str:
    """What becomes of the task, for the log."""
    if settlement.status is TaskStatus.PENDING and settlement.run_at is not None:
        return f"again in {max(0.0, settlement.run_at - now):.1f} s"
    return "no retries left, task failed" if settlement.status is TaskStatus.FAILED else settlement.status.value
