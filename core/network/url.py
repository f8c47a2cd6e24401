"""A URL taken apart once, so that what is vetted is what is connected to. Pure."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from core.errors import InvalidArgument, UrlRefused

DEFAULT_PORTS = {"http": 80, "https": 443}

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_NUMBER_LIKE = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")
"""Hosts that some resolvers read as an IPv4 address, each in its own way: 127.1, 2130706433, 0x7f.1, 0177.0.0.1."""

_KEPT = "".join(map(chr, range(0x21, 0x7F)))

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads."""

    scheme: str
    host: str
    """Lower-case ASCII name, or an address without brackets."""
    port: int
    path: str
    """Path and query, starting with a slash."""

    @property
    def address(self) -> IpAddress | None:
        """The host as an address when it is one in canonical spelling, else None."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """`host` or `host:port` as it stands in a URL and in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a stored key is bound to."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        return self.origin + self.path


def parse_url(url: str) -> Target:
    """Take an http(s) URL apart.

    Raises UrlRefused for anything that two parsers could read differently: other schemes, user names, control
    characters, backslashes, hosts that are no plain name or address. The message never repeats the URL's user part.
    """
    if _FORBIDDEN.search(url.strip()):
        raise UrlRefused("The URL has spaces, backslashes or control characters.", "percent-encode them.")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise UrlRefused("The URL cannot be read.", "write it like https://api.example.com/v1.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise UrlRefused(
            f"The URL's scheme is {parts.scheme[:20]!r}." if parts.scheme else "The URL has no scheme.",
            "start it with https:// (or http:// for a server on your own network).",
        )
    if "@" in parts.netloc:
        raise UrlRefused("The URL has a user name or password in it.", "leave them out and give the key as api_key.")
    if port == 0 or parts.netloc.endswith(":"):
        raise UrlRefused("The URL's port is missing or 0.", "write it like https://api.example.com:8443/v1.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        raise UrlRefused(
            "The URL's path has characters outside ASCII.", f"percent-encode them: {quote(path, safe=_KEPT)[:200]}"
        )
    return Target(parts.scheme, _host(parts.hostname or ""), port or DEFAULT_PORTS[parts.scheme], path)


def _host(host: str) -> str:
    if ":" in host and "%" in host:
        raise UrlRefused("The URL's address has a zone (%...).", "use a name, or an address without one.")
    try:
        if ":" in host:
            return str(ipaddress.IPv6Address(host))
        # IDNA also folds full-width digits and dots, so that no spelling of an address slips by as a name.
        name = host.encode("idna").decode("ascii").lower() if not host.isascii() else host.lower()
    except (ValueError, UnicodeError):
        name = ""
    if not _NAME.fullmatch(name) or len(name) > 254 or max(map(len, name.split("."))) > 63:
        raise UrlRefused(
            "The URL's host is neither a host name nor an address.", "write it like https://api.example.com/v1."
        )
    if _NUMBER_LIKE.fullmatch(name) and not _is_address(name):
        raise UrlRefused(
            "The URL's host is an unusual spelling of an address.", "write it with four decimal numbers, as 192.0.2.1."
        )
    return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def join_path(base_url: str, suffix: str) -> str:
    """`suffix` appended to the path of `base_url`, whose query (`?api-version=...`) stays at the end."""
    base, _, fragment = base_url.strip().partition("#")
    path, mark, query = base.partition("?")
    if fragment:
        raise InvalidArgument("The base URL has a fragment (#...).", "remove everything from the # on.")
    return f"{path.rstrip('/')}/{suffix.lstrip('/')}{mark}{query}"
