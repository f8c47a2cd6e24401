"""The task store over SQLite: each method one transaction around the functions of its neighbours."""

import builtins
import json
import math
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from core.cloud.gate import Closed
from core.cloud.handler_limits import HandlerLimits
from core.cloud.store import claiming, limit_reading, publishing, reading, reporting, restoring, sorting, upkeep
from core.cloud.store.database import Database
from core.cloud.store.lost import settle_in_copy, still_held
from core.cloud.store.partitions import PartitionMemory, Partitions
from core.cloud.store.queries import TASK, first, one, rows
from core.cloud.store_contract import (
    Claim,
    ClaimRequest,
    Exchanged,
    Maintained,
    NewTask,
    Page,
    PublishedTask,
    Purged,
    PutBack,
    QueueCounts,
    RestoredTask,
    Settlement,
    Situation,
    StatusReport,
    TaskQuery,
)
from core.cloud.task import Attempt, Task, TaskStatus
from core.failpoints import failpoint

RESTORED_AT_ONCE = 500
"""Tasks of an import that are looked at and written together; it is one transaction in any case."""
NO_LIMITS = HandlerLimits()
SHUT_DOWN = "Given back: its worker was shut down."


class SqliteTaskStore:
    """See base.TaskStore for the contract."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holders: dict[object, Callable[[], object]] = {}
        self._memory = PartitionMemory()

    def publish(self, tasks: Sequence[NewTask], now: float) -> builtins.list[PublishedTask]:
        if not tasks:
            return []
        with self._database.write() as connection:
            published = publishing.insert_tasks(connection, tasks, now)
        failpoint("after_publish_commit")
        return published

    def get(self, task_id: str) -> Task | None:
        with self._database.snapshot() as connection:
            return reading.task_by_id(connection, task_id)

    def resolve_id(self, prefix: str) -> str | None:
        with self._database.read() as connection:
            ids = [row[0] for row in rows(connection, TASK["ids_from"], (prefix, prefix + "\U0010ffff"))]
        if prefix in ids:
            return prefix
        return ids[0] if len(ids) == 1 else None

    def newest_ids(self, limit: int) -> builtins.list[str]:
        with self._database.read() as connection:
            return reading.newest_ids(connection, limit)

    def attempts(self, task_id: str) -> builtins.list[Attempt]:
        with self._database.snapshot() as connection:
            return reading.attempts_of(connection, task_id)

    def results(self, task_ids: Sequence[str]) -> dict[str, str]:
        with self._database.read() as connection:
            found = rows(connection, TASK["results"], (json.dumps(list(task_ids)),))
        return {task_id: "null" if result is None else result for task_id, result in found}

    def list(self, query: TaskQuery, now: float) -> Page:
        with self._database.snapshot() as connection:
            return reading.page(connection, query, now)

    def stats(self) -> QueueCounts:
        with self._database.read() as connection:
            return reading.stats(connection)

    def situation(self, task_id: str, now: float) -> Situation | None:
        with self._database.snapshot() as connection:
            return reading.situation(connection, task_id, now)

    def ready_by_capability(self, name: str) -> dict[str, int]:
        with self._database.read() as connection:
            return dict(rows(connection, TASK["ready_by_capability"], (name,)))

    def exchange(self, settlements: Sequence[Settlement], request: ClaimRequest | None, now: float) -> Exchanged:
        opens_in = math.inf
        if not settlements:
            # Asked on the reading connection first, so that an idle process takes no write lock.
            request, opens_in = self._worth_it(request, now)
            if request is None:
                return Exchanged([], [], opens_in)
        claims: builtins.list[Claim] = []
        partitions: Partitions | None = None
        try:
            with self._database.write(durable=bool(settlements)) as connection:
                refused = claiming.settle(connection, settlements, now) if settlements else []
                if request is not None:
                    if settlements:
                        request, opens_in = claiming.sift(connection, request)
                    request, partitions = claiming.part(connection, self._memory, request, now)
                    claims = claiming.claim(connection, request, now, partitions)
        except BaseException:
            self._memory.forget()  # what was found full may have been so by starts that are taken back
            for grant in (claim.grant for claim in claims):
                if grant is not None:
                    grant.give_back()
            raise
        # From here on nothing may fail: what was claimed is known to nobody else until its lease ends.
        if request is not None:
            opens_in = min(
                opens_in, claiming.first_opening(request), math.inf if partitions is None else partitions.opens_in
            )
        if refused and self._database.kept:
            refused = settle_in_copy(self._database, refused, now)
        return Exchanged(claims, refused, opens_in)

    def _worth_it(self, request: ClaimRequest | None, now: float) -> tuple[ClaimRequest | None, float]:
        """What of the request may find something, None for nothing; and when the first closed gate opens, in seconds."""
        if request is None or request.task_id is not None:
            return request, math.inf
        with self._database.read() as connection:
            request, opens_in = claiming.sift(connection, request)
            request, partitions = claiming.part(connection, self._memory, request, now)
            any_open = partitions is not None and partitions.any_open()
            if partitions is not None and not any_open:
                opens_in = min(opens_in, partitions.opens_in)
                request = replace(request, limited=())
            capabilities = claiming.capabilities_json(connection, request)
            any_ready = any_open or bool(request.gates) or bool(one(connection, TASK["has_ready"], (capabilities,)))
        return (request if any_ready else None), opens_in

    def set_limits(self, limits: Mapping[str, HandlerLimits], now: float) -> None:
        with self._database.read() as connection:
            there = sorting.registered(connection)
        changed = {name: said for name, said in limits.items() if there.get(name, NO_LIMITS) != said}
        if changed:
            with self._database.write() as connection:
                sorting.register(connection, changed, now, self._memory.window)

    def waiting_for_limits(self, now: float) -> builtins.list[tuple[Closed, int]]:
        with self._database.snapshot() as connection:
            return limit_reading.waiting(connection, now)

    def limits(self) -> dict[str, HandlerLimits]:
        with self._database.read() as connection:
            return sorting.registered(connection)

    def renew(
        self, worker: str, held: Sequence[tuple[str, int]], lease: float, now: float
    ) -> builtins.list[tuple[str, int]]:
        if not held:
            return []
        with self._database.write(durable=False) as connection:
            lost = claiming.renew(connection, worker, held, now + lease)
        if lost and self._database.kept:
            ours = still_held(self._database, worker, lost)
            lost = [each for each in lost if each not in ours]
        return lost

    def progress(self, task_id: str, attempt: int, worker: str, share: float | None, message: str) -> bool:
        with self._database.write(durable=False) as connection:
            row = first(connection, TASK["holds"], (task_id, worker, attempt))
            if row is not None:
                reporting.note_progress(connection, row[0], attempt, share, message)
        if row is None and self._database.kept:
            return bool(still_held(self._database, worker, [(task_id, attempt)]))
        return row is not None

    def report(self, report: StatusReport, now: float) -> Task:
        with self._database.write() as connection:
            reporting.report(connection, report, now)
            return reading.existing(connection, report.task_id)

    def cancel(self, task_id: str, now: float, reason: str) -> Task:
        with self._database.write() as connection:
            reporting.cancel(connection, task_id, now, reason)
            return reading.existing(connection, task_id)

    def retry(self, task_id: str, now: float) -> Task:
        with self._database.write() as connection:
            reporting.retry(connection, task_id, now)
            return reading.existing(connection, task_id)

    def release(self, worker: str, now: float) -> int:
        with self._database.write() as connection:
            held = [row[1] for row in rows(connection, TASK["held_by"], (worker,))]
            for task_id in held:
                reporting.give_back(connection, reporting.find(connection, task_id), now, SHUT_DOWN)
            return len(held)

    def maintain(self, now: float, poison_limit: int, limit: int = 500, *, take_back: bool = True) -> Maintained:
        due = self.next_due(take_back=take_back)
        if due is None or due > now:
            return Maintained()
        if take_back and self._holders and self._leases_are_over(now):
            for renew in tuple(self._holders.values()):
                renew()
        with self._database.write() as connection:
            return upkeep.maintain(connection, now, poison_limit, limit, take_back=take_back)

    def on_take_back(self, renew: Callable[[], object]) -> Callable[[], object]:
        key = object()
        self._holders[key] = renew
        return partial(self._holders.pop, key, None)

    def _leases_are_over(self, now: float) -> bool:
        with self._database.read() as connection:
            first_end = one(connection, TASK["next_lost"])
        return first_end is not None and first_end <= now

    def next_due(self, *, take_back: bool = True) -> float | None:
        with self._database.read() as connection:
            return upkeep.next_due(connection, take_back=take_back)

    def put_retries_back(self, now: float, limit: int = 500) -> builtins.list[PutBack]:
        with self._database.read() as connection:
            found = upkeep.any_retry_ahead(connection, now)
        if not found:
            return []
        with self._database.write(durable=False) as connection:
            return upkeep.put_retries_back(connection, now, limit)

    def everything(self, batch: int) -> Generator[builtins.list[tuple[Task, builtins.list[Attempt]]]]:
        with self._database.apart() as connection:
            after = 0
            while found := reading.published_after(connection, after, batch):
                yield [(task, reading.attempts_of(connection, task.task_id)) for _, task in found]
                after = found[-1][0]

    def restore(self, tasks: Iterable[RestoredTask], now: float) -> builtins.list[PublishedTask]:
        published: builtins.list[PublishedTask] = []
        waiting = iter(tasks)
        with self._database.write() as connection:
            while batch := builtins.list(islice(waiting, RESTORED_AT_ONCE)):
                published += restoring.restore_tasks(connection, batch, now)
        return published

    def purge(self, statuses: Collection[TaskStatus], older_than: float, *, dry_run: bool, limit: int) -> Purged:
        if dry_run:
            with self._database.snapshot() as connection:
                return upkeep.purge(connection, statuses, older_than, limit, dry_run=True)
        with self._database.write() as connection:
            return upkeep.purge(connection, statuses, older_than, limit, dry_run=False)
