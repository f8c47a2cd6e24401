"""What one call needs of endpoints that limit their tokens, and where there are too few at present. Pure."""

from core.cloud.chat import ChatRequest
from core.cloud.pool.admission import Refused
from core.cloud.pool.member import Member
from core.cloud.pool.token_limit import Need, need_of


class TokenNeeds:
    """One call's need of tokens, and where they do not suffice at present."""

    __slots__ = ("_need", "_request", "_short", "too_large")

    def __init__(self, request: ChatRequest | None) -> None:
        self._request = request
        self._need: Need | None = None
        self._short: dict[Member, Refused] = {}
        self.too_large: dict[str, str] = {}
        """Endpoints whose limit it exceeds by itself, and how, in words."""

    def of(self, member: Member) -> int | None:
        """Tokens to reserve at `member`; None when it never takes so large a call."""
        if self._need is None and self._request is not None:
            self._need = need_of(self._request)
        tokens, limit = member.tokens_for(self._need), member.endpoint.max_tokens_per_minute
        if tokens <= limit:
            return tokens
        self.too_large[member.name] = f"the call alone may take {tokens:,} tokens, and its limit is {limit:,} a minute"
        return None

    def refused(self, member: Member, refused: Refused) -> None:
        """There are not enough for this call; a smaller one may find enough."""
        self._short[member] = refused

    def forget(self) -> None:
        """Some may have come free."""
        self._short.clear()

    def short(self, now: float) -> frozenset[Member]:
        """Where it is not worth asking now."""
        return frozenset(member for member, refused in self._short.items() if refused.until > now)

    def opens(self, member: Member) -> float:
        refused = self._short.get(member)
        return 0.0 if refused is None else refused.until

    def why_not(self, member: Member, now: float) -> str:
        """In words; '' when it may be asked."""
        refused = self._short.get(member)
        return (
            f"{refused}, enough for this call in {refused.until - now:.1f}s" if refused and refused.until > now else ""
        )
