"""What a child process hears of its parent: first the request, then one answer for each question; its end is the parent's end."""

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from core.errors import StoreError
from core.json_types import Json

PR_SET_PDEATHSIG = 1
CHUNK = 65_536

Send = Callable[[dict[str, Any]], None]


class Lifeline:
    """Read by one thread, which ends the process with its parent. `result` may be asked for from any."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._process = os.getpid()
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def request(self) -> bytes:
        """The first line; one without its end when the parent died before it had said what to do."""
        return self._line()

    def hold_on(self) -> None:
        """From now on die with the parent, and hear its answers."""
        if sys.platform == "linux":
            # The thread below cannot run while a C function holds the interpreter; the kernel can.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.Thread(target=self._hear, daemon=True).start()

    def result(self, task_id: str, send: Send) -> Json:
        """The result of a dependency, asked for with `send`. Waits no longer than the parent lives and wants the attempt.

        Raises StoreError when the parent cannot read it, RuntimeError in a fork of this process or when the lifeline is closed.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "the results of many dependencies are read one at a time, by the process of the handler itself: "
                "read what a fork is to use before it is forked"
            )
        with self._asking:
            send({"ask": task_id})
            line = self._answers.get()
            if line is None:
                self._answers.put(None)  # for whoever asks next
                raise RuntimeError("the handler closed the descriptor by which the results of its dependencies come")
        answer = json.loads(line)
        if "refused" in answer:
            raise StoreError(answer["refused"], answer["fix"])
        value: Json = answer["value"]
        return value

    def _line(self) -> bytes:
        # The parent says nothing before it is asked again, so that no chunk holds more than the end of a line.
        line = bytearray()
        while not line.endswith(b"\n") and (chunk := os.read(self.descriptor, CHUNK)):
            line += chunk
        return bytes(line)

    def _hear(self) -> None:
        try:
            while (line := self._line()).endswith(b"\n"):
                self._answers.put(line)
        except OSError:
            self._answers.put(None)
            return  # The handler closed it, as programs do that close all they do not know.
        if os.name == "posix":
            os.killpg(0, signal.SIGKILL)
        os._exit(1)
