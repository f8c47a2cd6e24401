"""A queue beside a naive model of it. Each method does one thing to both and checks that they agree.

What exactly is done is up to `choose(options)`, which hypothesis or a seeded generator answers.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.store import open_store
from core.cloud.store.base import ClaimRequest, Settlement, StatusReport
from core.cloud.task import FINAL, HELD, TRANSITIONS, AttemptOutcome, TaskStatus
from core.errors import InvalidTransition, LeaseLost

PENDING, RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
COMPLETED, FAILED, CANCELLED, EXPIRED = (
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
    TaskStatus.CANCELLED,
    TaskStatus.EXPIRED,
)
NAMES = ("fetch", "parse", "report")
ABILITIES = (NAMES, NAMES, NAMES, NAMES[:1], NAMES[1:], ())
WORKERS = ("w1", "w2", "w3")
ENDS = ("completed", "completed", "completed", "failed", "again", "interrupted")
LEASE = 30.0
POISON = 2

Choose = Callable[[Sequence[Any]], Any]


@dataclass
class Model:
    """A task as the dullest implementation would keep it."""

    task_id: str
    name: str
    priority: int
    order: int
    depends_on: list[str]
    cancels: bool
    run_at: float | None
    expires_at: float | None
    status: TaskStatus = PENDING
    due: bool = True
    """False while it waits for run_at and nobody has noticed that it has come."""
    attempt: int = 0
    free: int = 0
    interruptions: int = 0
    owner: str | None = None
    lease_until: float = 0.0
    outcomes: list[str] = field(default_factory=list)


class QueueWorld:
    def __init__(self) -> None:
        self.clock = ManualClock()
        ids = itertools.count(1)
        self.store = open_store(":memory:")
        self.publisher = EnhancedCloudTaskPublisher(
            store=self.store, clock=self.clock, draw_id=lambda: f"{next(ids):016x}"
        )
        self.model: dict[str, Model] = {}
        self.keys: dict[str, str] = {}
        self.claims: list[tuple[str, str, int]] = []
        """Every (worker, task, attempt) ever given out, the stale ones too."""

    def close(self) -> None:
        self.store.close()

    # What the model knows

    def blocked_by(self, task: Model) -> list[str]:
        return [each for each in dict.fromkeys(task.depends_on) if self.model[each].status is not COMPLETED]

    def startable(self, task: Model) -> bool:
        alive = task.expires_at is None or task.expires_at > self.clock.now()
        return task.status is PENDING and not self.blocked_by(task) and task.due and alive

    def make_pending(self, task: Model, run_at: float | None = None) -> None:
        task.status, task.owner = PENDING, None
        task.run_at = task.run_at if run_at is None else run_at
        task.due = task.run_at is None or task.run_at <= self.clock.now()

    def end(self, task: Model, status: TaskStatus, outcome: str = "") -> None:
        if task.owner is not None:
            task.outcomes.append(outcome or {COMPLETED: "completed", FAILED: "failed"}.get(status, "cancelled"))
        task.status, task.owner = status, None
        for child in self.model.values():
            if task.task_id not in child.depends_on or child.status is not PENDING:
                continue
            if status is not COMPLETED and child.cancels:
                self.end(child, CANCELLED)
            elif status is COMPLETED and not self.blocked_by(child):
                self.make_pending(child)

    def begin(self, task: Model, worker: str, status: TaskStatus) -> None:
        task.attempt += 1
        task.status, task.owner, task.lease_until = status, worker, self.clock.now() + LEASE
        self.claims.append((worker, task.task_id, task.attempt))

    def revive(self, task: Model) -> None:
        task.free, task.interruptions, task.run_at = task.attempt, 0, None
        if task.expires_at is not None and task.expires_at <= self.clock.now():
            task.expires_at = None
        self.make_pending(task)

    def give_back(self, task: Model) -> None:
        task.outcomes.append("interrupted")
        task.free += 1
        task.status, task.owner, task.due = PENDING, None, True

    def remember(
        self,
        task_id: str,
        name: str,
        priority: int = 2,
        depends_on: Sequence[str] = (),
        cancels: bool = False,
        delay: float = 0,
        expires_in: float = 0,
    ) -> None:
        now = self.clock.now()
        run_at, expires_at = (now + delay if delay else None), (now + expires_in if expires_in else None)
        task = Model(task_id, name, priority, len(self.model), list(depends_on), cancels, run_at, expires_at)
        self.model[task_id] = task
        self.make_pending(task)
        if cancels and any(self.model[each].status in FINAL - {COMPLETED} for each in depends_on):
            task.status = CANCELLED

    # What users do

    def publish(self, choose: Choose) -> None:
        name, priority, cancels = choose(NAMES), choose([1, 2, 3, 4]), choose([False, True])
        delay, expires_in, key = choose([0, 0, 0, 5, 20]), choose([0, 0, 5, 20]), choose([None, None, "k1", "k2"])
        depends_on = [choose(list(self.model)) for _ in range(choose([0, 0, 1, 2, 3]))] if self.model else []
        published = self.publisher.publish(
            name,
            {"key": key},
            priority,
            depends_on=depends_on,
            on_dependency_failure="cancel" if cancels else "wait",
            delay=delay,
            expires_in=expires_in or None,
            idempotency_key=key and f"{key}-{name}",
        )
        first = self.keys.setdefault(f"{key}-{name}", published.task_id) if key else published.task_id
        assert published.task_id == first
        if published.task_id not in self.model:
            self.remember(published.task_id, name, priority, depends_on, cancels, delay, expires_in)

    def publish_graph(self, choose: Choose) -> None:
        parents = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
        cancels = {key: choose([False, True]) for key in parents}
        outside = [choose(list(self.model))] if self.model and choose([False, True]) else []
        published = self.publisher.publish_graph(
            {
                key: {
                    "name": NAMES[index % 3],
                    "depends_on": parents[key] + (outside if key == "a" else []),
                    "on_dependency_failure": "cancel" if cancels[key] else "wait",
                }
                for index, key in enumerate(parents)
            }
        )
        for index, (key, task) in enumerate(published.items()):
            depends_on = [published[each].task_id for each in parents[key]] + (outside if key == "a" else [])
            self.remember(task.task_id, NAMES[index % 3], 2, depends_on, cancels[key])

    def cancel(self, choose: Choose) -> None:
        task = self.model[choose(list(self.model))]
        allowed = task.status not in FINAL
        assert accepted(lambda: self.publisher.cancel_task(task.task_id)) == allowed
        if allowed:
            self.end(task, CANCELLED)

    def retry(self, choose: Choose) -> None:
        task = self.model[choose(list(self.model))]
        allowed = task.status in FINAL - {COMPLETED}
        assert accepted(lambda: self.publisher.retry_task(task.task_id)) == allowed
        if allowed:
            self.revive(task)

    def report(self, choose: Choose) -> None:
        now = self.clock.now()
        status, worker, task_id, attempt = choose(list(TaskStatus)), choose(WORKERS), choose(list(self.model)), None
        if self.claims and choose([False, True]):
            worker, task_id, attempt = choose(self.claims)
        task = self.model[task_id]
        said = StatusReport(task_id, status, worker, attempt, result="1" if status is COMPLETED else None, lease=LEASE)
        if attempt is not None and (task.owner, task.attempt) != (worker, attempt):
            allowed = False
        elif status in HELD and task.owner == worker:
            allowed = status in (task.status, RUNNING)
        else:
            startable = not (status in HELD and (task.owner is not None or self.blocked_by(task)))
            allowed = status in TRANSITIONS[task.status] and startable
        assert accepted(lambda: self.store.tasks.report(said, now)) == allowed
        if not allowed:
            return
        if status in HELD and task.owner == worker:
            task.status, task.lease_until = status, max(task.lease_until, now + LEASE)
        elif status in HELD:
            self.begin(task, worker, status)
        elif status is PENDING and task.status in FINAL:
            self.revive(task)
        elif status is PENDING:
            self.give_back(task)
        else:
            self.end(task, status)

    # What workers do

    def claim(self, choose: Choose) -> None:
        self.exchange([], choose(WORKERS), choose(ABILITIES), choose([1, 2, 3]))

    def settle_what_is_held(self, choose: Choose) -> None:
        held = [task for task in self.model.values() if task.owner]
        if held:
            worker = choose(sorted({task.owner for task in held}))
            mine = [(worker, task.task_id, task.attempt, choose(ENDS)) for task in held if task.owner == worker]
            self.exchange(mine, worker, choose(ABILITIES), choose([1, 2, 3]))

    def settle_what_was_ever_held(self, choose: Choose) -> None:
        if self.claims:
            ends = [(*choose(self.claims), choose(ENDS)) for _ in range(choose([1, 2]))]
            self.exchange(ends, ends[0][0], choose(ABILITIES), 1)

    def exchange(
        self, ends: Sequence[tuple[str, str, int, str]], worker: str, names: Sequence[str], limit: int
    ) -> None:
        now = self.clock.now()
        settlements, refused = [], []
        for holder, task_id, attempt, end in ends:
            task = self.model[task_id]
            status = {"completed": COMPLETED, "failed": FAILED}.get(end, PENDING)
            outcome = AttemptOutcome("failed" if end == "again" else end)
            run_at = now + 10 if end == "again" else None
            result = '"ok"' if status is COMPLETED else None
            said = Settlement(task_id, attempt, holder, outcome, status, result, None, run_at)
            settlements.append(said)
            if (task.owner, task.attempt) != (holder, attempt):
                refused.append(said)
            elif status is PENDING:
                task.outcomes.append(outcome.value)
                task.free += end == "interrupted"
                self.make_pending(task, run_at)
                task.due = run_at is None
            else:
                self.end(task, status, outcome.value)
        ready = [each for each in self.model.values() if each.name in names and self.startable(each)]
        expected = sorted(ready, key=lambda each: (-each.priority, each.order))[:limit]
        done = self.store.tasks.exchange(settlements, ClaimRequest(worker, names, limit, LEASE), now)
        assert done.refused == refused
        assert [(c.task_id, c.attempt, c.interruptions) for c in done.claims] == [
            (each.task_id, each.attempt + 1, each.free + each.interruptions) for each in expected
        ]
        for each in expected:
            self.begin(each, worker, RUNNING)

    def renew(self, choose: Choose) -> None:
        worker = choose(WORKERS)
        held = [(task_id, attempt) for holder, task_id, attempt in self.claims if holder == worker]
        lost = self.store.tasks.renew(worker, held, LEASE, self.clock.now())
        for task_id, attempt in held:
            task = self.model[task_id]
            kept = (task.owner, task.attempt) == (worker, attempt)
            assert ((task_id, attempt) in lost) != kept
            if kept:
                task.lease_until = max(task.lease_until, self.clock.now() + LEASE)

    def release(self, choose: Choose) -> None:
        worker = choose(WORKERS)
        held = [task for task in self.model.values() if task.owner == worker]
        assert self.store.tasks.release(worker, self.clock.now()) == len(held)
        for task in held:
            self.give_back(task)

    # What time does

    def wait(self, choose: Choose) -> None:
        self.clock.advance(choose([1.0, 10.0, 31.0]))

    def maintain(self, choose: Choose) -> None:
        now = self.clock.now()
        done = self.store.tasks.maintain(now, POISON)
        tasks = list(self.model.values())
        cancelled = sum(task.status is CANCELLED for task in tasks)
        expired = [t for t in tasks if t.status is PENDING and t.expires_at is not None and t.expires_at <= now]
        # All of them expire in one statement before any dependent follows.
        for task in expired:
            task.status = EXPIRED
        for task in expired:
            self.end(task, EXPIRED)
        lost = [t for t in tasks if t.owner is not None and t.lease_until <= now]
        poisoned = []
        for task in lost:
            task.interruptions += 1
            task.outcomes.append("interrupted")
            task.owner = None
            if task.interruptions > POISON:
                poisoned.append(task)
                task.status = FAILED
            else:
                task.status, task.due = PENDING, True
        for task in poisoned:
            self.end(task, FAILED)
        for task in tasks:
            if task.status is PENDING and not self.blocked_by(task):
                task.due = task.due or task.run_at is None or task.run_at <= now
        assert (done.expired, done.poisoned) == (len(expired), len(poisoned))
        assert done.interrupted == len(lost) - len(poisoned)
        assert done.cancelled == sum(task.status is CANCELLED for task in tasks) - cancelled

    # What must be true after each step

    def check(self) -> None:
        for task_id, expected in self.model.items():
            task = self.store.tasks.get(task_id)
            assert task is not None
            assert task.status is expected.status, task_id
            assert list(task.blocked_by) == self.blocked_by(expected), task_id
            assert (task.attempts, task.interruptions) == (expected.attempt, expected.interruptions), task_id
            assert task.worker == expected.owner, task_id
            assert (task.completed_at is not None) == (expected.status in FINAL), task_id
            running = ["running"] if expected.owner else []
            assert [each.outcome.value for each in self.store.tasks.attempts(task_id)] == expected.outcomes + running
        self.check_counters()

    def check_counters(self) -> None:
        stats = self.store.tasks.stats()
        tasks = self.model.values()
        for status in TaskStatus:
            assert stats.by_status[status] == sum(task.status is status for task in tasks)
        pending = [task for task in tasks if task.status is PENDING]
        assert stats.blocked == sum(bool(self.blocked_by(task)) for task in pending)
        assert stats.later == sum(not self.blocked_by(task) and not task.due for task in pending)
        assert stats.ready + stats.later + stats.blocked == len(pending)


def accepted(action: Callable[[], object]) -> bool:
    try:
        action()
    except (InvalidTransition, LeaseLost):
        return False
    return True
