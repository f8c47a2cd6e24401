"""What is the same in all requests to an endpoint, made once: its URL and the headers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from core.cloud.endpoint import ApiEndpoint
from core.network import RequestHeaders

MOST = 1024
"""Endpoints that are remembered."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An endpoint's URL, and its headers for answers that come whole or as a stream."""

    endpoint: ApiEndpoint
    key: str = field(repr=False)
    url: str
    whole: RequestHeaders
    stream: RequestHeaders


class PreparedRequests:
    """By endpoint name, for as long as neither the endpoint nor its key changes. `headers(key, accept)` are the format's own."""

    def __init__(self, url: Callable[[str], str], headers: Callable[[str, str], dict[str, str]]) -> None:
        self._url = url
        self._headers = headers
        self._known: dict[str, Prepared] = {}

    def of(self, endpoint: ApiEndpoint) -> Prepared:
        key = endpoint.api_key
        known = self._known.get(endpoint.name)
        if known is None or known.endpoint is not endpoint or known.key != key:
            if len(self._known) >= MOST:
                self._known.clear()
            known = self._known[endpoint.name] = Prepared(
                endpoint,
                key,
                self._url(endpoint.base_url),
                RequestHeaders(self._headers(key, "application/json"), endpoint.headers),
                RequestHeaders(self._headers(key, "text/event-stream"), endpoint.headers),
            )
        return known
