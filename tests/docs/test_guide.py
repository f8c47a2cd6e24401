"""Every Python block of the guide, run as it stands; what it leaves open is supplied, what it says is checked."""

import logging
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from mcp import Client

from core.cloud.api_manager import ApiEndpoint
from core.cloud.enhanced_publisher import TaskStatus
from core.cloud.task import Task
from core.runtime import Runtime, RuntimeOptions
from server.app import build_server
from server.changes import ChangeFeed
from server.context import App
from server.settings import Settings
from tests.docs.guide import SENTENCES, Reader, block, fenced
from tests.support.llm_server import LlmServer, Step
from utils.limits import SlidingWindow


@pytest.fixture
def guide(request: pytest.FixtureRequest) -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()
    place = getattr(request.function, "guide_block", None)
    assert place is None or place in reader.ran, f"the test did not run the block at {place}"


@pytest.fixture
def with_manager(guide: Reader) -> Reader:
    guide.run("API 管理器 / 基础使用")
    return guide


@pytest.fixture
def with_publisher(guide: Reader) -> Reader:
    guide.run("增强型任务发布器 / 基础使用")
    return guide


def test_every_python_block_of_the_guide_has_a_test_of_its_own() -> None:
    marked = [getattr(value, "guide_block", None) for value in vars(sys.modules[__name__]).values()]
    places = [block.place for block in fenced() if block.language == "python"]
    assert len(places) == len(set(places)) == 25
    assert sorted(place for place in marked if place) == sorted(places)


# API 管理器


@block("API 管理器 / 基础使用")
def test_endpoints_are_added_as_the_guide_writes_them(guide: Reader) -> None:
    assert guide.run("API 管理器 / 基础使用") == []
    openai, deepseek = guide["manager"].endpoints
    assert (openai.name, openai.base_url, openai.model) == ("openai", "https://api.openai.com/v1", "gpt-4o-mini")
    assert (openai.priority, openai.max_requests_per_minute, openai.timeout) == (1, 60, 30.0)
    assert (deepseek.name, deepseek.priority, deepseek.max_requests_per_minute) == ("deepseek", 2, 100)
    assert openai.api_key == deepseek.api_key == "sk-xxx"
    assert "sk-xxx" not in repr(openai)
    assert {status.value for status in guide["ApiStatus"]} == {"active", "degraded", "failed", "rate_limited"}


class Redirected:
    """The real `requests`, with the providers' hosts on this machine. A host that is None refuses connections."""

    def __init__(self, hosts: dict[str, str | None]) -> None:
        self.hosts = hosts

    def post(self, url: str, **options: Any) -> requests.Response:
        for host, here in self.hosts.items():
            if url.startswith(host):
                return requests.post((here or f"http://127.0.0.1:{closed_port()}") + url[len(host) :], **options)
        raise AssertionError(f"the guide calls {url}")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call_the_pool(guide: Reader, openai: str | None, deepseek: str | None) -> list[str]:
    return guide.run(
        "API 管理器 / 调用 API",
        fill={"[...]": ['[{"role": "user", "content": "hi"}]']},
        requests=Redirected({"https://api.openai.com": openai, "https://api.deepseek.com": deepseek}),
    )


@block("API 管理器 / 调用 API")
def test_a_call_goes_to_the_preferred_endpoint_and_says_which_and_what(
    with_manager: Reader, llm_server: LlmServer
) -> None:
    llm_server.script("openai", Step(text="你好"))
    printed = call_the_pool(with_manager, llm_server.base_url("openai"), llm_server.base_url("deepseek"))
    assert printed[0] == "使用端点: openai"
    assert printed[1].startswith("结果: {")
    assert with_manager["result"]["choices"][0]["message"]["content"] == "你好"
    (arrival,) = llm_server.arrivals()
    assert (arrival.path, arrival.body["model"]) == ("/openai/v1/chat/completions", "gpt-4o-mini")
    assert {name.lower(): value for name, value in arrival.headers.items()}["authorization"] == "Bearer sk-xxx"


def test_the_same_call_fails_over_to_the_second_endpoint_when_the_first_is_down(
    with_manager: Reader, llm_server: LlmServer
) -> None:
    printed = call_the_pool(with_manager, None, llm_server.base_url("deepseek"))
    assert printed[0] == "使用端点: deepseek"
    endpoints = with_manager["manager"].get_stats()["endpoints"]
    assert (endpoints["openai"]["failures"], endpoints["deepseek"]["successes"]) == (1, 1)


