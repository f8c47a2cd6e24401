"""What the body of an error says, in whatever shape it comes. Pure; texts are the server's own and unredacted."""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

LONGEST_ERROR = 64 * 1024
"""Bytes of an error's body beyond which it is not looked into."""
LONGEST_TEXT = 4_000
"""Characters of its messages that are read."""
DEEPEST = 8
MOST_VALUES = 400

_MESSAGES = frozenset({"message", "msg", "detail", "error", "error_message", "description", "raw", "reason"})
_CODES = frozenset({"code", "type", "status", "error_code", "error_type"})
_FIELDS = frozenset({"param", "parameter", "field"})
_ECHOES = frozenset({"input", "url", "failed_generation", "user_id", "id", "request_id", "callstack", "ctx", "links"})
"""Parts that quote the request, or are about something else."""


@dataclass
class Complaint:
    """What an error's body says."""

    codes: list[str] = field(default_factory=list)
    """Codes, types and statuses, numbers as text."""
    texts: list[str] = field(default_factory=list)
    params: list[str] = field(default_factory=list)
    """Fields of the request that it names, as it writes them (`messages[0].role`)."""
    places: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """From lists of validation errors: the kind and the path (`extra_forbidden`, `("body", "n")`)."""
    waits: list[tuple[str, object]] = field(default_factory=list)
    """What it says about waiting: names in lower case without `-` and `_`, and values."""
    window: int = 0
    """Tokens of a context window, 0 when it gives none."""

    @property
    def text(self) -> str:
        """All messages, one a line."""
        return "\n".join(dict.fromkeys(self.texts))[:LONGEST_TEXT]


def complaint_of(body: object, message: str = "") -> Complaint:
    """From a body (bytes, text, or parsed JSON) and, for want of one, an exception's message."""
    complaint = Complaint()
    value = _parsed(body) if isinstance(body, bytes | str) else body
    left = [MOST_VALUES]
    if isinstance(value, Mapping | list | tuple):
        _read(complaint, value, 0, left)
    elif isinstance(value, str):
        complaint.texts.append(value)
    if message and not complaint.texts:
        complaint.texts.append(message[:LONGEST_TEXT])
    return complaint


def _parsed(body: bytes | str) -> object:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if len(text) <= LONGEST_ERROR and text.lstrip()[:1] in {"{", "["}:
        try:
            found: object = json.loads(text)
        except (ValueError, RecursionError):
            return _printed(text)
        return found
    # A web page's text is about nothing that concerns us.
    return "" if text.lstrip()[:1] == "<" else text[:LONGEST_TEXT]


def _printed(text: str) -> object:
    """Some servers print their validation errors as Python would (vLLM)."""
    if "'loc': (" not in text or len(text) > LONGEST_TEXT:
        return text[:LONGEST_TEXT]
    try:
        found: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return found


def _read(complaint: Complaint, value: object, depth: int, left: list[int]) -> None:
    if depth > DEEPEST:
        return
    if isinstance(value, list | tuple):
        for item in value[: left[0]]:
            _read(complaint, item, depth + 1, left)
    elif isinstance(value, Mapping):
        place = value.get("loc")
        if isinstance(place, list | tuple):
            complaint.places.append((str(value.get("type", "")), tuple(str(part) for part in place)))
        for name, item in _items(value):
            left[0] -= 1
            if left[0] <= 0:
                return
            given = _unwrapped(name, item)
            _note(complaint, name, given)
            _read(complaint, given, depth + 1, left)


def _unwrapped(name: str, item: object) -> object:
    """Gateways put the answer of the server behind them into theirs, as text."""
    wrapped = isinstance(item, str) and name in _MESSAGES and item.lstrip()[:1] in {"{", "["}
    return _parsed(item) if wrapped and isinstance(item, str) else item


def _items(value: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    for name, item in value.items():
        if isinstance(name, str) and name not in _ECHOES:
            yield name, item


def _note(complaint: Complaint, name: str, item: object) -> None:
    plain = name.lower().replace("-", "").replace("_", "")
    if isinstance(item, str) and item:
        if name in _MESSAGES:
            complaint.texts.append(item[:LONGEST_TEXT])
        if name in _CODES and len(item) <= 100:
            complaint.codes.append(item)
        if name in _FIELDS and len(item) <= 100:
            complaint.params.append(item)
    elif isinstance(item, int) and not isinstance(item, bool):
        if name in _CODES:
            complaint.codes.append(str(item))
        if plain == "nctx":
            complaint.window = item
    if "retry" in plain or plain.startswith("xratelimitreset"):
        complaint.waits.append((plain, item))
