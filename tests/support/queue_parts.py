"""The parts of a world of one queue: stores, publishers, worker processes, a clock, and the model beside them."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest

from core.clock import ManualClock
from core.cloud import enhanced_publisher
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.queue import reader
from core.cloud.queue.patience import Patience
from core.cloud.store import open_store
from tests.support.queue_model import COMPLETED, PENDING, POISON, Ending, ModelTask, NaiveQueue
from tests.support.queue_process import LEASE, Call, EvenChance, Process, carry_out

__all__ = [
    "AGENTS",
    "ENDS",
    "LEASE",
    "NAMES",
    "NOBODY",
    "Choose",
    "Held",
    "QueueParts",
    "Worker",
    "carry_out",
    "expected",
]

NAMES = ("fetch", "parse", "report")
NOBODY = "nobody"
"""Tasks of this name have no handler anywhere."""
AGENTS = ("ann", "bob")
ENDS = ("returns",) * 8 + ("raises", "raises", "later", "permanent", "unwritable")
Choose = Callable[[Sequence[Any]], Any]


@dataclass(eq=False)
class Held:
    """An attempt as the process that runs it sees it."""

    task: ModelTask
    attempt: int
    call: Call
    given: Any
    deadline: float
    """Monotonic."""
    lease_until: float

    @property
    def key(self) -> tuple[str, int]:
        return self.task.task_id, self.attempt


@dataclass(eq=False)
class Worker:
    """A process and what the model knows of it."""

    process: Process
    renew_at: float
    held: list[Held] = field(default_factory=list)
    left_behind: list[Call] = field(default_factory=list)
    """Handlers that still run, though their attempts are over."""
    ended: list[Ending] = field(default_factory=list)
    """Ends that are not written yet."""
    reports: dict[tuple[str, int], float] = field(default_factory=dict)
    """Progress that is not written yet."""
    write_at: float = float("-inf")
    asked: bool = False
    suspect: tuple[str, int] | None = None
    """The last attempt it began at a task whose workers had died twice."""

    @property
    def name(self) -> str:
        return self.process.worker


class QueueParts:
    def __init__(self, location: str = ":memory:") -> None:
        self.location = location
        self.clock = ManualClock()
        self.model = NaiveQueue(self.clock.now)
        self.ids, self.worker_numbers = itertools.count(1), itertools.count(1)
        self.stores = [open_store(location, synchronous="NORMAL")]
        self.dead: list[Process] = []
        # A task is given up after two cut-off attempts, so that short histories have it.
        self.patches = [mock.patch.object(module, "POISON_LIMIT", POISON) for module in (enhanced_publisher, reader)]
        # That a jump of the clock is waited out is tested by itself; here all could come at any time.
        self.patches.append(mock.patch.object(Patience, "may_take_back", return_value=True))
        for patch in self.patches:
            patch.start()
        self.open_for_business()

    @property
    def each_has_a_store(self) -> bool:
        """Else all share one in memory, as if they were one process."""
        return self.location != ":memory:"

    @property
    def store(self):
        return self.stores[-1]

    def connect(self):
        """The store as another process has it: its own connection to the file, if there is a file."""
        if self.location != ":memory:":
            self.stores.append(open_store(self.location, synchronous="NORMAL"))
        return self.store

    def open_for_business(self) -> None:
        self.publishers = [self.new_publisher(), self.new_publisher()]
        self.workers = [self.new_worker(names) for names in (NAMES, NAMES, NAMES[1:])]

    def start_anew(self) -> None:
        """All processes end, and others begin with an empty database."""
        self.dead += [worker.process for worker in self.workers]
        if self.location != ":memory:":
            self.location += "-new"
        self.stores.append(open_store(self.location, synchronous="NORMAL"))
        self.open_for_business()

    def new_publisher(self) -> EnhancedCloudTaskPublisher:
        publisher = EnhancedCloudTaskPublisher(
            store=self.connect(), clock=self.clock, rng=EvenChance(), draw_id=lambda: f"{next(self.ids):016x}"
        )
        for name in NAMES:
            publisher.register_handler(name, self.by_hand)
        return publisher

    def new_worker(self, names: Sequence[str]) -> Worker:
        process = Process(self.connect(), self.clock, f"w{next(self.worker_numbers)}", names, slots=3)
        if self.each_has_a_store:
            process.renew_before_taking_back()
        return Worker(process, self.clock.monotonic() + LEASE / 3)

    def close(self) -> None:
        for process in [*self.dead, *(worker.process for worker in self.workers)]:
            process.end_threads()
        for store in self.stores:
            store.close()
        for patch in self.patches:
            patch.stop()

    def by_hand(self, payload: object) -> object:
        """What a handler does that is run by hand."""
        raise NotImplementedError

    def run_by_hand(self, choose: Choose) -> None:
        raise NotImplementedError

    def some_publisher(self, choose: Choose) -> EnhancedCloudTaskPublisher:
        return choose(self.publishers)

    def some_task(self, choose: Choose) -> ModelTask:
        return self.model.tasks[choose(list(self.model.tasks))]

    def ending(self, task: ModelTask, attempt: int, end: str, value: Any) -> Ending:
        if end == "returns":
            return Ending(task, attempt, "completed", COMPLETED, result=value)
        if end in ("interrupted", "killed"):
            return Ending(task, attempt, "interrupted", PENDING)
        kind = "permanent" if end in ("hole", "unwritable") else end
        return self.model.failure(task, attempt, kind)


def expected(refusal: type[BaseException] | None) -> AbstractContextManager[object]:
    """The block is refused so; None: it is not."""
    return nullcontext() if refusal is None else pytest.raises(refusal)
