"""The child's side of isolation.py: `python -m core.cloud.running.isolated_child` runs one handler once and ends.

The request is one line of JSON on stdin. Messages go out as lines of JSON on what was stdout; stdout itself is joined to
stderr first, so a handler may print. Stdin stays open as a lifeline: when it ends, so did the parent, and the child dies.
"""

import asyncio
import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

from core.cloud.handlers.files import import_file
from core.cloud.handlers.task_context import TaskContext
from core.cloud.retry import retry_after_of
from core.cloud.running.outcome import result_text
from core.errors import InvalidArgument, Permanent, RetryLater

PR_SET_PDEATHSIG = 1


class Messages:
    """The way back to the parent."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message, whole. Raises ValueError or TypeError for what is not JSON."""
        line = json.dumps(message, allow_nan=False).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            self._stream.write(line)
            self._stream.flush()

    def progress(self, share: float | None, message: str) -> None:
        self.send({"progress": share, "message": message})


def main() -> None:
    """Run what the parent asks for, tell it how that ended, and exit."""
    messages = Messages(_take_stdout())
    if inherited := sys.argv[1]:
        os.environ["PYTHONPATH"] = inherited
    else:
        os.environ.pop("PYTHONPATH", None)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        os._exit(1)  # The parent died before it had said what to do.
    request = json.loads(line)
    _die_with_parent()
    try:
        value = _run(request, messages)
        result_text(value)
        last = {"kind": "returned", "value": value}
    except BaseException as error:  # noqa: BLE001  # whatever the handler raises is told to the parent
        last = describe(error)
    # The parent kills what is left of this process as soon as it has read the last message.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    messages.send(last)
    # Not sys.exit: a thread that the handler left behind would keep this process alive.
    os._exit(0)


def _take_stdout() -> BinaryIO:
    private = os.fdopen(os.dup(1), "wb")
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return private


def _die_with_parent() -> None:
    if sys.platform == "linux":
        # The thread below cannot run while a C function holds the interpreter; the kernel can.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_lifeline, daemon=True).start()


def _watch_lifeline() -> None:
    while os.read(0, 65536):
        pass
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _run(request: dict[str, Any], messages: Messages) -> object:
    sys.path[:] = request["sys_path"]
    module = (
        import_file(request["file"], request["module"])
        if request["file"]
        else importlib.import_module(request["module"])
    )
    found: Any = module
    for part in request["qualname"].split("."):
        found = getattr(found, part)
    arguments = [request["payload"]]
    if about := request["context"]:
        arguments.append(
            TaskContext(
                about["task_id"], about["name"], about["attempt"], results=about["results"], report=messages.progress
            )
        )
    value: object = asyncio.run(found(*arguments)) if request["is_async"] else found(*arguments)
    return value


def describe(error: BaseException) -> dict[str, Any]:
    """An error as a message to the parent."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    text = str(error).strip()
    if isinstance(error, RetryLater):
        return {"kind": "retry_later", "seconds": error.seconds, "text": text, "where": where}
    if isinstance(error, Permanent):
        return {"kind": "permanent", "text": text, "where": where}
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, InvalidArgument):
        return {"kind": "permanent", "text": named, "where": where}
    return {"kind": "error", "text": named, "retry_after": retry_after_of(error), "where": where}


if __name__ == "__main__":
    main()
