"""The child's side of isolation.py: `python -m core.cloud.running.isolated_child` runs one handler once and ends.

The request is one line of JSON on what was stdin, which stays open as a lifeline (`lifeline.py`): when it ends, so did the parent,
and the child dies. Messages go out as lines of JSON on what was stdout: progress, questions for a dependency's result, which the
lifeline answers, and at last how the handler ended. Both are moved to descriptors of their own that nothing started here
inherits, and no fork keeps: the handler's stdin is empty, its stdout is stderr, and only this process can ask and answer.
"""

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Awaitable, Mapping
from typing import Any, BinaryIO, cast

from core.cloud.handlers.files import import_file
from core.cloud.handlers.task_context import TaskContext
from core.cloud.retry import verdict_of
from core.cloud.running.lifeline import Lifeline
from core.cloud.running.settling import TooLarge, result_text
from core.cloud.running.stored_results import StoredResults
from core.errors import Permanent, RetryLater
from core.json_types import Json, loads
from core.main_script import importing
from core.safe_text import describe, origin_of, text_of


class Messages:
    """The way back to the parent, of this process and none that it forks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._process = os.getpid()
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message, whole."""
        if os.getpid() != self._process:
            return
        line = json.dumps(message, allow_nan=False).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line)
            self._stream.flush()

    def progress(self, share: float | None, message: str) -> None:
        self.send({"progress": share, "message": message})


def main() -> None:
    """Run what the parent asks for, tell it how that ended, and exit."""
    this = os.getpid()
    lifeline = Lifeline(_take_stdin())
    stream = _take_stdout()
    messages = Messages(stream)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _close(lifeline.descriptor, stream.fileno()))
    if inherited := sys.argv[1]:
        os.environ["PYTHONPATH"] = inherited
    else:
        os.environ.pop("PYTHONPATH", None)
    line = lifeline.request()
    if not line.endswith(b"\n"):
        os._exit(1)  # The parent died before it had said what to do.
    request = json.loads(line)
    lifeline.hold_on()
    try:
        # As it is read again, so that the parent needs none of its types.
        last = {"kind": "returned", "value": loads(result_text(_run(request, messages, lifeline)))}
    except BaseException as error:  # noqa: BLE001  # whatever the handler raises is told to the parent
        last = _failure(error)
    if os.getpid() != this:
        os._exit(0)  # A fork of the handler's that came back here: how the task ended is not for it to say.
    # The parent kills what is left of this process as soon as it has read the last message.
    for output in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            output.flush()
    messages.send(last)
    # Not sys.exit: a thread that the handler left behind would keep this process alive.
    os._exit(0)


def _take_stdin() -> int:
    private = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return private


def _take_stdout() -> BinaryIO:
    private = os.fdopen(os.dup(1), "wb")
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return private


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _run(request: dict[str, Any], messages: Messages, lifeline: Lifeline) -> object:
    sys.path[:] = request["sys_path"]
    with importing(request["file"] or request["module"]):
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
        results: Mapping[str, Json] = about["results"]
        if about["ask_for"]:
            results = StoredResults(about["ask_for"], lambda task_id: lifeline.result(task_id, messages.send))
        arguments.append(
            TaskContext(about["task_id"], about["name"], about["attempt"], results=results, report=messages.progress)
        )
    value: object = found(*arguments)
    if request["is_async"]:
        from core.cloud.running.async_executor import run_to_its_end

        value = run_to_its_end(cast(Awaitable[object], value))
    return value


def _failure(error: BaseException) -> dict[str, Any]:
    """An error as a message to the parent."""
    where, asked = origin_of(error), verdict_of(error)
    if type(error) is TooLarge:
        return {"kind": "too_large", "text": error.message, "fix": error.fix, "start": error.start, "where": where}
    if asked.final:
        return {"kind": "permanent", "text": _said(error, Permanent), "where": where}
    if asked.later is not None:
        return {"kind": "retry_later", "seconds": asked.later, "text": _said(error, RetryLater), "where": where}
    return {"kind": "error", "text": describe(error), "retry_after": asked.hint, "where": where}


def _said(error: BaseException, kind: type[BaseException]) -> str:
    """Its text, for one that the parent raises again as what it is; of any other its type too."""
    return text_of(error).strip() if type(error) is kind else describe(error)


if __name__ == "__main__":
    main()
