"""Starts the server that the command line asked for: on stdio or HTTP."""

import sys
from functools import partial
from typing import NoReturn

import anyio
from mcp.server import MCPServer

from core.network import check_proxies
from server import logs
from server.app import build_server
from server.changes import ChangeFeed
from server.context import App
from server.lifecycle import Life
from server.notifications import Notifier
from server.runtime import add_handlers, open_runtime
from server.settings import Settings, load_settings
from server.stdio import serve_stdio

ON_A_TERMINAL = """\
This is an MCP server: it talks to a client (Claude Desktop, Windsurf, MCP Inspector) on stdin and stdout.
Try:  heablcoin-cloud demo                          see it work, without a key
      heablcoin-cloud print-config claude-desktop   add it to a client
      heablcoin-cloud doctor                        check this installation
      heablcoin-cloud --help                        everything else
Press Ctrl-C to leave."""


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


def open_app(settings: Settings) -> App:
    """The App of this process."""
    runtime = open_runtime(settings)
    add_handlers(runtime, settings)
    return App(runtime, settings, ChangeFeed(runtime.publisher))


async def _stdio(server: MCPServer, _ended: anyio.Event) -> None:
    await serve_stdio(server)
