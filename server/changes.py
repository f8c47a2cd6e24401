"""From a change in the queue, on any thread, to those on the event loop who wait for it."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger(__name__)


class Announces(Protocol):
    """The part of the publisher that tells of changes."""

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]: ...


@dataclass(eq=False)
class ChangeWatch:
    """One waiter: what it waits for and how it is woken."""

    task_ids: frozenset[str] | None
    """None: every task."""
    loop: asyncio.AbstractEventLoop
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    seen: set[str] = field(default_factory=set)
    """Ids that changed since the waiter last took them; '' stands for a change whose task is unknown."""

    def take(self) -> set[str]:
        """The changes so far; the next wait is for later ones. Call it on the loop."""
        self.changed.clear()
        taken, self.seen = self.seen, set()
        return taken


class ChangeFeed:
    """Wakes the waiters of a task when it changes. Waiters that miss nothing still poll slowly, as a net."""

    def __init__(self, publisher: Announces) -> None:
        self._watches: set[ChangeWatch] = set()
        self._lock = threading.Lock()
        self._unsubscribe = publisher.on_change(self._changed)

    @contextmanager
    def watch(self, task_ids: Iterable[str] | None = None) -> Iterator[ChangeWatch]:
        """A waiter for these tasks (None: all), on the running loop, from now until the block ends."""
        watch = ChangeWatch(None if task_ids is None else frozenset(task_ids), asyncio.get_running_loop())
        with self._lock:
            self._watches.add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.discard(watch)

    def announce(self) -> None:
        """Say that something changed that no publisher tells of, such as an endpoint."""
        self._changed("")

    def close(self) -> None:
        """Stop listening to the publisher."""
        self._unsubscribe()

    def _changed(self, task_id: str) -> None:
        with self._lock:
            concerned = [w for w in self._watches if not task_id or w.task_ids is None or task_id in w.task_ids]
        for watch in concerned:
            try:
                watch.loop.call_soon_threadsafe(_wake, watch, task_id)
            except RuntimeError:
                log.debug("a waiter's event loop has ended")


def _wake(watch: ChangeWatch, task_id: str) -> None:
    watch.seen.add(task_id)
    watch.changed.set()
