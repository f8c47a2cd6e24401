"""Starts the server that the command line asked for: on stdio or HTTP."""

import sys
from functools import partial
from typing import NoReturn

import anyio
from mcp.server import MCPServer

from core.network import check_proxies
from server import logs
from server.app import build_server, open_app
from server.notifications import Notifier
from server.serving.lifecycle import Life
from server.serving.stdio import serve_stdio
from server.settings import load_settings

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
    from server.serving.http_server import serve as serve_http

    serve_http(settings, host, port)


async def _stdio(server: MCPServer, _ended: anyio.Event) -> None:
    await serve_stdio(server)
