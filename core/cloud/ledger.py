"""The book that all callers of an endpoint share: limiter slots, holds, probes, spending, totals.

One port, two implementations: this one in memory for a private pool, and the one in `store/pool.py` for a pool that several
processes share. The decisions (Health, SlidingWindow, `over_daily_limit`) are the same pure code in both.
"""

import itertools
import threading
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from core.cloud.call_outcome import OutcomeClass
from core.cloud.endpoint import ApiEndpoint
from core.cloud.health import Health
from core.cloud.rate_limit import MARGIN, MINUTE, SlidingWindow
from core.cloud.tally import DAY, Report, Spending, Tally, day_of

PROBE_GRACE = 5.0
"""Seconds beyond the endpoint's timeout after which a probe that was never heard of again counts as lost."""
BUSY_POLL = 0.02
"""Seconds after which a full endpoint is asked again; a call's end is not announced to other processes."""


class Refusal(StrEnum):
    """Why an endpoint does not take a call now."""

    HELD = "held"
    PROBING = "probing"
    LIMITED = "rate limit"
    BUSY = "busy"
    SPENT = "daily limit"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Refused:
    """No slot was taken."""

    why: Refusal
    until: float
    """Pool time from which asking again makes sense."""
    detail: str = ""


class Account(Protocol):
    """The book of one endpoint. Thread-safe."""

    endpoint: ApiEndpoint

    @property
    def health(self) -> Health:
        """As this process knows it: exact in a private pool, newest known in a shared one."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls of this process that are under way."""
        ...

    def admit(self, now: float, epoch: float, *, last_resort: bool = False) -> int | Refused:
        """Take a slot for one call, or say why not: one step that nobody can come between.

        Returns the call's token. The slot is never given back: once sent, a request counts. `last_resort` ignores a soft hold.
        """
        ...

    def settle(self, token: int, report: Report) -> None:
        """The call with this token is over. Never blocks and never raises."""
        ...

    def spending(self, epoch: float) -> Spending: ...

    def used(self, now: float) -> int:
        """Calls started within the last minute."""
        ...

    def totals(self) -> Tally: ...


class Ledger(Protocol):
    """The books of all endpoints."""

    shared: bool
    """Whether other processes see it; its times are then epoch seconds, else those of the monotonic clock."""

    def open(self, endpoint: ApiEndpoint) -> Account:
        """The book of an endpoint; settings of an earlier one of that name are replaced, its counts kept."""
        ...

    def forget(self, name: str) -> None:
        """The endpoint was removed: its totals go, its slots stay taken until their window is over."""
        ...

    def reset(self, name: str | None = None) -> None:
        """Set the totals of one endpoint (or of all) to zero and lift its holds; slots taken and spending stay."""
        ...

    def flush(self) -> None:
        """Write down what was settled so far."""
        ...

    def close(self) -> None: ...


def over_daily_limit(endpoint: ApiEndpoint, spent: Spending) -> str:
    """Which daily limit the endpoint has reached, in words; '' for none."""
    if endpoint.max_requests_per_day and spent.requests >= endpoint.max_requests_per_day:
        return f"{spent.requests} of {endpoint.max_requests_per_day} requests used today"
    if endpoint.max_tokens_per_day and spent.tokens >= endpoint.max_tokens_per_day:
        return f"{spent.tokens} of {endpoint.max_tokens_per_day} tokens used today"
    if endpoint.max_cost_per_day and spent.cost >= endpoint.max_cost_per_day:
        return f"{spent.cost:.4g} of {endpoint.max_cost_per_day:g} spent today"
    return ""


def has_daily_limit(endpoint: ApiEndpoint) -> bool:
    return bool(endpoint.max_requests_per_day or endpoint.max_tokens_per_day or endpoint.max_cost_per_day)


def until_tomorrow(now: float, epoch: float) -> float:
    """Pool time at which the next UTC day begins."""
    return now + DAY - epoch % DAY


