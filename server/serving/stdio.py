"""The stdio transport: one message a line, and an answer to every line that is none.

It stands in for the SDK's, which drops what it cannot read. While it serves, descriptor 0 is the null device and
descriptor 1 is stderr, so that handlers and their children meet an end of file and print beside the protocol.
"""

import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from io import BufferedReader
from typing import BinaryIO

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server import MCPServer
from mcp.shared.message import SessionMessage
from mcp.types import INTERNAL_ERROR, JSONRPCError, JSONRPCMessage, JSONRPCResponse

from server.lowlevel import lowlevel
from server.serving.messages import TAIL, RefusedMessage, error_message, read_message, too_long

log = logging.getLogger(__name__)

LONGEST = 64 * 1024 * 1024
"""Bytes of a line; a longer one is read to its end, dropped and answered with an error."""

Incoming = SessionMessage | Exception


async def serve_stdio(server: MCPServer) -> None:
    """Serve the client at the other end of stdin and stdout until it closes stdin."""
    inner = lowlevel(server)  # MCPServer serves stdio only through the SDK's own transport
    async with messages(*take_descriptors()) as (incoming, outgoing):
        await inner.run(incoming, outgoing, inner.create_initialization_options())


def take_descriptors() -> tuple[BufferedReader, BinaryIO]:
    """Take descriptors 0 and 1 for the protocol, until the process ends."""
    reading, writing = _private(0), _private(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.platform == "win32":
        from mcp.os.win32.utilities import rebind_std_handle_to_fd

        rebind_std_handle_to_fd(0)
        rebind_std_handle_to_fd(1)
    # Never closed: a thread may be reading when the process leaves.
    return os.fdopen(reading, "rb", closefd=False), os.fdopen(writing, "wb", buffering=0, closefd=False)


def _private(descriptor: int) -> int:
    """A duplicate of a standard descriptor that children do not inherit and that no standard one will be mistaken for."""
    copy = os.dup(descriptor)
    if copy > 2:
        return copy
    higher = _private(descriptor)
    os.close(copy)
    return higher


@asynccontextmanager
async def messages(
    reading: BufferedReader, writing: BinaryIO, longest: int = LONGEST
) -> AsyncIterator[tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]]:
    """The streams of messages that the SDK serves, over a pair of byte streams."""
    to_server, incoming = anyio.create_memory_object_stream[Incoming](0)
    outgoing, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    writes = anyio.Lock()

    async def write(line: bytes) -> None:
        async with writes:
            try:
                await anyio.to_thread.run_sync(_write_line, writing, line)
            except OSError:  # nobody reads any more
                group.cancel_scope.cancel()

    async def read() -> None:
        async with to_server:
            while (
                message := await anyio.to_thread.run_sync(next_message, reading, longest, abandon_on_cancel=True)
            ) is not None:
                if isinstance(message, RefusedMessage):
                    log.warning("refused a message: %s", message.reason)
                    for answer in message.answers():
                        await write(answer)
                else:
                    await to_server.send(SessionMessage(message))

    async def send() -> None:
        async with from_server:
            async for outbound in from_server:
                await write(rendered(outbound.message))

    async def until_closed(job: Callable[[], Awaitable[None]]) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await job()

    async with anyio.create_task_group() as group:
        group.start_soon(until_closed, read)
        group.start_soon(until_closed, send)
        yield incoming, outgoing


def next_message(reading: BufferedReader, longest: int) -> JSONRPCMessage | RefusedMessage | None:
    """What the next line that is not blank says; None at the end of the stream. Blocks."""
    while line := reading.readline(longest + 1):
        if len(line) > longest and not line.endswith(b"\n"):
            return too_long(line, _rest(reading, line[-TAIL:]), longest)
        if line.strip():
            return read_message(line)
    return None


def _rest(reading: BufferedReader, tail: bytes) -> bytes:
    """Read to the line's end; what it ends with."""
    while (piece := reading.readline(1024 * 1024)) and not piece.endswith(b"\n"):
        tail = (tail + piece)[-TAIL:]
    return (tail + piece)[-TAIL:]


def rendered(message: JSONRPCMessage) -> bytes:
    """`message` as JSON. One that cannot be written becomes an error, so that its request is answered all the same."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except (ValueError, RecursionError):
        log.exception("an answer could not be written as JSON")
        request_id = message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
        return error_message(request_id, INTERNAL_ERROR, "The answer cannot be written as JSON.")


def _write_line(writing: BinaryIO, line: bytes) -> None:
    left = memoryview(line + b"\n")
    while left:
        left = left[writing.write(left) or 0 :]
