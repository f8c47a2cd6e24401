"""The pool's limits as the queue asks about them: a task is claimed together with the slot its first request takes.

Who waits for an endpoint as a task holds nothing and asks nothing; see core.cloud.gate for the contract, docs/decisions/0012 for why.
"""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from core.cloud.gate import Closed
from core.cloud.pool.admission import Refusal, Refused
from core.cloud.pool.chat_call import JSON_NEEDS
from core.cloud.pool.grant import PoolGrant
from core.cloud.pool.health import HoldKind
from core.cloud.pool.member import Member
from core.cloud.pool.pool import Pool
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.selection import STRATEGIES, Roster
from core.cloud.pool.token_limit import need_of_task
from core.cloud.pool.wait_queue import EVERYONE
from core.errors import StoreError, UnknownEndpoint
from core.json_types import Json, loads

log = logging.getLogger(__name__)

LOOK_AGAIN = 0.1
"""Seconds after which an endpoint is asked again whose opening nothing announces: calls of another process end, a probe does."""
AFTER_TROUBLE = 1.0
"""Seconds after which an endpoint is asked again whose state could not be read."""


class PoolGate:
    """The gate of `ai_call`, `ai_call:next`, `ai_call:wait` and `ai_call@ENDPOINT`. Takes no lock but the states' own, so that a
    transaction may ask it. `when_limited` is what the pool does for those that do not say; until `ready` says that calls find loaded
    what they need, none begins.
    """

    def __init__(self, pool: Pool, when_limited: str = "next", ready: Callable[[], bool] = lambda: True) -> None:
        self._pool = pool
        self._ready = ready
        self._patient = when_limited == "wait"
        self._left: dict[Member, float] = {}
        """Endpoints that tasks leave to direct calls of other processes, and until when (pool time)."""

    def wait(self, capability: str) -> float:
        """See core.cloud.gate.Gate. Direct calls that wait in this process come first."""
        pool = self._pool
        now = pool.looked_at()
        ahead = self._ahead()
        if ahead is EVERYONE or not self._ready():
            return LOOK_AGAIN
        first = now + LOOK_AGAIN if ahead else float("inf")
        for member in self._roster(capability).members:
            if member in ahead:
                continue
            opens = _opens_at(member, now)
            if opens <= now and self._full(member, now):
                opens = self._left.get(member) or _opens_at(member, now)
            if opens <= now:
                return 0.0
            first = min(first, opens)
        return first - now

    def take(self, capability: str, payload: str) -> PoolGrant | None:
        """See core.cloud.gate.Gate."""
        value = loads(payload)
        options = value if isinstance(value, dict) else {}
        strategy = options.get("strategy")
        if not isinstance(strategy, str) or strategy not in STRATEGIES:
            strategy = "priority"
        need = need_of_task(value) if self._pool.limits_tokens else None
        never = frozenset(one for one in self._pool.members.values() if one.never_takes(need)) if need else frozenset()
        roster = self._roster(capability, never)
        if never.issuperset(roster.members):
            never = frozenset()  # its call, which says so, needs a slot that it gives back, and no tokens
        put_off = self._put_off(roster, options)
        for _ in range(2 * len(roster.members) + 2):
            found = self._choose(roster, strategy, put_off, never)
            if found is None:
                return None
            member, last_resort = found
            given_back = self._pool.given_back
            tokens = 1 if member.never_takes(need) else member.tokens_for(need)
            token = self._admit(member, tokens, last_resort=last_resort)
            if isinstance(token, int):
                return PoolGrant(self._pool, member, token)
            if token.why is Refusal.AWAITED:
                self._left[member] = token.until
            else:
                self._pool.refused(member, token, self._pool.time(), given_back)
        return None

    def closed(self, capability: str) -> Closed | None:
        """See core.cloud.gate.Gate. Of several endpoints the first to open is named."""
        pool = self._pool
        now = pool.looked_at()
        members = self._roster(capability).members
        refusals: list[tuple[Refused, Member]] = []
        for member in members:
            refused = member.state.look(pool.clock, member.tokens_for(None))
            if refused is None:
                return None
            refusals.append((refused, member))
        if not refusals:
            return None
        first, member = min(refusals, key=lambda pair: pair[0].until)
        limits = [refused.each_minute for refused, _ in refusals]
        starts = first.each_minute if first.why is Refusal.POOL else sum(limits) if all(limits) else 0
        more = f" (the first of {len(members)} endpoints to open)" if len(members) > 1 else ""
        return Closed(f"{_obstacle(first, member)}{more}", max(0.0, first.until - now), starts, WINDOW)

    def _choose(
        self, roster: Roster, strategy: str, put_off: AbstractSet[Member], never: AbstractSet[Member]
    ) -> tuple[Member, bool] | None:
        """The endpoint to ask now, and whether it is a last resort."""
        now, ahead = self._pool.looked_at(), self._ahead()
        if ahead is EVERYONE:
            return None
        ahead |= never
        for avoid in (ahead | put_off, ahead) if put_off else (ahead,):
            member = roster.choose(strategy, now, avoid)
            if member is not None:
                return member, False
        member = roster.last_resort(now, ahead)
        return None if member is None else (member, True)

    def _full(self, member: Member, now: float) -> bool:
        """Whether another process took what seemed free here: of those that wait for one slot, all but one stay out of a transaction."""
        freed = self._pool.given_back, member.in_flight
        refused = member.state.peek(self._pool.clock)
        if refused is None or freed != (self._pool.given_back, member.in_flight):
            return False
        if refused.why is Refusal.AWAITED:
            self._left[member] = refused.until
        else:
            member.refused(refused, now)
        return True

    def _admit(self, member: Member, tokens: int, *, last_resort: bool) -> int | Refused:
        try:
            return member.state.admit(
                self._pool.clock, last_resort=last_resort, new_key=member.new_key, tokens=tokens, task=True
            )
        except StoreError:
            raise
        except Exception:
            log.exception("whether %s takes a call could not be found out", member.name)
            return Refused(Refusal.BUSY, self._pool.time() + AFTER_TROUBLE)

    def _ahead(self) -> AbstractSet[Member]:
        """What direct calls wait for, of this process and as far as known of others: somebody waits for them now."""
        queue = self._pool.wait_queue
        ahead: AbstractSet[Member] = queue.ahead(None) if queue.waiters else frozenset()
        if self._left and ahead is not EVERYONE:
            now = self._pool.time()
            self._left = {member: until for member, until in self._left.items() if now < until <= now + WINDOW + 1.0}
            ahead |= self._left.keys()
        return ahead

    def _roster(self, capability: str, never: AbstractSet[Member] = frozenset()) -> Roster:
        name = capability.partition("@")[2]
        if not name:
            said = capability.partition(":")[2]
            waits = said == "wait" if said else self._patient
            return self._pool.roster.patient(self._pool.time(), never) if waits else self._pool.roster
        try:
            return self._pool.only(name)
        except UnknownEndpoint:
            return Roster((), self._pool.rng)

    def _put_off(self, roster: Roster, options: Mapping[str, Json]) -> frozenset[Member]:
        """Endpoints that are known to refuse what this task cannot do without."""
        if not (self._pool.bent and options.get("json")):
            return frozenset()
        model = options.get("model")
        named = model if isinstance(model, str) else ""
        return frozenset(member for member in roster.members if member.refuses(JSON_NEEDS, named))


