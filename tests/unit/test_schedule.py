"""When schedules are due; pure decisions over an injected moment."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cloud.queue.schedule import MOST_AT_ONCE, Timing, describe, due_runs, next_after, pulled_in, timing
from core.cloud.store_contract import ScheduleRecord
from core.errors import InvalidArgument

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400.0


def at(text: str, zone: tzinfo = BERLIN, fold: int = 0) -> float:
    """A wall-clock time as an epoch reading."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def local(moment: float, zone: ZoneInfo = BERLIN) -> str:
    """An epoch reading as a wall-clock time with its offset."""
    return datetime.fromtimestamp(moment, zone).strftime("%Y-%m-%d %H:%M %z")


def record(
    *, every: float | None = None, cron: str | None = None, timezone: str = "UTC", missed: str = "once", next_run: float
) -> ScheduleRecord:
    return ScheduleRecord("s", '{"name":"s"}', every, cron, timezone, missed, True, next_run, None, None, 0.0, 0)


def runs_of(cron: str, start: float, end: float, timezone: str = "Europe/Berlin") -> list[float]:
    """Every run between two moments, as a process would meet them that looks at each run's own time."""
    when = timing(None, cron, timezone, "once")
    found = []
    moment = next_after(when, start)
    while moment <= end:
        found.append(moment)
        moment = next_after(when, moment)
    return found


# Daylight saving: Berlin leaps 02:00 -> 03:00 on 2026-03-29 and falls back 03:00 -> 02:00 on 2026-10-25


def test_a_time_that_is_skipped_in_spring_runs_once_right_after_the_gap() -> None:
    found = runs_of("30 2 * * *", at("2026-03-28T00:00"), at("2026-03-31T00:00"))
    assert [local(moment) for moment in found] == [
        "2026-03-28 02:30 +0100",
        "2026-03-29 03:00 +0200",
        "2026-03-30 02:30 +0200",
    ]


def test_several_times_inside_the_gap_come_out_as_one_run() -> None:
    found = runs_of("0,20,40 2 * * *", at("2026-03-29T00:00"), at("2026-03-30T00:00"))
    assert [local(moment) for moment in found] == ["2026-03-29 03:00 +0200"]


def test_a_time_that_comes_twice_in_autumn_runs_at_the_first() -> None:
    found = runs_of("30 2 * * *", at("2026-10-24T00:00"), at("2026-10-27T00:00"))
    assert [local(moment) for moment in found] == [
        "2026-10-24 02:30 +0200",
        "2026-10-25 02:30 +0200",
        "2026-10-26 02:30 +0100",
    ]


def test_a_process_that_wakes_in_the_repeated_hour_does_not_run_it_again() -> None:
    when = timing(None, "30 2 * * *", "Europe/Berlin", "once")
    in_the_repeated_hour = at("2026-10-25T02:10", fold=1)
    assert local(next_after(when, in_the_repeated_hour)) == "2026-10-26 02:30 +0100"


def test_hourly_runs_follow_real_time_through_both_changes() -> None:
    spring = runs_of("15 * * * *", at("2026-03-29T00:30"), at("2026-03-29T05:00"))
    autumn = runs_of("15 * * * *", at("2026-10-25T00:30"), at("2026-10-25T04:00"))
    assert [local(moment)[11:] for moment in spring] == ["01:15 +0100", "03:15 +0200", "04:15 +0200"]
    assert [local(moment)[11:] for moment in autumn] == ["01:15 +0200", "02:15 +0200", "02:15 +0100", "03:15 +0100"]


def test_an_hour_written_with_a_star_minute_is_left_out_with_its_hour() -> None:
    found = runs_of("*/30 2 * * *", at("2026-03-28T00:00"), at("2026-03-31T00:00"))
    assert [local(moment)[5:16] for moment in found] == ["03-28 02:00", "03-28 02:30", "03-30 02:00", "03-30 02:30"]


def test_every_counts_real_seconds_through_a_change_of_the_clock() -> None:
    before = at("2026-03-29T01:30")
    due = due_runs(record(every=3600, next_run=before, missed="all"), before + 2 * 3600)
    assert [local(run)[11:16] for run in due.runs] == ["01:30", "03:30", "04:30"]


