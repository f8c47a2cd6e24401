"""The task queue as a script or the server uses it: publish, look, change, run by hand.

    publisher = EnhancedCloudTaskPublisher()
    task = publisher.publish(name="market_analysis", payload={"symbol": "BTC/USDT"}, priority=TaskPriority.HIGH.value)

A task is durable when `publish` returns. It runs when a process with a handler for its name has a runner: the MCP server,
`heablcoin-cloud worker`, or this process through `execute_task`.
"""

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from core.clock import Clock, SystemClock
from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.handlers.registry import HandlerRegistry, Isolation
from core.cloud.queue.by_hand import AGENT_LEASE, claim_request, status_report
from core.cloud.queue.reader import TaskReader, check_limit
from core.cloud.queue.submission import (
    LARGEST_GRAPH,
    Submission,
    as_published,
    from_arguments,
    new_graph,
    new_task,
)
from core.cloud.queue.transfer import Imported, write_tasks
from core.cloud.retry import POISON_LIMIT
from core.cloud.running.manual_run import ManualRun, manual_worker_id
from core.cloud.running.wakeup import Signal, WakeUp
from core.cloud.store import open_store
from core.cloud.store_contract import NewTask, Purged, Store
from core.cloud.task import (
    FINAL,
    Task,
    TaskPriority,
    TaskStatus,
    parse_status,
)
from core.errors import InvalidArgument
from core.main_script import refuse_while_imported
from core.safe_text import encodable

__all__ = ["EnhancedCloudTaskPublisher", "Task", "TaskPriority", "TaskStatus"]

log = logging.getLogger(__name__)


