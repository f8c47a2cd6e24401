"""Looking at the queue: one task, lists, what is ready, why a task waits, the counts."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from core.clock import Clock
from core.cloud.gate import Closed
from core.cloud.queue.patience import Patience
from core.cloud.queue.submission import check_name, tags_of
from core.cloud.queue.why import Means, explain, nobody_is_able
from core.cloud.retry import POISON_LIMIT
from core.cloud.store_contract import Page, Situation, Store, TaskQuery
from core.cloud.task import HELD, Attempt, Task, TaskPriority, TaskStatus, parse_priority, parse_status, unknown_task
from core.errors import InvalidArgument

LARGEST_PAGE = 10_000
SHORTEST_PREFIX = 4
"""Characters of an id that are enough when they are unique."""
NEWEST_NAMED = 3


class Abilities(Protocol):
    """What this process can run."""

    @property
    def served(self) -> bool:
        """Whether a runner of this process runs tasks."""
        ...

    def capabilities(self) -> Collection[str]: ...

    def lacking(self, capability: str) -> str:
        """What is missing for it here, in words."""
        ...

    def hindrance(self, capability: str) -> str:
        """Why nothing of it is begun here now, in words; '' when it is."""
        ...

    def gated(self) -> Collection[str]:
        """The names of the handlers whose tasks have to pass limits."""
        ...

    def closed(self, capability: str) -> Closed | None:
        """What such tasks wait for now; None for nothing."""
        ...


@dataclass(frozen=True, slots=True)
class WaitingTasks:
    """Ready tasks that wait for one limit."""

    limit: str
    """In words that follow "waits for"."""
    tasks: int
    next_starts_in: float
    """Seconds; `inf` when nobody knows."""
    last_starts_in: float
    """Seconds until the last of them starts, when all goes on as it does; `inf` when nobody knows."""


class TaskReader:
    """What can be asked of a store's tasks."""

    def __init__(self, store: Store, clock: Clock, abilities: Abilities) -> None:
        self.store = store
        self._clock = clock
        self._abilities = abilities
        self._patience = Patience(clock)

    def get_task(self, task_id: str) -> Task:
        """The task with this id, or with the only id that starts so (4 characters or more). Raises UnknownTask."""
        return self._existing(self._whole_id(task_id))

    def list_tasks(
        self,
        status: str | TaskStatus | None = None,
        priority_min: int | None = None,
        tags: str | Iterable[str] | None = None,
        limit: int = 100,
        name: str | None = None,
    ) -> list[Task]:
        """Tasks that meet all conditions (all of `tags`): URGENT first, then oldest; at most `limit`, 1 to 10,000."""
        query = TaskQuery(
            status=None if status is None else parse_status(status),
            name=None if name is None else check_name(name),
            priority_min=None if priority_min is None else int(parse_priority(priority_min)),
            tags=tags_of(tags),
            limit=limit,
        )
        return self.page(query).tasks

    def page(self, query: TaskQuery) -> Page:
        """One page of a list, and the cursor of the next."""
        check_limit(query.limit)
        now = self._clock.now()
        if query.ready:
            self._bring_up_to_date(now)
        return self.store.tasks.list(query, now)

    def get_ready_tasks(self, limit: int = 10) -> list[Task]:
        """Tasks that could start now, in the order in which they will."""
        return self.page(TaskQuery(ready=True, limit=limit)).tasks

    def attempts(self, task_id: str) -> list[Attempt]:
        """Every attempt at the task, oldest first. Raises UnknownTask."""
        return self.store.tasks.attempts(self.get_task(task_id).task_id)

    def why(self, task_id: str) -> str:
        """Why the task is not running, in words. Raises UnknownTask."""
        task_id = self._whole_id(task_id)
        now = self._clock.now()
        situation = self.store.tasks.situation(task_id, now)
        if situation is None:
            raise self._unknown(task_id)
        return explain(situation, now, self._means(situation), self._closed(situation))

    def waiting_for_limits(self) -> list[WaitingTasks]:
        """How many ready tasks wait for which limit, and until when. Costs a walk over the ready tasks of limited handlers."""
        found: dict[str, tuple[Closed, int]] = {}
        for name in self._abilities.gated():
            for capability, count in self.store.tasks.ready_by_capability(name).items():
                closed = self._abilities.closed(capability)
                if closed is not None:
                    found[closed.what] = (closed, count + found.get(closed.what, (closed, 0))[1])
        for closed, count in self.store.tasks.waiting_for_limits(self._clock.now()):
            found[closed.what] = (closed, count)
        return [
            WaitingTasks(what, count, closed.opens_in, closed.starts_in(count - 1))
            for what, (closed, count) in sorted(found.items())
        ]

    def _closed(self, situation: Situation) -> Closed | None:
        ready = situation.task.status is TaskStatus.PENDING and not situation.unfinished
        return (situation.closed or self._abilities.closed(situation.capability)) if ready else None

    def nobody_can_run(self, task_id: str) -> bool:
        """True for a task that waits and that no live process has what it takes to run. Raises UnknownTask."""
        situation = self.store.tasks.situation(task_id, self._clock.now())
        if situation is None:
            raise self._unknown(task_id)
        if situation.task.done or situation.task.status in HELD:
            return False
        return nobody_is_able(situation, self._means(situation))

    def _means(self, situation: Situation) -> Means:
        """What this process itself could do about a task: known at once, whatever stands in the table of processes."""
        capability = situation.capability
        able = capability in self._abilities.capabilities()
        return Means(
            able=able,
            runs=self._abilities.served,
            lacking="" if able else self._abilities.lacking(capability),
            hindrance=self._abilities.hindrance(capability) if able else "",
        )

    def get_stats(self) -> dict[str, Any]:
        """Counts by status and priority, and the mean seconds from start to completion. Costs the same for any queue."""
        stats = self.store.tasks.stats()
        by_status = {status.value: stats.by_status.get(status, 0) for status in TaskStatus}
        return {
            "total": sum(by_status.values()),
            "by_status": by_status,
            "by_priority": {priority.name: stats.by_priority.get(int(priority), 0) for priority in TaskPriority},
            "expired": by_status[TaskStatus.EXPIRED],
            "avg_completion_time": stats.completed_seconds / stats.completed_count if stats.completed_count else 0.0,
            "ready": stats.ready,
            "blocked": stats.blocked,
            "later": stats.later,
        }

    def _bring_up_to_date(self, now: float) -> None:
        take_back = self._patience.may_take_back()
        due = self.store.tasks.next_due(take_back=take_back)
        if due is not None and due <= now:
            self.store.tasks.maintain(now, POISON_LIMIT, take_back=take_back)

    def _whole_id(self, task_id: str) -> str:
        if not isinstance(task_id, str):
            raise InvalidArgument(
                f"A task is named by its id, a text, not by {'None' if task_id is None else type(task_id).__name__}.",
                "pass a task's task_id.",
            )
        task_id = task_id.strip()
        found = self.store.tasks.resolve_id(task_id) if len(task_id) >= SHORTEST_PREFIX else None
        if found is None:
            raise self._unknown(task_id)
        return found

    def _existing(self, task_id: str) -> Task:
        task = self.store.tasks.get(task_id)
        if task is None:
            raise self._unknown(task_id)
        return task

    def _unknown(self, task_id: str) -> Exception:
        return unknown_task(task_id, self.store.tasks.newest_ids(NEWEST_NAMED))


def check_limit(limit: object) -> None:
    """InvalidArgument for what is no number of tasks to return."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LARGEST_PAGE:
        raise InvalidArgument(f"The limit is {limit!r}.", f"use a whole number from 1 to {LARGEST_PAGE:,}.")
