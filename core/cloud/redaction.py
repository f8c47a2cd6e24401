"""Text without keys: those that are known, and what looks like one. Pure."""

import re
from collections.abc import Iterable

MASK = "[redacted]"
SHORTEST_KEY = 6
"""Shorter texts are not looked for: they would be found in innocent words."""

_KEY_SHAPES = re.compile(
    r"(?i)\b(?:sk|pk|rk|gsk|xai|key|api)-[A-Za-z0-9_\-*.]{8,}"
    r"|\bAIza[A-Za-z0-9_\-]{20,}"
    r"|(?<=bearer )[^\s\"',}]+"
    r"|(?<=[?&]key=)[^&\s\"']+"
    r"|(?<=api_key=)[^&\s\"',)]+"
    r"|(?<=x-api-key: )\S+"
)


def redact(text: str, keys: Iterable[str]) -> str:
    """`text` with every one of `keys`, and everything that has the shape of a key, masked."""
    for key in keys:
        if len(key) >= SHORTEST_KEY and key in text:
            text = text.replace(key, MASK)
    return _KEY_SHAPES.sub(MASK, text)
