"""The guide's troubleshooting checklists: each question has an answer that a reader can get."""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher, TaskStatus
from core.errors import AllEndpointsFailed
from core.network import UrlPolicy
from tests.support.llm_server import LlmServer, Step

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def manager() -> Iterator[ApiManager]:
    manager = ApiManager(url_policy=UrlPolicy.parse("127.0.0.1"))
    yield manager
    manager.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def publisher(clock: ManualClock) -> Iterator[EnhancedCloudTaskPublisher]:
    with EnhancedCloudTaskPublisher(":memory:", clock=clock) as publisher:
        yield publisher


def asked(manager: ApiManager, base_url: str, **options: object) -> dict[str, object]:
    """What the statistics say of an endpoint after a call that failed."""
    endpoint = ApiEndpoint("api", base_url, **{"api_key": "sk-wrong", "model": "m", **options})  # type: ignore[arg-type]
    manager.add_endpoint(endpoint)
    with pytest.raises(AllEndpointsFailed):
        manager.chat(HI, max_retries=1)
    told: dict[str, object] = manager.get_stats()["endpoints"]["api"]
    return told


# 问题1: API 调用总是失败


def test_a_wrong_key_shows_as_a_failed_endpoint_with_401(manager: ApiManager, llm_server: LlmServer) -> None:
    llm_server.script("api", Step(status=401, message="invalid api key"))
    told = asked(manager, llm_server.base_url("api"))
    assert told["status"] == "failed"
    assert "401" in str(told["last_error"])
    assert "sk-wrong" not in str(told)


def test_no_connection_shows_as_such(manager: ApiManager) -> None:
    told = asked(manager, "http://127.0.0.1:1/v1")
    assert "connect" in str(told["last_error"]).lower()


def test_a_wrong_url_shows_as_a_failed_endpoint_with_404(manager: ApiManager, llm_server: LlmServer) -> None:
    llm_server.script("api", Step(status=404, message="no such path"))
    told = asked(manager, llm_server.base_url("api"))
    assert told["status"] == "failed"
    assert "404" in str(told["last_error"])


def test_a_used_up_limit_shows_in_the_statistics_and_in_the_error(manager: ApiManager) -> None:
    manager.add_endpoint(ApiEndpoint("api", "https://api.example/v1", api_key="k", max_requests_per_minute=1))
    manager.call_with_retry(lambda _: "ok")
    with pytest.raises(AllEndpointsFailed) as refused:
        manager.call_with_retry(lambda _: "ok", deadline=0.05)
    assert refused.value.retry_after is not None
    assert 50 < refused.value.retry_after < 70
    assert manager.get_stats()["endpoints"]["api"]["rate_limit"] == "1/1"


# 问题2: 任务不执行


def test_a_task_that_is_not_pending_says_so(publisher: EnhancedCloudTaskPublisher) -> None:
    task = publisher.publish("echo")
    publisher.cancel_task(task.task_id)
    assert publisher.why(task.task_id).startswith("Cancelled at ")


def test_a_task_that_waits_for_another_names_it(publisher: EnhancedCloudTaskPublisher) -> None:
    first = publisher.publish("echo")
    second = publisher.publish("echo", depends_on=[first.task_id])
    assert first.task_id in publisher.why(second.task_id)
    assert second.task_id not in [task.task_id for task in publisher.get_ready_tasks()]


def test_a_task_whose_time_is_over_says_so(publisher: EnhancedCloudTaskPublisher, clock: ManualClock) -> None:
    task = publisher.publish("echo", expires_in=60)
    clock.advance(61)
    publisher.cleanup_expired()
    assert publisher.get_task(task.task_id).status is TaskStatus.EXPIRED
    assert publisher.why(task.task_id).startswith("Expired at ")


def test_a_task_without_a_handler_names_what_is_missing(publisher: EnhancedCloudTaskPublisher) -> None:
    task = publisher.publish("market_analysis")
    assert "market_analysis" in publisher.why(task.task_id)


# 问题3: 内存占用过高


def test_old_tasks_can_be_counted_and_removed(publisher: EnhancedCloudTaskPublisher, clock: ManualClock) -> None:
    for number in range(20):
        publisher.update_status(publisher.publish("old").task_id, "completed", result=number)
    waiting = publisher.publish("waiting")
    clock.advance(1)
    assert publisher.purge(dry_run=True).tasks == 20
    assert publisher.purge(["completed"]).tasks == 20
    assert publisher.get_stats()["total"] == 1
    assert publisher.get_task(waiting.task_id).status is TaskStatus.PENDING


def test_running_many_tasks_leaves_no_memory_behind(publisher: EnhancedCloudTaskPublisher) -> None:
    def run(count: int) -> None:
        for number in range(count):
            publisher.execute_task(publisher.publish("echo", {"number": number}))

    run(100)
    gc.collect()
    tracemalloc.start()
    try:
        run(100)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        run(300)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000, f"{grown} bytes more after 300 tasks"
