"""From what a caller says to a task that can be stored: every check, in one place. Pure."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime

from core.clock import to_datetime
from core.cloud.queue.graph import LOCAL_KEY, check_graph, check_references, rename_references
from core.cloud.store_contract import NewTask
from core.cloud.task import OnDependencyFailure, Task, TaskPriority, TaskStatus, parse_priority
from core.errors import InvalidArgument
from core.json_types import Json, dumps, loads, plain_dumps

AI_CALL = "ai_call"
LONGEST_NAME = 100
LARGEST_PAYLOAD = 1024 * 1024
"""Bytes of JSON."""
DEEPEST_PAYLOAD = 100
"""Levels of lists and objects."""
MOST_TAGS = 50
LONGEST_TAG = 100
MOST_DEPENDENCIES = 10_000
LONGEST_KEY = 200
LONGEST_TIMEOUT = 7 * 86_400.0
"""Seconds."""
MOST_RETRIES = 100
LARGEST_GRAPH = 100_000
"""Tasks in one publish_many or publish_graph."""

PayloadCheck = Callable[[str, Json], None]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(slots=True)
class Submission:
    """The arguments of one `publish`, as the caller gave them."""

    name: str
    payload: object = None
    priority: int = TaskPriority.NORMAL
    tags: str | Iterable[str] | None = None
    timeout: float | None = None
    expires_in: float | None = None
    depends_on: str | Iterable[str | Task] | None = None
    max_retries: int = 3
    delay: float | None = None
    idempotency_key: str | None = None
    on_dependency_failure: str = OnDependencyFailure.WAIT


ARGUMENTS = tuple(field.name for field in fields(Submission))
_KNOWN = frozenset(ARGUMENTS)


def from_arguments(arguments: Mapping[str, object], what: str) -> Submission:
    """A submission from publish() arguments by name; InvalidArgument for a name that publish() does not have."""
    if type(arguments) is not dict and not isinstance(arguments, Mapping):
        raise InvalidArgument(
            f"{what} is not an object of publish() arguments.", 'write {"name": ..., "payload": ...}.'
        )
    if not arguments.keys() <= _KNOWN:
        unknown = sorted(str(name) for name in arguments.keys() - _KNOWN)
        raise InvalidArgument(
            f"{what} has {', '.join(repr(name[:40]) for name in unknown[:5])}, which publish() does not know.",
            f"use only: {', '.join(ARGUMENTS)}.",
        )
    if "name" not in arguments:
        raise InvalidArgument(f"{what} has no name.", "name the handler that is to run it.")
    return Submission(**arguments)  # type: ignore[arg-type]  # every value is checked below


def new_task(
    said: Submission,
    task_id: str,
    now: float,
    *,
    local_ids: Mapping[str, str] | None = None,
    checked_references: bool = False,
    check: PayloadCheck | None = None,
) -> NewTask:
    """Check one submission. `local_ids` are the ids of a graph's local keys. Raises InvalidArgument.

    `check` knows what the handlers of this process need: given a name and a payload, it raises for one that can only fail.

    `checked_references` is for a task from an export, whose dependencies may be gone while its references stay.
    """
    name = check_name(said.name)
    local_ids = local_ids or {}
    given = ids_of(said.depends_on)
    depends_on = tuple(dict.fromkeys(local_ids.get(parent, parent) for parent in given)) if given else given
    if len(depends_on) > MOST_DEPENDENCIES:
        raise InvalidArgument(
            f"A task can depend on at most {MOST_DEPENDENCIES:,} others, not {len(depends_on):,}.",
            "put tasks in between that gather a part each.",
        )
    payload: Json = {} if said.payload is None else said.payload  # type: ignore[assignment]
    payload, text = _written(payload)
    if "${" in text and not checked_references:
        payload = loads(text)  # what looks like a list may be a tuple
        check_references(payload, {*given, *depends_on}, local_ids)
        if local_ids:
            payload, text = _written(rename_references(payload, local_ids))
    if check is not None:
        check(name, payload)
    return NewTask(
        task_id=task_id,
        name=name,
        payload=text,
        capability=capability_of(name, payload),
        priority=_priority(said.priority),
        tags=tags_of(said.tags),
        depends_on=depends_on,
        on_dependency_failure=_policy(said.on_dependency_failure),
        timeout=_seconds(said.timeout, "timeout", above_zero=True, at_most=LONGEST_TIMEOUT),
        max_retries=_retries(said.max_retries),
        run_at=_from_now(_seconds(said.delay, "delay"), now),
        expires_at=_from_now(_seconds(said.expires_in, "expires_in", above_zero=True), now),
        idempotency_key=_key(said.idempotency_key),
    )


def new_graph(
    said: Mapping[str, Submission], ids: Mapping[str, str], now: float, *, check: PayloadCheck | None = None
) -> list[tuple[str, NewTask]]:
    """Check a graph whose tasks name each other by local keys; each task comes after those it depends on.

    Raises InvalidArgument naming the local key, DependencyCycle.
    """
    _check_keys(said)
    order = check_graph({key: ids_of(task.depends_on) for key, task in said.items()})
    tasks = []
    for key in order:
        try:
            tasks.append((key, new_task(said[key], ids[key], now, local_ids=ids, check=check)))
        except InvalidArgument as error:
            raise InvalidArgument(f"Task {key!r}: {error.message}", error.fix) from error
    return tasks


def _check_keys(keys: Iterable[object]) -> None:
    for key in keys:
        if not isinstance(key, str) or not LOCAL_KEY.fullmatch(key):
            raise InvalidArgument(
                f"The local key {str(key)[:60]!r} cannot be used.", "use 1 to 64 letters, digits, '_' and '-'."
            )


def as_published(task: NewTask, created_at: datetime) -> Task:
    """The task as it stands right after it was stored, for one whose dependencies (if any) were stored with it."""
    return Task(
        task_id=task.task_id,
        name=task.name,
        status=TaskStatus.PENDING,
        priority=task.priority,
        payload=loads(task.payload),
        tags=task.tags,
        depends_on=task.depends_on,
        blocked_by=task.depends_on,
        on_dependency_failure=task.on_dependency_failure,
        timeout=task.timeout,
        max_retries=task.max_retries,
        attempts=0,
        interruptions=0,
        idempotency_key=task.idempotency_key,
        created_at=created_at,
        run_at=to_datetime(task.run_at),
        expires_at=to_datetime(task.expires_at),
        started_at=None,
        completed_at=None,
        worker=None,
        lease_until=None,
        progress=None,
        progress_message="",
        result=None,
        error=None,
    )


def capability_of(name: str, payload: Json) -> str:
    """What a process must have to run the task, and which gate it has to pass.

    Its handler; for an `ai_call` bound to one endpoint also that one's key; for one that says what to do where a limit keeps it from
    the best endpoints, that: such tasks wait apart from those that leave it to the pool.
    """
    if name != AI_CALL or not isinstance(payload, dict):
        return name
    endpoint = payload.get("endpoint")
    if isinstance(endpoint, str) and endpoint and "${" not in endpoint:
        return f"{name}@{endpoint}"
    strategy, when_limited = payload.get("strategy"), payload.get("when_limited")
    if strategy and strategy != "priority":
        return f"{name}:next"  # the other strategies treat all endpoints alike
    return f"{name}:{when_limited}" if when_limited in {"next", "wait"} else name


def handler_of(capability: str) -> str:
    """The name of the handler that a capability is of, where that is not the capability itself."""
    return AI_CALL if capability.startswith((f"{AI_CALL}@", f"{AI_CALL}:")) else capability


def check_name(name: object) -> str:
    """A task's name, or InvalidArgument."""
    if isinstance(name, str) and 1 <= len(name) <= LONGEST_NAME and name.isprintable() and not name.isspace():
        return name
    # Spaces of other scripts are not printable in Python's sense, yet nothing is wrong with them in a name.
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME or not name.strip() or _CONTROL.search(name):
        raise InvalidArgument(
            f"A task's name must be 1 to {LONGEST_NAME} characters without control characters.",
            "name the handler that is to run it, such as market_analysis.",
        )
    return _encodable(name, "name")


