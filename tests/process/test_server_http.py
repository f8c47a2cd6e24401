"""The server on HTTP: who may talk to it, what slow clients can do to others, and how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from server import cli
from tests.process.servers import HttpServer, command, environment

TOKEN = "test-token-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
PATHS = ["/mcp", "/sse", "/messages/?session_id=00000000000000000000000000000000"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("http")
    with HttpServer(folder, env=environment(folder, token=TOKEN, http_origins="https://app.example")) as server:
        yield server


def initialize() -> bytes:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).encode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({**BEARER, "Host": "evil.example"}, 421),
        ({**BEARER, "Host": "127.0.0.1.evil.example"}, 421),
        ({**BEARER, "Host": "user@127.0.0.1"}, 421),
        ({**BEARER, "Host": "evil.example#127.0.0.1"}, 421),
        ({**BEARER, "Origin": "https://evil.example"}, 403),
        ({**BEARER, "Origin": "null"}, 403),
        ({**BEARER, "Origin": "http://localhost.evil.example"}, 403),
        ({**BEARER, "Origin": "http://127.0.0.1@evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_strangers_are_turned_away_on_every_path(
    server: HttpServer, path: str, headers: dict[str, str], status: int
) -> None:
    got, body = server.ask(path, body=initialize(), headers={**JSON_HEADERS, **headers})
    assert got == status
    assert TOKEN.encode() not in body


@pytest.mark.parametrize("origin", ["http://localhost:6274", "http://127.0.0.1", "https://app.example"])
def test_pages_of_this_machine_and_allowed_ones_may_call(server: HttpServer, origin: str) -> None:
    headers = {**JSON_HEADERS, **BEARER, "Origin": origin}
    assert server.ask("/mcp", body=initialize(), headers=headers)[0] == 200


def test_an_allowed_page_gets_the_headers_its_browser_asks_for(server: HttpServer) -> None:
    with httpx2.Client() as client:
        preflight = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,mcp-protocol-version",
        }
        answer = client.options(f"{server.url}/mcp", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        refused = client.options(f"{server.url}/mcp", headers={**preflight, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("path", ["/mcp", "/messages/?session_id=00000000000000000000000000000000"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_gets_413(server: HttpServer, path: str, declared: bool) -> None:
    length = 4 * 1024 * 1024 + 1
    framing = f"Content-Length: {length}" if declared else "Transfer-Encoding: chunked"
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {TOKEN}", framing]
    head = "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()
    with server.connect() as connection:
        connection.sendall(head)
        if not declared:
            connection.sendall(f"{length:x}\r\n".encode() + b" " * length)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_health_is_open_and_says_nothing_else(server: HttpServer) -> None:
    status, body = server.ask("/health")
    assert (status, json.loads(body)) == (200, {"status": "ok"})


OAUTH_PATHS = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/mcp",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration/mcp",
    "/mcp/.well-known/openid-configuration",
    "/authorize",
    "/token",
    "/register",
    "/",
    "/docs",
    "/health/../mcp/x",
    "/mcpx",
]


@pytest.mark.parametrize("headers", [{}, BEARER], ids=["no token", "token"])
@pytest.mark.parametrize("path", OAUTH_PATHS)
def test_a_path_that_is_not_served_answers_404_so_that_nobody_takes_it_for_oauth(
    server: HttpServer, path: str, headers: dict[str, str]
) -> None:
    for body in (None, b"{}"):
        status, said = server.ask(path, body=body, headers=headers)
        assert status == 404
        assert "no OAuth" in json.loads(said)["error"]
        assert "HEABLCOIN_CLOUD_TOKEN" in json.loads(said)["fix"]


@pytest.mark.parametrize(
    ("authorization", "wrong", "code"),
    [("", "missing", ""), ("Bearer nope", "wrong", "invalid_token"), ("Basic eDp5", "wrong", "invalid_token")],
)
@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages/?session_id=x"])
def test_a_401_says_what_to_set(server: HttpServer, path: str, authorization: str, wrong: str, code: str) -> None:
    with httpx2.Client() as client:
        headers = {"Authorization": authorization} if authorization else {}
        answer = client.get(server.url + path, headers=headers)
    assert answer.status_code == 401
    assert f"token is {wrong}" in answer.json()["error"]
    for needed in ("Authorization: Bearer TOKEN", "--header", "HEABLCOIN_CLOUD_TOKEN", "stderr"):
        assert needed in answer.json()["fix"]
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert "HEABLCOIN_CLOUD_TOKEN" in challenge
    assert "resource_metadata" not in challenge  # would send clients into OAuth
    assert ("invalid_token" in challenge) == bool(code)


def test_a_cancelled_request_gets_no_answer_on_its_stream(server: HttpServer) -> None:
    headers = {**JSON_HEADERS, **BEARER}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=30) as client:
        opened = client.post("/mcp", content=initialize())
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)

        def call(number: int, name: str, /, **arguments: Any) -> dict[str, Any]:
            params = {"name": name, "arguments": arguments, "_meta": {"progressToken": number}}
            return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}

        made = client.post("/mcp", json=call(2, "publish_enhanced_task", name="nobody_runs_this"), headers=session)
        task_id = json.loads(re.findall(r"^data: (.*)$", made.text, re.MULTILINE)[-1])["result"]["structuredContent"][
            "task_id"
        ]
        events: list[str] = []
        with client.stream(
            "POST", "/mcp", json=call(3, "wait_for_task", task_id=task_id, timeout=55), headers=session
        ) as waiting:
            cancelled = False
            for line in waiting.iter_lines():  # ends when the server ends the stream
                events += [line] if line.startswith("data: ") else []
                if events and not cancelled:
                    cancelled = True
                    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}}
                    assert client.post("/mcp", json=cancel, headers=session).status_code == 202
        messages = [json.loads(event.removeprefix("data: ")) for event in events]
        assert {message.get("method") for message in messages} == {"notifications/progress"}
        listed = client.post("/mcp", json=call(4, "get_enhanced_task_stats"), headers=session)
        assert '"id":4' in listed.text


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("transport", ["streamable", "sse"])
async def test_both_transports_serve_both_eras_on_one_port(server: HttpServer, era: str, transport: str) -> None:
    async def drive(client: Client) -> None:
        published = await client.call_tool("publish_enhanced_task", {"name": "echo", "payload": '{"via": "http"}'})
        assert published.structured_content is not None
        waited = await client.call_tool("wait_for_task", {"task_id": published.structured_content["task_id"]})
        assert waited.structured_content is not None
        assert waited.structured_content["tasks"][0]["result"] == {"via": "http"}

    if transport == "sse":
        async with Client(sse_client(f"{server.url}/sse", headers=BEARER), mode=era) as client:
            await drive(client)
    else:
        async with (
            httpx2.AsyncClient(headers=BEARER) as http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=era) as client,
        ):
            await drive(client)


def test_slow_and_half_open_connections_do_not_hold_up_others(server: HttpServer) -> None:
    dawdlers: list[socket.socket] = []
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    try:
        for _ in range(50):
            silent = server.connect()
            half_head = server.connect()
            half_head.sendall(b"POST /mcp HTTP/1.1\r\nHos")
            half_body = server.connect()
            half_body.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{".encode())
            dawdlers += [silent, half_head, half_body]
        status, _ = server.ask("/mcp", body=initialize(), headers={**JSON_HEADERS, **BEARER}, timeout=5)
        assert status == 200
        assert server.ask("/health", timeout=5)[0] == 200
    finally:
        for dawdler in dawdlers:
            dawdler.close()
    assert server.ask("/health", timeout=5)[0] == 200


def test_a_client_that_vanishes_in_the_middle_of_a_wait_disturbs_nobody(server: HttpServer) -> None:
    call: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "wait_for_task",
            "arguments": {"task_id": "x"},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    body = json.dumps(call).encode()
    lines = [
        "POST /mcp HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {TOKEN}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        "MCP-Protocol-Version: 2026-07-28",
        "Mcp-Method: tools/call",
        "Mcp-Name: wait_for_task",
        f"Content-Length: {len(body)}",
    ]
    for _ in range(20):
        connection = server.connect()
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        connection.close()
    assert server.ask("/health", timeout=5)[0] == 200


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_although_streams_are_open(tmp_path: Path, number: signal.Signals) -> None:
    with HttpServer(tmp_path, env=environment(tmp_path, token=TOKEN)) as server, server.connect() as stream:
        stream.sendall(f"GET /sse HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert b"200 OK" in stream.recv(4096)
        server.process.send_signal(number)
        assert server.gone() == 0
        assert '"level": "error"' not in server.errors  # cutting the stream off was asked for


def test_a_token_it_made_up_is_shown_once_and_works(tmp_path: Path) -> None:
    with HttpServer(tmp_path) as server:
        [token] = re.findall(r"Bearer token for this run: (\S+)", server.errors)
        assert len(token) >= 32
        headers = {**JSON_HEADERS, "Authorization": f"Bearer {token}"}
        assert server.ask("/mcp", body=initialize(), headers=headers)[0] == 200
        assert server.errors.count(token) == 1


def test_a_token_that_was_given_is_never_shown(server: HttpServer) -> None:
    assert TOKEN not in server.errors


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({}, "HEABLCOIN_CLOUD_TOKEN"),
        ({"token": "short"}, "HEABLCOIN_CLOUD_TOKEN"),
        ({"token": TOKEN}, "HEABLCOIN_CLOUD_HTTP_HOSTS"),
        ({"http_hosts": "queue.lan"}, "HEABLCOIN_CLOUD_TOKEN"),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_unprotected_bind_is_refused_at_the_start(
    host: str,
    settings: dict[str, str],
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"HEABLCOIN_CLOUD_{name.upper()}", value)
    assert cli.main(["serve", "--transport", "sse", "--host", host, "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert hint in said
    assert "Fix:" in said
    assert "Traceback" not in said
    assert TOKEN not in said


def test_a_process_whose_bind_is_refused_ends_and_says_so(tmp_path: Path) -> None:
    assert "HEABLCOIN_CLOUD_TOKEN" in _start_in_vain(tmp_path, ["--host", "0.0.0.0", "--port", "0"], {})


def test_a_taken_port_says_so(server: HttpServer, tmp_path: Path) -> None:
    assert "--port" in _start_in_vain(tmp_path, ["--port", str(server.port)], {})


def test_a_protected_bind_serves_the_hosts_it_was_told_of(tmp_path: Path) -> None:
    env = environment(tmp_path, token=TOKEN, http_hosts="queue.lan,Other.Lan:99")
    with HttpServer(tmp_path, "--host", "0.0.0.0", env=env) as server:
        server.url = f"http://127.0.0.1:{server.port}"
        for host, status in {
            "queue.lan": 200,
            "queue.lan:1234": 200,
            "other.lan:99": 200,
            "other.lan:98": 421,
            "evil.lan": 421,
        }.items():
            headers = {**JSON_HEADERS, **BEARER, "Host": host}
            assert server.ask("/mcp", body=initialize(), headers=headers)[0] == status, host


def _start_in_vain(folder: Path, arguments: list[str], settings: dict[str, str]) -> str:
    done = subprocess.run(
        command("serve", "--transport", "sse", *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(folder, **settings),
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    said = done.stderr.decode()
    assert "Fix:" in said
    assert "Traceback" not in said
    return said
