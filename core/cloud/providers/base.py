"""What the pool asks of a provider, and how a provider says that it went wrong."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from core.cloud.pool.endpoint import ApiEndpoint
from core.cloud.pool.refusal import Told
from core.errors import HeablcoinError
from core.json_types import Json

ErrorKind = Literal["connect", "timeout", "status", "protocol", "empty", "cut"]
"""How a call failed.

- `connect`: no request reached the server (refused, DNS, TLS, not reachable in time)
- `timeout`: the answer, its first token, or the pause between two tokens took too long
- `status`: the server answered with an HTTP error; `ProviderError.status` says which
- `protocol`: the answer is not what the wire format promises (not JSON, redirect, wrong content type, too large)
- `empty`: a well-formed answer with nothing in it, or nothing but the news that it was filtered (code `content_filter`)
- `cut`: the answer broke off: connection lost, or the stream ended without saying that it was finished
"""

Message = Mapping[str, Json]
"""One chat message: `role` (system, user, assistant, tool) and `content` (text, or the provider's own list of parts)."""


class ProviderError(HeablcoinError):
    """A call to a provider that gave no usable answer. Carries no key and no more than a short excerpt of the body."""

    def __init__(
        self,
        message: str,
        fix: str = "",
        *,
        kind: ErrorKind,
        status: int = 0,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        partial: str = "",
        usage: "Usage | None" = None,
        told: Told | None = None,
    ) -> None:
        super().__init__(message, fix)
        self.kind: ErrorKind = kind
        self.status = status
        """HTTP status, also of an answer that is wrong in another way; 0 when there was none."""
        self.code = code
        """The provider's own error code or type (`insufficient_quota`, `overloaded_error`), '' when it gave none."""
        self.headers: Mapping[str, str] = {} if headers is None else headers
        """Response headers that tell of limits and request ids, names in lower case (`retry-after`, `x-ratelimit-...`)."""
        self.partial = partial
        """Text of a stream received before it failed."""
        self.usage = usage
        """Tokens that were told although it failed; None when none were."""
        self.told = told
        """What the whole body says of the request, where there was one: a limit, a wait, what to change."""


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


class Provider(Protocol):
    """One wire format over one transport. Safe to share by threads and event loops."""

    async def chat(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> ChatAnswer:
        """The whole answer within `timeout` seconds. Raises ProviderError; UrlRefused or KeyUnusable before anything is sent."""
        ...

    def stream(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> AsyncIterator[ChatChunk]:
        """The answer as it comes; `timeout` seconds bound the wait for the first token, and each pause after it as well.

        Reasoning is a token like any other, and so is work that cannot be shown: it comes as a piece with an empty text.

        Ends only after a finish reason; everything else raises ProviderError with the text so far in `partial`.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections of this event loop; those of other loops are closed when their loop next runs us."""
        ...
