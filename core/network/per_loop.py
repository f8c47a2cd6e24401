"""One client for each event loop: a connection belongs to the loop it was opened in."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    async def aclose(self) -> None: ...


Client = TypeVar("Client", bound=Closable)


class PerLoop(Generic[Client]):
    """Makes a client at its first use in a loop and closes it with `aclose` or, by itself, when that loop ends.

    The closing rides on an asynchronous generator: `asyncio.run` and every runner like it finalise those
    (`loop.shutdown_asyncgens`) as their last act, so callers who never close anything leave no open socket either.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._entries: dict[asyncio.AbstractEventLoop, tuple[Client, AsyncGenerator[None, None]]] = {}

    async def get(self) -> Client:
        """The running loop's client."""
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        if entry is None:
            client = self._make()
            entry = (client, self._until_closed(loop, client))
            with self._lock:
                for ended in [known for known in self._entries if known.is_closed()]:
                    del self._entries[ended]
                self._entries[loop] = entry
            await anext(entry[1])
        return entry[0]

    async def aclose(self) -> None:
        """Close the running loop's client; the next `get` makes a new one."""
        with self._lock:
            entry = self._entries.pop(asyncio.get_running_loop(), None)
        if entry is not None:
            await entry[1].aclose()

    async def _until_closed(self, loop: asyncio.AbstractEventLoop, client: Client) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with self._lock:
                self._entries.pop(loop, None)
            await client.aclose()
