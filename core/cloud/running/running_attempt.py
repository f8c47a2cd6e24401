"""Attempts in flight: what this process holds, and who settles each of them, once."""

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from core.cloud.handlers.registry import Handler
from core.cloud.handlers.task_context import TaskContext
from core.cloud.running.rest import Rest
from core.cloud.store_contract import Claim
from core.json_types import Json

AttemptKey = tuple[str, int]
"""Task id and attempt number: the fence of one lease."""


class StopReason(Enum):
    """Why an attempt is to stop before its handler is done."""

    TIMEOUT = "timed out"
    LOST = "no longer ours"
    CUT = "cut off"


class AsyncPlace(Protocol):
    """The event loop that an async attempt runs on."""

    def cancel(self, attempt: "RunningAttempt") -> None: ...

    def recall(self) -> "list[RunningAttempt]": ...

    def close(self) -> None: ...


class RunningAttempt:
    """One attempt, from its claim to its settlement. A plain record: RunningAttempts, Executor and AsyncExecutor act on it."""

    __slots__ = (
        "begun",
        "cancel_seen",
        "claim",
        "claimed_at",
        "context",
        "done",
        "executor",
        "handler",
        "has_slot",
        "key",
        "kill",
        "lease_until",
        "left_behind",
        "payload",
        "rest",
        "resting",
        "settled",
        "stop_reason",
        "task",
        "timeout",
    )

    def __init__(self, claim: Claim, handler: Handler, claimed_at: float, lease_until: float = math.inf) -> None:
        self.claim = claim
        self.handler = handler
        self.key: AttemptKey = (claim.task_id, claim.attempt)
        self.payload: Json = None
        self.context: TaskContext | None = None
        self.timeout = claim.timeout if claim.timeout is not None else handler.timeout
        self.claimed_at = claimed_at
        """Monotonic."""
        self.lease_until = lease_until
        """Epoch seconds, as far as this process knows; another process may hold the task from then on."""
        self.has_slot = False
        """True once it has a slot; until then it was only claimed."""
        self.done = False
        """True once its handler has ended, or its event loop or thread has done with it in another way."""
        self.left_behind = False
        """True when it was settled while its thread went on."""
        self.settled = False
        self.resting = False
        """True while its handler waits in the pool: it is held, and has no slot."""
        self.rest: Rest | None = None
        """What the pool tells it, once it is has_slot."""
        self.stop_reason: StopReason | None = None
        self.executor: AsyncPlace | None = None
        """The event loop it was given to, when its handler is async."""
        self.begun = False
        """True once its event loop has made its first step."""
        self.task: asyncio.Task[None] | None = None
        self.cancel_seen = False
        """True once its event loop has acted on a cancellation."""
        self.kill: Callable[[], None] | None = None
        """Kills its child process, when it has one."""

    def wake(self) -> bool:
        """Have what waits for it in the pool end; False when nothing does."""
        return self.rest is not None and self.rest.wake()

    def unwanted(self) -> bool:
        """True once its result is no longer wanted."""
        return self.stop_reason is not None


class RunningAttempts:
    """The attempts this process holds. Thread-safe; each attempt is taken out exactly once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._held: dict[AttemptKey, RunningAttempt] = {}
        self._resting: Counter[str] = Counter()
        self.resting = 0
        """How many of those held wait in the pool, without a slot."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def busy(self) -> int:
        """How many have a slot, or wait for one."""
        return len(self._held) - self.resting

    def add(self, attempt: RunningAttempt) -> None:
        with self._lock:
            self._held[attempt.key] = attempt

    def take(self, attempt: RunningAttempt) -> bool:
        """Take it out to settle it; False when somebody already did, and then its result counts for nothing."""
        with self._lock:
            if attempt.settled:
                return False
            attempt.settled = True
            if attempt.resting:
                self._wake(attempt)
            del self._held[attempt.key]
            if not self._held:
                self._empty.notify_all()
            return True

    def rest(self, attempt: RunningAttempt) -> int:
        """Its handler waits in the pool; how many of this handler then do, 0 when it is settled already."""
        with self._lock:
            if attempt.settled or attempt.resting:
                return 0
            attempt.resting = True
            self.resting += 1
            self._resting[attempt.claim.name] += 1
            return self._resting[attempt.claim.name]

    def go_on(self, attempt: RunningAttempt) -> int:
        """Its handler waits no longer; how many of this handler did, 0 when it was settled meanwhile."""
        with self._lock:
            return self._wake(attempt)

    def _wake(self, attempt: RunningAttempt) -> int:
        if not attempt.resting:
            return 0
        attempt.resting = False
        self.resting -= 1
        name = attempt.claim.name
        count = self._resting[name]
        self._resting[name] -= 1
        if count == 1:
            del self._resting[name]
        return count

    def resting_at_least(self, count: int) -> frozenset[str]:
        """Names of the handlers of which so many wait in the pool."""
        if self.resting < count:
            return frozenset()
        with self._lock:
            return frozenset(name for name, resting in self._resting.items() if resting >= count)

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is in flight; True when that came."""
        with self._lock:
            return self._empty.wait_for(lambda: not self._held, timeout)

    def get(self, key: AttemptKey) -> RunningAttempt | None:
        return self._held.get(key)

    def all(self) -> list[RunningAttempt]:
        with self._lock:
            return list(self._held.values())

    def of_tasks(self, task_ids: tuple[str, ...]) -> list[RunningAttempt]:
        """Those that run one of these tasks."""
        wanted = set(task_ids)
        return [attempt for attempt in self.all() if attempt.claim.task_id in wanted]
