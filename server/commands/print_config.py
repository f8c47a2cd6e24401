"""Prints what a client needs to start this server. Absolute paths, because a GUI's PATH is short; edits nothing."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from core.cloud.handlers.files import looks_like_a_path
from core.paths import MEMORY
from server import DISTRIBUTION
from server.commands.clients import client_files
from server.settings import PREFIX

CACHE = "archive-v0"
"""The folder of uv's cache that `uvx` runs programs from."""
SERVER_NAME = "heablcoin-cloud"


def launch_command() -> list[str]:
    """How a client starts this server from any directory: absolute paths only."""
    beside = Path(sys.executable).with_name(DISTRIBUTION + (".exe" if sys.platform == "win32" else ""))
    if beside.exists():
        return [str(beside)]
    found = shutil.which(DISTRIBUTION)
    if found:
        return [str(Path(found).absolute())]
    return [str(Path(sys.executable).absolute()), str(Path(__file__).absolute().parents[1] / "__main__.py")]


def options(database: str | None, handlers: str | None) -> list[str]:
    """The options given here, for a client that starts the server in another directory: their paths made absolute."""
    told = []
    if database:
        told += ["--database", database if database == MEMORY else str(Path(database).expanduser().absolute())]
    if handlers:
        told += [
            "--handlers",
            str(Path(handlers).expanduser().absolute()) if looks_like_a_path(handlers) else handlers,
        ]
    return told


def client_entry(*given: str) -> dict[str, Any]:
    """The entry under `mcpServers`; `given` are options of the server."""
    command, *arguments = launch_command()
    return {"command": command, "args": [*arguments, *given]}


def config_text(client: str, *given: str) -> str:
    """What to paste or run for `client`; `given` are options of the server."""
    command = [*launch_command(), *given]
    if client == "claude-code":
        return shlex.join(["claude", "mcp", "add", SERVER_NAME, "--", *command])
    if client == "inspector":
        apart = ["--"] if given else []  # else the Inspector would take the options for its own
        return shlex.join(["npx", "@modelcontextprotocol/inspector", *apart, *command])
    return json.dumps({"mcpServers": {SERVER_NAME: client_entry(*given)}}, indent=2, ensure_ascii=False)


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


def main(client: str, database: str | None = None, handlers: str | None = None) -> int:
    """Print the text on stdout, so that it can be piped, and the advice on stderr."""
    print(advice(client), file=sys.stderr)  # noqa: T201 - a command's output
    if only_here := sorted(name for name in os.environ if name.startswith(PREFIX)):
        print(  # noqa: T201 - a command's output
            f"Set in this terminal, but not in what is printed (the client has an environment of its own): {', '.join(only_here)}.",
            file=sys.stderr,
        )
    if CACHE in Path(sys.prefix).parts:
        print(  # noqa: T201 - a command's output
            "This copy lies in uv's cache, which may be emptied: `uv tool install` it first, then print this again.",
            file=sys.stderr,
        )
    if handlers and looks_like_a_path(handlers) and not Path(handlers).expanduser().is_file():
        print(  # noqa: T201 - a command's output
            f"The handlers file {Path(handlers).expanduser().absolute()} does not exist: "
            "the server would not start with what is printed.",
            file=sys.stderr,
        )
    print(config_text(client, *options(database, handlers)))  # noqa: T201 - a command's output
    return 0
