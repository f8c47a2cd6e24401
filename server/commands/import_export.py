"""`heablcoin-cloud import FILE` and `export FILE`."""

import sys
from pathlib import Path

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.errors import InvalidArgument
from core.paths import MEMORY, database_path
from server.settings import load_settings


def import_tasks(file: str, database: str | None) -> int:
    """Add the tasks of an export, or of the original program's JSON file, and say what could not be carried over.

    1 when there was no task in the file.
    """
    settings = load_settings(database=database)
    with EnhancedCloudTaskPublisher(settings.database or None) as publisher:  # without a pool: no key is looked for
        imported = publisher.import_(sys.stdin.buffer if file == "-" else file)
    for note in imported.notes:
        _say(note)
    if not imported.added and not imported.present:
        _say(f"There is no task in {'what was piped in' if file == '-' else file}; nothing was added.")
        return 1
    there = f", {imported.present:,} there already" if imported.present else ""
    changed = f"; {_count(len(imported.notes), 'note')} above on what was changed or left out" if imported.notes else ""
    _say(f"{_count(imported.added, 'task')} added{there}{changed}.")
    return 0


def write_out(file: str, database: str | None) -> int:
    """Write every task. Refused when there is no database: an export must not make one and call it empty."""
    settings = load_settings(database=database)
    where = settings.database or database_path()
    if where != MEMORY and not Path(where).expanduser().exists():
        raise InvalidArgument(
            f"There is no database {Path(where).expanduser().absolute()}; nothing was written.",
            "name the right one with --database or HEABLCOIN_CLOUD_DATABASE; `heablcoin-cloud doctor` shows which is used.",
        )
    with EnhancedCloudTaskPublisher(settings.database or None) as publisher:
        count = publisher.export(sys.stdout.buffer if file == "-" else file)
    _say(f"{_count(count, 'task')} written.")
    return 0


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a command's output
