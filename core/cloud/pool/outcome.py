"""What an attempt's end means: whose fault, whether to try again, when. Pure.

Works by the shape of an exception (status code, response, headers, class name), so that those of httpx, httpx2, requests,
aiohttp, openai, anthropic and our own ProviderError are understood without importing any of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from core.cloud.replies.adaptation import Adaptation
from core.cloud.replies.complaint import LONGEST_ERROR, Complaint, complaint_of
from core.cloud.replies.limit import WHY, Limit
from core.cloud.replies.refusal import NOTHING, Told, told_by
from core.cloud.replies.retry_after import header, retry_after
from core.errors import InvalidArgument, KeyUnusable, UrlRefused


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
    UNSUITED = "unsuited"
    """This endpoint cannot serve this request (its context window, content filter, fields): nobody is blamed, another is asked."""
    LOCAL_FAULT = "local_fault"
    """This machine's way out does not work, such as its network or its proxy: nobody is blamed, and another endpoint may have another way."""
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
    limit: Limit = Limit.NONE
    """What about the endpoint it is that cannot serve the request."""
    window: int = 0
    """Tokens of its context window, where it told them."""
    adaptations: tuple[Adaptation, ...] = ()
    """What to change so that the endpoint takes the request."""
    unsent: bool = False
    """No request reached the server."""


OK = Outcome(OutcomeClass.OK)
CANCELLED = Outcome(OutcomeClass.CANCELLED)

BLAMELESS = frozenset(
    {
        OutcomeClass.OK,
        OutcomeClass.CALLER_FAULT,
        OutcomeClass.UNSUITED,
        OutcomeClass.LOCAL_FAULT,
        OutcomeClass.CANCELLED,
    }
)
"""Ends that say nothing against the endpoint."""
ALIVE = BLAMELESS - {OutcomeClass.LOCAL_FAULT, OutcomeClass.CANCELLED}
"""Ends that show that it works: one that calls a request wrong is as much alive as one that answers it."""

_ENDPOINT_FAULTS = frozenset({401, 402, 403, 404, 405, 410, 501})
_TRANSIENT = frozenset({408, 409, 425})
_RATE_LIMITED = frozenset({429, 529})
_QUOTA_CODE = re.compile(r"quota|billing|balance|credit|spend|payment|arrears|^1113$", re.IGNORECASE)
_QUOTA_TEXT = re.compile(
    r"credit balance is too low|insufficient (balance|quota|credits)|exceeded your current quota", re.IGNORECASE
)
_TIMEOUT_CLASSES = frozenset({"TimeoutError", "TimeoutException", "Timeout", "APITimeoutError", "ServerTimeoutError"})
_PROXY_CLASSES = frozenset({"ProxyError", "ClientProxyConnectionError", "ProxyConnectionError"})
_CONNECT_TIMEOUT_CLASSES = frozenset({"ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError", "PoolTimeout"})

_CONNECT_CLASSES = _CONNECT_TIMEOUT_CLASSES | {
    "ConnectError",
    "ConnectionRefusedError",
    "ClientConnectorError",
    "NewConnectionError",
    "gaierror",
}


def classify(error: BaseException, now: float) -> Outcome:
    """The outcome of an attempt that raised `error`; `now` (epoch seconds) is for a Retry-After that is a date.

    An exception that has no HTTP status and is not known is transient.
    """
    if isinstance(error, UrlRefused | KeyUnusable) or getattr(error, "code", "") in {"unsendable", "proxy_refused"}:
        return Outcome(OutcomeClass.ENDPOINT_FAULT, reason=_text(error))
    if isinstance(error, InvalidArgument):
        return Outcome(OutcomeClass.CALLER_FAULT, reason=_text(error))
    if _is_filtered(error):
        return Outcome(OutcomeClass.UNSUITED, reason=_text(error), same_again=False, limit=Limit.FILTER)
    status = status_of(error)
    names = {cls.__name__ for cls in type(error).__mro__}
    if getattr(error, "code", "") in {"proxy", "offline"} or status == 407 or names & _PROXY_CLASSES:
        return Outcome(OutcomeClass.LOCAL_FAULT, status, _text(error))
    if status >= 300:
        return _by_status(error, status, headers_of(error), now)
    timed_out = bool(names & _TIMEOUT_CLASSES) or getattr(error, "kind", "") == "timeout"
    # A request that was sent and never answered may be at work still; one that found no connection is not.
    sent = timed_out and not names & _CONNECT_TIMEOUT_CLASSES
    unsent = getattr(error, "kind", "") == "connect" or bool(names & _CONNECT_CLASSES)
    return Outcome(
        OutcomeClass.TRANSIENT, reason=_text(error), timed_out=sent, unsent=unsent and not sent, same_again=not sent
    )


