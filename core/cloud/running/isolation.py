"""A handler run in a child process that can be killed: a fresh interpreter, JSON over pipes, no pickle."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from core.cloud.handlers.address import address_of
from core.cloud.handlers.registry import Handler
from core.cloud.handlers.task_context import ProgressSink, TaskContext
from core.cloud.running.isolated_error import IsolatedError
from core.errors import Permanent, RetryLater
from core.json_types import Json, JsonObject, dumps

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one message of the child; a result is bounded far below."""
EXIT_SECONDS = 2.0
"""How long a child may take to end after it gave its result."""


class IsolatedRun:
    """One attempt in a child process. `run` from one thread, `kill` from any."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def run(self, payload: Json, context: TaskContext | None, report: ProgressSink) -> object:
        """The handler's value. Raises what it raised, as Permanent, RetryLater or IsolatedError."""
        request = self._request(payload, context)
        with self._lock:
            if self._killed:
                raise IsolatedError("Killed before it started.")
            process = self._process = _spawn()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  # for the type checker
        try:
            with contextlib.suppress(OSError):
                process.stdin.write(request)
                process.stdin.flush()
            while line := process.stdout.readline(LONGEST_LINE):
                message = json.loads(line)
                if "progress" in message:
                    report(message["progress"], message["message"])
                    continue
                return _unpack(message, self._handler.name)
            code = process.wait(EXIT_SECONDS)
            raise IsolatedError(f"The process of the handler {self._handler.name} {_how_it_ended(code)}.")
        finally:
            self._end(process)

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
            about = {
                "task_id": context.task_id,
                "name": context.name,
                "attempt": context.attempt,
                "results": dict(context.results),
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
        return dumps(request).encode() + b"\n"

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
    if kind == "permanent":
        raise Permanent(message["text"])
    if kind == "retry_later":
        raise RetryLater(message["seconds"], message["text"])
    raise IsolatedError(message["text"], message["retry_after"])


def _how_it_ended(code: int) -> str:
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name} before it gave a result"
        except ValueError:
            return f"was ended by signal {-code} before it gave a result"
    return f"ended with exit code {code} before it gave a result"
