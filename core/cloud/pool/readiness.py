"""Loads what calls need before they take slots: a request that is late behind its slot crowds the next window."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.pool import Pool
from core.cloud.pool.selection import Roster
from core.daemon_threads import THREADS
from core.errors import InvalidArgument

log = logging.getLogger(__name__)


class Readiness:
    """Whether everything is there that calls of the pool's endpoints need. Thread-safe.

    `loaded` says whether an endpoint's provider is there, `load` makes it (an HTTP engine is imported: a third of a second, more
    on a busy machine) or raises InvalidArgument when there is no such provider, which the call itself will tell.
    """

    def __init__(
        self, pool: Pool, loaded: Callable[[ApiEndpoint], bool], load: Callable[[ApiEndpoint], object]
    ) -> None:
        self._pool, self._loaded, self._load = pool, loaded, load
        self.begin_anew()

    def begin_anew(self) -> None:
        """In a forked child nothing is loaded, and nobody is loading."""
        self._lock = threading.Lock()
        self._ready_for: Roster | None = None
        self._loading = False

    def make(self) -> None:
        """Load what is missing, and return when it is there."""
        roster = self._pool.roster
        if roster is not self._ready_for:
            for member in roster.members:
                with suppress(InvalidArgument):
                    self._load(member.endpoint)
            self._ready_for = roster

    def made(self) -> bool:
        """Whether nothing is missing. What is gets loaded in a thread, after which those who wait for endpoints are told. Never waits."""
        roster = self._pool.roster
        if roster is self._ready_for:
            return True
        if all(self._loaded(member.endpoint) for member in roster.members):
            self._ready_for = roster
            return True
        with self._lock:
            begins, self._loading = not self._loading, True
        if begins:
            try:
                THREADS.run(self._make_and_tell)
            except OSError as error:
                log.warning("%s: what calls need is loaded while the queue waits", error)
                self._make_and_tell()
        return roster is self._ready_for

    def _make_and_tell(self) -> None:
        try:
            self.make()
        except Exception:
            # Calls will say it again, as their own failure; they are not held back for it.
            log.exception("what calls of the pool need could not be loaded")
            self._ready_for = self._pool.roster
        finally:
            self._loading = False
        self._pool.tell()
