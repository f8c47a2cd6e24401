"""Streamable HTTP and SSE from one ASGI app on one port, behind one guard."""

import logging
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, NoReturn

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from core.errors import InvalidArgument, StoreError
from core.redaction import KNOWN_SECRETS
from server.app import build_server, open_app
from server.context import App
from server.notifications import Notifier
from server.serving.guard import Guard, check_bind
from server.serving.http_messages import HttpMessages
from server.serving.lifecycle import Life
from server.settings import Settings

log = logging.getLogger(__name__)

STREAMABLE, SSE, POSTS, HEALTH = "/mcp", "/sse", "/messages/", "/health"
MAX_BODY = 4 * 1024 * 1024
"""Bytes of a request's body; more gets a 413."""
GRACEFUL_SECONDS = 1
"""How long open streams may go on once the server was told to end."""


def asgi_app(server: MCPServer, app: App, *, token: str) -> ASGIApp:
    """`/mcp` (streamable HTTP), `/sse` with `/messages/` (the older transport), `/health`."""
    # The guard checks Host and Origin for every path, so the SDK's own checks, which know fewer cases, are off.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    limits: dict[str, Any] = {"transport_security": security, "max_request_body_size": MAX_BODY}
    streamable = server.streamable_http_app(streamable_http_path=STREAMABLE, **limits)
    sse = server.sse_app(sse_path=SSE, message_path=POSTS, **limits)

    async def health(_request: Request) -> Response:
        try:
            await app.store(app.runtime.store.tasks.stats)
        except StoreError:
            return JSONResponse({"status": "failing"}, 503)
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(_starlette: Starlette) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    routes = [*streamable.routes, *sse.routes, Route(HEALTH, health, methods=["GET"])]
    origins = app.settings.http_origins
    served = HttpMessages(
        Starlette(routes=routes, lifespan=lifespan), streamable=STREAMABLE, sse=SSE, posts=POSTS, largest=MAX_BODY
    )
    guarded: ASGIApp = Guard(
        served,
        token=token,
        hosts=app.settings.http_hosts,
        origins=origins,
        paths=(STREAMABLE, SSE, POSTS),
        open_paths=(HEALTH,),
    )
    if origins:
        guarded = CORSMiddleware(
            guarded, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["Mcp-Session-Id"]
        )
    return guarded


def serve(settings: Settings, host: str, port: int) -> NoReturn:
    """Serve both HTTP transports until a signal ends it. Raises InvalidArgument for an unsafe or taken address."""
    given = settings.token.get_secret_value()
    check_bind(host, given, settings.http_hosts)
    token = given or secrets.token_urlsafe(32)
    KNOWN_SECRETS.add(token)
    listener = listen(host, port)
    app = open_app(settings)
    notifier = Notifier(app)
    asgi = asgi_app(build_server(app, notifier), app, token=token)
    _introduce(listener, token if not given else "")
    Life(app.runtime).run(
        partial(_serve, asgi, listener), notifier.run, linger=GRACEFUL_SECONDS + 0.5, watch_parent=False
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; InvalidArgument when the address is unknown or taken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise InvalidArgument(
            f"Cannot listen on {host} port {port}: {reason}.", "choose another with --host or --port (0: any free one)"
        ) from error


class _Uvicorn(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one place that ends it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(asgi: ASGIApp, listener: socket.socket, ended: anyio.Event) -> None:
    config = uvicorn.Config(
        asgi,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    server = _Uvicorn(config)

    async def end() -> None:
        await ended.wait()
        # Streams that are open now are cut off on purpose: no errors to report to whoever pressed Ctrl-C.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server.should_exit = True

    async with anyio.create_task_group() as group:
        group.start_soon(end)
        await server.serve(sockets=[listener])
        ended.set()


def _introduce(listener: socket.socket, new_token: str) -> None:
    """Say on stderr where the server is and, once, the token it made up."""
    host, port = listener.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    lines = [f"Serving MCP on {where}/mcp (streamable HTTP) and {where}/sse (SSE)."]
    if new_token:
        lines.append(f"Bearer token for this run: {new_token}   (set HEABLCOIN_CLOUD_TOKEN to keep one)")
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - the one time the token is shown