@block("API 管理器 / 选择策略")
def test_each_of_the_four_strategies_is_taken(with_manager: Reader) -> None:
    called: list[str] = []

    def func(endpoint: ApiEndpoint) -> int:
        called.append(endpoint.name)
        return len(called)

    with_manager.run("API 管理器 / 选择策略", func=func)
    assert (with_manager["result"], with_manager["ep"].name) == (4, called[3])
    assert called[0] == "openai"
    assert set(called) <= {"openai", "deepseek"}
    manager = with_manager["manager"]
    turns = [manager.call_with_retry(func, strategy="round_robin")[1].name for _ in range(4)]
    assert turns in (["openai", "deepseek"] * 2, ["deepseek", "openai"] * 2)


@block("API 管理器 / 监控和统计")
def test_statistics_are_printed_as_shown_and_reset_to_nothing(with_manager: Reader) -> None:
    manager = with_manager["manager"]
    manager.call_with_retry(lambda _: "ok")
    printed = with_manager.run("API 管理器 / 监控和统计")
    assert printed[0] == "总端点数: 2"
    first, second = printed[1:7], printed[7:]
    assert first == ["", "端点: openai", "  状态: active", "  成功率: 100.0%", first[4], "  速率限制: 1/60"]
    assert first[4].startswith("  平均延迟: 0.0")
    assert first[4].endswith("s")
    assert second == ["", "端点: deepseek", "  状态: active", "  成功率: n/a", "  平均延迟: n/a", "  速率限制: 0/100"]
    assert manager.get_stats()["endpoints"]["openai"]["calls"] == 0


# 增强型任务发布器


@block("增强型任务发布器 / 基础使用")
def test_a_task_is_published_and_pending(guide: Reader) -> None:
    printed = guide.run("增强型任务发布器 / 基础使用")
    task: Task = guide["task"]
    assert printed == [f"任务ID: {task.task_id}", "状态: pending"]
    stored = guide["publisher"].get_task(task.task_id)
    assert (stored.name, stored.payload) == ("market_analysis", {"symbol": "BTC/USDT", "timeframe": "1h"})
    assert (stored.priority, set(stored.tags)) == (2, {"analysis", "crypto"})


@block("增强型任务发布器 / 优先级任务")
def test_urgent_work_goes_first_and_expires_and_low_work_goes_last(with_publisher: Reader) -> None:
    with_publisher.run("增强型任务发布器 / 优先级任务")
    urgent, background = with_publisher["urgent_task"], with_publisher["background_task"]
    assert (urgent.priority, urgent.timeout) == (4, 30.0)
    assert urgent.expires_at - urgent.created_at == timedelta(seconds=300)
    assert background.priority == 1
    ready = with_publisher["publisher"].get_ready_tasks()
    assert [task.name for task in ready] == ["price_alert", "market_analysis", "data_cleanup"]


@block("增强型任务发布器 / 任务依赖")
def test_dependent_tasks_become_ready_one_after_another(with_publisher: Reader) -> None:
    with_publisher.run("增强型任务发布器 / 任务依赖")
    publisher = with_publisher["publisher"]
    chain = [with_publisher[name] for name in ("task1", "task2", "task3")]
    assert [task.depends_on for task in chain] == [(), (chain[0].task_id,), (chain[1].task_id,)]
    for position, task in enumerate(chain):
        ready = {each.task_id for each in publisher.get_ready_tasks()}
        assert [each.task_id in ready for each in chain] == [position == other for other in range(3)]
        publisher.update_status(task.task_id, TaskStatus.COMPLETED.value)


@block("增强型任务发布器 / 任务查询")
def test_each_query_finds_what_it_says(with_publisher: Reader) -> None:
    with_publisher.run("增强型任务发布器 / 优先级任务")
    with_publisher.run("增强型任务发布器 / 任务依赖")
    publisher = with_publisher["publisher"]
    publisher.cancel_task(with_publisher["background_task"].task_id)
    with_publisher.run("增强型任务发布器 / 任务查询")

    def names(of: str) -> list[str]:
        return [task.name for task in with_publisher[of]]

    assert names("pending") == ["price_alert", "fetch_data", "market_analysis", "analyze_data", "generate_report"]
    assert names("high_priority") == ["price_alert", "fetch_data"]
    assert names("analysis_tasks") == ["market_analysis"]
    assert names("ready") == ["price_alert", "fetch_data", "market_analysis"]


