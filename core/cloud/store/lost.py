"""Work that was begun on a database whose file was then lost: it goes on, and its ends are written into the copy kept of it."""

import logging
from collections.abc import Sequence

from core.cloud.store import claiming
from core.cloud.store.database import Database
from core.cloud.store.queries import TASK, first
from core.cloud.store_contract import Settlement
from core.errors import StoreError
from core.safe_text import describe

log = logging.getLogger(__name__)

Held = tuple[str, int]
"""Task id and attempt."""


def settle_in_copy(database: Database, refused: Sequence[Settlement], now: float) -> list[Settlement]:
    """Write the ends of tasks that `database` knows nothing of into the copy of the lost one; returns the other ends.

    Raises nothing: whoever asks has committed what goes with it. What could not be written is among the ends returned.
    """
    strangers: set[str] = set()
    try:
        strangers = _unknown(database, {each.task_id for each in refused})
        if not strangers:
            return list(refused)
        theirs = [each for each in refused if each.task_id in strangers]
        copy = Database(database.kept)
        try:
            with copy.write() as connection:
                left = claiming.settle(connection, theirs, now)
        finally:
            copy.close()
    except Exception as error:  # noqa: BLE001  # the database's own errors, or no memory, or no files left for the copy
        log.warning(
            "the ends of up to %d tasks of the lost database could not be kept: %s", len(refused), describe(error)
        )
        return list(refused)
    log.warning("the ends of %d tasks of the lost database were written to %s", len(theirs) - len(left), database.kept)
    return [each for each in refused if each.task_id not in strangers] + left


def still_held(database: Database, worker: str, lost: Sequence[Held]) -> set[Held]:
    """Those that `database` knows nothing of, and that are the worker's in the copy of the lost one."""
    strangers = _unknown(database, {task_id for task_id, _ in lost})
    if not strangers:
        return set()
    try:
        copy = Database(database.kept)
        try:
            with copy.read() as connection:
                return {
                    held
                    for held in lost
                    if held[0] in strangers and first(connection, TASK["holds"], (held[0], worker, held[1])) is not None
                }
        finally:
            copy.close()
    except StoreError as error:
        log.warning("the copy of the lost database cannot be read: %s", error)
        return {held for held in lost if held[0] in strangers}


def _unknown(database: Database, task_ids: set[str]) -> set[str]:
    with database.read() as connection:
        return {each for each in task_ids if first(connection, TASK["seq_of"], (each,)) is None}
