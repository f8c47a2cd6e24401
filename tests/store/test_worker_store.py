"""What every worker store promises."""

from dataclasses import replace

from core.cloud.store_contract import WorkerInfo

NOW = 1_750_000_000.0
INFO = WorkerInfo("w1", 123, "host", 4567, ("echo", "日本"), NOW, NOW)


def test_a_registered_worker_is_alive_until_it_was_not_seen_for_long(store):
    store.workers.register(INFO)
    assert store.workers.alive(NOW) == [INFO]
    assert store.workers.alive(NOW + 0.1) == []


def test_registering_again_refreshes_what_is_known(store):
    store.workers.register(INFO)
    newer = replace(INFO, capabilities=("ai_call",), wake_port=1, seen_at=NOW + 5)
    store.workers.register(newer)
    assert store.workers.alive(NOW) == [newer]


def test_a_forgotten_worker_is_gone(store):
    store.workers.register(INFO)
    store.workers.forget("w1")
    store.workers.forget("nobody")
    assert store.workers.alive(0) == []


def test_the_row_of_a_process_that_died_long_ago_is_removed(store):
    store.workers.register(INFO)
    store.workers.register(replace(INFO, worker="w2", seen_at=NOW + 90_000))
    assert [info.worker for info in store.workers.alive(0)] == ["w2"]


def test_one_worker_leads_a_duty_until_its_time_is_over(store):
    workers = store.workers
    assert workers.lead("upkeep", "w1", 10, NOW)
    assert not workers.lead("upkeep", "w2", 10, NOW + 9.9)
    assert workers.lead("other duty", "w2", 10, NOW)
    assert workers.lead("upkeep", "w2", 10, NOW + 10)
    assert not workers.lead("upkeep", "w1", 10, NOW + 11)


def test_a_leader_that_renews_stays(store):
    for second in range(0, 50, 5):
        assert store.workers.lead("upkeep", "w1", 10, NOW + second)
        assert not store.workers.lead("upkeep", "w2", 10, NOW + second)


def test_a_leader_that_resigns_is_followed_at_once_and_only_it_can_resign(store):
    store.workers.lead("upkeep", "w1", 10, NOW)
    store.workers.resign("upkeep", "w2")
    assert not store.workers.lead("upkeep", "w2", 10, NOW)
    store.workers.resign("upkeep", "w1")
    assert store.workers.lead("upkeep", "w2", 10, NOW)
