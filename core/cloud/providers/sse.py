"""Server-sent events, decoded as the bytes come. Pure. (WHATWG HTML, section 9.2)"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENT = 4 * 1024 * 1024
"""Characters of one event before the stream counts as broken."""


class EventError(ValueError):
    """The stream is not server-sent events (too long, or not UTF-8)."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class Event:
    """One dispatched event; comments and empty events never become one."""

    name: str
    """`message` when the server gave none."""
    data: str


class SseDecoder:
    """Feed it bytes in any pieces; it gives whole events. An event cut off at the end of the stream is dropped."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8-sig")("strict")
        self._rest = ""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

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
            return None
        event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event
