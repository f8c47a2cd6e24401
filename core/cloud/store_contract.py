"""What a store promises. Everything above it (publisher, runner, pool, scheduler) knows only this file.

A store is thread-safe and synchronous; async callers use a worker thread. Times are UTC epoch seconds passed in by the
caller (`now`), so tests own the clock. Each method is one transaction: it happens whole or not at all. Every method may
raise a StoreError. Values cross this boundary as JSON text (payload, result), so that no store needs to know their shape.

`tests/store/` is the one conformance suite; another store joins it by one fixture.
"""

import builtins
import math
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from core.cloud.gate import Closed, Gate, Grant
from core.cloud.handler_limits import HandlerLimits
from core.cloud.task import Attempt, AttemptOutcome, OnDependencyFailure, Task, TaskStatus
from core.json_types import Json


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class NewTask:
    """A task to insert, checked and with its id drawn."""

    task_id: str
    name: str
    payload: str
    """JSON text."""
    capability: str
    """What a process must have to run it: the handler's name, or `ai_call@ENDPOINT` for one endpoint only."""
    priority: int = 2
    tags: tuple[str, ...] = ()
    """Each once."""
    depends_on: tuple[str, ...] = ()
    """Ids of tasks in the store or earlier in the same batch."""
    on_dependency_failure: OnDependencyFailure = OnDependencyFailure.WAIT
    timeout: float | None = None
    max_retries: int = 3
    run_at: float | None = None
    expires_at: float | None = None
    idempotency_key: str | None = None


class PublishedTask(NamedTuple):
    """What became of one NewTask."""

    task_id: str
    """The id it has: an earlier task's when the idempotency key was known."""
    created: bool


@dataclass(frozen=True, slots=True)
class RestoredTask:
    """A task from an export, as it was: with its times, its attempts and its end."""

    task: NewTask
    """`run_at` and `expires_at` are those below."""
    status: TaskStatus
    """A final status, or PENDING; one that was held when exported is PENDING."""
    created_at: float
    run_at: float | None
    expires_at: float | None
    started_at: float | None
    ended_at: float | None
    """With a final status only."""
    attempts: tuple[Attempt, ...]
    """All of them ended."""
    interruptions: int
    result: str | None
    """JSON text, with COMPLETED or (what was kept of a large one) FAILED."""
    error: str | None


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which tasks to list: URGENT first, then oldest; all conditions must hold."""

    status: TaskStatus | None = None
    name: str | None = None
    priority_min: int | None = None
    tags: tuple[str, ...] = ()
    """All of these."""
    ready: bool = False
    """Only tasks that could start now."""
    newest_first: bool = False
    """By age alone, newest first, instead of by priority."""
    limit: int = 100
    cursor: str = ""
    """`next_cursor` of the page before."""


@dataclass(frozen=True, slots=True)
class Page:
    """Tasks in the order asked for; `next_cursor` is '' on the last page."""

    tasks: list[Task]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Which ready tasks a worker can take."""

    worker: str
    capabilities: Collection[str] | None
    """Only tasks with one of these; None for an agent that can do anything."""
    limit: int
    lease: float
    """Seconds until an unrenewed claim is given back."""
    status: TaskStatus = TaskStatus.RUNNING
    """RUNNING for a runner, ACKNOWLEDGED for an agent that will report by itself."""
    task_id: str | None = None
    """Only this task (it must be ready); `capabilities` is then ignored."""
    ageing: float | None = None
    """Seconds of waiting that count as much as one step of priority; None for priority first, whatever the wait."""
    suspects: int | None = None
    """0 or 1: how many tasks to claim whose workers died SUSPECT_AFTER times or more; None for any number."""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    """The capabilities whose tasks have to pass limits: none of them is claimed without a grant."""
    limited: Collection[str] = ()
    """Those of `capabilities` that may have limits (see `TaskStore.set_limits`): their tasks start as far as these let them."""
    granted: int | None = None
    """How many tasks with gates or limits to claim at most; None for `limit`."""
    resolve: Callable[[Json, Mapping[str, Json]], Json] | None = None
    """Fills results, by task id, into what a payload has in the field that limits go by; raises HeablcoinError for what leads nowhere."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class Claim:
    """A task now held by a worker. Lean, because the runner's speed depends on it."""

    task_id: str
    attempt: int
    """Fencing token: a finish by this attempt is refused once another holds the task."""
    name: str
    payload: str
    priority: int
    timeout: float | None
    max_retries: int
    interruptions: int
    """Earlier attempts that use up no retry: cut off, given back, or before a retry by hand."""
    depends_on: tuple[str, ...]
    """Ids whose results the payload may refer to; () for most tasks."""
    suspect: bool = False
    """True when its worker died SUSPECT_AFTER times or more."""
    grant: Grant | None = None
    """What its gate took for it, when it has one."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class Settlement:
    """How an attempt ended and what the task becomes: COMPLETED, FAILED, CANCELLED, or PENDING to run again."""

    task_id: str
    attempt: int
    worker: str
    outcome: AttemptOutcome
    status: TaskStatus
    result: str | None = None
    """JSON text, with COMPLETED; with FAILED the start of a result that was too large, as a JSON text."""
    error: str | None = None
    run_at: float | None = None
    """With PENDING: not before this moment."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What one exchange did."""

    claims: list[Claim]
    refused: list[Settlement]
    """Settlements whose worker no longer held the task; recorded nowhere but in the log."""
    opens_in: float = math.inf
    """Seconds until one of the gates may open before which ready tasks wait."""


