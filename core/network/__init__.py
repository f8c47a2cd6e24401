"""HTTP for the rest: one vetted client port, and the policy that says which addresses it may reach."""

from core.network.http import HttpError, HttpRequest, HttpResponse, HttpStream, RequestHeaders, Transport
from core.network.policy import ALLOW_HOSTS_ENV, UrlPolicy
from core.network.proxies import check_proxies
from core.network.resolve import check_url
from core.network.transports import fetch, open_transport
from core.network.url import Target, join_path, parse_url

__all__ = [
    "ALLOW_HOSTS_ENV",
    "HttpError",
    "HttpRequest",
    "HttpResponse",
    "HttpStream",
    "RequestHeaders",
    "Target",
    "Transport",
    "UrlPolicy",
    "check_proxies",
    "check_url",
    "fetch",
    "join_path",
    "open_transport",
    "parse_url",
]
