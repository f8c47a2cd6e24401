"""A handler run in a child process that can be killed: a fresh interpreter, JSON over pipes, no pickle."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from core.cloud.handlers.address import address_of
from core.cloud.handlers.registry import Handler
from core.cloud.handlers.task_context import ProgressSink, TaskContext
from core.cloud.running.child_answers import answer, lines
from core.cloud.running.isolated_error import IsolatedError
from core.cloud.running.outage import NotStarted
from core.cloud.running.settling import TooLarge
from core.cloud.running.stored_results import StoredResults
from core.errors import Permanent, RetryLater, StoreError
from core.json_types import Json, JsonObject
from core.safe_text import describe

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
EXIT_SECONDS = 2.0
"""How long a child may take to end after it closed its side without a result."""


class ProcessRun:
    """One attempt in a child process. `run` from one thread, `kill` from any."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def run(self, payload: Json, context: TaskContext | None, report: ProgressSink) -> object:
        """The handler's value. Raises what it raised, as Permanent, RetryLater or IsolatedError.

        NotStarted when no child could be had, so that the handler was not begun.
        """
        request = self._request(payload, context)
        process = self._start()
        try:
            self._ask(process, request)
            with contextlib.closing(self._listen(process)) as heard:
                for line in heard:
                    message = json.loads(line)
                    if "progress" in message:
                        report(message["progress"], message["message"])
                    elif "ask" in message and context is not None:
                        answer(process, _answer_to(message["ask"], context), lambda: self._ended(process))
                    else:
                        return _unpack(message, self._handler.name)
            code = self._code(process)
            raise IsolatedError(f"The process of the handler {self._handler.name} {_how_it_ended(code)}.")
        finally:
            self._end(process)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._killed:
                raise IsolatedError("Killed before it started.")
            try:
                self._process = _spawn()
            except (OSError, MemoryError, subprocess.SubprocessError) as error:
                raise NotStarted(describe(error)) from error
            return self._process

    def _ask(self, process: subprocess.Popen[bytes], request: bytes) -> None:
        assert process.stdin is not None  # noqa: S101  # for the type checker
        with contextlib.suppress(OSError):  # it has died already: its exit code says more
            process.stdin.write(request)
            process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes]) -> Generator[bytes, None, None]:
        said = False
        try:
            for line in lines(process, lambda: self._ended(process)):
                said = True
                yield line
        except (OSError, RuntimeError) as error:
            if said:
                raise
            raise NotStarted(describe(error)) from error
        except ValueError as error:
            raise IsolatedError(
                f"The process of the handler {self._handler.name} cannot be understood: {error}."
            ) from None

    def _ended(self, process: subprocess.Popen[bytes]) -> bool:
        with self._lock:  # not while `kill` aims at it: its number is free for another once it is collected
            return process.poll() is not None

    def _code(self, process: subprocess.Popen[bytes]) -> int | None:
        """Its exit code; None when it closed its pipe and goes on."""
        end = time.monotonic() + EXIT_SECONDS
        while not self._ended(process) and time.monotonic() < end:
            time.sleep(0.01)
        return process.returncode

    def kill(self) -> None:
        """Kill the child and all it started, at once; a run not yet begun will not begin."""
        with self._lock:
            self._killed = True
            if self._process is not None and self._process.returncode is None:
                _kill(self._process)

    def _request(self, payload: Json, context: TaskContext | None) -> bytes:
        address = address_of(self._handler.name, self._handler.func)
        about: JsonObject | None = None
        if context is not None:
            many = isinstance(context.results, StoredResults)
            about = {
                "task_id": context.task_id,
                "name": context.name,
                "attempt": context.attempt,
                # Hundreds of large ones would be too much at once, here and there: the child asks for those it looks at.
                "results": {} if many else dict(context.results),
                "ask_for": list[Json](context.results) if many else [],
            }
        request: JsonObject = {
            "module": address.module,
            "file": address.file,
            "qualname": address.qualname,
            "is_async": self._handler.is_async,
            "sys_path": list[Json](sys.path),
            "payload": payload,
            "context": about,
        }
        # In ASCII, where a path that is no UTF-8 has a form too.
        return json.dumps(request).encode() + b"\n"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with self._lock:
            # Also when it gave its result or ended by itself: what it started must not outlive it.
            _kill(process)
            process.wait()


def _spawn() -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise Permanent(
            "This Python does not know its own executable, so it cannot start a child process.",
            'register the handler with isolation="thread"',
        )
    environment = dict(os.environ)
    inherited = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), inherited)))
    return subprocess.Popen(  # noqa: S603  # our own module, by list; nothing of the task is in it
        [sys.executable, "-P", "-m", "core.cloud.running.isolated_child", inherited],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=os.name == "posix",
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _answer_to(task_id: str, context: TaskContext) -> bytes:
    try:
        told: JsonObject = {"value": context.results[task_id]}
    except StoreError as error:
        told = {"refused": error.message, "fix": error.fix}
    except LookupError as error:
        told = {"refused": f"It cannot be read ({describe(error)}).", "fix": ""}
    return json.dumps(told).encode() + b"\n"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _unpack(message: dict[str, Any], name: str) -> object:
    kind = message["kind"]
    if kind == "returned":
        return message["value"]
    log.info("the handler %s failed in its process at %s", name, message["where"])
    if kind == "too_large":
        raise TooLarge(message["text"], message["fix"], start=message["start"])
    if kind == "permanent":
        raise Permanent(message["text"])
    if kind == "retry_later":
        raise RetryLater(message["seconds"], message["text"])
    raise IsolatedError(message["text"], message["retry_after"])


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "closed its side before it gave a result"
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name} before it gave a result"
        except ValueError:
            return f"was ended by signal {-code} before it gave a result"
    return f"ended with exit code {code} before it gave a result"
