"""Names looked up in threads of their own: a host whose look-up hangs holds up nobody but itself."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence

from core.daemon_threads import THREADS, settle

Lookup = Callable[[str, int], Sequence[str]]
"""Blocking: a host's addresses as text. Raises OSError."""

TOO_OLD = 30.0
"""Seconds after which a look-up that is still under way is not waited for by further callers: they begin another."""

_Key = tuple[Lookup, str, int]


class _Pending:
    """A look-up under way, and everybody who waits for it."""

    __slots__ = ("begun", "waiters")

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.waiters: list[asyncio.Future[Sequence[str]]] = []


class Lookups:
    """Looks names up, each once at a time however many ask for it. Thread-safe, over all event loops."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child none of the look-ups goes on."""
        self._lock = threading.Lock()
        self._under_way: dict[_Key, _Pending] = {}

    async def find(self, lookup: Lookup, host: str, port: int) -> Sequence[str]:
        """What `lookup(host, port)` gives or raises. Cancelling one caller leaves the others and the look-up alone."""
        key = (lookup, host, port)
        waiter: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()
        with self._lock:
            pending = self._under_way.get(key)
            begin = pending is None or self._clock() - pending.begun > TOO_OLD
            if pending is None or begin:
                pending = self._under_way[key] = _Pending(self._clock())
            pending.waiters.append(waiter)
        if begin:
            self._begin(key, pending)
        return await waiter

    def _begin(self, key: _Key, pending: _Pending) -> None:
        def work() -> None:
            lookup, host, port = key
            found: Sequence[str] = ()
            problem: BaseException | None = None
            try:
                found = lookup(host, port)
            except BaseException as error:  # noqa: BLE001 - whatever it raises is its callers'
                problem = error
            self._tell(key, pending, found, problem)

        try:
            THREADS.run(work)
        except OSError as error:
            self._tell(key, pending, (), error)

    def _tell(self, key: _Key, pending: _Pending, found: Sequence[str], problem: BaseException | None) -> None:
        with self._lock:
            if self._under_way.get(key) is pending:
                del self._under_way[key]
        for waiter in pending.waiters:
            settle(waiter, found, problem)


LOOKUPS = Lookups()
"""Those of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LOOKUPS.forget)
