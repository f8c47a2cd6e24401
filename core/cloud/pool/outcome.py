"""What an attempt's end means: whose fault, whether to try again, when. Pure.

Works by the shape of an exception (status code, response, headers, class name), so that those of httpx, httpx2, requests,
aiohttp, openai, anthropic and our own ProviderError are understood without importing any of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from core.errors import InvalidArgument, KeyUnusable, UrlRefused

LONGEST_RETRY_AFTER = 86_400.0
"""Seconds. An endpoint that asks for more than a day is not taken at its word."""

LONGEST_ERROR = 64 * 1024
"""Bytes of an error's body beyond which it is not looked into."""


class OutcomeClass(StrEnum):
    """What the end of an attempt says about the endpoint."""

    OK = "ok"
    CALLER_FAULT = "caller_fault"
    """The request itself is wrong: raised at once, no endpoint blamed."""
    ENDPOINT_FAULT = "endpoint_fault"
    """Wrongly set up or out of money: held for long, another endpoint is asked."""
    RATE_LIMITED = "rate_limited"
    """Held until it takes requests again, another endpoint is asked."""
    TRANSIENT = "transient"
    """Timeout, connection, server error: counted, another endpoint is asked."""
    CANCELLED = "cancelled"
    """The caller went away, or another endpoint was faster: says nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    kind: OutcomeClass
    status: int = 0
    """HTTP status, 0 when there was none."""
    reason: str = ""
    """For the reader, in a few words; may quote the server, so redact before showing."""
    retry_after: float | None = None
    """Seconds the endpoint asked to be left alone."""
    timed_out: bool = False
    """It was sent and not answered in the time it had."""
    same_again: bool = True
    """Whether the same endpoint may be asked again by the same call when others are there."""


OK = Outcome(OutcomeClass.OK)
CANCELLED = Outcome(OutcomeClass.CANCELLED)

_ENDPOINT_FAULTS = frozenset({401, 402, 403, 404, 405, 410, 501})
_TRANSIENT = frozenset({408, 409, 425})
_RATE_LIMITED = frozenset({429, 529})
_QUOTA_CODE = re.compile(r"quota|billing|balance|credit|spend|payment|arrears|^1113$", re.IGNORECASE)
_QUOTA_TEXT = re.compile(
    r"credit balance is too low|insufficient (balance|quota|credits)|exceeded your current quota", re.IGNORECASE
)
_TIMEOUT_CLASSES = frozenset({"TimeoutError", "TimeoutException", "Timeout", "APITimeoutError", "ServerTimeoutError"})
_CONNECT_TIMEOUT_CLASSES = frozenset({"ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError", "PoolTimeout"})


def classify(error: BaseException, now: float) -> Outcome:
    """The outcome of an attempt that raised `error`; `now` (epoch seconds) is for a Retry-After that is a date.

    An exception that has no HTTP status and is not known is transient.
    """
    if isinstance(error, UrlRefused | KeyUnusable) or getattr(error, "code", "") == "unsendable":
        return Outcome(OutcomeClass.ENDPOINT_FAULT, reason=_text(error))
    if isinstance(error, InvalidArgument):
        return Outcome(OutcomeClass.CALLER_FAULT, reason=_text(error))
    status = status_of(error)
    if status >= 300:
        return _by_status(error, status, headers_of(error), now)
    names = {cls.__name__ for cls in type(error).__mro__}
    timed_out = bool(names & _TIMEOUT_CLASSES) or getattr(error, "kind", "") == "timeout"
    # A request that was sent and never answered may be at work still; one that found no connection is not.
    sent = timed_out and not names & _CONNECT_TIMEOUT_CLASSES
    return Outcome(OutcomeClass.TRANSIENT, reason=_text(error), timed_out=sent, same_again=not sent)


def _by_status(error: BaseException, status: int, headers: Mapping[str, str], now: float) -> Outcome:
    code = code_of(error)
    excerpt = _excerpt(error)
    told = f"HTTP {status}" in excerpt
    reason = excerpt if told else " ".join(part for part in (f"HTTP {status}", code, excerpt) if part)
    wait = retry_after(headers, now)
    again = header(headers, "x-should-retry").lower()
    out_of_money = status in {400, 402, 403, 429} and bool(_QUOTA_CODE.search(code) or _QUOTA_TEXT.search(str(error)))
    if out_of_money or status in _ENDPOINT_FAULTS or status < 400:
        kind = OutcomeClass.ENDPOINT_FAULT
    elif status in _RATE_LIMITED:
        kind = OutcomeClass.RATE_LIMITED
    elif status in _TRANSIENT or status >= 500 or again == "true":
        kind = OutcomeClass.TRANSIENT
    else:
        kind = OutcomeClass.CALLER_FAULT
    return Outcome(kind, status, reason, wait, same_again=again != "false")


def status_of(error: BaseException) -> int:
    """The HTTP status an exception carries, 0 when none."""
    response = getattr(error, "response", None)
    for holder, name in (
        (error, "status_code"),
        (error, "status"),
        (response, "status_code"),
        (response, "status"),
        (error, "code"),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return value
    return 0


def headers_of(carrier: object) -> Mapping[str, str]:
    """The headers an exception, an answer or a response carries."""
    for holder in (carrier, getattr(carrier, "response", None)):
        headers = getattr(holder, "headers", None)
        if headers is not None and hasattr(headers, "get"):
            found: Mapping[str, str] = headers
            return found
    return {}


def header(headers: Mapping[str, str], name: str) -> str:
    """One header whatever the case of its name; '' when it is not there."""
    value = headers.get(name)
    if value is None:
        value = headers.get(name.title())
    return value.strip() if isinstance(value, str) else ""


def code_of(error: BaseException) -> str:
    """The provider's own error code (or type), '' when the exception carries none."""
    body = getattr(error, "body", None)
    if body is None:
        body = _read_body(getattr(error, "response", None))
    inner = body.get("error") if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping) else body
    candidates = [getattr(error, "code", None), getattr(error, "type", None)]
    if isinstance(inner, Mapping):
        candidates += [inner.get("code"), inner.get("type")]
    return " ".join(dict.fromkeys(value for value in candidates if isinstance(value, str) and value))[:100]


