"""A streamed answer as it grows: bytes in, pieces of it out, and whether it ended as it should. Pure."""

from collections.abc import Iterator

from core.cloud.chat import ChatChunk, Usage
from core.cloud.providers.sse import Event, EventError, SseDecoder
from core.cloud.providers.told_error import error_told
from core.cloud.providers.wire_format import (
    NOT_COUNTED,
    Delta,
    WireError,
    WireFormat,
    as_usage,
    more_tokens,
    parse_json,
)
from core.cloud.replies.token_counts import TokenCounts, plausible
from core.network.http import MAX_BODY


class StreamAnswer:
    """One stream of one wire format, from the endpoint named `who`."""

    def __init__(self, wire: WireFormat, who: str = "an endpoint") -> None:
        self.who = who
        self.finish_reason = ""
        """Why the model stopped; '' while it has not."""
        self.ended = False
        """The format says that nothing more will come, but for token usage."""
        self.progress = False
        """The bytes last fed held a sign that the model is at work."""
        self.tokens: TokenCounts = NOT_COUNTED
        """As told so far."""
        self.model = ""
        """The model that answers, as the provider names it."""
        self._wire = wire
        self._events = SseDecoder()
        self._size = 0
        self._blank = True
        self._reasoned = False
        self._calls_tool = False
        self._worked = False
        self._told = NOT_COUNTED
        """Those of the tokens that a chunk carried already."""

    @property
    def usage(self) -> Usage | None:
        """As told so far; None when nothing was."""
        return as_usage(self.tokens)

    def feed(self, piece: bytes) -> Iterator[ChatChunk]:
        """What `piece` adds. Raises WireError, after what came before the fault."""
        self.progress = False
        try:
            for event in self._events.feed(piece):
                for one in _apart(event):
                    yield from self._take(one)
        except EventError as error:
            raise WireError(f"is no event stream: {error}") from None

    def finish(self) -> Iterator[ChatChunk]:
        """The bytes are over: what is left, then the end. Raises WireError unless it is an answer that said why it stopped."""
        last = self._events.last_event()
        if last is not None and _is_whole(last):
            try:
                for one in _apart(last):
                    yield from self._take(one)
            except WireError:
                if not self.finish_reason:
                    raise
        if self._events.stray and not (self._size or self.finish_reason):
            yield from self._whole(self._events.stray)
        yield self._last_chunk()

    def timed_out(self) -> WireError:
        """What it means that nothing more came in time."""
        if self._worked:
            return WireError("stopped coming between two tokens", kind="timeout", code="stall")
        return WireError("did not start in time", kind="timeout", code="first_token")

    def _take(self, event: Event) -> Iterator[ChatChunk]:
        try:
            delta = self._wire.event(event)
        except WireError as error:
            self._count(error.tokens)
            raise
        if self.ended:
            # Nothing belongs to the answer any more but what it cost.
            self._count(delta.tokens)
            return
        self._add(delta)
        if delta.progress:
            yield self._chunk(delta)

    def _add(self, delta: Delta) -> None:
        self._count(delta.tokens)
        self._size += len(delta.text) + len(delta.reasoning)
        if self._size > MAX_BODY:
            raise WireError("is too long", code="too_large")
        self._blank = self._blank and not delta.text.strip()
        self._reasoned = self._reasoned or bool(delta.reasoning)
        self._calls_tool = self._calls_tool or delta.calls_tool
        self.progress = self.progress or delta.progress
        self._worked = self._worked or delta.progress
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.ended = self.ended or delta.end
        self.model = self.model or delta.model

    def _count(self, tokens: TokenCounts) -> None:
        if tokens != NOT_COUNTED:
            self.tokens = more_tokens(self.tokens, plausible(tokens, self.who))

    def _chunk(self, delta: Delta) -> ChatChunk:
        usage = None
        if self.tokens != self._told:
            self._told, usage = self.tokens, self.usage
        return ChatChunk(delta.text, usage=usage, reasoning=delta.reasoning)

    def _whole(self, text: str) -> Iterator[ChatChunk]:
        """An answer, or an error, that came as plain JSON although an event stream was announced."""
        body = parse_json(text)
        if not isinstance(body, dict):
            raise WireError("is no event stream")
        error = error_told(body)
        if error is not None:
            raise error
        delta = self._wire.answer(body)
        self._add(delta)
        yield self._chunk(delta)

    def _last_chunk(self) -> ChatChunk:
        if not self.finish_reason:
            raise WireError("ended without a finish reason", kind="cut", code="no_finish_reason")
        self.finish_reason = checked_finish(
            self.finish_reason, blank=self._blank, reasoned=self._reasoned, calls_tool=self._calls_tool
        )
        return ChatChunk("", self.finish_reason, self.usage)


def checked_finish(finish_reason: str, *, blank: bool, reasoned: bool, calls_tool: bool) -> str:
    """Why the model stopped. Raises WireError for an answer that holds nothing, and for one that was filtered away.

    One without text is an answer all the same when it says where the tokens went: it is paid for, and would be no better elsewhere.
    """
    if calls_tool and blank and finish_reason == "stop":
        return "tool_calls"
    if not blank:
        return finish_reason
    if finish_reason == "content_filter":
        raise WireError("has no text, because the provider filtered it", kind="empty", code="content_filter")
    if finish_reason == "stop" and not reasoned:
        raise WireError("has no text (finish reason stop)", kind="empty", code="stop")
    return finish_reason


def _apart(event: Event) -> list[Event]:
    """Several events where a server left out the empty lines between them; mostly the one that it is."""
    if "\n" not in event.data or _is_whole(event):
        return [event]
    return [Event(event.name, line) for line in event.data.split("\n")]


def _is_whole(event: Event) -> bool:
    """Whether an event that no empty line ended is all there."""
    if event.data.strip() == "[DONE]":
        return True
    try:
        parse_json(event.data)
    except WireError:
        return False
    return True
