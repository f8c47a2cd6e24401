"""What the pool asks of a provider, and how a provider says that it went wrong."""

from collections.abc import AsyncIterator, Mapping
from typing import Literal, Protocol

from core.cloud.chat import ChatAnswer, ChatChunk, ChatRequest, Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.replies.refusal import Told
from core.errors import HeablcoinError

ErrorKind = Literal["connect", "timeout", "status", "protocol", "empty", "cut"]
"""How a call failed.

- `connect`: no request reached the server (refused, DNS, TLS, not reachable in time)
- `timeout`: the answer, its first token, or the pause between two tokens took too long
- `status`: the server answered with an HTTP error; `ProviderError.status` says which
- `protocol`: the answer is not what the wire format promises (not JSON, redirect, wrong content type, too large)
- `empty`: a well-formed answer with nothing in it, or nothing but the news that it was filtered (code `content_filter`)
- `cut`: the answer broke off: connection lost, or the stream ended without saying that it was finished
"""


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
        usage: Usage | None = None,
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
