"""What a provider says is wrong: its code and a short message, from the shapes in use. Pure."""

import json
from dataclasses import dataclass

from core.cloud.providers.wire import WireError, as_object, as_text
from core.json_types import Json, JsonObject

_STATUS_OF_CODE = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "billing_error": 402,
    "insufficient_quota": 429,
    "not_found_error": 404,
    "model_not_found": 404,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    "api_error": 500,
    "server_error": 500,
}


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The provider's own code ('' when it gave none) and its message, unredacted."""

    code: str = ""
    message: str = ""


def read_error(body: bytes) -> ErrorDetail:
    """From an HTTP error's body: `{"error": {...}}`, `{"error": "..."}`, `{"message"|"detail": "..."}`; else nothing."""
    try:
        value: Json = json.loads(body)
    except (ValueError, RecursionError):
        return ErrorDetail()
    if isinstance(value, list) and value:  # Gemini wraps its error in a list
        value = value[0]
    return _detail(value) if isinstance(value, dict) else ErrorDetail()


def _detail(body: JsonObject) -> ErrorDetail:
    error = body.get("error", body)
    if isinstance(error, str):
        return ErrorDetail("", error)
    found = as_object(error)
    codes = (found.get("code"), found.get("type"), found.get("status"))
    code = next((value for value in codes if isinstance(value, str) and value and value != "error"), "")
    message = next(
        (as_text(found.get(name)) for name in ("message", "detail", "error") if as_text(found.get(name))), ""
    )
    return ErrorDetail(clean_code(code), message)


def clean_code(code: str) -> str:
    """A code is a word or two; anything else a server puts there is dropped."""
    return code if len(code) <= 60 and all(char.isalnum() or char in "_-." for char in code) else ""


def error_in_answer(body: JsonObject) -> WireError | None:
    """The error a provider reported inside an answer with status 200, as the WireError it amounts to."""
    if not body.get("error"):
        return None
    detail = _detail(body)
    number = as_object(body.get("error")).get("code")
    status = number if isinstance(number, int) and not isinstance(number, bool) and 400 <= number <= 599 else 0
    status = status or _STATUS_OF_CODE.get(detail.code, 500)
    return WireError("reports an error", kind="status", status=status, code=detail.code, detail=detail.message)
