"""Who may talk to the HTTP server: Host, Origin and bearer token, checked before anything else runs."""

import hmac
import ipaddress
import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import InvalidArgument
from server import DISTRIBUTION
from server.settings import PREFIX

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
NO_OAUTH = "This server has no OAuth: it knows one token."
NOT_SERVED = f"Nothing is served at this path. {NO_OAUTH}"
SEND_TOKEN = (
    "have the client send the header `Authorization: Bearer TOKEN` (mcp-remote: --header 'Authorization: Bearer TOKEN'). "
    f"TOKEN is the value of {PREFIX}TOKEN where the server runs, or what it printed on stderr when it started"
)
CHALLENGE = f'Bearer realm="{DISTRIBUTION} (no OAuth: send the value of {PREFIX}TOKEN as the bearer token)"'
SHORTEST_TOKEN = 16
"""Characters a token must have where other machines can try it."""


def check_bind(host: str, token: str, hosts: Iterable[str]) -> None:
    """Raise InvalidArgument for an address that other machines reach, unless it is protected."""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidArgument(
            f"{PREFIX}TOKEN holds characters that an HTTP header cannot carry.", "use letters and digits only"
        )
    if is_loopback(host):
        return
    if len(token) < SHORTEST_TOKEN:
        raise InvalidArgument(
            f"Listening on {host} lets other machines in, and there is no bearer token of {SHORTEST_TOKEN} characters or more.",
            f"set {PREFIX}TOKEN (for example to the output of `openssl rand -hex 32`), or listen on 127.0.0.1",
        )
    if not tuple(hosts):
        raise InvalidArgument(
            f"Listening on {host} needs the names clients reach it by, so that web pages cannot (DNS rebinding).",
            f"set {PREFIX}HTTP_HOSTS, for example to queue.lan:8765",
        )


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: 421 for a wrong Host, 403 for a wrong Origin, 404 for a path that is not served, 401 without the token.

    A path that is not served answers 404 to anyone: a client without a token looks for an OAuth server there, and a 401
    would have it believe that there is one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        hosts: Iterable[str],
        origins: Iterable[str],
        paths: Iterable[str],
        open_paths: Iterable[str],
    ) -> None:
        """`paths`: what is served to those with the token; `open_paths`: to anyone."""
        self._app = app
        self._token = token.encode()
        self._hosts = {host.lower() for host in (*LOOPBACK_NAMES, *hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        self._paths = {path.rstrip("/") for path in paths}
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        if not self._known_host(headers.get("host", "")):
            return _answer(421, "This Host is not served here.", f"add it to {PREFIX}HTTP_HOSTS")
        origin = headers.get("origin")
        if origin is not None and not self._known_origin(origin):
            return _answer(403, "Pages of this Origin may not call.", f"add it to {PREFIX}HTTP_ORIGINS")
        if path in self._open_paths:
            return None
        if path.rstrip("/") not in self._paths:
            return _answer(404, NOT_SERVED, SEND_TOKEN)
        authorization = headers.get("authorization", "")
        if self._has_token(authorization):
            return None
        wrong = "wrong" if authorization else "missing"
        refusal = _answer(401, f"The bearer token is {wrong}. {NO_OAUTH}", SEND_TOKEN)
        refusal.headers["WWW-Authenticate"] = f'{CHALLENGE}, error="invalid_token"' if authorization else CHALLENGE
        return refusal

    def _known_host(self, host: str) -> bool:
        host = host.lower()
        return host in self._hosts or _without_port(host) in self._hosts

    def _known_origin(self, origin: str) -> bool:
        origin = origin.lower().rstrip("/")
        if origin in self._origins:
            return True
        scheme, _, host = origin.partition("://")
        return scheme in ("http", "https") and _without_port(host) in LOOPBACK_NAMES

    def _has_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)


def _without_port(host: str) -> str:
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return ""
    return f"[{name}]" if ":" in name else name


def _answer(status: int, message: str, fix: str) -> Response:
    body = json.dumps({"error": message, "fix": fix})
    return Response(body, status, media_type="application/json")
