"""What a claim asks before it takes a limited task: whether it may start now. See docs/decisions/0012.

The queue knows only this file of limits: the pool has a gate for `ai_call` (`pool/gate.py`), handlers have theirs.
"""

from typing import Protocol

from core.errors import HeablcoinError


class Grant(Protocol):
    """What a gate took for one attempt before it began, such as a slot of an endpoint."""

    def give_back(self) -> None:
        """The attempt is over, or never began: what it did not use is free again. Raises nothing; a second call does nothing."""
        ...


class Gate(Protocol):
    """The limits that the tasks of some capabilities have to pass. Thread-safe."""

    def wait(self, capability: str) -> float:
        """Seconds until a task with this capability may start, as far as this process knows; 0.0 when it may now.

        `inf` when nothing but a change can open it. Cheap: asked for each claim.
        """
        ...

    def take(self, capability: str, payload: str) -> Grant | None:
        """Take what a task needs to start now, in the claim's own transaction; None when there is nothing left.

        Afterwards `wait` tells when there will be. `payload` is the task's JSON text. Raises StoreError.
        """
        ...


class Snoozed(HeablcoinError):
    """An attempt found no slot to go on with: its task goes back to where it waited, as if it had not been taken."""
