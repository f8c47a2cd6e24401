"""The guide's basic publisher over the same queue as the enhanced one."""

from collections.abc import Iterator

import pytest

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.publisher import CloudTaskPublisher
from core.cloud.scheduler import CloudScheduler
from core.cloud.task import TaskStatus
from core.errors import InvalidArgument, InvalidTransition, StoreError, UnknownTask

NOW = 1_795_000_000.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def enhanced(clock: ManualClock) -> Iterator[EnhancedCloudTaskPublisher]:
    with EnhancedCloudTaskPublisher(":memory:", clock=clock) as opened:
        yield opened


@pytest.fixture
def basic(enhanced: EnhancedCloudTaskPublisher, clock: ManualClock) -> CloudTaskPublisher:
    return CloudTaskPublisher(publisher=enhanced, scheduler=CloudScheduler(enhanced, clock=clock))


@pytest.mark.parametrize(
    "schedule", [0, True, "every morning", {"hourly": True}, {}, ["60"], {"every": 60, "cron": "@daily"}]
)
def test_a_schedule_that_cannot_be_read_is_refused_and_nothing_is_stored(
    basic: CloudTaskPublisher, schedule: object
) -> None:
    with pytest.raises(InvalidArgument):
        basic.publish("report", schedule=schedule)  # type: ignore[arg-type]
    assert basic.list_tasks() == []
    assert basic.scheduler.schedules() == []


def test_errors_are_those_of_the_enhanced_publisher(basic: CloudTaskPublisher) -> None:
    with pytest.raises(UnknownTask):
        basic.update_status("nothing", "running")
    task = basic.publish("report")
    basic.update_status(task.task_id, "completed", result=1)
    with pytest.raises(InvalidTransition):
        basic.update_status(task.task_id, "running")


def test_both_publishers_see_the_same_tasks(basic: CloudTaskPublisher, enhanced: EnhancedCloudTaskPublisher) -> None:
    task = basic.publish("report", {"format": "pdf"}, tags=["daily"])
    assert enhanced.get_task(task.task_id) == task
    assert basic.list_tasks(status="pending", limit=5) == [task]
    assert basic.update_status(task.task_id, TaskStatus.FAILED, error="no paper").error == "no paper"
    assert enhanced.get_task(task.task_id).status is TaskStatus.FAILED
    assert basic.list_tasks(status="pending") == []


@pytest.mark.parametrize(
    "schedule", [3600, 3600.0, "@hourly", {"every": 3600}, {"cron": "20 * * * *", "timezone": "Asia/Shanghai"}]
)
def test_a_schedule_gives_the_first_run_back_and_publishes_the_later_ones(
    basic: CloudTaskPublisher, clock: ManualClock, schedule: object
) -> None:
    first = basic.publish("report", {"format": "pdf"}, schedule=schedule, tags="daily")  # type: ignore[arg-type]
    assert first.status is TaskStatus.PENDING
    assert first.run_at is not None
    assert NOW < first.run_at.timestamp() <= NOW + 3600
    for expected in (1, 2, 3):
        due = basic.scheduler.next_due()
        assert due is not None
        clock.set_now(due)
        assert basic.scheduler.fire_due() == 1
        assert len(basic.list_tasks()) == expected
    tasks = basic.list_tasks()
    assert tasks[0].task_id == first.task_id
    assert {(task.name, task.tags) for task in tasks} == {("report", ("daily",))}
    assert all(task.payload == {"format": "pdf"} for task in tasks)


def test_the_same_scheduled_call_made_again_adds_nothing(basic: CloudTaskPublisher) -> None:
    first = basic.publish("report", {"a": 1}, schedule=3600, tags=["x"])
    assert basic.publish("report", {"a": 1}, schedule=3600, tags=("x",)).task_id == first.task_id
    assert basic.publish("report", {"a": 2}, schedule=3600, tags=["x"]).task_id != first.task_id
    assert len(basic.scheduler.schedules()) == 2


def test_a_publisher_it_opened_is_closed_with_it_and_one_it_was_given_is_not(
    enhanced: EnhancedCloudTaskPublisher,
) -> None:
    with CloudTaskPublisher(":memory:") as own:
        own.scheduler.start()
        own.publish("report")
    assert not own.scheduler.running
    with pytest.raises(StoreError):
        own.list_tasks()
    with CloudTaskPublisher(publisher=enhanced):
        pass
    assert enhanced.list_tasks() == []
