"""Tools that publish, watch and change tasks."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Required, TypeAlias, TypedDict, cast

from core.cloud.handlers.ai_call import NAME as AI_CALL
from core.cloud.queue.submission import MOST_DEPENDENCIES
from core.cloud.store_contract import TaskQuery
from core.cloud.task import Task, TaskStatus
from core.json_types import JsonObject
from server.answers.records import (
    CUT,
    TaskDetail,
    TaskOutcome,
    TaskRow,
    filled,
    is_open_question,
    iso,
    task_detail,
    task_outcome,
    task_row,
    task_uri,
)
from server.answers.results import compact
from server.answers.schema import UNTRUSTED
from server.tools.arguments import (
    DEFAULT_WAIT,
    MAX_WAIT,
    WEEK,
    YEAR,
    StatusFilter,
    any_when_empty,
    choice,
    id_forms,
    ids,
    json_value,
    names,
    number,
    priority_words,
    text,
    whole,
)
from server.tools.tool_registry import READS, STARTS_WORK, ToolCall, Toolset
from server.waiting import WaitResult, wait_until_done

TASKS = Toolset("tasks", "Publish, watch and change background tasks.")

TaskId: TypeAlias = Annotated[str, text("Task id, or enough of its beginning to be the only one.", least=1), id_forms]


class Published(TypedDict, total=False):
    """A task that is now in the queue."""

    task_id: Required[str]
    name: Required[str]
    status: Required[str]
    priority: Required[int]
    created_at: str
    run_at: str
    expires_at: str
    blocked_by: list[str]
    why: Annotated[str, "what it waits for"]
    link: str
    next: str


def published(task: Task, why: str) -> Published:
    """What the publisher of `task` is told; `why` is '' when nothing but time stands between it and its start."""
    wait = f'wait_for_task(task_id="{task.task_id}")'
    claim = f'claim_task(names="{task.name}", ...) to do it yourself, or wait for a worker that can'
    answer: Published = filled(
        {
            "task_id": task.task_id,
            "name": task.name,
            "status": task.status.value,
            "priority": int(task.priority),
            "created_at": iso(task.created_at),
            "run_at": iso(task.run_at),
            "expires_at": iso(task.expires_at),
            "blocked_by": list(task.blocked_by),
            "why": why,
            "link": task_uri(task.task_id),
            "next": wait
            if not why or task.blocked_by
            else f"{'add_api_endpoint' if 'add_api_endpoint' in why else 'tell the user what is missing (see why)'}, then {wait}"
            if task.name == AI_CALL
            else claim,
        }
    )
    if is_open_question(task):
        answer["next"] = how_to_answer(task)
    return answer


def how_to_answer(question: Task) -> str:
    """What a chat does about a task that is a question, when its client does not put it to the user by itself."""
    return (
        f'ask the user the message of {question.task_id} (in its payload), then update_task_status(task_id="{question.task_id}", '
        'status="completed", result=<the answer>)'
    )


@TASKS.tool("Publish a task", STARTS_WORK)
async def publish_enhanced_task(
    call: ToolCall,
    *,
    name: Annotated[
        str,
        text(
            "Handler that runs it: ai_call (asks an LLM of the pool), http_request, echo, sleep, one of the user's own,"
            " or any name a worker will claim.",
            least=1,
        ),
    ],
    payload: Annotated[
        Any,
        json_value(
            'JSON for the handler, e.g. {"symbol": "BTC/USDT"}; ai_call: {"prompt": "..."} with optional system, model,'
            " endpoint, max_tokens. In a text ${TASK_ID} becomes that dependency's whole result, ${TASK_ID.path} a part"
            " (${TASK_ID.text}: an ai_call's answer), $${ a plain ${."
        ),
    ] = "",
    priority: Annotated[int, whole("1 LOW, 2 NORMAL, 3 HIGH, 4 URGENT.", 1, 4), priority_words] = 2,
    tags: Annotated[Sequence[str], names("Comma-separated tags.")] = "",
    timeout: Annotated[float, number("Seconds one attempt may run; 0: no limit.", 0, WEEK)] = 0.0,
    expires_in: Annotated[
        float, number("Seconds after which it is no longer started; 0: never expires.", 0, YEAR)
    ] = 0.0,
    depends_on: Annotated[
        Sequence[str], ids("Comma-separated ids of tasks that must complete first.", most=MOST_DEPENDENCIES)
    ] = "",
    max_retries: Annotated[int, whole("Retries after a failure.", 0, 100)] = 3,
    delay: Annotated[float, number("Seconds before it may start.", 0, YEAR)] = 0.0,
    idempotency_key: Annotated[str, text("The same key again returns the first task instead of a new one.")] = "",
    on_dependency_failure: Annotated[
        Literal["wait", "cancel"], choice("If a dependency fails: wait (a retry revives it) or cancel this too.")
    ] = "wait",
) -> Published:
    """Put a task in the durable background queue and return its id at once. It survives restarts and crashes.

    Follow it with wait_for_task. For several linked tasks use publish_task_graph.
    """
    arguments = publish_arguments(
        name=name,
        payload=payload,
        priority=priority,
        tags=tags,
        timeout=timeout,
        expires_in=expires_in,
        depends_on=depends_on,
        max_retries=max_retries,
        delay=delay,
        idempotency_key=idempotency_key,
        on_dependency_failure=on_dependency_failure,
    )

    def publish() -> tuple[Task, str]:
        task = call.app.runtime.publisher.publish(**arguments)
        return task, call.app.why_waiting(task)

    return published(*await call.app.store(publish))


def publish_arguments(**given: Any) -> dict[str, Any]:
    """A tool's arguments as the publisher takes them: what the protocol can only leave empty is None there."""
    empty = {"timeout", "expires_in", "delay", "idempotency_key"}
    arguments = {name: (value or None) if name in empty else value for name, value in given.items()}
    if arguments["payload"] == "":
        arguments["payload"] = {}
    return arguments


