"""Bytes that are no message, sent to a real server on stdio: each is answered, and the next request works."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.servers import StdioServer, until
from tests.support.bad_messages import BAD_MESSAGES, BadMessage

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


class Line:
    """A client that sends bytes, then a request, and reads all that is said up to its answer."""

    def __init__(self, server: StdioServer, era: str) -> None:
        self.server, self.era = server, era
        self.number = 1000

    def send(self, *lines: bytes) -> None:
        assert self.server.process.stdin is not None
        self.server.process.stdin.write(b"".join(line + b"\n" for line in lines))
        self.server.process.stdin.flush()

    def open(self) -> None:
        if self.era == "legacy":
            self.answered(self.request("initialize", HELLO))
            self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')

    def request(self, method: str = "tools/list", params: dict[str, Any] | None = None) -> bytes:
        self.number += 1
        meta = {"_meta": META} if self.era == "modern" else {}
        request = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": {**(params or {}), **meta}}
        return json.dumps(request).encode()

    def answered(self, *lines: bytes) -> list[dict[str, Any]]:
        """Send lines, the last a request; all that is said before its answer, which must be a result."""
        seen = len(self.server.said)
        self.send(*lines)

        def said() -> list[dict[str, Any]]:
            heard = [json.loads(line) for line in self.server.said[seen:]]
            return heard if any(one.get("id") == self.number for one in heard) else []

        heard: list[dict[str, Any]] = until(said, f"an answer to request {self.number}; log: {self.server.errors}", 60)
        assert "result" in heard[-1], heard[-1]
        return heard[:-1]


ERAS = ["legacy", "modern"]


@pytest.fixture(params=ERAS)
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    """A server of its own, to which nothing has been said."""
    yield from talk(tmp_path, request.param)


@pytest.fixture(params=ERAS, scope="module")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """One server for all that can follow in one conversation."""
    for line in talk(tmp_path_factory.mktemp("line"), request.param):
        line.open()
        yield line


def talk(folder: Path, era: str) -> Iterator[Line]:
    server = StdioServer(folder)
    try:
        yield Line(server, era)
    finally:
        server.__exit__()


def test_every_bad_message_is_answered_and_the_next_request_works(line: Line) -> None:
    owed = [error for bad in BAD_MESSAGES for error in owed_for(bad)]
    line.send(*(bad.data for bad in BAD_MESSAGES))  # before the first request has told the era
    until(lambda: len(line.server.said) >= len(owed), "an error for each", 60)
    assert [error_of(json.loads(said)) for said in line.server.said] == owed
    line.open()
    for bad in BAD_MESSAGES:
        said = line.answered(bad.data, line.request())
        assert [error_of(one) for one in said] == owed_for(bad), bad.name


def owed_for(bad: BadMessage) -> list[tuple[int, Any]]:
    return [(bad.code, one) for one in bad.ids]


def error_of(said: dict[str, Any]) -> tuple[int, Any]:
    return said["error"]["code"], said["id"]


def test_a_byte_order_mark_before_a_request_is_skipped(opened: Line) -> None:
    assert opened.answered(b"\xef\xbb\xbf" + opened.request() + b"\r") == []


def test_blank_lines_are_nothing(opened: Line) -> None:
    assert opened.answered(b"", b"\r", b"  \t ", opened.request()) == []


def test_a_line_that_is_too_long_is_dropped_and_answered(opened: Line) -> None:
    long = b'{"method":"tools/call","params":{"name":"' + b"x" * (65 * 1024 * 1024) + b'"},"jsonrpc":"2.0","id":41}'
    said = opened.answered(long, opened.request())
    assert [error_of(one) for one in said] == [(-32600, 41)]


def test_a_server_that_met_bad_messages_leaves_with_its_client(line: Line) -> None:
    line.open()
    line.answered(b"no JSON", line.request())
    line.server.close_stdin()
    assert line.server.gone() == 0
