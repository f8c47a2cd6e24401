"""One SQLite database, opened through apsw: its connections, its transactions, its errors in our words."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

import apsw

from core.cloud.store.migrate import migrate, migrations, refuse_foreign, schema_version
from core.cloud.store.place import make_private_file, refuse_affected_library, refuse_network_file_system
from core.errors import (
    HeablcoinError,
    InvalidArgument,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
from core.failpoints import failpoint
from core.paths import MEMORY

log = logging.getLogger(__name__)

Synchronous = Literal["FULL", "NORMAL"]

LARGEST_IDLE_WAL = 64 * 1024 * 1024
"""Bytes: a write-ahead log that grew beyond this during a long read is cut back afterwards."""


class Database:
    """A database file shared by threads and processes, or a private one in memory.

    Writers of this process take turns on one connection; readers have another, so a read never waits for a commit.
    Writes start with BEGIN IMMEDIATE: waiting for another process happens there, bounded by `busy_timeout` seconds,
    and nowhere else.
    """

    def __init__(self, location: str, *, synchronous: Synchronous = "FULL", busy_timeout: float = 10.0) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidArgument(f"There is no synchronous={synchronous!r}.", 'use "FULL" or "NORMAL".')
        if not 0 < busy_timeout <= 600:
            raise InvalidArgument(f"The busy timeout is {busy_timeout!r} seconds.", "use more than 0, up to 600.")
        self.location = location if location == MEMORY else str(Path(location).expanduser().absolute())
        self._synchronous: Synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()
        self._our_words = _OurWords(self.location)
        self._closed = False
        self._durable = True
        refuse_affected_library()
        if location != MEMORY:
            refuse_network_file_system(Path(self.location))
            make_private_file(Path(self.location))
        with self._our_words:
            self._open()

    def _open(self) -> None:
        self._writer = self._connect()
        try:
            migrate(self._writer, self.location)
            if self.location == MEMORY:
                self._reader, self._read_lock = self._writer, self._write_lock
            else:
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")
        except BaseException:
            self._writer.close()
            raise

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(self.location)
        try:
            connection.set_busy_handler(busy_handler(self._busy_timeout))
            # Without this SQLite plans a statement anew whenever a bound value might change its plan, which costs several
            # times as much as running it. Our plans are fixed on purpose (a test reads them).
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            refuse_foreign(connection, self.location)
            switch_to_wal(connection, self._busy_timeout)
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("PRAGMA cache_size=-16000")
            connection.execute(f"PRAGMA journal_size_limit={LARGEST_IDLE_WAL}")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[apsw.Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises.

        `durable=False` skips the fsync for facts that need not survive a power cut (leases, limiter slots, statistics);
        they survive the death of any process all the same, and the file stays sound (SQLite WAL, synchronous=NORMAL).
        """
        with self._write_lock, self._our_words:
            self._ensure_open()
            connection = self._writer
            if durable != self._durable and self._synchronous == "FULL":
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                failpoint("in_transaction_before_commit")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """The reading connection, for one or a few statements that need not agree with each other."""
        with self._read_lock, self._our_words:
            self._ensure_open()
            yield self._reader

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """A read transaction: all statements in the block see the same moment."""
        with self.read() as connection:
            nested = connection.in_transaction
            if not nested:
                connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if not nested and connection.in_transaction:
                    connection.execute("COMMIT")

    def _ensure_open(self) -> None:
        if self._closed:
            raise StoreError("The database was closed.", "open a new store (or publisher) to go on.")

    def close(self) -> None:
        """Close both connections; a second call does nothing."""
        with self._write_lock, self._read_lock:
            if self._closed:
                return
            self._closed = True
            if self._reader is not self._writer:
                self._reader.close()
            self._writer.close()


def schema_of(location: str) -> tuple[int, int]:
    """The schema of the database file at `location` and the newest this code knows. Changes nothing, whatever it finds.

    Raises StoreError for a file that cannot be read or is not ours.
    """
    with _OurWords(location):
        connection = apsw.Connection(location, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            refuse_foreign(connection, location)
            return schema_version(connection), migrations()[-1][0]
        finally:
            connection.close()


def busy_handler(timeout: float) -> Callable[[int], bool]:
    """What SQLite calls while another process holds the lock: wait a little, give up after `timeout` seconds.

    SQLite's own handler backs off to 100 ms, so that of two busy processes one starves; transactions here take well under
    a millisecond, and short random waits share the lock evenly.
    """
    began = 0.0

    def wait(tries: int) -> bool:
        nonlocal began
        now = time.monotonic()
        if tries == 0:
            began = now
        if now - began >= timeout:
            return False
        time.sleep(random.uniform(0.0002, 0.002 if tries < 100 else 0.02))
        return True

    return wait


def switch_to_wal(connection: apsw.Connection, timeout: float) -> None:
    """Put the file into write-ahead mode, which stays in the file.

    The switch needs the file alone and SQLite does not wait for that: of processes that start on a new file at the same
    instant, all but one are told that it is busy.
    """
    wait = busy_handler(timeout)
    for tries in range(1_000_000):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except apsw.BusyError:
            if not wait(tries):
                raise


class _OurWords:
    """Turns what SQLite raises inside the block into our errors. A class, because each transaction passes through it."""

    __slots__ = ("_location",)

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, apsw.Error):
            raise in_our_words(error, self._location) from error
        if isinstance(error, UnicodeEncodeError):
            raise InvalidArgument(
                "A text holds half a character (a lone surrogate); nothing was changed.",
                "send whole Unicode characters.",
            ) from error


def in_our_words(error: apsw.Error, location: str) -> Exception:
    """What an SQLite error means here and what to do about it."""
    for kinds, our_error, message, fix in _MEANINGS:
        if isinstance(error, kinds):
            return our_error(message.format(location), fix)
    return StoreError(
        f"The database {location} refused a change ({type(error).__name__}: {error}); nothing was changed.",
        "this should not happen: please report it, with the log.",
    )


_MEANINGS: tuple[tuple[tuple[type[apsw.Error], ...], type[HeablcoinError], str, str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        StoreBusy,
        "Another process held the database too long; nothing was changed.",
        "try again; if it goes on, `heablcoin-cloud doctor` names the processes that use it.",
    ),
    (
        (apsw.FullError,),
        StoreFull,
        "The disk that holds {} is full; nothing was changed.",
        "free some space (or purge old tasks), then try again.",
    ),
    (
        (apsw.ReadOnlyError, apsw.PermissionsError),
        StoreReadOnly,
        "The database {} is read-only; nothing was changed.",
        "make the file and its directory writable, or set HEABLCOIN_CLOUD_DATABASE to another path.",
    ),
    (
        (apsw.CorruptError, apsw.NotADBError),
        StoreCorrupt,
        "The file {} is not a sound database.",
        "stop all servers, move the file away (a backup lies beside it if one was made), and start again.",
    ),
    (
        (apsw.CantOpenError,),
        StoreReadOnly,
        "The database {} cannot be opened.",
        "check that its directory exists and is writable, or set HEABLCOIN_CLOUD_DATABASE to another path.",
    ),
    (
        (apsw.TooBigError,),
        InvalidArgument,
        "A value is larger than the database {} can hold.",
        "store it elsewhere and pass a reference.",
    ),
    (
        (apsw.IOError,),
        StoreError,
        "The disk failed while the database {} was used; nothing was changed.",
        "check the disk and its free space, then try again.",
    ),
)
