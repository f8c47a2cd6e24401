"""What a call learns from endpoints that cannot serve it as it is. Pure."""

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet

from core.cloud.pool.member import Member
from core.cloud.replies.adaptation import Adaptation

MOST_TRIED = 16
"""Changes that one call makes to what it asks."""


MOST_FREE = 16
"""Endpoints that may refuse a call, each once, before further refusals use up its attempts."""


class Unsuited:
    """The refusals of one call: which endpoints to ask again, last, first, or not at all."""

    __slots__ = ("_again", "_refused", "_tried", "bent", "larger", "smaller")

    def __init__(self) -> None:
        self.bent: set[Member] = set()
        """Put off, because they serve the call only with something of meaning left out."""
        self.larger: set[Member] = set()
        """To ask before others: their context window is known to be larger than that of an endpoint which was too small."""
        self.smaller: set[str] = set()
        """Names of those that are not asked because theirs is known to be no larger."""
        self._again: Member | None = None
        self._tried: set[tuple[str, Adaptation]] = set()
        self._refused = 0

    def free(self) -> bool:
        """Whether one more refusal costs the call no attempt: a pool of many small models has its large one asked all the same."""
        self._refused += 1
        return self._refused <= MOST_FREE

    def put_off(self, members: Iterable[Member], needs: AbstractSet[str], model: str) -> set[Member]:
        """Those that are known to refuse what the call needs; they are asked last."""
        self.bent = {member for member in members if member.refuses(needs, model)}
        return self.bent

    def fresh(self, member: Member, adaptations: Iterable[Adaptation]) -> list[Adaptation]:
        """What this call has not tried yet at this endpoint, noted as tried; nothing once it tried enough."""
        found = [one for one in adaptations if (member.name, one) not in self._tried]
        if len(self._tried) + len(found) > MOST_TRIED:
            return []
        self._tried.update((member.name, one) for one in found)
        return found

    def mended(self, member: Member, adaptations: Iterable[Adaptation]) -> bool:
        """Whether the endpoint is to be asked again next: not when something of meaning is left out, which others may take."""
        if any(one.loses for one in adaptations):
            self.bent.add(member)
            return False
        self._again = member
        return True

    def take_again(self) -> Member | None:
        """The endpoint to ask next, once."""
        again, self._again = self._again, None
        return again

    def too_small(self, member: Member, window: int, others: Collection[Member]) -> list[Member]:
        """The request is longer than `member`'s context window (`window` tokens, if it told): who need not be asked either."""
        member.window = member.endpoint.context_window or window or member.window
        if not member.window:
            return []
        self.larger = {other for other in others if other.window > member.window}
        found = [other for other in others if 0 < other.window <= member.window]
        self.smaller |= {other.name for other in found}
        return found

    def not_larger(self, members: Iterable[Member]) -> set[Member]:
        """Those whose context window is not known to be larger."""
        return {member for member in members if member not in self.larger}
