"""Live processes and who leads a duty, over SQLite."""

import json

from core.cloud.store.base import WorkerInfo
from core.cloud.store.database import Database
from core.cloud.store.queries import Queries
from core.cloud.store.reading import WORKER

LEADER = Queries("leader")

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

    def forget(self, worker: str) -> None:
        with self._database.write(durable=False) as connection:
            connection.execute(WORKER["forget"], (worker,))

    def alive(self, since: float) -> list[WorkerInfo]:
        with self._database.read() as connection:
            rows = connection.execute(WORKER["alive"], (since,)).fetchall()
        return [WorkerInfo(*row[:4], tuple(json.loads(row[4])), *row[5:]) for row in rows]

    def lead(self, duty: str, worker: str, ttl: float, now: float) -> bool:
        with self._database.read() as connection:
            held = connection.execute(LEADER["held"], (duty,)).fetchone()
        if held is not None and held[0] != worker and held[1] > now:
            return False
        with self._database.write(durable=False) as connection:
            return connection.execute(LEADER["lead"], (duty, worker, now + ttl, now)).fetchone() is not None

    def resign(self, duty: str, worker: str) -> None:
        with self._database.write(durable=False) as connection:
            connection.execute(LEADER["resign"], (duty, worker))
