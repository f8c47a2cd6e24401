"""A server of OpenAI's wire format with planned faults and an exact log of arrivals, fast enough not to be what is measured.

`python -m benchmarks.pool.mock` prints its port, then serves until stdin is closed. Requests go to `/e/NAME/...`; POST
`/_ctl` with `{NAME: {"phases": [...], "limit": [calls, seconds]}}` starts its clock anew, GET `/_ctl` returns
`{"now": seconds, "log": {NAME: [[seconds, status], ...]}}`. A phase holds from its `from` until the next: `delay` seconds before each answer,
`error_rate` share answered with `status`, `slow_rate` share answered after `slow_delay` seconds instead.
"""

import asyncio
import json
import math
import random
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BODY = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": "bench",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello from the mock."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18},
    }
).encode()


def response(status: int, body: bytes, extra: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    return head % (status, extra, len(body)) + body


OK = response(200, BODY)


class Endpoint:
    """One planned provider."""

    def __init__(self, name: str, plan: dict[str, Any]) -> None:
        self.phases = sorted(plan.get("phases") or [{"from": 0.0}], key=lambda phase: float(phase["from"]))
        self.limit = plan.get("limit")
        self.recent: deque[float] = deque()
        self.log: list[tuple[float, int]] = []
        self.draw = random.Random(name)

    def decide(self, now: float) -> tuple[float, bytes]:
        """Seconds to wait, and the answer."""
        phase = [each for each in self.phases if each["from"] <= now][-1]
        delay, status, extra = float(phase.get("delay", 0.0)), 200, b""
        if self.limit:
            most, window = self.limit
            while self.recent and now - self.recent[0] >= window:
                self.recent.popleft()
            if len(self.recent) >= most:
                status, extra = 429, b"retry-after: %d\r\n" % math.ceil(self.recent[0] + window - now)
            else:
                self.recent.append(now)
        if status == 200 and self.draw.random() < phase.get("error_rate", 0.0):
            status, delay = int(phase.get("status", 500)), 0.0
        elif status == 200 and self.draw.random() < phase.get("slow_rate", 0.0):
            delay = float(phase["slow_delay"])
        self.log.append((now, status))
        if status == 200:
            return delay, OK
        return delay, response(status, json.dumps({"error": {"message": "planned", "type": "planned"}}).encode(), extra)


class Planned:
    """All endpoints, and the clock of the plan."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.began = 0.0

    def answer(self, method: bytes, path: str, body: bytes) -> tuple[float, bytes]:
        now = asyncio.get_running_loop().time()
        if path == "/_ctl":
            if method == b"GET":
                log = {name: each.log for name, each in self.endpoints.items()}
                return 0.0, response(200, json.dumps({"now": now - self.began, "log": log}).encode())
            self.endpoints = {name: Endpoint(name, plan) for name, plan in json.loads(body).items()}
            self.began = now
            return 0.0, response(200, b"{}")
        name = path.split("/", 3)[2]
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            endpoint = self.endpoints[name] = Endpoint(name, {})
        return endpoint.decide(now - self.began)


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as much of it as the clients here send."""

    def __init__(self, planned: Planned) -> None:
        self.planned = planned
        self.buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            method, path = self.buffer.split(b" ", 2)[:2]
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            delay, answer = self.planned.answer(method, path.decode(), body)
            if delay:
                asyncio.get_running_loop().call_later(delay, self._send, answer)
            else:
                self._send(answer)

    def _send(self, answer: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(answer)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    planned = Planned()
    server = await loop.create_server(lambda: Connection(planned), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


class Mock:
    """A running mock, from outside."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"

    def url(self, endpoint: str) -> str:
        """The endpoint's base URL."""
        return f"http://{self.host}/e/{endpoint}/v1"

    def plan(self, endpoints: dict[str, Any]) -> None:
        """Start the clock anew with these endpoints."""
        self._control(json.dumps(endpoints).encode())

    def log(self) -> dict[str, list[tuple[float, int]]]:
        """For each endpoint, when (seconds since `plan`) a request came and what it was answered."""
        answer = json.loads(self._control(None))["log"]
        return {name: [(float(at), int(status)) for at, status in rows] for name, rows in answer.items()}

    def now(self) -> float:
        """Seconds since `plan`, by the clock of the log."""
        return float(json.loads(self._control(None))["now"])

    def _control(self, data: bytes | None) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(f"http://{self.host}/_ctl", data=data), timeout=10) as answer:
            return bytes(answer.read())


@contextmanager
def mock() -> Iterator[Mock]:
    """A mock in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pool.mock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the mock has no pipes")
    try:
        yield Mock(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


if __name__ == "__main__":
    asyncio.run(serve())
