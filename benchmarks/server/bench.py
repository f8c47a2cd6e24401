"""The server beside an empty one of the same SDK: start-up, idle memory, the cost of a call.

Driven by a raw client (JSON lines on stdin and stdout), because the SDK's own client costs more than either server.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import Noise, Table, median, percentile, save

COMMANDS = {"empty server": ["-m", "benchmarks.server.empty"], "heablcoin-cloud": ["-m", "server"]}
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("empty server", "nothing", {}),
    ("heablcoin-cloud", "get_enhanced_task_stats", {}),
    ("heablcoin-cloud", "list_enhanced_tasks", {"status": "failed"}),
    ("heablcoin-cloud", "get_api_manager_stats", {}),
    ("heablcoin-cloud", "publish_enhanced_task", {"name": "nobody_runs_this", "payload": '{"symbol": "BTC/USDT"}'}),
]


class Raw:
    """A connection that sends one request at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the server has no pipes")
        self._in, self._out = process.stdin, process.stdout
        self._id = 0

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._id += 1
        self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        while True:
            message: dict[str, Any] = json.loads(self._out.readline())
            if message.get("id") == self._id:
                return message

    def notify(self, method: str) -> None:
        self._send({"jsonrpc": "2.0", "method": method})

    def _send(self, message: dict[str, Any]) -> None:
        self._in.write(json.dumps(message).encode() + b"\n")
        self._in.flush()


@contextmanager
def started(name: str) -> Iterator[tuple[Raw, float, int]]:
    """A server that has answered `initialize`, the seconds that took, and its process id."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "HOME": home,
            "HEABLCOIN_CLOUD_DATABASE": str(Path(home) / "queue.db"),
            "HEABLCOIN_CLOUD_KEYS": "file",
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling at each start would be measured as ours
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *COMMANDS[name]],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            raw = Raw(process)
            answer = raw.request("initialize", INITIALIZE)
            took = time.perf_counter() - began
            if "result" not in answer:
                raise RuntimeError(f"{name} did not start: {answer}")
            raw.notify("notifications/initialized")
            yield raw, took, process.pid
        finally:
            process.communicate(timeout=10)


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def start_up(rounds: int) -> Table:
    table = Table(
        "Start-up and idle memory",
        ("server", "spawn to initialize, s (min / median)", "idle, MB", "over the empty one"),
    )
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    idle: dict[str, float] = {}
    for turn in range(rounds):
        for name in COMMANDS if turn % 2 == 0 else reversed(COMMANDS):
            with started(name) as (raw, seconds, pid):
                took[name].append(seconds)
                raw.request("tools/list", {})
                time.sleep(0.5)
                idle[name] = resident_mb(pid)
    floor = "empty server"
    for name in COMMANDS:
        over = (
            f"{min(took[name]) - min(took[floor]):+.2f} s, {idle[name] - idle[floor]:+.1f} MB" if name != floor else ""
        )
        table.add(name, f"{min(took[name]):.2f} / {median(took[name]):.2f}", f"{idle[name]:.1f}", over)
    return table


def calls(rounds: int, each: int) -> Table:
    table = Table("One call after another (ms)", ("server", "tool", "p50", "p99", "over the empty tool"))
    took: dict[str, list[float]] = {tool: [] for _, tool, _ in CALLS}
    with started("empty server") as (empty, _, _), started("heablcoin-cloud") as (ours, _, _):
        connections = {"empty server": empty, "heablcoin-cloud": ours}
        for turn in range(rounds + 1):
            for name, tool, arguments in CALLS:
                for _ in range(each):
                    began = time.perf_counter()
                    answer = connections[name].request("tools/call", {"name": tool, "arguments": arguments})
                    if turn:  # the first round warms up
                        took[tool].append(time.perf_counter() - began)
                    if answer["result"].get("isError"):
                        raise RuntimeError(f"{tool}: {answer['result']}")
    floor = median(took["nothing"])
    for name, tool, _ in CALLS:
        p50 = median(took[tool])
        over = f"{(p50 - floor) * 1e3:+.2f}" if tool != "nothing" else ""
        table.add(name, tool, f"{p50 * 1e3:.2f}", f"{percentile(took[tool], 0.99) * 1e3:.2f}", over)
    return table


def main(*, quick: bool) -> list[Table]:
    noise = Noise()
    print("\nserver: start-up")
    tables = [start_up(3 if quick else 9)]
    print("\nserver: calls")
    tables.append(calls(2 if quick else 5, 50 if quick else 200))
    print(f"\nOther processes used {noise.share():.2f} of a core.")
    save("server", tables)
    return tables
