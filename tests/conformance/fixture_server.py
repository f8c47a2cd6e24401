"""`python -m tests.conformance.fixture_server`: the product's own command line, its servers with the suite's fixtures on.

The one thing replaced is the call that builds the MCP server; the runtime, the transports, the guard and the process are
those of the product.
"""

import sys

from mcp.server import MCPServer

from server import app as product
from server import cli
from server.context import App
from server.extensions import TasksExtension, deferred_tools
from server.notifications import Notifier
from server.serving import http_server
from tests.conformance import fixtures
from tests.conformance.fixtures import tasks as task_fixtures


def build_server(app: App, notifier: Notifier) -> MCPServer:
    """The product's server with the fixtures put on."""
    extension = TasksExtension(app, [*deferred_tools(app), *(tool(app) for tool in task_fixtures.TASK_FIXTURES)])
    server = product.build_server(app, notifier, tasks=extension)
    fixtures.install(server)
    task_fixtures.install(server, app.runtime.handlers)
    return server


if __name__ == "__main__":
    http_server.build_server = build_server  # type: ignore[assignment]
    sys.exit(cli.main())
