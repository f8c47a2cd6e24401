"""What a claim asks before it takes a limited task: whether it may start now. See docs/decisions/0012.

The queue knows only this file of limits: the pool has a gate for `ai_call` (`pool/pool_gate.py`); limits of the user's own
handlers are values (`limits.py`) that the store keeps itself (`store/partitions.py`).
"""

import math
from dataclasses import dataclass
from typing import Protocol

from core.errors import HeablcoinError


@dataclass(frozen=True, slots=True)
class Closed:
    """What keeps tasks behind a gate now."""

    what: str
    """In words that follow "waits for": "deepseek's limit of 60 a minute"."""
    opens_in: float
    """Seconds; `inf` when nobody knows."""
    starts: int = 0
    """How many may start in each `every` seconds; 0 when nobody knows."""
    every: float = math.inf
    """Seconds."""

    def starts_in(self, ahead: int) -> float:
        """Seconds until a task with `ahead` others before it starts, when all goes on as it does; `inf` when nobody knows."""
        if ahead < 1:
            return self.opens_in
        return self.opens_in + ahead // self.starts * self.every if self.starts else math.inf


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

    def closed(self, capability: str) -> Closed | None:
        """What such tasks wait for, asked of the limits' own states whatever this process knew; None when they may start."""
        ...


class Snoozed(HeablcoinError):
    """An attempt found no slot to go on with: its task goes back to where it waited, as if it had not been taken."""
