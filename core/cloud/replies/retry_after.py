"""How long a server asks to be left alone: in its headers, and in the words and fields of its errors. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from core.cloud.replies.complaint import Complaint

LONGEST_RETRY_AFTER = 86_400.0
"""Seconds. An endpoint that asks for more than a day is not taken at its word."""


def header(headers: Mapping[str, str], name: str) -> str:
    """One header whatever the case of its name; '' when it is not there."""
    value = headers.get(name)
    if value is None:
        value = headers.get(name.title())
    return value.strip() if isinstance(value, str) else ""


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
    duration = _duration(value)
    if duration is not None:
        return _bounded(duration)
    try:
        return _bounded(datetime.fromisoformat(value).timestamp() - now) if value else None
    except (ValueError, OverflowError):
        return None


def _duration(text: str) -> float | None:
    """Seconds of `1m0.5s`."""
    match = _DURATION.match(text)
    if not text or not match:
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None  # noqa: PLR0124


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


_UNIT = (
    r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d"
    r"|毫秒|秒钟?|分钟?|小时|天)"
)
_PART = rf"\d{{1,9}}(?:\.\d{{1,12}})?\s?{_UNIT}(?![a-z])"
_SPAN = rf"(?P<span>{_PART}(?:,?\s?(?:and\s)?{_PART}){{0,4}})"
_GAP = r"(?:\s(?:again|your request|the request|in|after|for|at least|about|approximately|another|is)){0,5}"
_TOLD = (
    re.compile(rf"\b(?:try|retry|retrying|wait|resets?|reset|available|back){_GAP}:?\s{_SPAN}", re.IGNORECASE),
    re.compile(rf"{_SPAN}\s?(?:之?后|以后)\s?(?:再|重)?试", re.IGNORECASE),
)
_PARTS = re.compile(rf"(\d+(?:\.\d+)?)\s?({_UNIT})(?![a-z])", re.IGNORECASE)
_MOMENT = re.compile(
    r"\b(?:try|retry|resets?|available|until)(?:\s(?:again|in|at|after|on)){0,3}:?\s"
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?\s?(?:Z|UTC|[+-]\d\d:?\d\d))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Wait:
    """How long, or until when, a server asks to be left alone."""

    seconds: float = 0.0
    until: float = 0.0
    """Epoch seconds."""

    def left(self, now: float) -> float:
        """Seconds from `now` (epoch seconds), at most LONGEST_RETRY_AFTER."""
        return _bounded(max(self.seconds, self.until - now))


def told_wait(complaint: Complaint) -> Wait | None:
    """The longest wait that an error's body asks for; None when it asks for none.

    Reads Google's RetryInfo, fields such as `retry_after`, headers that gateways repeat in their bodies (OpenRouter), and
    sentences: "Please try again in 6m0s", "retry after 26 seconds", "resets at 2026-01-01T00:00:00Z".
    """
    waits = [wait for name, value in complaint.waits if (wait := _field(name, value)) is not None]
    for text in complaint.texts:
        waits += [Wait(_seconds(match["span"])) for pattern in _TOLD for match in pattern.finditer(text)]
        waits += [wait for match in _MOMENT.finditer(text) if (wait := _moment(match[1])) is not None]
    if not waits:
        return None
    return Wait(max(wait.seconds for wait in waits), max(wait.until for wait in waits))


def _field(name: str, value: object) -> Wait | None:
    if isinstance(value, Mapping):
        seconds, nanos = _number(str(value.get("seconds"))), _number(str(value.get("nanos", 0)))
        return None if seconds is None else Wait(seconds + (nanos or 0.0) / 1e9)
    tells = name.startswith("xratelimitreset") or any(word in name for word in ("after", "delay", "retryin"))
    if not tells or isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    number = _number(text)
    if number is None:
        duration = _duration(text)
        return _moment(text) if duration is None else Wait(duration)
    if name.endswith(("ms", "milliseconds", "millis")):
        return Wait(number / 1000)
    return Wait(number) if number <= 1e9 else Wait(until=number / 1000 if number > 1e12 else number)


def _moment(text: str) -> Wait | None:
    try:
        moment = datetime.fromisoformat(text.upper().replace(" UTC", "Z").replace("UTC", "Z"))
        return Wait(until=moment.timestamp()) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


_SECONDS = (
    ("ms", 0.001),
    ("milli", 0.001),
    ("毫", 0.001),
    ("s", 1.0),
    ("秒", 1.0),
    ("m", 60.0),
    ("分", 60.0),
    ("h", 3600.0),
    ("小", 3600.0),
    ("d", 86_400.0),
    ("天", 86_400.0),
)
"""By how a unit begins; the first that fits."""


def _seconds(span: str) -> float:
    return sum(float(number) * _length(unit.lower()) for number, unit in _PARTS.findall(span))


def _length(unit: str) -> float:
    return next(seconds for begins, seconds in _SECONDS if unit.startswith(begins))
