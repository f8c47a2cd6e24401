"""Limits of one handler's tasks: how many may start and run, and which of them share a limit. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from core.errors import InvalidArgument
from core.json_types import Json, dumps

MOST = 1_000_000
LONGEST_KEY = 100
LONGEST_VALUE = 200
"""Characters of a value that are kept as they are; of a longer one the start and a hash."""

_PATH = re.compile(r"[^\s.=()$]+(?:\.[^\s.=()$]+)*")
_HOST = re.compile(r"host\((?P<path>[^()]*)\)")


@dataclass(frozen=True, slots=True)
class HandlerLimits:
    """What holds for the tasks of one name, over all processes that share the database.

    Every value is checked when it is made: InvalidArgument.
    """

    max_per_minute: int = 0
    """Starts in any 60 s; 0 for no limit."""
    max_concurrency: int = 0
    """Running at once; 0 for no limit."""
    key: str = ""
    """The field of the payload of which each value is limited by itself: `customer`, `order.customer`, or `host(url)` for the host of
    a URL; '' for all tasks together."""

    def __post_init__(self) -> None:
        for what, value in (("max_per_minute", self.max_per_minute), ("max_concurrency", self.max_concurrency)):
            if type(value) is not int or not 0 <= value <= MOST:
                raise InvalidArgument(
                    f"A handler's {what} is {str(value)[:40]!r}.", f"give a whole number from 0 (no limit) to {MOST:,}."
                )
        if type(self.key) is not str or (self.key and not _is_key(self.key)):
            raise InvalidArgument(
                f"A handler's limits cannot have the key {str(self.key)[:40]!r}.",
                'name a field of the payload, such as "customer", "order.customer" or "host(url)".',
            )
        if self.key and not self:
            raise InvalidArgument(
                f"The key {self.key[:40]!r} is given, and no limit.", "give max_per_minute or max_concurrency with it."
            )

    def __bool__(self) -> bool:
        return bool(self.max_per_minute or self.max_concurrency)

    def sorts(self, kind_key: str) -> bool:
        """Whether a kind with this key is one of those that `shared` makes."""
        return kind_key.startswith(f"{self.key}=")

    def shared(self, value: Json) -> str:
        """What tasks have in common that share a limit, given what `field_of` found: KEY=VALUE."""
        return f"{self.key}={_text(self.key, value)}"


def field_of(key: str, payload: Json, fill: Callable[[Json], Json] = lambda value: value) -> Json:
    """What a payload has in the field that a key names; None when it has none. `fill` puts results where a value refers to them."""
    host = _HOST.fullmatch(key)
    value = fill(payload) if isinstance(payload, str) else payload
    for step in (host["path"] if host else key).split("."):
        value = value.get(step) if isinstance(value, dict) else None
        value = fill(value) if isinstance(value, str) else value
    return value


def value_in_words(kind_key: str) -> str:
    """Which of the tasks of a name share a limit, for a sentence: "customer acme"; '' when all do."""
    key, _, value = kind_key.partition("=")
    host = _HOST.fullmatch(key)
    return f"{'host' if host else key} {value or '(none)'}" if key else ""


def _is_key(key: str) -> bool:
    host = _HOST.fullmatch(key)
    path = host["path"] if host else key
    return len(key) <= LONGEST_KEY and key.isprintable() and _PATH.fullmatch(path) is not None


def _text(key: str, value: Json) -> str:
    """A value as text: numbers as a text of them would be, nothing for null."""
    if not key or value is None:
        return ""
    text = value if isinstance(value, str) else dumps(value)
    if _HOST.fullmatch(key):
        text = _host_of(text)
    if len(text) > LONGEST_VALUE:
        text = f"{text[: LONGEST_VALUE // 2]}...{sha256(text.encode()).hexdigest()[:32]}"
    return text


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url.strip()).hostname or "").lower().rstrip(".")
    except ValueError:
        return ""
