"""The `http_request` handler: one vetted HTTP request as a task."""

import base64
import json
import time

from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.queue.graph import heads, with_stand_ins
from core.cloud.replies.retry_after import retry_after
from core.errors import HeablcoinError, Permanent
from core.json_types import Json, JsonObject, dumps
from core.network import (
    HttpError,
    HttpRequest,
    HttpResponse,
    RequestHeaders,
    Transport,
    UrlPolicy,
    open_transport,
    parse_url,
)
from core.redaction import excerpt

NAME = "http_request"
FIELDS = ("url", "method", "headers", "body", "json", "timeout")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
EXAMPLE = '{"url": "https://example.org/data.json", "method": "GET"}'
STAND_INS: JsonObject = {"method": "GET", "headers": {}, "json": {}, "timeout": 1}
"""What a field may be while it still refers to a result."""
TIMEOUT = 30.0
LONGEST_TIMEOUT = 600.0
LARGEST_BODY = 512 * 1024
"""Bytes of a response that are kept; a larger one fails the task."""
DEFAULT_HEADERS = {"accept": "*/*", "user-agent": "heablcoin-cloud"}
PASSING = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may succeed later."""


class HttpStatusError(HeablcoinError):
    """The server answered with an error that may pass."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HttpRequests:
    """Runs `http_request` tasks over one transport, opened with the first. `policy` None is this installation's."""

    def __init__(self, policy: UrlPolicy | None = None) -> None:
        self._policy = policy
        self._transport: Transport | None = None

    async def run(self, payload: Json) -> Json:
        """`{url, method, headers, body | json, timeout}` -> `{status, headers, body | json | body_base64}`.

        `timeout` is in seconds, 30 unless said. Redirects are not followed. An error status fails the task: for good, or
        to be retried (and not before its Retry-After) for 408, 425, 429 and 5xx.
        """
        request, timeout = parse(payload)
        if self._transport is None:
            self._transport = open_transport(self._policy or UrlPolicy.from_environment())
        try:
            response = await self._transport.send(request, timeout, LARGEST_BODY)
        except HttpError as error:
            if error.code in {"too_large", "unsendable"}:
                raise Permanent(error.message, error.fix) from error
            raise
        return as_result(response, time.time())


def register_http_request(
    registry: HandlerRegistry, policy: UrlPolicy | None = None, max_per_minute: int | None = None
) -> None:
    """Have `http_request` tasks run under `policy`; `max_per_minute` to each host, 0 for no limit, None for what another process said."""
    registry.register(
        NAME,
        HttpRequests(policy).run,
        check=check,
        max_per_minute=max_per_minute,
        key="host(url)" if max_per_minute else "",
    )


def check(payload: Json) -> None:
    """Raise Permanent or InvalidArgument for a payload that http_request could only fail with."""
    if isinstance(payload, str) and heads(payload):
        return
    request, _ = parse(with_stand_ins(payload, STAND_INS))
    if not heads(request.url):
        parse_url(request.url)


def parse(payload: Json) -> tuple[HttpRequest, float]:
    """The request and its timeout in seconds. Raises Permanent that says what is wrong."""
    if not isinstance(payload, dict) or not isinstance(payload.get("url"), str):
        raise Permanent("http_request needs a url.", f"publish it with a payload such as {EXAMPLE}")
    unknown = sorted(payload.keys() - set(FIELDS))
    if unknown:
        raise Permanent(
            f"http_request does not know {', '.join(repr(name[:40]) for name in unknown[:5])}.",
            f"use only: {', '.join(FIELDS)}.",
        )
    method = payload.get("method") or "GET"
    if not isinstance(method, str) or method.upper() not in METHODS:
        raise Permanent(f"http_request has the method {str(method)[:20]!r}.", f"use one of: {', '.join(METHODS)}.")
    timeout = payload.get("timeout") or TIMEOUT
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= LONGEST_TIMEOUT:
        raise Permanent(
            "http_request has a timeout that is not 0 to 600 seconds.", 'give seconds, such as {"timeout": 30}.'
        )
    headers = payload.get("headers") or {}
    if not isinstance(headers, dict):
        raise Permanent("http_request has headers that are not an object.", 'write {"accept": "text/csv"}.')
    texts = {name: value for name, value in headers.items() if isinstance(value, str)}
    if len(texts) < len(headers):
        raise Permanent("http_request has a header that is not text.", 'write {"accept": "text/csv"}.')
    body, kind = _body_of(payload)
    request = HttpRequest(method.upper(), str(payload["url"]), RequestHeaders(DEFAULT_HEADERS, kind, texts), body)
    return request, float(timeout)


def _body_of(payload: JsonObject) -> tuple[bytes, dict[str, str]]:
    """The body to send and the header that says what it is."""
    text, value = payload.get("body"), payload.get("json")
    if text is not None and value is not None:
        raise Permanent("http_request has both body and json.", "give one of them.")
    if value is not None:
        return dumps(value).encode(), {"content-type": "application/json"}
    if text is not None and not isinstance(text, str):
        raise Permanent("http_request has a body that is not text.", "use json for an object.")
    return (text or "").encode(), {}


def as_result(response: HttpResponse, now: float) -> JsonObject:
    """A response as JSON; an error status raises Permanent or HttpStatusError. `now` is for a Retry-After that is a date."""
    kind = response.headers.get("content-type", "")
    if response.status >= 400:
        said = excerpt(response.body[:2000].decode("utf-8", "replace"))
        message = f"The server answered {response.status}{': ' if said else ''}{said}"
        if response.status in PASSING or response.status >= 500:
            raise HttpStatusError(message, retry_after(response.headers, now))
        raise Permanent(message)
    result: JsonObject = {
        "status": response.status,
        "headers": {name: value for name, value in response.headers.items() if name != "set-cookie"},
    }
    text = _text(response.body)
    if text is None:
        result["body_base64"] = base64.b64encode(response.body).decode()
        return result
    if "json" in kind:
        try:
            result["json"] = json.loads(text)
        except (ValueError, RecursionError):
            result["body"] = text
        return result
    result["body"] = text
    return result


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
