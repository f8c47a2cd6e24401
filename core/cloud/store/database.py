"""One SQLite database, opened through apsw: its connections, its transactions, its errors in our words."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import apsw

from core.cloud.store.companions import (
    forget_pair,
    keep_what_was_lost,
    leave_to_others,
    note_pair,
    one_at_a_time,
    put_strays_aside,
)
from core.cloud.store.file_identity import FileIdentity, Loss, whole
from core.cloud.store.migrate import migrate, migrations, refuse_foreign, schema_version
from core.cloud.store.our_words import OurWords
from core.cloud.store.place import make_private_file, refuse_affected_library, refuse_network_file_system
from core.errors import InvalidArgument, StoreError, StoreReplaced
from core.failpoints import failpoint
from core.fork import ForkAware, abandon, tell_of_forks
from core.paths import MEMORY

log = logging.getLogger(__name__)

Synchronous = Literal["FULL", "NORMAL"]

LONGEST_WAIT_BEFORE_FORK = 2.0
"""Seconds a fork waits for the transactions of other threads, each of which takes far less."""
LARGEST_IDLE_WAL = 64 * 1024 * 1024
"""Bytes: a write-ahead log that grew beyond this during a long read is cut back afterwards."""

LOOK_EVERY = 0.05
"""Seconds between two looks of a reader whether the file is still the one that was opened."""
SETTLES_WITHIN = 1.0
"""Seconds that another program gets to finish a file it is writing in the place of ours."""


class Database(ForkAware):
    """A database file shared by threads and processes, or a private one in memory.

    Writers of this process take turns on one connection; readers have another, so a read never waits for a commit.
    Writes start with BEGIN IMMEDIATE: waiting for another process happens there, bounded by `busy_timeout` seconds,
    and nowhere else.

    A file that is deleted, replaced, moved or overwritten while it is open is noticed before the next write is committed
    (and soon by readers): that call raises StoreReplaced, later ones use the file that lies there then. `kept` is where
    the content of the last file that was lost so is kept, '' while there is none.
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
        self._our_words = OurWords(self.location)
        self._closed = False
        self._durable = True
        self._identity: FileIdentity | None = None
        """None in memory, and after the file was lost until another is open."""
        self._look_at = 0.0
        self._lost_at = 0.0
        self._writing = self._reading = 0
        """The threads inside a transaction or a read."""
        self._ends: list[Callable[[bool], object]] = []
        """What is to be called when the present transaction is over."""
        self.kept = ""
        self._forking = self._forked = False
        refuse_affected_library()
        if location != MEMORY:
            refuse_network_file_system(Path(self.location))
        with self._our_words:
            self._open()
        tell_of_forks(self)

    def _open(self) -> None:
        if self.location == MEMORY:
            self._writer = self._connect()
            migrate(self._writer, self.location)
            self._reader, self._read_lock = self._writer, self._write_lock
            return
        make_private_file(Path(self.location))
        with one_at_a_time(self.location, self._busy_timeout):
            put_strays_aside(self.location)
            self._writer = self._connect()
            try:
                migrate(self._writer, self.location)
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")
                self._identity = FileIdentity(self.location)
                note_pair(self._identity)
            except BaseException:
                self._writer.close()
                raise
        self._durable = True

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(self.location)
        try:
            connection.set_busy_handler(busy_handler(self._busy_timeout))
            # Without this SQLite plans a statement anew whenever a bound value might change its plan, which costs several
            # times as much as running it. Our plans are fixed on purpose (a test reads them).
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            # The last to close a database deletes its log by name, which by then may be that of another database.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
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

        Inside a transaction of the same thread it is a part of that one: rolled back alone when it raises, committed with
        the whole. `at_end` is for those who keep something outside the database in step.
        """
        with self._write_lock, self._our_words:
            if self.writing:
                with self._writer:  # a savepoint
                    yield self._writer
                return
            self._ensure_open()
            connection = self._writer
            if durable != self._durable and self._synchronous == "FULL":
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            outer, self._writing = self._writing, threading.get_ident()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                failpoint("in_transaction_before_commit")
                self._refuse_a_lost_file()
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._writing = outer
                self._end(committed=False)
                if isinstance(error, (apsw.Error, StoreReplaced)):
                    self._part_if_lost()  # what SQLite stumbled over may be that the file is gone
                raise
            finally:
                self._writing = outer
                self._end(committed=True)

    @property
    def writing(self) -> bool:
        """Whether this thread is inside a transaction."""
        return self._writing == threading.get_ident()

    def at_end(self, then: Callable[[bool], object]) -> None:
        """Have `then`, which must not raise, called when this thread's whole transaction is over; True when it was committed."""
        self._ends.append(then)

    def _end(self, *, committed: bool) -> None:
        ends, self._ends = self._ends, []
        for then in ends:
            then(committed)

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """The reading connection, for one or a few statements that need not agree with each other."""
        if self._identity is not None and time.monotonic() >= self._look_at:
            self._look()
        with self._read_lock, self._our_words:
            while self._closed or (self._identity is None and self.location != MEMORY):
                self._open_for_reading()
            outer, self._reading = self._reading, threading.get_ident()
            try:
                yield self._reader
            finally:
                self._reading = outer

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

    @contextmanager
    def apart(self) -> Iterator[apsw.Connection]:
        """A read transaction on a connection of its own: however long it is held, other readers here do not wait for it."""
        if self.location == MEMORY:
            with self.snapshot() as connection:
                yield connection
            return
        with self.read():
            connection = self._connect()
        with self._our_words:
            try:
                connection.execute("PRAGMA query_only=ON")
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()

    def _ensure_open(self) -> None:
        """Open what was lost; the write lock is held."""
        if self._closed:
            raise StoreError("The database was closed.", "open a new store (or publisher) to go on.")
        if self._identity is None and self.location != MEMORY:
            with self._read_lock:
                self._open_what_is_there_now()

    def _open_for_reading(self) -> None:
        self._read_lock.release()  # locks are taken in one order, or two threads wait for each other
        try:
            with self._write_lock:
                self._ensure_open()
        finally:
            self._read_lock.acquire()

    def close(self) -> None:
        """Close both connections; a second call does nothing."""
        with self._write_lock, self._read_lock:
            if self._closed:
                return
            self._closed = True
            if self._identity is None and self.location != MEMORY:
                return
            tidy = self._identity is None or self._identity.loss() is None
            self._close_connections(tidy=tidy)
            if tidy and self.location != MEMORY:
                forget_pair(self.location)

    def _close_connections(self, *, tidy: bool) -> None:
        connections = [self._writer] if self._reader is self._writer else [self._reader, self._writer]
        for connection in connections:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0 if tidy else 1)
            connection.close()

    # A process that forks

    def before_fork(self) -> None:
        """Close the connections, which both sides open anew when they need them.

        SQLite notes for each file which locks its process holds, and a child would believe those notes, even for a connection of its own:
        https://www.sqlite.org/howtocorrupt.html, 2.6. A database in memory is simply copied.
        """
        self._forking = self._write_lock.acquire(timeout=LONGEST_WAIT_BEFORE_FORK)
        if self._forking and not self._read_lock.acquire(timeout=LONGEST_WAIT_BEFORE_FORK):
            self._write_lock.release()
            self._forking = False
        idle = self._forking and threading.get_ident() not in (self._writing, self._reading)
        if idle and not self._closed and self._identity is not None:
            self._close_connections(tidy=False)
            self._identity, self._forked = None, True

    def after_fork_in_parent(self) -> None:
        if self._forking:
            self._read_lock.release()
            self._write_lock.release()

    def after_fork_in_child(self) -> None:
        self._write_lock = threading.RLock()
        self._read_lock = self._write_lock if self.location == MEMORY else threading.RLock()
        self._writing = self._reading = 0
        if self._identity is not None and not self._closed:
            abandon(self._reader, self._writer)
            self._closed = True
            log.error(
                "this process was forked in the middle of a transaction: it cannot use the database of its parent"
            )

    # A file that is lost while it is open

    def _refuse_a_lost_file(self) -> None:
        if self._identity is not None and (loss := self._identity.loss()) is not None:
            raise StoreReplaced(f"The database file {self.location} {loss.what}.", "call again.")

    def _look(self) -> None:
        """Notice a loss from outside any transaction; the next look comes after LOOK_EVERY seconds."""
        self._look_at = time.monotonic() + LOOK_EVERY
        identity = self._identity
        if identity is not None and identity.loss(thorough=True) is not None:
            me = threading.get_ident()
            if me not in (self._writing, self._reading):
                with self._write_lock, self._our_words:
                    self._part_if_lost()

    def _part_if_lost(self) -> None:
        """Leave a file that was lost, keep what it held, and say so; nothing when it was not. The write lock is held."""
        with self._read_lock:
            identity = self._identity
            if self._closed or identity is None or (loss := identity.loss(thorough=True)) is None:
                return
            log.error("the database file %s %s while this process used it", self.location, loss.what)
            saved = self._save(identity, loss)
            self._close_connections(tidy=False)
            self._identity, self._lost_at = None, time.monotonic()
        raise StoreReplaced(f"The database file {self.location} {loss.what}; nothing was changed.{saved}", _CALL_AGAIN)

    def _save(self, identity: FileIdentity, loss: Loss) -> str:
        """Keep what the lost file held, unless it lies whole elsewhere; a sentence that says where."""
        if loss.elsewhere:
            return ""
        with one_at_a_time(self.location, self._busy_timeout):
            if loss.mendable and self._finish_log():
                leave_to_others(identity, kept=True)
                return " What was acknowledged is safe in the file itself."
            kept = "" if loss.overwritten else keep_what_was_lost(self._reader, identity)
            leave_to_others(identity, kept=bool(kept))
        if not kept:
            return ""
        self.kept = kept
        return (
            f" What it held is kept in {kept}; `heablcoin-cloud export --database {kept} tasks.jsonl` and then"
            " `heablcoin-cloud import tasks.jsonl` bring its tasks back."
        )

    def _finish_log(self) -> bool:
        """Write all of the log into the file it belongs to; False when that cannot be done whole."""
        try:
            _, frames, written = next(self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)"))
        except apsw.Error:
            return False
        return bool(frames == written)

    def _open_what_is_there_now(self) -> None:
        """Open the file that lies at our path by now; both locks are held.

        Nothing is made or changed there before another program had time to finish what it may be writing: a restore that
        copies into place is first no file, then an empty one, then half of one.
        """
        parent = Path(self.location).parent
        if not parent.is_dir():
            raise StoreReplaced(
                f"The directory {parent} of the database is gone; nothing was changed.",
                "put it back, or set HEABLCOIN_CLOUD_DATABASE to another path and start again.",
            )
        if self._forked:
            self._open()
            self._forked = False
            return
        while time.monotonic() < self._lost_at + SETTLES_WITHIN and not whole(self.location):
            time.sleep(LOOK_EVERY)
        refuse_network_file_system(Path(self.location))
        self._open()
        log.warning("the database file that lies at %s by now is open", self.location)


_CALL_AGAIN = (
    "call again: that goes to the file that lies there then, or to a new one. Stop all servers before you delete, move or"
    " restore a database."
)


def schema_of(location: str) -> tuple[int, int]:
    """The schema of the database file at `location` and the newest this code knows. Changes nothing, whatever it finds.

    Raises StoreError for a file that cannot be read or is not ours.
    """
    with OurWords(location):
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