@dataclass(frozen=True, slots=True)
class StatusReport:
    """A status set by hand or by an agent, from outside the runner."""

    task_id: str
    status: TaskStatus
    worker: str
    """Who says so."""
    attempt: int | None = None
    """Fencing token from a claim; None skips the fence (the owner's own word)."""
    result: str | None = None
    error: str | None = None
    lease: float = 3600.0
    """Seconds the task is held when the status is ACKNOWLEDGED or RUNNING."""
    progress: float | None = None
    progress_message: str | None = None


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Counters; reading them scans nothing."""

    by_status: Mapping[TaskStatus, int]
    by_priority: Mapping[int, int]
    ready: int
    """Pending tasks that could start now."""
    blocked: int
    """Pending tasks that wait for another."""
    later: int
    """Pending tasks whose time has not come."""
    completed_seconds: float
    """Sum over completed tasks of the seconds from start to completion."""
    completed_count: int
    """How many completed tasks that sum is over."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a store knows about why a task is not running; `why` puts it in words."""

    task: Task
    unfinished: list[tuple[str, TaskStatus]]
    """Dependencies that are not completed."""
    able_workers: int
    """Live workers that have its capability."""
    ahead: int
    """Ready tasks that go before it, counted up to 1,000."""
    before: int
    """Those of them that want the same as it (the same handler, and the same endpoint or any), counted up to 100,000."""
    capability: str
    """What a process must have to run it."""
    closed: Closed | None = None
    """The limit of its handler that it waits for."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A process that runs tasks."""

    worker: str
    pid: int
    host: str
    wake_port: int
    """Loopback UDP port on which it wants to be woken; 0 for none."""
    capabilities: tuple[str, ...]
    started_at: float
    seen_at: float


@dataclass(frozen=True, slots=True)
class Maintained:
    """What one round of upkeep changed."""

    expired: int = 0
    interrupted: int = 0
    """Lost leases whose tasks went back to pending."""
    poisoned: int = 0
    """Lost leases whose tasks failed: cut off too often."""
    promoted: int = 0
    """Tasks whose run_at came."""
    cancelled: int = 0
    """Dependents cancelled because of one of the above."""


@dataclass(frozen=True, slots=True)
class Purged:
    """Rows a purge removed, or would remove."""

    tasks: int = 0
    attempts: int = 0
    by_status: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PutBack:
    """A retry that was set by a clock that was ahead: when it was to be, and when it is to be now."""

    task_id: str
    was: float
    due: float


