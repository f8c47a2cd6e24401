"""A stand-in for LLM APIs: a real HTTP server on loopback that answers, or fails, as each test scripts it.

    with LlmServer() as server:
        server.script("alpha", Step(status=500), Step(text="hello"))
        endpoint = ApiEndpoint("alpha", server.base_url("alpha"), api_key="sk-test", model="m")
        ...
        assert [arrival.status for arrival in server.arrivals("alpha")] == [500, 200]

The first path segment names a backend, and each backend has its own script: one step a request, the last one for good.
It speaks the OpenAI and the Anthropic format, told apart by the path, streamed when the request says so.
"""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Fault = Literal[
    "",
    "hang",  # the request is read, nothing is answered
    "reset",  # the connection is reset before a byte of the answer
    "close",  # the connection is closed before a byte of the answer
    "cut",  # half of the answer, then the connection is closed
    "stall",  # half of a streamed answer, then nothing more
    "comments",  # a stream that only says that it is alive, again and again
    "no_finish",  # a streamed answer that ends properly but never says why
    "bad_chunk",  # one event in the middle of a stream is not JSON
    "empty",  # a proper answer without any text
    "html",  # status 200 with a web page
    "not_json",  # status 200, JSON content type, no JSON
    "no_choices",  # JSON of another shape
    "redirect",  # 302 to `location`
    "error_event",  # half of a streamed answer, then the provider's error event
    "garbage",  # bytes that are not HTTP
]


class Gate:
    """Holds answers back until opened; made by `LlmServer.gate()`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def passed(self) -> None:
        await self._event.wait()


@dataclass(frozen=True)
class Step:
    """What one request gets."""

    text: str = "hello there, friend"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = ""
    delay: float = 0.0
    """Seconds before the head of the answer."""
    first_token_delay: float = 0.0
    """Seconds between the head and the first token of a stream."""
    token_delay: float = 0.0
    """Seconds between two tokens of a stream."""
    gate: Gate | None = None
    """Waits for it before answering."""
    tokens_in: int = 7
    tokens_out: int = 3
    finish_reason: str = "stop"
    code: str = ""
    """The error's code (OpenAI) or type (Anthropic), with a status of 400 or more."""
    message: str = "scripted error"
    location: str = "https://elsewhere.example/v1"
    raw: bytes | None = None
    """The body, as it is, instead of an answer."""
    content_type: str = ""
    echo_key: bool = False
    """Quotes the request's key in the error message, as some servers do."""


@dataclass(frozen=True)
class Arrival:
    """One request as it came in."""

    backend: str
    at: float
    """time.monotonic() when its body was complete."""
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    status: int
    """The status it got; 0 when the fault was to send none."""


