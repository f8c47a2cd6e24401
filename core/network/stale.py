"""The race for a kept-alive connection: the server gives it up just as the next request goes out.

RFC 9112, 9.3.1 leaves it to the client: a request on a connection that was in use before, to which not one byte came
back, is sent once more on a connection of its own. The same for a 408 with which a server says that it had given up
waiting (RFC 9110, 15.5.9). Everything else is an answer, or an error to be reported.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Protocol

SOON = 5.0
"""Seconds from the request to the loss that still count as this race: what is lost later was being worked on."""


class Heard(Protocol):
    """A connection that counts what it receives."""

    heard: int
    secure: bool
    """TLS is under way on it."""


class Sent:
    """Which connection a request went out on, and what had been received on it until then."""

    __slots__ = ("_at", "_before", "_clock", "_connection")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._connection: Heard | None = None
        self._before = 0
        self._at = 0.0

    def on(self, connection: Heard) -> None:
        """To be called before the first byte of the request is written, and harmless after it."""
        if connection is not self._connection:
            self._connection, self._before, self._at = connection, connection.heard, self._clock()

    @property
    def reused(self) -> bool:
        """The connection had carried an answer before, and the request went out not long ago."""
        return self._before > 0 and self.since < SOON

    @property
    def unheard(self) -> bool:
        """Nothing came back on a connection that had been in use: the request may be sent once more."""
        return self.reused and self._connection is not None and self._connection.heard == self._before

    @property
    def connection(self) -> Heard | None:
        """What was written to last."""
        return self._connection

    @property
    def tunnelling(self) -> bool:
        """The newest thing written, if any, was for a proxy, which was to open a way to a server that speaks TLS."""
        return self._connection is None or not self._connection.secure

    @property
    def since(self) -> float:
        """Seconds since the request went out."""
        return self._clock() - self._at

    def gave_up(self, status: int, headers: Mapping[str, str]) -> bool:
        """The answer only says that the server had stopped waiting for a request on a connection in use before."""
        return status == 408 and self.reused and "close" in headers.get("connection", "").lower()


SENDING: ContextVar[Sent | None] = ContextVar("SENDING", default=None)
"""The request that the running task is sending, for the connection below to report to."""


def sending_on(connection: Heard) -> None:
    """Note that the running task's request goes out on `connection`."""
    sent = SENDING.get()
    if sent is not None:
        sent.on(connection)