def test_zones_that_change_at_midnight_keep_their_daily_run() -> None:
    santiago = ZoneInfo("America/Santiago")  # leaps 00:00 -> 01:00 on 2026-09-06
    found = runs_of("0 0 * * *", at("2026-09-04T12:00", santiago), at("2026-09-08T12:00", santiago), "America/Santiago")
    assert [local(moment, santiago)[:16] for moment in found] == [
        "2026-09-05 00:00",
        "2026-09-06 01:00",
        "2026-09-07 00:00",
        "2026-09-08 00:00",
    ]


def test_a_daily_run_comes_once_on_each_day_of_a_year() -> None:
    found = runs_of("30 2 * * *", at("2026-01-01T00:00"), at("2026-12-31T23:59"))
    assert len(found) == 365
    assert len({local(moment)[:10] for moment in found}) == 365


# Missed runs


def test_a_schedule_that_is_not_due_changes_nothing() -> None:
    waiting = record(every=60, next_run=1_000.0)
    due = due_runs(waiting, 999.9)
    assert (due.runs, due.after, due.left_out) == ([], waiting, False)


def test_once_publishes_the_latest_run_for_all_that_were_missed() -> None:
    due = due_runs(record(every=60, next_run=1_000.0), 1_000.0 + 60 * 10 + 5)
    assert due.runs == [1_600.0]
    assert (due.after.next_run, due.after.last_run, due.after.runs) == (1_660.0, 1_600.0, 1)
    assert due.left_out is True


def test_skip_publishes_nothing_for_runs_that_were_missed_and_goes_on_with_the_next() -> None:
    due = due_runs(record(every=3600, missed="skip", next_run=1_000.0), 1_000.0 + 3600 * 5 + 1800)
    assert due.runs == []
    assert (due.after.next_run, due.after.last_run, due.after.runs) == (1_000.0 + 3600 * 6, None, 0)
    assert due.left_out is True


def test_skip_still_publishes_a_run_that_is_noticed_a_moment_late() -> None:
    due = due_runs(record(every=3600, missed="skip", next_run=1_000.0), 1_002.5)
    assert due.runs == [1_000.0]
    assert due.left_out is False


def test_all_publishes_each_missed_run_oldest_first() -> None:
    start = at("2026-11-20T09:00", ZoneInfo("UTC"))
    due = due_runs(record(cron="0 9 * * 1-5", missed="all", next_run=start), start + 4 * DAY)
    assert [local(run, ZoneInfo("UTC"))[:16] for run in due.runs] == [
        "2026-11-20 09:00",
        "2026-11-23 09:00",
        "2026-11-24 09:00",
    ]
    assert due.left_out is False


@pytest.mark.parametrize("times", [{"every": 60.0}, {"cron": "* * * * *"}])
def test_all_is_bounded_keeps_the_newest_and_says_that_some_were_left_out(times: dict[str, object]) -> None:
    start = at("2026-01-01T00:00", ZoneInfo("UTC"))
    now = start + 365 * DAY
    due = due_runs(record(**times, missed="all", next_run=start), now)  # type: ignore[arg-type]
    assert len(due.runs) == MOST_AT_ONCE
    assert due.runs == [now - 60 * (MOST_AT_ONCE - 1 - index) for index in range(MOST_AT_ONCE)]
    assert due.left_out is True
    assert due.after.next_run == now + 60


def test_every_does_not_drift_however_late_it_is_noticed() -> None:
    schedule = record(every=7.0, next_run=1_000.0)
    for look in range(1, 2_000):
        due = due_runs(schedule, 1_000.0 + look * 7 + (look * 13 % 70) / 10)
        schedule = due.after
        assert schedule.next_run is not None
        assert (schedule.next_run - 1_000.0) % 7 == 0


@given(
    every=st.floats(1.0, 1e6),
    late=st.floats(0.0, 1e8),
    missed=st.sampled_from(["skip", "once", "all"]),
    first=st.floats(1e9, 2e9),
)
def test_after_a_look_the_next_run_is_always_ahead_and_within_one_period(
    every: float, late: float, missed: str, first: float
) -> None:
    now = first + late
    due = due_runs(record(every=every, missed=missed, next_run=first), now)
    assert due.after.next_run is not None
    assert now < due.after.next_run <= now + every * (1 + 1e-6)
    assert all(first <= run <= now for run in due.runs)
    assert due.runs == sorted(set(due.runs))


FIELDS = st.tuples(
    st.sampled_from(["0", "30", "*", "*/7", "5,50", "10-20"]),
    st.sampled_from(["0", "2", "3", "*", "*/5", "1-3", "23"]),
    st.sampled_from(["*", "1", "L", "13,29"]),
    st.sampled_from(["*", "3", "10", "*/2"]),
    st.sampled_from(["*", "1-5", "SUN", "5#2"]),
).map(" ".join)


