"""The `ai_call` handler: a task that asks a language model through the API pool."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Unpack, cast

from core.cloud.chat import Message
from core.cloud.gate import Gate
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.cloud.pool.bounds import check_bounds
from core.cloud.pool.chat_call import ChatOptions, ChatResult, check_has_text, request_of
from core.cloud.pool.grant import PoolGrant
from core.cloud.pool.selection import WHEN_LIMITED, check_strategy, check_when_limited
from core.cloud.queue.graph import heads, with_stand_ins
from core.cloud.queue.submission import AI_CALL
from core.errors import AllEndpointsFailed, HeablcoinError, Permanent
from core.json_types import Json, JsonObject, dumps

NAME = AI_CALL
TEXTS = ("system", "model", "endpoint", "strategy", "when_limited")
NUMBERS = ("max_tokens", "temperature", "deadline", "max_retries")
FIELDS = ("prompt", "messages", *TEXTS, *NUMBERS, "json")
STAND_INS: JsonObject = {
    "messages": [{"role": "user", "content": "${}"}],
    "strategy": "priority",
    "when_limited": "next",
    "max_tokens": 1,
    "temperature": 1,
    "deadline": 1,
    "max_retries": 1,
    "json": False,
}
"""What a field may be while it still refers to a result."""
EXAMPLE = '{"prompt": "Summarise: ${task_id.text}", "max_tokens": 500}'


class AnswerNotJsonError(HeablcoinError):
    """A model that was asked for JSON answered something else; another try may do better."""


class ChatPool(Protocol):
    """The part of ApiManager that ai_call needs."""

    async def achat(
        self, messages: str | Sequence[Message], *, grant: PoolGrant | None = None, **options: Unpack[ChatOptions]
    ) -> ChatResult: ...

    def gate(self, changed: Callable[[], None]) -> Gate: ...

    def usable(self) -> set[str]: ...

    def lacking(self, endpoint: str = "") -> str: ...

    def on_usable(self, changed: Callable[[], None]) -> None: ...


def register_ai_call(registry: HandlerRegistry, manager: ChatPool) -> None:
    """Have `ai_call` tasks run on `manager`: those bound to an endpoint only when this process has that one's key."""

    async def ai_call(payload: Json, context: TaskContext) -> Json:
        """Ask a language model; see parse() for the payload and as_result() for the result."""
        messages, options = parse(payload)
        try:
            answer = await manager.achat(messages, grant=cast("PoolGrant | None", context.grant), **options)
        except AllEndpointsFailed as failure:
            if failure.final:
                raise Permanent(failure.message, failure.fix) from failure
            raise
        check_has_text(answer, options.get("max_tokens"))
        return as_result(answer, wants_json=options.get("json", False))

    def capabilities() -> list[str]:
        usable = manager.usable()
        return (
            [NAME, *(f"{NAME}:{each}" for each in WHEN_LIMITED), *(f"{NAME}@{each}" for each in usable)]
            if usable
            else []
        )

    def lacking(capability: str) -> str:
        return manager.lacking(capability.partition("@")[2])

    gate = manager.gate(registry.reopen)
    registry.register(NAME, ai_call, capabilities=capabilities, lacking=lacking, check=check, gate=gate)
    manager.on_usable(registry.announce)


def check(payload: Json) -> None:
    """Raise Permanent or InvalidArgument for a payload that ai_call could only fail with."""
    if isinstance(payload, str) and heads(payload):
        return
    messages, options = parse(with_stand_ins(payload, STAND_INS))
    request_of(messages, options)
    check_strategy(options.get("strategy", "priority"))
    check_when_limited(options.get("when_limited"))
    check_bounds(options.get("max_retries", 3), options.get("deadline"))


