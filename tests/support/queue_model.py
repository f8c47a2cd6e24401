"""The dullest queue there could be: tasks in a dictionary, looked through from end to end for every question.

It knows what the documents promise and nothing of how the project keeps it: no counters, indexes, rounds of claims or SQL.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.cloud.task import FINAL, TaskStatus

PENDING, RUNNING, ACKNOWLEDGED = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.ACKNOWLEDGED
COMPLETED, FAILED, CANCELLED, EXPIRED = (
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
    TaskStatus.CANCELLED,
    TaskStatus.EXPIRED,
)
LOST = FINAL - {COMPLETED}
POISON = 2
JITTER = 0.5
"""What every random share is in these worlds."""
LATER = 7.0
"""Seconds that a handler asks for with RetryLater."""


class Hole(Exception):
    """A payload refers to what its dependency's result does not have."""


@dataclass(eq=False)
class ModelTask:
    task_id: str
    name: str
    order: int
    payload: Any
    reads: tuple[str, str] | None
    """How its payload refers to a dependency, and to which."""
    priority: int
    depends_on: list[str]
    cancels: bool
    timeout: float | None
    max_retries: int
    run_at: float | None
    expires_at: float | None
    key: str | None
    status: TaskStatus = PENDING
    due: bool = True
    """False while it waits for run_at and nobody has noticed that it has come."""
    attempt: int = 0
    failures: int = 0
    """Attempts that used up a retry."""
    interruptions: int = 0
    owner: str | None = None
    lease_until: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    outcomes: list[str] = field(default_factory=list)
    result: Any = None
    progress: float | None = None

    def held_by(self, worker: str, attempt: int) -> bool:
        return (self.owner, self.attempt) == (worker, attempt)


class Ending(NamedTuple):
    """How an attempt ended, before anybody has written it down."""

    task: ModelTask
    attempt: int
    outcome: str
    status: TaskStatus
    run_at: float | None = None
    result: Any = None


