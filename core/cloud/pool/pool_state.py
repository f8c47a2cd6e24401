"""The state that all callers of an endpoint share: limiter slots, holds, probes, spending, totals.

One port, two implementations: `private_state.py` for a pool private to its process, `store/sqlite_pool_state.py` (with `sqlite_endpoint_state.py`) for one that several processes
share. The decisions in this file and in `health.py` are pure, and the same code for both.
"""

from dataclasses import dataclass
from typing import Protocol

from core.clock import Clock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.admission import Refused
from core.cloud.pool.health import Health
from core.cloud.pool.outcome import ALIVE, BLAMELESS
from core.cloud.pool.tally import Report, Spending, Tally
from core.cloud.replies.adaptation import Adaptation

PROBE_GRACE = 5.0
"""Seconds beyond the endpoint's timeout after which a probe that was never heard of again counts as lost."""


class EndpointState(Protocol):
    """The state of one endpoint. Thread-safe."""

    endpoint: ApiEndpoint

    @property
    def health(self) -> Health:
        """As this process knows it: exact in a private pool, newest known in a shared one."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls of this process that are under way."""
        ...

    def admit(
        self, clock: Clock, *, last_resort: bool = False, new_key: bool = False, tokens: int = 0, task: bool = False
    ) -> int | Refused:
        """Take a slot for one call, or say why not: one step that nobody can come between.

        Returns the call's token. The slot of a call that left stays taken, whatever comes of it: once sent, a request counts. `last_resort` ignores a soft hold, and
        `new_key` one for a fault of the endpoint's setup, which the caller's key may not have: it becomes the probe at once. `tokens` are
        reserved where the endpoint limits them, at most so many as its limit. A `task` leaves a minute's slot to the direct calls of any
        process that wait for it. The clock is read inside the step: a reading from before a wait for the database would put the start too early.
        """
        ...

    def look(self, clock: Clock, tokens: int = 0) -> Refused | None:
        """What `admit` would refuse a call of so many tokens for now, as a last resort; nothing is taken."""
        ...

    def peek(self, clock: Clock) -> Refused | None:
        """A limit that refuses calls now, found without a write; None when there is none, and where only `admit` can know. Raises StoreError."""
        ...

    def settle(self, token: int, report: Report) -> None:
        """The call with this token is over. Never blocks and never raises."""
        ...

    def give_back(self, token: int) -> None:
        """The call with this token never left, and is not settled: all is as if it had not been admitted. Never blocks and never raises.

        Exact over processes. Only this one knows at once, though: calls of others come when they were told to.
        """
        ...

    def adapt(self, endpoint: ApiEndpoint) -> None:
        """Remember what `endpoint`'s requests are changed by, as long as its settings stay these. Never blocks and never raises."""
        ...

    def slept(self, seconds: float) -> None:
        """The wall clock went forward by more than the pool's: holds end that much earlier. Nothing where the wall clock is the pool's."""
        ...

    def spending(self, epoch: float) -> Spending: ...

    def used(self, now: float) -> int:
        """Calls started within the last minute."""
        ...

    def used_tokens(self, now: float) -> int:
        """Tokens of the last minute, reserved or taken, as far as they count for its limit."""
        ...

    def totals(self) -> Tally: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """An endpoint as it is kept: without its key."""

    endpoint: ApiEndpoint
    needs_key: bool
    """It was added with one, so a process that does not have it cannot use the endpoint."""
    adapted: tuple[Adaptation, ...] = ()
    """What its requests are changed by; saving an endpoint forgets it."""


class PoolState(Protocol):
    """The endpoints and their states."""

    max_per_minute: int
    """Calls of all endpoints together that may start in any 60 s; 0 for no limit. Counted over all processes that have one; where their
    numbers differ, each keeps to its own."""

    @property
    def shared(self) -> bool:
        """Whether other processes see it; the pool's time is then epoch seconds, else the monotonic clock's."""
        ...

    def save(self, listing: Listing) -> None:
        """Add an endpoint, or replace the settings of the one of that name and lift its holds."""
        ...

    def remove(self, name: str) -> None:
        """Forget an endpoint and its totals; its slots stay taken until their window is over, its spending until the day is."""
        ...

    def endpoints(self) -> list[Listing]:
        """All endpoints in the order they were first added."""
        ...

    def version(self) -> int:
        """A number that grows when an endpoint is saved, removed or reset, by whatever process."""
        ...

    def open(self, endpoint: ApiEndpoint) -> EndpointState:
        """The state of a saved endpoint."""
        ...

    def reset(self, name: str) -> None:
        """Set an endpoint's totals to zero and lift its holds; slots taken and spending stay."""
        ...

    def used(self, now: float) -> int:
        """Calls of all endpoints that started within the last minute, as far as they count for `max_per_minute`."""
        ...

    def refresh(self) -> None:
        """Learn what other processes found out about the health of endpoints."""
        ...

    def flush(self) -> None:
        """Write down what was settled so far."""
        ...


def outdated(health: Health, report: Report) -> bool:
    """Whether a call began under settings or with a key that are no longer the endpoint's."""
    generation = report.generation
    return report.outdated or generation not in (health.generation, -1)


def matters(health: Health, report: Report) -> bool:
    """Whether a call's end changes anything but totals: most do not."""
    if not health.clean:
        return True
    if outdated(health, report):
        return False
    if report.exhausted_for:
        return True
    return report.outcome.kind not in BLAMELESS


def apply(health: Health, token: int, report: Report) -> None:
    """Change `health` by how a call ended, or by its first token."""
    if report.opened:
        health.first_token(token, report.began)
        return
    health.end(token)
    if outdated(health, report):
        return
    kind = report.outcome.kind
    if kind in ALIVE:
        health.succeeded(report.began)
    elif kind not in BLAMELESS:
        health.failed(report.outcome, report.began, report.ended, report.jitter)
    if report.exhausted_for:
        health.exhausted(report.ended + report.exhausted_for, report.ended)
