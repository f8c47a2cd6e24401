"""A full disk, a file that cannot be written, a lock that is not let go, a file that is broken: clear errors, nothing lost."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import apsw
import pytest

from core.cloud.store import open_store
from core.cloud.store.database import Database, busy_handler, switch_to_wal
from core.cloud.store.our_words import in_our_words
from core.cloud.store.place import file_system_of, refuse_affected_library, refuse_network_file_system
from core.cloud.store_contract import NewTask
from core.errors import (
    InvalidArgument,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreUnsafe,
)

ROOT = Path(__file__).parents[2]


def new(number, payload="{}"):
    return NewTask(f"{number:016x}", "n", payload, "n")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queue.db"


@pytest.fixture
def store(path):
    opened = open_store(str(path), busy_timeout=0.05)
    opened.tasks.publish([new(1)], 1.0)
    yield opened
    opened.close()


def test_a_full_disk_refuses_the_publish_keeps_what_was_there_and_goes_on_when_there_is_space(store):
    with store.database.read():
        writer = store.database._writer
    pages = writer.execute("PRAGMA page_count").fetchall()[0][0]
    writer.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StoreFull, match="is full; nothing was changed"):
        store.tasks.publish([new(2, '"' + "x" * 100_000 + '"')], 1.0)
    assert store.tasks.newest_ids(9) == [f"{1:016x}"]
    writer.execute("PRAGMA max_page_count=1000000")
    store.tasks.publish([new(3)], 1.0)
    assert store.tasks.newest_ids(9) == [f"{3:016x}", f"{1:016x}"]
    assert store.health().sound


def test_the_health_of_a_file_that_can_only_be_read_says_so(path):
    store = open_store(str(path))
    store.database._writer.close()
    store.database._writer = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)  # as SQLite does by itself
    with pytest.raises(StoreReadOnly, match=r"is read-only.*Fix: make the file"):
        store.health()
    store.close()


LIMITED = """
import resource, sys
from core.cloud.store import open_store
from core.cloud.store_contract import NewTask
from core.errors import StoreError
store = open_store(sys.argv[1])
stored = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
try:
    for number in range(1000):
        store.tasks.publish([NewTask(f"{number:016x}", "n", '"' + "x" * 20_000 + '"', "n")], 1.0)
        stored += 1
except StoreError as error:
    print(stored, type(error).__name__, str(error))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="limits of POSIX")
def test_a_write_that_the_system_refuses_is_a_clear_error_and_loses_nothing_told_to_be_stored(path):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    stored, kind, message = run.stdout.split(" ", 2)
    assert kind in ("StoreError", "StoreFull") and "nothing was changed" in message
    store = open_store(str(path))
    assert int(stored) > 0
    assert len(store.tasks.newest_ids(2000)) == int(stored)
    assert store.health().sound
    store.close()


UNPRIVILEGED = """
import os, sys
import core.cloud.store.sqlite_pool_state, core.cloud.store.schedule_store, core.cloud.store.sqlite
from core.cloud.store import open_store
from core.cloud.store_contract import NewTask
from core.errors import HeablcoinError
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    store = open_store(sys.argv[1])
    store.tasks.publish([NewTask("b" * 16, "n", "{}", "n")], 1.0)
except HeablcoinError as error:
    print(type(error).__name__, str(error))
"""


