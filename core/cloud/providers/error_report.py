"""ProviderError in words: what the endpoint did, then what to do about it. Pure."""

from collections.abc import Mapping

from core.cloud.endpoint import ApiEndpoint
from core.cloud.providers.base import ProviderError
from core.cloud.providers.error_body import read_error
from core.cloud.providers.wire import WireError
from core.errors import UrlRefused
from core.network import HttpError, parse_url
from core.redaction import excerpt

Problem = HttpError | WireError | UrlRefused

_QUOTA_CODES = ("insufficient_quota", "billing", "credit", "balance", "quota_exceeded")


def check_head(status: int, headers: Mapping[str, str], body: bytes, wanted: str) -> None:
    """Raise WireError unless this is the head of an answer: a success whose content type is JSON."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= status <= 399:
        raise WireError(f"is a redirect{_whither(headers)}", code="redirect")
    if not 200 <= status <= 299:
        detail = read_error(body)
        raise WireError(f"is HTTP {status}", kind="status", status=status, code=detail.code, detail=detail.message)
    if not (kind == "application/json" or kind.endswith("+json")):
        shown = excerpt(kind, limit=60) or "no content type"
        raise WireError(f"is {shown} instead of {wanted}", code="content_type")


def _whither(headers: Mapping[str, str]) -> str:
    try:
        return f" to {parse_url(headers.get('location', '')).origin}"
    except UrlRefused:
        return ""


def provider_error(
    endpoint: ApiEndpoint, problem: Problem, status: int, headers: Mapping[str, str], partial: str = ""
) -> ProviderError | UrlRefused:
    """What went wrong at `endpoint`, ready to be raised. Its text holds no key, whatever the server echoed.

    A refused URL stays a UrlRefused: it is for whoever configures this installation, not for the provider.
    """
    if isinstance(problem, UrlRefused):
        return UrlRefused(problem.message, problem.fix)
    shown = {name: value for name, value in headers.items() if name != "set-cookie"}
    if isinstance(problem, HttpError):
        return ProviderError(
            f"Endpoint {endpoint.name}: {problem.message}",
            problem.fix,
            kind=problem.kind,
            status=status,
            code=problem.code,
            headers=shown,
            partial=partial,
        )
    code = f" ({problem.code})" if problem.code and problem.kind == "status" else ""
    detail = excerpt(problem.detail, (endpoint.api_key,))
    return ProviderError(
        f"Endpoint {endpoint.name}: the answer {problem.message}{code}{': ' + detail if detail else ''}".rstrip(".")
        + ".",
        _fix(endpoint, problem),
        kind=problem.kind,
        status=problem.status or status,
        code=problem.code,
        headers=shown,
        partial=partial,
    )


def _fix(endpoint: ApiEndpoint, problem: WireError) -> str:
    if problem.kind == "status":
        return _fix_for_status(endpoint, problem)
    if problem.kind == "empty":
        return "raise max_tokens." if problem.code == "length" else "ask again, or ask differently."
    if problem.kind == "timeout":
        return "raise the endpoint's timeout if the model is slow."
    if problem.kind == "cut":
        return "ask again."
    if problem.code == "redirect":
        return "set base_url to the address it redirects to, if you trust it."
    return "check that base_url is the API's address (many end with /v1) and that the provider is right."


def _fix_for_status(endpoint: ApiEndpoint, problem: WireError) -> str:
    status, code = problem.status, problem.code.lower()
    if status == 402 or any(word in code for word in _QUOTA_CODES):
        return "add credit with the provider, or use another endpoint."
    if status == 401:
        source = f"the variable {endpoint.api_key_env}" if endpoint.api_key_env else "the key"
        return (
            f"set {source} right (`heablcoin-cloud set-key {endpoint.name}`)."
            if endpoint.api_key
            else (f"no key is set: run `heablcoin-cloud set-key {endpoint.name}`, or set api_key_env.")
        )
    if status == 403:
        return "check that the key may use this model from here."
    if status == 404:
        return "check base_url (many end with /v1) and the model's name."
    if status in {400, 413, 422}:
        return "change the request; asking again as it is cannot help."
    if status == 429:
        return "wait, or lower max_requests_per_minute."
    return "try again later."
