"""A slot of an endpoint that was taken for a task's first request before its attempt began."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.cloud.gate import Snoozed
from core.cloud.pool.attempt_records import AttemptRecord
from core.cloud.pool.outcome import OutcomeClass

if TYPE_CHECKING:
    from core.cloud.pool.member import Member
    from core.cloud.pool.pool import Pool, Sending

FAULTS = frozenset({OutcomeClass.TRANSIENT, OutcomeClass.ENDPOINT_FAULT})
"""What an attempt that met one of these is spent by; limits are no fault of anybody's."""


class PoolGrant:
    """Used once, or given back. Thread-safe."""

    __slots__ = ("_lock", "_pool", "_spent", "_token", "member")

    def __init__(self, pool: "Pool", member: "Member", token: int) -> None:
        self._pool, self.member, self._token = pool, member, token
        self._lock = threading.Lock()
        self._spent = False

    def begin(self) -> "Sending | None":
        """The call that the slot is for; None when it was begun or given back before."""
        return self._pool.start(self.member, self._token) if self._spend() else None

    def give_back(self) -> None:
        """Free the slot as if it had not been taken, unless its call was begun."""
        if self._spend():
            self._pool.give_back(self.member, self._token)

    def _spend(self) -> bool:
        with self._lock:
            spent, self._spent = self._spent, True
        return not spent


def met_only_limits(records: Sequence[AttemptRecord]) -> bool:
    """Whether a call's attempts so far ended by limits alone, so that its task is to wait rather than to fail."""
    return all(record.outcome is OutcomeClass.RATE_LIMITED for record in records)


def met_a_fault(records: Sequence[AttemptRecord]) -> bool:
    """Whether one of a call's attempts so far ended by a fault."""
    return any(record.outcome in FAULTS for record in records)


def snoozed() -> Snoozed:
    """What is raised then."""
    return Snoozed("Given back: no endpoint is free for it now.")
