"""Schedules over SQLite: a run is published and its schedule moved on in one transaction."""

import builtins
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

import apsw

from core.cloud.store.database import Database
from core.cloud.store.publishing import insert_tasks
from core.cloud.store.queries import Queries, one
from core.cloud.store_contract import NewTask, ScheduleRecord
from core.failpoints import failpoint

SCHEDULE = Queries("schedule")


class SqliteScheduleStore:
    """See base.ScheduleStore for the contract."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: ScheduleRecord) -> bool:
        with self._database.write() as connection:
            return connection.execute(SCHEDULE["add"], _row(record)).fetchone() is not None

    def get(self, name: str) -> ScheduleRecord | None:
        with self._database.read() as connection:
            return _get(connection, name)

    def list(self) -> list[ScheduleRecord]:
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(SCHEDULE["list"])]

    def remove(self, name: str) -> bool:
        with self._database.write() as connection:
            return connection.execute(SCHEDULE["remove"], (name,)).fetchone() is not None

    def due(self, now: float) -> builtins.list[ScheduleRecord]:
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(SCHEDULE["due"], (now,))]

    def next_run(self) -> float | None:
        with self._database.read() as connection:
            moment = one(connection, SCHEDULE["next_run"])
        return None if moment is None else float(moment)

    def fire(
        self, before: ScheduleRecord, after: ScheduleRecord, tasks: Sequence[NewTask], now: float
    ) -> builtins.list[str] | None:
        with self._database.write() as connection:
            if _get(connection, before.name) != before:
                return None
            ids = [each.task_id for each in insert_tasks(connection, tasks, now)] if tasks else []
            if ids:
                after = replace(after, last_task_id=ids[-1])
            connection.execute(SCHEDULE["replace"], _row(after))
            failpoint("in_transaction_before_commit")
        failpoint("after_publish_commit")
        return ids


def _get(connection: apsw.Connection, name: str) -> ScheduleRecord | None:
    row = connection.execute(SCHEDULE["get"], (name,)).fetchone()
    return None if row is None else _record(row)


def _record(row: Any) -> ScheduleRecord:
    name, task, every, cron, timezone, missed, enabled, *rest = row
    return ScheduleRecord(name, task, every, cron, timezone, missed, bool(enabled), *rest)


def _row(record: ScheduleRecord) -> tuple[Any, ...]:
    return astuple(record)
