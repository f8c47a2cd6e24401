"""Real servers as subprocesses, spoken to in raw JSON-RPC: what a host does, without a client library in between."""

import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
GONE_WITHIN = 5.0
"""The promise: seconds from the end of its client to the end of the process."""
PATIENCE = 30.0


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The test's own environment with a database in `folder` and these HEABLCOIN_CLOUD_ settings."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNDEFAULTENCODING": "1",
        "HEABLCOIN_CLOUD_DATABASE": str(folder / "queue.db"),
        "HEABLCOIN_CLOUD_KEYS": "process",
        **{f"HEABLCOIN_CLOUD_{name.upper()}": value for name, value in settings.items()},
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server", *arguments]


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for `condition` to be true; returns what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain for: {what}")


class StdioServer:
    """A server on stdio and the host at its other end."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.log = folder / f"server-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command(*arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(env or environment(folder)),
                cwd=folder,
            )
        self.said: list[bytes] = []
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._id = 0
        self._lock = threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            message = json.loads(line)
            if "id" in message and message["id"] in self._answers:
                self._answers[message["id"]].put(message)
        for waiting in list(self._answers.values()):
            waiting.put({"error": "the server has gone"})

    def initialize(self) -> Self:
        self.request(
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
        )
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with self._lock:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> "queue.Queue[dict[str, Any]]":
        """Send a request; its answer will be in the queue that comes back."""
        with self._lock:
            self._id += 1
            number = self._id
        self._answers[number] = queue.Queue()
        if not self._listener.is_alive():
            self._answers[number].put({"error": "the server has gone"})
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}})
        return self._answers[number]

    def request(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = self.ask(method, params).get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no answer to {method}; log:\n{self.errors}") from None
        assert "result" in answer, f"{answer}; log:\n{self.errors}"
        return answer["result"]

    def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """The structured record of a tool call that must succeed."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        assert not result.get("isError"), result
        record: dict[str, Any] = result["structuredContent"]
        return record

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def gone(self) -> int:
        """The exit code, which must be there within the promised time."""
        return self.process.wait(GONE_WITHIN)

    @property
    def errors(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def __enter__(self) -> Self:
        return self.initialize()

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self._listener.join(10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


class HttpServer:
    """A server on HTTP, at a port it chose."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.log = folder / f"http-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command("serve", "--transport", "streamable-http", "--port", "0", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=dict(env or environment(folder)),
                cwd=folder,
            )
        where = until(self._address, f"the address in {self.log.read_text()}")
        self.url = where

    def _address(self) -> str:
        assert self.process.poll() is None, self.errors
        found = re.search(r"http://[^/\s]+", self.errors)
        return found[0] if found else ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def errors(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def ask(
        self,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE,
    ) -> tuple[int, bytes]:
        """Status and body of one request."""
        request = urllib.request.Request(self.url + path, body, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def gone(self) -> int:
        return self.process.wait(GONE_WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(10)
