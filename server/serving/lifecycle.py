"""One runtime per process: started once, stopped once, gone within five seconds whatever ends it.

The runtime lives outside the SDK's lifespan, which runs once per connection on SSE and not at all on SIGTERM over stdio.
EOF, a signal and the death of the parent lead to one place: give running tasks a moment, give the leases back, leave.
The process leaves by `os._exit`, because a handler stuck in a thread, or the thread that reads stdin, would keep an
ordinary exit waiting.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import anyio

from core.errors import HeablcoinError
from core.runtime import Runtime
from server import DISTRIBUTION
from server.logs import redact
from server.serving.parent import parent_died

log = logging.getLogger(__name__)

GRACE = 2.5
"""Seconds that running tasks get to finish."""
DEADLINE = 4.5
"""Seconds from the wish to end until the process is gone, even if stopping hangs."""

Serve = Callable[[anyio.Event], Coroutine[Any, Any, None]]
"""Serves until its client goes away or, where it can, the event is set."""


class Life:
    """The end of this process: what asks for it and how it comes about."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._leaving = threading.Lock()
        self._asked = False
        self._wake: Callable[[], object] = _nothing

    def run(
        self, serve: Serve, *background: Callable[[], Coroutine[Any, Any, None]], linger: float, watch_parent: bool
    ) -> NoReturn:
        """Start the runtime, serve until EOF, SIGTERM, SIGINT or (if asked) the parent's death, then leave the process.

        `linger`: seconds that `serve` gets to return by itself once the end was asked for.
        """
        self._listen_to_signals()
        try:
            self._runtime.start()
            anyio.run(self._serve, serve, background, linger, watch_parent)
        except HeablcoinError as error:  # it says what to do; where in the code it was raised helps nobody
            print(f"{DISTRIBUTION}: {redact(str(error))}", file=sys.stderr)  # noqa: T201 - as the command line does
            self.leave(1)
        except BaseException:
            log.exception("the server stops because of an error")
            self.leave(1)
        self.leave(0)

    def leave(self, code: int) -> NoReturn:
        """Stop the runtime and end the process."""
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()
        _die_later(code)
        try:
            self._runtime.stop(GRACE)
        except Exception:
            log.exception("stopping was not clean; what this process held is given back when its lease ends")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    async def _serve(
        self,
        serve: Serve,
        background: tuple[Callable[[], Coroutine[Any, Any, None]], ...],
        linger: float,
        watch_parent: bool,
    ) -> None:
        ended = anyio.Event()
        loop = asyncio.get_running_loop()
        _hear_signals_at_once(loop)
        self._wake = partial(loop.call_soon_threadsafe, ended.set)
        if self._asked:
            ended.set()

        async def overdue() -> None:
            await ended.wait()
            _die_later(0)
            await anyio.sleep(linger)
            self.leave(0)

        async with anyio.create_task_group() as group:
            group.start_soon(overdue)
            for job in background:
                group.start_soon(job)
            if watch_parent:
                group.start_soon(_end_with_parent, ended)
            try:
                await serve(ended)
            except Exception:
                log.exception("serving failed")
                self.leave(1)
            self.leave(0)

    def _listen_to_signals(self) -> None:
        """SIGTERM, SIGINT, SIGHUP (unless ignored) and Windows' SIGBREAK ask for the end; asked twice, it comes at once."""

        def ask(_number: int, _frame: FrameType | None) -> None:
            if self._asked:
                os._exit(1)
            self._asked = True
            self._wake()

        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, ask)


async def until_ended(ended: anyio.Event) -> None:
    """Serve nothing: a worker's whole conversation."""
    await ended.wait()


def _nothing() -> None:
    """Stands in until there is a loop to wake."""


def _hear_signals_at_once(loop: asyncio.AbstractEventLoop) -> None:
    """Have a signal wake the loop, whichever thread the kernel hands it to.

    Python runs handlers in the main thread only, and a signal taken by a busy handler's thread would leave that one asleep.
    """
    if sys.platform == "win32":
        return  # asyncio's loop there does the same by itself
    hears, told = socket.socketpair()
    hears.setblocking(False)
    told.setblocking(False)

    def drain() -> None:
        with suppress(BlockingIOError):
            hears.recv(4096)

    loop.add_reader(hears, drain)
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)  # open until the process ends, as the loop is


def _die_later(code: int) -> None:
    timer = threading.Timer(DEADLINE, os._exit, (code,))
    timer.daemon = True
    timer.start()


async def _end_with_parent(ended: anyio.Event) -> None:
    await parent_died()
    log.info("the process that started this server is gone; leaving")
    ended.set()