def apply(health: Health, token: int, report: Report) -> None:
    """Change `health` by how a call ended."""
    health.end(token)
    kind = report.outcome.kind
    if kind is OutcomeClass.OK:
        health.succeeded(report.began)
    elif kind is OutcomeClass.CALLER_FAULT:
        # It answered, and the request was wrong: as good a sign of life as a success.
        health.succeeded(report.began)
    elif kind is not OutcomeClass.CANCELLED:
        health.failed(report.outcome, report.began, report.ended, report.jitter)
    if report.exhausted_for:
        health.exhausted(report.ended + report.exhausted_for, report.ended)


class MemoryAccount:
    """An endpoint's book in this process alone."""

    __slots__ = ("_daily", "_lock", "_spent", "_tally", "_tokens", "_window", "endpoint", "health", "in_flight")

    def __init__(self, endpoint: ApiEndpoint, window: float) -> None:
        self.endpoint = endpoint
        self.health = Health()
        self.in_flight = 0
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._tally = Tally()
        self._spent = Spending()
        self._daily = has_daily_limit(endpoint)
        self._window = SlidingWindow(endpoint.max_requests_per_minute, window)

    def configure(self, endpoint: ApiEndpoint) -> None:
        """Take over changed settings: what was known of its health belongs to the old ones."""
        with self._lock:
            self.endpoint = endpoint
            self.health = Health()
            self._daily = has_daily_limit(endpoint)
            self._window.limit = endpoint.max_requests_per_minute

    def admit(self, now: float, epoch: float, *, last_resort: bool = False) -> int | Refused:
        with self._lock:
            health, endpoint = self.health, self.endpoint
            clean = health.failures == 0 and health.held_until == 0.0
            if not clean:
                opens = health.opens_at(now, last_resort=last_resort)
                if opens > now:
                    return Refused(Refusal.HELD if health.held_until > now else Refusal.PROBING, opens)
            if endpoint.max_concurrency and self.in_flight >= endpoint.max_concurrency:
                return Refused(Refusal.BUSY, now + BUSY_POLL)
            spent = self._today(epoch)
            if self._daily:
                over = over_daily_limit(endpoint, spent)
                if over:
                    return Refused(Refusal.SPENT, until_tomorrow(now, epoch), over)
            window = self._window
            if window.limit:
                free = window.free_at(now)
                if free > now:
                    return Refused(Refusal.LIMITED, free)
                window.take(now)
            spent.requests += 1
            token = next(self._tokens)
            if not clean:
                health.begin(token, now + endpoint.timeout + PROBE_GRACE)
            self.in_flight += 1
            return token

    def settle(self, token: int, report: Report) -> None:
        with self._lock:
            self.in_flight -= 1
            self._tally.add(report)
            if report.tokens_in or report.tokens_out:
                spent = self._today(report.at)
                spent.tokens += report.tokens_in + report.tokens_out
                spent.cost += report.cost
            if report.outcome.kind is not OutcomeClass.OK or not self.health.clean or report.exhausted_for:
                apply(self.health, token, report)

    def spending(self, epoch: float) -> Spending:
        with self._lock:
            return replace(self._today(epoch))

    def used(self, now: float) -> int:
        with self._lock:
            return self._window.used(now)

    def totals(self) -> Tally:
        with self._lock:
            return self._tally.copy()

    def reset(self) -> None:
        with self._lock:
            self._tally = Tally()
            self.health = Health()

    def _today(self, epoch: float) -> Spending:
        day = day_of(epoch)
        if self._spent.day != day:
            self._spent = Spending(day)
        return self._spent


class MemoryLedger:
    """Books in this process alone; nothing is written anywhere."""

    shared = False

    def __init__(self, window: float = MINUTE + MARGIN) -> None:
        self._window = window
        self._accounts: dict[str, MemoryAccount] = {}

    def open(self, endpoint: ApiEndpoint) -> MemoryAccount:
        account = self._accounts.get(endpoint.name)
        if account is None:
            account = self._accounts[endpoint.name] = MemoryAccount(endpoint, self._window)
        else:
            account.configure(endpoint)
        return account

    def forget(self, name: str) -> None:
        # The slots stay taken: removing and adding an endpoint is no way around its limit.
        self._accounts[name].reset()

    def reset(self, name: str | None = None) -> None:
        for account in list(self._accounts.values()) if name is None else [self._accounts[name]]:
            account.reset()

    def flush(self) -> None:
        """Nothing is ever behind."""

    def close(self) -> None:
        """Nothing is held open."""