class TaskList(TypedDict, total=False):
    """A page of tasks."""

    tasks: Required[list[TaskRow]]
    next_cursor: Annotated[str, "pass as cursor for the next page; absent on the last"]
    next: str


@TASKS.tool("List tasks", READS)
async def list_enhanced_tasks(
    call: ToolCall,
    *,
    status: Annotated[StatusFilter, any_when_empty, choice("Only tasks in this status.")] = "any",
    priority_min: Annotated[int, whole("Only this priority or higher (1 LOW .. 4 URGENT).", 0, 4), priority_words] = 0,
    tags: Annotated[Sequence[str], names("Only tasks with all of these comma-separated tags.")] = "",
    name: Annotated[str, text("Only tasks of this name.")] = "",
    ready: Annotated[bool, choice("Only tasks that could start now.")] = False,
    newest_first: Annotated[bool, choice("Newest first instead of by priority, then oldest.")] = False,
    limit: Annotated[int, whole("Most rows.", 1, 200)] = 20,
    cursor: Annotated[str, text("next_cursor of the page before.")] = "",
) -> TaskList:
    """List tasks of the queue, most urgent first. Rows are short; get_task_status shows one in full."""
    query = TaskQuery(
        status=None if status == "any" else TaskStatus(status),
        name=name or None,
        priority_min=priority_min or None,
        tags=tuple(tags),
        ready=ready,
        newest_first=newest_first,
        limit=limit,
        cursor=cursor,
    )
    page = await call.app.store(call.app.runtime.publisher.page, query)
    answer: TaskList = {"tasks": [task_row(task) for task in page.tasks]}
    if page.next_cursor:
        answer["next_cursor"] = page.next_cursor
        answer["next"] = "list_enhanced_tasks with the same filters and this cursor"
    elif not page.tasks:
        answer["next"] = "nothing matches; get_enhanced_task_stats counts what is there"
    return answer


class TaskPart(TaskDetail, total=False):
    """A task in full, or a stretch of one of its long values."""

    text: Annotated[str, UNTRUSTED]
    offset: int
    total_chars: int
    next_offset: Annotated[int, "where to read on; absent at the end"]


@TASKS.tool("Show a task", READS)
async def get_task_status(
    call: ToolCall,
    *,
    task_id: TaskId,
    part: Annotated[
        Literal["all", "result", "payload", "error"], choice("all, or read one long value piece by piece with offset.")
    ] = "all",
    offset: Annotated[int, whole("First character to show of that value.", 0, 1_000_000_000)] = 0,
    max_chars: Annotated[int, whole("Most characters to show of a value.", 100, 50_000)] = CUT,
) -> TaskPart:
    """Show one task in full: status, why it is not running, attempts, payload, result or error."""

    def read() -> TaskPart:
        publisher = call.app.runtime.publisher
        task = publisher.get_task(task_id)
        if part != "all":
            return stretch(task, part, offset, max_chars)
        why = "" if task.done else publisher.why(task.task_id)
        answer = cast(TaskPart, task_detail(task, publisher.attempts(task.task_id), why, max_chars))
        if is_open_question(task):
            answer["next"] = how_to_answer(task)
        elif not task.done:
            answer["next"] = f'wait_for_task(task_id="{task.task_id}")'
        elif failed_for_good(task):
            answer["next"] = after_failure(task)
        elif task.status is not TaskStatus.COMPLETED:
            answer["next"] = f'retry_failed_task(task_id="{task.task_id}")'
        return answer

    return await call.app.store(read)


def stretch(task: Task, part: str, offset: int, length: int) -> TaskPart:
    """`length` characters of a task's payload, result or error from `offset` on."""
    value: JsonObject = {"payload": task.payload, "result": task.result, "error": task.error}
    whole_text = "" if value[part] is None else compact(value[part])
    end = offset + length
    answer = TaskPart(
        task_id=task.task_id,
        name=task.name,
        status=task.status.value,
        priority=int(task.priority),
        text=whole_text[offset:end],
        offset=offset,
        total_chars=len(whole_text),
    )
    if end < len(whole_text):
        answer["next_offset"] = end
    return answer