@block("增强型任务发布器 / 任务管理")
def test_tasks_run_complete_fail_come_back_and_are_cancelled(with_publisher: Reader) -> None:
    publisher = with_publisher["publisher"]
    done, failed, unwanted = (publisher.publish(name).task_id for name in ("done", "failed", "unwanted"))
    late = publisher.publish("late", expires_in=1e-9)
    with_publisher.run(
        "增强型任务发布器 / 任务管理",
        fill={'"xxx"': [repr(each) for each in (done, done, failed, failed, unwanted)], "{...}": ['{"price": 1}']},
    )
    assert publisher.get_task(done).result == {"success": True, "data": {"price": 1}}
    history = publisher.attempts(failed)
    assert [attempt.error for attempt in history] in ([], ["Connection timeout"])
    assert with_publisher["retried"].status is TaskStatus.PENDING
    assert with_publisher["retried"].task_id == failed
    assert with_publisher["cancelled"].status is TaskStatus.CANCELLED
    assert with_publisher["cleaned_count"] == 1
    assert publisher.get_task(late.task_id).status is TaskStatus.EXPIRED


def test_a_failed_task_shows_the_guides_error(with_publisher: Reader) -> None:
    publisher = with_publisher["publisher"]
    task = publisher.publish("failing")
    publisher.update_status(task_id=task.task_id, status="failed", error="Connection timeout")
    stored = publisher.get_task(task.task_id)
    assert (stored.status, stored.error) == (TaskStatus.FAILED, "Connection timeout")


@block("增强型任务发布器 / 任务处理器")
def test_a_registered_handler_runs_the_task_and_its_answer_is_the_result(with_publisher: Reader) -> None:
    task_id = with_publisher["task"].task_id
    with_publisher.run(
        "增强型任务发布器 / 任务处理器",
        fill={'"xxx"': [repr(task_id)]},
        perform_analysis=lambda symbol: f"{symbol} rises",
    )
    assert with_publisher["result"] == {"result": "BTC/USDT rises"}
    stored = with_publisher["publisher"].get_task(task_id)
    assert (stored.status, stored.result) == (TaskStatus.COMPLETED, {"result": "BTC/USDT rises"})


@block("增强型任务发布器 / 统计信息")
def test_the_queues_statistics_are_printed_as_shown(with_publisher: Reader) -> None:
    publisher = with_publisher["publisher"]
    publisher.publish("gone", priority=4, expires_in=1e-9)
    publisher.cleanup_expired()
    publisher.update_status(with_publisher["task"].task_id, "running")
    publisher.update_status(with_publisher["task"].task_id, "completed")
    printed = with_publisher.run("增强型任务发布器 / 统计信息")
    by_status = {status.value: 0 for status in TaskStatus} | {"completed": 1, "expired": 1}
    assert printed[:4] == [
        "总任务数: 2",
        f"按状态统计: {by_status}",
        "按优先级统计: {'LOW': 0, 'NORMAL': 1, 'HIGH': 0, 'URGENT': 1}",
        "过期任务: 1",
    ]
    seconds = printed[4].removeprefix("平均完成时间: ").removesuffix("s")
    assert float(seconds) >= 0
    assert seconds == f"{float(seconds):.2f}"


# MCP 工具使用


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime.open(RuntimeOptions(database=str(tmp_path / "queue.db"), keys="process"))
    runtime.start()
    yield runtime
    runtime.stop(0.5)


@pytest.fixture
async def client(runtime: Runtime) -> AsyncIterator[Client]:
    app = App(runtime, Settings(database=runtime.store.location), ChangeFeed(runtime.publisher))
    async with Client(build_server(app)) as connected:
        yield connected
    app.changes.close()


