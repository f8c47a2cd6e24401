"""Where tasks, endpoints and schedules live. `base` is the contract; the rest of this package is SQLite."""

from typing import TYPE_CHECKING, Literal

from core.paths import database_path

if TYPE_CHECKING:
    from core.cloud.store.sqlite import SqliteStore


def open_store(
    location: str | None = None,
    *,
    synchronous: Literal["FULL", "NORMAL"] = "FULL",
    busy_timeout: float = 10.0,
) -> "SqliteStore":
    """Open (and create or migrate) the store at `location`: a path, `:memory:`, or None for core.paths.database_path().

    `synchronous="FULL"` makes a published or finished task survive a power cut; `"NORMAL"` only the death of any process.
    `busy_timeout` is the longest wait for another process, in seconds. Raises a StoreError that says what is wrong.
    """
    from core.cloud.store.database import Database
    from core.cloud.store.sqlite import SqliteStore

    return SqliteStore(Database(location or database_path(), synchronous=synchronous, busy_timeout=busy_timeout))
