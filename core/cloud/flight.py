"""Attempts in flight: what this process holds, and who settles each of them, once."""

import threading
from enum import Enum

from core.cloud.handlers import Handler
from core.cloud.store.base import Claim
from core.cloud.task_context import TaskContext
from core.json_types import Json

FlightKey = tuple[str, int]
"""Task id and attempt number: the fence of one lease."""


class StopReason(Enum):
    """Why an attempt is to stop before its handler is done."""

    TIMEOUT = "timed out"
    LOST = "no longer ours"
    SHUTDOWN = "shutting down"


class Flight:
    """One attempt, from its claim to its settlement. A plain record: `Flights` and the lanes act on it."""

    __slots__ = (
        "cancel_seen",
        "claim",
        "context",
        "handler",
        "key",
        "lane",
        "payload",
        "settled",
        "started",
        "stop_reason",
        "stopper",
        "timeout",
    )

    def __init__(self, claim: Claim, handler: Handler, payload: Json) -> None:
        self.claim = claim
        self.handler = handler
        self.key: FlightKey = (claim.task_id, claim.attempt)
        self.payload = payload
        self.context: TaskContext | None = None
        self.timeout = claim.timeout if claim.timeout is not None else handler.timeout
        self.started = False
        self.settled = False
        self.stop_reason: StopReason | None = None
        self.lane: object | None = None
        """The event loop thread it was given to, when it is async."""
        self.stopper: object | None = None
        """What stops it: its asyncio task, or its child process."""
        self.cancel_seen = False
        """True once its event loop has acted on a cancellation."""

    def unwanted(self) -> bool:
        """True once its result is no longer wanted."""
        return self.stop_reason is not None


class Flights:
    """The attempts this process holds. Thread-safe; each flight is taken out exactly once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._held: dict[FlightKey, Flight] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, flight: Flight) -> None:
        with self._lock:
            self._held[flight.key] = flight

    def take(self, flight: Flight) -> bool:
        """Take it out to settle it; False when somebody already did, and then its result counts for nothing."""
        with self._lock:
            if flight.settled:
                return False
            flight.settled = True
            del self._held[flight.key]
            if not self._held:
                self._empty.notify_all()
            return True

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is in flight; True when that came."""
        with self._lock:
            return self._empty.wait_for(lambda: not self._held, timeout)

    def get(self, key: FlightKey) -> Flight | None:
        return self._held.get(key)

    def all(self) -> list[Flight]:
        with self._lock:
            return list(self._held.values())

    def of_tasks(self, task_ids: tuple[str, ...]) -> list[Flight]:
        """Those that run one of these tasks."""
        wanted = set(task_ids)
        return [flight for flight in self.all() if flight.claim.task_id in wanted]
