"""One task run by hand, in the caller's thread: claimed, its lease renewed, settled like a runner's."""

import asyncio
import contextlib
import logging
import math
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import cast

from core.clock import Clock
from core.cloud.handlers.registry import Handler, HandlerRegistry, Place
from core.cloud.handlers.task_context import TaskContext
from core.cloud.queue.graph import resolve
from core.cloud.retry import RetryPolicy
from core.cloud.running.async_executor import run_to_its_end
from core.cloud.running.outage import NotStarted
from core.cloud.running.settling import Settler, result_text
from core.cloud.running.stored_results import results_of
from core.cloud.store_contract import Claim, ClaimRequest, Settlement, TaskStore
from core.cloud.task import Task
from core.errors import InvalidArgument, InvalidTransition, LeaseLost, StoreError
from core.json_types import Json, loads
from core.safe_text import encodable

log = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds after the death of this process its task goes to another; renewed every third of it."""


def manual_worker_id() -> str:
    """A worker name for tasks run by hand, unlike that of any other process or time."""
    return f"manual-{encodable(socket.gethostname())[:40]}-{os.getpid()}-{secrets.token_hex(3)}"


class ManualRun:
    """Runs single tasks under one worker name."""

    def __init__(
        self, tasks: TaskStore, handlers: HandlerRegistry, *, worker: str, clock: Clock, rng: random.Random
    ) -> None:
        self._tasks = tasks
        self._handlers = handlers
        self._worker = worker
        self._clock = clock
        self._settler = Settler(worker, RetryPolicy(), clock, rng)

    def execute(self, task: Task, *, why: Callable[[str], str]) -> object:
        """The handler's value; see EnhancedCloudTaskPublisher.execute_task."""
        handler = self._handlers.require(task.name)
        if handler.is_async and _in_a_loop():
            raise InvalidArgument(
                f"The handler {task.name} is async, and an event loop runs in this thread already.",
                "use: await asyncio.to_thread(publisher.execute_task, task).",
            )
        request = ClaimRequest(self._worker, (), 1, LEASE, task_id=task.task_id)
        claims = self._tasks.exchange([], request, self._clock.now()).claims
        if not claims:
            raise InvalidTransition(
                f"Task {task.task_id} cannot be run now: {why(task.task_id)}", "run it when it is ready."
            )
        claim = claims[0]
        timeout = claim.timeout if claim.timeout is not None else handler.timeout
        watch = _Watch(timeout)
        payload, context = self._prepared(claim, watch)
        with self._watched(claim, watch):
            value = self._run_to_an_end(claim, watch, lambda: self._run(handler, payload, context, watch))
        if watch.late.is_set():
            self._settle(self._settler.timed_out(claim, timeout))
            raise TimeoutError(f"Task {claim.task_id} timed out after {timeout} s.")
        if not self._settle(self._settler.returned(claim, value)):
            raise LeaseLost(
                f"Task {task.task_id} was cancelled or taken away while it ran; its result counts for nothing.",
                "look at the task's status and attempts.",
            )
        return value

    def _run_to_an_end(self, claim: Claim, watch: "_Watch", run: Callable[[], object]) -> object:
        """What it returns; an attempt that ends otherwise is settled before its error goes on."""
        try:
            value = run()
            result_text(value)
        except NotStarted as error:
            self._settle(self._settler.interrupted(claim, f"Given back: {error.message}"))
            raise
        except Exception as error:
            if watch.late.is_set():
                self._settle(self._settler.timed_out(claim, watch.timeout))
                raise TimeoutError(f"Task {claim.task_id} timed out after {watch.timeout} s.") from error
            self._settle(self._settler.raised(claim, error))
            raise
        except BaseException:
            self._settle(self._settler.interrupted(claim))
            raise
        return value

    def _prepared(self, claim: Claim, watch: "_Watch") -> tuple[Json, TaskContext]:
        try:
            return self._prepare(claim, watch)
        except StoreError:
            self._settle(self._settler.interrupted(claim, "Given back: what it builds on could not be read."))
            raise
        except Exception as error:
            self._settle(self._settler.raised(claim, error))
            raise

    def _prepare(self, claim: Claim, watch: "_Watch") -> tuple[Json, TaskContext]:
        results = results_of(self._tasks, claim.depends_on)
        context = TaskContext(
            claim.task_id,
            claim.name,
            claim.attempt,
            results=results,
            report=lambda share, message: self._note(claim, share, message),
            cancelled=lambda: watch.lost.is_set() or watch.late.is_set(),
        )
        return resolve(loads(claim.payload), results), context

    def _run(self, handler: Handler, payload: Json, context: TaskContext, watch: "_Watch") -> object:
        if handler.place is Place.PROCESS:
            from core.cloud.running.process_executor import ProcessRun

            run = ProcessRun(handler)
            watch.stop = run.kill
            return run.run(payload, context if handler.takes_context else None, context.progress)
        if handler.is_async:
            return run_to_its_end(_within(watch, cast(Awaitable[object], handler.call(payload, context))))
        return handler.call(payload, context)

    def _note(self, claim: Claim, share: float | None, message: str) -> None:
        self._tasks.progress(claim.task_id, claim.attempt, self._worker, share, message)

    def _settle(self, settlement: Settlement) -> bool:
        return not self._tasks.exchange([settlement], None, self._clock.now()).refused

    @contextlib.contextmanager
    def _watched(self, claim: Claim, watch: "_Watch") -> Iterator[None]:
        """Renew the lease and keep the deadline, from a thread of its own, for as long as the block runs."""

        def keep() -> None:
            deadline = math.inf if watch.timeout is None else time.monotonic() + watch.timeout
            while not watch.done.wait(min(LEASE / 3, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    deadline = math.inf
                    watch.late.set()
                    watch.stop()
                elif not self._renew(claim):
                    watch.lost.set()
                    watch.stop()
                    return

        thread = threading.Thread(target=keep, name="heablcoin-manual-run", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            refused = f"a thread to keep its lease could not be had ({error})."
            self._settle(self._settler.interrupted(claim, f"Given back: {refused}"))
            raise NotStarted(
                f"Task {claim.task_id} was not begun: {refused}", "try again when there are threads."
            ) from error
        no_longer_holds = self._tasks.on_take_back(partial(self._renew, claim))
        try:
            yield
        finally:
            no_longer_holds()
            watch.done.set()
            thread.join()

    def _renew(self, claim: Claim) -> bool:
        held = [(claim.task_id, claim.attempt)]
        try:
            return not self._tasks.renew(self._worker, held, LEASE, self._clock.now())
        except StoreError as error:
            log.warning("the lease of task %s could not be renewed: %s", claim.task_id, error.message)
            return True


class _Watch:
    """What the watching thread and the running one tell each other."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.done = threading.Event()
        self.lost = threading.Event()
        """The task is no longer ours."""
        self.late = threading.Event()
        """The attempt has taken longer than it may. A sync handler in this thread cannot be stopped; it is told."""
        self.stop: Callable[[], None] = lambda: None


async def _within(watch: _Watch, running: Awaitable[object]) -> object:
    """An async handler, stopped at once when its time is over."""
    limit = asyncio.timeout(watch.timeout)
    try:
        async with limit:
            return await running
    finally:
        if limit.expired():
            watch.late.set()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
