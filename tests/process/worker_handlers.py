"""The handlers of worker_process.py. What they do is noted in the files named in their payloads."""

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path


def note(payload, word):
    with Path(payload["file"]).open("a", encoding="utf-8") as file:
        file.write(f"{word} {os.getpid()} {time.time()}\n")


async def wait_for_file(payload, context):
    """Begin, then wait until the file `go` is there."""
    note(payload, f"begin-{context.attempt}")
    await asyncio.to_thread(wait_until_there, payload["go"])
    note(payload, f"end-{context.attempt}")
    return {"pid": os.getpid(), "attempt": context.attempt}


def wait_in_thread(payload, context):
    note(payload, f"begin-{context.attempt}")
    wait_until_there(payload["go"])
    note(payload, f"end-{context.attempt}")
    return {"pid": os.getpid(), "attempt": context.attempt}


def wait_until_there(path):
    while not Path(path).exists():
        time.sleep(0.01)


def stuck_in_thread(payload):
    note(payload, "begin")
    time.sleep(3600)


def spinning_thread(payload):
    note(payload, "begin")
    while True:
        pass


async def endless_coroutine(payload):
    note(payload, "begin")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


async def blocking_coroutine(payload):
    note(payload, "begin")
    time.sleep(3600)  # noqa: ASYNC251  # the mistake under test


async def spinning_coroutine(payload):
    note(payload, "begin")
    while True:
        pass


async def stuck_in_default_executor(payload):
    note(payload, "begin")
    await asyncio.to_thread(time.sleep, 3600)


def stuck_in_process(payload):
    note(payload, "begin")
    time.sleep(3600)


def ask_on_and_on(payload, context):
    note(payload, "asking")
    while True:
        assert list(context.results.values())


def kill_own_process(payload):
    note(payload, "begin")
    os.kill(os.getpid(), signal.SIGKILL)


def steady(payload):
    note(payload, "begin")
    time.sleep(0.8)
    return "steady"


def leaves_by_exit(payload):
    note(payload, "begin")
    time.sleep(0.2)
    os._exit(3)


def segfaults(payload):
    note(payload, "begin")
    time.sleep(0.2)
    ctypes.string_at(0)


def prints(payload):
    print("this must not reach the protocol")
    return "printed"


def register(publisher):
    for handler in (
        wait_for_file,
        wait_in_thread,
        stuck_in_thread,
        spinning_thread,
        endless_coroutine,
        blocking_coroutine,
        spinning_coroutine,
        stuck_in_default_executor,
        kill_own_process,
        steady,
        leaves_by_exit,
        segfaults,
        prints,
    ):
        publisher.register_handler(handler.__name__, handler)
    for isolated in (stuck_in_process, ask_on_and_on):
        publisher.register_handler(isolated.__name__, isolated, isolation="process")
