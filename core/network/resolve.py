"""Names to vetted addresses: asked when connecting, so that a name cannot change its mind after the check."""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Sequence

from core.errors import UrlRefused
from core.network.lookups import LOOKUPS, Lookup
from core.network.policy import UrlPolicy
from core.network.url import IpAddress, Target, parse_url

VETTING_PATIENCE = 3.0
"""Seconds to wait for this machine's own answer about a host that a proxy will resolve."""


def system_lookup(host: str, port: int) -> list[str]:
    """Ask the operating system (hosts file, DNS), each address once, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def vetted_addresses(target: Target, policy: UrlPolicy | None, lookup: Lookup = system_lookup) -> list[str]:
    """The addresses of `target` that `policy` lets it be connected to, as text a socket takes.

    Raises OSError when the name does not resolve, UrlRefused when no address of it is allowed. Addresses that are
    refused beside others that are not (a usual trick of DNS rebinding) are left out.
    """
    if target.address is not None:
        found: Sequence[str] = [target.host]
    else:
        found = await LOOKUPS.find(lookup, target.host, target.port)
    if not found:
        raise OSError(f"{target.host} has no address")
    return list(found) if policy is None else allowed_addresses(target, policy, found)


def allowed_addresses(target: Target, policy: UrlPolicy, found: Sequence[str]) -> list[str]:
    """Those of `found` that `policy` allows. Raises UrlRefused when there are none."""
    allowed: list[str] = []
    refusal: UrlRefused | None = None
    for text in found:
        try:
            policy.check_address(target, parse_address(text))
        except UrlRefused as error:
            refusal = refusal or error
        else:
            allowed.append(text)
    if not allowed and refusal is not None:
        raise refusal
    return allowed


def parse_address(text: str) -> IpAddress:
    """An address as the resolver gives it, with or without a zone (`fe80::1%eth0`)."""
    return ipaddress.ip_address(text.partition("%")[0])


def check_url(
    url: str, policy: UrlPolicy | None, *, lookup: Lookup = system_lookup, patience: float = 2.0
) -> list[str]:
    """Vet a URL before it is kept; every connection vets it again. Blocks for at most `patience` seconds.

    Returns warnings: a name that does not resolve yet (a laptop without network, a server still to be set up) is
    accepted with one. Raises UrlRefused for everything `policy` does not allow. Without a policy nothing is checked.
    """
    if policy is None:
        return []
    target = policy.check(url)
    if target.address is not None:
        return []
    found: list[str] | None = None

    def ask() -> None:
        nonlocal found
        try:
            found = list(lookup(target.host, target.port))
        except OSError:
            found = []

    thread = threading.Thread(target=ask, name="check-url", daemon=True)
    thread.start()
    thread.join(patience)
    if not found:
        return [f"The name {target.host} does not resolve now; its address will be checked at each call."]
    allowed_addresses(target, policy, found)
    return []


async def vet_behind_proxy(target: Target, policy: UrlPolicy | None, lookup: Lookup = system_lookup) -> None:
    """The check for a host that a proxy will resolve: what this machine resolves it to, if it can, must be allowed.

    Behind a proxy there is often no DNS at all: a look-up that does not end is not waited for, since no check here can
    bind what the proxy resolves.
    """
    if policy is None:
        return
    try:
        async with asyncio.timeout(VETTING_PATIENCE):
            await vetted_addresses(target, policy, lookup)
    except OSError:
        return


class Targets:
    """URLs taken apart and checked against one policy, remembered: an endpoint calls the same one all day."""

    def __init__(self, policy: UrlPolicy | None, size: int = 1024) -> None:
        self._policy = policy
        self._size = size
        self._known: dict[str, Target] = {}

    def check(self, url: str) -> Target:
        """Raises UrlRefused."""
        target = self._known.get(url)
        if target is None:
            target = parse_url(url) if self._policy is None else self._policy.check(url)
            if len(self._known) >= self._size:
                self._known.clear()
            self._known[url] = target
        return target
