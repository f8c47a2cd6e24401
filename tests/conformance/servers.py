"""The servers under test: the product as a user starts it, and the same with the suite's fixtures on it."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conformance.proxy import TokenProxy

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"real": "server", "fixtures": "tests.conformance.fixture_server"}
START_SECONDS = 30.0
STOP_SECONDS = 10.0


@asynccontextmanager
async def serve(kind: str, folder: Path) -> AsyncIterator[str]:
    """Run the server `kind` (`real` or `fixtures`) on a database in `folder`; its URL, the token already seen to."""
    port, token = _free_port(), secrets.token_urlsafe(24)
    log = folder / f"{kind}.log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEABLCOIN_CLOUD_")},
        "HEABLCOIN_CLOUD_DATABASE": str(folder / f"{kind}.db"),
        "HEABLCOIN_CLOUD_TOKEN": token,
        "HEABLCOIN_CLOUD_KEYS": "process",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }
    command = [sys.executable, "-m", MODULES[kind], "serve", "--transport", "http", "--port", str(port)]
    process = _start(command, folder, environment, log)
    try:
        await _healthy(process, port, log)
        async with TokenProxy(port, token) as proxy:
            yield f"http://127.0.0.1:{proxy.port}/mcp"
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(command: list[str], folder: Path, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def _healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if process.poll() is not None:
            break
        if await asyncio.to_thread(_answers, f"http://127.0.0.1:{port}/health"):
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"The server did not start: {_tail(log)}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