class LlmServer:
    """The server, in a thread of its own with its own event loop. Start-up takes a few milliseconds."""

    def __init__(self, host: str = "127.0.0.1", ssl_context: Any = None) -> None:
        self.host = host
        self.port = 0
        self._ssl = ssl_context
        self._lock = threading.Condition()
        self._scripts: dict[str, list[Step]] = {}
        self._arrivals: list[Arrival] = []
        self._open = 0
        self._most_open = 0
        self._connections = 0
        self._live = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="llm-server", daemon=True)
        self._thread.start()
        assert self._ready.wait(10), "the stand-in server did not start"
        return self

    def stop(self) -> None:
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            assert not self._thread.is_alive(), "the stand-in server did not stop"
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def base_url(self, backend: str, host: str | None = None) -> str:
        """Where the backend is for either format: OpenAI adds /chat/completions, Anthropic /v1/messages."""
        return f"{'https' if self._ssl else 'http'}://{host or self.host}:{self.port}/{backend}"

    def script(self, backend: str, *steps: Step) -> None:
        """Replace the backend's script; its last step holds for all further requests."""
        with self._lock:
            self._scripts[backend] = list(steps)

    def gate(self) -> Gate:
        assert self._loop is not None
        return Gate(self._loop)

    def arrivals(self, backend: str | None = None) -> list[Arrival]:
        """The requests so far, in order of arrival."""
        with self._lock:
            return [arrival for arrival in self._arrivals if backend in (None, arrival.backend)]

    def wait_for_arrivals(self, count: int, backend: str | None = None, timeout: float = 10) -> list[Arrival]:
        """Block until that many have come."""
        with self._lock:
            came = self._lock.wait_for(
                lambda: sum(backend in (None, arrival.backend) for arrival in self._arrivals) >= count, timeout
            )
        assert came, f"{len(self.arrivals(backend))} of {count} requests came within {timeout} s"
        return self.arrivals(backend)

    @property
    def most_open(self) -> int:
        """The most requests that were being answered at one time."""
        with self._lock:
            return self._most_open

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        with self._lock:
            return self._connections

    def wait_until_idle(self, timeout: float = 10) -> None:
        """Block until every client has closed its connections."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._live == 0, timeout), f"{self._live} connections are still open"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        handlers: set[asyncio.Task[None]] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            handlers.add(task)
            self._count_connection(1)
            try:
                await self._connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                handlers.discard(task)
                writer.transport.abort()
                self._count_connection(-1)

        server = await asyncio.start_server(handle, self.host, 0, ssl=self._ssl, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    def _count_connection(self, change: int) -> None:
        with self._lock:
            self._live += change
            self._connections += max(change, 0)
            self._lock.notify_all()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            method, path, _ = lines[0].split(" ", 2)
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
            }
            data = await reader.readexactly(int(headers.get("content-length", "0")))
            step, request = self._arrive(method, path, headers, data)
            with self._lock:
                self._open += 1
                self._most_open = max(self._most_open, self._open)
            try:
                if not await _Answer(step, path, headers, request, reader, writer).send():
                    return
            finally:
                with self._lock:
                    self._open -= 1

    def _arrive(self, method: str, path: str, headers: dict[str, str], data: bytes) -> tuple[Step, Any]:
        try:
            body = json.loads(data) if data else None
        except ValueError:
            body = data
        backend = path.partition("?")[0].split("/")[1]
        with self._lock:
            steps = self._scripts.get(backend) or [Step()]
            step = steps.pop(0) if len(steps) > 1 else steps[0]
            silent = step.fault in {"hang", "reset", "close", "garbage"}
            status = 0 if silent else 302 if step.fault == "redirect" else step.status
            self._arrivals.append(Arrival(backend, time.monotonic(), method, path, headers, body, status))
            self._lock.notify_all()
        return step, body


class _Answer:
    """One response being written."""

    def __init__(
        self,
        step: Step,
        path: str,
        headers: Mapping[str, str],
        request: Any,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._step = step
        self._headers = headers
        self._request = request if isinstance(request, dict) else {}
        self._reader = reader
        self._writer = writer
        self._anthropic = path.partition("?")[0].endswith("/messages")

    async def send(self) -> bool:
        """Write it; False when the connection must be closed after it."""
        step = self._step
        if step.gate is not None:
            await step.gate.passed()
        if step.delay:
            await asyncio.sleep(step.delay)
        if step.fault == "hang":
            await self._until_the_client_leaves()
            return False
        if step.fault == "reset":
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if step.fault == "close":
            return False
        if step.fault == "garbage":
            self._writer.write(b"\x00\x01 SSH-2.0 not http at all\r\n\r\n")
            await self._writer.drain()
            return False
        if self._request.get("stream") and step.status == 200 and step.raw is None and step.fault not in _WHOLE_FAULTS:
            return await self._stream()
        return await self._whole()

    async def _until_the_client_leaves(self) -> None:
        await self._reader.read(1)

    async def _whole(self) -> bool:
        step = self._step
        status, kind, body = step.status, "application/json", b""
        headers = dict(step.headers)
        if step.raw is not None:
            body = step.raw
        elif step.fault == "html":
            kind, body = "text/html; charset=utf-8", b"<!doctype html><title>Sign in</title>"
        elif step.fault == "not_json":
            body = b'{"choices": [{"message'
        elif step.fault == "no_choices":
            body = b'{"ok": true}'
        elif step.fault == "redirect":
            status, headers["location"] = 302, step.location
        elif status >= 400:
            body = json.dumps(self._error()).encode()
        else:
            body = json.dumps(self._answer("" if step.fault == "empty" else step.text)).encode()
        await self._head(status, {"content-type": step.content_type or kind, **headers}, len(body))
        cut = step.fault == "cut"
        self._writer.write(body[: len(body) // 2] if cut else body)
        await self._writer.drain()
        return not cut

    async def _stream(self) -> bool:
        step = self._step
        kind = step.content_type or "text/event-stream; charset=utf-8"
        await self._head(200, {"content-type": kind, **step.headers}, None)
        if step.first_token_delay:
            await asyncio.sleep(step.first_token_delay)
        while step.fault == "comments":
            self._writer.write(b"d\r\n: processing\n\r\n")
            await self._writer.drain()
            await asyncio.sleep(0.02)
        async for event in self._events():
            data = event.encode()
            self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await self._writer.drain()
        if step.fault == "stall":
            await self._until_the_client_leaves()
        if step.fault in {"stall", "cut"}:
            return False
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _events(self) -> AsyncIterator[str]:
        step = self._step
        words = [] if step.fault == "empty" else [word + " " for word in step.text.split(" ")]
        half = words[: max(1, len(words) // 2)]
        yield self._opening()
        for position, word in enumerate(half if step.fault in {"cut", "stall", "error_event"} else words):
            if position and step.token_delay:
                await asyncio.sleep(step.token_delay)
            yield self._token(word.rstrip() if position == len(words) - 1 else word)
            if position == 0 and step.fault == "bad_chunk":
                yield 'data: {"choices": [{"delta": \n\n'
        if step.fault == "error_event":
            yield _event({"type": "error", **self._error()}, "error" if self._anthropic else "")
        elif step.fault not in {"cut", "stall"}:
            for event in self._closing(step.fault != "no_finish"):
                yield event

    async def _head(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        lines = [f"HTTP/1.1 {status} Scripted", framing, *(f"{name}: {value}" for name, value in headers.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await self._writer.drain()

    def _error(self) -> dict[str, Any]:
        step = self._step
        key = self._headers.get("authorization") or self._headers.get("x-api-key", "")
        message = f"{step.message}: {key}" if step.echo_key else step.message
        return {"error": {"message": message, "type": step.code or "scripted", "code": step.code or None}}

    def _answer(self, text: str) -> dict[str, Any]:
        step, model = self._step, self._request.get("model", "")
        if self._anthropic:
            return {
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn" if step.finish_reason == "stop" else step.finish_reason,
                "usage": {"input_tokens": step.tokens_in, "output_tokens": step.tokens_out},
            }
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": step.tokens_in, "completion_tokens": step.tokens_out}
        choice = {"index": 0, "message": message, "finish_reason": step.finish_reason}
        return {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}

    def _opening(self) -> str:
        if self._anthropic:
            usage = {"input_tokens": self._step.tokens_in, "output_tokens": 1}
            return _event({"type": "message_start", "message": {"model": self._request.get("model"), "usage": usage}})
        return ": processing\n\n" + self._openai_chunk({"role": "assistant", "content": ""})

    def _token(self, text: str) -> str:
        if self._anthropic:
            return _event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
        return self._openai_chunk({"content": text})

    def _closing(self, finish: bool) -> Sequence[str]:
        step = self._step
        if self._anthropic:
            reason = "end_turn" if step.finish_reason == "stop" else step.finish_reason
            delta = {
                "type": "message_delta",
                "delta": {"stop_reason": reason},
                "usage": {"output_tokens": step.tokens_out},
            }
            return [_event(delta), _event({"type": "message_stop"})] if finish else []
        usage = {"prompt_tokens": step.tokens_in, "completion_tokens": step.tokens_out}
        events = [self._openai_chunk({}, step.finish_reason)] if finish else []
        if (self._request.get("stream_options") or {}).get("include_usage"):
            events.append(_event({"choices": [], "usage": usage}))
        return [*events, "data: [DONE]\n\n"]

    def _openai_chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event({"object": "chat.completion.chunk", "model": self._request.get("model"), "choices": [choice]})


_WHOLE_FAULTS = ("html", "not_json", "no_choices", "redirect")


def _event(data: dict[str, Any], name: str = "") -> str:
    name = name or str(data.get("type", "")) * (data.get("type") in {"message_start", "message_delta", "message_stop"})
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"
