"""One client for each event loop: a connection belongs to the loop it was opened in."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    async def aclose(self) -> None: ...


Client = TypeVar("Client", bound=Closable)

_OPEN: dict[AsyncGenerator[None, None], asyncio.AbstractEventLoop] = {}
"""Keeps clients alive until they are closed: the garbage collector must not take one in the moment its loop ends."""
_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):

    def _begin_anew() -> None:
        global _LOCK  # noqa: PLW0603 - in a forked child the lock may be held by a thread that is not there
        _LOCK = threading.Lock()

    os.register_at_fork(after_in_child=_begin_anew)


class PerLoop(Generic[Client]):
    """Makes a client at its first use in a loop and closes it with `aclose` or, by itself, when that loop ends.

    The closing rides on an asynchronous generator: `asyncio.run` and every runner like it finalise those
    (`loop.shutdown_asyncgens`) as their last act, so callers who never close anything leave no open socket either.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._clients: dict[asyncio.AbstractEventLoop, tuple[Client, AsyncGenerator[None, None]]] = {}

    async def get(self) -> Client:
        """The running loop's client."""
        loop = asyncio.get_running_loop()
        known = self._clients.get(loop)
        if known is not None:
            return known[0]
        client = self._make()
        closer = self._until_closed(loop, client)
        with _LOCK:
            for ended in [other for other in self._clients if other.is_closed()]:
                del self._clients[ended]
            for left in [other for other, its_loop in _OPEN.items() if its_loop.is_closed()]:
                del _OPEN[left]
            self._clients[loop] = (client, closer)
            _OPEN[closer] = loop
        await anext(closer)
        return client

    async def aclose(self) -> None:
        """Close the running loop's client; the next `get` makes a new one."""
        with _LOCK:
            known = self._clients.pop(asyncio.get_running_loop(), None)
        if known is not None:
            await known[1].aclose()
            with _LOCK:
                _OPEN.pop(known[1], None)

    async def _until_closed(self, loop: asyncio.AbstractEventLoop, client: Client) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with _LOCK:
                self._clients.pop(loop, None)
            await client.aclose()
