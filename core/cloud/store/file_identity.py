"""Is the database still the file that was opened? SQLite does not ask: it goes on writing into a file that nobody will find.

A file is known by device and number (`st_dev`, `st_ino`; on Windows, where an open database cannot be deleted, they are the
volume and the file's index). See sqlite.org/howtocorrupt.html, 2.4 "Unlinking or renaming a database file while in use".
"""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import apsw

FileId = tuple[int, int]
"""Device and number of a file."""

MAGIC = b"SQLite format 3\x00"
COUNTER = slice(24, 28)
"""The file change counter in the header: only ever grows while SQLite writes (sqlite.org/fileformat2.html, 1.3.7)."""


class Loss(NamedTuple):
    """Why the file is no longer the one that was opened."""

    what: str
    """What happened to it, to follow "The database file ..."."""
    elsewhere: bool = False
    """True when the old file, with its log, is whole in another place."""
    overwritten: bool = False
    """True when the old content is gone, because another was written over it."""
    mendable: bool = False
    """True when the file is ours and only its companions are gone, so that the log may still be written into it."""


class FileIdentity:
    """The files that one Database has open. Make it when they are."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.real = os.path.realpath(location)
        """SQLite follows links and keeps its companions beside the file itself."""
        found = os.stat(location)  # noqa: PTH116 - a Path costs more than the call, and writes wait for it
        self.database: FileId = (found.st_dev, found.st_ino)
        self.log = file_id(self.real + "-wal")
        self.index = file_id(self.real + "-shm")
        self._written = (found.st_mtime_ns, found.st_size)
        self._counter = self._read_counter() or 0

    def loss(self, *, thorough: bool = False) -> Loss | None:
        """What became of the files; None while they are those that were opened.

        Two calls of stat, some microseconds; `thorough` also looks at the index of the log (-shm).
        """
        try:
            found = os.stat(self.location)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return self._gone("was deleted")
        except OSError as error:
            # A loop of links is no file; a directory we may not look into says nothing about the file.
            return self._gone("was deleted") if error.errno not in _CANNOT_TELL else None
        if (found.st_dev, found.st_ino) != self.database:
            return self._gone("was replaced by another")
        written = (found.st_mtime_ns, found.st_size)
        if written != self._written and self._was_overwritten():
            return Loss("was overwritten by another program", overwritten=True)
        self._written = written
        return self._lost_companion(thorough=thorough)

    def _lost_companion(self, *, thorough: bool) -> Loss | None:
        if self.log is not None and (now := file_id(self.real + "-wal")) != self.log:
            return Loss("lost its log (the -wal file beside it)", mendable=now is None)
        if thorough and self.index is not None and (now := file_id(self.real + "-shm")) != self.index:
            return Loss("lost the index of its log (the -shm file beside it)", mendable=now is None)
        return None

    def _gone(self, what: str) -> Loss:
        if file_id(self.real) == self.database:
            return Loss("is another one: the link that leads to it was changed", elsewhere=True)
        places = _places_of(self.database)
        log_is_here = self.log is None or file_id(self.real + "-wal") == self.log
        if places and not log_is_here and _places_of(self.log):
            moved = f" to {places[0]}" if places[0] else ""
            return Loss(f"was moved{moved}" if what == "was deleted" else what, elsewhere=True)
        return Loss(what)

    def _was_overwritten(self) -> bool:
        """True for what no checkpoint does: a header that is not SQLite's, or a change counter that went back."""
        counter = self._read_counter()
        if counter is None:
            return False
        if counter < self._counter:
            return True
        self._counter = counter
        return False

    def _read_counter(self) -> int | None:
        """The counter in the file, -1 when it holds no database, None where it cannot be read.

        Through SQLite's own descriptor: closing one of ours would drop every lock this process has on the file
        (howtocorrupt.html, 2.2).
        """
        if sys.platform == "win32":
            return None
        for descriptor in _descriptors_of(self.database):
            try:
                header = os.pread(descriptor, 100, 0)
                still = os.fstat(descriptor)
            except OSError:
                continue
            if (still.st_dev, still.st_ino) == self.database:
                return int.from_bytes(header[COUNTER], "big") if header.startswith(MAGIC) else -1
        return None

    @property
    def name_of_copy(self) -> str:
        """Where what a lost file held is kept; all processes that lose one file use one name."""
        return f"{self.real}.lost-{self.database[1]:x}"


_CANNOT_TELL = frozenset({errno.EPERM, errno.EACCES, errno.EIO, errno.ENOMEM, errno.EINTR})


def file_id(path: str) -> FileId | None:
    """Which file `path` leads to; None when there is none, or none to be seen."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _descriptors_of(wanted: FileId) -> list[int]:
    """The descriptors under which this process has a file open."""
    found = []
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):  # noqa: PTH208
            with suppress(OSError, ValueError):
                status = os.fstat(int(name))
                if (status.st_dev, status.st_ino) == wanted:
                    found.append(int(name))
    return found


def _places_of(wanted: FileId | None) -> list[str]:
    """Where a file that this process has open lies by now; '' for somewhere, [] when it was deleted for good."""
    if wanted is None:
        return []
    for descriptor in _descriptors_of(wanted):
        with suppress(OSError):
            if os.fstat(descriptor).st_nlink > 0:
                place = ""
                with suppress(OSError):
                    place = str(Path(f"/proc/self/fd/{descriptor}").readlink())
                return [place]
    return []


def whole(path: str) -> bool:
    """True for a database file that is there in full, as far as its header tells; nothing in it is locked or changed."""
    try:
        size = Path(path).stat().st_size
        connection = apsw.Connection(
            f"file:{quote(path)}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        )
        try:
            pages = next(connection.execute("PRAGMA page_count"))[0]
            next(connection.execute("SELECT count(*) FROM sqlite_schema"))
            return bool(size > 0 and pages * next(connection.execute("PRAGMA page_size"))[0] == size)
        finally:
            connection.close()
    except (OSError, apsw.Error):
        return False
