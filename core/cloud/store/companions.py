"""The files beside a database: which -wal belongs to which file, and what is kept of a database that was lost.

SQLite plays the log it finds beside a file into that file, whichever it was written for: its checksums tie it to nothing.
So each opening notes, in `<database>-pair`, which log and which file belong together, and a log that was written for
another file is put aside before the new one is opened.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

if sys.platform != "win32":
    import fcntl

from core.cloud.store.file_identity import FileId, FileIdentity, file_id

log = logging.getLogger(__name__)

LARGEST_KEPT = 2 * 1024**3
"""Bytes: what a larger database held is not copied when its file is lost."""
PAIR = "-pair"


@contextmanager
def one_at_a_time(location: str, timeout: float) -> Iterator[None]:
    """While one process prepares the files of a new database, others wait; up to `timeout` seconds, for one may hang.

    The lock is on the directory, so that it needs no file. Windows has none and needs none: open files stay there.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        directory = os.open(Path(os.path.realpath(location)).parent, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:
                break
        yield
    finally:
        os.close(directory)


def put_strays_aside(location: str) -> None:
    """Take away a log that was written for another file than the one that is now at `location`; before it is opened."""
    real = os.path.realpath(location)
    wal = real + "-wal"
    log_id = file_id(wal)
    if log_id is None:
        _remove(real + "-shm")  # whoever uses it lost the log it speaks of
        return
    if Path(real).stat().st_size > 0 and not _is_of_another(real, log_id):
        return
    _remove(real + "-shm")
    _put_aside(wal, log_id[1])
    log.warning(
        "%s is not the file that was there before, and the log beside it was written for the other one;"
        " it was put aside as %s",
        location,
        _aside(wal, log_id[1]),
    )


def _is_of_another(real: str, log_id: FileId) -> bool:
    try:
        noted = json.loads(Path(real + PAIR).read_text(encoding="utf-8"))
        known_log, known_file = tuple(noted["log"]), tuple(noted["file"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return known_log == log_id and known_file != file_id(real)


def note_pair(identity: FileIdentity) -> None:
    """Write down which log belongs to which file, unless it is so noted. A courtesy: a failure costs nothing else."""
    pair = Path(identity.real + PAIR)
    text = json.dumps({"file": identity.database, "log": identity.log})
    with suppress(OSError):
        if pair.exists() and pair.read_text(encoding="utf-8") == text:
            return
        unfinished = Path(f"{pair}.{os.getpid()}")
        descriptor = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        unfinished.replace(pair)


def keep_what_was_lost(reader: apsw.Connection, identity: FileIdentity) -> str:
    """A copy of what a lost file held, made through a connection that still has it open; returns its path, '' for none.

    All that was ever acknowledged is in it, because nothing is written to a file after it was lost. The first process that
    notices makes it, the others find it.
    """
    target = Path(identity.name_of_copy)
    unfinished = Path(f"{target}.{os.getpid()}")
    try:
        if target.exists():
            return str(target)
        pages = next(reader.execute("PRAGMA page_count"))[0]
        if pages * next(reader.execute("PRAGMA page_size"))[0] > LARGEST_KEPT:
            log.warning("%s is too large to keep a copy of what it held", identity.location)
            return ""
        os.close(os.open(unfinished, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
        copy = apsw.Connection(str(unfinished))
        try:
            with copy.backup("main", reader, "main") as backup:
                while not backup.done:
                    backup.step(1000)
        finally:
            copy.close()
        unfinished.replace(target)
    except (OSError, apsw.Error) as error:
        log.warning("what %s held could not be kept: %s", identity.location, error)
        with suppress(OSError):
            unfinished.unlink()
        return ""
    return str(target)


def forget_pair(location: str) -> None:
    """After the last process closed the database, and its log went."""
    real = os.path.realpath(location)
    if file_id(real + "-wal") is None:
        with one_at_a_time(location, 0.1):
            if file_id(real + "-wal") is None:
                _remove(real + PAIR)


def leave_to_others(identity: FileIdentity, *, kept: bool) -> None:
    """Take away our log and index, which are of no use to whoever opens what lies at the path now; theirs stay.

    Other processes that use them too notice by that. The log goes when what it holds is `kept`, else it is put aside.
    """
    wal, shm = identity.real + "-wal", identity.real + "-shm"
    if identity.index is not None and file_id(shm) == identity.index:
        _remove(shm)
    if identity.log is None:
        return
    if file_id(wal) == identity.log:
        _put_aside(wal, identity.log[1])
    if kept:
        _remove(_aside(wal, identity.log[1]))


def _aside(path: str, number: int) -> str:
    return f"{path}.stray-{number:x}"


def _put_aside(path: str, number: int) -> None:
    with suppress(OSError):
        Path(path).replace(_aside(path, number))


def _remove(path: str) -> None:
    with suppress(OSError):
        Path(path).unlink()
