"""JSON Schemas as strict hosts accept them: flat, with no `anyOf`, no `$ref`, no `title` noise.

Results are TypedDicts. Their schema is read off the type hints here instead of through pydantic, which would put nested
records behind `$ref` and cost start-up time for validators that nothing calls.
"""

import builtins
import typing
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, ForwardRef, NotRequired, Required, get_args, get_origin, is_typeddict

from core.json_types import Json, JsonObject

SCALARS: Mapping[object, str] = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


class Untrusted:
    """Marks a result's field whose value comes from outside: a payload, an LLM's answer, somebody's error text."""


UNTRUSTED = Untrusted()
NOTICE = "notice"


def result_schema(record: type) -> JsonObject:
    """The schema of a TypedDict, nested records written out in place."""
    properties: JsonObject = {}
    required: list[Json] = []
    for name, hint in record.__annotations__.items():
        inner, is_required = _presence(hint, name in getattr(record, "__required_keys__", ()))
        properties[name] = _schema(inner)
        if is_required:
            required.append(name)
    if untrusted_keys(record) and is_typeddict(record):
        properties[NOTICE] = {"type": "string"}
    schema: JsonObject = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema


def untrusted_keys(record: type) -> frozenset[str]:
    """Names of the fields, at any depth, that are marked UNTRUSTED."""
    found: set[str] = set()
    for name, hint in record.__annotations__.items():
        if UNTRUSTED in _metadata(hint):
            found.add(name)
        for part in _records_in(hint):
            found |= untrusted_keys(part)
    return frozenset(found)


def strip_noise(schema: JsonObject) -> JsonObject:
    """A copy of a pydantic schema without generated titles; refuses what strict hosts cannot read."""

    def clean(value: Json, *, is_schema: bool) -> Json:
        if isinstance(value, list):
            return [clean(item, is_schema=False) for item in value]
        if not isinstance(value, dict):
            return value
        if is_schema and (refused := {"anyOf", "oneOf", "allOf", "$ref", "$defs"} & value.keys()):
            raise TypeError(f"a tool's schema may not contain {', '.join(sorted(refused))}")
        return {
            key: (
                {name: clean(part, is_schema=True) for name, part in item.items()}
                if key == "properties" and isinstance(item, dict)
                else clean(item, is_schema=key == "items")
            )
            for key, item in value.items()
            if not (is_schema and key == "title")
        }

    cleaned = clean(schema, is_schema=True)
    assert isinstance(cleaned, dict)  # noqa: S101 - narrows for the type checker
    return cleaned


def _presence(hint: Any, in_required_keys: bool) -> tuple[Any, bool]:
    origin = get_origin(hint)
    if origin is Required:
        return get_args(hint)[0], True
    if origin is NotRequired:
        return get_args(hint)[0], False
    return hint, in_required_keys


def _metadata(hint: Any) -> tuple[object, ...]:
    if get_origin(hint) in (Required, NotRequired):
        return _metadata(get_args(hint)[0])
    if get_origin(hint) is Annotated:
        return tuple(get_args(hint)[1:])
    return ()


def _records_in(hint: Any) -> list[type]:
    if is_typeddict(hint):
        return [hint]
    return [record for part in get_args(hint) if not isinstance(part, str) for record in _records_in(part)]


def _schema(hint: Any) -> JsonObject:
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
        described = [extra for extra in extras if isinstance(extra, str)]
        return {**_schema(base), **({"description": described[0]} if described else {})}
    if hint is Any or hint == Json or isinstance(hint, ForwardRef):
        return {}
    if is_typeddict(hint):
        return result_schema(hint)
    return _container(hint) or {"type": SCALARS[hint]}


def _container(hint: Any) -> JsonObject:
    parts = get_args(hint)
    match get_origin(hint):
        case typing.Literal:
            return {"type": "string", "enum": list(parts)}
        case builtins.list:
            return {"type": "array", "items": _schema(parts[0])}
        case builtins.dict:
            return {"type": "object", "additionalProperties": _schema(parts[1])}
    return {}
