"""Which addresses a URL chosen by a model may lead to. Pure decisions; `resolve.py` asks them of every address."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from core.errors import InvalidArgument, UrlRefused
from core.network.url import IpAddress, Target, parse_url

ALLOW_HOSTS_ENV = "HEABLCOIN_CLOUD_ALLOW_HOSTS"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA special-purpose registries (RFC 6890 and updates), with the cloud metadata addresses that lie outside them.
_REFUSED_V4: tuple[tuple[ipaddress.IPv4Network, str], ...] = tuple(
    (ipaddress.IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),
        ("169.254.0.0/16", "link-local (cloud metadata)"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_REFUSED_V6: tuple[tuple[ipaddress.IPv6Network, str], ...] = tuple(
    (ipaddress.IPv6Network(network), kind)
    for network, kind in (
        ("::1/128", "loopback"),
        ("::/128", "this host"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved (Teredo and other tunnels)"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4 tunnel"),
        ("3fff::/20", "documentation"),
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_EMBEDS_V4 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
"""IPv4-mapped, and NAT64's well-known prefix (RFC 6052): judged by the IPv4 address in the last 32 bits."""

_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


def refused_kind(address: IpAddress) -> str:
    """Why `address` is not on the public internet (`private`, `loopback`, ...), '' when it is."""
    if isinstance(address, ipaddress.IPv4Address):
        return next((kind for network, kind in _REFUSED_V4 if address in network), "")
    if any(address in network for network in _EMBEDS_V4):
        return refused_kind(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    kind = next((kind for network, kind in _REFUSED_V6 if address in network), "")
    return kind or ("" if address in _GLOBAL_V6 else "reserved")


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry of the allow list: a host or a network, on one port or on all."""

    host: str = ""
    network: Network | None = None
    port: int | None = None

    def admits(self, host: str, port: int, address: IpAddress | None) -> bool:
        if self.port not in (None, port):
            return False
        if self.network is None:
            return host == self.host or (self.host == "localhost" and address is not None and address.is_loopback)
        return address is not None and _unwrap(address) in self.network


def _unwrap(address: IpAddress) -> IpAddress:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


@dataclass(frozen=True)
class UrlPolicy:
    """Public addresses over https, and what the allow list adds.

    `UrlPolicy.parse("localhost:11434, 10.0.0.0/8, gpu.lan")` admits one port of this machine, a network, and a host
    on all its ports, each over http too. Where a policy is asked for, None stands for no vetting at all: right for
    URLs the programmer wrote, wrong for any a model can choose.
    """

    allowed: tuple[Allowed, ...] = ()
    text: str = ""
    """The allow list as it was written, for error messages."""
    require_https: bool = field(default=True, kw_only=True)
    """False lets plain http to public addresses pass; never for requests that carry a key."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a comma-separated allow list. Raises InvalidArgument naming the entry that cannot be read."""
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        return cls(tuple(_parse_entry(entry) for entry in entries), ",".join(entries))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The policy of this installation: `HEABLCOIN_CLOUD_ALLOW_HOSTS`, nothing private when it is not set."""
        return cls.parse((os.environ if environ is None else environ).get(ALLOW_HOSTS_ENV, ""))

    def check(self, url: str) -> Target:
        """Everything the URL itself shows, without asking DNS. Raises UrlRefused."""
        target = parse_url(url)
        if self._admits(target, target.address):
            return target
        address = target.address
        if target.host.endswith("."):
            raise UrlRefused("The URL's host ends with a dot.", "leave the last dot out.")
        if target.host in _LOCAL_NAMES or target.host.endswith(".localhost"):
            raise self._refusal(target, "leads to this machine (loopback)")
        if address is not None:
            self.check_address(target, address)
        elif self.require_https and target.scheme != "https" and not self._may_admit(target):
            raise self._refusal(target, "is plain http, which shows the key to everybody on the way", "use https, or ")
        return target

    def check_address(self, target: Target, address: IpAddress) -> None:
        """One address `target` resolved to, before it is connected to. Raises UrlRefused."""
        if self._admits(target, address):
            return
        if kind := refused_kind(address):
            shown = target.host if target.host == str(address) else f"{target.host} ({address})"
            raise self._refusal(target, f"leads to a {kind} address: {shown}")
        if self.require_https and target.scheme != "https":
            raise self._refusal(target, "is plain http, which shows the key to everybody on the way", "use https, or ")

    def _admits(self, target: Target, address: IpAddress | None) -> bool:
        return any(entry.admits(target.host, target.port, address) for entry in self.allowed)

    def _may_admit(self, target: Target) -> bool:
        """True when an address the name resolves to could lie in an allowed network."""
        return any(entry.network is not None and entry.port in (None, target.port) for entry in self.allowed)

    def _refusal(self, target: Target, why: str, instead: str = "") -> UrlRefused:
        host = f"[{target.host}]" if ":" in target.host else target.host
        wanted = ",".join(part for part in (self.text, f"{host}:{target.port}") if part)
        return UrlRefused(
            f"The URL {target.origin} {why}.",
            f"{instead}if you trust that server, set {ALLOW_HOSTS_ENV}={wanted} for this server and start it again.",
        )


def _parse_entry(entry: str) -> Allowed:
    """`host`, `host:port`, `network`, `[v6]:port`."""
    try:
        return Allowed(network=ipaddress.ip_network(entry.strip("[]"), strict=False))
    except ValueError:
        pass
    try:
        target = parse_url(f"http://{entry}/")
        explicit = re.search(r":([0-9]+)$", entry)
        port = int(explicit.group(1)) if explicit else None
        if target.path != "/" or "://" in entry:
            raise UrlRefused("")
        address = target.address
        if address is not None:
            return Allowed(network=ipaddress.ip_network(str(address)), port=port)
        return Allowed(host=target.host, port=port)
    except UrlRefused:
        raise InvalidArgument(
            f"{ALLOW_HOSTS_ENV} has an entry that cannot be read: {entry[:60]!r}.",
            "separate by commas: host, host:port, address, or network (localhost:11434,10.0.0.0/8).",
        ) from None
