"""The MCP face: parse what a client says, call the core, render what it answers."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "heablcoin-cloud"


def package_version() -> str:
    """The installed version; in a tree that was not installed, such as a one-click bundle, what its pyproject.toml says."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return _source_version()


def _source_version() -> str:
    try:
        project = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return "0+source"
    found = re.search(rf'^name = "{DISTRIBUTION}"\nversion = "([^"]+)"', project, re.MULTILINE)
    return found[1] if found else "0+source"
