"""What a provider says is wrong: its code and a short message, from the shapes in use. Pure."""

import json
from dataclasses import dataclass, field

from core.cloud.providers.wire_format import WireError, as_object, as_text
from core.cloud.replies.complaint import LONGEST_ERROR, Complaint, complaint_of
from core.cloud.replies.limit import Limit, limit_of
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


_SAYS_NOTHING = frozenset({"Provider returned error"})
"""OpenRouter's message; what the provider said stands beside it."""


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The provider's own code ('' when it gave none) and its message, unredacted."""

    code: str = ""
    message: str = ""
    complaint: Complaint = field(default_factory=Complaint, repr=False, compare=False)
    """All that the body says."""


def read_error(body: bytes) -> ErrorDetail:
    """From an HTTP error's body: `{"error": {...}}`, `{"error": "..."}`, `{"message"|"detail": "..."}`; else nothing."""
    try:
        value: Json = json.loads(body)
    except (ValueError, RecursionError):
        return ErrorDetail(complaint=complaint_of(body[:LONGEST_ERROR]))
    if isinstance(value, list) and value:  # Gemini wraps its error in a list
        value = value[0]
    return _detail(value) if isinstance(value, dict) else ErrorDetail()


def _detail(body: JsonObject) -> ErrorDetail:
    error = body.get("error", body)
    complaint = complaint_of(body)
    if isinstance(error, str):
        return ErrorDetail("", error, complaint)
    found = as_object(error)
    codes = (found.get("code"), found.get("type"), found.get("status"))
    code = next((value for value in codes if isinstance(value, str) and value and value != "error"), "")
    given = (as_text(found.get(name)) for name in ("message", "detail", "error"))
    message = next((text for text in given if text and text not in _SAYS_NOTHING), "")
    return ErrorDetail(clean_code(code), message or complaint.text, complaint)


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
    # What reads like a refusal would have been a 400, had the head not been sent already.
    likely = 500 if limit_of(400, detail.complaint) is Limit.NONE else 400
    status = status or _STATUS_OF_CODE.get(detail.code, likely)
    return WireError(
        "reports an error",
        kind="status",
        status=status,
        code=detail.code,
        detail=detail.message,
        complaint=detail.complaint,
    )
