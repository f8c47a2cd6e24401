"""A retry budget: retries stop when too many calls fail, so that they cannot make an outage worse. Pure.

gRPC's retry throttling (proposal A6): a failure costs a token, a success returns a tenth, and a retry needs more than half of
the tokens. Kept for each endpoint: it is the one asked again that needs protection. Calls that were under way together when it failed
cost one token: they met one incident, and each of them may be tried once more.
"""

TOKENS = 10.0
RETURNED = 0.1


class RetryBudget:
    """Tokens of one endpoint."""

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens = TOKENS

    def allows(self) -> bool:
        """Whether a call that already failed may go to this endpoint."""
        return self.tokens > TOKENS / 2

    def failed(self) -> None:
        self.tokens = max(0.0, self.tokens - 1.0)

    def succeeded(self) -> None:
        if self.tokens < TOKENS:
            self.tokens = min(TOKENS, self.tokens + RETURNED)

    def refill(self) -> None:
        """The endpoint came back to life: what happened before is no reason to hold back."""
        self.tokens = TOKENS
