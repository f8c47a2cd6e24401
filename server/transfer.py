"""`heablcoin-cloud import FILE` and `export FILE`."""

import sys

from core.runtime import Runtime
from server.serving import open_runtime
from server.settings import load_settings


def bring_in(file: str, database: str | None) -> int:
    """Add the tasks of an export, or of the original program's JSON file, and say what could not be carried over."""
    runtime = _runtime(database)
    try:
        imported = runtime.publisher.import_(sys.stdin.buffer if file == "-" else file)
    finally:
        runtime.stop(0)
    for note in imported.notes:
        _say(note)
    there = f", {imported.present:,} there already" if imported.present else ""
    changed = f"; {_count(len(imported.notes), 'note')} above on what was changed or left out" if imported.notes else ""
    _say(f"{_count(imported.added, 'task')} added{there}{changed}.")
    return 0


def write_out(file: str, database: str | None) -> int:
    """Write every task."""
    runtime = _runtime(database)
    try:
        count = runtime.publisher.export(sys.stdout.buffer if file == "-" else file)
    finally:
        runtime.stop(0)
    _say(f"{_count(count, 'task')} written.")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a command's output


def _runtime(database: str | None) -> Runtime:
    return open_runtime(load_settings(database=database, concurrency=0))
