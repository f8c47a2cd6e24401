"""One suite for every store. Another joins by a line in STORES."""

import itertools

import pytest

from core.cloud.store import open_store
from core.cloud.store_contract import ClaimRequest, NewTask, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus

NOW = 1_750_000_000.0

STORES = {
    "sqlite-file": lambda tmp_path: open_store(str(tmp_path / "queue.db"), synchronous="NORMAL"),
    "sqlite-memory": lambda tmp_path: open_store(":memory:"),
}


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    opened = STORES[request.param](tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def queue(store):
    return Queue(store.tasks)


class Queue:
    """A task store with a clock of its own and short names, so that a test reads as a story."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.now = NOW
        self._ids = itertools.count(1)

    def publish(self, name="work", *, depends_on=(), **fields):
        task_id = fields.pop("task_id", None) or f"{next(self._ids):016x}"
        new = NewTask(
            task_id=task_id,
            name=name,
            payload=fields.pop("payload", "{}"),
            capability=fields.pop("capability", name),
            depends_on=tuple(depends_on),
            **fields,
        )
        return self.tasks.publish([new], self.now)[0].task_id

    def claim(self, worker="w1", capabilities=("work",), limit=1, lease=30.0, **fields):
        return self.tasks.exchange([], ClaimRequest(worker, capabilities, limit, lease, **fields), self.now).claims

    def take(self, worker="w1", **fields):
        """The one task that could be claimed."""
        [claim] = self.claim(worker, **fields)
        return claim

    def settle(self, claim, status=TaskStatus.COMPLETED, worker="w1", outcome=None, **fields):
        """True when the end was accepted."""
        outcome = outcome or {
            TaskStatus.COMPLETED: AttemptOutcome.COMPLETED,
            TaskStatus.CANCELLED: AttemptOutcome.CANCELLED,
        }.get(status, AttemptOutcome.FAILED)
        if status is TaskStatus.COMPLETED:
            fields.setdefault("result", '"done"')
        end = Settlement(claim.task_id, claim.attempt, worker, outcome, status, **fields)
        return not self.tasks.exchange([end], None, self.now).refused

    def complete(self, task_id, worker="w1", result='"done"'):
        [claim] = self.claim(worker, task_id=task_id)
        assert self.settle(claim, worker=worker, result=result)

    def fail(self, task_id, worker="w1"):
        [claim] = self.claim(worker, task_id=task_id)
        assert self.settle(claim, TaskStatus.FAILED, worker, error="boom")

    def status(self, task_id):
        return self.tasks.get(task_id).status

    def outcomes(self, task_id):
        return [attempt.outcome.value for attempt in self.tasks.attempts(task_id)]

    def later(self, seconds):
        self.now += seconds

    def maintain(self, poison_limit=3, limit=500):
        return self.tasks.maintain(self.now, poison_limit, limit)
