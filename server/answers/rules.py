"""What is wrong with a refused value, and what it should be: for arguments of tools and for settings alike.

A fix names the value wanted and the way out. A value is only repeated when it is a number or too short to be a key.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_SHOWN = 8
"""Characters of a text that is repeated; no API's keys are as short."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a value may be."""

    about: str = ""
    """What it is for, in words; '' when that says nothing about its value."""
    example: object = None
    """One that is allowed, None when there is none to name."""
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    """All that are allowed, of a choice."""
    way_out: str = ""
    """What to do when there are more entries than allowed."""


def explained(detail: Mapping[str, Any], wanted: Wanted) -> tuple[str, str]:
    """What rule the value breaks (`must be a whole number, not 'many'`) and what to do, of one of pydantic's error details."""
    kind, given, context = str(detail["type"]), detail.get("input"), detail.get("ctx", {})
    about = f" ({wanted.about})" if wanted.about else ""
    if kind == "literal_error":
        return f"must be one of {context['expected']}{_not(given)}", _word(given, wanted)
    if kind in ("too_long", "string_too_long"):
        return _too_long(kind, given, context, wanted)
    if kind == "value_error":
        error = context["error"]
        said, fix = str(getattr(error, "message", error)).rstrip("."), getattr(error, "fix", "") or "correct it"
    elif kind in _BOUNDS and isinstance(given, int | float | str):
        name, words = _BOUNDS[kind]
        said, fix = f"is {_number(given)}; {words} {context[name]:g} is allowed", _give_number(kind, wanted)
    else:
        said, words_or_rule = _KINDS.get(kind, ("has a value that cannot be used", "give another"))
        said += _not(given) if kind in _KINDS and kind != "missing" else ""
        fix = words_or_rule(kind, wanted) if callable(words_or_rule) else words_or_rule
    return said, f"{fix.rstrip('.')}{about}"


_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "more than"),
    "less_than": ("lt", "less than"),
}


def _too_long(kind: str, given: object, context: Mapping[str, Any], wanted: Wanted) -> tuple[str, str]:
    most = int(context["max_length"])
    what = "characters" if kind == "string_too_long" else "entries"
    count = (
        len(given) if isinstance(given, str | list | tuple) and (what == "characters") == isinstance(given, str) else 0
    )
    count = count or int(context.get("actual_length") or 0)
    said = f"has {count:,} {what}; at most {most:,} are allowed" if count else f"can have at most {most:,} {what}"
    return said, wanted.way_out or ("shorten it" if what == "characters" else "leave some out, or make several calls")


def _give_number(kind: str, wanted: Wanted) -> str:
    whole = "a whole number" if kind.startswith("int") or isinstance(wanted.example, int) else "a number"
    if wanted.low is not None and wanted.high is not None:
        return f"give {whole} from {wanted.low:,.12g} to {wanted.high:,.12g}"
    example = wanted.example if isinstance(wanted.example, int | float) else None
    return f"give {whole}" if example is None else f"give {whole} such as {example:g}"


def _word(given: object, wanted: Wanted) -> str:
    by_letters = {word.lower(): word for word in wanted.words}
    near = difflib.get_close_matches(str(given).strip().lower()[:40], by_letters, n=1)
    all_words = f"give one of: {', '.join(wanted.words)}" if wanted.words else "give one of these"
    return f"did you mean {by_letters[near[0]]}? {all_words}" if near else all_words


_KINDS: dict[str, tuple[str, Any]] = {
    "missing": ("is required", "pass it"),
    "int_type": ("must be a whole number", _give_number),
    "int_parsing": ("must be a whole number", _give_number),
    "int_parsing_size": ("must be a whole number", _give_number),
    "int_from_float": ("must be a whole number", _give_number),
    "float_type": ("must be a number", _give_number),
    "float_parsing": ("must be a number", _give_number),
    "finite_number": ("must be a finite number", _give_number),
    "bool_type": ("must be true or false", "give true or false"),
    "bool_parsing": ("must be true or false", "give true or false"),
    "string_type": ("must be text", "give a text in quotes"),
    "string_unicode": ("must be text that UTF-8 can carry", "send whole Unicode characters"),
    "list_type": ("must be a list", "give a list in [ ]"),
    "dict_type": ("must be an object", "give an object in { }"),
    "string_too_short": ("must not be empty", "give it a value"),
    "too_short": ("must not be empty", "give at least one entry"),
}


def _not(given: object) -> str:
    """`, not 'many'`, for a value that may be repeated; '' otherwise."""
    if isinstance(given, bool) or given is None:
        return f", not {str(given).lower() if given is not None else 'null'}"
    if isinstance(given, int | float):
        return f", not {_number(given)}"
    if isinstance(given, str) and 0 < len(given) <= LONGEST_SHOWN and given.isprintable():
        return f", not {given!r}"
    return f", not {_NOUNS[type(given)]}" if type(given) in _NOUNS else ""


_NOUNS: dict[type, str] = {list: "a list", tuple: "a list", dict: "an object"}


def _number(given: float | str) -> str:
    """A number as it was given, bounded; `out of range` for a text that cannot be shown."""
    try:
        value = float(given)
    except (ValueError, OverflowError):
        return "out of range"
    return f"{value:.12g}" if math.isfinite(value) else str(value)
