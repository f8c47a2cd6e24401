"""Which endpoint a call goes to. Pure: the time and the randomness are passed in.

A strategy looks at a few endpoints, not at all of them, as long as those are ready: choosing among a thousand costs what choosing
among three does.
"""

import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from core.cloud.pool.member import Member
from core.errors import InvalidArgument

FEW = 4
"""Up to this many endpoints are all compared; of more, two at random are."""
TRIES = 3
"""Random draws before all endpoints are looked at."""


class Tier:
    """Endpoints of one priority; they take turns, and the turns of one that rests are shared out evenly."""

    __slots__ = ("_random", "_shared_out", "members", "turn")

    def __init__(self, members: Sequence[Member], draw: Callable[[], float]) -> None:
        self.members = members
        self.turn = itertools.count()
        self._shared_out = itertools.count()
        self._random = draw

    def choose(self, now: float, avoid: Collection[Member]) -> Member | None:
        members = self.members
        size = len(members)
        member = members[next(self.turn) % size]
        if member.ready_at <= now and member not in avoid:
            return member
        # Not the next one: it would have the turns of all that rest before it, besides its own.
        if size > FEW:
            for _ in range(TRIES):
                member = members[int(self._random() * size)]
                if member.ready_at <= now and member not in avoid:
                    return member
        able = [member for member in members if member.ready_at <= now and member not in avoid]
        return able[next(self._shared_out) % len(able)] if able else None


class Roster:
    """The endpoints that can be chosen, arranged for the strategies. Made anew when one is added or removed."""

    def __init__(self, members: Iterable[Member], rng: random.Random) -> None:
        self.members = tuple(members)
        self._rng = rng
        self._random = rng.random
        groups: dict[int, list[Member]] = {}
        for member in self.members:
            groups.setdefault(member.endpoint.priority, []).append(member)
        self._tiers = [Tier(groups[priority], self._random) for priority in sorted(groups)]
        self._all = Tier(self.members, self._random)
        self._cumulated = list(itertools.accumulate(member.endpoint.weight for member in self.members))
        self._down_to: dict[int, Roster] = {}

    def choose(self, strategy: str, now: float, avoid: Collection[Member] = ()) -> Member | None:
        """A member that is ready and not in `avoid`; None when there is none."""
        return _STRATEGIES[strategy](self, now, avoid) if self.members else None

    def last_resort(self, now: float, avoid: Collection[Member] = ()) -> Member | None:
        """A member that only a soft hold keeps back: the one held longest ago, by priority."""
        able = (member for member in self.members if member.last_resort_at <= now and member not in avoid)
        return min(able, key=lambda member: (member.endpoint.priority, member.ready_at), default=None)

    def patient(self, now: float, asked: Collection[Member]) -> "Roster":
        """The endpoints of a call that waits where a limit keeps it: down to the first priority of which one is able.

        Those in `asked` are out: the call was there in vain.
        """
        for index, tier in enumerate(self._tiers[:-1]):
            if any(member not in asked and member.able(now) for member in tier.members):
                return self._first(index + 1)
        return self

    def _first(self, count: int) -> "Roster":
        """The endpoints of the first `count` priorities, which take their turns as they do here."""
        roster = self._down_to.get(count)
        if roster is None:
            tiers = self._tiers[:count]
            roster = Roster((member for tier in tiers for member in tier.members), self._rng)
            roster._tiers = tiers
            self._down_to[count] = roster
        return roster

    def _priority(self, now: float, avoid: Collection[Member]) -> Member | None:
        for tier in self._tiers:
            member = tier.choose(now, avoid)
            if member is not None:
                return member
        return None

    def _round_robin(self, now: float, avoid: Collection[Member]) -> Member | None:
        return self._all.choose(now, avoid)

    def _drawn(self, now: float, avoid: Collection[Member]) -> Member | None:
        members = self.members
        for _ in range(TRIES):
            member = members[int(self._random() * len(members))]
            if member.ready_at <= now and member not in avoid:
                return member
        able = self._able(now, avoid)
        return able[int(self._random() * len(able))] if able else None

    def _weighted(self, now: float, avoid: Collection[Member]) -> Member | None:
        cumulated = self._cumulated
        for _ in range(TRIES):
            member = self.members[min(bisect_right(cumulated, self._random() * cumulated[-1]), len(cumulated) - 1)]
            if member.ready_at <= now and member not in avoid:
                return member
        able = self._able(now, avoid)
        if not able:
            return None
        sums = list(itertools.accumulate(member.endpoint.weight for member in able))
        return able[min(bisect_right(sums, self._random() * sums[-1]), len(sums) - 1)]

    def _least_latency(self, now: float, avoid: Collection[Member]) -> Member | None:
        return self._least(now, avoid, _latency)

    def _least_busy(self, now: float, avoid: Collection[Member]) -> Member | None:
        return self._least(now, avoid, _busyness)

    def _least(self, now: float, avoid: Collection[Member], cost: Callable[[Member, float], float]) -> Member | None:
        """The better of two at random (Mitzenmacher 2001: nearly as good as the best of all), of few the best."""
        members = self.members
        size = len(members)
        if size > FEW:
            for _ in range(TRIES):
                one = members[int(self._random() * size)]
                other = members[int(self._random() * size)]
                one_ready = one.ready_at <= now and one not in avoid
                if other.ready_at <= now and other not in avoid:
                    return one if one_ready and cost(one, now) <= cost(other, now) else other
                if one_ready:
                    return one
        best, least, equals = None, float("inf"), 0
        for member in members:
            if member.ready_at <= now and member not in avoid:
                load = cost(member, now)
                if load < least:
                    best, least, equals = member, load, 1
                elif load == least:
                    # Each of those that are equal has the same chance, whichever of the others rest.
                    equals += 1
                    if self._random() * equals < 1.0:
                        best = member
        return best

    def _able(self, now: float, avoid: Collection[Member]) -> list[Member]:
        return [member for member in self.members if member.ready_at <= now and member not in avoid]


