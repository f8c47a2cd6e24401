"""Brings tasks in from a file, whichever kind it is: an export of the queue, or the original program's JSON."""

import itertools
import logging
from pathlib import Path
from typing import IO

from core.cloud.queue.legacy_import import import_legacy
from core.cloud.queue.transfer import LONGEST_LINE, Imported, is_export, read_tasks, reading
from core.cloud.store_contract import TaskStore
from core.errors import InvalidArgument

log = logging.getLogger(__name__)


def import_file(tasks: TaskStore, file: str | Path | IO[bytes], now: float) -> Imported:
    """Add the tasks that are not there yet. Raises InvalidArgument for a file of another kind."""
    with reading(file) as stream:
        first = stream.readline(LONGEST_LINE)
        if is_export(first):
            return read_tasks(tasks, itertools.chain([first], stream), now)
    if not isinstance(file, (str, Path)):
        raise InvalidArgument("This is not an export of the queue.", "give the original program's file by its path.")
    imported = import_legacy(tasks, file, now)
    for note in imported.notes:
        log.info("import of %s: %s", Path(file).name, note)
    return imported
