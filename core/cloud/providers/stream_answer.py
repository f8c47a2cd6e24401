"""A streamed answer as it grows: bytes in, pieces of text out, and whether it ended as it should. Pure."""

from collections.abc import Iterator

from core.cloud.providers.base import ChatChunk, Usage
from core.cloud.providers.sse import EventError, SseDecoder
from core.cloud.providers.wire import Delta, WireError, WireFormat
from core.network.http import MAX_BODY


class StreamAnswer:
    """One stream of one wire format."""

    def __init__(self, wire: WireFormat) -> None:
        self.finish_reason = ""
        """Why the model stopped; '' while it has not."""
        self.ended = False
        """The format says that nothing more will come."""
        self.progress = False
        """The bytes last fed held a sign that the model is at work."""
        self._wire = wire
        self._events = SseDecoder()
        self._size = 0
        self._blank = True
        self._tokens: tuple[int | None, ...] = (None, None)

    def feed(self, piece: bytes) -> Iterator[str]:
        """The text in `piece`. Raises WireError, after the text that came before the fault."""
        self.progress = False
        try:
            for event in self._events.feed(piece):
                delta = self._wire.event(event)
                self._add(delta)
                if delta.text:
                    yield delta.text
        except EventError as error:
            raise WireError(f"is no event stream: {error}") from None

    def _add(self, delta: Delta) -> None:
        self._size += len(delta.text)
        if self._size > MAX_BODY:
            raise WireError("is too long", code="too_large")
        self._blank = self._blank and not delta.text.strip()
        self.progress = self.progress or delta.progress
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.ended = self.ended or delta.end
        self._tokens = tuple(old if new is None else new for old, new in zip(self._tokens, delta.tokens, strict=True))

    def timed_out(self) -> WireError:
        """What it means that nothing more came in time."""
        if self._size:
            return WireError("stopped coming between two tokens", kind="timeout", code="stall")
        return WireError("did not start in time", kind="timeout", code="first_token")

    def last_chunk(self) -> ChatChunk:
        """The end. Raises WireError unless the answer has some text and said why it stopped."""
        if not self.finish_reason:
            raise WireError("ended without a finish reason", kind="cut", code="no_finish_reason")
        if self._blank:
            raise empty_answer(self.finish_reason)
        usage = None if self._tokens == (None, None) else Usage(*(count or 0 for count in self._tokens))
        return ChatChunk("", self.finish_reason, usage)


def empty_answer(finish_reason: str) -> WireError:
    return WireError(f"has no text (finish reason {finish_reason[:30]})", kind="empty", code=finish_reason[:30])
