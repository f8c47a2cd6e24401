"""Calls that start, end and never leave, in any order, in two processes: what is admitted is what a plain count says, no more and no less."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.clock import ManualClock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.outcome import OK
from core.cloud.pool.pool_state import Listing
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.pool.tally import DAY, Report, day_of
from core.cloud.store.database import Database
from core.cloud.store.sqlite_pool_state import SqlitePoolState
from tests.support.examples import examples

WINDOW = 60.0
POOL_LIMIT = 5
ENDPOINTS = {
    "few": ApiEndpoint("few", "https://few.example", max_requests_per_minute=2, max_requests_per_day=8),
    "more": ApiEndpoint("more", "https://more.example", max_requests_per_minute=4, max_concurrency=3, timeout=1e6),
    "free": ApiEndpoint("free", "https://free.example"),
}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from(sorted(ENDPOINTS)), st.integers(0, 1)),
        st.tuples(st.just("take"), st.sampled_from(sorted(ENDPOINTS)), st.integers(0, 1)),
        st.tuples(st.just("give back"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("pass"), st.sampled_from([0, 1, 20, 61, DAY // 2]), st.just(0)),
    ),
    max_size=60,
)


class Count:
    """The plain count."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, str, int]] = []
        """When, of which endpoint, by which call: those that left, or still may."""
        self.under_way: dict[int, tuple[str, int, object]] = {}
        """Which endpoint and token, and who admitted it, by call."""

    def admits(self, name: str, now: float, pool_limit: int) -> bool:
        endpoint = ENDPOINTS[name]
        of_it = [at for at, other, _ in self.starts if other == name]
        in_window = [at for at in of_it if at + WINDOW > now]
        in_pool = [at for at, _, _ in self.starts if at + WINDOW > now]
        today = [at for at in of_it if day_of(at) == day_of(now)]
        under_way = [other for other, _, _ in self.under_way.values() if other == name]
        return not (
            (endpoint.max_requests_per_minute and len(in_window) >= endpoint.max_requests_per_minute)
            or (pool_limit and len(in_pool) >= pool_limit)
            or (endpoint.max_requests_per_day and len(today) >= endpoint.max_requests_per_day)
            or (endpoint.max_concurrency and len(under_way) >= endpoint.max_concurrency)
        )


@pytest.mark.parametrize("pool_limit", [0, POOL_LIMIT])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_the_window_holds_the_calls_that_left_and_no_slot_is_lost(kind, pool_limit, steps):
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        databases = [Database(str(Path(folder) / "pool.db")) for _ in range(2 if kind == "sqlite" else 0)]
        stores = [SqlitePoolState(each, window=WINDOW, clock=clock) for each in databases]
        if kind == "memory":
            stores = [PrivatePoolState(window=WINDOW)] * 2
        try:
            for store in stores:
                store.max_per_minute = pool_limit
            for one in ENDPOINTS.values():
                stores[0].save(Listing(one, needs_key=False))
            compare(stores, clock, pool_limit, steps)
        finally:
            for each in [*(stores if databases else ()), *databases]:
                each.close()


def compare(stores, clock, pool_limit, steps):
    count, calls = Count(), 0
    for do, what, where in steps:
        if do == "pass":
            clock.advance(what)
        elif do == "take":
            account = stores[where].open(ENDPOINTS[what])
            if hasattr(account, "full"):
                # What another process gave back it hears of later.
                account.full = stores[where].full = None
            expected = count.admits(what, clock.now(), pool_limit)
            token = account.admit(clock)
            assert isinstance(token, int) == expected
            if expected:
                calls += 1
                count.starts.append((clock.now(), what, calls))
                count.under_way[calls] = (what, token, account)
        elif count.under_way:
            call = sorted(count.under_way)[what % len(count.under_way)]
            _, token, account = count.under_way.pop(call)
            if do == "end":
                account.settle(token, Report(OK, clock.now(), clock.now(), clock.now(), 0.1))
            else:
                account.give_back(token)
                count.starts = [start for start in count.starts if start[2] != call]
            for store in stores:
                store.flush()
