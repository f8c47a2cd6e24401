"""What stands in `Annotated[...]` beside a tool's parameter: its rule, its description, its one flat JSON type.

Clients send lists and objects as JSON text, numbers as text, one string where a list is meant. The schema states one type,
because strict hosts refuse a choice; at run time both forms are read.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from core.cloud.task import TaskPriority
from core.errors import InvalidArgument
from core.json_types import JsonObject

MAX_WAIT = 55
"""Seconds a tool may block: some hosts kill a call at 60."""
DEFAULT_WAIT = 45.0
WEEK = 7 * 86_400
YEAR = 366 * 86_400
MAX_NAME = 200

StatusFilter: TypeAlias = Literal[
    "any", "pending", "acknowledged", "running", "completed", "failed", "cancelled", "expired"
]
"""A status to filter by. No host accepts an empty string in an enum, so the absence of a filter has a name."""


def text(description: str, *, least: int = 0, most: int = MAX_NAME) -> Any:
    """One string of `least` to `most` characters."""
    return Field(description=description, min_length=least or None, max_length=most)


def number(description: str, low: float, high: float) -> Any:
    """A finite number from `low` to `high`."""
    return Field(description=description, ge=low, le=high, allow_inf_nan=False)


def whole(description: str, low: int, high: int) -> Any:
    """A whole number from `low` to `high`."""
    return Field(description=description, ge=low, le=high)


def choice(description: str) -> Any:
    """One of a Literal's values, or true or false: the annotation says which."""
    return Field(description=description)


any_when_empty = BeforeValidator(lambda value: "any" if value in ("", None) else value)

SPELLINGS = {"all": "any", "canceled": "cancelled"}
_COMMAS = re.compile("[,，、]")
_WRAPPED_ID = re.compile(r"(?:task://|\$\{)?(?P<id>[^\s{}]+?)\}?")
_HEX_ID = re.compile(r"[0-9a-fA-F]{16}")


def as_meant(value: Any, stated: JsonObject) -> Any:
    """`value`, or the word of the stated enum that differs from it in case or spelling only."""
    words = stated.get("enum")
    if not (isinstance(words, list) and isinstance(value, str)):
        return value
    word = value.strip().lower()
    word = word if word in words else SPELLINGS.get(word, word)
    return word if word in words else value


def read_priority(value: Any) -> Any:
    """`"high"` as 3; anything else as it is."""
    name = value.strip().upper() if isinstance(value, str) else ""
    return TaskPriority[name].value if name in TaskPriority.__members__ else value


def read_id(value: Any) -> Any:
    """A task's id out of `task://ID` or `${ID}`, as our own answers and payloads write it."""
    found = _WRAPPED_ID.fullmatch(value.strip().strip("\"'`")) if isinstance(value, str) else None
    if found is None:
        return value
    return found["id"].lower() if _HEX_ID.fullmatch(found["id"]) else found["id"]


priority_words = BeforeValidator(read_priority)
id_forms = BeforeValidator(read_id)


@dataclass(frozen=True)
class _Reads:
    """A rule that reads several forms of a value and states one JSON type."""

    description: str
    read: Callable[[Any], Any]
    then: CoreSchema
    states: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, self.then)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**self.states, "description": self.description}


def json_value(description: str) -> _Reads:
    """Any JSON value, or JSON text of one; '' is an empty object."""
    return _Reads(description, read_json, core_schema.any_schema(), {"type": "string"})


def json_or_text(description: str) -> _Reads:
    """Any JSON value, JSON text of one, or plain text."""
    return _Reads(description, read_json_or_text, core_schema.any_schema(), {"type": "string"})


def ids(description: str, *, least: int = 0, most: int = 100) -> _Reads:
    """Task ids as `names` reads names, each in any form that `read_id` knows."""
    return names(description, least=least, most=most, read=read_ids)


def names(description: str, *, least: int = 0, most: int = 100, read: Callable[[Any], Any] | None = None) -> _Reads:
    """Names in one comma-separated string, or a list of them."""
    name = core_schema.str_schema(min_length=1, max_length=MAX_NAME)
    states = {"type": "string", **({"minLength": 1} if least else {})}
    return _Reads(
        description,
        read or read_names,
        core_schema.list_schema(name, min_length=least or None, max_length=most),
        states,
    )


def objects(description: str, item: JsonObject, *, most: int) -> _Reads:
    """A list of one or more objects, or JSON text of one; `item` is the schema that states what each holds."""
    return _Reads(
        description,
        read_json,
        core_schema.list_schema(core_schema.dict_schema(core_schema.str_schema()), min_length=1, max_length=most),
        {"type": "array", "items": item, "minItems": 1},
    )


def read_json(value: Any) -> Any:
    """The value of JSON text; anything else as it is."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return {}
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:  # its words name the rule and the place, never the text
        raise InvalidArgument(
            f"is not valid JSON ({error.msg}, at character {error.pos + 1})",
            "write JSON, names and texts in double quotes",
        ) from None
    except (ValueError, RecursionError):
        raise InvalidArgument("is not valid JSON", "write JSON, nested less deeply") from None


def read_json_or_text(value: Any) -> Any:
    """The value of JSON text; plain text, like anything else, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def read_names(value: Any) -> Any:
    """`"a, b"`, `"a，b、c"`, `'["a", "b"]'` and `["a", "b"]` as lists."""
    if not isinstance(value, str):
        return [] if value is None else value
    if value.lstrip().startswith("["):
        return read_json(value)
    return [part.strip() for part in _COMMAS.split(value) if part.strip()]


def read_ids(value: Any) -> Any:
    """What `read_names` reads, each without what is written around an id."""
    found = read_names(value)
    return [read_id(one) for one in found] if isinstance(found, list) else found
