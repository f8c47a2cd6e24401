"""Who belongs to the pool: its members kept in step with the store, the keys and the other processes."""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from core.cloud.endpoint import LOCAL_PROVIDERS, ApiEndpoint
from core.cloud.pool.health import HoldKind
from core.cloud.pool.member import Member
from core.cloud.pool.pool import Pool
from core.cloud.pool.pool_state import Listing, PoolState
from core.network import UrlPolicy, check_url

if TYPE_CHECKING:
    from core.cloud.keys.secrets import KeyStore

log = logging.getLogger(__name__)

REFRESH_AFTER = 0.5
"""Seconds after which a call looks whether other processes changed something."""


class Membership:
    """Adds, removes and refreshes members. Thread-safe."""

    def __init__(self, pool: Pool, store: PoolState, keys: "KeyStore | None", url_policy: UrlPolicy | None) -> None:
        self._pool, self._store = pool, store
        self._keys, self._url_policy = keys, url_policy
        self._lock = threading.RLock()
        self._version = -1
        self._looked_at = float("-inf")
        self._usable: set[str] = set()
        self.on_usable: list[Callable[[], None]] = []
        """Called when the members that this process can use are others than before."""
        if store.shared:
            self.refresh()

    def begin_anew(self) -> None:
        """In a forked child: the lock is nobody's."""
        self._lock = threading.RLock()

    def add(self, endpoint: ApiEndpoint) -> list[str]:
        """Add or replace an endpoint; returns what the user should know about it, in words."""
        local = endpoint.provider in LOCAL_PROVIDERS
        warnings = [] if local else check_url(endpoint.base_url, self._url_policy)
        endpoint.known_key()  # raises for one that no request can carry, before anything is changed
        if endpoint.key_note:
            warnings.append(f"The key was given with {endpoint.key_note} around it; that was taken off.")
        with self._lock:
            if endpoint.given_key and self._keys is not None:
                self._keys.set(endpoint.name, endpoint.base_url, endpoint.given_key)
            endpoint = self._with_keys(endpoint).adapted_by(())
            listing = Listing(endpoint, needs_key=bool(endpoint.found_key or endpoint.api_key_env))
            self._store.save(listing)
            self._install([*self._others(endpoint.name), self._member(listing)])
        log.debug("added %s", endpoint)
        return warnings

    def remove(self, name: str) -> None:
        """Remove an endpoint and forget its key. Raises UnknownEndpoint."""
        with self._lock:
            self._pool.get(name)
            self._store.remove(name)
            if self._keys is not None:
                self._keys.delete(name)
            self._install(self._others(name))

    def reset(self, name: str | None) -> None:
        """Set the counts of one endpoint (or of all) to zero and lift its holds."""
        with self._lock:
            for member in [self._pool.get(name)] if name else list(self._pool.members.values()):
                self._store.reset(member.name)
                member.reset()
        self._pool.tell()

    def due(self, name: str = "") -> bool:
        """Whether to look at what other processes did: each half second, and before saying that there is no endpoint (`name`)."""
        if not self._store.shared:
            return self._pool.faulty and self._pool.clock.monotonic() - self._looked_at > REFRESH_AFTER
        members = self._pool.members
        return (
            not members
            or (name != "" and name not in members)
            or self._pool.clock.monotonic() - self._looked_at > REFRESH_AFTER
        )

    def refresh(self) -> None:
        """Take over what other processes added, removed, reset or found out."""
        with self._lock:
            self._looked_at = self._pool.clock.monotonic()
            self._pool.faulty = self._pool.faulty and any(
                member.state.health.kind is HoldKind.ENDPOINT_FAULT for member in self._pool.members.values()
            )
            version = self._store.version()
            if version != self._version:
                known = self._pool.members
                listings = self._store.endpoints()
                self._install([self._kept(known.get(listing.endpoint.name), listing) for listing in listings])
                self._version = version
            elif any(member.keyless for member in self._pool.members.values()):
                self._install(list(self._pool.members.values()))
            self._store.refresh()
            now = self._pool.time()
            sooner = False
            for member in self._pool.members.values():
                before = member.ready_at, member.last_resort_at
                member.refresh(now)
                sooner = sooner or member.ready_at < before[0] or member.last_resort_at < before[1]
        if sooner:  # not each time: who is told looks, and who looks refreshes
            self._pool.tell()

    def _kept(self, member: Member | None, listing: Listing) -> Member:
        """The member there is, when its settings are still those; else a new one."""
        if member is not None and member.endpoint == listing.endpoint and member.needs_key == listing.needs_key:
            member.adapt(listing.adapted)
            return member
        return self._member(listing)

    def _member(self, listing: Listing) -> Member:
        endpoint = self._with_keys(listing.endpoint).adapted_by(listing.adapted)
        return Member(endpoint, self._store.open(endpoint), needs_key=listing.needs_key)

    def _with_keys(self, endpoint: ApiEndpoint) -> ApiEndpoint:
        keys = self._keys
        if keys is None or endpoint.provider in LOCAL_PROVIDERS:
            return endpoint
        return endpoint.with_key_from(lambda: keys.get(endpoint.name, endpoint.base_url))

    def _others(self, name: str) -> list[Member]:
        return [member for member in self._pool.members.values() if member.name != name]

    def _install(self, members: list[Member]) -> None:
        for member in members:
            member.keyless = member.needs_key and not member.endpoint.found_key
        usable = self._usable
        self._pool.install(members)
        self._usable = {member.name for member in members if not member.keyless}
        if self._usable != usable:
            for changed in self.on_usable:
                changed()


NAMED = 5
"""Endpoints that are named; the rest are counted."""


def lacking(members: Iterable[Member], endpoint: str) -> str:
    """What is missing before `endpoint` ('': any) can be asked, in words; '' when nothing is."""
    asked = [member for member in members if not endpoint or member.name == endpoint]
    if any(not member.keyless for member in asked):
        return ""
    if not asked:
        return f"{f'There is no endpoint {endpoint!r}' if endpoint else 'The pool is empty'}: add one with add_api_endpoint."
    names = ", ".join(member.name for member in asked[:NAMED])
    more = f" and {len(asked) - NAMED} more" if len(asked) > NAMED else ""
    command = f"`heablcoin-cloud set-key {asked[0].name}`"
    variable = asked[0].endpoint.api_key_env
    return (
        f"{names}{more} {'has' if len(asked) == 1 else 'have'} no key here. Run {command}"
        f"{f', or set {variable} where the server starts' if variable else ''}."
    )
