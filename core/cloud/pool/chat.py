"""A chat call of the pool: what can be asked, and what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from core.cloud.pool.attempts import AttemptRecord
from core.cloud.pool.endpoint import is_whole
from core.cloud.pool.outcome import exhausted_for
from core.cloud.pool.pool import NO_USAGE, Usage
from core.cloud.providers.base import ChatAnswer, ChatRequest, Message
from core.errors import InvalidArgument


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


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A complete answer."""

    text: str
    endpoint: str
    """Name of the endpoint that gave it."""
    model: str
    """As the provider names it."""
    usage: Usage
    """tokens_in, tokens_out."""
    cost: float
    """By the endpoint's prices."""
    latency: float
    """Seconds of the attempt that succeeded."""
    attempts: tuple[AttemptRecord, ...]
    """All attempts, the last being the one that succeeded (or a hedge that was cancelled)."""
    finish_reason: str
    """`stop`, `length`, `content_filter`, `tool_calls`."""


def request_of(messages: str | Sequence[Message], options: ChatOptions) -> ChatRequest:
    """The request that goes to providers. Raises InvalidArgument for messages or numbers that none would take."""
    max_tokens, temperature = options.get("max_tokens"), options.get("temperature")
    if max_tokens is not None and (not is_whole(max_tokens) or max_tokens < 1):
        raise InvalidArgument(f"max_tokens must be a whole number of at least 1, not {max_tokens!r}.")
    if temperature is not None and not 0 <= temperature <= 2:
        raise InvalidArgument(f"temperature must be between 0 and 2, not {temperature!r}.")
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


def usage_of(result: Any, epoch: float) -> Usage:
    """What a result says in a way that is known: tokens, and in its headers whether its limits are used up."""
    tokens_in, tokens_out = tokens_of(result)
    left = exhausted_for(result.headers, epoch) if isinstance(result, ChatAnswer) and result.headers else None
    return Usage(tokens_in, tokens_out, left) if tokens_in or tokens_out or left else NO_USAGE


def tokens_of(result: Any) -> tuple[int, int]:
    """Tokens in and out, from a ChatAnswer or from OpenAI's or Anthropic's `usage`, as JSON or as an SDK's object."""
    if isinstance(result, ChatAnswer):
        return result.usage.tokens_in, result.usage.tokens_out
    found = result.get("usage") if type(result) is dict else getattr(result, "usage", None)
    if found is None:
        return 0, 0
    return _count(found, "prompt_tokens", "input_tokens"), _count(found, "completion_tokens", "output_tokens")


def _count(usage: object, *names: str) -> int:
    for name in names:
        value = usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return 0