@given(
    cron=FIELDS,
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe"]),
    start=st.integers(int(at("2025-12-01T00:00")), int(at("2027-01-31T00:00"))),
    gap=st.integers(0, int(2 * DAY)) | st.integers(0, int(15 * DAY)),
)
def test_looking_back_over_a_gap_finds_the_runs_that_a_steady_look_would_have_met(
    cron: str, zone: str, start: int, gap: int
) -> None:
    when = timing(None, cron, zone, "all")
    first = next_after(when, start)
    now = first + gap
    met = []
    moment = first
    while moment <= now:
        met.append(moment)
        moment = next_after(when, moment)
    for missed, wanted in (("all", met[-MOST_AT_ONCE:]), ("once", met[-1:])):
        due = due_runs(record(cron=cron, timezone=zone, missed=missed, next_run=first), now)
        assert due.runs == wanted
        assert due.after.next_run == moment
        assert due.left_out is (len(met) > len(wanted))


def test_a_year_of_steady_looks_meets_every_run_of_a_mixed_plan_exactly_once() -> None:
    """An injected clock over 2026, both changes included: looks every 10 minutes."""
    start, end = at("2026-01-01T00:00"), at("2027-01-01T00:00")
    plan = {"30 2 * * *": 365, "0 9 * * 1-5": 261, "0 0 1 * *": 12, "0 */6 * * *": 365 * 4}
    for cron, wanted in plan.items():
        when = timing(None, cron, "Europe/Berlin", "all")
        schedule = record(cron=cron, timezone="Europe/Berlin", missed="all", next_run=next_after(when, start - 1))
        met: list[float] = []
        now = start
        while now < end:
            if schedule.next_run is not None and schedule.next_run <= now:
                due = due_runs(schedule, now)
                met += due.runs
                schedule = due.after
            now += 600
        assert len(met) == len(set(met)) == wanted, cron


# Values