def _is_filtered(error: BaseException) -> bool:
    """An answer that holds nothing but the news that it was filtered: ours, and the openai SDK's."""
    if type(error).__name__ == "ContentFilterFinishReasonError":
        return True
    return getattr(error, "kind", "") == "empty" and getattr(error, "code", "") == "content_filter"


def _by_status(error: BaseException, status: int, headers: Mapping[str, str], now: float) -> Outcome:
    code = code_of(error)
    told = getattr(error, "told", None)
    if not isinstance(told, Told):
        told = told_by(status, _complaint(error)) if status >= 400 else NOTHING
    in_body = told.wait.left(now) if told.wait is not None else None
    kind = _kind(error, status, code, told, asked_to_wait=in_body is not None)
    if header(headers, "x-should-retry").lower() == "true" and kind is OutcomeClass.CALLER_FAULT:
        kind = OutcomeClass.TRANSIENT
    wait = retry_after(headers, now)
    if in_body is not None and kind in {OutcomeClass.RATE_LIMITED, OutcomeClass.TRANSIENT}:
        wait = max(in_body, wait or 0.0)
    excerpt = _excerpt(error)
    # The status of an error that stands in an answer is what it amounts to: nobody sent it.
    nobody_sent_it = f"HTTP {status}" in excerpt or "the answer reports an error" in excerpt
    answer = (
        code if nobody_sent_it and code not in excerpt else "" if nobody_sent_it else f"HTTP {status} {code}".strip()
    )
    return Outcome(
        kind,
        status,
        " ".join(part for part in (answer, excerpt, f"({WHY[told.limit]})" if told.limit in WHY else "") if part),
        None if kind is OutcomeClass.UNSUITED else wait,
        same_again=kind is not OutcomeClass.UNSUITED and header(headers, "x-should-retry").lower() != "false",
        limit=told.limit,
        window=told.window,
        adaptations=told.adaptations,
    )


def _kind(error: BaseException, status: int, code: str, told: Told, *, asked_to_wait: bool) -> OutcomeClass:
    # Who says when to come back is not out of money, whatever else is said (Gemini: "You exceeded your current quota").
    spent = _QUOTA_CODE.search(code) or (not asked_to_wait and _QUOTA_TEXT.search(str(error)))
    if status in {400, 402, 403, 429} and spent:
        return OutcomeClass.ENDPOINT_FAULT
    if told.limit in {Limit.MODEL, Limit.SETTING}:
        return OutcomeClass.ENDPOINT_FAULT
    if told.limit is not Limit.NONE:
        return OutcomeClass.UNSUITED
    if status in _ENDPOINT_FAULTS or status < 400:
        return OutcomeClass.ENDPOINT_FAULT
    if status in _RATE_LIMITED:
        return OutcomeClass.RATE_LIMITED
    return OutcomeClass.TRANSIENT if status in _TRANSIENT or status >= 500 else OutcomeClass.CALLER_FAULT


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


def code_of(error: BaseException) -> str:
    """The provider's own error code (or type), '' when the exception carries none."""
    body = _body_of(error)
    inner = body.get("error") if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping) else body
    candidates = [getattr(error, "code", None), getattr(error, "type", None)]
    if isinstance(inner, Mapping):
        candidates += [inner.get("code"), inner.get("type")]
    return " ".join(dict.fromkeys(value for value in candidates if isinstance(value, str) and value))[:100]


def _complaint(error: BaseException) -> Complaint:
    """What an exception of whatever library says, from its body and its message."""
    complaint = complaint_of(_body_of(error), _message(error))
    for name, found in (("code", complaint.codes), ("type", complaint.codes), ("param", complaint.params)):
        value = getattr(error, name, None)
        if isinstance(value, str) and 0 < len(value) <= 100:
            found.append(value)
    return complaint


def _body_of(error: BaseException) -> object:
    """The error's JSON as the SDKs keep it, or a response's of requests, httpx or httpx2 as far as it was read: nothing is fetched."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping | list):
        return body
    content = getattr(getattr(error, "response", None), "_content", None)
    if not isinstance(content, bytes) or content[:1] not in {b"{", b"["} or len(content) > LONGEST_ERROR:
        return None
    import json

    try:
        found: object = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found


def _text(error: BaseException) -> str:
    return ": ".join(part for part in (type(error).__name__, _excerpt(error)) if part)


def _message(error: BaseException) -> str:
    message = getattr(error, "message", None)
    return message if isinstance(message, str) and message else str(error)


def _excerpt(error: BaseException) -> str:
    return " ".join(_message(error).split())[:300]
