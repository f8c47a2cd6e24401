"""What every PoolState promises. `mine` and `theirs` are two processes' views of one store."""

import threading
from contextlib import closing, suppress

import pytest

from core.clock import ManualClock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.admission import Refusal, Refused
from core.cloud.pool.health import TRIP
from core.cloud.pool.outcome import CANCELLED, OK, Outcome, OutcomeClass
from core.cloud.pool.pool_state import Listing
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.pool.tally import Report
from core.cloud.replies.adaptation import Adaptation, How
from core.cloud.store import open_store
from core.cloud.store.database import Database
from core.cloud.store.pool_rows import endpoint_of, settings_of
from core.cloud.store.pool_windows import WHOLE_POOL
from core.cloud.store.sqlite_pool_state import SqlitePoolState
from core.errors import InvalidArgument

FAILED = Outcome(OutcomeClass.TRANSIENT, 500, "HTTP 500")
LIMITED = Outcome(OutcomeClass.RATE_LIMITED, 429, "HTTP 429", retry_after=30.0)
WINDOW = 60.0


@pytest.fixture(params=["memory", "sqlite", "sqlite in memory"])
def views(request, tmp_path, clock):
    if request.param == "memory":
        store = PrivatePoolState(window=WINDOW)
        yield store, store
        return
    location = ":memory:" if request.param == "sqlite in memory" else str(tmp_path / "pool.db")
    databases = [Database(location) for _ in range(1 if location == ":memory:" else 2)]
    stores = [SqlitePoolState(database, window=WINDOW, clock=clock) for database in databases]
    yield stores[0], stores[-1]
    for store in stores:
        store.close()
    for database in databases:
        database.close()


@pytest.fixture
def clock():
    return ManualClock()


def why(answer):
    """Why a call was refused; None when it was admitted."""
    return answer.why if isinstance(answer, Refused) else None


def endpoint(name="a", **settings):
    settings = {"max_requests_per_minute": 1000, **settings}
    return ApiEndpoint(name, f"https://{name}.example", **settings)


def joined(views, one):
    """The account of one endpoint in both views."""
    mine, theirs = views
    mine.save(Listing(one, needs_key=False))
    return mine.open(one), theirs.open(one)


def end(store, account, token, clock, outcome=OK, *, began=None, **details):
    now = clock.now() if store.shared else clock.monotonic()
    account.settle(token, Report(outcome, now if began is None else began, now, clock.now(), 0.1, **details))
    store.flush()


def test_no_more_starts_than_the_limit_in_a_window_over_all_views(views, clock):
    mine, theirs = joined(views, endpoint(max_requests_per_minute=3))
    assert [isinstance(account.admit(clock), int) for account in (mine, theirs, mine)] == [True, True, True]
    for account in (mine, theirs):
        refused = account.admit(clock)
        assert why(refused) is Refusal.LIMITED
        now = clock.now() if views[0].shared else clock.monotonic()
        assert refused.until == pytest.approx(now + WINDOW)
    clock.advance(WINDOW - 0.01)
    assert isinstance(theirs.admit(clock), Refused)
    clock.advance(0.02)
    assert [isinstance(theirs.admit(clock), int) for _ in range(4)] == [True, True, True, False]


def test_a_slot_is_not_given_back_by_a_call_that_failed_or_was_cancelled(views, clock):
    mine, theirs = joined(views, endpoint(max_requests_per_minute=1))
    end(views[0], mine, mine.admit(clock), clock, CANCELLED)
    assert isinstance(theirs.admit(clock), Refused)


def test_a_call_that_never_left_gives_its_slot_back_wherever_it_stands(views, clock):
    mine, theirs = joined(views, endpoint(max_requests_per_minute=3))
    tokens = []
    for _ in range(3):
        tokens.append(mine.admit(clock))
        clock.advance(10)
    mine.give_back(tokens[1])
    views[0].flush()
    assert mine.used(clock.now() if views[0].shared else clock.monotonic()) == 2
    assert isinstance(theirs.admit(clock), int)
    refused = mine.admit(clock)
    assert why(refused) is Refusal.LIMITED
    now = clock.now() if views[0].shared else clock.monotonic()
    assert refused.until == pytest.approx(now - 30 + WINDOW), "the oldest that left opens the next slot"
    clock.advance(WINDOW - 30 + 0.01)
    assert [isinstance(theirs.admit(clock), int) for _ in range(2)] == [True, False]


