"""Keys out of text: by their known values, and by what keys look like."""

import logging
import os
import re
import threading
from collections.abc import Iterable

MASK = "[redacted]"

_LOOKS_LIKE_KEY = re.compile(
    r"""
    (?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}             # Authorization values
    | \b(?:sk|rk|pk|gsk|xai|hf|pplx|nvapi|ghp|gho|ghs|glpat)[-_][A-Za-z0-9._-]{6,}  # vendors' prefixes
    | \bkey[-_](?=[a-z]*[0-9])[a-z0-9]{16,}                              # the same, where words begin so too (key_points)
    | \bAIza[A-Za-z0-9_-]{10,}                                          # Google
    | \bAKIA[A-Z0-9]{12,}                                               # AWS
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*         # JSON web tokens
    | (?P<field>(?:api[-_]?key|x-api-key|authorization|access[-_]?token|secret|password)["']?\s*[=:]\s*["']?)
      (?:(?:bearer|basic)\s+)?[^\s"',;&}\])]{6,}                                                # name=value, "name": "value"
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SHORTEST = 6
"""Known secrets shorter than this are not searched for: masking every "test" would make text unreadable."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with every known secret, and everything that looks like a key, replaced by `[redacted]`."""
    for secret in sorted({known for known in secrets if len(known) >= _SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _LOOKS_LIKE_KEY.sub(_mask, text)


def _mask(found: re.Match[str]) -> str:
    return (found["scheme"] or found["field"] or "") + MASK


def excerpt(text: str, secrets: Iterable[str] = (), limit: int = 200) -> str:
    """One short redacted line of text that came from outside."""
    # Redacted before it is cut, so that no half of a key survives at the edge.
    shown = redact(text[: limit * 20], secrets)
    line = " ".join("".join(char if char.isprintable() else " " for char in shown).split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."


class KnownSecrets:
    """The secret values this process has seen, for the log filter. Thread-safe; grows only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: frozenset[str] = frozenset()

    def add(self, secret: str) -> None:
        if len(secret) >= _SHORTEST and secret not in self._values:
            with self._lock:
                self._values |= {secret}

    def begin_anew(self) -> None:
        """In a forked child: the lock is nobody's."""
        self._lock = threading.Lock()

    def values(self) -> frozenset[str]:
        return self._values

    def __repr__(self) -> str:
        return f"<{len(self._values)} known secrets>"


KNOWN_SECRETS = KnownSecrets()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=KNOWN_SECRETS.begin_anew)
"""Where providers and key stores note each key they handle, so that no log line of this process can show it."""


class RedactingFilter(logging.Filter):
    """For a log handler: masks keys in the message, its arguments and the traceback text of every record."""

    def __init__(self, secrets: KnownSecrets = KNOWN_SECRETS) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        secrets = self._secrets.values()
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg} (its arguments do not fit)"
        record.msg, record.args = redact(message, secrets), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text, secrets)
        if record.stack_info:
            record.stack_info = redact(record.stack_info, secrets)
        return True
