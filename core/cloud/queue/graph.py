"""Tasks that wait for each other: order, cycles, and `${references}` to results. Pure.

A string in a payload may name a result of a task it depends on: `${key}` or `${key.path.to.value}`, where `key` is a task
id (or, while a graph is published, a local key), a path step is a field's name or a list index, and `$${` stands for a
plain `${`. A string that is one reference becomes the value itself; a reference inside more text becomes text.

Where there is something to refer to (a graph's keys, or dependencies), everything of this form must name one of them: a slip
would else reach a handler as text. A task that stands alone refers to nothing, and its `${HOME}` is left as it stands.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from core.errors import DependencyCycle, InvalidArgument, Permanent
from core.json_types import Json, dumps

TASK_ID = re.compile(r"[0-9a-f]{16}")
LOCAL_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<head>[A-Za-z0-9_-]{1,64})(?P<path>(?:\.[^.{}]+)*)\}")
"""An escape or a reference; the one pass over a text keeps what a result brings in from being read as either."""
_ALMOST = re.compile(r"\$\$\{|\$\{\s*(?P<head>[A-Za-z0-9_-]{1,64})(?P<rest>[^{}]{0,200})\}")
"""What somebody may have meant as a reference: with spaces, `[0]`, or an empty step."""
MOST_NAMED = 8
"""Names that an error lists."""


def check_graph(depends_on: Mapping[str, Iterable[str]]) -> list[str]:
    """The keys in an order in which each comes after those it depends on; the given order if it already is one.

    Names in `depends_on` that are not keys are taken to be tasks that exist. Raises DependencyCycle naming the tasks that
    wait for each other.
    """
    inside = {key: [parent for parent in parents if parent in depends_on] for key, parents in depends_on.items()}
    place = {key: index for index, key in enumerate(inside)}
    if all(place[parent] < place[key] for key, parents in inside.items() for parent in parents):
        return list(inside)
    try:
        return list(TopologicalSorter(inside).static_order())
    except CycleError as error:
        cycle = [str(key) for key in error.args[1]]
        shown = cycle if len(cycle) <= 12 else [*cycle[:6], "...", *cycle[-5:]]
        raise DependencyCycle(
            f"These tasks wait for each other, so none could ever start: {' -> '.join(shown)}.",
            "remove one of these dependencies.",
        ) from None


def heads(payload: Json) -> set[str]:
    """The names before the first dot of everything that looks like a reference."""
    found: set[str] = set()

    def collect(match: re.Match[str]) -> str:
        if match["head"]:
            found.add(match["head"])
        return match[0]

    _each_string(payload, lambda text: _REFERENCE.sub(collect, text))
    return found


def check_references(payload: Json, depends_on: Collection[str], local_keys: Collection[str] = ()) -> None:
    """Raise InvalidArgument for what refers to no dependency of the task, naming the nearest there is.

    A task without dependencies, published by itself, has nothing to refer to: there only the form of a task id is taken
    for a reference.
    """
    alone = not depends_on and not local_keys
    for head in sorted(heads(payload)):
        if head in depends_on:
            continue
        if head in local_keys or TASK_ID.fullmatch(head):
            raise InvalidArgument(
                f"The payload refers to ${{{head}}}, which is not among the task's dependencies.",
                f"add {head!r} to depends_on, or write $${{{head}}} for the plain text.",
            )
        if not alone:
            raise _refers_to_nothing(head, depends_on, local_keys)
    if not alone:
        _refuse_almost(payload, {*depends_on, *local_keys})


def _refers_to_nothing(head: str, depends_on: Collection[str], local_keys: Collection[str]) -> InvalidArgument:
    """The error for a name that is neither a dependency nor a key of the graph."""
    names = sorted(local_keys) or sorted(depends_on)
    near = difflib.get_close_matches(head, names, n=1) or difflib.get_close_matches(head.lower(), names, n=1)
    shown = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    meant = f"did you mean ${{{near[0]}}}? " if near else ""
    return InvalidArgument(
        f"The payload refers to ${{{head}}}, which no task here is called.",
        f"{meant}there are: {shown}; write $${{{head}}} for the plain text.",
    )


def _refuse_almost(payload: Json, names: Collection[str]) -> None:
    """Raise InvalidArgument for the name of a task in `${...}` that is written so that it would not be filled in."""

    def look(match: re.Match[str]) -> str:
        if match["head"] in names and not _REFERENCE.fullmatch(match[0]):
            steps = [step for step in re.split(r"[\s.\[\]'\"]+", match["rest"]) if step]
            meant = ".".join((match["head"], *steps))
            raise InvalidArgument(
                f"The payload has {match[0][:80]!r}, which is not how a result is referred to.",
                f"write ${{{meant}}}, or $${match[0][1:80]} for the plain text.",
            )
        return match[0]

    _each_string(payload, lambda text: _ALMOST.sub(look, text))


def with_stand_ins(payload: Json, stand_ins: Mapping[str, Json]) -> Json:
    """The payload with each of its fields that refers to a result, and is named in `stand_ins`, replaced by what stands there.

    For a check of what is known already: a number may come from a result that is not there yet.
    """
    if not isinstance(payload, dict) or not any("${" in value for value in payload.values() if isinstance(value, str)):
        return payload
    return {
        name: stand_ins[name] if name in stand_ins and isinstance(value, str) and heads(value) else value
        for name, value in payload.items()
    }


def rename_references(payload: Json, names: Mapping[str, str]) -> Json:
    """The payload with references to the keys of `names` turned into references to their values."""

    def rename(match: re.Match[str]) -> str:
        head = match["head"]
        return f"${{{names[head]}{match['path']}}}" if head in names else match[0]

    return _each_string(payload, lambda text: _REFERENCE.sub(rename, text))


def resolve(payload: Json, results: Mapping[str, Json]) -> Json:
    """The payload with its references replaced by values from `results`, and escapes undone.

    Raises Permanent for a path that is not in the result: running the task again could not help.
    """

    def fill(text: str) -> Json:
        whole = _REFERENCE.fullmatch(text)
        if whole is not None and whole["head"] in results:
            return _follow(results[whole["head"]], whole["head"], whole["path"])
        return _REFERENCE.sub(lambda match: _as_text(match, results), text)

    return _each_string(payload, fill)


def _as_text(match: re.Match[str], results: Mapping[str, Json]) -> str:
    head = match["head"]
    if head is None:
        return "${"
    if head not in results:
        return match[0]
    value = _follow(results[head], head, match["path"])
    return value if isinstance(value, str) else dumps(value)


def _follow(value: Json, head: str, path: str) -> Json:
    for step in path.split(".")[1:]:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise Permanent(
                f"The payload refers to ${{{head}{path}}}, but the result of {head} has no {step!r} there"
                f" ({_shape(value)}).",
                "publish the task again with a path that the result has.",
            )
    return value


def _shape(value: Json) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(sorted(value)[:8]) or 'no fields'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "null" if value is None else f"a {type(value).__name__}"


def _each_string(value: Json, change: Callable[[str], Json]) -> Json:
    """A copy of `value` with every text in it (field names apart) replaced by what `change` makes of it."""
    if isinstance(value, str):
        return change(value) if "${" in value else value
    if isinstance(value, list):
        return [_each_string(item, change) for item in value]
    if isinstance(value, dict):
        return {name: _each_string(item, change) for name, item in value.items()}
    return value
