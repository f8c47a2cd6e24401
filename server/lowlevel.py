"""The one place that reaches below the SDK's public server: what MCPServer has no way to set or to run."""

from typing import Any

from mcp.server import MCPServer
from mcp.server.lowlevel import Server


def lowlevel(server: MCPServer[Any]) -> Server[Any]:
    """The SDK's inner server, which takes handlers of any request and runs on any streams.

    Raises RuntimeError when this version of the SDK has none where it is looked for.
    """
    inner = getattr(server, "_lowlevel_server", None)
    if not isinstance(inner, Server):
        raise RuntimeError("This version of the package mcp is not the one this server was built for; install it anew.")  # noqa: TRY004 - nobody passed a wrong value
    return inner