def parse(payload: Json) -> tuple[str | Sequence[Message], ChatOptions]:
    """The messages and options of `{prompt | messages, system, model, endpoint, strategy, when_limited, max_tokens, temperature,
    json, deadline, max_retries}`. Raises Permanent that says what is wrong; values are checked by the pool.
    """
    if isinstance(payload, str):
        payload = {"prompt": payload}
    if not isinstance(payload, dict):
        raise Permanent("The payload of ai_call is not an object.", f"publish it with a payload such as {EXAMPLE}")
    unknown = sorted(payload.keys() - set(FIELDS))
    if unknown:
        raise Permanent(
            f"ai_call does not know {', '.join(repr(name[:40]) for name in unknown[:5])}.",
            f"use only: {', '.join(FIELDS)}.",
        )
    given = {name: value for name, value in payload.items() if value is not None}
    prompt, messages = given.pop("prompt", None), given.pop("messages", None)
    if (prompt is None) == (messages is None):
        raise Permanent("ai_call needs either a prompt or messages.", f"publish it with a payload such as {EXAMPLE}")
    _check_types(given)
    options = cast(ChatOptions, given)
    if prompt is not None:
        # A reference that is the whole prompt brings the other task's result as it is, perhaps an object.
        return prompt if isinstance(prompt, str) else dumps(prompt), options
    if not isinstance(messages, list):
        raise Permanent("ai_call has messages that are not a list.", 'write [{"role": "user", "content": "Hello"}].')
    return cast("Sequence[Message]", messages), options


def _check_types(given: Mapping[str, Json]) -> None:
    for name in TEXTS:
        if not isinstance(given.get(name, ""), str):
            raise Permanent(
                f"ai_call has a {name} that is not text.", f"give {name} as a text in quotes, or leave it out."
            )
    for name in NUMBERS:
        if isinstance(given.get(name, 0), bool) or not isinstance(given.get(name, 0), (int, float)):
            raise Permanent(f"ai_call has a {name} that is not a number.", f"give {name} as a number, or leave it out.")
    if not isinstance(given.get("json", False), bool):
        raise Permanent("ai_call has a json that is not true or false.", "write true or false, without quotes.")


def as_result(answer: ChatResult, *, wants_json: bool) -> JsonObject:
    """`{text, endpoint, model, usage, cost, latency, finish_reason, attempts}`, `reasoning` when the model showed some, `adapted` when the
    endpoint refuses part of the request, and `data` when JSON was asked for. Raises AnswerNotJsonError, or Permanent for JSON that was cut
    off by its limit of tokens.
    """
    result: JsonObject = {
        "text": answer.text,
        "endpoint": answer.endpoint,
        "model": answer.model,
        "usage": {"tokens_in": answer.usage.tokens_in, "tokens_out": answer.usage.tokens_out},
        "cost": answer.cost,
        "latency": round(answer.latency, 3),
        "finish_reason": answer.finish_reason,
        "attempts": [
            {
                "endpoint": attempt.endpoint,
                "outcome": str(attempt.outcome),
                "reason": attempt.reason,
                "latency": round(attempt.latency, 3),
            }
            for attempt in answer.attempts
        ],
    }
    if answer.reasoning:
        result["reasoning"] = answer.reasoning
    if answer.adapted:
        result["adapted"] = list(answer.adapted)
    if wants_json:
        try:
            result["data"] = json_of(answer.text)
        except AnswerNotJsonError:
            if answer.finish_reason == "length":
                raise Permanent("The JSON was cut off by the limit of tokens.", "raise max_tokens") from None
            raise
    return result


def json_of(text: str) -> Json:
    """The JSON in a model's answer, also inside a Markdown fence. Raises AnswerNotJsonError."""
    body = text.strip()
    if body.startswith("```"):
        body = body.removeprefix("```").removeprefix("json").strip().removesuffix("```").strip()
    try:
        return cast(Json, json.loads(body, parse_constant=_refuse))
    except (ValueError, RecursionError) as error:
        raise AnswerNotJsonError(
            "The model was asked for JSON and answered something else.", "say in the prompt which JSON you want."
        ) from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
