"""The tools of this server that answer with a task handle: wait_for_task, call_api, publish_task_graph."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any, Final, Required, TypedDict, cast

from mcp.server.context import HandlerResult
from mcp.types import CallToolResult, TextContent

from core.cloud.task import Task, TaskStatus
from core.errors import HeablcoinError
from core.json_types import Json, JsonObject
from server.answers.error_text import BadArguments, sentence
from server.answers.records import TaskOutcome, filled, task_outcome
from server.answers.results import tool_result
from server.answers.schema import UNTRUSTED, untrusted_keys
from server.context import App
from server.extensions.deferred import Deferral, DeferredTool, QueuedTool
from server.extensions.outlook import Outlook
from server.extensions.shapes import Handle
from server.tools.arguments import DEFAULT_WAIT
from server.tools.endpoints import ChatAnswer, asked_when_limited, call_api
from server.tools.task_graph import GraphRow, PublishedGraph, publish_task_graph
from server.tools.tasks import MOST_ROWS, Waited, standing, wait_for_task
from server.tools.tool_registry import Arguments

CANCELLED_WAITS: Final = 1_000
"""Cancelled waits that are remembered; of older ones it is forgotten that they were cancelled."""
GRAPH_TAG: Final = "graph"


def deferred_tools(app: App) -> tuple[DeferredTool, ...]:
    """Every tool of `app` that can be answered with a handle."""
    return (WaitForTask(app), CallApi(app), PublishTaskGraph(app))


class WaitForTask(QueuedTool):
    """A wait: the handle names the tasks waited for, and nothing is written.

    Cancelling it ends the wait, never the tasks: they go on whether or not anybody waits, and the tool is marked as one
    that only reads. That it was cancelled is known to this process alone; another one sees the wait go on.
    """

    name = wait_for_task.__name__

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self._arguments = Arguments.of(wait_for_task)
        self._cancelled: OrderedDict[Handle, None] = OrderedDict()

    async def start(self, call: Deferral) -> Handle | HandlerResult:
        try:
            given = self._arguments.check(self.name, call.params.arguments or {})
            tasks = await self.app.store(self._tasks, given["task_id"])
        except HeablcoinError:
            return await call.plain()
        if len(tasks) > MOST_ROWS:  # a handle holds their ids, and is sent with each look
            return await call.plain()
        if not tasks or all(task.done for task in tasks) or given.get("timeout", DEFAULT_WAIT) == 0:
            return await call.plain()
        handle = Handle(self.name, tuple(task.task_id for task in tasks))
        self._cancelled.pop(handle, None)
        return handle

    def _tasks(self, task_ids: list[str]) -> list[Task]:
        found = [self.app.runtime.publisher.get_task(task_id) for task_id in task_ids]
        return list({task.task_id: task for task in found}.values())

    def cancelled(self, handle: Handle, tasks: tuple[Task, ...]) -> bool:
        return handle in self._cancelled

    async def cancel(self, handle: Handle) -> None:
        await self.app.store(self.read, handle)
        self._cancelled[handle] = None
        while len(self._cancelled) > CANCELLED_WAITS:
            self._cancelled.popitem(last=False)

    def finish(self, tasks: tuple[Task, ...], seen: Outlook) -> CallToolResult:
        seconds = max(task.completed_at or task.created_at for task in tasks) - min(task.created_at for task in tasks)
        return tool_result(standing(tasks, {}, done=True, seconds=seconds.total_seconds()), untrusted_keys(Waited))


class CallApi(QueuedTool):
    """A call of the pool: an `ai_call` task, so that it may take longer than 55 s and outlives this process."""

    name = call_api.__name__

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self._arguments = Arguments.of(call_api)

    async def start(self, call: Deferral) -> Handle | HandlerResult:
        try:
            given = self._arguments.check(self.name, call.params.arguments or {})
        except BadArguments:
            return await call.plain()
        if not await self.app.store(self._somebody_answers, str(given.get("endpoint", ""))):
            return await call.plain()
        try:
            task = await self.app.store(self._publish, given)
        except HeablcoinError:
            return await call.plain()
        return Handle(self.name, (task.task_id,))

    def made(self, task: Task) -> bool:
        return task.name == "ai_call"

    def _somebody_answers(self, endpoint: str) -> bool:
        usable = self.app.runtime.manager.usable()
        return endpoint in usable if endpoint else bool(usable)

    def _publish(self, given: Mapping[str, Any]) -> Task:
        payload: JsonObject = filled(
            {
                "prompt": _literally(given["prompt"]),
                "system": _literally(given.get("system", "")),
                "model": given.get("model", ""),
                "endpoint": given.get("endpoint", ""),
                "strategy": given.get("strategy", "priority"),
                "when_limited": asked_when_limited(given.get("when_limited", "default")),
                "max_tokens": given.get("max_tokens") or None,
                "temperature": None if given.get("temperature", -1.0) < 0 else given["temperature"],
                "json": given.get("json") or None,
            }
        )
        # The default bounds a call that somebody sits and waits for; nobody does here.
        timeout = given.get("timeout", DEFAULT_WAIT)
        return self.app.runtime.publisher.publish(
            "ai_call", payload, tags=[self.name], timeout=None if timeout == DEFAULT_WAIT else timeout
        )

    def finish(self, tasks: tuple[Task, ...], seen: Outlook) -> CallToolResult:
        (task,) = tasks
        if task.status is not TaskStatus.COMPLETED or not isinstance(task.result, dict):
            said = f"The call {task.status.value}: {task.error or 'no reason was given'}"
            fix = f'retry_failed_task(task_id="{task.task_id}"), or look at the endpoints with get_api_manager_stats'
            text = self.app.redact(sentence(said, fix))
            return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
        return tool_result(_chat_answer(task.result), untrusted_keys(ChatAnswer))


def _chat_answer(result: JsonObject) -> ChatAnswer:
    """The result of an `ai_call` task as call_api words it."""
    attempts = result.get("attempts")
    several = attempts if isinstance(attempts, list) and len(attempts) > 1 else []
    parts = {name: result.get(name) for name in ("endpoint", "model", "usage", "latency", "finish_reason", "reasoning")}
    lines = [_attempt(attempt) for attempt in several if isinstance(attempt, dict)]
    answer = {
        "text": result.get("text", ""),
        **filled({**parts, "cost": result.get("cost") or None, "attempts": lines}),
    }
    return cast(ChatAnswer, answer)


def _attempt(attempt: JsonObject) -> str:
    reason = f": {attempt['reason']}" if attempt.get("reason") else ""
    return f"{attempt.get('endpoint')}: {attempt.get('outcome')} after {attempt.get('latency')}s{reason}"


class FinishedRow(GraphRow, total=False):
    """One task of a graph, and what came of it if nothing depends on it or it failed."""

    result: Annotated[Json, UNTRUSTED]
    error: Annotated[str, UNTRUSTED]
    cut: str


class FinishedGraph(TypedDict, total=False):
    """What publish_task_graph answers, with the outcome."""

    tasks: Required[list[FinishedRow]]
    next: Required[str]


class PublishTaskGraph(QueuedTool):
    """A graph: the handle is a task of its own that waits for the others and keeps what the plain tool answered.

    That task is an `echo`, which every process can run. It depends on the tasks nothing else depends on, so it completes
    when the graph does; if a task fails for good it stays, and a retry of that task revives both graph and handle.
    """

    name = publish_task_graph.__name__

    async def start(self, call: Deferral) -> Handle | HandlerResult:
        answer = await call.plain()
        if not isinstance(answer, CallToolResult) or answer.is_error or not answer.structured_content:
            return answer
        published = cast(PublishedGraph, answer.structured_content)
        try:
            task = await self.app.store(self._publish, published["tasks"])
        except HeablcoinError:
            # The graph is in the queue; only its handle could not be made.
            return answer
        return Handle(self.name, (task.task_id,))

    def _publish(self, rows: list[GraphRow]) -> Task:
        needed = {task_id for row in rows for task_id in row.get("blocked_by", ())}
        last = [row["task_id"] for row in rows if row["task_id"] not in needed]
        keys: list[Json] = [[row["key"], row["task_id"]] for row in rows]
        return self.app.runtime.publisher.publish("echo", {"graph": keys}, tags=[GRAPH_TAG], depends_on=last)

    def made(self, task: Task) -> bool:
        return GRAPH_TAG in task.tags and isinstance(task.payload, dict) and "graph" in task.payload

    def done(self, tasks: tuple[Task, ...], seen: Outlook) -> bool:
        return tasks[0].done or not seen.moving

    async def cancel(self, handle: Handle) -> None:
        def cancel() -> None:
            (task,) = self.read(handle)
            self.cancel_tasks([task.task_id, *reversed([task_id for _, task_id in _members(task)])])

        await self.app.store(cancel)

    def finish(self, tasks: tuple[Task, ...], seen: Outlook) -> CallToolResult:
        (task,) = tasks
        read = self.app.runtime.store.tasks.get
        rows: list[FinishedRow] = []
        failed = []
        for key, task_id in _members(task):
            member = read(task_id)
            if member is None:
                rows.append({"key": key, "task_id": task_id, "status": "removed"})
                continue
            rows.append(_row(key, member, last=task_id in task.depends_on))
            if member.status in (TaskStatus.FAILED, TaskStatus.EXPIRED, TaskStatus.CANCELLED):
                failed.append(task_id)
        hint = f'retry_failed_task(task_id="{failed[0]}")' if failed else "get_task_status shows one task in full"
        record: FinishedGraph = {"tasks": rows, "next": hint}
        return tool_result(record, untrusted_keys(FinishedGraph))


def _row(key: str, task: Task, *, last: bool) -> FinishedRow:
    outcome: TaskOutcome = task_outcome(task, "")
    shown = {"result", "error", "cut"} if last else {"error"}
    return cast(
        FinishedRow,
        {
            "key": key,
            "task_id": task.task_id,
            "status": task.status.value,
            **filled({"blocked_by": list(task.blocked_by) if not task.done else []}),
            **{name: value for name, value in outcome.items() if name in shown},
        },
    )


def _members(task: Task) -> list[tuple[str, str]]:
    """Key and id of each task of the graph behind `task`."""
    pairs = task.payload.get("graph") if isinstance(task.payload, dict) else None
    found = pairs if isinstance(pairs, list) else []
    return [(str(pair[0]), str(pair[1])) for pair in found if isinstance(pair, list) and len(pair) == 2]


def _literally(text: str) -> str:
    """`text` such that nothing in it is taken for a reference to a result."""
    return text.replace("${", "$${")
