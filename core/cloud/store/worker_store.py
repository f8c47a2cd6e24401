"""Live processes and who leads a duty, over SQLite."""

import json

from core.cloud.store.database import Database
from core.cloud.store.migrate import step_counter
from core.cloud.store.queries import LEADER, WORKER, first, rows
from core.cloud.store_contract import WorkerInfo

FORGET_AFTER = 86_400.0
"""Seconds after which the row of a process that died without a word is removed."""


class SqliteWorkerStore:
    """See base.WorkerStore for the contract."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, info: WorkerInfo) -> None:
        row = (
            info.worker,
            info.pid,
            info.host,
            info.wake_port,
            json.dumps(list(info.capabilities), ensure_ascii=False),
            info.started_at,
            info.seen_at,
        )
        with self._database.write(durable=False) as connection:
            connection.execute(WORKER["register"], row)
            connection.execute(WORKER["forget_dead"], (info.seen_at - FORGET_AFTER,))
            step_counter(connection)  # here, because every process that runs tasks comes by now and then

    def forget(self, worker: str) -> None:
        with self._database.write(durable=False) as connection:
            connection.execute(WORKER["forget"], (worker,))

    def alive(self, since: float) -> list[WorkerInfo]:
        with self._database.read() as connection:
            found = rows(connection, WORKER["alive"], (since,))
        return [
            WorkerInfo(worker, pid, host, wake_port, tuple(json.loads(capabilities)), started_at, seen_at)
            for worker, pid, host, wake_port, capabilities, started_at, seen_at in found
        ]

    def lead(self, duty: str, worker: str, ttl: float, now: float) -> bool:
        with self._database.read() as connection:
            held = first(connection, LEADER["held"], (duty,))
        if held is not None and held[0] != worker and held[1] > now:
            return False
        with self._database.write(durable=False) as connection:
            return first(connection, LEADER["lead"], (duty, worker, now + ttl, now)) is not None

    def resign(self, duty: str, worker: str) -> None:
        with self._database.write(durable=False) as connection:
            connection.execute(LEADER["resign"], (duty, worker))
