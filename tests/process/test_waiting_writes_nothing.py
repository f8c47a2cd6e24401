"""What waits for a limit writes nothing, whichever process took the slot: shown where nobody can write."""

from contextlib import contextmanager

import apsw
import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.ai_call import register_ai_call
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.pool.pool_gate import LOOK_AGAIN
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.providers.fake import FakeProvider
from core.cloud.store import open_store
from core.cloud.store_contract import ClaimRequest
from tests.process.limited_processes import clock, making

__all__ = ["clock"]

NAME = "deepseek"


class Process:
    """What one process has of the queue and the pool; it claims when it is told to."""

    def __init__(self, location, clock, **options):
        self.clock = clock
        self.store = open_store(location, synchronous="NORMAL", busy_timeout=0.05)
        self.manager = ApiManager(self.store.pool, clock=clock, providers={"fake": FakeProvider()}, **options)
        self.handlers = HandlerRegistry()
        register_ai_call(self.handlers, self.manager)
        self.publisher = EnhancedCloudTaskPublisher(store=self.store, clock=clock, handlers=self.handlers)

    def add(self, **settings):
        self.manager.add_endpoint(ApiEndpoint(NAME, "fake://", provider="fake", model="m", **settings))

    def learn(self):
        self.manager.get_stats()

    def claim(self, limit=1):
        capabilities = self.handlers.capabilities()
        request = ClaimRequest("me", capabilities, limit, 30.0, gates=self.handlers.gates(capabilities))
        return self.store.tasks.exchange([], request, self.clock.now())

    def close(self):
        self.manager.close()
        self.publisher.close()
        self.store.close()


@pytest.fixture
def make(tmp_path, clock):
    with making(Process, tmp_path, clock) as make:
        yield make


@contextmanager
def nobody_writes(tmp_path):
    connection = apsw.Connection(str(tmp_path / "queue.db"))
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.parametrize(
    ("limits", "options", "opens_in"),
    [
        ({"max_requests_per_minute": 2}, {}, WINDOW),
        ({"max_requests_per_minute": 0}, {"max_per_minute": 2}, WINDOW),
        ({"max_requests_per_minute": 0, "max_concurrency": 2}, {}, LOOK_AGAIN),
    ],
)
def test_who_finds_the_slots_taken_by_another_process_stays_out_of_the_database(
    make, tmp_path, limits, options, opens_in
):
    winner, loser = make(**options), make(**options)
    winner.add(**limits)
    loser.learn()
    winner.publisher.publish_many([{"name": "ai_call", "payload": {"prompt": "hello"}}] * 5)
    assert len(winner.claim(limit=5).claims) == 2

    with nobody_writes(tmp_path):
        found = loser.claim()

    assert found.claims == []
    assert found.opens_in == pytest.approx(opens_in, abs=0.001)


@pytest.mark.parametrize("max_tokens", [10, 20])
def test_who_waits_for_tokens_that_another_process_reserved_only_reads(make, tmp_path, clock, max_tokens):
    winner, loser = make(), make()
    winner.add(max_requests_per_minute=0, max_tokens_per_minute=40)
    loser.learn()
    payload = {"prompt": "hello", "max_tokens": max_tokens}
    winner.publisher.publish_many([{"name": "ai_call", "payload": payload}] * 5)
    assert len(winner.claim(limit=5).claims) == 40 // (6 + max_tokens)
    assert loser.claim().opens_in == pytest.approx(LOOK_AGAIN), "the calls under way may end with fewer"

    for _ in range(3):
        clock.advance(LOOK_AGAIN)
        with nobody_writes(tmp_path):
            found = loser.claim()
        assert found.claims == []
        assert found.opens_in == pytest.approx(LOOK_AGAIN)

    clock.advance(WINDOW)
    assert len(loser.claim().claims) == 1


def test_a_slot_that_comes_free_is_taken_by_the_one_that_was_told_to_wait(make, clock):
    winner, loser = make(), make()
    winner.add(max_requests_per_minute=1)
    loser.learn()
    winner.publisher.publish_many([{"name": "ai_call", "payload": {"prompt": "hello"}}] * 3)
    winner.claim()
    wait = loser.claim().opens_in

    clock.advance(wait)

    assert len(loser.claim().claims) == 1
    assert winner.claim().opens_in == pytest.approx(WINDOW)