MOST_WAITED = 1_000
"""Tasks in one wait: as many as a graph can have."""
MOST_ROWS = 50
"""Tasks that a wait's answer shows; the others are counted."""


class Waited(TypedDict, total=False):
    """Where the tasks stand after the wait."""

    done: Required[Annotated[bool, "true: every task has ended"]]
    ended: Annotated[str, "how many of how many tasks"]
    tasks: Required[list[TaskOutcome]]
    left_out: Annotated[int, "tasks not shown; those that did not complete are shown first"]
    waited_seconds: Required[float]
    poll_after_seconds: Annotated[float, "call again after this many seconds"]
    next: str


@TASKS.tool("Wait for tasks", READS)
async def wait_for_task(
    call: ToolCall,
    *,
    task_id: Annotated[
        Sequence[str], ids(f"One task id, or up to {MOST_WAITED:,} separated by commas.", least=1, most=MOST_WAITED)
    ],
    timeout: Annotated[float, number("Seconds to wait at most.", 0, MAX_WAIT)] = DEFAULT_WAIT,
) -> Waited:
    """Wait until tasks have ended and return their results. Not yet done is no error: call it again.

    The tasks go on whether or not anybody waits.
    """
    waited = await wait_until_done(call.app, task_id, timeout, call.progress)
    answer = standing(waited.tasks, waited.reasons, done=waited.done, seconds=waited.seconds)
    if not waited.done:
        answer["poll_after_seconds"] = waited.poll_after
        answer["next"] = how_to_go_on(waited)
    elif unlucky := [task for task in waited.tasks if task.status is not TaskStatus.COMPLETED]:
        answer["next"] = after_failure(unlucky[0])
    elif "left_out" in answer:
        answer["next"] = "all completed; get_task_status shows one that is not shown here"
    return answer


def standing(tasks: Sequence[Task], reasons: Mapping[str, str], *, done: bool, seconds: float) -> Waited:
    """Where `tasks` stand after a wait of so many seconds; `reasons` say of those that have not ended why."""
    shown = shown_of(tasks)
    answer: Waited = {"done": done, "tasks": [], "waited_seconds": round(seconds, 1)}
    if len(tasks) > 1:
        answer["ended"] = f"{sum(task.done for task in tasks)} of {len(tasks)}"
    answer["tasks"] = [task_outcome(task, reasons.get(task.task_id, "")) for task in shown]
    if len(shown) < len(tasks):
        answer["left_out"] = len(tasks) - len(shown)
    return answer


def shown_of(tasks: Sequence[Task]) -> list[Task]:
    """The tasks an answer has room for, in their order: rather one that failed or goes on than one that completed."""
    if len(tasks) <= MOST_ROWS:
        return list(tasks)
    urgent = sorted(tasks, key=lambda task: (task.status is TaskStatus.COMPLETED, not task.done))[:MOST_ROWS]
    kept = {task.task_id for task in urgent}
    return [task for task in tasks if task.task_id in kept]


def how_to_go_on(waited: WaitResult) -> str:
    """What to do about tasks that have not ended yet."""
    pending = ",".join(task.task_id for task in waited.tasks if not task.done)
    again = f'wait_for_task(task_id="{pending}")'
    question = next((task for task in waited.tasks if is_open_question(task)), None)
    if question is not None:
        return f"{how_to_answer(question)}; then {again}"
    if waited.hopeless:
        only = "this task" if pending.count(",") == 0 else "these tasks"
        return f"no running process can do {only}: do what why says first, then {again}"
    return f"{again} again in {waited.poll_after:g} s"


FINAL_ERRORS = ("Permanent", "InvalidArgument", "InvalidTransition", "DependencyCycle", "UrlRefused")
"""Types of errors that are never retried by themselves: the same payload can only fail the same way."""


def failed_for_good(task: Task) -> bool:
    """True for a task that failed with retries to spare, or with an error that a retry cannot help."""
    if task.status is not TaskStatus.FAILED:
        return False
    kind = (task.error or "").partition(":")[0]
    return kind in FINAL_ERRORS or 0 < task.attempts - task.interruptions <= task.max_retries


def after_failure(task: Task) -> str:
    """What can be done about a task that ended without a result."""
    if failed_for_good(task):
        return (
            f"its error says what to correct: publish_enhanced_task with name={task.name!r} and a corrected payload; "
            f'the same payload fails again, unless the cause lay outside it (then retry_failed_task(task_id="{task.task_id}"))'
        )
    return f'get_task_status(task_id="{task.task_id}") shows its attempts; retry_failed_task runs it again once the cause is mended'
