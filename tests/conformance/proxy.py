"""A loopback forwarder that adds the bearer token: the suite cannot send one, and the server is not run without."""

import asyncio
from contextlib import suppress
from typing import Self

LONGEST_HEAD = 64 * 1024
"""Bytes of a request line and its headers."""


class TokenProxy:
    """Forwards each connection as it is, but for one header more in each request's head.

    `Connection: close` goes with it, so that a connection carries one request and what follows its head needs no reading.
    """

    def __init__(self, target_port: int, token: str) -> None:
        self._target_port = target_port
        self._extra = f"\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=LONGEST_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            kept = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            to_writer.write(b"\r\n".join(kept) + self._extra)
            up = asyncio.create_task(_pump(reader, to_writer))
            try:
                await _pump(to_reader, writer)
            finally:
                up.cancel()
                to_writer.close()
        writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(64 * 1024):
            sink.write(data)
            await sink.drain()
    with suppress(OSError, RuntimeError):
        sink.write_eof()