def test_who_was_just_refused_gets_the_slot_that_was_given_back(views, clock):
    mine, _ = joined(views, endpoint(max_requests_per_minute=1))
    token = mine.admit(clock)
    assert isinstance(mine.admit(clock), Refused)
    mine.give_back(token)
    assert isinstance(mine.admit(clock), int)


def test_a_call_that_never_left_is_no_part_of_its_day_nor_of_the_totals(views, clock):
    mine, theirs = joined(views, endpoint(max_requests_per_day=2))
    end(views[0], mine, mine.admit(clock), clock)
    mine.give_back(mine.admit(clock))
    views[0].flush()
    assert (theirs.spending(clock.now()).requests, mine.in_flight) == (1, 0)
    assert theirs.totals().by_outcome() == {"ok": 1}
    assert isinstance(theirs.admit(clock), int)
    assert why(mine.admit(clock)) is Refusal.SPENT


def test_a_call_of_yesterday_that_never_left_makes_no_room_today(views, clock):
    clock.set_now(86400.0 * 20000 + 86390)
    mine, theirs = joined(views, endpoint(max_requests_per_day=1))
    late = mine.admit(clock)
    clock.advance(20)
    assert isinstance(mine.admit(clock), int)
    mine.give_back(late)
    views[0].flush()
    assert why(theirs.admit(clock)) is Refusal.SPENT


@pytest.mark.parametrize("back", [30.0, 3600.0])
@pytest.mark.parametrize("meanwhile", ["nothing", "a call", "another endpoint", "the endpoint anew"])
def test_a_clock_put_back_over_midnight_gives_no_second_budget(views, clock, back, meanwhile):
    midnight = 86_400.0 * 20_000
    clock.set_now(midnight - 10)
    mine, theirs = joined(views, endpoint(max_requests_per_day=1))
    assert isinstance(mine.admit(clock), int)
    clock.set_now(midnight + 10)
    if meanwhile == "a call":
        assert isinstance(mine.admit(clock), int)
    elif meanwhile == "another endpoint":
        joined(views, endpoint("b"))
    elif meanwhile == "the endpoint anew":
        mine, theirs = joined(views, endpoint(max_requests_per_day=1, timeout=20.0))
    clock.set_now(midnight + 10 - back)
    assert why(mine.admit(clock)) is why(theirs.admit(clock)) is Refusal.SPENT


def test_a_call_that_never_left_was_not_under_way(views, clock):
    mine, theirs = joined(views, endpoint(max_concurrency=1))
    mine.give_back(mine.admit(clock))
    views[0].flush()
    assert isinstance(theirs.admit(clock), int)


def test_a_probe_that_never_left_lets_another_be_the_probe(views, clock):
    mine, theirs = joined(views, endpoint())
    trip(views, mine, clock)
    clock.advance(3.0)
    probe = mine.admit(clock)
    assert why(theirs.admit(clock)) is Refusal.PROBING
    mine.give_back(probe)
    views[0].flush()
    views[1].refresh()
    assert mine.health.probe == 0
    assert isinstance(theirs.admit(clock), int)


def test_a_slot_given_back_counts_neither_for_the_pool_nor_after_its_endpoint_was_removed(views, clock):
    views[0].max_per_minute = views[1].max_per_minute = 1
    mine, theirs = joined(views, endpoint(max_requests_per_minute=0))
    token = mine.admit(clock)
    assert why(theirs.admit(clock)) is Refusal.POOL
    views[0].remove("a")
    mine.give_back(token)
    views[0].flush()
    assert views[1].used(clock.now() if views[0].shared else clock.monotonic()) == 0
    assert isinstance(joined(views, endpoint())[0].admit(clock), int)


