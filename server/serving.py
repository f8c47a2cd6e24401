"""Starts what the command line asked for: a server on stdio or HTTP, or a worker without clients."""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import anyio
from mcp.server import MCPServer

from core.network import check_proxies
from core.runtime import Runtime, RuntimeOptions
from server import logs
from server.app import build_server
from server.changes import ChangeFeed
from server.context import App
from server.handlers_file import HandlersFile
from server.lifecycle import Life, until_ended
from server.notifications import Notifier
from server.settings import Settings, load_settings
from server.stdio import serve_stdio

log = logging.getLogger(__name__)

ON_A_TERMINAL = """\
This is an MCP server: it talks to a client (Claude Desktop, Windsurf, MCP Inspector) on stdin and stdout.
Try:  heablcoin-cloud demo                          see it work, without a key
      heablcoin-cloud print-config claude-desktop   add it to a client
      heablcoin-cloud doctor                        check this installation
      heablcoin-cloud --help                        everything else
Press Ctrl-C to leave."""


def open_runtime(settings: Settings) -> Runtime:
    """The runtime that these settings describe, not yet started and without the user's handlers."""
    return Runtime.open(
        RuntimeOptions(
            database=settings.database or None,
            concurrency=settings.concurrency,
            lease=settings.lease,
            synchronous=settings.synchronous,
            ageing=settings.ageing,
            retention_days=settings.retention_days,
            allow_hosts=settings.allow_hosts,
            keys=settings.keys,
            endpoints_from_env=settings.endpoints_from_env,
        )
    )


def serve(transport: str, host: str, port: int, database: str | None, handlers: str | None) -> NoReturn:
    """Serve MCP until the client, a signal or the parent's death ends it. Raises what keeps it from starting."""
    settings = load_settings(database=database, handlers=handlers)
    logs.configure(settings.log_level)
    check_proxies()
    if transport == "stdio":
        app = open_app(settings)
        notifier = Notifier(app)
        server = build_server(app, notifier)
        if sys.stdin.isatty():
            print(ON_A_TERMINAL, file=sys.stderr)  # noqa: T201 - for the person at the terminal
        Life(app.runtime).run(partial(_stdio, server), notifier.run, linger=0.0, watch_parent=True)
    from server.http import serve as serve_http

    serve_http(settings, host, port)


def work(database: str | None, handlers: str | None) -> NoReturn:
    """Run tasks until a signal ends it."""
    settings = load_settings(database=database, handlers=handlers)
    logs.configure(settings.log_level)
    check_proxies()
    runtime = open_runtime(settings)
    life = Life(runtime)
    add_handlers(runtime, settings, failed=lambda: life.leave(1))
    if sys.stderr.isatty():
        print("Running tasks. Press Ctrl-C to leave.", file=sys.stderr)  # noqa: T201 - for the person at the terminal
    life.run(until_ended, linger=0.0, watch_parent=False)


def add_handlers(runtime: Runtime, settings: Settings, failed: Callable[[], object] | None = None) -> None:
    """Load the user's handlers. Raises InvalidArgument that says what is wrong with the file, if that shows soon."""
    if settings.handlers:
        try:
            HandlersFile(runtime, settings.handlers, failed).start()
        except BaseException:
            runtime.stop(0.0)
            raise


def open_app(settings: Settings) -> App:
    """The App of this process."""
    runtime = open_runtime(settings)
    add_handlers(runtime, settings)
    return App(runtime, settings, ChangeFeed(runtime.publisher))


async def _stdio(server: MCPServer, _ended: anyio.Event) -> None:
    await serve_stdio(server)