def ids_of(depends_on: object) -> tuple[str, ...]:
    """Task ids from a comma string, a list of ids or tasks, or None."""
    if depends_on is None:
        return ()
    if isinstance(depends_on, Task):
        return (depends_on.task_id,)
    if isinstance(depends_on, str):
        depends_on = [part for each in depends_on.split(",") if (part := each.strip())]
    if not isinstance(depends_on, Iterable) or isinstance(depends_on, (bytes, Mapping)):
        raise InvalidArgument("depends_on is not a list of task ids.", 'write ["id1", "id2"].')
    found = []
    for each in depends_on:
        parent = each.task_id if isinstance(each, Task) else each
        if not isinstance(parent, str) or not 0 < len(parent) <= LONGEST_KEY:
            raise InvalidArgument("depends_on holds something that is not a task id.", 'write ["id1", "id2"].')
        found.append(_encodable(parent, "dependency"))
    return tuple(found)


def tags_of(tags: object) -> tuple[str, ...]:
    """Tags from a comma string, a list, or None; each once, in the order given."""
    if tags is None:
        return ()
    if isinstance(tags, str):
        tags = [part for each in tags.split(",") if (part := each.strip())]
    if not isinstance(tags, Iterable) or isinstance(tags, (bytes, Mapping)):
        raise InvalidArgument("tags is not a list of texts.", 'write ["analysis", "crypto"].')
    found = []
    for tag in tags:
        bad = not isinstance(tag, str) or not 1 <= len(tag) <= LONGEST_TAG or "," in tag or _CONTROL.search(tag)
        if bad or tag != tag.strip():
            raise InvalidArgument(
                f"The tag {str(tag)[:40]!r} cannot be used.",
                f"a tag is 1 to {LONGEST_TAG} characters without commas, control characters or spaces around it.",
            )
        found.append(_encodable(tag, "tag"))
    unique = tuple(dict.fromkeys(found))
    if len(unique) > MOST_TAGS:
        raise InvalidArgument(f"A task can have at most {MOST_TAGS} tags, not {len(unique)}.", "use fewer tags.")
    return unique


