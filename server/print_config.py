"""Prints what a client needs to start this server. Absolute paths, because a GUI's PATH is short; edits nothing."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from server import DISTRIBUTION
from server.clients import client_files

SERVER_NAME = "heablcoin-cloud"


def launch_command() -> list[str]:
    """How a client starts this server from any directory: absolute paths only."""
    beside = Path(sys.executable).with_name(DISTRIBUTION + (".exe" if sys.platform == "win32" else ""))
    if beside.exists():
        return [str(beside)]
    found = shutil.which(DISTRIBUTION)
    if found:
        return [str(Path(found).absolute())]
    return [str(Path(sys.executable).absolute()), str(Path(__file__).absolute().with_name("__main__.py"))]


def client_entry() -> dict[str, Any]:
    """The entry under `mcpServers`."""
    command, *arguments = launch_command()
    return {"command": command, "args": arguments}


def config_text(client: str) -> str:
    """What to paste or run for `client`."""
    command = launch_command()
    if client == "claude-code":
        return shlex.join(["claude", "mcp", "add", SERVER_NAME, "--", *command])
    if client == "inspector":
        return shlex.join(["npx", "@modelcontextprotocol/inspector", *command])
    return json.dumps({"mcpServers": {SERVER_NAME: client_entry()}}, indent=2, ensure_ascii=False)


def advice(client: str) -> str:
    """Where the text goes."""
    files = {file.client: file.path for file in client_files()}
    match client:
        case "claude-desktop":
            return f"Put this into {files['Claude Desktop']} (merge mcpServers if it is there), then quit Claude fully and start it again."
        case "windsurf":
            return f"Put this into {files['Windsurf']} (Devin Desktop: {files['Devin Desktop']}), then refresh the MCP servers."
        case "claude-code":
            return "Run this in a terminal:"
    return "Run this in a terminal (needs Node):"


def main(client: str) -> int:
    """Print the text on stdout, so that it can be piped, and the advice on stderr."""
    print(advice(client), file=sys.stderr)  # noqa: T201 - a command's output
    print(config_text(client))  # noqa: T201 - a command's output
    return 0
