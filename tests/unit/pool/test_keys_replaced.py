"""Health belongs to the settings and the key that failed: a key or setting that is replaced starts without a past."""

import random

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.keys.secrets import KeyStore
from core.cloud.store import open_store
from core.errors import AllEndpointsFailed
from tests.support.pool_world import HttpError

OLD, NEW, VARIABLE = "sk-old-old-old-1", "sk-new-new-new-2", "SOME_TEST_KEY"
REFUSED = HttpError(401)


def env(**settings):
    return ApiEndpoint("a", "https://a.example", api_key_env=VARIABLE, **settings)


class World:
    """Managers of as many processes on one store (or one manager without), each with its keys, and a server that knows which are good."""

    def __init__(self, path, processes):
        self.clock = ManualClock()
        self.stores = [open_store(str(path)) for _ in range(processes)] if path else []
        self.keys = [KeyStore("process") for _ in range(processes)]
        self.managers = [
            ApiManager(
                self.stores[index].pool if path else None,
                clock=self.clock,
                rng=random.Random(index),
                keys=self.keys[index],
                sleep=self.clock.advance,
            )
            for index in range(processes)
        ]
        self.good = {NEW}
        self.seen = []

    def add(self, endpoint, index=0):
        self.managers[index].add_endpoint(endpoint)

    def set_key(self, key, index=0):
        self.keys[index].set("a", "https://a.example", key)

    def serve(self, endpoint, meanwhile=None, error=None):
        key = endpoint.api_key
        self.seen.append(key)
        if meanwhile is not None:
            meanwhile()
        if error is not None:
            raise error
        if key not in self.good:
            raise REFUSED
        return "answer"

    def ask(self, index=0, **how):
        """'answer', or 'refused'."""
        try:
            return self.managers[index].call_with_retry(
                lambda endpoint: self.serve(endpoint, **how), max_retries=1, deadline=1.0
            )[0]
        except AllEndpointsFailed:
            return "refused"
        finally:
            for store in self.stores:
                store.pool.flush()

    def status(self, index=0):
        return self.managers[index].get_stats()["endpoints"]["a"]["status"]

    def close(self):
        for manager in self.managers:
            manager.close()
        for store in self.stores:
            store.close()


@pytest.fixture(params=["private", "shared"])
def one(request, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, OLD)
    world = World(tmp_path / "pool.db" if request.param == "shared" else None, 1)
    yield world
    world.close()


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, OLD)
    world = World(tmp_path / "pool.db", 2)
    yield world
    world.close()


REPLACED = {
    "another key is added": lambda world, patch: world.add(ApiEndpoint("a", "https://a.example", NEW)),
    "the variable is corrected": lambda world, patch: patch.setenv(VARIABLE, NEW),
    "a key is kept for it": lambda world, patch: (patch.delenv(VARIABLE), world.set_key(NEW)),
    "its settings are replaced": lambda world, patch: (patch.setenv(VARIABLE, NEW), world.add(env(priority=9))),
    "it is removed and added": lambda world, patch: (
        world.managers[0].remove_endpoint("a"),
        world.add(ApiEndpoint("a", "https://a.example", NEW)),
    ),
}
ERRORS = {
    "401": HttpError(401),
    "403": HttpError(403),
    "402": HttpError(402),
    "429 with a long wait": HttpError(429, {"retry-after": "600"}),
    "a quota that is used up": HttpError(429, code="insufficient_quota"),
    "404": HttpError(404),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
def test_a_call_with_the_old_key_does_not_hold_the_new_one(one, replace, error, monkeypatch):
    one.add(env())
    one.ask(meanwhile=lambda: replace(one, monkeypatch), error=error)
    one.clock.advance(0.6)
    assert one.ask() == "answer"
    assert one.status() == "active"


@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
def test_a_corrected_key_is_used_at_once(one, replace, monkeypatch):
    one.add(env())
    assert one.ask() == "refused"
    assert one.ask() == "refused"
    assert one.seen == [OLD]
    replace(one, monkeypatch)
    one.clock.advance(0.6)
    assert one.ask() == "answer"
    assert one.status() == "active"


def test_a_new_key_that_is_wrong_too_costs_one_request(one, monkeypatch):
    one.add(env())
    one.ask()
    monkeypatch.setenv(VARIABLE, "sk-wrong-wrong-3")
    for _ in range(5):
        one.clock.advance(0.6)
        assert one.ask() == "refused"
    assert one.seen == [OLD, "sk-wrong-wrong-3"]


def test_a_wrong_key_costs_one_request_for_each_hold(one):
    one.add(env())
    for _ in range(40):
        one.ask()
        one.clock.advance(1.0)
    assert one.seen == [OLD]


def test_an_answer_to_the_old_key_lifts_no_hold_of_the_new_settings(one, monkeypatch):
    one.add(env())
    one.good = {OLD}

    def meanwhile():
        one.add(ApiEndpoint("a", "https://a.example", NEW))
        assert one.ask() == "refused"

    assert one.ask(meanwhile=meanwhile) == "answer"
    assert one.status() == "failed"


def test_a_reset_while_a_call_is_under_way_stays_a_reset(one):
    one.add(env())
    one.ask(meanwhile=one.managers[0].reset_stats)
    assert one.status() == "active"


class TestOtherProcesses:
    def test_settings_that_another_process_replaced_are_not_blamed(self, two):
        two.add(env())
        two.ask(1, meanwhile=lambda: two.add(env(priority=9)), error=HttpError(404))
        assert two.status(0) == two.status(1) == "active"

    def test_a_key_corrected_elsewhere_is_tried_by_whoever_has_it(self, two):
        two.add(ApiEndpoint("a", "https://a.example", OLD))
        two.set_key(OLD, 1)
        assert [two.ask(0), two.ask(1)] == ["refused", "refused"]
        two.set_key(NEW, 1)
        two.clock.advance(0.6)
        assert two.ask(1) == "answer"
        assert two.status(1) == "active"

    def test_a_process_that_starts_with_a_corrected_key_need_not_wait(self, two):
        two.add(ApiEndpoint("a", "https://a.example", OLD))
        assert two.ask(0) == "refused"
        two.set_key(NEW, 1)
        two.clock.advance(0.6)
        assert two.ask(1) == "answer"

    def test_a_wrong_key_here_does_not_stop_the_right_one_there(self, two):
        two.add(ApiEndpoint("a", "https://a.example", OLD))
        two.set_key(NEW, 1)
        answers = {0: [], 1: []}
        for _ in range(20):
            for index in (0, 1):
                two.clock.advance(0.6)
                answers[index].append(two.ask(index))
        assert set(answers[0]) == {"refused"}
        assert set(answers[1]) == {"answer"}
        assert two.seen.count(OLD) == 1

    def test_the_database_knows_nothing_of_keys(self, two):
        two.add(ApiEndpoint("a", "https://a.example", OLD))
        two.ask(0)
        two.set_key(NEW, 1)
        two.ask(1)
        with two.stores[0].pool.database.read() as connection:
            rows = [tuple(connection.execute(f"SELECT * FROM {table}")) for table in ("pool_health", "pool_endpoint")]
        assert OLD not in repr(rows)
        assert NEW not in repr(rows)
