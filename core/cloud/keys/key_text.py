"""Keys as people paste them: what was pasted along is taken off, what no header can carry is refused. Pure."""

import re
from functools import lru_cache

from core.errors import KeyUnusable

LONGEST_KEY = 8192

_PASTED_ALONG = (
    ("a header's name", re.compile(r"(?:authorization|(?:x-)?api-?key|x-goog-api-key)\s*:\s*", re.IGNORECASE)),
    ("`Bearer`", re.compile(r"bearer(?:[\s:]+|$)", re.IGNORECASE)),
    # Not before a second "=" or the end: those are the padding of a key in base64.
    (
        "a variable's name",
        re.compile(r"(?:export\s+|set\s+|\$env:)?[A-Za-z][A-Za-z0-9_]*_(?:KEY|TOKEN|SECRET)\s*=(?!=|$)\s*"),
    ),
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "”": "”", "’": "’"}
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_UNFILLED = re.compile(r"\$\{[^}]*\}|\$[A-Z][A-Z0-9_]*|\$\([^)]*\)|%[A-Z][A-Z0-9_]*%|<[^>]*>|\{env:[^}]*\}|\{\{.*\}\}")
"""What stands for a key that something else was to put there: `${env:OPENAI_API_KEY}`, `$OPENAI_API_KEY`, `<your key>`."""


@lru_cache(256)
def stripped(text: str) -> tuple[str, tuple[str, ...]]:
    """The key in a pasted text, checked by nobody yet; and what was taken off, in words (white space is not told)."""
    taken: dict[str, None] = {}
    key = ""
    while key != text:
        key = text = text.strip().strip(_INVISIBLE)
        if len(text) > 1 and _QUOTES.get(text[0]) == text.rstrip(",;")[-1:]:
            text = text.rstrip(",;")[1:-1]
            taken["quotes"] = None
        for what, pattern in _PASTED_ALONG:
            found = pattern.match(text)
            if found is not None:
                text = text[found.end() :]
                taken[what] = None
    return key, tuple(taken)


def unfilled(text: str) -> bool:
    """True for a placeholder that whatever should have filled it in left as it was."""
    return _UNFILLED.fullmatch(stripped(text)[0]) is not None


@lru_cache(256)
def judged(text: str) -> tuple[str, str]:
    """The key in a text that was found somewhere, and what is wrong with it; neither for a blank or an unfilled placeholder."""
    key, _ = stripped(text)
    if not text.strip() or _UNFILLED.fullmatch(key):
        return "", ""
    return key, key_fault(key)


def check_key(text: str, whose: str = "The key") -> str:
    """The key in `text`. Raises KeyUnusable, which never repeats it, when no header can carry it."""
    key, _ = stripped(text)
    if wrong := key_fault(key):
        raise KeyUnusable(f"{whose} {wrong}.", "copy it again from the provider, alone and whole")
    return key


@lru_cache(256)
def key_fault(key: str) -> str:
    """What is wrong with a key, in words that follow "The key" and do not hold it; '' when it can be sent."""
    for wrong, what in (
        (not key, "is empty"),
        (len(key) > LONGEST_KEY, f"has more than {LONGEST_KEY} characters"),
        ("\n" in key or "\r" in key, "has a line break inside"),
        (_UNFILLED.fullmatch(key) is not None, "is a placeholder that was never filled in"),
    ):
        if wrong:
            return what
    return next(filter(None, (_fault_at(key, position) for position in range(len(key)))), "")


def _fault_at(key: str, position: int) -> str:
    char, where = key[position], f"(character {position + 1} of {len(key)})"
    if char.isspace():
        return f"has a space inside {where}"
    if not char.isascii():
        return f"has a character outside ASCII {where}, which no HTTP header can carry"
    return "" if char.isprintable() else f"has a control character inside {where}"
