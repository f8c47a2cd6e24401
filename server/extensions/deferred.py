"""What it takes for a tool to be answered with a task handle."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolRequestParams, CallToolResult

from core.cloud.queue.why import ASK_USER
from core.cloud.store_contract import TaskQuery
from core.cloud.task import Task, TaskStatus
from core.errors import InvalidTransition, NotFound
from server.context import App
from server.extensions.outlook import Outlook, outlook
from server.extensions.questions import input_request, key_of
from server.extensions.shapes import Handle, State, Status

SECONDS_PER_DAY = 86_400.0
LONGEST_PROGRESS = 200
"""Characters of a handler's progress message that go into a status message."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """A call of a tool by a client that understands tasks."""

    params: CallToolRequestParams
    context: ServerRequestContext[Any, Any]
    plain: Callable[[], Awaitable[HandlerResult]]
    """Runs the tool as for any other client."""


class DeferredTool(Protocol):
    """A tool that can be answered with a handle."""

    name: str
    required: bool
    """True when there is no plain answer: a client without the extension is told that it needs it."""

    async def start(self, call: Deferral) -> Handle | HandlerResult:
        """Put the work in the queue, durably; or the plain answer where a handle would gain nothing."""
        ...

    async def state(self, handle: Handle, context: ServerRequestContext[Any, Any]) -> State:
        """Where it stands. Raises NotFound."""
        ...

    async def questions(self, handle: Handle) -> tuple[Task, ...]:
        """The open questions it waits for. Raises NotFound."""
        ...

    async def cancel(self, handle: Handle) -> None:
        """Stop what can be stopped; nothing when it has ended. Raises NotFound."""
        ...


class QueuedTool:
    """Common ground of the deferred tools: handles over tasks of the queue."""

    name = ""
    required = False

    def __init__(self, app: App) -> None:
        self.app = app

    def finish(self, tasks: tuple[Task, ...], seen: Outlook) -> CallToolResult:
        """The tool's answer, now that nothing more happens by itself. An MCPError becomes the status `failed`."""
        raise NotImplementedError

    def done(self, tasks: tuple[Task, ...], seen: Outlook) -> bool:
        """True when there is an answer."""
        return all(task.done for task in tasks)

    def made(self, task: Task) -> bool:
        """True for a task that a handle of this tool can stand for."""
        return True

    def cancelled(self, handle: Handle, tasks: tuple[Task, ...]) -> bool:
        """True when the request was cancelled."""
        return any(task.status is TaskStatus.CANCELLED for task in tasks)

    async def state(self, handle: Handle, context: ServerRequestContext[Any, Any]) -> State:
        """Where it stands. Raises NotFound."""
        return await self.app.store(self._state, handle, can_elicit(context))

    async def questions(self, handle: Handle) -> tuple[Task, ...]:
        """The open questions it waits for. Raises NotFound."""
        return (await self.app.store(lambda: self._look(self.read(handle)))).questions

    async def cancel(self, handle: Handle) -> None:
        """Cancel its tasks that have not ended. Raises NotFound."""
        await self.app.store(lambda: self.cancel_tasks([task.task_id for task in self.read(handle)]))

    def read(self, handle: Handle) -> tuple[Task, ...]:
        """The queue's tasks behind `handle`. Raises NotFound."""
        found = [self.app.runtime.store.tasks.get(task_id) for task_id in handle.task_ids]
        tasks = tuple(task for task in found if task is not None and self.made(task))
        if len(tasks) != len(found):
            raise NotFound(
                "There is no such task.",
                "start it again with tools/call; list_enhanced_tasks shows the tasks of the queue",
            )
        return tasks

    def cancel_tasks(self, task_ids: list[str]) -> None:
        """Cancel those of them that have not ended."""
        for task_id in task_ids:
            try:
                self.app.runtime.publisher.cancel_task(task_id)
            except (InvalidTransition, NotFound):
                continue

    def _state(self, handle: Handle, can_ask: bool) -> State:
        tasks = self.read(handle)
        seen = self._look(tasks)
        state = State(
            status=Status.WORKING,
            created_at=min(task.created_at for task in tasks),
            updated_at=max(last_change(task) for task in tasks),
            poll_seconds=1.0 if seen.held else 2.0,
            ttl_seconds=self.app.settings.retention_days * SECONDS_PER_DAY or None,
        )
        if self.cancelled(handle, tasks):
            return replace(state, status=Status.CANCELLED, message="Cancelled.")
        if self.done(tasks, seen):
            return self._finished(state, tasks, seen)
        message = self._message(tasks)
        if seen.questions and can_ask:
            requests = {key_of(question): input_request(question) for question in seen.questions}
            return replace(state, status=Status.INPUT_REQUIRED, message=message, input_requests=requests)
        return replace(state, message=message)

    def _look(self, tasks: tuple[Task, ...]) -> Outlook:
        store, now = self.app.runtime.store.tasks, self.app.runtime.clock.now()
        # Most queues hold no question, and then one look at what moves is enough.
        asked = store.list(TaskQuery(name=ASK_USER, status=TaskStatus.PENDING, limit=1), now).tasks
        return outlook(store.get, tasks, questions=bool(asked))

    def _finished(self, state: State, tasks: tuple[Task, ...], seen: Outlook) -> State:
        try:
            return replace(state, status=Status.COMPLETED, result=self.finish(tasks, seen))
        except MCPError as error:
            return replace(
                state,
                status=Status.FAILED,
                message=error.error.message,
                error=error.error.model_dump(by_alias=True, mode="json", exclude_none=True),
            )

    def _message(self, tasks: tuple[Task, ...]) -> str:
        unfinished = [task for task in tasks if not task.done]
        if len(unfinished) != 1:
            return f"{len(tasks) - len(unfinished)} of {len(tasks)} tasks have ended."
        task = unfinished[0]
        if task.status is not TaskStatus.RUNNING:
            return self.app.redact(self.app.runtime.publisher.why(task.task_id))
        share = "" if task.progress is None else f" {task.progress:.0%}"
        said = " ".join(task.progress_message.split())[:LONGEST_PROGRESS]
        return self.app.redact(f"{task.name} is running{share}. {said}".strip())


def can_elicit(context: ServerRequestContext[Any, Any]) -> bool:
    """True when the client said it can put questions to its user."""
    declared = context.session.client_capabilities
    return declared is not None and declared.elicitation is not None


def last_change(task: Task) -> datetime:
    """The latest moment known at which `task` changed."""
    return max(moment for moment in (task.created_at, task.started_at, task.completed_at) if moment is not None)
