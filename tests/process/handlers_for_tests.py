"""Handlers that misbehave, for the servers under test: `--handlers` points here."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def stuck(payload: Any) -> None:
    """A thread that will not stop."""
    _mark("stuck")
    while True:
        time.sleep(1)


def takes_the_signal(payload: Any) -> None:
    """Stuck in the very thread that the kernel picked for the signal that is to end the process, while its loop sleeps."""
    main = threading.main_thread().ident
    while sys._current_frames()[main].f_code.co_name != "select":
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    stuck(payload)


async def blocks_the_loop(payload: Any) -> None:
    """A coroutine that never gives the loop back."""
    _mark("blocks_the_loop")
    while True:
        time.sleep(1)  # noqa: ASYNC251 - the mistake under test


def noisy(payload: Any) -> str:
    print("this must not reach the protocol")
    os.write(1, b"nor this\n")
    return "quiet"


def step(payload: Any) -> Any:
    """Runs until the file `go` is there; notes each run."""
    _mark(f"step-{payload['n']}")
    while not Path("go").exists() and payload["n"] == 2:
        time.sleep(0.01)
    return {"n": payload["n"]}


def _mark(name: str) -> None:
    with Path("marks").open("a", encoding="utf-8") as file:
        file.write(f"{name} {os.getpid()}\n")


def register(publisher: Any) -> None:
    for handler in (stuck, takes_the_signal, blocks_the_loop, noisy, step):
        publisher.register_handler(handler.__name__, handler)
