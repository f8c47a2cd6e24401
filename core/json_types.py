"""JSON values as types, and the one way this project writes them."""

import json
from typing import Any, TypeAlias, cast

from core.errors import InvalidArgument
from core.safe_text import encodable, repr_of, text_of, type_name

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


def plain_dumps(value: object, what: str = "The value", *, show: bool = False) -> str:
    """JSON text of whatever a Python function returns, as pydantic's JSON mode writes it; plain JSON is written as `dumps` does.

    Dates and times become ISO 8601 text, durations too; Decimal, UUID, Path and complex numbers text; an Enum its value; sets, deques
    and generators lists; dataclasses, named tuples and pydantic models what they hold; NumPy's scalars and arrays, and whatever
    else has a `tolist`, what that gives; a pandas DataFrame its records. NaN and infinities become null, bytes text (all of
    them base64, as in a URL, when one is not UTF-8), keys text, lone surrogates U+FFFD. The value that is read again is the
    plain one: that types come back is not promised.

    Raises InvalidArgument for a value that still cannot be written; `what` begins its sentence, and with `show` the start of
    the value's repr ends it.
    """
    try:
        text = _ENCODER.encode(value)
    except Exception:  # noqa: BLE001  # a stranger's value may raise anything
        text = _encode_plain(value, what, show)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = encodable(text)
    return text


def _encode_plain(value: object, what: str, show: bool) -> str:
    try:
        return _ENCODER.encode(_plain(value))
    except BaseException as error:  # noqa: BLE001  # as above
        reason = text_of(error).partition("\n")[0][:200]
        shown = f" Its repr begins: {repr_of(value)}" if show else ""
        raise InvalidArgument(
            f"{what} cannot be written as JSON: it is a {type_name(value)} ({type_name(error)}: {reason}).{shown}",
            "use what JSON, dataclasses, pydantic models, NumPy and the standard library's plain types can hold",
        ) from None


def _plain(value: object) -> object:
    from pydantic_core import to_jsonable_python  # takes its time to load, and most values never need it

    def written(value: object, bytes_mode: Any) -> object:
        return to_jsonable_python(value, bytes_mode=bytes_mode, inf_nan_mode="null", fallback=_foreign)

    try:
        return written(value, "utf8")
    except UnicodeDecodeError:
        return written(value, "base64")
    except (UnicodeEncodeError, TypeError):
        return written(_mended(value), "utf8")


def _foreign(value: Any) -> object:
    """What a value that pydantic does not know holds, by the names that array and table libraries have for it."""
    kind = type(value)
    if issubclass(kind, memoryview):
        return bytes(value)
    if issubclass(kind, range):
        return list(value)
    if getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m"):
        # NumPy's times of nanoseconds come as bare numbers from tolist.
        return value.astype(str).tolist()
    if kind.__name__ == "DataFrame" and (hasattr(value, "to_json") or hasattr(value, "to_dicts")):
        # By its own writer, because its NaT among other cells has no other way to null.
        return (
            loads(value.to_json(orient="records", date_format="iso")) if hasattr(value, "to_json") else value.to_dicts()
        )
    if kind.__name__ == "NAType":
        return None
    for name in ("tolist", "to_list", "item"):
        method = getattr(kind, name, None)
        if callable(method):
            held = method(value)
            if type(held) is not kind:
                return held
    raise TypeError("JSON has nothing for its type")


def _mended(value: object) -> object:
    """`value`, as far as it is lists and dicts, with whole characters in its texts and null for pandas' missing time."""
    if isinstance(value, str):
        return encodable(value, "\0")
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mended(item) for item in value]
    return None if type(value).__name__ == "NaTType" else value


def loads(text: str) -> Json:
    """The value of JSON text that this project wrote itself."""
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError(f"something stands behind the JSON text, from character {end} on")
    return cast(Json, value)
