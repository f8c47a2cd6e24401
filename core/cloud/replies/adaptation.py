"""What an endpoint's requests are changed by, because it refuses them otherwise. Pure.

Learned from its refusals (`refusal.py`), remembered with the endpoint, applied to each request before it is sent.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from core.json_types import Json, JsonObject

MOST = 32
"""Adaptations that one endpoint may have: a server that asks for more is not spoken to in a way that helps."""
MEANING = frozenset(
    {
        "response_format",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "structured_outputs",
        "output_config",
        "output_format",
        "guided_json",
        "json_schema",
        "format",
        "grammar",
    }
)
"""Fields without which an answer means something else."""
NEVER = frozenset({"model", "messages", "system", "input", "prompt"})
"""Fields without which there is no request."""
JSON_INSTRUCTION = "Answer with one JSON object and nothing else."


class How(StrEnum):
    """What is done to a field."""

    OMIT = "omit"
    RENAME = "rename"
    """`to` is its name here."""
    CAP = "cap"
    """`to` is the largest value taken here."""
    VALUE = "value"
    """Left out where its value is `to` (as JSON): the endpoint takes others, it did not say which."""
    UNLESS = "unless"
    """Left out where the field `to` is sent."""
    ROLE = "role"
    """Messages of the role `field` get the role `to`; as `user` they are merged into the user's next message."""
    INSIDE = "inside"
    """Left out of each message."""


@dataclass(frozen=True, slots=True)
class Adaptation:
    """One change."""

    how: How
    field: str
    to: str = ""
    model: str = ""
    """The model that refused; '' for any."""

    @property
    def name(self) -> str:
        """What is told of it with an answer: the field, `system role`, or `messages.name`."""
        if self.how is How.ROLE:
            return f"{self.field} role"
        return f"messages.{self.field}" if self.how is How.INSIDE else self.field

    @property
    def loses(self) -> bool:
        """Without it the answer means something else, so endpoints that take it go first."""
        return self.how is How.OMIT and self.field in MEANING

    def __str__(self) -> str:
        return {
            How.OMIT: f"{self.name} left out",
            How.RENAME: f"{self.name} sent as {self.to}",
            How.CAP: f"{self.name} at most {self.to}",
            How.VALUE: f"{self.name} left out where it is {self.to}",
            How.UNLESS: f"{self.name} left out beside {self.to}",
            How.ROLE: f"{self.name} sent as {self.to}",
            How.INSIDE: f"{self.name} left out",
        }[self.how]


def merged(known: Sequence[Adaptation], found: Iterable[Adaptation]) -> tuple[Adaptation, ...]:
    """`known` and what is new in `found`, in order, of caps the lower; never more than MOST."""
    result = list(known)
    for one in found:
        if one in result:
            continue
        if one.how is How.CAP:
            result = [old for old in result if (old.how, old.field, old.model) != (one.how, one.field, one.model)]
        result.append(one)
    return tuple(result[:MOST])


def described(adaptations: Iterable[Adaptation], own: str) -> list[str]:
    """In words; the model is named where it is not the endpoint's `own`."""
    return [f"{one} ({one.model})" if one.model not in {"", own} else str(one) for one in adaptations]


def to_text(adaptations: Iterable[Adaptation]) -> str:
    """As JSON, for a store."""
    return json.dumps([[str(one.how), one.field, one.to, one.model] for one in adaptations], ensure_ascii=False)


def from_text(text: str) -> tuple[Adaptation, ...]:
    """From JSON; what only a newer version knows is left out."""
    found = []
    for how, field, to, model in json.loads(text):
        with suppress(ValueError):
            found.append(Adaptation(How(how), field, to, model))
    return tuple(found)


def adapt(body: JsonObject, adaptations: Iterable[Adaptation]) -> tuple[str, ...]:
    """Change a request's body (its messages are replaced, not changed); the names of what was changed."""
    # Roles last: leaving a field out may put a system message in its place.
    model = body.get("model")
    ordered = sorted((one for one in adaptations if one.model in {"", model}), key=lambda one: one.how is How.ROLE)
    return tuple(dict.fromkeys(one.name for one in ordered if _CHANGES[one.how](body, one)))


def _omit(body: JsonObject, one: Adaptation) -> bool:
    if one.field not in body:
        return False
    dropped = body.pop(one.field)
    if one.field == "stream":
        body.pop("stream_options", None)
    if one.field == "response_format" and dropped != {"type": "text"}:
        _instruct(body)
    return True


def _rename(body: JsonObject, one: Adaptation) -> bool:
    if one.field not in body:
        return False
    value = body.pop(one.field)
    body.setdefault(one.to, value)
    return True


def _cap(body: JsonObject, one: Adaptation) -> bool:
    value, most = body.get(one.field), float(one.to)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= most:
        return False
    body[one.field] = int(most) if isinstance(value, int) and most >= 1 else most
    return True


def _value(body: JsonObject, one: Adaptation) -> bool:
    if one.field not in body or json.dumps(body[one.field]) != one.to:
        return False
    del body[one.field]
    return True


def _unless(body: JsonObject, one: Adaptation) -> bool:
    if one.to not in body or one.field not in body:
        return False
    del body[one.field]
    return True


def _inside(body: JsonObject, one: Adaptation) -> bool:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return False
    changed: list[Json] = [
        {name: value for name, value in message.items() if name != one.field} if isinstance(message, dict) else message
        for message in messages
    ]
    body["messages"] = changed
    return changed != messages


def _role(body: JsonObject, one: Adaptation) -> bool:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return False
    changed: list[Json] = []
    found = last = False
    for message in messages:
        renamed = isinstance(message, dict) and message.get("role") == one.field
        given = {**message, "role": one.to} if isinstance(message, dict) and renamed else message
        joined = _joined(changed[-1], given) if one.to == "user" and (renamed or last) and changed else None
        if joined is None:
            changed.append(given)
        else:
            changed[-1] = joined
        found, last = found or renamed, renamed
    if found:
        body["messages"] = changed
    return found


def _joined(first: Json, second: Json) -> Json:
    """Two messages of the user as one, None when they cannot be: servers that refuse a role often insist that roles take turns."""
    if (
        not isinstance(first, dict)
        or not isinstance(second, dict)
        or not first.get("role") == second.get("role") == "user"
    ):
        return None
    one, two = first.get("content"), second.get("content")
    if isinstance(one, str) and isinstance(two, str):
        return {**second, "content": f"{one}\n\n{two}"}
    if isinstance(one, str | list) and isinstance(two, str | list):
        return {**second, "content": [*_parts(one), *_parts(two)]}
    return None


def _parts(content: Json) -> list[Json]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _instruct(body: JsonObject) -> None:
    """Ask for JSON in words, where the field that asks for it is left out."""
    messages = body.get("messages")
    if not isinstance(messages, list) or JSON_INSTRUCTION in json.dumps(messages):
        return
    first = messages[0] if messages else None
    if isinstance(first, dict) and first.get("role") in {"system", "developer"} and isinstance(first["content"], str):
        body["messages"] = [{**first, "content": f"{first['content']}\n\n{JSON_INSTRUCTION}"}, *messages[1:]]
    else:
        body["messages"] = [{"role": "system", "content": JSON_INSTRUCTION}, *messages]


_CHANGES = {
    How.OMIT: _omit,
    How.RENAME: _rename,
    How.CAP: _cap,
    How.VALUE: _value,
    How.UNLESS: _unless,
    How.ROLE: _role,
    How.INSIDE: _inside,
}
