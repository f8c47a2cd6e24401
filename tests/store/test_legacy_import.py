"""Importing the original program's JSON files."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.queue.legacy_import import convert, import_legacy, read_legacy
from core.cloud.queue.transfer import Imported
from core.cloud.task import Task, TaskStatus
from core.errors import InvalidArgument

NOW = datetime(2026, 11, 23, 20, tzinfo=UTC).timestamp()


@pytest.fixture
def publisher() -> Iterator[EnhancedCloudTaskPublisher]:
    with EnhancedCloudTaskPublisher(":memory:", clock=ManualClock(NOW)) as opened:
        yield opened


def written(tmp_path: Path, document: object) -> Path:
    file = tmp_path / "enhanced_cloud_tasks.json"
    file.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return file


def brought_in(publisher: EnhancedCloudTaskPublisher, tmp_path: Path, document: object) -> Imported:
    return import_legacy(publisher.store.tasks, written(tmp_path, document), NOW)


def by_id(publisher: EnhancedCloudTaskPublisher) -> dict[str, Task]:
    return {task.task_id: task for task in publisher.list_tasks(limit=1000)}


@pytest.mark.parametrize(
    "text", ["", "not json", '"text"', "7", "null", '{"a": 1}', '{"name": "x", "payload": {}}', "[" * 100_000]
)
def test_a_file_of_another_kind_is_refused(publisher: EnhancedCloudTaskPublisher, tmp_path: Path, text: str) -> None:
    file = tmp_path / "tasks.json"
    file.write_text(text)
    with pytest.raises(InvalidArgument) as refused:
        import_legacy(publisher.store.tasks, file, NOW)
    assert refused.value.fix
    assert publisher.list_tasks() == []


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_legacy(tmp_path / "missing.json", now=NOW)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="is not JSON"):
        read_legacy(tmp_path / "bytes.json", now=NOW)


def test_what_cannot_be_carried_over_is_named_with_its_reason_and_stops_nothing_else(
    publisher: EnhancedCloudTaskPublisher,
    tmp_path: Path,
) -> None:
    document = [
        {"task_id": "sound-1", "name": "sound"},
        "text",
        {"task_id": "nameless"},
        {"task_id": "strange", "name": "x", "status": "levitating"},
        {"task_id": "orphan-1", "name": "x", "depends_on": ["nowhere"]},
        {"task_id": "orphan-2", "name": "x", "depends_on": ["orphan-1"]},
        {"task_id": "circle-1", "name": "x", "depends_on": ["circle-2"]},
        {"task_id": "circle-2", "name": "x", "depends_on": ["circle-1"]},
        {"task_id": "sound-1", "name": "twin"},
        {"task_id": "listless", "name": "x", "depends_on": 7},
        {"task_id": "huge-1", "name": "x", "payload": "x" * 2_000_000},
    ]
    done = brought_in(publisher, tmp_path, document)
    assert (done.added, done.present) == (1, 0)
    assert list(by_id(publisher)) == ["sound-1"]
    assert done.notes == [
        "task 1: left out: it is not an object",
        "task 2: left out: it has no name",
        "task 3: left out: its status 'levitating' is not known",
        "task 8: left out: the id sound-1 came before in the file",
        "task 9: left out: depends_on is not a list of task ids.",
        "task 10: left out: The payload is 2,000,002 bytes of JSON; a task can carry 1,048,576.",
        "task orphan-1: left out: it depends on nowhere, which is not there to import",
        "task orphan-2: left out: it depends on orphan-1, which is not there to import",
        "task circle-1: left out: it depends on circle-2, which is not there to import",
        "task circle-2: left out: it depends on circle-1, which is not there to import",
    ]


@pytest.mark.parametrize("shape", ["list", "tasks", "tasks by id", "by id"])
def test_every_shape_of_the_original_is_read(publisher: EnhancedCloudTaskPublisher, tmp_path: Path, shape: str) -> None:
    tasks = [{"task_id": "task-1", "name": "one"}, {"id": "task-2", "name": "two", "payload": {"符号": "BTC/USDT"}}]
    keyed = {"task-1": {"name": "one"}, "task-2": {"name": "two", "payload": {"符号": "BTC/USDT"}}}
    document = {
        "list": tasks,
        "tasks": {"version": 2, "tasks": tasks},
        "tasks by id": {"tasks": keyed},
        "by id": keyed,
    }[shape]
    assert brought_in(publisher, tmp_path, document) == Imported(2, 0, [])
    found = by_id(publisher)
    assert {task_id: task.name for task_id, task in found.items()} == {"task-1": "one", "task-2": "two"}
    assert found["task-2"].payload == {"符号": "BTC/USDT"}


def test_a_task_keeps_its_id_times_result_and_everything_else(
    publisher: EnhancedCloudTaskPublisher, tmp_path: Path
) -> None:
    brought_in(
        publisher,
        tmp_path,
        [
            {
                "task_id": "3f0c9f4e-8a51-4f7e-a1f0-0f6a5f0c9f4e",
                "name": "market_analysis",
                "payload": {"symbol": "BTC/USDT"},
                "status": "completed",
                "priority": 4,
                "tags": ["analysis", "crypto"],
                "timeout": 60.0,
                "max_retries": 5,
                "created_at": "2025-01-02T03:04:05+00:00",
                "completed_at": 1_735_790_000.5,
                "result": {"success": True},
            },
            {
                "task_id": "failed-1",
                "name": "f",
                "status": "TaskStatus.FAILED",
                "error": "Connection timeout",
                "priority": "high",
            },
            {"task_id": "cancel-1", "name": "c", "status": "canceled", "created_at": 1_735_790_000_000},
            {"task_id": "waits-1", "name": "w", "expires_at": NOW + 60, "depends_on": ["failed-1"]},
        ],
    )
    found = by_id(publisher)
    done = found["3f0c9f4e-8a51-4f7e-a1f0-0f6a5f0c9f4e"]
    assert (done.status, done.result, done.priority) == (TaskStatus.COMPLETED, {"success": True}, 4)
    assert (done.payload, done.timeout, done.max_retries) == ({"symbol": "BTC/USDT"}, 60.0, 5)
    assert set(done.tags) == {"analysis", "crypto"}
    assert done.created_at == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert done.completed_at == datetime.fromtimestamp(1_735_790_000.5, UTC)
    failed = found["failed-1"]
    assert (failed.status, failed.error, failed.priority) == (TaskStatus.FAILED, "Connection timeout", 3)
    assert found["cancel-1"].status is TaskStatus.CANCELLED
    assert found["cancel-1"].created_at == datetime.fromtimestamp(1_735_790_000, UTC)
    waits = found["waits-1"]
    assert (waits.status, waits.depends_on, waits.blocked_by) == (TaskStatus.PENDING, ("failed-1",), ("failed-1",))
    assert waits.expires_at == datetime.fromtimestamp(NOW + 60, UTC)


def test_importing_the_same_file_again_adds_nothing(publisher: EnhancedCloudTaskPublisher, tmp_path: Path) -> None:
    document = [
        {"task_id": "done-1", "name": "d", "status": "completed"},
        {"name": "without an id"},
        {"task_id": "x", "name": "short id"},
        {"task_id": "child-1", "name": "c", "depends_on": ["x"]},
    ]
    assert brought_in(publisher, tmp_path, document).added == 4
    before = by_id(publisher)
    again = brought_in(publisher, tmp_path, document)
    assert (again.added, again.present) == (0, 4)
    assert by_id(publisher) == before


def test_an_id_that_cannot_be_kept_is_replaced_everywhere_and_said(
    publisher: EnhancedCloudTaskPublisher, tmp_path: Path
) -> None:
    done = brought_in(
        publisher, tmp_path, [{"task_id": "child-1", "name": "c", "depends_on": ["1"]}, {"id": 1, "name": "parent"}]
    )
    (parent,) = [task for task in by_id(publisher).values() if task.name == "parent"]
    assert by_id(publisher)["child-1"].depends_on == (parent.task_id,)
    assert done.notes == [f"task 1: its id '1' cannot be kept; it is now {parent.task_id}"]


def test_a_task_may_depend_on_one_that_is_already_in_the_queue(
    publisher: EnhancedCloudTaskPublisher, tmp_path: Path
) -> None:
    parent = publisher.publish("parent")
    assert (
        brought_in(publisher, tmp_path, [{"name": "c", "task_id": "child-1", "depends_on": [parent.task_id]}]).added
        == 1
    )
    assert by_id(publisher)["child-1"].blocked_by == (parent.task_id,)


def test_work_that_was_under_way_waits_again_and_what_expired_meanwhile_is_expired(
    publisher: EnhancedCloudTaskPublisher, tmp_path: Path
) -> None:
    done = brought_in(
        publisher,
        tmp_path,
        [
            {"task_id": "held-1", "name": "h", "status": "running"},
            {"task_id": "late-1", "name": "l", "status": "pending", "expires_at": "2025-02-02T00:00:00Z"},
            {"task_id": "plan-1", "name": "p", "schedule": "0 9 * * *", "priority": 9, "tags": ["a,b", "\x07"]},
        ],
    )
    found = by_id(publisher)
    assert found["held-1"].status is TaskStatus.PENDING
    assert found["late-1"].status is TaskStatus.EXPIRED
    assert (found["plan-1"].priority, set(found["plan-1"].tags)) == (2, {"a", "b"})
    assert [note.split(": ", 1)[1][:30] for note in done.notes] == [
        "was running and waits again, s",
        "expired while it waited in the",
        "its priority '9' is not known;",
        "the tag '\\x07' cannot be kept",
        "its schedule '0 9 * * *' was n",
    ]


def test_an_id_that_another_task_has_is_left_to_it_and_said(
    publisher: EnhancedCloudTaskPublisher, tmp_path: Path
) -> None:
    mine = publisher.publish("mine")
    done = brought_in(
        publisher, tmp_path, [{"task_id": mine.task_id, "name": "theirs"}, {"task_id": "other-1", "name": "x"}]
    )
    assert (done.added, done.present) == (1, 0)
    assert done.notes == [f"task {mine.task_id}: left out: another task, mine, already has this id"]
    assert publisher.get_task(mine.task_id) == mine


def test_the_publishers_own_import_takes_the_originals_file(
    publisher: EnhancedCloudTaskPublisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = {"task_id": "done-1", "name": "echo", "status": "completed", "result": 7}
    file = written(tmp_path, {"tasks": [done, {"task_id": "bad-1"}]})
    left_out = "task 1: left out: it has no name"
    with caplog.at_level(logging.INFO, "core.cloud.queue.importing"):
        assert publisher.import_(file) == Imported(1, 0, [left_out])
    assert left_out in caplog.text
    assert publisher.import_(str(file)) == Imported(0, 1, [left_out])
    assert publisher.get_task("done-1").result == 7


def test_a_dollar_reference_of_the_original_stays_the_text_it_was(
    publisher: EnhancedCloudTaskPublisher, tmp_path: Path
) -> None:
    brought_in(publisher, tmp_path, [{"task_id": "echo-1", "name": "echo", "payload": {"text": "costs ${price}"}}])
    assert publisher.execute_task("echo-1") == {"text": "costs ${price}"}


def test_documents_of_other_programs_are_not_taken_for_the_originals() -> None:
    for foreign in ("text", {"task_id": "a", "name": "b"}):
        with pytest.raises(InvalidArgument):
            convert(foreign, now=NOW)
    assert convert([], now=NOW).tasks == []
