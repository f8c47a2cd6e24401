"""Export and import: everything comes back as it was, once, or not at all."""

import io
import itertools
import json
import re
import threading

import pytest

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.queue import transfer
from core.cloud.store import task_store as store_tasks
from core.cloud.task import TaskStatus
from core.errors import InvalidArgument, UnknownTask

KEPT = [
    "task_id",
    "name",
    "priority",
    "payload",
    "tags",
    "depends_on",
    "blocked_by",
    "on_dependency_failure",
    "timeout",
    "max_retries",
    "created_at",
    "run_at",
    "expires_at",
    "completed_at",
    "result",
    "error",
    "idempotency_key",
]


@pytest.fixture
def clock():
    return ManualClock()


def records(*tasks):
    header = {"format": "heablcoin-cloud tasks", "version": 1}
    return io.BytesIO(b"".join(json.dumps(each).encode() + b"\n" for each in (header, *tasks)))


def opened(clock):
    ids = itertools.count(1)
    return EnhancedCloudTaskPublisher(":memory:", clock=clock, draw_id=lambda: f"{next(ids):016x}")


@pytest.fixture
def full(clock):
    """A queue with a task in every status, a graph, retries and a delayed task."""
    publisher = opened(clock)
    for status in TaskStatus:
        task = publisher.publish(f"in {status}", {"text": "日本\n"}, tags=["a", "b"], idempotency_key=f"key {status}")
        clock.advance(1.25)
        if status is not TaskStatus.PENDING:
            publisher.update_status(task.task_id, "running")
            publisher.update_status(task.task_id, "pending")
            publisher.update_status(
                task.task_id,
                status,
                result={"n": 1} if status is TaskStatus.COMPLETED else None,
                error="why" if status is TaskStatus.FAILED else None,
            )
    done = publisher.list_tasks(status="completed")[0]
    child = publisher.publish("child", f"${{{done.task_id}.n}}", depends_on=[done], delay=60, priority=4)
    publisher.publish("grandchild", depends_on=[child], expires_in=600, timeout=5, on_dependency_failure="cancel")
    yield publisher
    publisher.close()


@pytest.fixture
def other(clock):
    publisher = opened(clock)
    yield publisher
    publisher.close()


def exported(publisher):
    out = io.BytesIO()
    publisher.export(out)
    return out.getvalue()


def test_what_was_exported_comes_back_as_it_was(full, other):
    data = exported(full)
    assert other.import_(io.BytesIO(data)).added == 9
    for before in full.list_tasks():
        after = other.get_task(before.task_id)
        assert [getattr(after, name) for name in KEPT] == [getattr(before, name) for name in KEPT]
        held = before.status in ("acknowledged", "running")
        assert after.status == ("pending" if held else before.status)
        assert after.attempts == before.attempts
        assert [each.outcome.value for each in other.attempts(after.task_id)] == [
            "interrupted" if each.outcome.value == "running" else each.outcome.value
            for each in full.attempts(before.task_id)
        ]
    assert other.get_stats()["blocked"] == 1
    assert other.get_stats()["later"] == 1


def test_importing_twice_adds_nothing(full, other):
    data = exported(full)
    other.import_(io.BytesIO(data))
    before = other.list_tasks()
    assert other.import_(io.BytesIO(data)).added == 0
    assert other.list_tasks() == before
    assert full.import_(io.BytesIO(data)).added == 0


def test_an_imported_task_runs_with_all_its_retries_and_the_results_it_needs(full, other, clock):
    other.import_(io.BytesIO(exported(full)))
    clock.advance(60)
    other.register_handler("child", lambda payload: payload)
    [child] = other.list_tasks(name="child")
    assert other.execute_task(child) == 1
    assert [task.name for task in other.get_ready_tasks(20)][:1] == ["in pending"]
    assert "grandchild" in {task.name for task in other.get_ready_tasks(20)}


