"""Server-sent events, decoded as the bytes come. Pure. (WHATWG HTML, section 9.2)"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT = 4 * 1024 * 1024
"""Characters of one event before the stream counts as broken."""

MAX_STRAY = 1024 * 1024
"""Characters kept of what is no event."""

_OTHER_FIELDS = frozenset({"", "id", "retry"})
"""A comment has no name."""


class EventError(ValueError):
    """The stream is not server-sent events (too long, or not UTF-8)."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class Event:
    """One dispatched event; comments and empty events never become one."""

    name: str
    """`message` when the server gave none."""
    data: str


class SseDecoder:
    """Feed it bytes in any pieces; it gives whole events. An event cut off at the end of the stream is only in `last_event`."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8-sig")("strict")
        self._rest = ""
        self._name = ""
        self._data: list[str] = []
        self._size = 0
        self._stray: list[str] = []
        self._stray_size = 0
        self._is_stream = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes. Raises EventError."""
        try:
            text = self._rest + self._text.decode(chunk)
        except UnicodeDecodeError:
            raise EventError("the stream is not UTF-8") from None
        # A \r at the very end may be half of \r\n: it waits for the next chunk.
        held = text.endswith("\r")
        lines = (text[:-1] if held else text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + ("\r" if held else "")
        for line in lines:
            event = self._line(line)
            if event is not None:
                yield event
        if len(self._rest) + self._size > MAX_EVENT:
            raise EventError("one event is larger than 4 MiB")

    def _line(self, line: str) -> Event | None:
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                self._data.append(value)
                self._size += len(value) + 1
            elif field == "event":
                self._name = value
            elif field == "error" and value.startswith("{"):  # llama.cpp once named the field instead of the event
                self._name = "error"
                self._data.append(value)
                self._size += len(value) + 1
            elif field not in _OTHER_FIELDS and not self._is_stream:
                self._keep_stray(line)
            return None
        event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        self._is_stream = self._is_stream or event is not None
        return event

    def last_event(self) -> Event | None:
        """At the end of the stream: the event that no empty line ended, which may be cut off. None when there is none."""
        rest, self._rest = self._rest.rstrip("\r"), ""
        if rest:
            self._line(rest)
        return self._line("")

    @property
    def stray(self) -> str:
        """What stands where events should and is none, as far as it is worth keeping; '' once an event came."""
        return "" if self._is_stream else "\n".join(self._stray)

    def _keep_stray(self, line: str) -> None:
        self._stray_size += len(line)
        if self._stray_size <= MAX_STRAY:
            self._stray.append(line)