class TaskStore(Protocol):
    """Tasks, their graph, their attempts."""

    def publish(self, tasks: Sequence[NewTask], now: float) -> builtins.list[PublishedTask]:
        """Insert all or nothing. Raises UnknownTask for a dependency that is neither stored nor earlier in `tasks`.

        A known idempotency key returns the earlier task and inserts nothing for that entry; later entries that depend on
        the entry's id then depend on the earlier task. A task whose dependency already failed, expired or was cancelled
        follows its `on_dependency_failure` at once.
        """
        ...

    def get(self, task_id: str) -> Task | None: ...

    def resolve_id(self, prefix: str) -> str | None:
        """The one task id that starts with `prefix`; None when there is none or more than one."""
        ...

    def newest_ids(self, limit: int) -> builtins.list[str]: ...

    def attempts(self, task_id: str) -> builtins.list[Attempt]: ...

    def results(self, task_ids: Sequence[str]) -> dict[str, str]:
        """JSON results of those that are completed."""
        ...

    def list(self, query: TaskQuery, now: float) -> Page: ...

    def stats(self) -> QueueCounts: ...

    def situation(self, task_id: str, now: float) -> Situation | None: ...

    def ready_by_capability(self, name: str) -> dict[str, int]:
        """How many ready tasks of the handler `name` there are, by capability; those that have none are left out."""
        ...

    def exchange(self, settlements: Sequence[Settlement], request: ClaimRequest | None, now: float) -> Exchanged:
        """Settle attempts, free or cancel their dependents, then claim ready tasks: one transaction."""
        ...

    def set_limits(self, limits: Mapping[str, HandlerLimits], now: float) -> None:
        """The limits of these handlers from now on, for every claim that names them as `limited`; none lifts what there was.

        A task that has to wait stays as it is. Starts are counted per value of the limits' key, and outlive a change; what is held
        counts as running, whoever holds it, until its lease is taken back.
        """
        ...

    def waiting_for_limits(self, now: float) -> builtins.list[tuple[Closed, int]]:
        """The limits of handlers that ready tasks wait for, and how many do; where a key has many values, most of them together."""
        ...

    def limits(self) -> dict[str, HandlerLimits]:
        """The limits that count now, by handler."""
        ...

    def renew(
        self, worker: str, held: Sequence[tuple[str, int]], lease: float, now: float
    ) -> builtins.list[tuple[str, int]]:
        """Extend the leases; returns those that are no longer the worker's (cancelled or taken)."""
        ...

    def progress(self, task_id: str, attempt: int, worker: str, share: float | None, message: str) -> bool:
        """Note progress; False when the task is no longer the worker's."""
        ...

    def report(self, report: StatusReport, now: float) -> Task:
        """Set a status from outside the runner, checked against the transition table and the fence."""
        ...

    def cancel(self, task_id: str, now: float, reason: str) -> Task:
        """Cancel a task that is not final; its dependents follow their `on_dependency_failure`.

        A running task is cancelled at once here; its worker learns it at the next wake-up or renewal. Raises UnknownTask,
        InvalidTransition.
        """
        ...

    def retry(self, task_id: str, now: float) -> Task:
        """Put a failed, cancelled or expired task back to pending with its retries anew and no expiry in the past."""
        ...

    def release(self, worker: str, now: float) -> int:
        """Give back all that `worker` holds: attempts end as interrupted and are free. Returns how many."""
        ...

    def maintain(self, now: float, poison_limit: int, limit: int = 500, *, take_back: bool = True) -> Maintained:
        """One bounded round: expire, take back lost leases, promote what is due. Safe in several processes at once.

        Before a lease is taken back, those who hold tasks in this process renew (see `on_take_back`). `take_back=False`
        leaves leases alone.
        """
        ...

    def on_take_back(self, renew: Callable[[], object]) -> Callable[[], object]:
        """Have `renew` called before `maintain` takes leases back here; returns what ends that.

        So a process never takes back from itself what it still runs, whatever the clocks say. `renew` may raise a
        StoreError: then nothing is taken back.
        """
        ...

    def next_due(self, *, take_back: bool = True) -> float | None:
        """The earliest moment at which `maintain` will have something to do."""
        ...

    def put_retries_back(self, now: float, limit: int = 500) -> builtins.list[PutBack]:
        """Set anew, up to `limit` at a time, the retries whose last attempt ended later than now: the clock was put back.

        Each gets its whole wait from `now` on. The start that a publisher asked for is not touched.
        """
        ...

    def everything(self, batch: int) -> Generator[builtins.list[tuple[Task, builtins.list[Attempt]]]]:
        """Every task with its attempts in the order of publication, up to `batch` at a time, all of one moment.

        The generator holds on to that moment until it ends or is closed.
        """
        ...

    def restore(self, tasks: Iterable[RestoredTask], now: float) -> builtins.list[PublishedTask]:
        """Insert tasks of an export, all or nothing; one that is there already, and the same, is left as it is.

        A task that has not ended has all its retries again. Raises InvalidArgument for an id or idempotency key that
        another task has, UnknownTask for a dependency that is neither stored nor earlier in `tasks`.
        """
        ...

    def purge(self, statuses: Collection[TaskStatus], older_than: float, *, dry_run: bool, limit: int) -> Purged:
        """Remove final tasks that ended before `older_than` and that no unfinished task depends on."""
        ...


