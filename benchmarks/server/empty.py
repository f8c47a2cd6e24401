"""The floor: a server of the same SDK with one tool that does nothing."""

from mcp.server import MCPServer

server = MCPServer("empty")


@server.tool()
async def nothing() -> dict[str, int]:
    """Do nothing."""
    return {"done": 1}


if __name__ == "__main__":
    server.run("stdio")
