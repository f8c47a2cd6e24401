"""When a schedule is due: every N seconds, or by a cron expression in a time zone. Pure.

Daylight saving, as Debian's cron has it (the rule of the cronsim library): an expression with fixed hours and minutes runs
once on the day the clock changes; when its time is skipped in spring it runs at the first moment after the gap, and when
its time comes twice in autumn it runs at the first. An expression whose hour or minute starts with `*` follows the real
flow of time: nothing runs in the skipped hour, and the repeated one counts twice. `every` never looks at a wall clock.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from core.clock import to_iso
from core.cloud.store_contract import ScheduleRecord
from core.errors import InvalidArgument
from core.json_types import JsonObject, loads

MISSED_POLICIES = ("skip", "once", "all")
ON_TIME = 60.0
"""A run up to this many seconds late still counts as on time."""
EXPLAINED = 1.0
"""Seconds by which a next run may be later than computed now: clocks are corrected by as much all the time."""
MOST_AT_ONCE = 1000
"""Runs that `missed="all"` makes up for at a time; older ones are left out, and the log says so."""
SHORTEST_PERIOD = 1.0
LONGEST_PERIOD = 366 * 86_400.0
LONGEST_CRON = 200
SHORTCUTS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class Timing:
    """When runs are wanted; checked when made by `timing`."""

    every: float | None
    cron: str | None
    timezone: str
    missed: str


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done about a schedule at one moment."""

    runs: list[float]
    """The moments, oldest first, for which a task is to be published now."""
    after: ScheduleRecord
    """The schedule once they are."""
    left_out: bool
    """True when runs were missed that nobody will make up for."""


def timing(every: object, cron: object, timezone: object, missed: object) -> Timing:
    """Check when a schedule is to run. Raises InvalidArgument that says what can be used."""
    if (every is None) == (cron is None):
        raise InvalidArgument(
            "A schedule needs either `every` or `cron`.", 'give every=3600 (seconds) or cron="0 9 * * 1-5", not both.'
        )
    if missed not in MISSED_POLICIES:
        raise InvalidArgument(
            f"There is no missed-run policy {str(missed)[:40]!r}.",
            'use "once" (one run makes up for all that were missed), "skip" or "all".',
        )
    zone = _zone_name(timezone)
    if cron is None:
        return Timing(_period(every), None, zone, str(missed))
    return Timing(None, _expression(cron, zone), zone, str(missed))


def next_after(when: Timing | ScheduleRecord, moment: float) -> float:
    """The first run after `moment`; for `every`, one period later."""
    if when.every is not None:
        return moment + when.every
    return next(_cron_runs(when, moment))


def resumed(record: ScheduleRecord, now: float) -> ScheduleRecord:
    """A schedule switched on again: its next run comes when it would have come had it never been off."""
    if record.every is None:
        upcoming = next_after(record, now)
    else:
        upcoming = record.created_at + record.every * (1 + math.floor((now - record.created_at) / record.every))
    return replace(record, enabled=True, next_run=upcoming)


def pulled_in(record: ScheduleRecord, now: float) -> ScheduleRecord | None:
    """The schedule with the next run that its times have after `now`; None for one whose next run is no later than that.

    A next run further off than the times can explain was computed while the clock was ahead: before it was put back, or
    while it stood at another century. Without this the schedule would be silent until the clock is there again.
    """
    if record.next_run is None or record.next_run <= now:
        return None
    if record.next_run <= next_after(record, now) + EXPLAINED:
        return None
    upcoming = resumed(record, now).next_run if record.every is not None else _seen_from_yesterday(record, now)
    if upcoming is None or record.next_run <= upcoming + EXPLAINED:
        return None
    return replace(record, next_run=upcoming, rewinds=record.rewinds + 1)


def _seen_from_yesterday(record: ScheduleRecord, now: float) -> float:
    """The next run, found as it is when one follows another: asked inside an hour that comes twice, cron finds one more."""
    return next(run for run in _cron_runs(record, now - 86_400.0) if run > now)


def new_record(name: str, task: str, when: Timing, now: float) -> ScheduleRecord:
    """A schedule added at `now`; `task` is JSON of publish() arguments."""
    return ScheduleRecord(
        name=name,
        task=task,
        every=when.every,
        cron=when.cron,
        timezone=when.timezone,
        missed=when.missed,
        enabled=True,
        next_run=next_after(when, now),
        last_run=None,
        last_task_id=None,
        created_at=now,
        runs=0,
    )


def revised(record: ScheduleRecord, task: str, when: Timing, now: float) -> ScheduleRecord:
    """A schedule added again: at the same times it keeps its place and its switch, at others it begins anew."""
    changed = replace(record, task=task, missed=when.missed)
    if (record.every, record.cron, record.timezone) == (when.every, when.cron, when.timezone):
        return changed
    return replace(
        changed,
        every=when.every,
        cron=when.cron,
        timezone=when.timezone,
        enabled=True,
        next_run=next_after(when, now),
        created_at=now,
    )


