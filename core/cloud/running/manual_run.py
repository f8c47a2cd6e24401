"""One task run by hand, in the caller's thread: claimed, its lease renewed, settled like a runner's."""

import contextlib
import logging
import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterator

from core.clock import Clock
from core.cloud.handlers.registry import Handler, HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.cloud.queue.graph import resolve
from core.cloud.retry import RetryPolicy
from core.cloud.running.outcome import Outcomes, result_text
from core.cloud.store.base import Claim, ClaimRequest, Settlement, TaskStore
from core.cloud.task import Task
from core.errors import InvalidTransition, LeaseLost, StoreError
from core.json_types import loads

log = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds after the death of this process its task goes to another; renewed every third of it."""


def manual_worker_id() -> str:
    """A worker name for tasks run by hand, unlike that of any other process or time."""
    return f"manual-{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"


class ManualRun:
    """Runs single tasks under one worker name."""

    def __init__(
        self, tasks: TaskStore, handlers: HandlerRegistry, *, worker: str, clock: Clock, rng: random.Random
    ) -> None:
        self._tasks = tasks
        self._handlers = handlers
        self._worker = worker
        self._clock = clock
        self._outcomes = Outcomes(worker, RetryPolicy(), clock, rng)

    def execute(self, task: Task, *, why: Callable[[str], str]) -> object:
        """The handler's value; see EnhancedCloudTaskPublisher.execute_task."""
        handler = self._handlers.require(task.name)
        request = ClaimRequest(self._worker, (), 1, LEASE, task_id=task.task_id)
        claims = self._tasks.exchange([], request, self._clock.now()).claims
        if not claims:
            raise InvalidTransition(
                f"Task {task.task_id} cannot be run now: {why(task.task_id)}", "run it when it is ready."
            )
        claim = claims[0]
        lost = threading.Event()
        with self._lease_of(claim, lost):
            try:
                value = self._run(claim, handler, lost)
                result_text(value)
            except Exception as error:
                self._settle(self._outcomes.raised(claim, error))
                raise
            except BaseException:
                self._settle(self._outcomes.interrupted(claim))
                raise
        if not self._settle(self._outcomes.returned(claim, value)):
            raise LeaseLost(
                f"Task {task.task_id} was cancelled or taken away while it ran; its result counts for nothing.",
                "look at the task's status and attempts.",
            )
        return value

    def _run(self, claim: Claim, handler: Handler, lost: threading.Event) -> object:
        stored = self._tasks.results(claim.depends_on) if claim.depends_on else {}
        results = {task_id: loads(text) for task_id, text in stored.items()}
        context = TaskContext(
            claim.task_id,
            claim.name,
            claim.attempt,
            results=results,
            report=lambda share, message: self._note(claim, share, message),
            cancelled=lost.is_set,
        )
        return handler.run_here(resolve(loads(claim.payload), results), context)

    def _note(self, claim: Claim, share: float | None, message: str) -> None:
        self._tasks.progress(claim.task_id, claim.attempt, self._worker, share, message)

    def _settle(self, settlement: Settlement) -> bool:
        return not self._tasks.exchange([settlement], None, self._clock.now()).refused

    @contextlib.contextmanager
    def _lease_of(self, claim: Claim, lost: threading.Event) -> Iterator[None]:
        """Renew the lease from a thread of its own for as long as the block runs."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(LEASE / 3):
                try:
                    held = [(claim.task_id, claim.attempt)]
                    if self._tasks.renew(self._worker, held, LEASE, self._clock.now()):
                        lost.set()
                        return
                except StoreError as error:
                    log.warning("the lease of task %s could not be renewed: %s", claim.task_id, error.message)

        thread = threading.Thread(target=keep, name="heablcoin-manual-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