async def said_to_the_chat(guide: Reader, client: Client, place: str) -> dict[str, Any]:
    """Make the tool call that the guide writes down; its answer."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def tool(name: str) -> Any:
        return lambda **arguments: calls.append((name, arguments))

    tools = {each.name for each in (await client.list_tools()).tools}
    guide.run(place, **{name: tool(name) for name in tools})
    ((name, arguments),) = calls
    answer = await client.call_tool(name, arguments)
    assert not answer.is_error, answer.content
    assert isinstance(answer.structured_content, dict)
    return answer.structured_content


async def prompt_text(client: Client, name: str) -> str:
    """What the prompt of this name puts into the chat."""
    (message,) = (await client.get_prompt(name)).messages
    assert message.content.type == "text"
    return message.content.text


@block("MCP 工具使用 / 发布增强型任务")
async def test_chat_publish_a_high_priority_analysis_of_btc_with_a_timeout_of_60_seconds(
    guide: Reader, client: Client, runtime: Runtime
) -> None:
    place = "MCP 工具使用 / 发布增强型任务"
    answer = await said_to_the_chat(guide, client, place)
    task = runtime.publisher.get_task(answer["task_id"])
    assert (task.name, task.priority, task.payload) == ("market_analysis", 3, {"symbol": "BTC/USDT"})
    assert (task.timeout, set(task.tags)) == (60.0, {"analysis", "urgent"})
    assert SENTENCES[place] in await prompt_text(client, "publish_market_analysis_zh")
    assert "high-priority market analysis" in await prompt_text(client, "publish_market_analysis")


@block("MCP 工具使用 / 查看任务队列")
async def test_chat_show_all_waiting_high_priority_tasks(guide: Reader, client: Client, runtime: Runtime) -> None:
    place = "MCP 工具使用 / 查看任务队列"
    high, urgent, done = (runtime.publisher.publish("work", priority=priority) for priority in (3, 4, 3))
    runtime.publisher.publish("work", priority=2)
    runtime.publisher.cancel_task(done.task_id)
    answer = await said_to_the_chat(guide, client, place)
    assert [row["task_id"] for row in answer["tasks"]] == [urgent.task_id, high.task_id]
    assert SENTENCES[place] in await prompt_text(client, "list_high_priority_tasks_zh")
    assert "high priority" in await prompt_text(client, "list_high_priority_tasks")


@block("MCP 工具使用 / 添加 API 端点")
async def test_chat_add_deepseek_with_priority_2_and_100_requests_a_minute(
    guide: Reader, client: Client, runtime: Runtime
) -> None:
    place = "MCP 工具使用 / 添加 API 端点"
    answer = await said_to_the_chat(guide, client, place)
    endpoint = runtime.manager.get_endpoint("deepseek")
    assert (endpoint.priority, endpoint.max_requests_per_minute) == (2, 100)
    assert (endpoint.base_url, endpoint.model) == ("https://api.deepseek.com/v1", "deepseek-chat")
    assert "sk-xxx" not in str(answer)
    assert SENTENCES[place].lower() in (await prompt_text(client, "add_llm_endpoint_zh")).lower()
    assert "100 requests a minute" in await prompt_text(client, "add_llm_endpoint")


@block("MCP 工具使用 / 查看统计信息")
async def test_chat_show_the_statistics_of_the_api_manager(guide: Reader, client: Client, runtime: Runtime) -> None:
    place = "MCP 工具使用 / 查看统计信息"
    runtime.manager.add_endpoint(ApiEndpoint("deepseek", "https://api.deepseek.com/v1", api_key="sk-xxx"))
    runtime.manager.call_with_retry(lambda _: "ok")
    answer = await said_to_the_chat(guide, client, place)
    assert answer["total_endpoints"] == 1
    assert "deepseek" in str(answer["endpoints"])
    assert "100.0%" in str(answer)
    assert SENTENCES[place] in await prompt_text(client, "show_api_statistics_zh")
    assert "statistics of the API manager" in await prompt_text(client, "show_api_statistics")


# 最佳实践


@block("最佳实践 / 1. API 端点配置")
def test_several_endpoints_stand_in_for_each_other(with_manager: Reader) -> None:
    made = {
        f"{name}_endpoint": ApiEndpoint(name, f"https://{name}.example/v1", api_key="sk-xxx", priority=priority)
        for priority, name in enumerate(("primary", "backup", "fallback", "single"), start=-3)
    }
    with_manager.run("最佳实践 / 1. API 端点配置", **made)

    def only_the_last_works(endpoint: ApiEndpoint) -> str:
        if endpoint.name != "fallback":
            raise ConnectionError(endpoint.name)
        return "served"

    manager = with_manager["manager"]
    result, endpoint = manager.call_with_retry(only_the_last_works)
    assert (result, endpoint.name) == ("served", "fallback")
    assert [each.name for each in manager.endpoints][-4:] == ["primary", "backup", "fallback", "single"]


@block("最佳实践 / 2. 优先级设置")
def test_priorities_are_numbers_in_the_guides_order(with_publisher: Reader) -> None:
    with_publisher.run("最佳实践 / 2. 优先级设置")
    names = ("low_cleanup", "normal_analysis", "urgent_alert", "all_urgent")
    assert [with_publisher[name] for name in names] == [1, 2, 4, 4]


@block("最佳实践 / 3. 超时设置")
def test_each_task_keeps_its_own_timeout(with_publisher: Reader) -> None:
    with_publisher.run("最佳实践 / 3. 超时设置")
    assert [with_publisher[name].timeout for name in ("quick_task", "normal_task", "long_task")] == [5.0, 60.0, 300.0]


@block("最佳实践 / 4. 错误处理")
def test_when_every_attempt_failed_the_guides_except_clause_is_reached(
    with_manager: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    alerts: list[bool] = []
    tried: list[str] = []

    def api_call(endpoint: ApiEndpoint | None = None) -> str:
        if endpoint is None:
            return "the single call"
        tried.append(endpoint.name)
        raise ConnectionError("网络抖动")

    with_manager.run(
        "最佳实践 / 4. 错误处理",
        api_call=api_call,
        logger=logging.getLogger("reader"),
        send_alert=lambda: alerts.append(True),
    )
    assert alerts == [True]
    assert tried[:2] == ["openai", "deepseek"]
    assert 2 <= len(tried) <= 3
    (record,) = [each for each in caplog.records if each.name == "reader"]
    assert record.getMessage().startswith("API调用失败: ")
    assert "openai" in record.getMessage()
    assert "sk-xxx" not in record.getMessage()
    assert with_manager["result"] == "the single call"


# 故障排查


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The block configures the root logger: put it back."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@block("故障排查 / 问题1: API 调用总是失败")
@pytest.mark.usefixtures("own_logging")
def test_the_state_of_each_endpoint_is_printed(with_manager: Reader) -> None:
    def refuses(endpoint: ApiEndpoint) -> str:
        if endpoint.name == "openai":
            error = requests.HTTPError("401 Unauthorized")
            error.response = requests.Response()
            error.response.status_code = 401
            raise error
        return "ok"

    with_manager["manager"].call_with_retry(refuses)
    assert with_manager.run("故障排查 / 问题1: API 调用总是失败") == ["openai: failed", "deepseek: active"]


@block("故障排查 / 问题2: 任务不执行")
def test_what_a_waiting_task_waits_for_is_printed(with_publisher: Reader) -> None:
    publisher, first = with_publisher["publisher"], with_publisher["task"]
    waiting = publisher.publish("next", depends_on=[first.task_id], expires_in=60)
    printed = with_publisher.run("故障排查 / 问题2: 任务不执行", task_id=waiting.task_id)
    assert printed == [
        "状态: pending",
        f"依赖: {(first.task_id,)}",
        f"过期时间: {waiting.expires_at}",
        "准备好的任务数: 1",
    ]
    assert waiting.expires_at > datetime.now(UTC)


@block("故障排查 / 问题3: 内存占用过高")
def test_expired_tasks_are_cleaned_and_completed_ones_listed(with_publisher: Reader) -> None:
    publisher = with_publisher["publisher"]
    publisher.publish("late", expires_in=1e-9)
    publisher.update_status(with_publisher["task"].task_id, "completed")
    assert with_publisher.run("故障排查 / 问题3: 内存占用过高") == ["清理了 1 个过期任务", "总任务数: 2"]
    assert [task.name for task in with_publisher["tasks"]] == ["market_analysis"]
    assert publisher.purge().tasks == 2


# 性能优化建议


@block("性能优化建议 / 1. 批量处理")
def test_a_batch_publishes_every_task_and_says_what_became_of_each(with_publisher: Reader) -> None:
    with_publisher.run("性能优化建议 / 1. 批量处理")
    results = with_publisher["results"]
    assert [result.success for result in results] == [True, True, True]
    assert [result.value.payload["symbol"] for result in results] == ["BTC/USDT", "ETH/USDT", "BNB/USDT"]
    assert len(with_publisher["publisher"].list_tasks(name="analysis")) == 3


@block("性能优化建议 / 2. 速率控制")
def test_publishing_is_held_to_ten_a_second(with_publisher: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[float] = []
    record = SlidingWindow.record

    def noted(window: SlidingWindow, now: float) -> None:
        granted.append(now)
        record(window, now)

    monkeypatch.setattr(SlidingWindow, "record", noted)
    many = [{"name": "limited", "payload": {"number": number}} for number in range(12)]
    with_publisher.run("性能优化建议 / 2. 速率控制", large_task_list=many)
    tasks = with_publisher["publisher"].list_tasks(name="limited")
    assert [task.payload for task in tasks] == [each["payload"] for each in many]
    assert len(granted) == 12
    assert all(later - earlier >= 1.0 for earlier, later in zip(granted, granted[10:], strict=False))


@block("性能优化建议 / 3. 监控性能")
def test_a_monitored_function_reports_its_calls(with_publisher: Reader) -> None:
    printed = with_publisher.run("性能优化建议 / 3. 监控性能")
    assert len(printed) == 1
    assert "process_task" in printed[0]
    before = with_publisher["monitor"].get_metrics("process_task").calls
    publisher = with_publisher["publisher"]
    publisher.register_handler("market_analysis", lambda payload: payload["symbol"])
    assert with_publisher["process_task"](with_publisher["task"]) == "BTC/USDT"
    assert with_publisher["monitor"].get_metrics("process_task").calls == before + 1
