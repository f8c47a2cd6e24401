"""Databases of other versions, of other programs, and two processes that meet a new file at the same instant."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from core.cloud.store import open_store
from core.cloud.store.database import Database
from core.cloud.store.migrate import APPLICATION_ID, back_up, migrate, migrations, schema_version
from core.cloud.store_contract import NewTask
from core.errors import StoreCorrupt, StoreTooNew

ROOT = Path(__file__).parents[2]
NEXT = [*migrations(), (len(migrations()) + 1, "CREATE TABLE extra (a); INSERT INTO extra VALUES (1);")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "queue.db"


@pytest.fixture
def filled(path):
    """A database with one task, closed."""
    store = open_store(str(path))
    store.tasks.publish([NewTask("a" * 16, "n", "{}", "n")], 1.0)
    store.close()
    return path


def schema(connection):
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()


def test_migrations_are_numbered_without_gaps():
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_new_file_gets_the_schema_of_all_migrations_and_our_mark(path):
    Database(str(path)).close()
    connection = apsw.Connection(str(path))
    assert schema_version(connection) == len(migrations())
    assert connection.execute("PRAGMA application_id").fetchall() == [(APPLICATION_ID,)]
    assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    step_by_step = apsw.Connection(":memory:")
    for _, sql in migrations():
        step_by_step.execute(sql)
    assert schema(connection) == schema(step_by_step)


def test_an_older_database_is_copied_then_brought_up_to_date_with_its_tasks(filled):
    connection = apsw.Connection(str(filled))
    before = schema_version(connection)
    migrate(connection, str(filled), NEXT)
    assert schema_version(connection) == before + 1
    assert connection.execute("SELECT a FROM extra").fetchall() == [(1,)]
    assert connection.execute("SELECT id FROM task").fetchall() == [("a" * 16,)]
    copy = apsw.Connection(f"{filled}.v{before}.backup")
    assert schema_version(copy) == before
    assert copy.execute("SELECT id FROM task").fetchall() == [("a" * 16,)]
    assert not Path(f"{filled}.v{before}.backup.unfinished").exists()


def test_a_migration_that_fails_leaves_everything_as_it_was(filled):
    connection = apsw.Connection(str(filled))
    before = schema(connection)
    broken = [*NEXT[:-1], (len(NEXT), "CREATE TABLE extra (a); INSERT INTO nowhere VALUES (1);")]
    with pytest.raises(apsw.SQLError):
        migrate(connection, str(filled), broken)
    assert schema(connection) == before
    assert schema_version(connection) == len(migrations())
    assert not connection.in_transaction


def test_a_newer_database_is_refused_and_left_alone(filled):
    connection = apsw.Connection(str(filled))
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreTooNew, match="has schema 99"):
        open_store(str(filled))
    assert schema_version(apsw.Connection(str(filled))) == 99


@pytest.mark.parametrize("mark", ["PRAGMA application_id=7", "CREATE TABLE theirs (a)"])
def test_the_database_of_another_program_is_refused_and_left_alone(path, mark):
    connection = apsw.Connection(str(path))
    connection.execute(mark)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program"):
        open_store(str(path))
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database(path):
    path.touch()
    open_store(str(path)).close()
    assert path.stat().st_size > 0


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_its_companions_and_its_copies_are_for_the_user_alone(filled):
    store = open_store(str(filled))
    store.tasks.publish([NewTask("b" * 16, "n", "{}", "n")], 1.0)
    back_up(str(filled), 1)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in filled.parent.iterdir() if path.is_file()}
    store.close()
    assert set(found) >= {"queue.db", "queue.db-wal", "queue.db.v1.backup"}
    assert set(found.values()) == {0o600}


STARTER = """
import sys, time
from core.cloud.store import open_store
from core.cloud.store_contract import NewTask
while time.time() < float(sys.argv[2]):
    pass
store = open_store(sys.argv[1])
store.tasks.publish([NewTask(sys.argv[3], "n", "{}", "n")], 1.0)
store.close()
"""


def test_processes_that_start_on_a_new_file_at_the_same_instant_all_succeed(path):
    import time

    at = str(time.time() + 1.0)
    ids = [f"{number:016x}" for number in range(4)]
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(path), at, task_id], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for task_id in ids
    ]
    for starter in starters:
        _, errors = starter.communicate(timeout=60)
        assert starter.returncode == 0, errors
    store = open_store(str(path))
    assert sorted(store.tasks.newest_ids(10)) == ids
    assert store.health().sound
    store.close()


def test_the_kinds_of_before_there_were_limits_keep_their_numbers_and_their_tasks(path):
    before = [each for each in migrations() if each[0] <= 11]
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")
    migrate(connection, str(path), before)
    connection.execute(
        "INSERT INTO kind (id, name, capability) VALUES (7, 'report', 'report'), (9, 'ai_call', 'ai_call@x')"
    )
    for seq in range(1, 2001):
        states = ("ready", None, None), ("completed", None, 5.0), ("running", "w", None), ("failed", None, 5.0)
        state, owner, ended = states[seq % 4]
        row = (seq, f"{seq:016x}", 7 + 2 * (seq % 2), state, owner, owner and 9.0, 1.0, ended, 1)
        connection.execute(
            "INSERT INTO task (seq, id, kind, state, owner, lease_until, created_at, started_at, ended_at, priority, max_retries, attempt) "
            "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, 2, 3, ?9)",
            row,
        )
        connection.execute("INSERT INTO body (task, payload) VALUES (?, '{}')", (seq,))
    connection.execute("INSERT INTO dependency (parent, child, position) VALUES (1, 4, 0)")
    tables = ("kind", "task", "body", "dependency", "counter")
    rows = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    connection.close()

    store = open_store(str(path))

    with store.database.read() as connection:
        rows["kind"] = [(*row, "") for row in rows["kind"]]
        assert {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables} == rows
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA foreign_keys").fetchall() == [(1,)]
    assert store.health().sound
    with store.database.write() as connection, pytest.raises(apsw.ConstraintError):
        connection.execute("DELETE FROM kind WHERE id = 7")
    store.tasks.publish([NewTask("a" * 16, "report", "{}", "report")], 1.0)
    assert store.tasks.get("a" * 16).name == "report"
    with store.database.read() as connection:
        assert connection.execute("SELECT kind FROM task WHERE id = ?", ("a" * 16,)).fetchall() == [(7,)]
    store.close()
