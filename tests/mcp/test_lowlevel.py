"""The SDK's inner server is where we look for it, or its absence is said aloud."""

import pytest
from mcp.server import MCPServer
from mcp.server.lowlevel import Server

from server.lowlevel import lowlevel


def test_the_inner_server_is_found():
    assert isinstance(lowlevel(MCPServer("a")), Server)


def test_an_sdk_without_it_is_said_aloud():
    server = MCPServer("a")
    del server._lowlevel_server
    with pytest.raises(RuntimeError, match="mcp is not the one"):
        lowlevel(server)
