"""What users do to a queue and to its model: publish, change, look, report as agents, run by hand, get it wrong."""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.task import FINAL, HELD, TRANSITIONS, Task, TaskStatus
from core.errors import (
    DependencyCycle,
    InvalidArgument,
    InvalidTransition,
    LeaseLost,
    NoHandler,
    Permanent,
    RetryLater,
    UnknownTask,
)
from tests.support.queue_model import (
    ACKNOWLEDGED,
    CANCELLED,
    COMPLETED,
    FAILED,
    LOST,
    PENDING,
    RUNNING,
    Hole,
    ModelTask,
)
from tests.support.queue_parts import AGENTS, ENDS, LEASE, NAMES, NOBODY, Choose, QueueParts, carry_out, expected

MISSING = "f" * 16
MANUAL_LEASE = 3600.0
RAISED = {
    "raises": ConnectionError,
    "later": RetryLater,
    "permanent": Permanent,
    "unwritable": Permanent,
    "killed": KeyboardInterrupt,
}


class Users(QueueParts):
    # What users publish

    def submission(self, choose: Choose, parents: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """publish() arguments, and what the model is to know of them. `parents` may be ids and local keys."""
        name = choose((*NAMES, *NAMES, *NAMES, NOBODY))
        key = choose([None, None, None, "k1", "k2"])
        delay, expires_in = choose([0, 0, 0, 0, 5, 20]), choose([0, 0, 0, 0, 0, 5, 20, 40])
        form = choose(["plain", "plain", "whole", "field", "text", "field", "text", "hole"])
        payload, reads = {"plain": True}, None
        if parents and form != "plain" and key is None:
            parent = choose(parents)
            reads = (form, parent)
            path = {"whole": "", "field": ".n", "text": ".n", "hole": ".no.where"}[form]
            payload = {"in": f"<${{{parent}{path}}}>" if form == "text" else f"${{{parent}{path}}}"}
        shared = {
            "name": name,
            "payload": payload,
            "priority": choose([1, 2, 2, 3, 4]),
            "timeout": choose([None, 5.0, 45.0]),
            "max_retries": choose([0, 1, 2]),
        }
        cancels = choose([False, False, True])
        said = {
            **shared,
            "depends_on": list(parents),
            "on_dependency_failure": "cancel" if cancels else "wait",
            "delay": delay,
            "expires_in": expires_in or None,
            "idempotency_key": key and f"{key}-{name}",
        }
        now = self.clock.now()
        known = {
            **shared,
            "reads": reads,
            "depends_on": list(dict.fromkeys(parents)),
            "cancels": cancels,
            "run_at": now + delay if delay else None,
            "expires_at": now + expires_in if expires_in else None,
            "key": key and f"{key}-{name}",
        }
        return said, known

    def some_ids(self, choose: Choose) -> list[str]:
        ids = list(self.model.tasks)[-8:]
        return [choose(ids) for _ in range(choose([0, 0, 0, 1, 2, 3]))] if ids else []

    def remember(self, task: Task, known: dict[str, Any], *, by: EnhancedCloudTaskPublisher) -> None:
        first = self.model.with_key(known["key"])
        assert first is None or first.task_id == task.task_id, "a known idempotency key made a second task"
        if first is None:
            self.model.publish(task.task_id, **known)
        assert task == by.get_task(task.task_id)

    def publish(self, choose: Choose) -> None:
        publisher = self.some_publisher(choose)
        said, known = self.submission(choose, self.some_ids(choose))
        self.remember(publisher.publish(**said), known, by=publisher)

    def publish_many(self, choose: Choose) -> None:
        publisher = self.some_publisher(choose)
        batch = [self.submission(choose, self.some_ids(choose)) for _ in range(choose([1, 2, 3]))]
        for task, (_, known) in zip(publisher.publish_many(said for said, _ in batch), batch, strict=True):
            self.remember(task, known, by=publisher)

    def publish_graph(self, choose: Choose) -> None:
        publisher = self.some_publisher(choose)
        shape = choose([{"b": ["a"], "a": []}, {"a": [], "d": ["b", "c"], "b": ["a"], "c": ["a"]}])
        outside = [choose(list(self.model.tasks))] if self.model.tasks and choose([False, True]) else []
        graph = {key: self.submission(choose, [*keys, *outside]) for key, keys in shape.items()}
        for said, known in graph.values():
            said["idempotency_key"] = known["key"] = None
        published = publisher.publish_graph({key: said for key, (said, _) in graph.items()})
        ids = {key: task.task_id for key, task in published.items()}
        for key in sorted(graph):
            known = graph[key][1]
            known["depends_on"] = [ids.get(each, each) for each in known["depends_on"]]
            if known["reads"] is not None:
                form, parent = known["reads"]
                known["reads"] = form, ids.get(parent, parent)
                known["payload"] = published[key].payload
                assert ids.get(parent, parent) in str(published[key].payload)
            self.remember(published[key], known, by=publisher)

    # What users change

    def cancel(self, choose: Choose) -> None:
        task = self.some_task(choose)
        allowed = task.status not in FINAL
        with expected(None if allowed else InvalidTransition):
            self.some_publisher(choose).cancel_task(task.task_id)
        if allowed:
            self.model.end(task, CANCELLED)

    def retry(self, choose: Choose) -> None:
        lost = self.model.of_status(*LOST)
        task = choose(lost) if lost and choose([True, True, False]) else self.some_task(choose)
        allowed = task.status in LOST
        with expected(None if allowed else InvalidTransition):
            self.some_publisher(choose).retry_task(task.task_id)
        if allowed:
            self.model.revive(task)

    def report(self, choose: Choose) -> None:
        publisher, status = self.some_publisher(choose), choose([*TaskStatus, RUNNING])
        held = self.model.of_status(*HELD)
        task = choose(held) if held and choose([True, False]) else self.some_task(choose)
        worker = choose([*AGENTS, *([task.owner] if task.owner else [])])
        attempt = choose([None, None, task.attempt, task.attempt - 1])
        result = choose([None, 7, {"n": 0}]) if status is COMPLETED else None
        if attempt is not None and not task.held_by(worker, attempt):
            refusal = LeaseLost
        elif status in HELD and task.owner == worker:
            refusal = None if status in (task.status, RUNNING) else InvalidTransition
        else:
            startable = status not in HELD or (task.owner is None and not self.model.blocked_by(task))
            refusal = None if status in TRANSITIONS[task.status] and startable else InvalidTransition
        with expected(refusal):
            publisher.update_status(task.task_id, status.value, result, worker=worker, attempt=attempt)
        if refusal is None:
            self.reported(task, status, worker, result)

    def reported(self, task: ModelTask, status: TaskStatus, worker: str, result: Any) -> None:
        lease = task.timeout or MANUAL_LEASE
        if status in HELD and task.owner == worker:
            task.status, task.lease_until = status, max(task.lease_until, self.clock.now() + lease)
        elif status in HELD:
            self.model.begin(task, worker, status, lease)
        elif status is not PENDING:
            self.model.end(task, status, result=result)
        elif task.status in FINAL:
            self.model.revive(task)
        else:
            self.model.give_back(task)

    def claim(self, choose: Choose) -> None:
        names, limit, agent = choose([None, NAMES, [NOBODY]]), choose([1, 2]), choose(AGENTS)
        self.bring_up_to_date()
        wanted = self.model.ready(names)[:limit]
        claimed = self.some_publisher(choose).claim(agent, names, limit, LEASE)
        assert [each.task_id for each in claimed] == [each.task_id for each in wanted]
        for task, got in zip(wanted, claimed, strict=True):
            self.model.begin(task, agent, ACKNOWLEDGED, LEASE)
            assert (got.attempts, got.status, got.worker) == (task.attempt, ACKNOWLEDGED, agent)

    def agent_reports(self, choose: Choose) -> None:
        publisher = self.some_publisher(choose)
        held = [task for task in self.model.tasks.values() if task.owner in AGENTS]
        if held:
            task, status = choose(held), choose([COMPLETED, COMPLETED, FAILED, RUNNING, PENDING])
            with pytest.raises(InvalidTransition):
                publisher.update_status(task.task_id, RUNNING, worker="a third")
            result = {"n": 1} if status is COMPLETED else None
            publisher.update_status(task.task_id, status, result, worker=task.owner, attempt=task.attempt)
            self.reported(task, status, task.owner, result)

    def cleanup_expired(self, choose: Choose) -> None:
        assert self.some_publisher(choose).cleanup_expired() == self.model.tidy_up()

    def purge(self, choose: Choose) -> None:
        publisher = self.some_publisher(choose)
        statuses, age = choose([sorted(FINAL), [COMPLETED], [CANCELLED, FAILED]]), choose([0.0, 5.0, 60.0])
        batch, dry_run = choose([1, 1000]), choose([False, True])
        removed = self.model.purge(statuses, age, batch, dry_run=dry_run)
        purged = publisher.purge(statuses, age, dry_run=dry_run, batch=batch)
        assert (purged.tasks, purged.attempts) == (len(removed), sum(len(each.outcomes) for each in removed))
        assert sum(purged.by_status.values()) == purged.tasks

    def look(self, choose: Choose) -> None:
        publisher, status = self.some_publisher(choose), choose(list(TaskStatus))
        name, least = choose([None, *NAMES]), choose([None, 1, 3])
        self.bring_up_to_date()
        ready = publisher.get_ready_tasks(limit=1000)
        assert [each.task_id for each in ready] == [each.task_id for each in self.model.ready()]
        assert [each.task_id for each in publisher.list_tasks(status, least, name=name)] == [
            each.task_id
            for each in self.model.all()
            if each.status is status and name in (None, each.name) and each.priority >= (least or 0)
        ]

    def bring_up_to_date(self) -> None:
        if self.model.something_due(self.clock.now()):
            self.model.tidy()

    # What users get wrong: each is refused in its own way, and the check after it finds everything as it was.

    def refused(self, choose: Choose) -> None:
        publisher = self.some_publisher(choose)
        some = choose(list(self.model.tasks))
        fine = {"name": "fetch"}
        keyed = [task for task in self.model.tasks.values() if task.key]
        wrong: list[tuple[type[Exception], Callable[[], object]]] = [
            (UnknownTask, lambda: publisher.publish("fetch", depends_on=[some, MISSING])),
            (InvalidArgument, lambda: publisher.publish("fetch", priority=5)),
            (InvalidArgument, lambda: publisher.publish("fetch", {"in": f"${{{some}}}"})),
            (InvalidArgument, lambda: publisher.publish("fetch", expires_in=0)),
            (InvalidArgument, lambda: publisher.publish_many([fine, fine, {"name": "fetch", "delay": -1}])),
            (UnknownTask, lambda: publisher.publish_many([fine, {"name": "fetch", "depends_on": [MISSING]}])),
            (DependencyCycle, lambda: publisher.publish_graph({"a": fine, "b": fine | {"depends_on": "b"}})),
            (
                DependencyCycle,
                lambda: publisher.publish_graph({"a": fine | {"depends_on": "b"}, "b": fine | {"depends_on": "a"}}),
            ),
            (UnknownTask, lambda: publisher.publish_graph({"a": fine, "b": fine | {"depends_on": ["a", MISSING]}})),
            (InvalidArgument, lambda: publisher.publish_graph({"a": fine, "b": fine | {"payload": "${a}"}})),
            (UnknownTask, lambda: publisher.cancel_task(MISSING)),
            (UnknownTask, lambda: publisher.retry_task(MISSING)),
            (UnknownTask, lambda: publisher.update_status(MISSING, "completed")),
            (UnknownTask, lambda: publisher.execute_task(MISSING)),
            (InvalidArgument, lambda: publisher.update_status(some, "finished")),
            (InvalidArgument, lambda: publisher.update_status(some, "failed", result=1)),
            (InvalidArgument, lambda: publisher.update_status(some, "completed", error="no")),
            (InvalidArgument, lambda: publisher.claim("ann", lease=0)),
            (InvalidArgument, lambda: publisher.claim("ann", limit=0)),
            (InvalidArgument, lambda: publisher.purge(["pending"])),
            (InvalidArgument, lambda: publisher.purge(batch=0)),
            (InvalidArgument, lambda: publisher.import_(io.BytesIO(self.spoilt_export()))),
        ]
        wrong += [(InvalidArgument, lambda: publisher.publish(keyed[0].name, 1, idempotency_key=keyed[0].key))] * (
            3 if keyed else 0
        )
        error, action = choose(wrong)
        # Executing brings the queue up to date first, whatever comes of it.
        self.bring_up_to_date()
        publisher.get_ready_tasks()
        with pytest.raises(error):
            action()

    def spoilt_export(self) -> bytes:
        """A new task, then one that cannot be."""
        lines = self.exported().splitlines()
        record = json.loads(lines[-1])
        new, bad = ({**record, "task_id": each, "idempotency_key": None} for each in ("e" * 16, "d" * 16))
        bad["status"] = "asleep"
        return b"\n".join([*lines, json.dumps(new).encode(), json.dumps(bad).encode()])

    def exported(self) -> bytes:
        out = io.BytesIO()
        assert self.publishers[0].export(out) == len(self.model.tasks)
        return out.getvalue()

    def import_again(self, choose: Choose) -> None:
        done = self.some_publisher(choose).import_(io.BytesIO(self.exported()))
        assert (done.added, done.present) == (0, len(self.model.tasks))

    def move_house(self, choose: Choose) -> None:
        """The queue goes on in another database; the processes of the old one are gone."""
        export = self.exported()
        self.start_anew()
        assert self.publishers[0].import_(io.BytesIO(export)).added == len(self.model.tasks)
        self.model.move_house()

    # What is run by hand

    def run_by_hand(self, choose: Choose) -> None:
        publisher = self.some_publisher(choose)
        self.bring_up_to_date()
        waiting = self.model.overripe() or self.model.of_status(PENDING)
        likely = choose([self.model.ready(), self.model.ready(), waiting])
        task = choose(likely) if likely else self.some_task(choose)
        self.end, self.meanwhile = choose((*ENDS, "killed")), choose(["", "", "", "", "", "", "cancelled", "suspended"])
        self.running, self.value, self.given = task, {"n": choose([1, 2])}, None
        self.runs_by_hand = publisher
        startable = self.model.startable(task)
        if task.name == NOBODY:
            refusal = NoHandler
        elif not startable:
            refusal = InvalidTransition
        else:
            self.model.begin(task, publisher.worker, RUNNING, LEASE)
            refusal = self.foresee(task)
        attempt = task.attempt
        with expected(refusal):
            assert publisher.execute_task(task.task_id) == self.value
        if startable and task.name != NOBODY:
            end = "hole" if self.given is None else self.end
            self.model.settle(self.ending(task, attempt, end, self.value), publisher.worker)

    def foresee(self, task: ModelTask) -> type[BaseException] | None:
        try:
            self.model.input_of(task)
        except Hole:
            return Permanent
        refusal = RAISED.get(self.end)
        lost = self.meanwhile == "cancelled" or (
            self.meanwhile == "suspended" and self.each_has_a_store and self.publishers[1] is not self.runs_by_hand
        )
        return LeaseLost if refusal is None and lost else refusal

    def by_hand(self, payload: object) -> object:
        self.given = payload
        assert payload == self.model.input_of(self.running)
        if self.meanwhile == "cancelled":
            self.publishers[0].cancel_task(self.running.task_id)
            self.model.end(self.running, CANCELLED)
        elif self.meanwhile == "suspended":
            self.clock.advance(LEASE + 1)
            self.publishers[1].cleanup_expired()
            if not self.each_has_a_store or self.publishers[1] is self.runs_by_hand:
                # The same process: it renews before it takes back.
                self.running.lease_until = self.clock.now() + LEASE
            self.model.tidy_up()
        return carry_out(self.end, self.value)
