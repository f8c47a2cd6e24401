"""The key file: JSON that only its owner can read, changed by one process at a time, never half written."""

import json
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from core.cloud.keys.os_keyring import KeyStoreError
from core.fork import ForkAware, tell_of_forks

VERSION = 1
LOCK_PATIENCE = 10.0
"""Seconds to wait for another process that changes the file."""

Entries = dict[str, dict[str, str]]


class KeyFile(ForkAware):
    """Entries by name, each version of them one whole file."""

    def __init__(self, path: Path, *, pause: Callable[[float], None] = sleep) -> None:
        self.path = path
        self._pause = pause
        self._lock = threading.RLock()
        self._seen: tuple[int, ...] | None = None
        self._entries: Entries = {}
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()

    def find(self, name: str) -> Mapping[str, str] | None:
        """The entry of this name as it is now; costs one `stat` while nothing changes. Raises as `entries`."""
        with self._lock:
            self._refresh()
            return self._entries.get(name)

    def entries(self) -> Entries:
        """A copy of what the file holds now; empty when there is none. Raises KeyStoreError for an unsafe or broken one."""
        with self._lock:
            self._refresh()
            return {name: dict(entry) for name, entry in self._entries.items()}

    @contextmanager
    def change(self) -> Iterator[Entries]:
        """The entries, to be changed in place: written when the block ends, left alone when it raises."""
        with self._lock, self._locked():
            self._refresh()
            entries = {name: dict(entry) for name, entry in self._entries.items()}
            yield entries
            self._write(entries)
            self._refresh()

    def _refresh(self) -> None:
        try:
            if self._seen is not None and _signature(self.path.stat()) == self._seen:
                return
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            self._seen, self._entries = None, {}
            return
        except OSError as error:
            raise KeyStoreError(
                f"The key file {self.path} cannot be opened ({error.strerror}).", "make it readable for you."
            ) from None
        with os.fdopen(descriptor, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            self._check_owner(status)
            self._entries = self._parse(file.read())
            self._seen = _signature(status)

    def _check_owner(self, status: os.stat_result) -> None:
        if os.name != "posix":
            return
        if not stat.S_ISREG(status.st_mode):
            raise KeyStoreError(f"{self.path} is no regular file.", "move it away.")
        if status.st_uid != os.geteuid():
            raise KeyStoreError(
                f"The key file {self.path} belongs to another user.",
                "run as that user, or move the file away and set the keys again.",
            )
        if status.st_mode & 0o077:
            raise KeyStoreError(
                f"The key file {self.path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}).",
                f"run `chmod 600 '{self.path}'`; if others may have read it, replace the keys at their providers.",
            )

    def _parse(self, text: str) -> Entries:
        try:
            found = json.loads(text)
            if found["version"] != VERSION:
                raise KeyStoreError(
                    f"The key file {self.path} was written by another version.", "update heablcoin-cloud."
                )
            return {
                str(name): {str(field): str(value) for field, value in entry.items()}
                for name, entry in found["keys"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise KeyStoreError(
                f"The key file {self.path} is damaged; it was left as it is.",
                "move it away and set the keys again with `heablcoin-cloud set-key NAME`.",
            ) from None

    def _write(self, entries: Entries) -> None:
        text = json.dumps({"version": VERSION, "keys": entries}, indent=1, ensure_ascii=False)
        try:
            # mkstemp makes the file for its owner alone (0600) before a byte is in it.
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self.path)
            except BaseException:
                with suppress(OSError):
                    Path(temporary).unlink()
                raise
        except OSError as error:
            raise KeyStoreError(
                f"The key file {self.path} cannot be written ({error.strerror}).",
                "make its directory writable, or set HEABLCOIN_CLOUD_KEYS=process.",
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file beside it, so that two processes never write over each other's keys."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise KeyStoreError(
                f"Nothing can be written to {self.path.parent} ({error.strerror}).",
                "make it writable, or set HEABLCOIN_CLOUD_KEYS=process.",
            ) from None
        try:
            limit = monotonic() + LOCK_PATIENCE
            while not _try_lock(descriptor):
                if monotonic() > limit:
                    raise KeyStoreError(
                        f"Another process has held {self.path} for {LOCK_PATIENCE:g} s.",
                        "try again; if it goes on, restart.",
                    )
                self._pause(0.02)
            yield
        finally:
            os.close(descriptor)


def _signature(status: os.stat_result) -> tuple[int, ...]:
    """Changes whenever the file, or who may read it, does: each version is a new file."""
    return (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid)


def _try_lock(descriptor: int) -> bool:
    """Take the exclusive lock that ends with the descriptor (and so with the process); False when another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
