"""One SQLite database, opened through apsw: its connections, its transactions, its errors in our words."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import apsw

from core.cloud.store.migrate import migrate
from core.errors import (
    InvalidArgument,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnsafe,
)
from core.failpoints import failpoint
from core.paths import MEMORY

log = logging.getLogger(__name__)

Synchronous = Literal["FULL", "NORMAL"]

WAL_RESET_FIXED = (3, 51, 3)
"""First SQLite without the WAL-reset race (sqlite.org/wal.html, "The WAL-Reset Bug")."""


class Database:
    """A database file shared by threads and processes, or a private one in memory.

    Writers of this process take turns on one connection; readers have their own, so a read never waits for a commit.
    Writes start with BEGIN IMMEDIATE: waiting for another process happens there, bounded by `busy_timeout` seconds,
    and nowhere else.
    """

    def __init__(self, location: str, *, synchronous: Synchronous = "FULL", busy_timeout: float = 10.0) -> None:
        self.location = location
        self._synchronous: Synchronous = synchronous
        self._busy_ms = max(1, round(busy_timeout * 1000))
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()
        self._closed = False
        self._durable = True
        refuse_affected_library()
        if location != MEMORY:
            refuse_network_file_system(location)
            make_directory(location)
        with _our_words(location):
            self._writer = self._connect()
            migrate(self._writer, location)
            if location == MEMORY:
                self._reader, self._read_lock = self._writer, self._write_lock
            else:
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(self.location)
        connection.set_busy_timeout(self._busy_ms)
        # Without this SQLite plans a statement anew whenever a bound value might change its plan, which costs several
        # times as much as running it. Our plans are fixed on purpose (a test reads them).
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-16000")
        if self.location != MEMORY and os.name == "posix":
            os.chmod(self.location, 0o600)
        return connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[apsw.Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises.

        `durable=False` skips the fsync for facts that need not survive a power cut (leases, limiter slots, statistics);
        they survive the death of any process all the same, and the file stays sound (SQLite WAL, synchronous=NORMAL).
        """
        with self._write_lock, _our_words(self.location):
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
        with self._read_lock, _our_words(self.location):
            self._ensure_open()
            yield self._reader

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """A read transaction: all statements in the block see the same moment."""
        with self.read() as connection:
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
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


def refuse_affected_library() -> None:
    """Raise StoreUnsafe for an SQLite with the WAL-reset race."""
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")[:3]) < WAL_RESET_FIXED:
        raise StoreUnsafe(
            f"SQLite {version} can corrupt a database that several processes write (WAL-reset race).",
            "install the apsw wheel from PyPI, which bundles a fixed SQLite (pip install --force-reinstall apsw).",
        )


def refuse_network_file_system(location: str) -> None:
    """Raise StoreUnsafe when the database would lie on a network file system, where WAL cannot work."""
    kind = file_system_of(Path(location))
    if kind in {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "ncpfs"}:
        raise StoreUnsafe(
            f"The database {location} lies on a network file system ({kind}), where SQLite's locks do not hold.",
            "set HEABLCOIN_CLOUD_DATABASE to a path on a local disk.",
        )


def file_system_of(path: Path, mounts: str = "/proc/self/mounts") -> str:
    """The type of the file system that holds `path`, '' where the platform does not say."""
    try:
        with open(mounts, encoding="utf-8", errors="replace") as file:
            table = [line.split() for line in file]
    except OSError:
        return ""
    target = str(path.expanduser().absolute())
    best, kind = "", ""
    for fields in table:
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def make_directory(location: str) -> None:
    """Create the database's directory for this user alone."""
    parent = Path(location).absolute().parent
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreReadOnly(
            f"The directory {parent} cannot be made ({error.strerror}).",
            "set HEABLCOIN_CLOUD_DATABASE to a path you can write.",
        ) from error


@contextmanager
def _our_words(location: str) -> Iterator[None]:
    try:
        yield
    except apsw.BusyError as error:
        raise StoreBusy(
            "Another process held the database too long; nothing was changed.",
            "try again; if it goes on, `heablcoin-cloud doctor` names the processes that use it.",
        ) from error
    except apsw.FullError as error:
        raise StoreFull(
            f"The disk that holds {location} is full; nothing was changed.",
            "free some space (or purge old tasks), then try again.",
        ) from error
    except apsw.ReadOnlyError as error:
        raise StoreReadOnly(
            f"The database {location} is read-only; nothing was changed.",
            "make the file and its directory writable, or set HEABLCOIN_CLOUD_DATABASE to another path.",
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreCorrupt(
            f"The file {location} is not a sound database.",
            "stop all servers, move the file away (a backup lies beside it if one was made), and start again.",
        ) from error
    except apsw.CantOpenError as error:
        raise StoreReadOnly(
            f"The database {location} cannot be opened.",
            "check that its directory exists and is writable, or set HEABLCOIN_CLOUD_DATABASE to another path.",
        ) from error
    except apsw.IOError as error:
        raise StoreError(
            f"The disk failed while the database {location} was used; nothing was changed.",
            "check the disk, then try again.",
        ) from error
    except apsw.TooBigError as error:
        raise InvalidArgument(
            "A value is larger than the database can hold.", "store it elsewhere and pass a reference."
        ) from error
