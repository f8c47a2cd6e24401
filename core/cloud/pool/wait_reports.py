"""Who learns that a call of the pool waits: whoever runs the code that makes it.

The pool knows nothing of tasks. A host, such as the runner of tasks, stands in the context in which it runs somebody's code;
calls made in that context tell it when they wait and when they ask an endpoint. Threads and event loops that carry the call
on (`asyncio.to_thread`, the portal of `ApiManager.chat`) take the context with them; child processes do not.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Protocol

from core.clock import Clock, SystemClock
from core.errors import LeaseLost

WORTH_TELLING = 0.03
"""Seconds: a wait that is shorter in all is not told."""


class Host(Protocol):
    """Runs the code that calls the pool. Thread-safe; nothing here waits or raises."""

    @property
    def unwanted(self) -> bool:
        """Nobody wants any longer what that code does: what waits for it is to end."""
        ...

    def count(self, *, asking: int, waiting: int) -> None:
        """So many more calls (below 0: fewer) ask an endpoint, and wait."""
        ...

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake`, from any thread, once it is unwanted."""
        ...

    def unlisten(self, wake: Callable[[], None]) -> None: ...


_HOST: ContextVar[tuple[int, Host] | None] = ContextVar("heablcoin_cloud_host", default=None)
"""With the number of forks before: a fork inherits the context, and nothing of what runs its parent's tasks."""

_forks = 0


def tell(host: Host | None) -> None:
    """Calls made in this context from here on tell `host`, and nobody when it is None: for a context that ends with the code it is for."""
    _HOST.set(None if host is None else (_forks, host))


class told_to:  # noqa: N801 - read as `with told_to(host):`; a generator would take several times as long, for every task
    """The same until the block ends."""

    __slots__ = ("_host", "_token")

    def __init__(self, host: Host | None) -> None:
        self._host = host

    def __enter__(self) -> None:
        self._token = _HOST.set(None if self._host is None else (_forks, self._host))

    def __exit__(self, *failure: object) -> None:
        _HOST.reset(self._token)


class _Does(Enum):
    NEITHER = (0, 0)
    ASKS = (1, 0)
    WAITS = (0, 1)


class Presence:
    """One call of the pool, as its host sees it.

    It waits from its first pause until it asks an endpoint: what it does in between, such as looking whether a slot came free,
    is part of the wait.
    """

    __slots__ = ("_clock", "_does", "_host", "_since")

    def __init__(self, host: Host | None, clock: Clock) -> None:
        self._host, self._clock = host, clock
        self._does = _Does.NEITHER
        self._since: float | None = None
        """Monotonic time of the first pause since it asked."""

    def asks(self) -> None:
        """It asks an endpoint from here on."""
        if self._host is not None:
            self._since = None
            self._becomes(self._host, _Does.ASKS)

    @contextmanager
    def pauses(self, seconds: float, wake: Callable[[], None]) -> Iterator[None]:
        """Around a pause, which `wake` ends early. Raises LeaseLost at its end when what the call is for is unwanted."""
        host = self._host
        if host is None:
            yield
            return
        now = self._clock.monotonic()
        self._since = now if self._since is None else self._since
        if now + seconds - self._since >= WORTH_TELLING:
            self._becomes(host, _Does.WAITS)
        host.listen(wake)
        try:
            yield
        finally:
            host.unlisten(wake)
        if host.unwanted:
            raise LeaseLost("The attempt that this call of the pool waited for is over.", "let the handler end.")

    def over(self) -> None:
        """The call has ended. A second time it does nothing."""
        if self._host is not None:
            self._becomes(self._host, _Does.NEITHER)

    def _becomes(self, host: Host, does: _Does) -> None:
        if does is self._does:
            return
        (asked, waited), (asks, waits) = self._does.value, does.value
        self._does = does
        host.count(asking=asks - asked, waiting=waits - waited)


_NOBODYS = Presence(None, SystemClock())


def attend(clock: Clock) -> Presence:
    """The presence of a call that begins here."""
    here = _HOST.get()
    return _NOBODYS if here is None or here[0] != _forks else Presence(here[1], clock)


def _forked() -> None:
    global _forks  # noqa: PLW0603
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
