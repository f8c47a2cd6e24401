"""A task's statuses, transitions and records."""

from datetime import UTC, datetime

import pytest

from core.cloud.task import (
    FINAL,
    HELD,
    TRANSITIONS,
    Attempt,
    AttemptOutcome,
    OnDependencyFailure,
    Task,
    TaskPriority,
    TaskStatus,
    check_transition,
    parse_priority,
    parse_status,
    unknown_task,
)
from core.errors import InvalidArgument, InvalidTransition, UnknownTask

MOMENT = datetime(2026, 11, 23, 20, 0, 0, 250_000, UTC)


def a_task(**fields):
    empty = {
        "task_id": "a" * 16,
        "name": "work",
        "status": TaskStatus.PENDING,
        "priority": 2,
        "payload": {"n": 1},
        "tags": ("x",),
        "depends_on": ("b" * 16,),
        "blocked_by": (),
        "on_dependency_failure": OnDependencyFailure.WAIT,
        "timeout": None,
        "max_retries": 3,
        "attempts": 0,
        "interruptions": 0,
        "idempotency_key": None,
        "created_at": MOMENT,
        "run_at": None,
        "expires_at": None,
        "started_at": None,
        "completed_at": None,
        "worker": None,
        "lease_until": None,
        "progress": None,
        "progress_message": "",
        "result": None,
        "error": None,
    }
    return Task(**{**empty, **fields})


@pytest.mark.parametrize("wanted", TaskStatus)
@pytest.mark.parametrize("current", TaskStatus)
def test_a_move_outside_the_table_is_refused_and_names_what_is_allowed(current, wanted):
    if wanted in TRANSITIONS[current]:
        check_transition("id", current, wanted)
        return
    with pytest.raises(InvalidTransition, match=f"Task id is {current} and cannot become {wanted}") as refused:
        check_transition("id", current, wanted)
    if current in FINAL and TRANSITIONS[current]:
        assert refused.value.fix == "retry_task puts it back in the queue."
    else:
        assert all(allowed in refused.value.fix for allowed in TRANSITIONS[current])


def test_a_completed_task_stays_completed():
    assert TRANSITIONS[TaskStatus.COMPLETED] == frozenset()


def test_every_status_is_pending_held_or_final():
    assert {TaskStatus.PENDING} | HELD | FINAL == set(TaskStatus)
    assert not HELD & FINAL


@pytest.mark.parametrize("status", TaskStatus)
def test_a_status_is_known_by_its_text(status):
    assert parse_status(status.value) is status
    assert parse_status(status) is status


@pytest.mark.parametrize("value", ["", "PENDING", "done", "running "])
def test_an_unknown_status_is_refused_with_the_known_ones(value):
    with pytest.raises(InvalidArgument, match="pending, acknowledged, running"):
        parse_status(value)


@pytest.mark.parametrize("value", [0, 5, -1, 2.5])
def test_an_unknown_priority_is_refused_with_the_four(value):
    with pytest.raises(InvalidArgument, match="4 URGENT"):
        parse_priority(value)


def test_the_guides_priorities_have_the_guides_numbers():
    assert [(each.name, each.value) for each in TaskPriority] == [("LOW", 1), ("NORMAL", 2), ("HIGH", 3), ("URGENT", 4)]


def test_a_task_as_json_has_times_in_iso_8601_and_nothing_left_out():
    task = a_task(completed_at=MOMENT, status=TaskStatus.COMPLETED, result=[1])
    record = task.to_dict()
    assert record["created_at"] == record["completed_at"] == "2026-11-23T20:00:00.250Z"
    assert record["started_at"] is None
    assert (record["status"], record["depends_on"], record["result"]) == ("completed", ["b" * 16], [1])
    assert set(record) == set(Task.__dataclass_fields__)


def test_an_attempt_as_json_has_nothing_left_out():
    attempt = Attempt(1, "w", MOMENT, None, AttemptOutcome.RUNNING, None)
    assert attempt.to_dict() == {
        "number": 1,
        "worker": "w",
        "started_at": "2026-11-23T20:00:00.250Z",
        "ended_at": None,
        "outcome": "running",
        "error": None,
    }


@pytest.mark.parametrize("status", TaskStatus)
def test_a_task_is_done_in_a_final_status_only(status):
    assert a_task(status=status).done == (status in FINAL)


def test_an_unknown_id_is_told_with_the_newest_and_cut_short():
    error = unknown_task("x" * 500, ["newest", "older"])
    assert isinstance(error, UnknownTask)
    assert "newest, older" in str(error) and len(str(error)) < 200
    assert "publish a task first" in unknown_task("x", []).fix