class EnhancedCloudTaskPublisher(TaskReader):
    """The queue's whole interface. Thread-safe; from async code call it in a worker thread.

    `database` is a path or `:memory:`; None is `HEABLCOIN_CLOUD_DATABASE` or the user's data directory, where it shares the
    queue with every other process of this user. A `store` given instead is used and not closed.
    """

    def __init__(
        self,
        database: str | None = None,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        handlers: HandlerRegistry | None = None,
        wakeup: WakeUp | None = None,
        draw_id: Callable[[], str] = lambda: secrets.token_hex(8),
        rng: random.Random | None = None,
    ) -> None:
        self._owns_store = store is None
        self.handlers = builtin_handlers() if handlers is None else handlers
        super().__init__(store if store is not None else open_store(database), clock or SystemClock(), self.handlers)
        self._owns_wakeup = wakeup is None
        self.wakeup = wakeup if wakeup is not None else WakeUp(self.store.workers, clock=self._clock)
        self._draw_id = draw_id
        self._rng = rng or random.Random()
        self.worker = manual_worker_id()
        """The name under which this publisher runs tasks by hand."""

    # Publishing

    def publish(  # noqa: PLR0917  # the guide passes these by name; their order is its order
        self,
        name: str,
        payload: object = None,
        priority: int = TaskPriority.NORMAL,
        tags: str | Iterable[str] | None = None,
        timeout: float | None = None,
        expires_in: float | None = None,
        depends_on: str | Iterable[str | Task] | None = None,
        max_retries: int = 3,
        delay: float | None = None,
        idempotency_key: str | None = None,
        on_dependency_failure: str = "wait",
    ) -> Task:
        """Store a task; it is durable when this returns.

        Args:
            name: The handler that is to run it, 1 to 100 characters.
            payload: For the handler, up to 1 MiB as JSON; None is {}. What JSON does not have (dates, dataclasses, arrays, NaN)
                is written as `core.json_types.plain_dumps` says, and arrives as that. `${task_id}` or `${task_id.path.to.value}` in a text is
                replaced by the result of a dependency when the task starts; `$${` stands for a plain `${`.
            priority: 1 LOW to 4 URGENT; higher goes first, then age.
            tags: Up to 50 texts to find it by.
            timeout: Seconds one attempt may run, above 0, up to 7 days.
            expires_in: Seconds after which it may no longer start, above 0.
            depends_on: Ids (or tasks) that must be completed first, up to 10,000.
            max_retries: How often it runs again after a failure, 0 to 100: attempts after the first, where `call_with_retry`
                counts all of them (decision 0007).
            delay: Seconds before which it does not start.
            idempotency_key: A second publish with the same key, name and payload returns the first task.
            on_dependency_failure: "wait" (a retry of the dependency revives this task) or "cancel".

        Raises:
            InvalidArgument: a value cannot be used, or the key belongs to another task; nothing was stored.
            UnknownTask: `depends_on` names a task that is not there; nothing was stored.

        """
        said = Submission(
            name,
            payload,
            priority,
            tags,
            timeout,
            expires_in,
            depends_on,
            max_retries,
            delay,
            idempotency_key,
            on_dependency_failure,
        )
        now = self._clock.now()
        return self._store_tasks([new_task(said, self._draw_id(), now, check=self.handlers.check)], now)[0]

    def publish_many(self, tasks: Iterable[Mapping[str, object]]) -> list[Task]:
        """Store several tasks, each given as publish() arguments by name: all of them (up to 100,000) or, after an error, none."""
        now = self._clock.now()
        new: list[NewTask] = []
        for index, arguments in enumerate(tasks):
            what = f"Task {index}"
            try:
                new.append(new_task(from_arguments(arguments, what), self._draw_id(), now, check=self.handlers.check))
            except InvalidArgument as error:
                raise error if error.message.startswith(what) else _inside(what, error) from error
        return self._store_tasks(new, now)

    def publish_graph(self, tasks: Mapping[str, Mapping[str, object]]) -> dict[str, Task]:
        """Store tasks that depend on each other: all of them or, after an error, none.

        Each value is publish() arguments by name; `depends_on` and `${...}` references name local keys or ids of tasks that
        exist. Raises InvalidArgument naming the key, DependencyCycle, UnknownTask.
        """
        now = self._clock.now()
        said = {key: from_arguments(arguments, f"Task {key!r}") for key, arguments in tasks.items()}
        ids = {key: self._draw_id() for key in said}
        ordered = new_graph(said, ids, now, check=self.handlers.check)
        stored = self._store_tasks([task for _, task in ordered], now)
        by_key = dict(zip((key for key, _ in ordered), stored, strict=True))
        return {key: by_key[key] for key in tasks}

    def _store_tasks(self, new: Sequence[NewTask], now: float) -> list[Task]:
        if len(new) > LARGEST_GRAPH:  # one transaction: longer would keep the other processes from the database
            raise InvalidArgument(
                f"{len(new):,} tasks were given; at most {LARGEST_GRAPH:,} are stored at once.",
                "publish them in parts.",
            )
        refuse_while_imported("publishes a task")
        published = self.store.tasks.publish(new, now)
        created = [each.task_id for each in published if each.created]
        if created:
            log.debug("published %d task(s), first %s", len(created), created[0])
            self.wakeup.notify(created, origin=self)
        # A dependency that was there before, however far up, decides what a task is by now: only the store knows.
        foreseen: set[str] = set()
        created_at = datetime.fromtimestamp(now, UTC)
        stored = []
        for task, each in zip(new, published, strict=True):
            if each.created and foreseen.issuperset(task.depends_on):
                foreseen.add(each.task_id)
                stored.append(as_published(task, created_at))
            else:
                stored.append(self._existing(each.task_id))
        return stored

    def _read(self, task_ids: Sequence[str]) -> list[Task]:
        return [self._existing(task_id) for task_id in task_ids]

    # Changing

    def update_status(
        self,
        task_id: str,
        status: str | TaskStatus,
        result: object = None,
        error: str | None = None,
        *,
        worker: str = "manual",
        attempt: int | None = None,
        progress: float | None = None,
        progress_message: str | None = None,
    ) -> Task:
        """Say what became of a task, by hand or as the agent that claimed it.

        A task set to running (or acknowledged) is held for its timeout, or for an hour; said again it is held anew. An agent
        passes the `worker` name and the `attempt` it claimed under, so that a report that comes too late is refused.

        Raises:
            UnknownTask, InvalidArgument.
            InvalidTransition: its present status cannot become this one.
            LeaseLost: the task is no longer this worker's under this attempt.

        """
        said = status_report(
            self.get_task(task_id),
            parse_status(status),
            result,
            error,
            worker=worker,
            attempt=attempt,
            progress=progress,
            progress_message=progress_message,
        )
        return self._changed(self.store.tasks.report(said, self._clock.now()))

    def claim(
        self, worker: str, names: Collection[str] | None = None, limit: int = 1, lease: float = AGENT_LEASE
    ) -> list[Task]:
        """Take ready tasks to work on outside any runner; report with update_status before `lease` seconds are over.

        `names` are the tasks the worker can do, None for any. Each task comes back acknowledged; its `attempts` is the number
        to report under. `${...}` references are left in the payload: get_task gives the results.
        """
        check_limit(limit)
        refuse_while_imported("claims tasks")
        request = claim_request(worker, names, limit, lease)
        now = self._clock.now()
        self._bring_up_to_date(now)
        claims = self.store.tasks.exchange([], request, now).claims
        self.wakeup.notify([claim.task_id for claim in claims], work=False, origin=self)
        return self._read([claim.task_id for claim in claims])

    def retry_task(self, task_id: str) -> Task:
        """Put a failed, cancelled or expired task back into the queue with all its retries. Raises InvalidTransition."""
        return self._changed(self.store.tasks.retry(self._whole_id(task_id), self._clock.now()))

    def cancel_task(self, task_id: str, reason: str = "Cancelled by hand.") -> Task:
        """Cancel a task that has not ended; a running handler is told to stop. Raises UnknownTask, InvalidTransition."""
        return self._changed(self.store.tasks.cancel(self._whole_id(task_id), self._clock.now(), encodable(reason)))

    def cleanup_expired(self) -> int:
        """Mark every waiting task whose time to start is over as expired; returns how many."""
        now = self._clock.now()
        count, take_back = 0, self._patience.may_take_back()
        while True:
            done = self.store.tasks.maintain(now, POISON_LIMIT, take_back=take_back)
            count += done.expired
            if not (done.expired or done.interrupted or done.poisoned or done.promoted):
                break
        if count:
            self.wakeup.notify(origin=self)
        return count

    def purge(
        self,
        statuses: Iterable[str | TaskStatus] = tuple(FINAL),
        older_than: float = 0.0,
        *,
        dry_run: bool = False,
        batch: int = 1000,
    ) -> Purged:
        """Remove ended tasks (statuses that are final) that ended more than `older_than` seconds ago, for good.

        Tasks on which another that could still run depends are kept. `dry_run` only counts, and can count fewer than go: a parent
        is free to go once its child went in an earlier batch. Raises InvalidArgument.
        """
        chosen = {parse_status(status) for status in statuses}
        if not chosen <= FINAL:
            raise InvalidArgument("Only tasks that have ended can be purged.", f"use: {', '.join(sorted(FINAL))}.")
        if not older_than >= 0:
            raise InvalidArgument(f"older_than is {older_than!r} seconds.", "use 0 or more.")
        if batch < 1:
            raise InvalidArgument(f"The batch is {batch!r} tasks.", "remove 1 or more in one transaction.")
        before = self._clock.now() - older_than
        if dry_run:
            return self.store.tasks.purge(chosen, before, dry_run=True, limit=-1)
        tasks, attempts, by_status = 0, 0, dict[str, int]()
        while True:
            part = self.store.tasks.purge(chosen, before, dry_run=False, limit=batch)
            tasks, attempts = tasks + part.tasks, attempts + part.attempts
            for status, count in part.by_status.items():
                by_status[status] = by_status.get(status, 0) + count
            if part.tasks < batch:
                return Purged(tasks, attempts, by_status)

    def export(self, file: str | Path | IO[bytes]) -> int:
        """Write every task, with payload, result and attempts, as JSON Lines; returns how many."""
        return write_tasks(self.store.tasks, file, self._clock.now())

    def import_(self, file: str | Path | IO[bytes]) -> Imported:
        """Add the tasks of an export, or of the original program's JSON file, that are not there yet.

        They keep their ids, times, results and attempts; what was running waits again. What could not be carried over from the
        original's file is in `notes`. Raises InvalidArgument.
        """
        from core.cloud.queue.importing import import_file

        imported = import_file(self.store.tasks, file, self._clock.now())
        self.wakeup.notify(origin=self)
        return imported

    def _changed(self, task: Task) -> Task:
        self.wakeup.notify([task.task_id], origin=self)
        return task

    # Running by hand

    def register_handler(
        self,
        name: str,
        func: Callable[..., Any],
        *,
        isolation: Isolation = "thread",
        timeout: float | None = None,
        max_per_minute: int = 0,
        max_concurrency: int = 0,
        key: str = "",
    ) -> None:
        """Have tasks with this name run by `func(payload)` or `func(payload, context)`, `def` or `async def`.

        At most `max_per_minute` of them start in any 60 s and at most `max_concurrency` run at once, over all processes on the database;
        with `key`, a field of the payload, for each of its values by itself. See HandlerRegistry.register. With `isolation="process"` a child process imports the script or module of `func` for each
        attempt: what the script does must stand under `if __name__ == "__main__":`, and is refused there otherwise.
        """
        self.handlers.register_handler(
            name,
            func,
            isolation=isolation,
            timeout=timeout,
            max_per_minute=max_per_minute,
            max_concurrency=max_concurrency,
            key=key,
        )

    def execute_task(self, task: Task | str) -> Any:
        """Run one ready task here and now, in this thread; returns what its handler returns.

        The task is claimed, run and settled as a runner would do it: a failure uses up a retry and is raised.

        Raises:
            NoHandler, UnknownTask.
            InvalidTransition: the task is not ready, or somebody else runs it.
            LeaseLost: it was cancelled or taken away while it ran; its result counts for nothing.

        """
        refuse_while_imported("runs a task")
        task_id = task.task_id if isinstance(task, Task) else self._whole_id(task)
        self._bring_up_to_date(self._clock.now())
        run = ManualRun(self.store.tasks, self.handlers, worker=self.worker, clock=self._clock, rng=self._rng)
        try:
            return run.execute(self.get_task(task_id), why=self.why)
        finally:
            self.wakeup.notify([task_id], origin=self)

    # Waiting

    def wait(self, task_id: str, timeout: float = 45.0, *, poll: float = 0.5) -> Task:
        """Wait until the task has ended, at most `timeout` seconds; returns it as it then is (see `Task.done`)."""
        task_id = self._whole_id(task_id)
        changed = threading.Event()

        def heard(signal: Signal) -> None:
            if not signal.task_ids or task_id in signal.task_ids:
                changed.set()

        unsubscribe = self.wakeup.subscribe(heard)
        deadline = time.monotonic() + timeout
        try:
            while True:
                changed.clear()
                task = self._existing(task_id)
                remaining = deadline - time.monotonic()
                if task.done or remaining <= 0:
                    return task
                changed.wait(min(poll, remaining))
        finally:
            unsubscribe()

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback(task_id)` after a change, here or in another process; '' stands for many tasks. Returns what ends it.

        A hint, not a log: a change may be told twice or, by another process, not at all.
        """

        def tell(signal: Signal) -> None:
            for task_id in signal.task_ids or ("",):
                callback(task_id)

        return self.wakeup.subscribe(tell)

    # Closing

    def close(self) -> None:
        """Close what this publisher opened; a second call does nothing."""
        if self._owns_wakeup:
            self.wakeup.close()
        if self._owns_store:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _inside(what: str, error: InvalidArgument) -> InvalidArgument:
    return InvalidArgument(f"{what}: {error.message}", error.fix)
