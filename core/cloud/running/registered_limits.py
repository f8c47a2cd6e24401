"""The limits of the handlers of a process: what it registered is written down, and what others registered is heard of."""

import logging
import threading
from collections.abc import Collection, Mapping

from core.clock import Clock
from core.cloud.handler_limits import HandlerLimits
from core.cloud.handlers.registry import Handler, HandlerRegistry
from core.cloud.store_contract import TaskStore

log = logging.getLogger(__name__)


class RegisteredLimits:
    """Which handlers of this process have limits. Thread-safe."""

    def __init__(self, tasks: TaskStore, handlers: HandlerRegistry, clock: Clock) -> None:
        self._tasks = tasks
        self._handlers = handlers
        self._clock = clock
        self._lock = threading.Lock()
        self._written: Mapping[str, Handler] = {}
        """The handlers whose limits are written down."""
        self._known: Mapping[str, HandlerLimits] = {}

    def bring_up_to_date(self, *, look: bool) -> bool:
        """Write down what was registered here since the last time; with `look` also hear of others. True when anything is new.

        Raises StoreError; what was not written then is with the next call.
        """
        handlers = self._handlers.snapshot()
        if not look and handlers is self._written:
            return False
        with self._lock:
            said = {
                name: handler.limits
                for name, handler in handlers.items()
                if handler.limits is not None and self._written.get(name) is not handler
            }
            before = self._known
            if said:
                there = self._tasks.limits()
                for name, limits in said.items():
                    if there.get(name, limits) != limits:
                        log.warning("the limits of %s are those of this process now: %s", name, limits)
                self._tasks.set_limits(said, self._clock.now())
            self._written = handlers
            if said or look:
                self._known = self._tasks.limits()
            return before != self._known

    def among(self, capabilities: Collection[str]) -> frozenset[str]:
        """Those of these that have limits, as far as this process knows."""
        known = self._known
        return frozenset(name for name in known if name in capabilities) if known else NONE


NONE: frozenset[str] = frozenset()