class NaiveQueue:
    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.tasks: dict[str, ModelTask] = {}
        self._orders = itertools.count()

    # Questions

    def all(self) -> list[ModelTask]:
        """URGENT first, then oldest."""
        return sorted(self.tasks.values(), key=lambda each: (-each.priority, each.order))

    def of_status(self, *statuses: TaskStatus) -> list[ModelTask]:
        return [each for each in self.tasks.values() if each.status in statuses]

    def overripe(self) -> list[ModelTask]:
        """Pending, though their time to start is over."""
        pending = self.of_status(PENDING)
        return [each for each in pending if each.expires_at is not None and each.expires_at <= self.now()]

    def blocked_by(self, task: ModelTask) -> list[str]:
        return [each for each in task.depends_on if self.tasks[each].status is not COMPLETED]

    def startable(self, task: ModelTask) -> bool:
        alive = task.expires_at is None or task.expires_at > self.now()
        return task.status is PENDING and task.due and alive and not self.blocked_by(task)

    def ready(self, names: Iterable[str] | None = None) -> list[ModelTask]:
        return [each for each in self.all() if self.startable(each) and (names is None or each.name in names)]

    def ready_for(self, names: Iterable[str], room: int, *, suspect_runs: bool) -> list[ModelTask]:
        """What a process takes: of the tasks whose workers died twice one at a time."""
        taken: list[ModelTask] = []
        for task in self.ready(names):
            if task.interruptions >= 2:
                if suspect_runs:
                    continue
                suspect_runs = True
            taken.append(task)
        return taken[:room]

    def with_key(self, key: str | None) -> ModelTask | None:
        return next((each for each in self.tasks.values() if key is not None and each.key == key), None)

    def input_of(self, task: ModelTask) -> Any:
        """What its handler is given."""
        if task.reads is None:
            return task.payload
        form, parent = task.reads
        value = self.tasks[parent].result
        if form == "whole":
            return {"in": value}
        if form == "hole" or not isinstance(value, dict) or "n" not in value:
            raise Hole
        return {"in": value["n"] if form == "field" else f"<{value['n']}>"}

    # Publishing and changing

    def publish(self, task_id: str, **said: Any) -> None:
        task = ModelTask(task_id, order=next(self._orders), **said)
        self.tasks[task_id] = task
        self.make_pending(task)
        if task.cancels and any(self.tasks[each].status in LOST for each in task.depends_on):
            task.status, task.ended_at = CANCELLED, self.now()

    def make_pending(self, task: ModelTask) -> None:
        task.status, task.owner, task.ended_at = PENDING, None, None
        task.due = task.run_at is None or task.run_at <= self.now()

    def begin(self, task: ModelTask, worker: str, status: TaskStatus, lease: float) -> None:
        assert task.owner is None, "claimed while somebody holds it"
        assert not self.blocked_by(task), "started before its dependencies completed"
        task.attempt += 1
        task.status, task.owner, task.progress = status, worker, None
        task.started_at, task.lease_until = self.now(), self.now() + lease

    def end(self, task: ModelTask, status: TaskStatus, outcome: str = "", result: Any = None) -> None:
        if task.owner is not None:
            task.outcomes.append(outcome or {COMPLETED: "completed", FAILED: "failed"}.get(status, "cancelled"))
        task.status, task.owner, task.ended_at, task.result = status, None, self.now(), result
        self.tell_children(task)

    def tell_children(self, task: ModelTask) -> None:
        for child in self.tasks.values():
            if task.task_id not in child.depends_on or child.status is not PENDING:
                continue
            if task.status is not COMPLETED and child.cancels:
                self.end(child, CANCELLED)
            elif task.status is COMPLETED and not self.blocked_by(child):
                self.make_pending(child)

    def give_back(self, task: ModelTask) -> None:
        """In good order: costs nothing, and the task may start at once."""
        task.outcomes.append("interrupted")
        task.status, task.owner, task.due = PENDING, None, True

    def revive(self, task: ModelTask) -> None:
        task.failures, task.interruptions, task.run_at = 0, 0, None
        if task.expires_at is not None and task.expires_at <= self.now():
            task.expires_at = None
        self.make_pending(task)

    # What becomes of attempts

    def failure(self, task: ModelTask, attempt: int, kind: str) -> Ending:
        """`kind`: raises, later, permanent or timed_out."""
        outcome = "timed_out" if kind == "timed_out" else "failed"
        if kind == "permanent" or task.failures >= task.max_retries:
            return Ending(task, attempt, outcome, FAILED)
        wait = LATER if kind == "later" else min(300.0, 2.0**task.failures) * JITTER
        return Ending(task, attempt, outcome, PENDING, self.now() + wait)

    def settle(self, ending: Ending, worker: str) -> bool:
        task = ending.task
        if not task.held_by(worker, ending.attempt):
            return False
        if ending.status is not PENDING:
            self.end(task, ending.status, ending.outcome, ending.result)
        elif ending.outcome == "interrupted":
            self.give_back(task)
        else:
            task.outcomes.append(ending.outcome)
            task.failures += 1
            task.run_at = ending.run_at
            self.make_pending(task)
        return True

    # What time does

    def something_due(self, at: float) -> bool:
        for task in self.tasks.values():
            moments = [task.lease_until] if task.owner is not None else []
            if task.status is PENDING:
                moments += [task.expires_at] if task.expires_at is not None else []
                moments += [task.run_at] if not task.due and not self.blocked_by(task) else []
            if any(moment <= at for moment in moments):
                return True
        return False

    def leases_are_over(self) -> bool:
        return any(task.owner is not None and task.lease_until <= self.now() for task in self.tasks.values())

    def tidy(self) -> int:
        """One round of upkeep; returns how many expired."""
        now, tasks = self.now(), list(self.tasks.values())
        expired = [t for t in tasks if t.status is PENDING and t.expires_at is not None and t.expires_at <= now]
        # All of them expire before any dependent follows.
        for task in expired:
            task.status = EXPIRED
        for task in expired:
            self.end(task, EXPIRED)
        cut_off = [task for task in tasks if task.owner is not None and task.lease_until <= now]
        held = [task.owner for task in tasks if task.owner is not None]
        for task in cut_off:
            alone = held.count(task.owner) == 1
            self.give_back(task)
            task.interruptions += 1
            if task.interruptions > (POISON if alone else 2 * POISON):
                task.status = FAILED
        for task in cut_off:
            if task.status is FAILED:
                self.end(task, FAILED)
        for task in tasks:
            if task.status is PENDING and not self.blocked_by(task):
                task.due = task.due or task.run_at is None or task.run_at <= now
        return len(expired)

    def tidy_up(self) -> int:
        """Rounds until nothing is left."""
        count = 0
        while self.something_due(self.now()):
            count += self.tidy()
        return count

    def purge(self, statuses: Sequence[TaskStatus], older_than: float, batch: int, *, dry_run: bool) -> list[ModelTask]:
        """Removes ended tasks, except those that an unfinished or failed one depends on; returns them."""
        removed: list[ModelTask] = []
        while True:
            wanted = {each for task in self.tasks.values() if task.status is not COMPLETED for each in task.depends_on}
            old = [
                task
                for task in self.tasks.values()
                if task.status in statuses and task.ended_at < self.now() - older_than and task.task_id not in wanted
            ]
            if dry_run:
                return old
            part = sorted(old, key=lambda task: task.ended_at)[:batch]
            for task in part:
                del self.tasks[task.task_id]
                for child in self.tasks.values():
                    child.depends_on = [each for each in child.depends_on if each != task.task_id]
            removed += part
            if len(part) < batch:
                return removed

    def move_house(self) -> None:
        """Everything exported and brought into an empty database: what was held waits again, with all its retries."""
        for order, task in enumerate(sorted(self.tasks.values(), key=lambda each: each.order)):
            task.order = order
            if task.owner is not None:
                task.outcomes.append("interrupted")
            if task.status not in FINAL:
                self.make_pending(task)
            task.failures, task.progress = 0, None
        self._orders = itertools.count(len(self.tasks))
