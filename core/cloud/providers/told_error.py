"""Errors that stand inside an answer with status 200: whole, or as an event of a stream. Pure."""

from core.cloud.providers.error_body import error_in_answer
from core.cloud.providers.wire_format import NOT_COUNTED, WireError, as_object, as_text
from core.cloud.replies.token_counts import TokenCounts
from core.json_types import Json, JsonObject

_CONTENT_FILTER = 1
"""Stands for a filter in the table below."""

_STATUS_OF_NUMBER = {
    # MiniMax, `base_resp.status_code`
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1026: _CONTENT_FILTER,
    1027: _CONTENT_FILTER,
    1039: 429,
    1041: 429,
    1042: 400,
    2013: 400,
    2049: 401,
    2056: 429,
    # Zhipu, `code`
    1301: _CONTENT_FILTER,
    1302: 429,
    1303: 429,
    1304: 429,
    1305: 429,
    1113: 402,
    # iFlow, `status`
    449: 429,
}

_MESSAGES = ("message", "msg", "error_msg", "status_msg", "detail")
_CODES = ("code", "status_code", "error_code", "http_status", "status")
_ANSWERS = ("choices", "content", "type", "object")
"""What has one of these and no word of an error is an answer."""
_SIGNS = frozenset({"error", "errors", "base_resp", "success", *_MESSAGES, *_CODES} - {"message"})
"""What holds none of these, and is not called an error, is none: most answers are done with here."""


def error_told(body: JsonObject, tokens: TokenCounts = NOT_COUNTED) -> WireError | None:
    """The error that `body` is, or holds, as the WireError it amounts to; None when it is none."""
    if _SIGNS.isdisjoint(body) and body.get("object") != "error" and body.get("type") != "error":
        return None
    told = _told(body)
    if told is None:
        return None
    found = error_in_answer({"error": told}) or WireError("reports an error", kind="status", status=500)
    found.tokens = tokens
    return found


def _told(body: JsonObject) -> Json:
    """The error in the shape that OpenAI gives it, from those in use; None for no error."""
    error = body.get("error")
    if isinstance(error, dict):
        # Servers that write out every field of theirs send an empty error with each good answer.
        error = _numbered(error) if any(error.values()) else None
    elif error and not isinstance(error, str):
        error = {"message": ""}
    if error:
        return error
    if "error" in (as_text(body.get("type")), as_text(body.get("object"))):
        return _numbered({**body, "error": None, "type": None if body.get("type") == "error" else body.get("type")})
    return _told_elsewhere(body)


def _told_elsewhere(body: JsonObject) -> Json:
    """An error that is not called one."""
    base = as_object(body.get("base_resp"))
    if base.get("status_code"):
        return _numbered(base)
    if any(body.get(name) is not None for name in _ANSWERS):
        return None
    errors = body.get("errors")
    if isinstance(errors, list) and errors:
        return _numbered(as_object(errors[0]) or {"message": as_text(errors[0])})
    failed = body.get("success") is False or any(body.get(name) not in _NO_FAULT for name in _CODES)
    said = any(as_text(body.get(name)) for name in _MESSAGES)
    return _numbered(body) if said and (failed or body.get("detail") or body.get("error_msg")) else None


_NO_FAULT: tuple[Json, ...] = (None, "", 0, "0", 200, "200", "ok", "OK", "success", "processing")


def _numbered(error: JsonObject) -> JsonObject:
    """`error` with its message under `message`, and a status under `code` when any of its numbers amounts to one."""
    message = next((as_text(error.get(name)) for name in _MESSAGES if as_text(error.get(name))), "")
    numbers = [number for name in _CODES if (number := _number(error.get(name)))]
    status = next((known for number in numbers if (known := _STATUS_OF_NUMBER.get(number, number))), None)
    found: JsonObject = {**error, "message": message}
    if status == _CONTENT_FILTER:
        # A filter is the same thing whoever's: the pool knows it by this name.
        return {**found, "code": 400, "type": "content_filter", "status": None}
    return found if status is None else {**found, "code": status}


def _number(value: Json) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