def test_a_file_is_replaced_whole_and_is_for_the_user_alone(full, other, tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text("old")
    assert full.export(path) == 9
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["tasks.jsonl"]
    assert path.stat().st_mode & 0o077 == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["format"] == "heablcoin-cloud tasks"
    assert len(lines) == 11
    attempts = sum(len(full.attempts(task.task_id)) for task in full.list_tasks())
    assert json.loads(lines[-1]) == {
        "format": "heablcoin-cloud tasks",
        "end": True,
        "tasks": 9,
        "attempts": attempts,
    }
    assert other.import_(str(path)).added == 9


def test_an_export_that_fails_leaves_the_old_file(full, tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text("old")
    full.store.close()
    with pytest.raises(Exception, match="closed"):
        full.export(path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["tasks.jsonl"]


def change(data, line, **fields):
    lines = data.splitlines()
    record = json.loads(lines[line])
    record.update(fields)
    lines[line] = json.dumps(record).encode()
    return io.BytesIO(b"\n".join(lines))


@pytest.mark.parametrize(
    ("line", "fields", "message"),
    [
        (0, {"format": "other"}, "neither a list|not an export"),
        (0, {"version": 99}, "version 99"),
        (3, {"task_id": None}, "Line 4: .*task_id"),
        (3, {"name": ""}, "Line 4: .*name"),
        (3, {"status": "dreaming"}, "Line 4: .*dreaming"),
        (3, {"priority": 9}, "Line 4: .*priority"),
        (3, {"created_at": "yesterday"}, "Line 4: created_at is not a time"),
        (3, {"created_at": "2026-01-01T00:00:00"}, "Line 4: created_at is not a time"),
        (3, {"interruptions": -1}, "Line 4: interruptions"),
        (3, {"history": [{"number": 1}]}, "Line 4: .*outcome"),
        (3, {"history": "x"}, "Line 4: .*history"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_added(full, other, line, fields, message):
    with pytest.raises(InvalidArgument, match=message):
        other.import_(change(exported(full), line, **fields))
    assert other.get_stats()["total"] == 0


def test_a_line_that_is_no_json_or_a_dependency_that_is_missing_adds_nothing(full, other):
    data = exported(full)
    with pytest.raises(InvalidArgument, match="Line 12 is not JSON"):
        other.import_(io.BytesIO(data + b"{broken\n"))
    with pytest.raises(UnknownTask, match="nowhere"):
        other.import_(change(data, 8, depends_on=["nowhere"]))
    assert other.get_stats()["total"] == 0


def test_an_id_or_a_key_that_another_task_has_is_refused_and_nothing_is_added(full, other):
    data = exported(full)
    other.publish("mine")
    with pytest.raises(InvalidArgument, match="already has the id"):
        other.import_(io.BytesIO(data))
    assert other.get_stats()["total"] == 1
    other.publish("mine", idempotency_key="key failed")
    with pytest.raises(InvalidArgument, match="already has the idempotency key"):
        other.import_(records({"task_id": "x1", "name": "n", "idempotency_key": "key failed"}))
    assert other.get_stats()["total"] == 2


def test_records_need_only_a_name_and_an_id(other):
    first, second = {"task_id": "old-1", "name": "a"}, {"task_id": "old-2", "name": "b", "depends_on": ["old-1"]}
    assert other.import_(records(first, second)).added == 2
    assert other.get_task("old-2").blocked_by == ("old-1",)
    assert other.get_task("old-1").status == "pending"


def test_a_file_that_cannot_be_read_or_written_is_named(other, tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        other.import_(tmp_path / "nowhere.jsonl")
    with pytest.raises(InvalidArgument, match="cannot be written"):
        other.export(tmp_path / "no" / "folder.jsonl")


def test_a_large_queue_goes_through_in_batches(clock, other):
    with opened(clock) as big:
        big.publish_many([{"name": "x", "payload": n} for n in range(1234)])
        data = exported(big)
    assert other.import_(io.BytesIO(data)).added == 1234
    assert other.get_stats()["total"] == 1234


class Busy(io.BytesIO):
    """A file whose first lines, while they are written, are the occasion for something else."""

    def __init__(self, meanwhile):
        super().__init__()
        self._meanwhile = iter(meanwhile)

    def write(self, data):
        if b'"task_id"' in data:
            next(self._meanwhile, lambda: None)()
        return super().write(data)


MEANWHILE = {
    "a parent completes": lambda p, ids: p.update_status(ids[0], "completed", result={"n": 1}),
    "a parent fails and its child is cancelled": lambda p, ids: p.update_status(ids[0], "failed", error="no"),
    "tasks are published": lambda p, ids: p.publish_many([{"name": "new"} for _ in range(20)]),
    "a task is cancelled": lambda p, ids: p.cancel_task(ids[2]),
    "a finished task is retried": lambda p, ids: p.retry_task(ids[3]),
    "finished tasks are purged": lambda p, ids: (p._clock.advance(1), p.purge()),
    "an attempt ends": lambda p, ids: p.update_status(ids[4], "pending"),
}


@pytest.mark.parametrize("what", MEANWHILE)
@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_export_is_one_moment_whatever_happens_while_it_is_written(clock, other, tmp_path, monkeypatch, what, after):
    monkeypatch.setattr(transfer, "BATCH", 2)
    ids = itertools.count(1)
    database = str(tmp_path / "queue.db")
    with (
        EnhancedCloudTaskPublisher(database, clock=clock, draw_id=lambda: f"{next(ids):016x}") as publisher,
        EnhancedCloudTaskPublisher(database, clock=clock, draw_id=lambda: f"{next(ids) + 99:016x}") as somebody,
    ):
        parent = publisher.publish("parent")
        child = publisher.publish("child", depends_on=[parent], on_dependency_failure="cancel")
        waiting, failed, held = (publisher.publish(name) for name in ("waiting", "failed", "held"))
        publisher.update_status(failed.task_id, "failed", error="no")
        publisher.update_status(held.task_id, "running")
        before = exported(publisher)
        known = [parent.task_id, child.task_id, waiting.task_id, failed.task_id, held.task_id]
        nothing = [lambda: None] * (after - 1)
        out = Busy([*nothing, lambda: MEANWHILE[what](somebody, known)])
        publisher.export(out)
        assert out.getvalue() == before
        assert exported(publisher) != before
    assert other.import_(io.BytesIO(before)).added == 5


def cuts(data):
    """The same export, cut or joined in each way that leaves whole lines."""
    lines = data.splitlines(keepends=True)
    yield from (b"".join(lines[:count]) for count in range(1, len(lines)))
    yield b"".join(lines[:4] + lines[5:])
    yield b"".join(lines[:-1] + lines[5:])
    yield data + data
    yield data + lines[1]
    yield b"".join([*lines[:5], lines[-1], *lines[5:]])
    yield b"".join(lines[:-1])[:-20]
    yield data.replace(b'"end":true', b'"end":false')
    yield re.sub(rb'"attempts":\d+}\n$', b'"attempts":99}\n', data)
    yield re.sub(rb'"tasks":9,', b'"tasks":8,', data)


def test_an_export_that_is_not_whole_is_refused_and_nothing_is_imported(full, other):
    data = exported(full)
    for number, cut in enumerate(cuts(data)):
        with pytest.raises(InvalidArgument, match=r"nothing was imported|task_id") as refused:
            other.import_(io.BytesIO(cut))
        assert refused.value.fix, number
        assert other.get_stats()["total"] == 0, number


@pytest.mark.parametrize(
    "change_of", [lambda d: d + b"\n\n", lambda d: d.replace(b"\n", b"\r\n"), lambda d: d.rstrip(b"\n")]
)
def test_line_ends_do_not_make_an_export_less_whole(full, other, change_of):
    imported = other.import_(io.BytesIO(change_of(exported(full))))
    assert (imported.added, imported.notes) == (9, [])


def test_an_older_export_without_an_end_is_imported_with_a_word_about_it(full, other):
    lines = exported(full).splitlines(keepends=True)[:-1]
    old = b"".join(lines).replace(b'"version":2', b'"version":1')
    imported = other.import_(io.BytesIO(old))
    assert imported.added == 9
    assert [note for note in imported.notes if "whether it is whole cannot be told" in note]


def test_a_clash_in_a_later_batch_imports_nothing_of_the_earlier_ones(clock, other, monkeypatch):
    monkeypatch.setattr(store_tasks, "RESTORED_AT_ONCE", 10)
    with opened(clock) as big:
        big.publish_many([{"name": "x", "payload": n} for n in range(95)])
        big.publish("y", idempotency_key="taken")
        data = exported(big)
    other.publish("mine", idempotency_key="taken")
    with pytest.raises(InvalidArgument, match="nothing was imported"):
        other.import_(io.BytesIO(data))
    assert other.get_stats()["total"] == 1


def test_reading_goes_on_while_an_export_waits_for_a_slow_disk(clock, tmp_path):
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"), clock=clock) as publisher:
        publisher.publish("one")
        seen = []

        def look():
            thread = threading.Thread(target=lambda: seen.append(publisher.get_stats()["total"]))
            thread.start()
            thread.join(10)

        publisher.export(Busy([look]))
        assert seen == [1]
