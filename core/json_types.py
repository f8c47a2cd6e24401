"""JSON values as types, and the one way this project writes them."""

import json
from typing import TypeAlias, cast

from core.errors import InvalidArgument

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
JsonObject: TypeAlias = dict[str, Json]


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)
"""Made once: json.dumps() makes one for each call that has settings, which costs as much as a small value. A value that holds
itself ends in a RecursionError without the check for it, too."""
_DECODER = json.JSONDecoder()


def dumps(value: object, what: str = "value") -> str:
    """Compact JSON text of `value`, non-ASCII kept readable.

    Raises InvalidArgument naming `what` for anything JSON cannot carry, NaN and infinities included.
    """
    try:
        text = _ENCODER.encode(value)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"The {what} cannot be written as JSON ({type(error).__name__}).",
            "use only objects with text keys, lists, text, finite numbers, true, false and null",
        ) from error
    return text


def loads(text: str) -> Json:
    """The value of JSON text that this project wrote itself."""
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError(f"something stands behind the JSON text, from character {end} on")
    return cast(Json, value)
