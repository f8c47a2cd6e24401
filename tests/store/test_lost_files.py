"""A database file that is deleted, moved, replaced or overwritten while it is open: told before a write is acknowledged."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import apsw
import pytest

from core.cloud.store import database as database_module
from core.cloud.store import lost, open_store
from core.cloud.store_contract import ClaimRequest, NewTask, Settlement, WorkerInfo
from core.cloud.task import AttemptOutcome, TaskStatus
from core.errors import StoreBusy, StoreCorrupt, StoreReplaced
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="an open file stays where it is on Windows")

ROOT = Path(__file__).parents[2]


def new(number):
    return NewTask(f"{number:016x}", "n", "{}", "n")


def ids(path):
    """The tasks in a sound file, as somebody sees them who opens it now."""
    store = open_store(str(path))
    health = store.health()
    found = sorted(int(each, 16) for each in store.tasks.newest_ids(99))
    store.close()
    assert health.sound, health
    return found


def ids_elsewhere(path):
    """The same for another process."""
    code = (
        "import sys; from core.cloud.store import open_store; s = open_store(sys.argv[1]);"
        "assert s.health().sound, s.health();"
        "print(*sorted(int(i, 16) for i in s.tasks.newest_ids(99))); s.close()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return [int(number) for number in run.stdout.split()]


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    """Nobody here writes for long."""
    monkeypatch.setattr(database_module, "SETTLES_WITHIN", 0.2)


@pytest.fixture
def home(tmp_path):
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def path(home):
    return home / "queue.db"


@pytest.fixture
def backup(path, tmp_path):
    """A good copy of the database when it had one task."""
    store = open_store(str(path))
    store.tasks.publish([new(1)], 1.0)
    store.close()
    copied = tmp_path / "backup.db"
    shutil.copy(path, copied)
    return copied


@pytest.fixture
def store(path, backup):
    opened = open_store(str(path))
    opened.tasks.publish([new(2)], 1.0)
    yield opened
    opened.close()


def companions(path):
    return [Path(f"{path}{end}") for end in ("-wal", "-shm")]


def delete(path, _backup):
    path.unlink()


def delete_with_companions(path, _backup):
    for each in (path, *companions(path)):
        each.unlink()


def delete_and_empty_the_directory(path, _backup):
    shutil.rmtree(path.parent)
    path.parent.mkdir()


def replace_by_rename(path, backup):
    shutil.copy(backup, f"{path}.new")
    Path(f"{path}.new").replace(path)


def delete_and_copy(path, backup):
    path.unlink()
    shutil.copy(backup, path)


def restore_with_companions_deleted(path, backup):
    delete_with_companions(path, backup)
    shutil.copy(backup, path)


def copy_over_it(path, backup):
    shutil.copy(backup, path)


def empty_it(path, _backup):
    path.write_bytes(b"")


def rename(path, _backup):
    path.rename(path.with_name("old.db"))


def rename_and_restore(path, backup):
    path.rename(path.with_name("old.db"))
    shutil.copy(backup, path)


def move_the_directory(path, _backup):
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.mkdir()


def delete_the_log(path, _backup):
    companions(path)[0].unlink()


def delete_both_companions(path, _backup):
    for each in companions(path):
        each.unlink()


def delete_the_index(path, _backup):
    companions(path)[1].unlink()


EMPTY, RESTORED, WHOLE = [], [1], [1, 2]
WAYS = [
    (delete, EMPTY, True),
    (delete_with_companions, EMPTY, True),
    (delete_and_empty_the_directory, EMPTY, True),
    (replace_by_rename, RESTORED, True),
    (delete_and_copy, RESTORED, True),
    (restore_with_companions_deleted, RESTORED, True),
    (copy_over_it, RESTORED, False),
    (empty_it, EMPTY, False),
    (rename, EMPTY, True),
    (rename_and_restore, RESTORED, True),
    (move_the_directory, EMPTY, False),
    (delete_the_log, WHOLE, False),
    (delete_both_companions, WHOLE, False),
    (delete_the_index, WHOLE, False),
]
"""What is done, which tasks there are afterwards, and whether what the file held is kept."""


@pytest.mark.parametrize(("way", "there", "kept"), WAYS, ids=[way.__name__ for way, _, _ in WAYS])
def test_a_write_after_the_file_was_lost_is_refused_and_the_next_goes_to_what_is_there(
    store, path, backup, way, there, kept
):
    if way is copy_over_it:  # a checkpoint makes the file newer than the backup
        store.workers.register(WorkerInfo("w", 1, "h", 0, ("n",), 1.0, 1.0))
        store.database._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        wait_until(lambda: store.database._look_at <= time.monotonic(), "the next look")
        store.tasks.stats()
    way(path, backup)
    if way is delete_the_index:
        wait_until(lambda: store.database._look_at <= time.monotonic(), "the next look")
    with pytest.raises(StoreReplaced, match="nothing was changed") as refused:
        store.tasks.newest_ids(1)
        store.tasks.publish([new(3)], 1.0)
    assert "Fix: " in str(refused.value)

    store.tasks.publish([new(4)], 1.0)
    assert ids(path) == [*there, 4]
    if kept:
        assert store.database.kept in str(refused.value)
        assert ids(store.database.kept) == WHOLE
    else:
        assert not store.database.kept
    store.close()
    assert ids(path) == [*there, 4]
    assert list(path.parent.glob("*.unfinished")) == []


@pytest.mark.parametrize("way", [delete, replace_by_rename, rename_and_restore, delete_both_companions])
def test_of_two_processes_that_lose_one_file_both_move_on_to_the_same_one(store, path, backup, way):
    other = open_store(str(path))
    other.tasks.publish([new(5)], 1.0)
    way(path, backup)
    for each, number in ((store, 3), (other, 6)):
        with pytest.raises(StoreReplaced):
            each.tasks.publish([new(number)], 1.0)
    store.tasks.publish([new(7)], 1.0)
    other.tasks.publish([new(8)], 1.0)
    there = {delete: [], delete_both_companions: [1, 2, 5]}.get(way, [1])
    assert [int(each, 16) for each in reversed(store.tasks.newest_ids(9))] == [*there, 7, 8]
    assert other.tasks.newest_ids(9) == store.tasks.newest_ids(9)
    if way is not delete_both_companions:
        assert other.database.kept == store.database.kept
        assert ids(store.database.kept) == [1, 2, 5]
    other.close()
    assert ids(path) == [*there, 7, 8]


@pytest.mark.parametrize("way", [delete, replace_by_rename, delete_and_copy, rename_and_restore])
def test_a_process_that_opens_the_new_file_first_never_plays_the_old_log_over_it(store, path, backup, way):
    way(path, backup)
    there = [] if way is delete else [1]
    assert ids_elsewhere(path) == there
    with pytest.raises(StoreReplaced):
        store.tasks.publish([new(3)], 1.0)
    assert ids(path) == there
    store.close()  # the old connection must not take the new file's log with it
    assert ids(path) == there


def test_a_file_restored_after_a_crash_is_opened_without_the_log_of_the_other(path, backup):
    code = (
        "import os, sys; from core.cloud.store import open_store; from core.cloud.store_contract import NewTask;"
        "s = open_store(sys.argv[1]); s.tasks.publish([NewTask('2' * 16, 'n', '{}', 'n')], 1.0); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=60, check=True)
    assert companions(path)[0].stat().st_size > 0
    replace_by_rename(path, backup)
    assert ids(path) == [1]


def test_a_directory_copied_with_its_log_keeps_what_the_log_holds(store, path, tmp_path):
    shutil.copytree(path.parent, tmp_path / "copied")
    assert ids(tmp_path / "copied" / path.name) == [1, 2]


def test_a_link_that_leads_elsewhere_is_followed_and_the_old_file_keeps_all(path, backup, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(path)
    store = open_store(str(link))
    store.tasks.publish([new(2)], 1.0)
    link.unlink()
    link.symlink_to(backup)
    with pytest.raises(StoreReplaced, match="the link that leads to it was changed"):
        store.tasks.publish([new(3)], 1.0)
    store.tasks.publish([new(4)], 1.0)
    store.close()
    assert ids(path) == [1, 2]
    assert ids(backup) == [1, 4]


def test_readers_notice_without_any_write(store, path, backup):
    replace_by_rename(path, backup)

    def noticed():
        try:
            store.tasks.stats()
        except StoreReplaced:
            return True
        return False

    wait_until(noticed, "a reader to notice")
    assert store.tasks.newest_ids(9) == [f"{1:016x}"]


def test_a_foreign_file_in_the_place_of_ours_is_refused_and_left_alone_until_ours_is_back(store, path, backup):
    path.unlink()
    foreign = apsw.Connection(str(path))
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    content = path.read_bytes()
    with pytest.raises(StoreReplaced):
        store.tasks.publish([new(3)], 1.0)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="belongs to another program"):
            store.tasks.publish([new(3)], 1.0)
    assert path.read_bytes() == content
    backup.replace(path)
    store.tasks.publish([new(4)], 1.0)
    assert ids(path) == [1, 4]


def test_a_directory_that_is_gone_is_not_made_anew_by_a_running_process(store, path):
    shutil.rmtree(path.parent)
    with pytest.raises(StoreReplaced, match="was deleted"):
        store.tasks.publish([new(3)], 1.0)
    with pytest.raises(StoreReplaced, match=r"directory .* is gone"):
        store.tasks.publish([new(3)], 1.0)
    assert not path.parent.exists()


def test_a_restore_that_is_still_being_written_is_waited_for(store, path, backup, monkeypatch):
    monkeypatch.setattr(database_module, "SETTLES_WITHIN", 10.0)
    content = backup.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreReplaced):
        store.tasks.publish([new(3)], 1.0)
    finishing = threading.Timer(0.2, path.write_bytes, (content,))
    finishing.start()
    store.tasks.publish([new(4)], 1.0)
    finishing.join()
    assert ids(path) == [1, 4]


def test_what_ran_when_the_file_was_lost_stays_held_and_ends_in_the_copy(store, path):
    [claim] = store.tasks.exchange([], ClaimRequest("w", ("n",), 1, 30.0), 1.0).claims
    path.unlink()
    with pytest.raises(StoreReplaced):
        store.tasks.publish([new(3)], 1.0)
    held = (claim.task_id, claim.attempt)
    assert store.tasks.renew("w", [held, ("0" * 16, 1)], 30.0, 2.0) == [("0" * 16, 1)]
    assert store.tasks.progress(claim.task_id, claim.attempt, "w", 0.5, "half")
    end = Settlement(claim.task_id, claim.attempt, "w", AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, '"paid for"')
    assert store.tasks.exchange([end], None, 3.0).refused == []
    assert store.tasks.exchange([end], None, 3.0).refused == [end]
    copy = open_store(store.database.kept)
    assert copy.tasks.get(claim.task_id).result == "paid for"
    copy.close()


@pytest.mark.parametrize(
    "problem", [OSError(24, "Too many open files"), MemoryError(), StoreBusy("held"), ValueError("odd")]
)
@pytest.mark.parametrize("step", ["_unknown", "Database"])
def test_a_copy_that_cannot_be_written_costs_no_claim_that_was_committed_with_its_ends(
    store, path, monkeypatch, problem, step
):
    [begun] = store.tasks.exchange([], ClaimRequest("w", ("n",), 1, 30.0), 1.0).claims
    path.unlink()
    with pytest.raises(StoreReplaced):
        store.tasks.publish([new(3)], 1.0)
    store.tasks.publish([new(4)], 1.0)
    end = Settlement(begun.task_id, begun.attempt, "w", AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, '"paid for"')

    def fails(*arguments):
        raise problem

    monkeypatch.setattr(lost, step, fails)
    exchanged = store.tasks.exchange([end], ClaimRequest("w", ("n",), 1, 30.0), 3.0)

    assert [claim.task_id for claim in exchanged.claims] == [new(4).task_id]
    assert exchanged.refused == [end]


def test_many_threads_that_read_and_write_while_the_file_is_replaced_all_move_on(store, path, backup):
    stop, failures, noticed = threading.Event(), [], []

    def use(number):
        count = 0
        while not stop.is_set():
            count += 1
            try:
                with store.database.snapshot() as connection:
                    connection.execute("SELECT count(*) FROM task").fetchall()
                    store.tasks.stats()
                store.tasks.publish([new(number * 100_000 + count)], 1.0)
            except StoreReplaced:
                noticed.append(number)
            except Exception as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=use, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for round_ in range(2):
        replace_by_rename(path, backup)
        wait_until(lambda done=round_: len(noticed) > done, "the loss to be noticed")
        before = len(store.tasks.newest_ids(100_000))
        wait_until(lambda before=before: len(store.tasks.newest_ids(100_000)) > before + 3, "writes to go on")
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert failures == []