def _latency(member: Member, now: float) -> float:
    return member.latency.load(member.state.in_flight, now)


def _busyness(member: Member, _now: float) -> float:
    return (member.state.in_flight + 1) / member.endpoint.weight


_STRATEGIES: Mapping[str, Callable[[Roster, float, Collection[Member]], Member | None]] = {
    "priority": Roster._priority,  # noqa: SLF001
    "least_latency": Roster._least_latency,  # noqa: SLF001
    "round_robin": Roster._round_robin,  # noqa: SLF001
    "random": Roster._drawn,  # noqa: SLF001
    "weighted": Roster._weighted,  # noqa: SLF001
    "least_busy": Roster._least_busy,  # noqa: SLF001
}

STRATEGIES = tuple(_STRATEGIES)
"""The names a caller may use."""
WHEN_LIMITED = ("next", "wait")
"""What a call may do where a limit keeps it from the best endpoints: ask the next, or wait for them. By strategy `priority` only."""


def check_strategy(strategy: str) -> str:
    """`strategy` itself; InvalidArgument that lists the known ones when it is not one of them."""
    if strategy not in _STRATEGIES:
        raise InvalidArgument(f"There is no strategy {str(strategy)[:40]!r}.", f"use one of {', '.join(STRATEGIES)}")
    return strategy


def check_when_limited(when_limited: str | None, default: str = "next") -> str:
    """What is meant: `when_limited`, or `default` for '' and None. InvalidArgument when it is neither `next` nor `wait`."""
    if when_limited is None or when_limited == "":
        return default
    if when_limited not in WHEN_LIMITED:
        raise InvalidArgument(
            f"when_limited must be next or wait, not {str(when_limited)[:40]!r}.",
            "use next to ask the next endpoint when a limit is used up, or wait to stay with the best ones",
        )
    return when_limited