def _opens_at(member: Member, now: float) -> float:
    health, blocked, opens = member.state.health, member.blocked, member.last_resort_at
    if opens <= now:
        return opens
    busy = blocked is not None and blocked.why is Refusal.BUSY
    if health.probe and health.probe_until > now and health.kind is not HoldKind.NONE:
        return now + LOOK_AGAIN if busy else min(opens, now + LOOK_AGAIN)
    return max(opens, now + LOOK_AGAIN) if busy else opens


def _obstacle(refused: Refused, member: Member) -> str:
    """What a call waits for, in words that follow "waits for"."""
    name, most = member.name, member.endpoint.max_concurrency
    said = {
        Refusal.LIMITED: f"{name}'s {refused.detail.removeprefix('rate ')}",
        Refusal.POOL: refused.detail,
        Refusal.TOKENS: f"{name}'s {refused.detail}",
        Refusal.BUSY: f"{name}, which takes {most} call{'s' if most != 1 else ''} at a time",
        Refusal.SPENT: f"the next day (UTC) of {name}: {refused.detail}",
        Refusal.PROBING: f"the call that tests whether {name} works again",
        Refusal.HELD: f"{name}, {_HELD[member.state.health.kind]}",
    }
    return said.get(refused.why, f"{name} ({refused})")


_HELD = {
    HoldKind.NONE: "which rests",
    HoldKind.TRANSIENT: "which failed and is tried again later",
    HoldKind.RATE_LIMITED: "whose server asked to be left alone",
    HoldKind.ENDPOINT_FAULT: "which refused its key, account or address (once that is corrected they start at once)",
}