@pytest.fixture
def open_place():
    """A directory that another user of this machine can reach."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    place.chmod(0o755)
    shutil.rmtree(place)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("what", ["file", "directory", "missing file"])
def test_a_place_that_cannot_be_written_is_named_with_what_to_do(open_place, what):
    path = open_place / "queue.db"
    if what != "missing file":
        store = open_store(str(path))
        store.tasks.publish([new(1)], 1.0)
        store.close()
        path.chmod(0o444 if what == "file" else 0o666)
    open_place.chmod(0o555)
    run = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.startswith("StoreReadOnly"), run.stdout
    assert "Fix: " in run.stdout and "HEABLCOIN_CLOUD_DATABASE" in run.stdout


def test_a_directory_in_place_of_the_file_is_named(tmp_path):
    with pytest.raises(StoreReadOnly, match="is a directory"):
        open_store(str(tmp_path))


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one" * 40, b"{}" * 600])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="not a sound database"):
        open_store(str(path))
    assert path.read_bytes() == content


def test_a_broken_database_is_reported_by_health_and_by_use(path):
    store = open_store(str(path))
    store.tasks.publish([new(number, '"' + "x" * 2000 + '"') for number in range(200)], 1.0)
    store.close()
    data = bytearray(path.read_bytes())
    for page in range(45, len(data) // 4096):
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)
    broken = open_store(str(path))
    health = broken.health()
    assert not health.sound
    assert health.detail != ""
    with pytest.raises(StoreCorrupt):
        for number in range(200):
            broken.tasks.get(f"{number:016x}")
    broken.close()


def test_a_lock_that_is_not_let_go_is_an_error_after_the_busy_timeout_and_reads_go_on(store, path):
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="nothing was changed"):
        store.tasks.publish([new(2)], 1.0)
    assert store.tasks.get(f"{1:016x}") is not None
    other.execute("ROLLBACK")
    store.tasks.publish([new(2)], 1.0)
    other.close()


def test_waiting_for_a_lock_ends_when_it_is_let_go(path):
    store = open_store(str(path), busy_timeout=30)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    waiting = threading.Thread(target=lambda: store.tasks.publish([new(1)], 1.0))
    waiting.start()
    other.execute("COMMIT")
    waiting.join(20)
    assert not waiting.is_alive()
    assert store.tasks.newest_ids(1) == [f"{1:016x}"]
    other.close()
    store.close()


def test_the_busy_handler_starts_its_time_anew_for_each_wait():
    wait = busy_handler(0.01)
    tries = 0
    while wait(tries):
        tries += 1
    assert tries > 0
    assert wait(0)


def test_the_switch_to_wal_is_tried_again_while_others_hold_the_file():
    class Connection:
        tries = 0

        def execute(self, statement):
            self.tries += 1
            if self.tries < 4:
                raise apsw.BusyError

    connection = Connection()
    switch_to_wal(connection, 60)
    assert connection.tries == 4
    connection.tries = -1_000_000
    with pytest.raises(apsw.BusyError):
        switch_to_wal(connection, 0.01)


def test_a_closed_store_says_so_and_closing_twice_is_harmless(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        store.tasks.stats()
    with pytest.raises(StoreError, match="was closed"):
        store.tasks.publish([new(5)], 1.0)


def test_an_error_inside_a_write_rolls_everything_back(path):
    database = Database(str(path))
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute("INSERT INTO kind (name, capability) VALUES ('a', 'a')")
        raise RuntimeError
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM kind").fetchall() == [(0,)]
    database.close()


def test_durable_writes_sync_and_the_others_do_not(path):
    database = Database(str(path))
    for durable, expected in ((True, 2), (False, 1), (True, 2)):
        with database.write(durable=durable) as connection:
            assert connection.execute("PRAGMA synchronous").fetchall() == [(expected,)]
    database.close()
    lighter = Database(str(path), synchronous="NORMAL")
    with lighter.write() as connection:
        assert connection.execute("PRAGMA synchronous").fetchall() == [(1,)]
    lighter.close()


def test_the_reading_connection_cannot_write(path):
    database = Database(str(path))
    with pytest.raises(StoreReadOnly), database.read() as connection:
        connection.execute("INSERT INTO kind (name, capability) VALUES ('a', 'a')")
    database.close()


def test_a_snapshot_sees_one_moment(path):
    database = Database(str(path))
    with database.snapshot() as reader:
        before = reader.execute("SELECT count(*) FROM kind").fetchall()
        with database.write() as connection:
            connection.execute("INSERT INTO kind (name, capability) VALUES ('a', 'a')")
        assert reader.execute("SELECT count(*) FROM kind").fetchall() == before
    with database.read() as reader:
        assert reader.execute("SELECT count(*) FROM kind").fetchall() != before
    database.close()


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (apsw.BusyError, StoreBusy),
        (apsw.LockedError, StoreBusy),
        (apsw.FullError, StoreFull),
        (apsw.ReadOnlyError, StoreReadOnly),
        (apsw.CantOpenError, StoreReadOnly),
        (apsw.CorruptError, StoreCorrupt),
        (apsw.NotADBError, StoreCorrupt),
        (apsw.IOError, StoreError),
        (apsw.ConstraintError, StoreRefused),
        (apsw.TooBigError, InvalidArgument),
    ],
)
def test_every_error_of_sqlite_is_told_in_our_words_with_a_fix(error, ours):
    told = in_our_words(error("x"), "/data/queue.db")
    assert type(told) is ours
    assert told.fix


@pytest.mark.parametrize("settings", [{"synchronous": "OFF"}, {"busy_timeout": 0}, {"busy_timeout": 1e9}])
def test_settings_that_make_no_sense_are_refused(path, settings):
    with pytest.raises(InvalidArgument):
        Database(str(path), **settings)
    assert not path.exists()


def test_an_sqlite_with_the_wal_reset_race_is_refused():
    with pytest.raises(StoreUnsafe, match="WAL-reset"):
        refuse_affected_library("3.51.2")
    refuse_affected_library("3.51.3")
    refuse_affected_library()


def test_a_network_file_system_is_refused_and_a_local_one_below_it_is_not(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "disk / ext4 rw 0 0\nserver:/x /net\\040share nfs4 rw 0 0\nmore /net\\040share/local ext4 rw 0 0\nbad\n",
        encoding="utf-8",
    )
    with pytest.raises(StoreUnsafe, match="nfs4"):
        refuse_network_file_system(Path("/net share/data/queue.db"), mounts)
    refuse_network_file_system(Path("/net share/local/queue.db"), mounts)
    refuse_network_file_system(Path("/net shared/queue.db"), mounts)
    assert file_system_of(Path("/x"), tmp_path / "none") == ""
    with pytest.raises(StoreUnsafe, match="network share"):
        refuse_network_file_system(Path("\\\\server\\share\\queue.db"), mounts)
