"""Forward-only migrations: `sql/migrations/NNNN_noun.sql`, all pending ones in one transaction, by whoever comes first."""

import logging
import os
from importlib import resources
from pathlib import Path

import apsw

from core.cloud.store.queries import one
from core.errors import StoreCorrupt, StoreTooNew
from core.failpoints import failpoint
from core.paths import MEMORY

log = logging.getLogger(__name__)

APPLICATION_ID = 0x48656162
"""`Heab`, in the file's header: tells our databases from others'."""


def migrations() -> list[tuple[int, str]]:
    """Every migration as (number, SQL), in order."""
    folder = resources.files(__package__) / "sql" / "migrations"
    found = sorted(
        (int(item.name[:4]), item.read_text(encoding="utf-8"))
        for item in folder.iterdir()
        if item.name.endswith(".sql")
    )
    numbers = [number for number, _ in found]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"migrations must be numbered 1, 2, 3, ... without gaps; found {numbers}")
    return found


def schema_version(connection: apsw.Connection) -> int:
    """The number of the newest migration in this database; 0 for a new file."""
    return int(one(connection, "PRAGMA user_version"))


def step_counter(connection: apsw.Connection) -> None:
    """Change nothing but the file's change counter, by which a copy of an earlier time is told from the file as it was left.

    SQLite steps it in write-ahead mode only when the first page is written, which otherwise happens rarely.
    """
    connection.execute(f"PRAGMA user_version={schema_version(connection)}")


def refuse_foreign(connection: apsw.Connection, location: str) -> None:
    """Raise StoreCorrupt for a database that another program made, before anything in it is changed."""
    application = one(connection, "PRAGMA application_id")
    if application == APPLICATION_ID:
        return
    if application != 0 or one(connection, "SELECT count(*) FROM sqlite_schema"):
        raise StoreCorrupt(
            f"The file {location} belongs to another program.", "set HEABLCOIN_CLOUD_DATABASE to another path."
        )


def migrate(connection: apsw.Connection, location: str, known: list[tuple[int, str]] | None = None) -> None:
    """Bring the database to this code's schema.

    Several processes may start on one new file at once: the first to get the write lock does the work, the others find it
    done. A database that already held data is copied to `<file>.v<N>.backup` first. Raises StoreTooNew for one written by
    newer code.
    """
    known = known if known is not None else migrations()
    newest = known[-1][0] if known else 0
    if schema_version(connection) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        _bring_up(connection, location, known, newest)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _bring_up(connection: apsw.Connection, location: str, known: list[tuple[int, str]], newest: int) -> None:
    current = schema_version(connection)
    if current > newest:
        raise StoreTooNew(
            f"The database {location} has schema {current}; this version knows up to {newest}.",
            "upgrade heablcoin-cloud, or set HEABLCOIN_CLOUD_DATABASE to another file.",
        )
    if 0 < current < newest and location != MEMORY:
        log.info("%s was copied to %s before its schema is changed", location, back_up(location, current))
    if not current:
        log.info("creating %s with schema %d", location, newest)
    for number, sql in known:
        if number > current:
            if current:
                log.info("migrating %s to schema %d", location, number)
            connection.execute(sql)
            failpoint("during_migration")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={newest}")


def back_up(location: str, version: int) -> Path:
    """A consistent copy beside the file, for this user alone, whole or not there at all."""
    target = Path(f"{location}.v{version}.backup")
    unfinished = Path(f"{target}.unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_CREAT | os.O_RDWR, 0o600))
    source = apsw.Connection(location, flags=apsw.SQLITE_OPEN_READONLY)
    copy = apsw.Connection(str(unfinished))
    try:
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(1000)
    finally:
        copy.close()
        source.close()
    unfinished.replace(target)
    return target
