"""The proxy the environment asks for: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, in either case; else the system's own.

The proxy is the administrator's and is not vetted. It resolves the names itself; see `vet_behind_proxy`.
"""

import ipaddress
import os
import re
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from core.errors import InvalidArgument
from core.network.http import HttpError
from core.network.url import Target

SCHEMES = ("http", "https", "socks5", "socks5h")
_SAME = {"socks": "socks5"}
"""GNOME writes socks:// for it."""
_NOT_IN_HOST = re.compile(r"[\s/?#\\]")


def proxy_for(target: Target) -> str:
    """The proxy's URL for `target`, '' for a direct connection. Raises HttpError (`proxy`) for one that cannot be used."""
    environment = getproxies_environment()
    proxies = environment or getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all") or ""
    if not proxy:
        return ""
    direct = bypasses(environment.get("no", ""), target) if environment else proxy_bypass(target.authority)
    if direct or _is_this_machine(target):
        return ""
    try:
        return checked(proxy, _variable(target.scheme))
    except InvalidArgument as error:
        raise HttpError(error.message, error.fix, kind="connect", code="proxy") from None


def behind_proxy(target: Target) -> bool:
    """`target` speaks TLS and is reached through a proxy, which has to open the way first."""
    return target.scheme == "https" and bool(proxy_for(target))


def check_proxies() -> dict[str, str]:
    """The proxy of each scheme that has one, without its user and password.

    Raises InvalidArgument, which names the variable and not the password, for one that no request could use.
    """
    found = {}
    for scheme in ("http", "https"):
        proxies = getproxies()
        proxy = proxies.get(scheme) or proxies.get("all")
        if proxy:
            found[scheme] = shown(checked(proxy, _variable(scheme)))
    return found


def wants_socks() -> bool:
    """Some requests go through a SOCKS proxy."""
    return any(proxy.startswith("socks") for proxy in check_proxies().values())


def checked(proxy: str, variable: str) -> str:
    """A proxy's URL with its scheme. Raises InvalidArgument."""
    text = proxy.strip()
    text = text if "://" in text else f"http://{text}"
    scheme, _, rest = text.partition("://")
    scheme = _SAME.get(scheme.lower(), scheme.lower())
    if scheme not in SCHEMES:
        raise InvalidArgument(
            f"{variable} asks for a proxy of the kind {scheme[:20]}://, which cannot be used.",
            f"use one of {', '.join(f'{name}://' for name in SCHEMES)}, or unset it.",
        )
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        sound = bool(parts.hostname) and parts.port != 0 and not _NOT_IN_HOST.search(parts.netloc.rpartition("@")[2])
    except ValueError:
        sound = False
    if not sound:
        raise InvalidArgument(
            f"{variable} holds no address of a proxy.", "write it like http://proxy.example:3128, or unset it."
        )
    if scheme.startswith("socks") and find_spec("socksio") is None:
        raise InvalidArgument(
            f"{variable} asks for the SOCKS proxy {shown(f'{scheme}://{rest}')}, and socksio is not installed.",
            "install heablcoin-cloud[socks], name an HTTP proxy in HTTP_PROXY and HTTPS_PROXY, or unset it.",
        )
    return f"{scheme}://{rest}"


def shown(proxy: str) -> str:
    """A proxy as it may be told: without user and password."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def bypasses(no_proxy: str, target: Target) -> bool:
    """Whether NO_PROXY exempts `target`. Pure.

    Entries are separated by commas or spaces: a name (with all that end in it, whether or not it begins with `.` or `*.`),
    an address, a network (`10.0.0.0/8`, `fd00::/8`) for hosts given as addresses, each with or without a port; `*` for all.
    """
    return any(_exempts(entry.lower(), target) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _exempts(entry: str, target: Target) -> bool:
    entry = entry.rpartition("://")[2].rstrip("/") if "://" in entry else entry
    if entry in {"*", "*.*"}:
        return True
    address = target.address
    network = _network(entry)
    if network is not None:
        return address is not None and address in network
    host, port = _apart(entry)
    if port and port != str(target.port):
        return False
    network = _network(host)
    if network is not None:
        return address is not None and address in network
    if host == "<local>":  # as Windows writes it: names without a dot
        return address is None and "." not in target.host
    suffix = host.removeprefix("*").strip(".")
    name = target.host.rstrip(".")
    return bool(suffix) and address is None and (name == suffix or name.endswith(f".{suffix}"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, slash, length = text.partition("/")
    try:
        return ipaddress.ip_network(f"{address.strip('[]')}{slash}{length}", strict=False)
    except ValueError:
        return None


def _apart(entry: str) -> tuple[str, str]:
    """Host and port of `host:port` or `[v6]:port`; the port '' when there is none."""
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host, port
    return entry, ""


def _is_this_machine(target: Target) -> bool:
    """No proxy could reach what runs here, such as Ollama: Go's and curl's newer rule, and what is meant."""
    address = target.address
    if address is not None:
        return address.is_loopback
    return target.host == "localhost" or target.host.endswith(".localhost")


def _variable(scheme: str) -> str:
    """The variable that says which proxy requests of this scheme take, for messages."""
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), "The system's setting")
