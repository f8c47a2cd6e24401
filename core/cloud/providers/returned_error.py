"""Errors that a user's function returns instead of raising: `requests.post(...).json()` raises nothing, whatever the server said."""

from collections.abc import Mapping
from typing import TypeVar

from core.cloud.endpoint import ApiEndpoint

R = TypeVar("R")


def unless_error(endpoint: ApiEndpoint, result: R) -> R:
    """`result`, unless it is itself an error, which is raised as the failure it stands for.

    An error is an HTTP response of 400 or more (of requests, httpx, httpx2, aiohttp: what its `raise_for_status` raises) and
    JSON that is nothing but an error as LLM APIs write it: `{"error": {"message": ...}}`, or `{"error": "..."}` alone.
    """
    if isinstance(result, dict):
        error = result.get("error")
        if error and (
            len(result) == 1 if isinstance(error, str) else isinstance(error, Mapping) and "message" in error
        ):
            _raise_error(endpoint, result)
    elif hasattr(result, "raise_for_status") and _status(result) >= 400:
        result.raise_for_status()
    return result


def _status(response: object) -> int:
    status = getattr(response, "status_code", None) or getattr(response, "status", None)
    return status if isinstance(status, int) else 0


def _raise_error(endpoint: ApiEndpoint, body: dict[str, object]) -> None:
    from core.cloud.chat import Usage
    from core.cloud.providers.error_body import error_in_answer
    from core.cloud.providers.error_report import provider_error
    from core.cloud.replies.token_counts import tokens_of

    found = error_in_answer(body)  # type: ignore[arg-type]  # a body that is not JSON throughout is read as far as it is
    if found is not None:
        raise provider_error(endpoint, found, 0, {}, usage=Usage(*tokens_of(body)))
