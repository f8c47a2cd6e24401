"""A chat call and its answer, independent of the wire format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core.json_types import Json

Message = Mapping[str, Json]
"""One chat message: `role` (system, user, assistant, tool) and `content` (text, or the provider's own list of parts)."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class ChatRequest:
    """One chat call, independent of the wire format."""

    messages: Sequence[Message]
    model: str
    max_tokens: int | None = None
    """Most tokens to generate; None leaves it to the provider (or to its format's default)."""
    temperature: float | None = None
    json: bool = False
    """Ask for an answer that is one JSON object."""
    system: str = ""
    """Goes before the messages, in the way the format wants it."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class Usage:
    """Tokens a call was charged for; 0 where the provider did not say."""

    tokens_in: int = 0
    tokens_out: int = 0

    def __reduce__(self) -> tuple[type["Usage"], tuple[int, int]]:
        # Errors carry it, and slots alone cannot be pickled by the oldest protocols.
        return Usage, (self.tokens_in, self.tokens_out)


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class ChatAnswer:
    """A complete answer."""

    text: str
    """'' when the model said nothing but why it stopped: all its tokens went into reasoning, or it called a tool."""
    model: str
    """The model that answered, as the provider names it."""
    usage: Usage
    finish_reason: str
    """Why it stopped, in OpenAI's words: `stop`, `length`, `content_filter`, `tool_calls`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Response headers that tell of limits and request ids, names in lower case."""
    reasoning: str = ""
    """What the model thought before it answered, as far as the provider shows it."""
    adapted: tuple[str, ...] = ()
    """Fields that were sent otherwise than asked, or not at all, because the endpoint refuses them."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class ChatChunk:
    """A piece of a streamed answer; the last one has `finish_reason`."""

    text: str
    """'' in a piece that holds only reasoning, or nothing but a sign that the model is at work."""
    finish_reason: str | None = None
    usage: Usage | None = None
    """Tokens of the whole answer as told up to here: the newest holds. Mostly the last piece has it, often others too."""
    endpoint: str = ""
    """Name of the endpoint that answers; filled in by the pool."""
    reasoning: str = ""
    """A piece of what the model thinks before it answers."""
    adapted: tuple[str, ...] = ()
    """As in ChatAnswer; with the finish reason."""