@pytest.mark.parametrize("given_back", ["before it is undone", "after it was undone", "before it is done"])
def test_a_slot_taken_in_a_transaction_that_comes_to_nothing_is_given_back_once(tmp_path, clock, given_back):
    with (
        closing(Database(str(tmp_path / "pool.db"))) as database,
        closing(SqlitePoolState(database, window=WINDOW, clock=clock)) as store,
    ):
        account, _ = joined((store, store), endpoint(max_requests_per_minute=3, max_requests_per_day=2))
        assert isinstance(account.admit(clock), int)
        undone = given_back != "before it is done"
        with suppress(ZeroDivisionError), database.write():
            token = account.admit(clock)
            if given_back != "after it was undone":
                account.give_back(token)
            if undone:
                raise ZeroDivisionError
        if given_back == "after it was undone":
            account.give_back(token)
        store.flush()
        assert (account.spending(clock.now()).requests, account.used(clock.now()), account.in_flight) == (1, 1, 1)
        assert not store._undone
        assert isinstance(account.admit(clock), int)
        assert why(account.admit(clock)) is Refusal.SPENT


def test_removing_and_adding_an_endpoint_is_no_way_around_its_limit(views, clock):
    mine, _ = joined(views, endpoint(max_requests_per_minute=1))
    assert isinstance(mine.admit(clock), int)
    views[0].remove("a")
    again, _ = joined(views, endpoint(max_requests_per_minute=1))
    assert isinstance(again.admit(clock), Refused)


def test_removing_and_adding_an_endpoint_is_no_way_around_its_day(views, clock):
    mine, _ = joined(views, endpoint(max_requests_per_day=1))
    assert isinstance(mine.admit(clock), int)
    views[0].remove("a")
    again, theirs = joined(views, endpoint(max_requests_per_day=1))
    assert why(again.admit(clock)) is why(theirs.admit(clock)) is Refusal.SPENT


def test_lowering_a_limit_counts_what_was_started_before(views, clock):
    mine, _ = joined(views, endpoint(max_requests_per_minute=10))
    for _ in range(5):
        mine.admit(clock)
    lower, _ = joined(views, endpoint(max_requests_per_minute=5))
    assert isinstance(lower.admit(clock), Refused)
    higher, _ = joined(views, endpoint(max_requests_per_minute=6))
    assert isinstance(higher.admit(clock), int)
    assert isinstance(higher.admit(clock), Refused)


def test_a_wall_clock_put_back_an_hour_stops_nothing_for_longer_than_a_window(views, clock):
    mine, theirs = joined(views, endpoint(max_requests_per_minute=2))
    mine.admit(clock)
    mine.admit(clock)
    clock.set_now(clock.now() - 3600)
    assert isinstance(theirs.admit(clock), Refused)
    clock.advance(WINDOW + 0.01)
    assert isinstance(theirs.admit(clock), int)


def test_a_hold_lasts_no_longer_for_a_wall_clock_that_was_put_back(views, clock):
    mine, theirs = joined(views, endpoint())
    end(views[0], mine, mine.admit(clock), clock, LIMITED)
    clock.set_now(clock.now() - 3600)
    assert isinstance(theirs.admit(clock), Refused)
    clock.advance(31)
    assert isinstance(theirs.admit(clock), int)


def trip(views, account, clock):
    for _ in range(TRIP):
        token = account.admit(clock, last_resort=True)
        assert isinstance(token, int)
        end(views[0], account, token, clock, FAILED)


def test_a_failed_endpoint_is_refused_to_every_view_until_one_probes_it(views, clock):
    mine, theirs = joined(views, endpoint())
    trip(views, mine, clock)
    for account in (mine, theirs):
        refused = account.admit(clock, last_resort=True)
        assert why(refused) is Refusal.HELD
    clock.advance(3.0)
    probe = theirs.admit(clock)
    assert isinstance(probe, int)
    refused = mine.admit(clock)
    assert why(refused) is Refusal.PROBING
    end(views[1], theirs, probe, clock)
    assert isinstance(mine.admit(clock), int)
    assert isinstance(mine.admit(clock), int)


def test_a_cancelled_probe_gives_its_place_to_the_next_caller(views, clock):
    mine, theirs = joined(views, endpoint())
    trip(views, mine, clock)
    clock.advance(3.0)
    end(views[1], theirs, theirs.admit(clock), clock, CANCELLED)
    assert isinstance(mine.admit(clock), int)
    assert isinstance(theirs.admit(clock), Refused)