def _written(payload: Json) -> tuple[Json, str]:
    """The payload as plain JSON, and its text."""
    try:
        text = dumps(payload, "payload")
    except InvalidArgument as error:
        if isinstance(error.__cause__, RecursionError):  # how deep an encoder goes differs between Pythons
            raise _too_deep() from error
        text = plain_dumps(payload, "The payload")
        payload = loads(text)
    size = len(text) if len(text) < LARGEST_PAYLOAD // 4 else len(text.encode())
    if size > LARGEST_PAYLOAD:
        raise InvalidArgument(
            f"The payload is {size:,} bytes of JSON; a task can carry {LARGEST_PAYLOAD:,}.",
            "put large data into a file and pass its path.",
        )
    if text.count("[") + text.count("{") > DEEPEST_PAYLOAD and _deeper_than(payload, DEEPEST_PAYLOAD):
        raise _too_deep()
    return payload, text


def _too_deep() -> InvalidArgument:
    return InvalidArgument(
        f"The payload is nested deeper than {DEEPEST_PAYLOAD} levels, or holds itself.",
        "flatten it, or pass it as one text.",
    )


def _deeper_than(value: object, levels: int) -> bool:
    here = [value]
    for _ in range(levels + 1):
        below: list[object] = []
        for item in here:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
        if not below:
            return False
        here = below
    return True


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(
            f"The {what} must be a whole number, not {str(value)[:40]!r}.", f"give {what} as an integer."
        )
    return value


def _priority(value: object) -> int:
    if type(value) is int and TaskPriority.LOW <= value <= TaskPriority.URGENT:
        return value
    return int(parse_priority(_integer(value, "priority")))


def _retries(value: object) -> int:
    number = _integer(value, "max_retries")
    if not 0 <= number <= MOST_RETRIES:
        raise InvalidArgument(f"max_retries must be 0 to {MOST_RETRIES}, not {number}.", "use 0 for a single attempt.")
    return number


def _seconds(
    value: object, what: str, *, above_zero: bool = False, at_most: float = 10 * 365 * 86_400.0
) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidArgument(
            f"{what} must be a number of seconds, not {str(value)[:40]!r}.", f"give {what} in seconds."
        )
    if value < 0 or (above_zero and value == 0) or value > at_most:
        bound = "above 0" if above_zero else "0 or more"
        raise InvalidArgument(
            f"{what} is {value:g} seconds; it must be {bound} and at most {at_most:,.0f}.",
            f"give {what} in seconds, or leave it out.",
        )
    return float(value)


def _from_now(seconds: float | None, now: float) -> float | None:
    return None if not seconds else now + seconds


def _policy(value: object) -> OnDependencyFailure:
    if value is OnDependencyFailure.WAIT:
        return OnDependencyFailure.WAIT
    try:
        return OnDependencyFailure(str(value))
    except ValueError:
        raise InvalidArgument(
            f"There is no on_dependency_failure {str(value)[:40]!r}.",
            'use "wait" (the default: a retry of the dependency revives the task) or "cancel".',
        ) from None


def _key(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > LONGEST_KEY:
        raise InvalidArgument(
            f"An idempotency key is a text of at most {LONGEST_KEY} characters.", "use a shorter key, such as a hash."
        )
    return _encodable(value, "idempotency key")


def _encodable(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"The {what} holds half a character (a lone surrogate).", "send whole Unicode characters."
        ) from None
    return text