class WorkerStore(Protocol):
    """Live processes, and the one that does the upkeep."""

    def register(self, info: WorkerInfo) -> None:
        """Insert or refresh."""
        ...

    def forget(self, worker: str) -> None: ...

    def alive(self, since: float) -> list[WorkerInfo]:
        """Workers seen at or after `since`."""
        ...

    def lead(self, duty: str, worker: str, ttl: float, now: float) -> bool:
        """True while `worker` holds `duty`: taken when free or its holder's time ran out, renewed when already held."""
        ...

    def resign(self, duty: str, worker: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A durable schedule: which task to publish when."""

    name: str
    task: str
    """JSON object of publish() arguments."""
    every: float | None
    """Seconds between runs, or None with `cron`."""
    cron: str | None
    timezone: str
    """IANA name in which `cron` is read."""
    missed: str
    """`skip`, `once` or `all`: what to do about runs that were due while no process was there."""
    enabled: bool
    next_run: float | None
    """None when it is switched off."""
    last_run: float | None
    last_task_id: str | None
    created_at: float
    """When it was added, or last given other times; periods are counted from then."""
    runs: int
    rewinds: int = 0
    """How often its next run was pulled in, because the clock had been ahead."""


class ScheduleStore(Protocol):
    """Schedules that survive restarts and fire once whatever the number of processes."""

    def add(self, record: ScheduleRecord) -> bool:
        """Insert; False, and nothing done, when the name is taken (`fire` without tasks replaces)."""
        ...

    def get(self, name: str) -> ScheduleRecord | None: ...

    def list(self) -> builtins.list[ScheduleRecord]: ...

    def remove(self, name: str) -> bool: ...

    def due(self, now: float) -> builtins.list[ScheduleRecord]:
        """Enabled schedules whose next_run is at or before `now`."""
        ...

    def next_run(self) -> float | None:
        """The earliest next_run of an enabled schedule."""
        ...

    def fire(
        self, before: ScheduleRecord, after: ScheduleRecord, tasks: Sequence[NewTask], now: float
    ) -> builtins.list[str] | None:
        """Publish `tasks` and replace `before` by `after` (same name) in one transaction; returns the ids of the tasks.

        The last of them becomes `last_task_id`. None, and nothing done, when the stored row is no longer `before`: another
        process came first.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """What `doctor` shows about a store."""

    kind: str
    location: str
    library: str
    schema_version: int
    bytes: int
    sound: bool
    detail: str


class Store(Protocol):
    """The parts of one store, over one database."""

    @property
    def tasks(self) -> TaskStore: ...

    @property
    def workers(self) -> WorkerStore: ...

    @property
    def schedules(self) -> ScheduleStore: ...

    @property
    def location(self) -> str: ...

    def health(self) -> StoreHealth: ...

    def close(self) -> None: ...