def test_a_probe_whose_process_died_counts_as_lost_after_its_timeout(views, clock):
    mine, theirs = joined(views, endpoint(timeout=10.0))
    trip(views, mine, clock)
    clock.advance(3.0)
    assert isinstance(theirs.admit(clock), int)
    clock.advance(10.0)
    assert isinstance(mine.admit(clock), Refused)
    clock.advance(5.1)
    assert isinstance(mine.admit(clock), int)


def test_concurrency_is_limited_over_all_views_and_freed_when_calls_end(views, clock):
    mine, theirs = joined(views, endpoint(max_concurrency=2))
    first, second = mine.admit(clock), theirs.admit(clock)
    refused = mine.admit(clock)
    assert why(refused) is Refusal.BUSY
    end(views[1], theirs, second, clock)
    third = mine.admit(clock)
    assert isinstance(third, int)
    assert isinstance(theirs.admit(clock), Refused)
    end(views[0], mine, first, clock)
    end(views[0], mine, third, clock)
    assert mine.in_flight == 0


def test_requests_of_a_day_are_limited_exactly_and_start_anew_at_midnight_utc(views, clock):
    clock.set_now(1_750_032_000.0 - 60)  # a minute before midnight
    mine, theirs = joined(views, endpoint(max_requests_per_day=2))
    assert isinstance(mine.admit(clock), int)
    assert isinstance(theirs.admit(clock), int)
    refused = mine.admit(clock)
    assert why(refused) is Refusal.SPENT
    now = clock.now() if views[0].shared else clock.monotonic()
    assert refused.until == pytest.approx(now + 60)
    assert "2 of 2 requests" in refused.detail
    clock.advance(60)
    assert isinstance(mine.admit(clock), int)


@pytest.mark.parametrize("limits", [{"max_tokens_per_day": 100}, {"max_cost_per_day": 0.5}])
def test_an_endpoint_that_spent_its_day_is_refused_to_every_view(views, clock, limits):
    mine, theirs = joined(views, endpoint(**limits))
    end(views[0], mine, mine.admit(clock), clock, tokens_in=60, tokens_out=39, cost=0.49)
    end(views[1], theirs, theirs.admit(clock), clock, tokens_in=1, tokens_out=0, cost=0.01)
    refused = mine.admit(clock)
    assert why(refused) is Refusal.SPENT
    spent = theirs.spending(clock.now())
    assert (spent.requests, spent.tokens, spent.cost) == (2, 100, pytest.approx(0.5))


def test_totals_are_the_sum_over_all_views(views, clock):
    mine, theirs = joined(views, endpoint())
    for account, store in ((mine, views[0]), (theirs, views[1])):
        end(store, account, account.admit(clock), clock, tokens_in=3, tokens_out=4, cost=0.25)
        end(store, account, account.admit(clock), clock, Outcome(OutcomeClass.CALLER_FAULT, 400), error="HTTP 400")
    for account in (mine, theirs):
        totals = account.totals()
        assert (totals.calls, totals.successes, totals.failures) == (4, 2, 0)
        assert totals.by_outcome() == {"ok": 2, "caller_fault": 2}
        assert (totals.tokens_in, totals.tokens_out, totals.cost) == (6, 8, 0.5)
        assert sum(totals.buckets.values()) == 2
        assert totals.seconds == pytest.approx(0.2)
        assert totals.last_error == "HTTP 400"
        assert totals.last_used_at == clock.now()


def test_a_reset_clears_totals_and_holds_and_keeps_slots_and_spending(views, clock):
    mine, theirs = joined(views, endpoint(max_requests_per_minute=TRIP, max_requests_per_day=100))
    trip(views, mine, clock)
    version = views[1].version()
    views[0].reset("a")
    assert theirs.totals().calls == 0
    assert theirs.spending(clock.now()).requests == TRIP
    refused = theirs.admit(clock)
    assert why(refused) is Refusal.LIMITED
    assert views[1].version() > version or not views[1].shared


def test_saving_again_lifts_a_hold_for_every_view(views, clock):
    mine, theirs = joined(views, endpoint())
    end(views[0], mine, mine.admit(clock), clock, Outcome(OutcomeClass.ENDPOINT_FAULT, 401))
    assert isinstance(theirs.admit(clock), Refused)
    joined(views, endpoint(model="other"))
    assert isinstance(theirs.admit(clock), int)


