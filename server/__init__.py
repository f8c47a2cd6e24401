"""The MCP face: parse what a client says, call the core, render what it answers."""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "heablcoin-cloud"


def package_version() -> str:
    """The installed version, or `0+source` when run from a tree that was not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+source"
