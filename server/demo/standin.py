"""A stand-in for an LLM provider: a real HTTP server on 127.0.0.1 that speaks OpenAI's wire format and fails to plan."""

import json
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from core.json_types import JsonObject

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Step:
    """What a stand-in does with one request."""

    status: int = 200
    """HTTP status of the answer; 0 drops the connection and closes the server for good, as a crash does."""
    retry_after: int = 0
    """Seconds for the `Retry-After` header; 0 leaves it out."""
    delay: float = 0.0
    """Seconds before the answer."""


@dataclass(frozen=True, slots=True)
class Served:
    """A request as the stand-in saw it."""

    at: float
    """Seconds of the monotonic clock."""
    authorization: str
    prompt: str
    step: Step
    """What it did about it."""


class StandIn:
    """One provider. It follows `script` request by request; the last step is for ever."""

    def __init__(self, name: str, script: Sequence[Step]) -> None:
        self.name = name
        self.model = f"stand-in-{name}"
        self.served: list[Served] = []
        self._script = list(script)
        self._lock = threading.Lock()
        self._closed = False
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                stand_in._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
                """Say nothing: the terminal is the demo's."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.base_url = f"http://{self.host}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name=f"stand-in {name}", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening: from now on a connection is refused. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._server.shutdown()
        self._server.server_close()

    def _next_step(self) -> Step:
        with self._lock:
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        body: JsonObject = json.loads(request.rfile.read(int(request.headers.get("Content-Length") or 0)).decode())
        prompt = _last_message(body)
        step = self._next_step()
        self.served.append(Served(time.monotonic(), request.headers.get("Authorization", ""), prompt, step))
        time.sleep(step.delay)
        if step.status == 0:
            self.close()
            return
        answer = _completion(self.model, prompt) if step.status == 200 else _error(step.status)
        payload = json.dumps(answer).encode()
        request.send_response(step.status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(payload)))
        request.send_header("Connection", "close")
        if step.retry_after:
            request.send_header("Retry-After", str(step.retry_after))
        with suppress(OSError):  # The caller may have been killed meanwhile.
            request.end_headers()
            request.wfile.write(payload)


def reply(model: str, prompt: str) -> str:
    """What a stand-in says to `prompt`: no wisdom, but proof that it was read."""
    numbers = [float(number.replace(",", "")) for number in NUMBER.findall(prompt)]
    words = len(prompt.split())
    if not numbers:
        return f"[{model}] read {words} words without a number. A real model would answer them."
    return (
        f"[{model}] read {words} words and {len(numbers)} numbers, from {min(numbers):,.2f} to {max(numbers):,.2f}. "
        "A real model would now say what they mean."
    )


def _last_message(body: object) -> str:
    messages = body.get("messages") if isinstance(body, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    return content if isinstance(content, str) else ""


def _completion(model: str, prompt: str) -> JsonObject:
    text = reply(model, prompt)
    tokens_in, tokens_out = len(prompt) // 4 + 1, len(text) // 4 + 1
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
    }


def _error(status: int) -> JsonObject:
    kind = "rate_limit_exceeded" if status == 429 else "server_error"
    message = (
        "Rate limit reached, slow down." if status == 429 else "The server had an error while processing your request."
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}
