"""The tool that publishes linked tasks at once."""

from collections.abc import Sequence
from typing import Annotated, Any, Required, TypedDict, cast

from core.cloud.task import Task
from core.errors import InvalidArgument
from core.json_types import Json, JsonObject
from server.answers.records import filled
from server.tools.arguments import objects
from server.tools.tasks import MOST_ROWS, TASKS, publish_arguments, publish_enhanced_task
from server.tools.tool_registry import STARTS_WORK, Arguments, ToolCall

MOST = 1_000


class GraphRow(TypedDict, total=False):
    """One task of a published graph."""

    key: Required[str]
    task_id: Required[str]
    status: Required[str]
    blocked_by: list[str]


class PublishedGraph(TypedDict, total=False):
    """The tasks of a graph, now in the queue."""

    tasks: Required[list[GraphRow]]
    next: Required[str]


KEY = "key"
SHOWN = ("type", "enum", "minimum", "maximum", "default")
"""What of an argument's schema is stated again for a task of a graph; the rest stands in publish_enhanced_task."""


def task_of_a_graph() -> JsonObject:
    """The schema of one task: closed, as strict hosts want it, with `key` and publish_enhanced_task's arguments."""
    schema = Arguments.of(publish_enhanced_task).schema
    properties = cast(dict[str, JsonObject], schema["properties"])
    stated: JsonObject = {
        name: {word: value for word, value in part.items() if word in SHOWN} for name, part in properties.items()
    }
    stated["payload"] = {**cast(JsonObject, stated["payload"]), "description": "JSON text."}
    return {
        "type": "object",
        "properties": {KEY: {"type": "string"}, **stated},
        "required": [KEY, *cast(list[Json], schema["required"])],
        "additionalProperties": False,
    }


@TASKS.tool("Publish linked tasks", STARTS_WORK)
async def publish_task_graph(
    call: ToolCall,
    tasks: Annotated[
        list[dict[str, Any]],
        objects(
            'Objects with a "key" of your choice and the arguments of publish_enhanced_task; depends_on names keys of this'
            " list or task ids. In a payload ${key} becomes that task's whole result, ${key.path} a part (${key.text}: an"
            " ai_call's answer).",
            task_of_a_graph(),
            most=MOST,
        ),
    ],
) -> PublishedGraph:
    """Publish several linked tasks in one step: all of them, or none if anything is wrong (a cycle, an unknown id, a bad value)."""
    graph = checked_graph(tasks)
    made = await call.app.store(call.app.runtime.publisher.publish_graph, graph)
    rows: list[GraphRow] = [
        filled({"key": key, "task_id": task.task_id, "status": task.status.value, "blocked_by": list(task.blocked_by)})
        for key, task in made.items()
    ]
    return {"tasks": rows, "next": how_to_wait(list(made.values()))}


def how_to_wait(tasks: Sequence[Task]) -> str:
    """The call that waits for all of a graph: of a large one, for the tasks that no other waits for."""
    if len(tasks) <= MOST_ROWS:
        return f'wait_for_task(task_id="{",".join(task.task_id for task in tasks)}")'
    needed = {parent for task in tasks for parent in task.depends_on}
    last = [task.task_id for task in tasks if task.task_id not in needed]
    every = (
        "" if len(last) == len(tasks) else f" (the {len(last)} that no other waits for: when they are done, so are all)"
    )
    return f'wait_for_task(task_id="{",".join(last)}"){every}'


def checked_graph(tasks: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The graph as the publisher takes it; raises for a missing or repeated key and for a bad argument of any task."""
    arguments = Arguments.of(publish_enhanced_task)
    graph: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(tasks):
        given = dict(entry)
        key = given.pop(KEY, None)
        if not isinstance(key, str) or not key:
            raise InvalidArgument(
                f"tasks[{number}] has no key; nothing was published.", 'give each task a "key" such as "fetch"'
            )
        if key in graph:
            raise InvalidArgument(
                f"tasks[{number}] repeats a key; nothing was published.", "give each task a key of its own"
            )
        graph[key] = publish_arguments(**arguments.check(f"publish_task_graph (tasks[{number}])", given))
    return graph
