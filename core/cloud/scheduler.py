"""Schedules: tasks published again and again, by the process that is there when their time comes.

    scheduler = CloudScheduler(publisher)
    scheduler.add_task("nightly", {"days": 30}, task="data_cleanup", cron="0 3 * * *", timezone="Europe/Berlin")
    scheduler.start()

Schedules live in the publisher's store. Any number of processes may drive them: publishing a run and moving its schedule on
is one transaction, so each run is published once.
"""

import json
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from core.clock import Clock, SystemClock, to_iso
from core.cloud.queue.schedule import MOST_AT_ONCE, describe, due_runs, new_record, pulled_in, resumed, revised, timing
from core.cloud.queue.submission import ARGUMENTS, check_name, from_arguments, new_task
from core.cloud.store_contract import NewTask, ScheduleRecord
from core.errors import HeablcoinError, InvalidArgument, NotFound, UnknownSchedule
from core.json_types import JsonObject, dumps
from core.main_script import refuse_while_imported

if TYPE_CHECKING:
    from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher

log = logging.getLogger(__name__)

PULL_IN_EVERY = 30.0
"""Seconds between two looks whether a clock was put back."""
LONGEST_WAIT = 1.0
"""Seconds between two looks of a scheduler's own thread: another process may have added a schedule."""


