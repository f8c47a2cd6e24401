"""Tokens a minute against a naive model, in any order of calls, ends, deaths and time: exact in one process and over two."""

from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.clock import ManualClock
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.admission import Refusal, Refused
from core.cloud.pool.outcome import CANCELLED, OK, Outcome, OutcomeClass
from core.cloud.pool.pool_state import Listing
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.pool.tally import Report
from core.cloud.pool.token_limit import LOOK_AGAIN
from core.cloud.store.database import Database
from core.cloud.store.sqlite_pool_state import SqlitePoolState

LIMIT, WINDOW = 100, 60.0
REFUSED = Outcome(OutcomeClass.RATE_LIMITED, 503, "busy")


@dataclass
class Reserved:
    at: float
    tokens: int
    under_way: bool = True


class Model:
    """What a minute may hold, reckoned from every reservation there ever was."""

    def __init__(self) -> None:
        self.all: list[Reserved] = []

    def used(self, now: float, *, settled_only: bool = False) -> int:
        return sum(one.tokens for one in self.all if one.at > now - WINDOW and not (settled_only and one.under_way))

    def opens(self, tokens: int, now: float, *, settled_only: bool = False) -> float:
        """The first moment at which so many fit, when nothing else happens; `settled_only`: and calls under way take nothing."""
        moments = [now, *sorted(one.at + WINDOW for one in self.all if one.at + WINDOW > now)]
        return next(at for at in moments if self.used(at, settled_only=settled_only) + tokens <= LIMIT)


class TokenMachine(RuleBasedStateMachine):
    @initialize(shared=st.booleans())
    def start(self, shared: bool) -> None:
        self.clock, self.model = ManualClock(), Model()
        self.under_way: list[tuple[object, object, int, Reserved]] = []
        self.exceeded = False
        self.databases: list[Database] = []
        if shared:
            self.databases = [Database(":memory:")]
            self.stores = [SqlitePoolState(self.databases[0], window=WINDOW, clock=self.clock)]
            self.stores.append(SqlitePoolState(self.databases[0], window=WINDOW, clock=self.clock))
            for store in self.stores:
                store._writer.close()
        else:
            self.stores = [PrivatePoolState(WINDOW)]
        self.endpoint = ApiEndpoint("a", "https://a.example", max_requests_per_minute=0, max_tokens_per_minute=LIMIT)
        self.stores[0].save(Listing(self.endpoint, needs_key=False))

    def teardown(self) -> None:
        for store in self.stores:
            store.flush()
        for database in self.databases:
            database.close()

    @property
    def now(self) -> float:
        return self.clock.now() if self.stores[0].shared else self.clock.monotonic()

    @rule(which=st.integers(0, 1), tokens=st.integers(1, LIMIT), count=st.integers(1, 4))
    def calls_start(self, which: int, tokens: int, count: int) -> None:
        store = self.stores[which % len(self.stores)]
        account = store.open(self.endpoint)
        for _ in range(count):
            answer = account.admit(self.clock, tokens=tokens)
            exact = self.model.opens(tokens, self.now)
            if exact <= self.now:
                assert isinstance(answer, int), (answer, self.now)
                reserved = Reserved(self.now, tokens)
                self.model.all.append(reserved)
                self.under_way.append((store, account, answer, reserved))
                continue
            assert isinstance(answer, Refused)
            assert answer.why is Refusal.TOKENS
            soonest = self.model.opens(tokens, self.now, settled_only=True)
            assert answer.until <= exact
            assert answer.until == exact or answer.until == max(soonest, self.now + LOOK_AGAIN)
            assert answer.until == exact or any(one.under_way for one in self.model.all)

    @precondition(lambda self: self.under_way)
    @rule(
        which=st.integers(0, 99),
        share=st.integers(0, 130),
        how=st.sampled_from(["ok", "ok", "silent", "refused", "cancelled"]),
    )
    def a_call_ends(self, which: int, share: int, how: str) -> None:
        store, account, token, reserved = self.under_way.pop(which % len(self.under_way))
        tokens = reserved.tokens * share // 100 if how == "ok" else 0
        outcome = {"refused": REFUSED, "cancelled": CANCELLED}.get(how, OK)
        account.settle(token, Report(outcome, reserved.at, self.now, self.clock.now(), 0.1, tokens, 0, generation=99))
        store.flush()
        reserved.under_way = False
        if tokens or how == "refused":
            self.exceeded = self.exceeded or tokens > reserved.tokens
            if reserved.at > self.now - WINDOW:  # what no window holds any more is not written down
                reserved.tokens = tokens

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99))
    def a_process_dies_in_the_middle_of_a_call(self, which: int) -> None:
        self.under_way.pop(which % len(self.under_way))

    @rule(seconds=st.sampled_from([0.25, 1.0, 7.5, 20.0, 59.75, 60.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def the_endpoint_is_removed_and_added_again(self) -> None:
        self.stores[0].remove("a")
        self.stores[0].save(Listing(self.endpoint, needs_key=False))

    @invariant()
    def what_is_used_is_what_the_model_says(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                assert store.open(self.endpoint).used_tokens(self.now) == self.model.used(self.now)

    @invariant()
    def no_window_holds_more_than_the_limit(self) -> None:
        if hasattr(self, "stores") and not self.exceeded:
            for last in self.model.all:
                window = [one for one in self.model.all if last.at - WINDOW < one.at <= last.at]
                assert sum(one.tokens for one in window) <= LIMIT


TestTokens = TokenMachine.TestCase
TestTokens.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
