"""Questions to the user in the middle of a task: an `ask_user` task shown as an elicitation, its answer its result. Pure."""

from collections.abc import Mapping
from typing import Any, cast

from core.cloud.task import Task
from core.errors import InvalidArgument
from core.json_types import Json, JsonObject

DEFAULT_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"answer": {"type": "string", "title": "Answer"}},
    "required": ["answer"],
}


def key_of(question: Task) -> str:
    """What the answer is to be filed under; another one each time the question is asked anew."""
    return f"{question.task_id}.{question.attempts}" if question.attempts else question.task_id


def input_request(question: Task) -> JsonObject:
    """The elicitation that puts `question` to the user. Its payload is `{"message": ..., "schema": {...}}`, or the message."""
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": _message(question), "requestedSchema": _schema(question)},
    }


def answered(question: Task, response: object) -> tuple[bool, Json]:
    """Whether the user answered, and what: the answer, or the reason why there is none.

    Raises InvalidArgument when `response` is no elicitation result or does not fit what was asked.
    """
    action = response.get("action") if isinstance(response, Mapping) else None
    if action in ("decline", "cancel"):
        return False, f"The user {'declined' if action == 'decline' else 'cancelled'} the question."
    if action != "accept":
        raise InvalidArgument("An answer needs an action: accept, decline or cancel.", "send the elicitation's result.")
    content = cast(Mapping[str, Any], response).get("content") or {}
    # Imported when needed: most servers never ask anything.
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    for error in Draft202012Validator(_schema(question)).iter_errors(content):
        where = "/".join(str(part) for part in error.absolute_path) or "The answer"
        raise InvalidArgument(
            f"{where} breaks the rule {error.validator!r} of the question.", "answer what its requestedSchema asks for."
        )
    return True, cast(Json, dict(content))


def _message(question: Task) -> str:
    payload = question.payload
    message = payload.get("message") if isinstance(payload, dict) else payload
    return message if isinstance(message, str) and message else "A background task needs your answer."


def _schema(question: Task) -> JsonObject:
    schema = question.payload.get("schema") if isinstance(question.payload, dict) else None
    if not isinstance(schema, dict):
        return DEFAULT_SCHEMA
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError:
        return DEFAULT_SCHEMA
    return schema
