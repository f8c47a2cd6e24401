"""The schedule part of the store's contract, and the scheduler over it."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.queue.schedule import MOST_AT_ONCE
from core.cloud.scheduler import CloudScheduler
from core.cloud.store import open_store
from core.cloud.store_contract import NewTask, ScheduleRecord, Store
from core.cloud.task import TaskStatus
from core.errors import InvalidArgument, StoreError, UnknownSchedule, UnknownTask

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC).timestamp()
BOUND = 20.0


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(str(tmp_path / "queue.db") if request.param == "file" else ":memory:")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def publisher(store: Store, clock: ManualClock) -> Iterator[EnhancedCloudTaskPublisher]:
    with EnhancedCloudTaskPublisher(store=store, clock=clock) as opened:
        yield opened


@pytest.fixture
def scheduler(publisher: EnhancedCloudTaskPublisher, clock: ManualClock) -> CloudScheduler:
    return CloudScheduler(publisher, clock=clock)


def record(name: str = "tick", next_run: float | None = NOW) -> ScheduleRecord:
    return ScheduleRecord(
        name, '{"name":"tick"}', 60.0, None, "UTC", "once", next_run is not None, next_run, None, None, NOW, 0
    )


def task(task_id: str, **values: object) -> NewTask:
    return NewTask(task_id, "tick", "{}", "tick", **values)  # type: ignore[arg-type]


# The store


def test_a_schedule_comes_back_as_it_was_added(store: Store) -> None:
    cron = replace(
        record("cron"), every=None, cron="0 9 * * 1-5", timezone="Asia/Shanghai", missed="all", last_run=NOW - 0.1
    )
    assert store.schedules.add(record()) is True
    assert store.schedules.add(cron) is True
    assert store.schedules.get("tick") == record()
    assert store.schedules.list() == [cron, record()]
    assert store.schedules.get("other") is None


def test_a_name_that_is_taken_is_not_overwritten(store: Store) -> None:
    store.schedules.add(record())
    assert store.schedules.add(replace(record(), every=5.0)) is False
    assert store.schedules.get("tick") == record()


def test_only_schedules_that_are_on_and_due_are_given_earliest_first(store: Store) -> None:
    late, soon, off, ahead = record("late", NOW - 5), record("soon", NOW), record("off", None), record("ahead", NOW + 1)
    for each in (late, soon, off, ahead):
        store.schedules.add(each)
    assert store.schedules.due(NOW) == [late, soon]
    assert store.schedules.next_run() == NOW - 5


def test_without_schedules_nothing_is_due(store: Store) -> None:
    assert store.schedules.due(NOW) == []
    assert store.schedules.next_run() is None
    assert store.schedules.remove("tick") is False


def test_firing_publishes_and_moves_on_in_one_step(store: Store) -> None:
    store.schedules.add(record())
    after = replace(record(), next_run=NOW + 60, last_run=NOW, runs=1)
    assert store.schedules.fire(record(), after, [task("aaaa1"), task("aaaa2")], NOW) == ["aaaa1", "aaaa2"]
    assert store.schedules.get("tick") == replace(after, last_task_id="aaaa2")
    assert store.tasks.get("aaaa1") is not None


def test_a_schedule_that_another_process_moved_on_is_not_fired(store: Store) -> None:
    store.schedules.add(record())
    after = replace(record(), next_run=NOW + 60, runs=1)
    assert store.schedules.fire(record(), after, [task("aaaa1")], NOW) == ["aaaa1"]
    assert store.schedules.fire(record(), after, [task("bbbb1")], NOW) is None
    assert store.schedules.fire(record("gone"), record("gone"), [task("cccc1")], NOW) is None
    assert store.tasks.get("bbbb1") is store.tasks.get("cccc1") is None


def test_a_run_whose_task_cannot_be_stored_leaves_the_schedule_where_it_was(store: Store) -> None:
    store.schedules.add(record())
    after = replace(record(), next_run=NOW + 60, runs=1)
    with pytest.raises(UnknownTask):
        store.schedules.fire(record(), after, [task("aaaa1"), task("aaaa2", depends_on=("missing",))], NOW)
    assert store.schedules.get("tick") == record()
    assert store.tasks.get("aaaa1") is None


def test_a_record_that_holds_nonsense_is_refused_by_the_database(store: Store) -> None:
    for nonsense in (
        replace(record(), cron="* * * * *"),
        replace(record(), every=0.5),
        replace(record(), missed="never"),
        replace(record(), enabled=False),
    ):
        with pytest.raises(Exception, match="CHECK constraint failed"):
            store.schedules.add(nonsense)
    assert store.schedules.list() == []


# The scheduler


def test_a_bad_value_is_refused_and_changes_nothing(scheduler: CloudScheduler) -> None:
    scheduler.add_task("tick", every=60)
    before = scheduler.schedules()
    refused: list[dict[str, object]] = [
        {"every": 0},
        {"every": 60, "cron": "* * * * *"},
        {"cron": "nonsense"},
        {"cron": "* * * * *", "timezone": "Mars/Olympus"},
        {"every": 60, "missed": "maybe"},
        {"every": 60, "priority": 9},
        {"every": 60, "payload": float("nan")},
        {"every": 60, "unknown": 1},
        {"every": 60, "idempotency_key": "mine"},
        {"every": 60, "task": ""},
    ]
    for values in refused:
        with pytest.raises(InvalidArgument):
            scheduler.add_task("tick", **values)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        scheduler.add_task("x" * 101, every=60)
    assert scheduler.schedules() == before


def test_an_unknown_schedule_is_an_error_that_names_those_there_are(scheduler: CloudScheduler) -> None:
    with pytest.raises(UnknownSchedule, match="there are none yet"):
        scheduler.get("tick")
    scheduler.add_task("tick", every=60)
    for call in (scheduler.get, scheduler.enable, scheduler.disable, scheduler.remove, scheduler.trigger_now):
        with pytest.raises(UnknownSchedule, match="use one of: tick"):
            call("tock")


def test_a_run_publishes_the_task_with_all_its_arguments(
    scheduler: CloudScheduler, publisher: EnhancedCloudTaskPublisher, clock: ManualClock
) -> None:
    scheduler.add_task(
        "nightly", {"days": 30}, task="data_cleanup", every=60, priority=1, tags=["a", "b"], timeout=30, max_retries=0
    )
    assert scheduler.next_due() == NOW + 60
    assert scheduler.fire_due() == 0
    clock.advance(61)
    assert scheduler.fire_due() == 1
    assert scheduler.fire_due() == 0
    (published,) = publisher.list_tasks()
    assert (published.name, published.payload, published.priority) == ("data_cleanup", {"days": 30}, 1)
    assert (set(published.tags), published.timeout, published.max_retries) == ({"a", "b"}, 30, 0)
    assert published.status is TaskStatus.PENDING
    after = scheduler.get("nightly")
    assert (after.runs, after.last_run, after.next_run) == (1, NOW + 60, NOW + 120)
    assert after.last_task_id == published.task_id


def test_schedules_survive_a_restart_and_make_up_for_what_was_missed(tmp_path: Path, clock: ManualClock) -> None:
    path = str(tmp_path / "queue.db")
    with EnhancedCloudTaskPublisher(path, clock=clock) as first:
        CloudScheduler(first, clock=clock).add_task("once", every=3600)
        CloudScheduler(first, clock=clock).add_task("all", every=3600, missed="all")
        CloudScheduler(first, clock=clock).add_task("skip", every=3600, missed="skip")
    clock.advance(5 * 3600 + 1800)
    with EnhancedCloudTaskPublisher(path, clock=clock) as second:
        assert CloudScheduler(second, clock=clock).fire_due() == 1 + 5
        assert len(second.list_tasks(name="once")) == 1
        assert len(second.list_tasks(name="all")) == 5
        assert second.list_tasks(name="skip") == []
        assert {each.next_run for each in CloudScheduler(second, clock=clock).schedules()} == {NOW + 6 * 3600}


def test_a_year_of_schedules_publishes_each_run_once(
    scheduler: CloudScheduler, publisher: EnhancedCloudTaskPublisher, clock: ManualClock
) -> None:
    """2026-11-23 to 2027-11-23 with both changes of the clock, woken only when the scheduler says it is due."""
    berlin = {"timezone": "Europe/Berlin"}
    scheduler.add_task("daily", cron="30 2 * * *", **berlin)  # type: ignore[arg-type]
    scheduler.add_task("working days", cron="0 9 * * 1-5", **berlin)  # type: ignore[arg-type]
    scheduler.add_task("weekly", every=7 * 86_400)
    end = datetime(2027, 11, 23, 20, tzinfo=UTC).timestamp()
    while True:
        due = scheduler.next_due()
        assert due is not None
        if due > end:
            break
        clock.set_now(due + 0.25)
        assert scheduler.fire_due() >= 1
    counts = {each.name: each.runs for each in scheduler.schedules()}
    assert counts == {"daily": 365, "weekly": 52, "working days": 261}
    assert {name: len(publisher.list_tasks(name=name, limit=1000)) for name in counts} == counts
    daily = [
        each.created_at.astimezone(ZoneInfo("Europe/Berlin")) for each in publisher.list_tasks(name="daily", limit=1000)
    ]
    assert len({moment.date() for moment in daily}) == 365
    assert sorted({moment.strftime("%H:%M") for moment in daily}) == ["02:30", "03:00"]
    assert [moment.date().isoformat() for moment in daily if moment.hour == 3] == ["2027-03-28"]


@pytest.mark.parametrize("ahead", [7200.0, 174 * 365 * 86_400.0])
@pytest.mark.parametrize("times", [{"every": 60}, {"cron": "* * * * *"}])
def test_after_a_clock_that_was_ahead_each_run_of_the_hours_that_come_again_is_published(
    scheduler: CloudScheduler,
    publisher: EnhancedCloudTaskPublisher,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    ahead: float,
    times: dict[str, object],
) -> None:
    scheduler.add_task("tick", **times)  # type: ignore[arg-type]

    def run_for(minutes: int) -> int:
        published = 0
        for _ in range(minutes):
            clock.advance(60)
            scheduler.next_due()
            published += scheduler.fire_due()
        return published

    assert run_for(5) == 5
    for _ in range(2):  # it may happen again, and the same hours come a third time
        clock.set_now(clock.now() + ahead)
        assert run_for(5) == 5
        clock.set_now(clock.now() - ahead - 300)
        caplog.clear()
        assert run_for(5) in (4, 5)
        assert "further off than its times explain" in caplog.text
    assert len(publisher.list_tasks(name="tick", limit=1000)) == scheduler.get("tick").runs
    assert scheduler.get("tick").rewinds == 2


def test_adding_the_same_schedule_again_keeps_its_place_in_time(scheduler: CloudScheduler, clock: ManualClock) -> None:
    scheduler.add_task("tick", {"a": 1}, every=3600)
    clock.advance(3000)
    changed = scheduler.add_task("tick", {"a": 2}, every=3600, missed="all")
    assert changed.next_run == NOW + 3600
    assert (changed.task, changed.missed) == ('{"name":"tick","payload":{"a":2}}', "all")
    anew = scheduler.add_task("tick", {"a": 2}, every=60, missed="all")
    assert anew.next_run == NOW + 3000 + 60


def test_a_schedule_that_is_off_publishes_nothing_and_stays_off_when_added_again(
    scheduler: CloudScheduler, clock: ManualClock
) -> None:
    scheduler.add_task("tick", every=60)
    assert scheduler.disable("tick").enabled is False
    assert scheduler.disable("tick").enabled is False
    clock.advance(600)
    assert scheduler.fire_due() == 0
    assert scheduler.next_due() is None
    assert scheduler.add_task("tick", every=60).enabled is False
    assert scheduler.enable("tick").next_run == NOW + 660
    clock.advance(60)
    assert scheduler.fire_due() == 1


def test_a_schedule_that_was_off_keeps_its_place_in_time(scheduler: CloudScheduler, clock: ManualClock) -> None:
    scheduler.add_task("hourly", every=3600)
    scheduler.add_task("nine", cron="0 9 * * *")
    nine = scheduler.get("nine").next_run
    scheduler.disable("hourly")
    scheduler.disable("nine")
    clock.advance(2 * 3600 + 600)
    assert scheduler.enable("hourly").next_run == NOW + 3 * 3600
    assert scheduler.enable("nine").next_run == nine
    scheduler.add_task("hourly", every=60)  # other times: counted from now
    scheduler.disable("hourly")
    clock.advance(90)
    assert scheduler.enable("hourly").next_run == NOW + 2 * 3600 + 600 + 120


def test_a_schedule_switched_on_after_the_clock_went_back_runs_within_a_period(
    scheduler: CloudScheduler, clock: ManualClock
) -> None:
    scheduler.add_task("tick", every=60)
    scheduler.disable("tick")
    clock.set_now(NOW - 86_410)
    assert scheduler.enable("tick").next_run == NOW - 86_400


def test_a_removed_schedule_publishes_nothing_and_leaves_its_tasks(
    scheduler: CloudScheduler, publisher: EnhancedCloudTaskPublisher, clock: ManualClock
) -> None:
    scheduler.add_task("tick", every=60)
    clock.advance(60)
    scheduler.fire_due()
    scheduler.remove("tick")
    clock.advance(600)
    assert scheduler.fire_due() == 0
    assert len(publisher.list_tasks()) == 1


def test_trigger_now_publishes_at_once_and_leaves_the_times_as_they_are(
    scheduler: CloudScheduler, publisher: EnhancedCloudTaskPublisher, clock: ManualClock
) -> None:
    scheduler.add_task("tick", every=60)
    scheduler.add_task("tock", every=60)
    clock.advance(10)
    (task_id,) = scheduler.trigger_now("tick")
    assert publisher.get_task(task_id).name == "tick"
    after = scheduler.get("tick")
    assert (after.next_run, after.last_run, after.runs, after.last_task_id) == (NOW + 60, NOW + 10, 1, task_id)
    assert scheduler.trigger_now() == []
    clock.advance(50)
    assert len(scheduler.trigger_now()) == 2


def test_a_disabled_schedule_can_still_be_triggered_by_hand(scheduler: CloudScheduler) -> None:
    scheduler.add_task("tick", every=60)
    scheduler.disable("tick")
    assert len(scheduler.trigger_now("tick")) == 1
    assert scheduler.get("tick").enabled is False


def test_a_task_published_ahead_is_the_next_run_itself(
    scheduler: CloudScheduler, publisher: EnhancedCloudTaskPublisher, clock: ManualClock
) -> None:
    scheduler.add_task("tick", {"a": 1}, every=3600, expires_in=60)
    ahead = scheduler.publish_ahead("tick")
    assert scheduler.publish_ahead("tick") == ahead
    stored = publisher.get_task(ahead)
    assert stored.run_at == datetime.fromtimestamp(NOW + 3600, UTC)
    assert stored.expires_at == datetime.fromtimestamp(NOW + 3660, UTC)
    clock.advance(3600)
    assert scheduler.fire_due() == 1
    assert [each.task_id for each in publisher.list_tasks()] == [ahead]
    assert scheduler.get("tick").last_task_id == ahead
    scheduler.disable("tick")
    with pytest.raises(InvalidArgument, match="switched off"):
        scheduler.publish_ahead("tick")


def test_a_schedule_whose_task_cannot_be_published_is_named_in_the_log_and_holds_up_no_other(
    scheduler: CloudScheduler,
    publisher: EnhancedCloudTaskPublisher,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = publisher.publish("gone")
    publisher.cancel_task(gone.task_id)
    scheduler.add_task("broken", every=60, depends_on=[gone.task_id])
    scheduler.add_task("sound", every=60)
    clock.advance(60)
    assert publisher.purge().tasks == 1
    with caplog.at_level(logging.WARNING, "core.cloud.scheduler"):
        assert scheduler.fire_due() == 1
    assert "schedule broken: its task cannot be published, this run is left out" in caplog.text
    broken = scheduler.get("broken")
    assert (broken.runs, broken.last_run, broken.next_run) == (0, None, NOW + 120)


def test_runs_that_are_left_out_are_said_in_the_log(
    scheduler: CloudScheduler, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.add_task("busy", every=1, missed="all")
    scheduler.add_task("lazy", every=3600, missed="skip")
    clock.advance(2 * 3600 + 1800)
    with caplog.at_level(logging.INFO, "core.cloud.scheduler"):
        assert scheduler.fire_due() == MOST_AT_ONCE
    said = {each.getMessage().split(":")[0]: each for each in caplog.records}
    assert said["schedule busy"].levelno == logging.WARNING
    assert "more than 1000 were missed" in said["schedule busy"].getMessage()
    assert said["schedule lazy"].levelno == logging.INFO
    assert "missed=skip" in said["schedule lazy"].getMessage()


def test_many_threads_that_look_at_once_publish_each_run_once(
    scheduler: CloudScheduler, publisher: EnhancedCloudTaskPublisher, clock: ManualClock
) -> None:
    for number in range(5):
        scheduler.add_task(f"tick{number}", every=60)
    clock.advance(60)
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda _: scheduler.fire_due(), range(24)))
    assert sum(published) == 5
    assert len(publisher.list_tasks()) == 5


def test_changes_made_at_once_are_all_kept(scheduler: CloudScheduler, clock: ManualClock) -> None:
    scheduler.add_task("tick", every=60)
    clock.advance(60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: scheduler.trigger_now("tick"), range(20)))
        list(pool.map(lambda _: scheduler.fire_due(), range(20)))
    assert scheduler.get("tick").runs == 21


def test_the_snapshot_shows_the_thread_the_next_run_and_every_schedule(scheduler: CloudScheduler) -> None:
    assert scheduler.snapshot() == {
        "running": False,
        "now": "2026-11-23T20:00:00.000Z",
        "next_run": None,
        "schedules": [],
    }
    scheduler.add_task("report", {"a": 1}, cron="0 9 * * *", timezone="Asia/Shanghai")
    snapshot = scheduler.snapshot()
    assert snapshot["next_run"] == "2026-11-24T01:00:00.000Z"
    assert snapshot["schedules"] == [
        {
            "name": "report",
            "task": {"name": "report", "payload": {"a": 1}},
            "cron": "0 9 * * *",
            "timezone": "Asia/Shanghai",
            "missed": "once",
            "enabled": True,
            "next_run": "2026-11-24T01:00:00.000Z",
            "runs": 0,
            "created_at": "2026-11-23T20:00:00.000Z",
        }
    ]


def test_its_own_thread_publishes_what_comes_due_and_ends_when_told(
    scheduler: CloudScheduler, publisher: EnhancedCloudTaskPublisher, clock: ManualClock
) -> None:
    changed = threading.Event()
    unsubscribe = publisher.on_change(lambda _: changed.set())
    scheduler.add_task("tick", every=60)
    clock.advance(60)
    changed.clear()
    scheduler.start()
    scheduler.start()
    try:
        assert scheduler.running
        assert changed.wait(BOUND)
        assert [each.name for each in publisher.list_tasks()] == ["tick"]
        assert [each.name for each in threading.enumerate()].count("heablcoin-scheduler") == 1
    finally:
        scheduler.stop()
        unsubscribe()
    scheduler.stop()
    assert not scheduler.running
    assert "heablcoin-scheduler" not in [each.name for each in threading.enumerate()]


def test_a_failing_store_does_not_end_the_schedulers_thread(
    scheduler: CloudScheduler,
    publisher: EnhancedCloudTaskPublisher,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures, published = [StoreError("busy"), RuntimeError("unforeseen")], threading.Event()
    due = publisher.store.schedules.due

    def flaky(now: float) -> list[ScheduleRecord]:
        if failures:
            raise failures.pop()
        published.set()
        return due(now)

    monkeypatch.setattr("core.cloud.scheduler.LONGEST_WAIT", 0.01)
    monkeypatch.setattr(publisher.store.schedules, "due", flaky)
    scheduler.start()
    try:
        assert published.wait(BOUND)
    finally:
        scheduler.stop()
