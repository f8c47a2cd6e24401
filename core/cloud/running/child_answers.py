"""What a child process says, line by line, until it says no more or is no more; and what it is answered.

The end of its pipe is not waited for: a process that the child started may hold it open for as long as it likes.
"""

import contextlib
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from typing import IO

LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one message of the child; a result is bounded far below."""
CHUNK = 65_536
LOOK_EVERY = 0.05
"""Seconds between two looks at whether the child lives, where the system does not tell of its end."""


def lines(process: subprocess.Popen[bytes], ended: Callable[[], bool]) -> Generator[bytes, None, None]:
    """The lines that the child writes to its stdout. `ended` says whether it has ended, and collects it.

    Raises ValueError for a line longer than `LONGEST_LINE`, RuntimeError or OSError when there is no way to listen.
    """
    assert process.stdout is not None  # noqa: S101  # for the type checker
    buffer = bytearray()
    for chunk in _chunks(process, process.stdout, ended):
        start = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", start)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            start = 0
            yield line
        if len(buffer) > LONGEST_LINE:
            raise ValueError(f"it wrote a message longer than {LONGEST_LINE:,} bytes")


def answer(process: subprocess.Popen[bytes], line: bytes, ended: Callable[[], bool]) -> None:
    """Write to the child's stdin, for as long as it lives: what it started may hold the pipe, and never read it."""
    assert process.stdin is not None  # noqa: S101  # for the type checker
    with contextlib.suppress(OSError, ValueError):  # it has died: its exit code says more
        if sys.platform == "win32":
            process.stdin.write(line)
            process.stdin.flush()
            return
        descriptor = process.stdin.fileno()
        os.set_blocking(descriptor, False)
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        left = memoryview(line)
        while left and not ended():
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                room.poll(LOOK_EVERY * 1000)


def _chunks(
    process: subprocess.Popen[bytes], pipe: IO[bytes], ended: Callable[[], bool]
) -> Generator[bytes, None, None]:
    if sys.platform == "win32":
        yield from _from_a_thread(pipe, ended)
        return
    descriptor = pipe.fileno()
    os.set_blocking(descriptor, False)
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    watched = _end_of(process.pid)
    if watched is not None:
        watch.register(watched, select.POLLIN)
    try:
        over = False
        while True:
            with contextlib.suppress(BlockingIOError):
                while chunk := os.read(descriptor, CHUNK):
                    yield chunk
                return  # The end of the pipe.
            if over:
                return  # It ended, and what it wrote before that was read.
            over = ended()
            if not over:
                watch.poll(None if watched is not None else LOOK_EVERY * 1000)
                over = ended()
    finally:
        if watched is not None:
            os.close(watched)


def _end_of(pid: int) -> int | None:
    """A descriptor that is ready once the process has ended; None where the system has no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _from_a_thread(pipe: IO[bytes], ended: Callable[[], bool]) -> Generator[bytes, None, None]:
    """Where pipes cannot be polled: a thread reads, and is left behind when another process holds the pipe."""
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        chunk = b"."
        with contextlib.suppress(OSError, ValueError):
            while chunk:
                chunk = os.read(pipe.fileno(), CHUNK)
                heard.put(chunk)
        if chunk:
            heard.put(b"")

    threading.Thread(target=listen, name="heablcoin-child", daemon=True).start()
    over = False
    while True:
        try:
            chunk = heard.get(timeout=LOOK_EVERY)
        except queue.Empty:
            if over:
                return  # It ended a look ago, and what it wrote before that has been heard by now.
            over = ended()
            continue
        if not chunk:
            return
        yield chunk
