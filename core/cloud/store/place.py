"""Where a database may lie: a local disk, in a directory and a file that only this user can read."""

import os
from pathlib import Path

import apsw

from core.errors import StoreReadOnly, StoreUnsafe

WAL_RESET_FIXED = (3, 51, 3)
"""First SQLite without the WAL-reset race (sqlite.org/wal.html, "The WAL-Reset Bug")."""

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "ncpfs", "ceph", "glusterfs", "fuse.glusterfs"}
)


def refuse_affected_library(version: str | None = None) -> None:
    """Raise StoreUnsafe for an SQLite with the WAL-reset race."""
    version = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")[:3]) < WAL_RESET_FIXED:
        raise StoreUnsafe(
            f"SQLite {version} can corrupt a database that several processes write (WAL-reset race).",
            "install the apsw wheel from PyPI, which bundles a fixed SQLite (pip install --force-reinstall apsw).",
        )


def refuse_network_file_system(location: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise StoreUnsafe when the database would lie on a network file system, where its locks and WAL cannot work."""
    kind = "a network share" if str(location).startswith(("\\\\", "//")) else file_system_of(location, mounts)
    if kind in NETWORK_FILE_SYSTEMS or kind == "a network share":
        raise StoreUnsafe(
            f"The database {location} lies on a network file system ({kind}), where SQLite's locks do not hold.",
            "set HEABLCOIN_CLOUD_DATABASE to a path on a local disk.",
        )


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds `path`, '' where the platform does not say."""
    try:
        table = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    target = str(path.resolve())
    best, kind = "", ""
    for fields in table:
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def make_private_file(location: Path) -> None:
    """Create the database's directory and its empty file for this user alone; leave what is there as it is.

    SQLite gives its companion files (-wal, -shm) the permissions of the database itself.
    """
    try:
        location.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not location.exists():
            os.close(os.open(location, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreReadOnly(
            f"The database {location} cannot be made ({error.strerror}).",
            "set HEABLCOIN_CLOUD_DATABASE to a path you can write.",
        ) from error
    if location.is_dir():
        raise StoreReadOnly(
            f"The database {location} is a directory.", "set HEABLCOIN_CLOUD_DATABASE to the path of a file."
        )
