"""A queue with its users and its worker processes, beside a naive model of it.

Each method does one thing to both and compares; `check` compares everything. What exactly is done is up to
`choose(options)`, which hypothesis or a seeded generator answers.
"""

from core.cloud.task import FINAL, Task, TaskPriority, TaskStatus
from tests.support.queue_model import COMPLETED, PENDING, ModelTask
from tests.support.queue_parts import Choose
from tests.support.queue_users import Users
from tests.support.queue_workers import Workers


class QueueWorld(Users, Workers):
    def wait(self, choose: Choose) -> None:
        self.clock.advance(choose([0.5, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 10.0, 10.0, 31.0, 31.0, 4000.0]))

    # What must be true after each step

    def check(self) -> None:
        stored = self.publishers[0].list_tasks(limit=10_000)
        expected = self.model.all()
        assert [task.task_id for task in stored] == [task.task_id for task in expected]
        for task, wanted in zip(stored, expected, strict=True):
            assert seen(task) == foreseen(wanted, self.model.blocked_by(wanted))
            assert task.payload == wanted.payload
            self.check_attempts(task, wanted)
        self.check_counters(stored)
        for worker in self.workers:
            assert worker.process.held() == {held.key for held in worker.held}
            assert worker.process.unsettled() == [(ending.task.task_id, ending.attempt) for ending in worker.ended]

    def check_attempts(self, task: Task, wanted: ModelTask) -> None:
        attempts = self.store.tasks.attempts(task.task_id)
        outcomes = [each.outcome.value for each in attempts]
        assert outcomes == wanted.outcomes + (["running"] if wanted.owner else [])
        assert [each.number for each in attempts] == list(range(1, task.attempts + 1))
        assert outcomes.count("completed") <= 1, "finished twice"
        if task.status is COMPLETED and task.started_at is not None:
            starts = [self.model.tasks[parent].ended_at for parent in wanted.depends_on]
            assert all(ended <= task.started_at.timestamp() for ended in starts), "started before its dependencies"

    def check_counters(self, stored: list[Task]) -> None:
        stats = self.publishers[1].get_stats()
        assert stats["total"] == len(stored)
        assert stats["by_status"] == {each.value: sum(task.status is each for task in stored) for each in TaskStatus}
        assert stats["by_priority"] == {
            each.name: sum(task.priority == each for task in stored) for each in TaskPriority
        }
        pending = self.model.of_status(PENDING)
        blocked = sum(bool(self.model.blocked_by(task)) for task in pending)
        later = sum(not self.model.blocked_by(task) and not task.due for task in pending)
        assert (stats["blocked"], stats["later"], stats["ready"]) == (blocked, later, len(pending) - blocked - later)
        took = [
            (task.completed_at - task.started_at).total_seconds()
            for task in stored
            if task.status is COMPLETED and task.started_at is not None
        ]
        assert abs(stats["avg_completion_time"] - (sum(took) / len(took) if took else 0.0)) < 1e-3


def seen(task: Task) -> dict[str, object]:
    return {
        "task_id": task.task_id,
        "status": task.status,
        "depends_on": list(task.depends_on),
        "blocked_by": list(task.blocked_by),
        "attempts": task.attempts,
        "interruptions": task.interruptions,
        "worker": task.worker,
        "lease_until": None if task.lease_until is None else task.lease_until.timestamp(),
        "run_at": None if task.run_at is None else task.run_at.timestamp(),
        "expires_at": None if task.expires_at is None else task.expires_at.timestamp(),
        "started_at": None if task.started_at is None else task.started_at.timestamp(),
        "ended_at": None if task.completed_at is None else task.completed_at.timestamp(),
        "progress": task.progress,
        "result": task.result,
    }


def foreseen(task: ModelTask, blocked_by: list[str]) -> dict[str, object]:
    return {
        "task_id": task.task_id,
        "status": task.status,
        "depends_on": task.depends_on,
        "blocked_by": blocked_by,
        "attempts": task.attempt,
        "interruptions": task.interruptions,
        "worker": task.owner,
        "lease_until": task.lease_until if task.owner is not None else None,
        "run_at": task.run_at,
        "expires_at": task.expires_at,
        "started_at": task.started_at,
        "ended_at": task.ended_at if task.status in FINAL else None,
        "progress": task.progress,
        "result": task.result if task.status is COMPLETED else None,
    }