@pytest.mark.parametrize(
    ("every", "cron", "timezone", "missed", "said"),
    [
        (None, None, "UTC", "once", "either `every` or `cron`"),
        (60, "* * * * *", "UTC", "once", "either `every` or `cron`"),
        (0.9, None, "UTC", "once", "`every` is 0.9"),
        (True, None, "UTC", "once", "`every` is True"),
        ("60", None, "UTC", "once", "`every` is 60"),
        (float("nan"), None, "UTC", "once", "`every` is nan"),
        (1e12, None, "UTC", "once", "`every` is"),
        (None, "* * * *", "UTC", "once", "five fields"),
        (None, "0 0 0 * * *", "UTC", "once", "five fields"),
        (None, 5, "UTC", "once", "five fields"),
        (None, "* " * 500, "UTC", "once", "five fields"),
        (None, "61 * * * *", "UTC", "once", "cannot be read"),
        (None, "*/0 * * * *", "UTC", "once", "cannot be read"),
        (None, "a b c d e", "UTC", "once", "cannot be read"),
        (None, "0 0 30 2 *", "UTC", "once", "cannot be read"),
        (None, "0 0 31 4 MON#5", "UTC", "sometimes", "no missed-run policy 'sometimes'"),
        (60, None, "Europe/Berln", "once", "Similar: Europe/Berlin"),
        (60, None, "../etc/passwd", "once", "no time zone"),
        (60, None, "Europe", "once", "no time zone"),
        (60, None, "", "once", "no time zone"),
        (60, None, None, "once", "no time zone"),
    ],
)
def test_times_that_cannot_be_used_are_refused_with_what_can(
    every: object, cron: object, timezone: object, missed: object, said: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        timing(every, cron, timezone, missed)
    assert said in refused.value.message
    assert refused.value.fix


def test_shortcuts_names_and_uneven_spaces_are_understood() -> None:
    assert timing(None, "@daily", "UTC", "once") == Timing(None, "0 0 * * *", "UTC", "once")
    assert timing(None, " 0  9 * JAN  mon-fri ", "UTC", "skip").cron == "0 9 * JAN mon-fri"
    assert timing(5, None, "Asia/Shanghai", "all") == Timing(5.0, None, "Asia/Shanghai", "all")


def test_a_leap_day_schedule_finds_its_next_year() -> None:
    when = timing(None, "0 12 29 2 *", "UTC", "once")
    moment = next_after(when, datetime(2026, 11, 23, tzinfo=UTC).timestamp())
    assert datetime.fromtimestamp(moment, UTC) == datetime(2028, 2, 29, 12, tzinfo=UTC)


def test_a_description_shows_times_as_iso_and_leaves_out_what_is_not_set() -> None:
    moment = datetime(2026, 11, 23, 20, tzinfo=UTC)
    said = describe(record(every=60, next_run=(moment + timedelta(hours=1)).timestamp()))
    assert said == {
        "name": "s",
        "task": {"name": "s"},
        "every": 60,
        "timezone": "UTC",
        "missed": "once",
        "enabled": True,
        "next_run": "2026-11-23T21:00:00.000Z",
        "runs": 0,
        "created_at": "1970-01-01T00:00:00.000Z",
    }


# A clock that was ahead

YEAR_2200 = at("2200-05-01T12:00", UTC)
NOW = at("2026-11-25T10:00:10", UTC)

AHEAD = [
    ("every minute, two hours ahead", {"every": 60.0}, NOW + 7200),
    ("every minute, two minutes ahead", {"every": 60.0}, NOW + 120),
    ("every hour, in 2200", {"every": 3600.0}, YEAR_2200),
    ("every year, in 2200", {"every": 366 * DAY}, YEAR_2200),
    ("hourly cron, two hours ahead", {"cron": "0 * * * *"}, NOW + 7200),
    ("daily cron, in 2200", {"cron": "0 9 * * *", "timezone": "Asia/Shanghai"}, YEAR_2200),
    ("weekly cron, a day ahead at its own hour", {"cron": "0 10 * * 3"}, NOW - 10 + 14 * DAY),
    ("monthly cron, a month ahead", {"cron": "0 0 1 * *"}, at("2027-01-01T00:00", UTC)),
    ("yearly cron, a year ahead", {"cron": "0 0 1 1 *"}, at("2028-01-01T00:00", UTC)),
    ("29 February, one leap year too many", {"cron": "0 0 29 2 *"}, at("2032-02-29T00:00", UTC)),
    ("a clock that began at the end of time", {"every": 5.0}, 253402300000.0),
]


@pytest.mark.parametrize(("what", "times", "next_run"), AHEAD, ids=[what for what, _, _ in AHEAD])
def test_a_next_run_further_off_than_the_times_explain_is_pulled_in(
    what: str, times: dict[str, object], next_run: float
) -> None:
    before = record(next_run=next_run, **times)  # type: ignore[arg-type]
    after = pulled_in(before, NOW)
    assert after is not None
    assert after.next_run is not None
    assert NOW < after.next_run <= next_after(before, NOW)
    assert after.rewinds == 1
    assert pulled_in(after, NOW) is None


EXPLAINED = [
    {"every": 60.0, "next_run": NOW + 60},
    {"every": 60.0, "next_run": NOW + 60.9},
    {"every": 366 * DAY, "next_run": NOW + 365 * DAY},
    {"cron": "0 0 29 2 *", "next_run": at("2028-02-29T00:00", UTC)},
    {"cron": "0 0 1 1 *", "next_run": at("2027-01-01T00:00", UTC)},
    {"every": 60.0, "next_run": NOW - 5 * DAY},
]


@pytest.mark.parametrize("times", EXPLAINED)
def test_a_next_run_that_the_times_explain_stays(times: dict[str, float]) -> None:
    assert pulled_in(record(**times), NOW) is None  # type: ignore[arg-type]


def test_a_schedule_that_is_off_is_left_alone() -> None:
    off = replace(record(every=60.0, next_run=NOW), enabled=False, next_run=None)
    assert pulled_in(off, NOW) is None


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 * * * *", "0,30 1-3 * * *", "15 */2 * * *"])
def test_no_change_of_the_clocks_by_daylight_saving_is_taken_for_a_clock_that_was_ahead(zone: str, cron: str) -> None:
    for change in ("2026-03-28", "2026-10-24", "2026-04-04", "2026-11-01", "2026-03-08", "2026-10-03", "2026-02-15"):
        moment = at(f"{change}T00:00", ZoneInfo(zone))
        known = record(cron=cron, timezone=zone, next_run=0.0)
        upcoming = next_after(known, moment)
        for step in range(150):
            now = moment + step * 1200.0
            while upcoming <= now:
                upcoming = next_after(known, upcoming)
            assert pulled_in(replace(known, next_run=upcoming), now) is None, (change, local(now, ZoneInfo(zone)))