def test_endpoints_come_back_in_the_order_they_were_first_added(views):
    mine, theirs = views
    for name in ("b", "a", "c"):
        mine.save(Listing(endpoint(name), needs_key=name == "a"))
    mine.save(Listing(endpoint("a", priority=9), needs_key=True))
    mine.remove("b")
    assert theirs.endpoints() == [
        Listing(endpoint("a", priority=9), needs_key=True),
        Listing(endpoint("c"), needs_key=False),
    ]


def test_no_slot_is_taken_twice_by_threads_that_ask_at_once(views, clock):
    mine, theirs = joined(views, endpoint(max_requests_per_minute=50))
    granted = []
    barrier = threading.Barrier(8)

    def ask(account):
        barrier.wait()
        for _ in range(20):
            if isinstance(token := account.admit(clock), int):
                granted.append(token)

    threads = [threading.Thread(target=ask, args=(account,)) for account in (mine, theirs) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 50
    assert len(set(granted)) == 50 or not views[0].shared


class TestSqlite:
    def store(self, path, clock=None):
        database = Database(str(path / "pool.db"))
        return SqlitePoolState(database, window=WINDOW, clock=clock), database

    def test_what_a_removed_endpoint_left_behind_goes_when_it_counts_no_more(self, tmp_path, clock):
        store, database = self.store(tmp_path, clock)
        for name in ("a", "b", "c"):
            store.save(Listing(endpoint(name), needs_key=False))
            store.open(endpoint(name)).admit(clock)
        store.remove("a")
        store.remove("b")

        def left():
            with database.read() as connection:
                starts = {name for (name,) in connection.execute("SELECT endpoint FROM pool_start")}
                days = {name for (name,) in connection.execute("SELECT endpoint FROM pool_spending")}
            return starts, days

        assert left() == ({"a", "b", "c"}, {"a", "b", "c"})
        clock.advance(WINDOW)
        store.remove("never was")
        assert left() == ({"c"}, {"a", "b", "c"})
        clock.advance(86_400)
        store.save(Listing(endpoint("d"), needs_key=False))
        assert left() == ({"c"}, {"a", "b", "c"})  # of yesterday, which a clock that is put back may need
        clock.advance(86_400)
        store.save(Listing(endpoint("d"), needs_key=False))
        assert left() == ({"c"}, set())

    def test_counts_of_a_call_are_written_without_anybody_asking(self, tmp_path, clock):
        store, _ = self.store(tmp_path)
        other, _ = self.store(tmp_path)
        store.save(Listing(endpoint(), needs_key=False))
        account = store.open(endpoint())
        written = threading.Event()
        flush = store.flush
        store._writer._flush = lambda: (flush(), written.set())
        account.settle(account.admit(clock), Report(OK, clock.now(), clock.now(), clock.now(), 0.1))
        assert written.wait(10)
        assert other.open(endpoint()).totals().calls == 1

    def test_holds_limits_and_totals_survive_a_restart(self, tmp_path, clock):
        store, database = self.store(tmp_path)
        store.save(Listing(endpoint(max_requests_per_minute=1), needs_key=False))
        account = store.open(endpoint(max_requests_per_minute=1))
        account.settle(account.admit(clock), Report(LIMITED, clock.now(), clock.now(), clock.now(), 0.1))
        store.close()
        database.close()
        store, database = self.store(tmp_path)
        (listing,) = store.endpoints()
        account = store.open(listing.endpoint)
        store.refresh()
        assert account.health.held_until == clock.now() + 30
        assert account.totals().calls == 1
        clock.advance(31)
        refused = account.admit(clock)
        assert why(refused) is Refusal.LIMITED

    def test_closing_the_whole_store_writes_what_the_pool_has_left(self, tmp_path, clock):
        whole = open_store(str(tmp_path / "pool.db"))
        whole.pool.save(Listing(endpoint(), needs_key=False))
        account = whole.pool.open(endpoint())
        whole.pool._writer.close()
        account.settle(account.admit(clock), Report(OK, clock.now(), clock.now(), clock.now(), 0.1))
        whole.close()
        store, _ = self.store(tmp_path)
        assert store.open(endpoint()).totals().calls == 1

    def test_an_end_that_could_not_be_written_is_written_later_and_once(self, tmp_path, clock, monkeypatch):
        store, _ = self.store(tmp_path)
        store.save(Listing(endpoint(), needs_key=False))
        account = store.open(endpoint())
        store._writer.close()
        account.settle(account.admit(clock), Report(FAILED, clock.now(), clock.now(), clock.now(), 0.1))
        with pytest.raises(ZeroDivisionError), store.transaction():
            raise ZeroDivisionError
        assert account.totals().calls == 1
        assert account.totals().calls == 1
        assert store.open(endpoint()).health.failures == 1

    def test_an_endpoint_without_limits_asks_no_database_and_learns_of_holds_by_refreshing(self, tmp_path, clock):
        store, _ = self.store(tmp_path)
        other, _ = self.store(tmp_path)
        one = endpoint(max_requests_per_minute=0)
        store.save(Listing(one, needs_key=False))
        mine, theirs = store.open(one), other.open(one)
        end(other, theirs, theirs.admit(clock), clock, LIMITED)
        with store.database.write():
            token = mine.admit(clock)
        end(store, mine, token, clock)
        store.refresh()
        assert why(mine.admit(clock)) is Refusal.HELD
        assert mine.spending(clock.now()).requests == mine.totals().calls == 2

    def test_the_ring_of_starts_stays_as_small_as_the_limit(self, tmp_path, clock):
        store, database = self.store(tmp_path)
        one = endpoint(max_requests_per_minute=5)
        store.save(Listing(one, needs_key=False))
        account = store.open(one)
        for _ in range(200):
            account.admit(clock)
            clock.advance(7.0)
        with database.read() as connection:
            assert connection.execute("SELECT count(*) FROM pool_start").fetchone()[0] <= 10

    def test_settings_survive_being_stored_and_hold_no_key(self):
        one = ApiEndpoint(
            "a",
            "https://a.example",
            "sk-canary-key",
            "m",
            3,
            7,
            2.5,
            headers={"x-title": "t"},
            extra_body={"top_p": 0.5},
        )
        text = settings_of(one)
        assert "canary" not in text
        assert endpoint_of("a", text) == one
        assert endpoint_of("a", text[:-1] + ', "of_a_newer_version": 1}') == one

    def test_a_call_that_ends_after_its_endpoint_was_removed_is_forgotten(self, tmp_path, clock):
        store, _ = self.store(tmp_path)
        store.save(Listing(endpoint(), needs_key=False))
        account = store.open(endpoint())
        token = account.admit(clock)
        store.remove("a")
        account.settle(token, Report(FAILED, clock.now(), clock.now(), clock.now(), 0.1))
        store.flush()
        refused = account.admit(clock)
        assert why(refused) is Refusal.REMOVED


TEMPERATURE = Adaptation(How.OMIT, "temperature", model="m")
TOP_P = Adaptation(How.UNLESS, "top_p", "temperature", "m")
ROLE = Adaptation(How.ROLE, "system", "user")


def test_what_an_endpoint_refuses_is_listed_with_it_and_adds_up(views):
    mine, theirs = views
    mine.save(Listing(endpoint(), needs_key=False))
    mine.open(endpoint()).adapt(endpoint().adapted_by((TEMPERATURE,)))
    assert [listing.adapted for listing in mine.endpoints()] == [(TEMPERATURE,)], "known before it is written"
    mine.flush()
    theirs.open(endpoint()).adapt(endpoint().adapted_by((TEMPERATURE, TOP_P, ROLE)))
    theirs.flush()
    before = mine.version()
    mine.open(endpoint()).adapt(endpoint().adapted_by((TEMPERATURE, TOP_P, ROLE)))
    mine.flush()
    assert [listing.adapted for listing in mine.endpoints()] == [(TEMPERATURE, TOP_P, ROLE)]
    assert mine.version() == before, "nothing new, nothing to look at"


@pytest.mark.parametrize("change", ["saved", "changed", "removed"])
def test_what_an_endpoint_refuses_is_forgotten_when_it_is_saved_or_removed(views, change):
    mine, theirs = views
    mine.save(Listing(endpoint(), needs_key=False))
    mine.open(endpoint()).adapt(endpoint().adapted_by((TEMPERATURE,)))
    mine.flush()
    if change == "removed":
        theirs.open(endpoint())
        theirs.remove("a")
    theirs.save(Listing(endpoint(model="another" if change == "changed" else ""), needs_key=False))
    assert [listing.adapted for listing in mine.endpoints()] == [()]


def test_what_settings_refused_that_are_no_more_is_not_kept(views):
    mine, theirs = views
    mine.save(Listing(endpoint(), needs_key=False))
    account = mine.open(endpoint())
    theirs.save(Listing(endpoint(model="another"), needs_key=False))
    account.adapt(endpoint().adapted_by((TEMPERATURE,)))
    mine.flush()
    assert [listing.adapted for listing in theirs.endpoints()] == [()]


def pooled(views, limit, **endpoints):
    """Accounts of endpoints in both views, of a pool that may start `limit` calls a minute."""
    for view in views:
        view.max_per_minute = limit
    return {name: joined(views, endpoint(name, **settings)) for name, settings in endpoints.items()}


def test_the_pools_limit_holds_over_all_endpoints_and_views(views, clock):
    accounts = pooled(views, 3, a={}, b={"max_requests_per_minute": 0})
    (mine, theirs), (other, others) = accounts["a"], accounts["b"]
    assert [isinstance(account.admit(clock), int) for account in (mine, others, other)] == [True, True, True]
    for account in (mine, theirs, other, others):
        refused = account.admit(clock)
        assert why(refused) is Refusal.POOL
        assert str(refused) == "the pool's limit of 3 a minute"
        now = clock.now() if views[0].shared else clock.monotonic()
        assert refused.until == pytest.approx(now + WINDOW)
        assert views[1].used(now) == 3
    clock.advance(WINDOW + 0.01)
    assert [isinstance(account.admit(clock), int) for account in (mine, other, others, theirs)] == [True] * 3 + [False]


def test_where_one_limit_refuses_no_slot_of_the_other_is_taken(views, clock):
    accounts = pooled(views, 2, a={"max_requests_per_minute": 1}, b={"max_requests_per_minute": 5})
    (a, _), (_, b) = accounts["a"], accounts["b"]
    now = clock.now() if views[0].shared else clock.monotonic()
    assert isinstance(a.admit(clock), int)
    assert [why(a.admit(clock)) for _ in range(3)] == [Refusal.LIMITED] * 3
    assert views[0].used(now) == 1
    assert isinstance(b.admit(clock), int)
    assert [why(b.admit(clock)) for _ in range(3)] == [Refusal.POOL] * 3
    assert (a.used(now), b.used(now), views[0].used(now)) == (1, 1, 2)


def test_neither_removing_endpoints_nor_adding_others_is_a_way_around_the_pools_limit(views, clock):
    mine, _ = pooled(views, 1, a={})["a"]
    assert isinstance(mine.admit(clock), int)
    views[0].remove("a")
    clock.advance(WINDOW / 2)
    other, _ = joined(views, endpoint("b"))
    assert why(other.admit(clock)) is Refusal.POOL
    clock.advance(WINDOW / 2 + 0.01)
    assert isinstance(other.admit(clock), int)


def test_raising_or_lowering_the_pools_limit_counts_what_was_started_before(views, clock):
    mine, _ = pooled(views, 4, a={})["a"]
    for _ in range(4):
        mine.admit(clock)
    for view in views:
        view.max_per_minute = 3
    assert why(mine.admit(clock)) is Refusal.POOL
    views[0].max_per_minute = 5
    assert [isinstance(mine.admit(clock), int) for _ in range(2)] == [True, False]
    views[0].max_per_minute = 0
    assert isinstance(mine.admit(clock), int)


def test_processes_with_different_numbers_keep_each_to_its_own_over_the_common_starts(views, clock):
    mine, theirs = pooled(views, 4, a={})["a"]
    if mine is theirs:
        pytest.skip("there is one process only")
    views[1].max_per_minute = 2
    assert [isinstance(account.admit(clock), int) for account in (mine, theirs, theirs)] == [True, True, False]
    assert [isinstance(account.admit(clock), int) for account in (mine, mine, mine)] == [True, True, False]


def test_a_wall_clock_put_back_an_hour_keeps_the_pool_for_no_longer_than_a_window(views, clock):
    mine, theirs = pooled(views, 1, a={})["a"]
    mine.admit(clock)
    clock.set_now(clock.now() - 3600)
    assert why(theirs.admit(clock)) is Refusal.POOL
    clock.advance(WINDOW + 0.01)
    assert isinstance(theirs.admit(clock), int)


def test_no_endpoint_can_have_the_name_of_the_whole_pool():
    with pytest.raises(InvalidArgument, match="cannot be named"):
        endpoint(WHOLE_POOL)


def used_tokens(views, account, clock):
    return account.used_tokens(clock.now() if views[0].shared else clock.monotonic())


def test_no_more_tokens_than_the_limit_are_reserved_in_a_window_over_all_views(views, clock):
    mine, theirs = joined(views, endpoint(max_tokens_per_minute=100))
    assert isinstance(mine.admit(clock, tokens=60), int)
    clock.advance(10)
    assert isinstance(theirs.admit(clock, tokens=40), int)
    refused = mine.admit(clock, tokens=1)
    assert why(refused) is Refusal.TOKENS
    assert str(refused) == "limit of 100 tokens a minute"
    clock.advance(WINDOW - 10)
    assert isinstance(theirs.admit(clock, tokens=60), int)
    assert why(mine.admit(clock, tokens=1)) is Refusal.TOKENS
    assert used_tokens(views, mine, clock) == used_tokens(views, theirs, clock) == 100


def test_what_a_call_did_not_take_is_free_for_every_view(views, clock):
    mine, theirs = joined(views, endpoint(max_tokens_per_minute=100))
    end(views[0], mine, mine.admit(clock, tokens=100), clock, tokens_in=20, tokens_out=10)
    assert used_tokens(views, theirs, clock) == 30
    assert isinstance(theirs.admit(clock, tokens=70), int)
    refused = theirs.admit(clock, tokens=70)
    now = clock.now() if views[0].shared else clock.monotonic()
    assert now < refused.until <= now + 1, "the call under way may end with fewer"


def test_the_wait_for_tokens_is_exact_when_every_call_is_over(views, clock):
    mine, theirs = joined(views, endpoint(max_tokens_per_minute=100))
    began = clock.now() if views[0].shared else clock.monotonic()
    for tokens in (50, 30, 20):
        end(views[0], mine, mine.admit(clock, tokens=tokens), clock, tokens_in=tokens)
        clock.advance(5)
    for tokens, wait in ((20, 0), (50, 0), (51, 5), (80, 5), (100, 10)):
        assert theirs.admit(clock, tokens=tokens).until == pytest.approx(began + wait + WINDOW), tokens


def test_a_slot_and_tokens_are_taken_together_or_not_at_all(views, clock):
    for view in views:
        view.max_per_minute = 2
    mine, theirs = joined(views, endpoint(max_requests_per_minute=5, max_tokens_per_minute=100))
    now = clock.now() if views[0].shared else clock.monotonic()
    assert isinstance(mine.admit(clock, tokens=90), int)
    assert why(theirs.admit(clock, tokens=20)) is Refusal.TOKENS
    assert (theirs.used(now), views[1].used(now)) == (1, 1)
    assert isinstance(theirs.admit(clock, tokens=5), int)
    assert why(mine.admit(clock, tokens=5)) is Refusal.POOL
    assert used_tokens(views, mine, clock) == 95


def test_removing_and_adding_an_endpoint_is_no_way_around_its_tokens(views, clock):
    mine, _ = joined(views, endpoint(max_tokens_per_minute=100))
    mine.admit(clock, tokens=100)
    views[0].remove("a")
    again, theirs = joined(views, endpoint(max_tokens_per_minute=100))
    assert why(again.admit(clock, tokens=1)) is why(theirs.admit(clock, tokens=1)) is Refusal.TOKENS
    clock.advance(WINDOW)
    assert isinstance(theirs.admit(clock, tokens=100), int)


def test_a_wall_clock_put_back_an_hour_keeps_tokens_for_no_longer_than_a_window(views, clock):
    mine, theirs = joined(views, endpoint(max_tokens_per_minute=100))
    mine.admit(clock, tokens=100)
    clock.set_now(clock.now() - 3600)
    assert why(theirs.admit(clock, tokens=1)) is Refusal.TOKENS
    clock.advance(WINDOW)
    assert isinstance(theirs.admit(clock, tokens=100), int)
