"""`heablcoin-cloud import FILE` and `export FILE`: the queue as JSON Lines."""

import sys

from core.runtime import Runtime
from server.serving import open_runtime
from server.settings import load_settings


def bring_in(file: str, database: str | None) -> int:
    """Add the tasks of an export, or of the original program's JSON file."""
    runtime = _runtime(database)
    try:
        count = runtime.publisher.import_(sys.stdin.buffer if file == "-" else file)
    finally:
        runtime.stop(0)
    print(f"{count} tasks added.", file=sys.stderr)  # noqa: T201 - a command's output
    return 0


def write_out(file: str, database: str | None) -> int:
    """Write every task."""
    runtime = _runtime(database)
    try:
        count = runtime.publisher.export(sys.stdout.buffer if file == "-" else file)
    finally:
        runtime.stop(0)
    print(f"{count} tasks written.", file=sys.stderr)  # noqa: T201 - a command's output
    return 0


def _runtime(database: str | None) -> Runtime:
    return open_runtime(load_settings(database=database, concurrency=0))