def _read_body(response: object) -> object:
    """The JSON of a response of requests, httpx or httpx2 as far as it was read: nothing is fetched for it."""
    content = getattr(response, "_content", None)
    if not isinstance(content, bytes) or not content.startswith(b"{") or len(content) > LONGEST_ERROR:
        return None
    import json

    try:
        found: object = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from `retry-after-ms` or `Retry-After` (whole or fractional seconds, or an HTTP date; RFC 9110, 10.2.3)."""
    milliseconds = _number(header(headers, "retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    value = header(headers, "retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _bounded(seconds)
    if not value:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return _bounded(parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def exhausted_for(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds for which the endpoint's own headers say no request or token is left; None when some are, or unknown.

    Reads `x-ratelimit-*` (OpenAI, Groq and others) and `anthropic-ratelimit-*`; resets come as durations (`1m0.5s`), seconds,
    epoch times or ISO dates.
    """
    waits = []
    for left, titled, reset in _LIMIT_HEADERS:
        value = headers.get(left) or headers.get(titled)
        remaining = _number(value) if value else None
        if remaining is not None and remaining < 1:
            wait = _reset_in(header(headers, reset), now)
            if wait is not None:
                waits.append(wait)
    return max(waits, default=None)


_LIMIT_HEADERS = tuple(
    (left, left.title(), reset)
    for left, reset in (
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
        ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
        ("x-ratelimit-remaining", "x-ratelimit-reset"),
    )
)

_DURATION = re.compile(r"^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?$")


def _reset_in(value: str, now: float) -> float | None:
    number = _number(value)
    if number is not None:
        if number > 1e12:
            return _bounded(number / 1000 - now)
        return _bounded(number - now if number > 1e9 else number)
    match = _DURATION.match(value)
    if value and match:
        days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
        return _bounded(((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000)
    try:
        return _bounded(datetime.fromisoformat(value).timestamp() - now) if value else None
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None  # noqa: PLR0124


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


def _text(error: BaseException) -> str:
    return ": ".join(part for part in (type(error).__name__, _excerpt(error)) if part)


def _excerpt(error: BaseException) -> str:
    message = getattr(error, "message", None)
    text = message if isinstance(message, str) and message else str(error)
    return " ".join(text.split())[:300]
