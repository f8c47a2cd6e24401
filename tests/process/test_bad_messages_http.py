"""Bytes that are no message, POSTed to a real server: an answer with the id where one can be read, on each transport."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import pytest

from tests.process.servers import HttpServer, environment
from tests.support.bad_messages import BAD_MESSAGES, BadMessage

TOKEN = "bad-messages-0123456789"
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
MODERN = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("bad")
    with HttpServer(folder, env=environment(folder, token=TOKEN)) as server:
        yield server


@pytest.fixture
def http(server: HttpServer) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}", **JSON}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=30) as http:
        yield http


def session(http: httpx2.Client) -> dict[str, str]:
    """The headers of a session that has been initialized."""
    opened = http.post("/mcp", json=HELLO)
    assert opened.status_code == 200
    headers = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
    assert http.post("/mcp", json=INITIALIZED, headers=headers).status_code == 202
    return headers


def expected(bad: BadMessage) -> tuple[int, Any]:
    """One response carries one error: with the id if it is the only one."""
    return bad.code, bad.ids[0] if len(bad.ids) == 1 else None


@pytest.mark.parametrize("era", ["no session", "session", "modern"])
def test_every_bad_message_gets_an_error_and_the_next_request_works(http: httpx2.Client, era: str) -> None:
    headers = MODERN if era == "modern" else session(http) if era == "session" else {}
    params = {"_meta": META} if era == "modern" else {}
    for bad in BAD_MESSAGES:
        answer = http.post("/mcp", content=bad.data, headers=headers)
        assert answer.status_code == 400, bad.name
        said = answer.json()
        assert (said["error"]["code"], said["id"]) == expected(bad), bad.name
    follow = http.post("/mcp", json=HELLO if era == "no session" else {**LIST, "params": params}, headers=headers)
    assert follow.status_code == 200
    assert '"result"' in follow.text


@pytest.mark.parametrize("era", ["session", "modern"])
def test_a_byte_order_mark_before_a_request_is_skipped(http: httpx2.Client, era: str) -> None:
    headers = MODERN if era == "modern" else session(http)
    request = {**LIST, "params": {"_meta": META} if era == "modern" else {}}
    answer = http.post("/mcp", content=b"\xef\xbb\xbf" + json.dumps(request).encode(), headers=headers)
    assert answer.status_code == 200
    assert '"result"' in answer.text


class Stream:
    """A client of the SSE transport: what it was told, in order."""

    def __init__(self, http: httpx2.Client) -> None:
        self.http = http
        self.told: queue.Queue[str] = queue.Queue()
        self.path = ""

    def listen(self, response: httpx2.Response) -> None:
        with suppress(httpx2.HTTPError, httpx2.StreamError, OSError):  # closed by the test
            for line in response.iter_lines():
                if line.startswith("data: "):
                    self.told.put(line.removeprefix("data: "))

    def next(self) -> dict[str, Any]:
        return dict(json.loads(self.told.get(timeout=30)))

    def post(self, **request: Any) -> httpx2.Response:
        return self.http.post(self.path, **request)


@contextmanager
def stream(http: httpx2.Client) -> Iterator[Stream]:
    stream = Stream(http)
    with httpx2.Client(base_url=http.base_url, headers=http.headers, timeout=None) as other:
        request = other.build_request("GET", "/sse")
        response = other.send(request, stream=True)
        listening = threading.Thread(target=stream.listen, args=(response,), daemon=True)
        listening.start()
        stream.path = stream.told.get(timeout=30)
        try:
            yield stream
        finally:
            response.close()


def test_over_sse_the_error_comes_where_the_client_waits(http: httpx2.Client) -> None:
    with stream(http) as sse:
        assert sse.post(json=HELLO).status_code == 202
        assert "result" in sse.next()
        sse.post(json=INITIALIZED)
        for bad in BAD_MESSAGES:
            answer = sse.post(content=bad.data)
            waiting = [one for one in bad.ids if one is not None]
            if waiting:
                assert answer.status_code == 202, bad.name
                told = [sse.next() for _ in waiting]
                assert [(one["error"]["code"], one["id"]) for one in told] == [(bad.code, one) for one in waiting]
            else:
                assert answer.status_code == 400, bad.name
                assert (answer.json()["error"]["code"], answer.json()["id"]) == (bad.code, None)
        sse.post(content=b"\xef\xbb\xbf" + json.dumps(LIST).encode())
        assert sse.next()["result"]["tools"]


def test_over_sse_a_session_that_is_not_there_is_told_with_the_response(http: httpx2.Client) -> None:
    answer = http.post("/messages/?session_id=" + "0" * 32, content=b'{"id":41,"method":"ping"}')
    assert (answer.status_code, answer.json()["id"]) == (400, 41)


@pytest.mark.parametrize("path", ["/mcp", "/messages/?session_id=" + "0" * 32])
def test_what_is_no_json_by_its_own_words_is_left_to_the_transport(http: httpx2.Client, path: str) -> None:
    answer = http.post(path, content=b"x", headers={"Content-Type": "text/plain"})
    assert answer.status_code in (400, 404, 406, 415)


def test_a_body_of_invalid_chunks_does_not_end_the_server(server: HttpServer, http: httpx2.Client) -> None:
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    )
    with server.connect() as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    assert http.get("/health").status_code == 200