def due_runs(record: ScheduleRecord, now: float) -> Due:
    """Which runs to publish at `now`, and the schedule after that.

    `once` publishes one run, the latest, for all that are due. `all` publishes each, up to MOST_AT_ONCE of the newest.
    `skip` publishes the latest if it is on time, and nothing for those that were missed. Periods are counted from the run
    that was due, not from when it was noticed, so they do not drift.
    """
    if record.next_run is None or record.next_run > now:
        return Due([], record, left_out=False)
    found, complete = _newest_runs(record, record.next_run, now, MOST_AT_ONCE if record.missed == "all" else 1)
    runs = found if record.missed != "skip" or now - found[-1] <= ON_TIME else []
    after = replace(
        record,
        next_run=_following(record, found[-1], now),
        last_run=runs[-1] if runs else record.last_run,
        runs=record.runs + len(runs),
    )
    return Due(runs, after, left_out=not (complete and runs))


def describe(record: ScheduleRecord) -> JsonObject:
    """A schedule as JSON, times ISO 8601 UTC; what is not set is left out."""
    said: JsonObject = {
        "name": record.name,
        "task": loads(record.task),
        "every": record.every,
        "cron": record.cron,
        "timezone": record.timezone,
        "missed": record.missed,
        "enabled": record.enabled,
        "next_run": to_iso(record.next_run) or None,
        "last_run": to_iso(record.last_run) or None,
        "last_task_id": record.last_task_id,
        "runs": record.runs,
        "created_at": to_iso(record.created_at),
    }
    return {name: value for name, value in said.items() if value is not None}


def _newest_runs(record: ScheduleRecord, first: float, now: float, limit: int) -> tuple[list[float], bool]:
    """The newest runs (at least one, at most `limit`) from `first`, which is one, to `now`; and whether these are all."""
    if record.every is not None:
        last = math.floor((now - first) / record.every)
        start = max(0, last - limit + 1)
        return [first + index * record.every for index in range(start, last + 1)], start == 0
    span = 120.0
    while True:  # look back further and further, so that a year's gap in a minute's schedule costs no year of minutes
        start_at = now - span
        whole = start_at <= first
        runs = [first] if whole else []
        for run in _cron_runs(record, first if whole else start_at):
            if run > now:
                break
            runs.append(run)
        if whole or len(runs) >= limit:
            return runs[-limit:], whole and len(runs) <= limit
        span *= 4


def _following(record: ScheduleRecord, latest: float, now: float) -> float:
    upcoming = next_after(record, latest)
    return upcoming if upcoming > now else next_after(record, now)  # rounding of floats can fall on `now` itself


def _cron_runs(when: Timing | ScheduleRecord, moment: float) -> Iterator[float]:
    """Every run after `moment`, without end."""
    from cronsim import CronSim

    last = moment
    for local in CronSim(when.cron or "", datetime.fromtimestamp(moment, _zone(when.timezone))):
        run = local.timestamp()
        if run > last:  # two times inside the skipped hour, and a repeated one, come out as one moment
            last = run
            yield run


def _period(every: object) -> float:
    number = isinstance(every, int | float) and not isinstance(every, bool)
    if not number or not SHORTEST_PERIOD <= every <= LONGEST_PERIOD:  # type: ignore[operator]
        raise InvalidArgument(
            f"`every` is {str(every)[:40]}.", f"give seconds, from {SHORTEST_PERIOD:g} to {LONGEST_PERIOD:,.0f}."
        )
    return float(every)  # type: ignore[arg-type]


def _expression(cron: object, zone: str) -> str:
    """A cron expression that has runs, spaces made even."""
    from cronsim import CronSim, CronSimError

    text = " ".join(cron.split()) if isinstance(cron, str) and len(cron) <= LONGEST_CRON else ""
    text = SHORTCUTS.get(text.lower(), text)
    fix = 'use five fields "minute hour day month weekday", such as "0 9 * * 1-5" for nine on working days.'
    if len(text.split()) != 5:
        raise InvalidArgument("The cron expression does not have five fields.", fix)
    try:
        next(islice(CronSim(text, datetime(2024, 1, 1, tzinfo=_zone(zone))), 1))
    except CronSimError as error:
        raise InvalidArgument(f"The cron expression {text!r} cannot be read ({error}).", fix) from error
    except (StopIteration, ValueError, AssertionError, IndexError) as error:
        raise InvalidArgument(f"The cron expression {text!r} never comes.", fix) from error
    return text


def _zone_name(timezone: object) -> str:
    try:
        if not isinstance(timezone, str) or not 1 <= len(timezone) <= 60:
            raise ValueError("no name of a zone")
        return _zone(timezone).key
    except (KeyError, ValueError, OSError) as error:
        raise InvalidArgument(
            f"There is no time zone {str(timezone)[:60]!r}.{_similar(str(timezone)[:60])}",
            'use an IANA name such as "Europe/Berlin", "Asia/Shanghai" or "UTC".',
        ) from error


def _similar(timezone: str) -> str:
    from difflib import get_close_matches
    from zoneinfo import available_timezones

    close = get_close_matches(timezone, available_timezones(), n=3)
    return f" Similar: {', '.join(close)}." if close else ""


@lru_cache(maxsize=64)
def _zone(timezone: str) -> ZoneInfo:
    return ZoneInfo(timezone)