class CloudScheduler:
    """The schedules of a publisher's store. Thread-safe.

    In the MCP server and in `heablcoin-cloud worker` upkeep calls `fire_due`; a script calls `start`, which does so from a
    daemon thread until `stop`.
    """

    def __init__(
        self,
        publisher: "EnhancedCloudTaskPublisher",
        *,
        clock: Clock | None = None,
        draw_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._publisher = publisher
        self._store = publisher.store.schedules
        self._clock = clock or SystemClock()
        self._draw_id = draw_id
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._pull_in_at = float("-inf")

    # Which schedules there are

    def add_task(
        self,
        name: str,
        payload: object = None,
        *,
        every: float | None = None,
        cron: str | None = None,
        timezone: str = "UTC",
        missed: str = "once",
        task: str | None = None,
        **options: object,
    ) -> ScheduleRecord:
        """Publish a task again and again.

        Adding what is there already under this name changes its task and policy but keeps its place in time and its switch,
        so a script may add its schedules each time it starts; another `every`, `cron` or `timezone` starts it anew.

        Args:
            name: The schedule's name, 1 to 100 characters; also the task's unless `task` says otherwise.
            payload: As publish().
            every: Seconds between two runs, 1 or more; the first comes after that time. Or:
            cron: Five fields (minute hour day month weekday), or @hourly, @daily, @weekly, @monthly, @yearly.
            timezone: IANA name in which `cron` is read. Daylight saving: see core.cloud.queue.schedule.
            missed: What to do about runs that were due while no process was there: "once" publishes one for all of them,
                "skip" none, "all" each (the newest 1,000).
            task: The name of the task to publish.
            options: Other arguments of publish(): priority, tags, timeout, expires_in, max_retries, ...

        Raises:
            InvalidArgument: a value cannot be used; nothing was changed.

        """
        name = check_name(name)
        when = timing(every, cron, timezone, missed)
        text = self._checked({"name": name if task is None else task, "payload": payload, **options})
        now = self._clock.now()
        while True:
            before = self._store.get(name)
            if before is None:
                fresh = new_record(name, text, when, now)
                if self._store.add(fresh):
                    return self._noted("added", fresh)
                continue
            after = revised(before, text, when, now)
            if after == before:
                return before
            if self._store.fire(before, after, (), now) is not None:
                return self._noted("changed", after)

    def get(self, name: str) -> ScheduleRecord:
        """The schedule with this name. Raises UnknownSchedule, which names those there are."""
        record = self._store.get(name)
        if record is None:
            names = [record.name for record in self._store.list()]
            known = f"use one of: {', '.join(names[:20])}." if names else "there are none yet; add one first."
            raise UnknownSchedule(f"There is no schedule {str(name)[:100]!r}.", known)
        return record

    def schedules(self) -> list[ScheduleRecord]:
        """Every schedule, by name."""
        return self._store.list()

    def enable(self, name: str) -> ScheduleRecord:
        """Switch it on; its runs come when they would have, had it never been off. Raises UnknownSchedule."""
        now = self._clock.now()
        return self._change(name, lambda record: resumed(record, now))

    def disable(self, name: str) -> ScheduleRecord:
        """Switch it off, keeping it. Tasks it has published go on. Raises UnknownSchedule."""
        return self._change(name, lambda record: replace(record, enabled=False, next_run=None))

    def remove(self, name: str) -> None:
        """Remove it. Tasks it has published go on. Raises UnknownSchedule."""
        if not self._store.remove(self.get(name).name):
            self.get(name)  # another process was faster: says so

    def snapshot(self) -> JsonObject:
        """What the scheduler knows: is its thread running, the next run, every schedule."""
        upcoming = self._store.next_run()
        return {
            "running": self.running,
            "now": to_iso(self._clock.now()),
            "next_run": to_iso(upcoming) or None,
            "schedules": [describe(record) for record in self._store.list()],
        }

    # Publishing what is due

    def trigger_now(self, name: str | None = None) -> list[str]:
        """Publish the task of schedule `name` at once, leaving its times as they are; None: everything that is due.

        Returns the ids of the tasks. Raises UnknownSchedule.
        """
        refuse_while_imported("publishes a task")
        if name is None:
            return self._fire(self._clock.now())
        while True:
            before = self.get(name)
            now = self._clock.now()
            after = replace(before, last_run=now, runs=before.runs + 1)
            ids = self._store.fire(before, after, [self._task(before, None, now)], now)
            if ids is not None:
                return self._announced(before, ids)

    def publish_ahead(self, name: str) -> str:
        """Publish the task of the next run already now, to start when that run is due; returns its id.

        The run itself then finds it published, so a second call returns the same task. Raises UnknownSchedule, and
        InvalidArgument for a schedule that is switched off.
        """
        refuse_while_imported("publishes a task")
        record = self.get(name)
        if record.next_run is None:
            raise InvalidArgument(f"The schedule {record.name!r} is switched off.", "enable it, or remove it.")
        now = self._clock.now()
        task = self._task(record, record.next_run, record.next_run)
        task = replace(task, run_at=task.run_at or record.next_run)
        ids = [each.task_id for each in self._publisher.store.tasks.publish([task], now)]
        return self._announced(record, ids)[0]

    def next_due(self) -> float | None:
        """When `fire_due` will have something to do (epoch seconds); None when no schedule is on.

        Now and then this looks whether a next run is further off than its schedule can explain, and pulls it in.
        """
        if self._clock.monotonic() >= self._pull_in_at:
            self._pull_in_at = self._clock.monotonic() + PULL_IN_EVERY
            self._pull_in(self._clock.now())
        return self._store.next_run()

    def _pull_in(self, now: float) -> None:
        for record in self._store.list():
            after = pulled_in(record, now)
            if after is not None and self._store.fire(record, after, (), now) is not None:
                log.warning(
                    "schedule %s: its next run was at %s, further off than its times explain, as after a clock that was"
                    " ahead; it is now at %s",
                    record.name,
                    to_iso(record.next_run),
                    to_iso(after.next_run),
                )

    def fire_due(self, now: float | None = None) -> int:
        """Publish what is due; returns how many tasks. Safe from any number of processes at once."""
        return len(self._fire(self._clock.now() if now is None else now))

    def _fire(self, now: float) -> list[str]:
        published: list[str] = []
        for record in self._store.due(now):
            due = due_runs(record, now)
            try:
                tasks = [self._task(record, run, now) for run in due.runs]
                ids = self._store.fire(record, due.after, tasks, now)
            except (InvalidArgument, NotFound) as error:
                log.warning("schedule %s: its task cannot be published, this run is left out: %s", record.name, error)
                self._store.fire(record, replace(due.after, last_run=record.last_run, runs=record.runs), (), now)
                continue
            if ids is None:
                log.debug("schedule %s: another process was first", record.name)
                continue
            if due.left_out:
                self._say_what_was_left_out(record, due.runs, now)
            published += self._announced(record, ids)
        return published

    def _say_what_was_left_out(self, record: ScheduleRecord, runs: list[float], now: float) -> None:
        first, until = to_iso(record.next_run), to_iso(runs[0] if runs else now)
        more_than_asked = record.missed == "all"
        why = f"more than {MOST_AT_ONCE} were missed" if more_than_asked else f"missed={record.missed}"
        level = logging.WARNING if more_than_asked else logging.INFO
        log.log(level, "schedule %s: runs due from %s to before %s are left out: %s", record.name, first, until, why)

    def _task(self, record: ScheduleRecord, run: float | None, now: float) -> NewTask:
        """The task of one run. Its key says which run it is: the same run is never published twice."""
        said = from_arguments(json.loads(record.task), f"Schedule {record.name!r}")
        again = f":{record.rewinds}" if record.rewinds else ""  # the same moment, but not for the first time
        key = None if run is None else f"schedule:{record.name}:{to_iso(run)}{again}"
        return new_task(replace(said, idempotency_key=key), self._draw_id(), now)

    def _announced(self, record: ScheduleRecord, ids: list[str]) -> list[str]:
        if ids:
            log.debug("schedule %s: published %d task(s), last %s", record.name, len(ids), ids[-1])
            self._publisher.wakeup.notify(ids, origin=self)
        return ids

    def _checked(self, arguments: dict[str, object]) -> str:
        """The publish() arguments as JSON, sure to make a task."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if "idempotency_key" in given:
            raise InvalidArgument("A schedule has no idempotency_key of its own.", "leave it out: each run gets one.")
        said = from_arguments(given, "The schedule")
        task = new_task(said, "0" * 16, 0.0, check=self._publisher.handlers.check)
        plain: dict[str, object] = {name: given[name] for name in ARGUMENTS if name in given}
        if "tags" in plain:
            plain["tags"] = task.tags
        if "depends_on" in plain:
            plain["depends_on"] = task.depends_on
        return dumps(plain, "schedule")

    def _change(self, name: str, change: Callable[[ScheduleRecord], ScheduleRecord]) -> ScheduleRecord:
        while True:
            before = self.get(name)
            after = change(before)
            if before.enabled == after.enabled:
                return before
            if self._store.fire(before, after, (), self._clock.now()) is not None:
                return self._noted("switched on" if after.enabled else "switched off", after)

    def _noted(self, what: str, record: ScheduleRecord) -> ScheduleRecord:
        log.debug("schedule %s %s, next run %s", record.name, what, to_iso(record.next_run) or "never")
        self._publisher.wakeup.notify(origin=self)
        return record

    # A thread of its own, for scripts

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._thread is not None

    def start(self) -> None:
        """Publish what comes due from a daemon thread; a second call does nothing."""
        with self._lock:
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="heablcoin-scheduler", daemon=True
                )
                self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread; a second call does nothing. Schedules stay."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stop.set()
        if thread is not None:
            thread.join(timeout)

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            wait = LONGEST_WAIT
            try:
                self.fire_due()
                upcoming = self.next_due()
                if upcoming is not None:
                    wait = min(wait, max(0.0, upcoming - self._clock.now()))
            except HeablcoinError as error:
                log.warning("the scheduler could not look at its schedules, trying again: %s", error.message)
            except Exception:
                log.exception("the scheduler could not look at its schedules, trying again")
            stop.wait(wait)
