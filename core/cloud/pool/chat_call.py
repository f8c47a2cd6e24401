"""A chat call of the pool: what can be asked, and what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from core.cloud.chat import ChatAnswer, ChatRequest, Message
from core.cloud.endpoint import is_whole
from core.cloud.pool.attempt_records import AttemptRecord
from core.cloud.pool.pool import NO_USAGE, ReportedUsage
from core.cloud.replies.retry_after import exhausted_for
from core.cloud.replies.token_counts import tokens_of
from core.errors import InvalidArgument, Permanent

JSON_NEEDS = frozenset({"response_format"})
"""What a call that asks for JSON cannot do without."""


class ChatOptions(TypedDict, total=False):
    """Keyword arguments of `chat`, `achat` and `astream`; all may be left out."""

    model: str
    """Instead of the endpoint's own."""
    endpoint: str
    """Only this endpoint; '' for any."""
    system: str
    """System prompt."""
    strategy: str
    """`priority` unless said otherwise."""
    max_tokens: int | None
    temperature: float | None
    json: bool
    """Ask for one JSON object."""
    deadline: float | None
    """Seconds for everything; 120 if None."""
    max_retries: int
    """Attempts in all; 3 unless said otherwise."""
    hedge_after: float | str | None
    """Seconds, or "p95", after which a second endpoint is asked too. Not for `astream`."""
    when_limited: str
    """`next` or `wait`, as in `call_with_retry`; '' for what the pool was set to."""


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A complete answer."""

    text: str
    """'' when the model gave none: `finish_reason` says why."""
    endpoint: str
    """Name of the endpoint that gave it."""
    model: str
    """As the provider names it."""
    usage: ReportedUsage
    """tokens_in, tokens_out."""
    cost: float
    """By the endpoint's prices."""
    latency: float
    """Seconds of the attempt that succeeded."""
    attempts: tuple[AttemptRecord, ...]
    """All attempts, the last being the one that succeeded (or a hedge that was cancelled)."""
    finish_reason: str
    """`stop`, `length`, `content_filter`, `tool_calls`."""
    reasoning: str = ""
    """What the model thought before it answered, as far as the provider shows it."""
    adapted: tuple[str, ...] = ()
    """Fields that were sent otherwise than asked, or not at all, because the endpoint refuses them (`temperature`)."""


def check_has_text(answer: ChatResult, max_tokens: int | None) -> None:
    """For callers that need a text. Raises Permanent, which says what to change, unless the answer has one.

    Asking again as before would be paid for again, and end the same way.
    """
    if answer.text.strip():
        return
    limit = f" (it was {max_tokens})" if max_tokens else ""
    spent = answer.usage.tokens_out
    if answer.finish_reason == "length":
        where = "went into reasoning" if answer.reasoning.strip() else "were spent before the first word"
        said = f"all {spent} tokens {where}" if spent else f"all tokens it may use {where}"
        fix = f"raise max_tokens{limit}, or choose a model or settings that reason less"
    elif answer.finish_reason == "tool_calls":
        said = "it called a tool instead"
        fix = "take the tools out of the endpoint's extra_body, or say in the prompt to answer in words"
    elif answer.finish_reason == "content_filter":
        said, fix = "the provider filtered it", "put the request otherwise, or ask another model"
    else:
        said = f"it stopped ({answer.finish_reason}){' after reasoning' if answer.reasoning.strip() else ''}"
        fix = "say in the prompt what to answer, or ask another model"
    raise Permanent(f"The answer of {answer.endpoint} ({answer.model}) has no text: {said}.", fix)


def request_of(messages: str | Sequence[Message], options: ChatOptions) -> ChatRequest:
    """The request that goes to providers. Raises InvalidArgument for messages or numbers that none would take."""
    max_tokens, temperature = options.get("max_tokens"), options.get("temperature")
    if max_tokens is not None and (not is_whole(max_tokens) or max_tokens < 1):
        raise InvalidArgument(
            f"max_tokens must be a whole number of at least 1, not {max_tokens!r}.",
            "give a number such as 500, or leave it out",
        )
    if temperature is not None and not 0 <= temperature <= 2:
        raise InvalidArgument(
            f"temperature must be between 0 and 2, not {temperature!r}.", "give a number such as 0.7, or leave it out"
        )
    return ChatRequest(
        as_messages(messages),
        options.get("model", ""),
        max_tokens,
        temperature,
        options.get("json", False),
        options.get("system", ""),
    )


def as_messages(messages: object) -> Sequence[Message]:
    """A list of messages; one text becomes the user's only message."""
    if isinstance(messages, str) and messages.strip():
        messages = [{"role": "user", "content": messages}]
    fix = 'pass a text, or a list such as [{"role": "user", "content": "Hello"}]'
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise InvalidArgument("There are no messages to send.", fix)
    for message in messages:
        # The type first: for a dict it saves asking an abstract class.
        if (
            (type(message) is not dict and not isinstance(message, Mapping))
            or not isinstance(message.get("role"), str)
            or "content" not in message
        ):
            raise InvalidArgument("Each message must have a role and content.", fix)
    return messages


def usage_of(result: Any, epoch: float) -> ReportedUsage:
    """What a result says in a way that is known: tokens, and in its headers whether its limits are used up."""
    tokens_in, tokens_out = (
        (result.usage.tokens_in, result.usage.tokens_out) if isinstance(result, ChatAnswer) else tokens_of(result)
    )
    left = exhausted_for(result.headers, epoch) if isinstance(result, ChatAnswer) and result.headers else None
    return ReportedUsage(tokens_in, tokens_out, left) if tokens_in or tokens_out or left else NO_USAGE
