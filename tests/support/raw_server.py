"""A server on loopback that does to each connection, byte for byte, what a test tells it: real sockets, no HTTP library.

with RawServer([answer(), close()]) as server:      # one action a request, in order; the last one for good
    ...
    assert server.requests == [1, 1, 2]             # the connection each request came on
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
GAVE_UP = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
PATIENCE = 10.0


@dataclass(frozen=True)
class Action:
    """What one request gets."""

    send: bytes = b""
    then: Literal["keep", "close", "reset", "hang"] = "keep"
    reads: Literal["all", "head", "start"] = "all"
    """How much of the request is read before."""


def answer(**more: object) -> Action:
    return Action(OK, **more)  # type: ignore[arg-type]


class RawServer:
    def __init__(self, actions: Sequence[Action], ssl_context: ssl.SSLContext | None = None) -> None:
        self._actions = list(actions)
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._stop = threading.Event()
        self.requests: list[int] = []
        """For each request that was begun, the number of its connection, from 1."""
        self.heads: list[bytes] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}/v1"

    def _accept(self) -> None:
        number = 0
        threads = []
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            number += 1
            threads.append(threading.Thread(target=self._serve, args=(connection, number), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(PATIENCE)

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(PATIENCE)
        with contextlib.suppress(OSError), self._wrapped(connection) as stream:
            with self._lock:
                self._open.append(stream)
            while self._one(stream, number):
                pass

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        return self._ssl_context.wrap_socket(connection, server_side=True) if self._ssl_context else connection

    def _one(self, stream: socket.socket, number: int) -> bool:
        head = stream.recv(1)
        if not head:
            return False
        with self._lock:
            action = self._actions.pop(0) if len(self._actions) > 1 else self._actions[0]
            self.requests.append(number)
        if action.reads != "start":
            while b"\r\n\r\n" not in head:
                more = stream.recv(65536)
                if not more:
                    return False
                head += more
            self.heads.append(head)
        if action.reads == "all":
            self._rest(stream, head)
        if action.send:
            stream.sendall(action.send)
        return self._end(stream, action)

    def _rest(self, stream: socket.socket, head: bytes) -> None:
        text, _, body = head.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in text.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += stream.recv(65536)

    def _end(self, stream: socket.socket, action: Action) -> bool:
        if action.then == "keep":
            return True
        if action.then == "hang":
            self._stop.wait(PATIENCE)
        elif action.then == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif isinstance(stream, ssl.SSLSocket):
            # TLS's own goodbye before the one of TCP. The peer's is not waited for.
            stream.settimeout(0.05)
            with contextlib.suppress(OSError):
                stream.unwrap()
        return False
