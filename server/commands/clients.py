"""Where MCP clients keep their configuration, and what stands in it about this server. Nothing here writes."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from server import DISTRIBUTION


@dataclass(frozen=True, slots=True)
class ClientFile:
    """A configuration file of one client."""

    client: str
    path: Path


@dataclass(frozen=True, slots=True)
class ConfigFinding:
    """What was found in a client's file."""

    file: ClientFile
    problem: str
    """'' when the file is sound."""
    servers: tuple[str, ...]
    """Names of the entries that start this server."""
    bare: tuple[str, ...] = ()
    """Their commands that are no absolute path: a client with a short PATH does not find them."""


def client_files(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> list[ClientFile]:
    """The files that known clients read, whether or not they exist."""
    env = os.environ if environ is None else environ
    home = Path(env.get("USERPROFILE" if platform == "win32" else "HOME") or Path.home())
    if platform == "win32":
        roaming = Path(env.get("APPDATA") or home / "AppData" / "Roaming")
    elif platform == "darwin":
        roaming = home / "Library" / "Application Support"
    else:
        roaming = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    devin = roaming / "devin" if platform == "win32" else home / ".config" / "devin"
    return [
        ClientFile("Claude Desktop", roaming / "Claude" / "claude_desktop_config.json"),
        ClientFile("Claude Code", home / ".claude.json"),
        ClientFile("Claude Code (this directory)", Path.cwd() / ".mcp.json"),
        ClientFile("Windsurf", home / ".codeium" / "windsurf" / "mcp_config.json"),
        ClientFile("Devin Desktop", devin / "mcp_config.json"),
    ]


def inspect(file: ClientFile) -> ConfigFinding | None:
    """What a client's file says of us; None when there is no file."""
    try:
        text = file.path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return ConfigFinding(file, f"cannot be read ({type(error).__name__})", ())
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        return ConfigFinding(file, f"is not valid JSON{where}", ())
    if not isinstance(config, dict):
        return ConfigFinding(file, "is not a JSON object", ())
    entries = list(_entries(config))
    problem = next((said for name, entry in entries if (said := _problem(name, entry))), "")
    ours = [(name, entry) for name, entry in entries if _is_ours(name, entry)]
    return ConfigFinding(file, problem, tuple(name for name, _ in ours), tuple(dict.fromkeys(_bare_commands(ours))))


def _bare_commands(entries: Iterable[tuple[str, object]]) -> Iterator[str]:
    for _, entry in entries:
        command = entry.get("command") if isinstance(entry, dict) else None
        if (
            isinstance(command, str)
            and command
            and not (PurePosixPath(command).is_absolute() or PureWindowsPath(command).is_absolute())
        ):
            yield command


def _entries(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    servers = config.get("mcpServers")
    if isinstance(servers, dict):
        yield from servers.items()
    elif servers is not None:
        yield "mcpServers", servers
    projects = config.get("projects")
    for project in projects.values() if isinstance(projects, dict) else ():
        if isinstance(project, dict):
            yield from _entries(project)


def _problem(name: str, entry: object) -> str:
    if not isinstance(entry, dict):
        return "mcpServers must be an object of objects"
    if _is_ours(name, entry):
        command, arguments = entry.get("command"), entry.get("args", [])
        if not ((isinstance(command, str) and command) or entry.get("url") or entry.get("serverUrl")):
            return "the entry of this server has no command"
        if not (isinstance(arguments, list) and all(isinstance(argument, str) for argument in arguments)):
            return "args must be a list of texts in quotes"
        if isinstance(command, str) and Path(command).is_absolute() and not Path(command).exists():
            return f"its command does not exist: {command}"
        environment = entry.get("env")
        if environment is not None and not (
            isinstance(environment, dict) and all(isinstance(value, str) for value in environment.values())
        ):
            return "every value in env must be a text in quotes"
    return ""


def _is_ours(name: str, entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    if DISTRIBUTION in name:
        return True
    arguments = entry.get("args")
    words = [entry.get("command"), *(arguments if isinstance(arguments, list) else [])]
    texts = [str(word) for word in words if isinstance(word, str)]
    by_path = any(Path(text).parts[-2:] == ("server", "__main__.py") for text in texts[1:2])
    return by_path or any(DISTRIBUTION in text for text in texts) or texts[1:3] == ["-m", "server"]
