"""ProviderError in words: what the endpoint did, then what to do about it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import replace

from core.cloud.chat import Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import ProviderError
from core.cloud.providers.error_body import read_error
from core.cloud.providers.wire_format import NOT_COUNTED, WireError, as_object, as_text
from core.cloud.replies.limit import FIXES, Limit
from core.cloud.replies.refusal import Told, told_by
from core.cloud.replies.token_counts import TokenCounts, tokens_of
from core.errors import UrlRefused
from core.json_types import loads
from core.network import HttpError, parse_url
from core.redaction import KNOWN_SECRETS, excerpt, redact

Problem = HttpError | WireError | UrlRefused

_TELLING = (
    "retry-after",
    "x-should-retry",
    "x-ratelimit-",
    "anthropic-ratelimit-",
    "x-request-id",
    "request-id",
    "date",
)
_QUOTA_CODES = ("insufficient_quota", "billing", "credit", "balance", "quota_exceeded")


def check_head(status: int, headers: Mapping[str, str], body: bytes, wanted: str) -> None:
    """Raise WireError unless this is the head of an answer: a success whose content type is JSON."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= status <= 399:
        raise WireError(f"is a redirect{_target(headers)}", code="redirect")
    if not 200 <= status <= 299:
        detail = read_error(body)
        raise WireError(
            f"is HTTP {status}",
            kind="status",
            status=status,
            code=detail.code,
            detail=detail.message,
            tokens=tokens_in(body),
            complaint=detail.complaint,
        )
    if not (kind == "application/json" or kind.endswith("+json")):
        shown = excerpt(kind, limit=60) or "no content type"
        raise WireError(f"is {shown} instead of {wanted}", code="content_type")


def tokens_in(body: bytes) -> TokenCounts:
    """What an error's body says was used all the same, mostly nothing."""
    if b'"usage"' not in body:
        return NOT_COUNTED
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return NOT_COUNTED
    found = as_object(value)
    told = tokens_of({"usage": found.get("usage") or as_object(found.get("error")).get("usage")})
    return NOT_COUNTED if told == (0, 0) else told


def telling_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those response headers that the pool goes by or a support request quotes, without any key a server may echo."""
    secrets = KNOWN_SECRETS.values()
    return {name: redact(value, secrets) for name, value in headers.items() if name.startswith(_TELLING)}


def _target(headers: Mapping[str, str]) -> str:
    try:
        return f" to {parse_url(headers.get('location', '')).origin}"
    except UrlRefused:
        return ""


def provider_error(
    endpoint: ApiEndpoint,
    problem: Problem,
    status: int,
    headers: Mapping[str, str],
    *,
    partial: str = "",
    usage: Usage | None = None,
    sent: bytes = b"",
    model: str = "",
) -> ProviderError | UrlRefused:
    """What went wrong at `endpoint`, ready to be raised. Its text holds no key, whatever the server echoed.

    `sent` is the request's body, `model` the one that the call named instead of the endpoint's own. A refused URL stays a UrlRefused: it is for whoever configures this installation, not for the provider.
    """
    if isinstance(problem, UrlRefused):
        return UrlRefused(problem.message, problem.fix)
    if isinstance(problem, HttpError):
        return ProviderError(
            f"Endpoint {endpoint.name}: {problem.message}",
            problem.fix,
            kind=problem.kind,
            status=status,
            code=problem.code,
            headers=headers,
            partial=partial,
            usage=usage,
        )
    told = _told(endpoint, problem, problem.status or status, sent, model)
    code = f" ({problem.code})" if problem.code and problem.kind == "status" else ""
    detail = excerpt(problem.detail, KNOWN_SECRETS.values())
    return ProviderError(
        f"Endpoint {endpoint.name}: the answer {problem.message}{code}{': ' + detail if detail else ''}".rstrip(".")
        + ".",
        _FIXES_BY_LIMIT.get(told.limit if told is not None else Limit.NONE) or _fix(endpoint, problem),
        kind=problem.kind,
        status=problem.status or status,
        code=problem.code,
        headers=headers,
        partial=partial,
        usage=usage,
        told=told,
    )


def _told(endpoint: ApiEndpoint, problem: WireError, status: int, sent: bytes, model: str) -> Told | None:
    if problem.complaint is None:
        return None
    body = as_object(loads(sent.decode())) if sent else None
    asked = as_text(body.get("model")) if body is not None else ""
    known = [one for one in endpoint.adapted if one.model in {"", asked}]
    told = told_by(status, problem.complaint, body, known, endpoint.extra_body.keys())
    if told.adaptations:
        told = replace(told, adaptations=tuple(replace(one, model=asked) for one in told.adaptations))
    if model and model != endpoint.model and "model" not in endpoint.extra_body:
        # What another model than the endpoint's own cannot do says nothing about the endpoint.
        told = replace(told, window=0, limit=Limit.CALLED_MODEL if told.limit is Limit.MODEL else told.limit)
    return told


_FIXES = {
    "empty": "ask again, or ask differently.",
    "content_filter": "put the request otherwise, or ask another model.",
    "timeout": "raise the endpoint's timeout if the model is slow.",
    "cut": "ask again.",
    "redirect": "set base_url to the address it redirects to, if you trust it.",
    "protocol": "check that base_url is the API's address (many end with /v1) and that the provider is right.",
}
_FIXES_BY_LIMIT = {limit: f"{fix}." for limit, fix in FIXES.items()}
_FIXES_BY_STATUS = {
    400: "change the request; asking again as it is cannot help.",
    402: "add credit with the provider, or use another endpoint.",
    403: "check that the key may use this model from here.",
    404: "check base_url (many end with /v1) and the model's name.",
    429: "wait, or lower max_requests_per_minute.",
}


def _fix(endpoint: ApiEndpoint, problem: WireError) -> str:
    """What the reader can do about it."""
    if problem.kind != "status":
        return _FIXES.get(problem.code) or _FIXES[problem.kind]
    if problem.status == 401:
        return _fix_key(endpoint)
    if any(word in problem.code.lower() for word in _QUOTA_CODES):
        return _FIXES_BY_STATUS[402]
    status = 400 if problem.status in {413, 422} else problem.status
    return _FIXES_BY_STATUS.get(status, "try again later.")


def _fix_key(endpoint: ApiEndpoint) -> str:
    if not endpoint.found_key:
        return f"no key is set: run `heablcoin-cloud set-key {endpoint.name}`, or name its variable in api_key_env."
    if endpoint.api_key_env:
        return (
            f"correct the key in the variable {endpoint.api_key_env}, or run `heablcoin-cloud set-key {endpoint.name}`."
        )
    return f"give the right key with `heablcoin-cloud set-key {endpoint.name}`."
