"""The SQLite store: every part over one database."""

from functools import cached_property
from typing import TYPE_CHECKING

import apsw

from core.cloud.store.database import Database
from core.cloud.store.migrate import schema_version
from core.cloud.store.queries import one
from core.cloud.store.task_store import SqliteTaskStore
from core.cloud.store.worker_store import SqliteWorkerStore
from core.cloud.store_contract import StoreHealth

if TYPE_CHECKING:
    from core.cloud.store.schedule_store import SqliteScheduleStore
    from core.cloud.store.sqlite_pool_state import SqlitePoolState


class SqliteStore:
    """See base.Store for the contract; `pool` and `schedules` are made when first used."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.tasks = SqliteTaskStore(database)
        self.workers = SqliteWorkerStore(database)

    @cached_property
    def schedules(self) -> "SqliteScheduleStore":
        from core.cloud.store.schedule_store import SqliteScheduleStore

        return SqliteScheduleStore(self.database)

    @cached_property
    def pool(self) -> "SqlitePoolState":
        from core.cloud.store.sqlite_pool_state import SqlitePoolState

        return SqlitePoolState(self.database)

    @property
    def location(self) -> str:
        return self.database.location

    def health(self) -> StoreHealth:
        """Check the whole file (seconds for a large one), and that it can be written: StoreReadOnly, StoreBusy."""
        with self.database.write(durable=False) as connection:
            if connection.readonly("main"):  # such a file is read by BEGIN IMMEDIATE without complaint
                raise apsw.ReadOnlyError("the file was opened for reading only")
        with self.database.read() as connection:
            version = schema_version(connection)
            size = int(one(connection, "PRAGMA page_count")) * int(one(connection, "PRAGMA page_size"))
            verdict = check(connection)
        sound = verdict == ["ok"]
        return StoreHealth(
            kind="sqlite",
            location=self.location,
            library=f"SQLite {apsw.sqlite_lib_version()} (apsw {apsw.apsw_version()})",
            schema_version=version,
            bytes=size,
            sound=sound,
            detail="every check passed" if sound else "; ".join(verdict[:5]),
        )

    def close(self) -> None:
        if "pool" in self.__dict__:
            self.pool.close()  # it writes behind, so something may be left to write
        self.database.close()


def check(connection: apsw.Connection) -> list[str]:
    """["ok"], or up to five things that are wrong with the file."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
        return found + [
            f"a row of {row[0]} refers to nothing" for row in connection.execute("PRAGMA foreign_key_check")
        ]
    except apsw.CorruptError as error:
        return [str(error)]
