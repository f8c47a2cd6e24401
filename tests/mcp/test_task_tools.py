"""The tools of the queue, over the protocol, in both eras."""

from typing import Any

import pytest

from core.cloud.store_contract import TaskQuery
from core.errors import Permanent
from core.runtime import Runtime
from server.settings import Settings

NOBODY = "somebody_elses_work"
"""A task name that no process here can run."""


async def everything(runtime: Runtime) -> int:
    return len(runtime.publisher.page(TaskQuery(limit=1000)).tasks)


async def test_the_guides_literal_publish_call_works(call: Any) -> None:
    task = await call(
        "publish_enhanced_task",
        name="market_analysis",
        payload='{"symbol": "BTC/USDT"}',
        priority=3,
        timeout=60.0,
        tags="analysis,urgent",
    )
    detail = await call("get_task_status", task_id=task["task_id"])
    assert detail["payload"] == {"symbol": "BTC/USDT"}
    assert (detail["priority"], detail["timeout"], detail["tags"]) == (3, 60.0, ["analysis", "urgent"])
    assert detail["status"] == "pending"
    assert "market_analysis" in detail["why"]


async def test_the_guides_literal_list_call_finds_it_and_nothing_lower(call: Any) -> None:
    high = await call("publish_enhanced_task", name=NOBODY, priority=3)
    await call("publish_enhanced_task", name=NOBODY, priority=2)
    listed = await call("list_enhanced_tasks", status="pending", priority_min=3, limit=10)
    assert [row["task_id"] for row in listed["tasks"]] == [high["task_id"]]


@pytest.mark.parametrize("payload", [{"symbol": "BTC"}, '{"symbol": "BTC"}', ' {"symbol":"BTC"} '])
async def test_a_payload_is_an_object_or_json_text(call: Any, payload: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY, payload=payload)
    assert (await call("get_task_status", task_id=task["task_id"]))["payload"] == {"symbol": "BTC"}


@pytest.mark.parametrize("tags", ["a, b", ["a", "b"], '["a", "b"]', "a,b,", "a，b", "a、b"])
async def test_tags_are_a_comma_text_or_a_list(call: Any, tags: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY, tags=tags)
    assert (await call("get_task_status", task_id=task["task_id"]))["tags"] == ["a", "b"]


@pytest.mark.parametrize(("priority", "number"), [("high", 3), ("URGENT", 4), (" Low ", 1), ("3", 3), (2.0, 2)])
async def test_a_priority_may_come_by_its_name(call: Any, priority: Any, number: int) -> None:
    assert (await call("publish_enhanced_task", name=NOBODY, priority=priority))["priority"] == number


@pytest.mark.parametrize("status", ["pending", "PENDING", " Pending ", "all", "any", "", None])
async def test_a_status_is_read_in_any_case(call: Any, status: Any) -> None:
    await call("publish_enhanced_task", name=NOBODY)
    assert len((await call("list_enhanced_tasks", status=status))["tasks"]) == 1
    assert (await call("list_enhanced_tasks", status="canceled"))["tasks"] == []


async def test_null_for_what_may_be_left_out_is_the_same_as_leaving_it_out(call: Any) -> None:
    given = dict.fromkeys(("payload", "priority", "tags", "timeout", "depends_on", "idempotency_key"))
    task = await call("publish_enhanced_task", name=NOBODY, **given)
    detail = await call("get_task_status", task_id=task["task_id"])
    assert (detail["payload"], detail["priority"]) == ({}, 2)
    assert not {"tags", "timeout", "idempotency_key"} & detail.keys()


@pytest.mark.parametrize("form", ["{}", "task://{}", "${{{}}}", " `{}` ", '"{}"'])
async def test_an_id_is_found_in_the_forms_we_write_it_in(call: Any, form: str) -> None:
    task = await call("publish_enhanced_task", name="echo")
    given = form.format(task["task_id"])
    assert (await call("get_task_status", task_id=given.upper().replace("TASK", "task")))["task_id"] == task["task_id"]
    assert (await call("wait_for_task", task_id=given))["done"] is True
    after = await call("publish_enhanced_task", name=NOBODY, depends_on=[given])
    assert (await call("get_task_status", task_id=after["task_id"]))["depends_on"] == [task["task_id"]]


async def test_numbers_and_truth_values_may_come_as_text(call: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY, priority="4", timeout="1.5", max_retries="0")
    detail = await call("get_task_status", task_id=task["task_id"])
    assert (detail["priority"], detail["timeout"], detail["max_retries"]) == (4, 1.5, 0)
    listed = await call("list_enhanced_tasks", ready="true")
    assert [row["task_id"] for row in listed["tasks"]] == [task["task_id"]]


async def test_an_empty_status_filter_means_any(call: Any) -> None:
    await call("publish_enhanced_task", name=NOBODY)
    assert len((await call("list_enhanced_tasks", status=""))["tasks"]) == 1


async def test_a_published_task_runs_and_its_result_comes_with_the_wait(call: Any) -> None:
    task = await call("publish_enhanced_task", name="echo", payload={"n": [1, {"x": None}]})
    waited = await call("wait_for_task", task_id=task["task_id"])
    assert waited["done"] is True
    assert waited["tasks"][0]["result"] == {"n": [1, {"x": None}]}
    assert "next" not in waited


async def test_a_result_of_null_is_told_as_null(call: Any, runtime: Runtime) -> None:
    runtime.publisher.register_handler("nothing", lambda payload: None)
    task = await call("publish_enhanced_task", name="nothing")
    waited = await call("wait_for_task", task_id=task["task_id"])
    assert waited["tasks"][0]["result"] is None


async def test_what_nobody_can_run_says_so_at_once_and_names_the_next_tool(call: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY)
    assert NOBODY in task["why"]
    assert task["next"].startswith("claim_task(")


async def test_a_task_that_waits_for_another_says_which(call: Any) -> None:
    first = await call("publish_enhanced_task", name=NOBODY)
    second = await call("publish_enhanced_task", name="echo", depends_on=first["task_id"])
    assert second["blocked_by"] == [first["task_id"]]
    assert second["next"].startswith("wait_for_task(")


async def test_the_same_idempotency_key_gives_the_first_task_again(call: Any, runtime: Runtime) -> None:
    first = await call("publish_enhanced_task", name=NOBODY, idempotency_key="k1")
    second = await call("publish_enhanced_task", name=NOBODY, idempotency_key="k1")
    assert first["task_id"] == second["task_id"]
    assert await everything(runtime) == 1


async def test_a_list_goes_on_where_its_cursor_points(call: Any) -> None:
    ids = [(await call("publish_enhanced_task", name=NOBODY))["task_id"] for _ in range(5)]
    seen, cursor = [], ""
    for _ in range(3):
        page = await call("list_enhanced_tasks", limit=2, cursor=cursor)
        seen += [row["task_id"] for row in page["tasks"]]
        cursor = page.get("next_cursor", "")
    assert seen == ids
    assert cursor == ""


async def test_a_graph_is_published_whole_and_its_results_flow(call: Any) -> None:
    made = await call(
        "publish_task_graph",
        tasks=[
            {"key": "fetch", "name": "echo", "payload": {"price": 42}},
            {"key": "say", "name": "echo", "payload": '{"text": "it is ${fetch.price}"}', "depends_on": "fetch"},
        ],
    )
    keys = {row["key"]: row["task_id"] for row in made["tasks"]}
    waited = await call("wait_for_task", task_id=f"{keys['fetch']},{keys['say']}")
    results = {task["task_id"]: task["result"] for task in waited["tasks"]}
    assert results[keys["say"]] == {"text": "it is 42"}


async def test_a_graph_may_come_as_json_text(call: Any) -> None:
    made = await call("publish_task_graph", tasks='[{"key": "a", "name": "echo"}]')
    assert made["tasks"][0]["key"] == "a"


@pytest.mark.parametrize(
    ("tasks", "hint"),
    [
        ([{"key": "a", "name": "echo"}, {"key": "b", "name": "echo", "priority": 9}], "tasks[1]"),
        ([{"key": "a", "name": "echo"}, {"name": "echo"}], "no key"),
        ([{"key": "a", "name": "echo"}, {"key": "a", "name": "echo"}], "repeats"),
        ([{"key": "a", "name": "echo", "depends_on": "b"}, {"key": "b", "name": "echo", "depends_on": "a"}], "a"),
        ([{"key": "a", "name": "echo"}, {"key": "b", "name": "echo", "depends_on": "no-such-key"}], "no-such-key"),
        ([{"key": "a", "name": "echo", "priorty": 2}], "priority"),
        ([], "must not be empty"),
        ("not json", "not valid JSON"),
        ({"key": "a"}, "must be a list"),
    ],
)
async def test_a_graph_with_anything_wrong_is_refused_whole(
    refused: Any, runtime: Runtime, tasks: Any, hint: str
) -> None:
    text = await refused("publish_task_graph", tasks=tasks)
    assert hint in text
    assert "Fix:" in text
    assert await everything(runtime) == 0


@pytest.mark.parametrize(
    ("arguments", "hints"),
    [
        ({"name": "echo", "priority": 9}, ["`priority`", "at most 4", "1 LOW"]),
        ({"name": "echo", "priority": 0}, ["`priority`", "at least 1"]),
        ({"name": "echo", "payload": "{nope"}, ["`payload`", "not valid JSON", "symbol"]),
        ({"name": "echo", "depends_on": "deadbeef00000000"}, ["deadbeef00000000"]),
        ({"name": "echo", "prioritty": 2}, ["'prioritty'", "did you mean priority?", "it takes: name"]),
        ({"name": "echo", "xyz": 1, "abc": 2}, ["'abc', 'xyz'", "it takes:"]),
        ({"name": ""}, ["`name`"]),
        ({}, ["`name` is required"]),
        ({"name": "echo", "timeout": -1}, ["`timeout`", "at least 0"]),
        ({"name": "echo", "timeout": "soon"}, ["`timeout`", "must be a number"]),
        ({"name": "echo", "timeout": "inf"}, ["`timeout`", "finite"]),
        ({"name": "echo", "max_retries": 1.5}, ["`max_retries`", "whole number"]),
        ({"name": "echo", "on_dependency_failure": "explode"}, ["'wait' or 'cancel'"]),
        ({"name": "echo", "tags": {"a": 1}}, ["`tags`", "list"]),
        ({"name": None}, ["`name`", "must be text"]),
        ({"name": "echo", "priority": "soon"}, ["`priority`", "whole number", "3 HIGH"]),
        ({"name": "echo", "payload": "{'a': 1}"}, ["`payload`", "double quotes", "at character 2"]),
        ({"name": "echo", "payload": "Write a haiku"}, ["`payload`", '{"prompt": "..."}']),
        ({"name": "echo", "depends_on": "fetch_data"}, ["'fetch_data'", "publish_task_graph"]),
        ({"name": "echo", "dependencies": "a", "retry": 2}, ["did you mean depends_on, max_retries?"]),
    ],
)
async def test_a_bad_publish_says_what_to_do_and_changes_nothing(
    refused: Any, runtime: Runtime, arguments: dict[str, Any], hints: list[str]
) -> None:
    text = await refused("publish_enhanced_task", **arguments)
    for hint in [*hints, "Fix:"]:
        assert hint in text
    assert await everything(runtime) == 0


async def test_several_bad_arguments_are_told_of_together(refused: Any) -> None:
    text = await refused("publish_enhanced_task", name="echo", priority=9, timeout="soon")
    assert "`priority`" in text
    assert "`timeout`" in text


async def test_an_unknown_task_names_the_newest(call: Any, refused: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY)
    for name in ("get_task_status", "retry_failed_task", "cancel_task", "wait_for_task"):
        text = await refused(name, task_id="feedface00000000")
        assert task["task_id"] in text, name
        assert "Fix:" in text


async def test_a_task_is_found_by_the_beginning_of_its_id(call: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY)
    assert (await call("get_task_status", task_id=task["task_id"][:6]))["task_id"] == task["task_id"]


async def test_cancel_then_retry_brings_a_task_back(call: Any, refused: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY)
    cancelled = await call("cancel_task", task_id=task["task_id"])
    assert cancelled["task"]["status"] == "cancelled"
    again = await call("cancel_task", task_id=task["task_id"])
    assert again["task"]["completed_at"] == cancelled["task"]["completed_at"]
    assert again["next"].startswith("it was cancelled before; retry_failed_task(")
    retried = await call("retry_failed_task", task_id=task["task_id"])
    assert retried["task"]["status"] == "pending"
    not_failed = await refused("retry_failed_task", task_id=task["task_id"])
    assert "pending" in not_failed


async def test_cancelling_what_has_ended_leads_to_its_result(call: Any, refused: Any) -> None:
    task = await call("publish_enhanced_task", name="echo")
    await call("wait_for_task", task_id=task["task_id"])
    text = await refused("cancel_task", task_id=task["task_id"])
    assert "has ended as completed; there is nothing to cancel" in text
    assert f'get_task_status(task_id="{task["task_id"]}")' in text


async def test_a_task_that_was_brought_back_shows_no_progress_of_its_last_attempt(call: Any, runtime: Runtime) -> None:
    task = await call("publish_enhanced_task", name=NOBODY)
    await call("claim_task", worker="me")
    held = await call("update_task_status", task_id=task["task_id"], status="running", worker="me", progress=0.5)
    assert held["task"]["progress"] == 0.5
    await call("cancel_task", task_id=task["task_id"])
    back = await call("retry_failed_task", task_id=task["task_id"])
    assert "progress" not in back["task"]
    waited = await call("wait_for_task", task_id=task["task_id"], timeout=0)
    assert "progress" not in waited["tasks"][0]


async def test_a_wait_for_what_nobody_can_run_does_not_ask_for_more_waiting(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.waiting.PATIENCE", 0.1)
    task = await call("publish_enhanced_task", name=NOBODY)
    waited = await call("wait_for_task", task_id=task["task_id"], timeout=30)
    assert waited["done"] is False
    assert waited["waited_seconds"] < 30
    assert waited["next"].startswith("no running process can do this task: do what why says first")
    assert "claim it" in waited["tasks"][0]["why"]


async def test_a_question_is_put_to_the_user_by_the_chat_itself(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.waiting.PATIENCE", 0.1)
    graph = [
        {"key": "ask", "name": "ask_user", "payload": {"message": "Publish it?"}},
        {"key": "say", "name": "echo", "payload": {"said": "${ask}"}, "depends_on": "ask"},
    ]
    asked, said = [row["task_id"] for row in (await call("publish_task_graph", tasks=graph))["tasks"]]
    waited = await call("wait_for_task", task_id=f"{asked},{said}", timeout=30)
    assert waited["waited_seconds"] < 30
    assert f"ask the user the message of {asked}" in waited["next"]
    assert f'update_task_status(task_id="{asked}", status="completed"' in waited["next"]
    assert (await call("get_task_status", task_id=asked))["next"].startswith("ask the user")
    await call("update_task_status", task_id=asked, status="completed", result='{"answer": "yes"}')
    waited = await call("wait_for_task", task_id=said)
    assert waited["tasks"][0]["result"] == {"said": {"answer": "yes"}}
    assert (await call("publish_enhanced_task", name="ask_user"))["next"].startswith("ask the user")


async def test_a_wait_that_ends_in_failure_leads_to_the_retry(call: Any, runtime: Runtime) -> None:
    runtime.publisher.register_handler("unlucky", lambda payload: 1 / 0)
    task = await call("publish_enhanced_task", name="unlucky", max_retries=0)
    waited = await call("wait_for_task", task_id=task["task_id"])
    assert "division by zero" in waited["tasks"][0]["error"]
    assert f'get_task_status(task_id="{task["task_id"]}")' in waited["next"]
    assert "retry_failed_task" in waited["next"]


def refuses(payload: Any) -> None:
    raise Permanent("A symbol is needed.")


def returns_nonsense(payload: Any) -> Any:
    return object()


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("handler", [refuses, returns_nonsense])
async def test_a_task_that_can_only_fail_again_is_not_led_to_a_retry(
    call: Any, runtime: Runtime, handler: Any, retries: int
) -> None:
    runtime.publisher.register_handler("hopeless", handler)
    task = await call("publish_enhanced_task", name="hopeless", max_retries=retries)
    waited = await call("wait_for_task", task_id=task["task_id"])
    shown = await call("get_task_status", task_id=task["task_id"])
    for answer in (waited, shown):
        assert answer["next"].startswith("its error says what to correct: publish_enhanced_task with name='hopeless'")


SLIPS = [
    ("ai_call", {}, "ai_call needs either a prompt or messages"),
    ("ai_call", {"prompt": "hi", "max_tokens": "many"}, "max_tokens that is not a number"),
    ("sleep", {"seconds": "long"}, "sleep needs"),
    ("sleep", {"secs": 5}, "sleep does not know 'secs'"),
    ("http_request", {"uri": "https://example.org"}, "http_request needs a url"),
    ("http_request", {"url": "example.org"}, "The URL has no scheme"),
]


@pytest.mark.parametrize(("name", "payload", "said"), SLIPS)
async def test_a_slip_in_a_payload_is_caught_by_every_tool_that_publishes(
    refused: Any, runtime: Runtime, name: str, payload: Any, said: str
) -> None:
    graph = [{"key": "a", "name": "echo"}, {"key": "b", "name": name, "payload": payload}]
    for tool, arguments in (
        ("publish_enhanced_task", {"name": name, "payload": payload}),
        ("publish_task_graph", {"tasks": graph}),
        ("schedule_task", {"name": "nightly", "task": name, "payload": payload, "every": 60}),
    ):
        text = await refused(tool, **arguments)
        assert said in text
        assert "Fix:" in text
    assert await everything(runtime) == 0


async def test_a_reference_to_nothing_is_refused_with_the_nearest_key(
    refused: Any, call: Any, runtime: Runtime
) -> None:
    fetch = {"key": "fetch", "name": "echo", "payload": {"text": "rain"}}
    for reference in ("${fetc.text}", "${Fetch}", "${ fetch.text }", "${fetch[0]}"):
        told = {"key": "tell", "name": "echo", "payload": {"say": reference}, "depends_on": "fetch"}
        text = await refused("publish_task_graph", tasks=[fetch, told])
        assert "${fetch" in text.partition("Fix:")[2]
    assert await everything(runtime) == 0
    told = {
        "key": "tell",
        "name": "echo",
        "payload": {"all": "${fetch}", "part": "${fetch.text}", "plain": "$${fetch}"},
    }
    made = await call("publish_task_graph", tasks=[fetch, {**told, "depends_on": "fetch"}])
    waited = await call("wait_for_task", task_id=made["tasks"][1]["task_id"])
    assert waited["tasks"][0]["result"] == {"all": {"text": "rain"}, "part": "rain", "plain": "${fetch}"}


async def test_a_task_may_depend_on_as_many_as_the_core_allows(call: Any, refused: Any, runtime: Runtime) -> None:
    parents = [task.task_id for task in runtime.publisher.publish_many([{"name": NOBODY}] * 150)]
    task = await call("publish_enhanced_task", name="echo", depends_on=parents)
    assert len(task["blocked_by"]) == 150
    text = await refused("publish_enhanced_task", name="echo", depends_on=[f"{n:016x}" for n in range(10_001)])
    assert "`depends_on` has 10,001 entries; at most 10,000 are allowed. Fix: put a task in between" in text


async def test_a_failed_task_shows_its_attempts_and_names_the_retry(call: Any, runtime: Runtime) -> None:
    def explode(payload: Any) -> None:
        raise ValueError("no such market")

    runtime.publisher.register_handler("explode", explode)
    task = await call("publish_enhanced_task", name="explode", max_retries=0)
    waited = await call("wait_for_task", task_id=task["task_id"])
    assert waited["done"] is True
    assert "no such market" in waited["tasks"][0]["error"]
    detail = await call("get_task_status", task_id=task["task_id"])
    assert [attempt["outcome"] for attempt in detail["attempts"]] == ["failed"]
    assert detail["next"].startswith("retry_failed_task(")


async def test_long_values_are_cut_and_can_be_read_on(call: Any, client: Any) -> None:
    long = "0123456789" * 3000
    task = await call("publish_enhanced_task", name="echo", payload={"text": long})
    await call("wait_for_task", task_id=task["task_id"])
    whole = '{"text":"' + long + '"}'
    result = await client.call_tool("get_task_status", {"task_id": task["task_id"]})
    detail = result.structured_content
    assert detail["result"] == whole[:8000]
    assert f"of {len(whole)}" in detail["cut"]
    assert detail["link"] == f"task://{task['task_id']}"
    assert [block.type for block in result.content] == ["text"]
    read, offset = "", 0
    while offset is not None:
        piece = await call("get_task_status", task_id=task["task_id"], part="result", offset=offset, max_chars=20_000)
        read += piece["text"]
        offset = piece.get("next_offset")
    assert read == whole


async def test_the_statistics_keep_the_guides_names(call: Any) -> None:
    await call("publish_enhanced_task", name=NOBODY, priority=4)
    stats = await call("get_enhanced_task_stats")
    assert stats["total"] == 1
    assert stats["by_status"]["pending"] == 1
    assert stats["by_priority"]["URGENT"] == 1
    assert stats["expired"] == 0
    assert isinstance(stats["avg_completion_time"], float)


async def test_cleaning_up_expires_what_is_overdue_and_deletes_only_when_asked(call: Any, runtime: Runtime) -> None:
    task = await call("publish_enhanced_task", name="echo")
    await call("wait_for_task", task_id=task["task_id"])
    assert (await call("cleanup_expired_tasks"))["removed"] == 0
    counted = await call("cleanup_expired_tasks", remove_older_than_days=1e-9, dry_run=True)
    assert counted == {"expired": 0, "removed": 1, "dry_run": True}
    assert await everything(runtime) == 1
    assert (await call("cleanup_expired_tasks", remove_older_than_days=1e-9))["removed"] == 1
    assert await everything(runtime) == 0


async def test_a_chat_can_do_a_task_itself(call: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY, payload={"q": 1}, tags="x")
    claimed = await call("claim_task", worker="chat-1", names=NOBODY)
    [mine] = claimed["tasks"]
    assert mine["task_id"] == task["task_id"]
    assert mine["payload"] == {"q": 1}
    assert (await call("claim_task", worker="chat-2", names=NOBODY))["tasks"] == []
    done = await call(
        "update_task_status",
        task_id=task["task_id"],
        status="completed",
        result={"answer": 2},
        worker="chat-1",
        attempt=mine["attempt"],
    )
    assert done["task"]["status"] == "completed"
    assert (await call("get_task_status", task_id=task["task_id"]))["result"] == {"answer": 2}


@pytest.mark.parametrize(
    ("given", "kept"), [("plain words", "plain words"), ('{"a": 1}', {"a": 1}), ([1], [1]), ("7", 7)]
)
async def test_a_reported_result_is_json_or_plain_text(call: Any, given: Any, kept: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY)
    await call("update_task_status", task_id=task["task_id"], status="completed", result=given)
    assert (await call("get_task_status", task_id=task["task_id"]))["result"] == kept


async def test_a_report_under_a_lost_lease_is_refused(call: Any, refused: Any) -> None:
    task = await call("publish_enhanced_task", name=NOBODY)
    [mine] = (await call("claim_task", worker="chat-1", names=NOBODY))["tasks"]
    await call(
        "update_task_status", task_id=task["task_id"], status="pending", worker="chat-1", attempt=mine["attempt"]
    )
    await call("claim_task", worker="chat-2", names=NOBODY)
    text = await refused(
        "update_task_status",
        task_id=task["task_id"],
        status="completed",
        result="late",
        worker="chat-1",
        attempt=mine["attempt"],
    )
    assert "Fix:" in text
    assert (await call("get_task_status", task_id=task["task_id"]))["worker"] == "chat-2"


async def test_a_claimed_task_brings_the_results_it_depends_on(call: Any) -> None:
    first = await call("publish_enhanced_task", name="echo", payload={"n": 5})
    second = await call("publish_enhanced_task", name=NOBODY, depends_on=first["task_id"])
    await call("wait_for_task", task_id=first["task_id"])
    [mine] = (await call("claim_task", worker="chat", names=NOBODY))["tasks"]
    assert mine["task_id"] == second["task_id"]
    assert mine["dependency_results"] == {first["task_id"]: {"n": 5}}


async def test_an_impossible_report_names_the_possible_ones(call: Any, refused: Any) -> None:
    task = await call("publish_enhanced_task", name="echo")
    await call("wait_for_task", task_id=task["task_id"])
    text = await refused("update_task_status", task_id=task["task_id"], status="running")
    assert "completed" in text
    assert "Fix:" in text


async def test_an_ai_call_that_no_endpoint_can_take_asks_for_an_endpoint(call: Any) -> None:
    task = await call("publish_enhanced_task", name="ai_call", payload='{"prompt": "hi"}')
    assert "add_api_endpoint" in task["why"]
    assert task["next"] == f'add_api_endpoint, then wait_for_task(task_id="{task["task_id"]}")'
    await call("add_api_endpoint", name="far", base_url="https://api.example.com/v1", model="m", api_key_env="NOT_SET")
    task = await call("publish_enhanced_task", name="ai_call", payload='{"prompt": "hi"}')
    assert "Run `heablcoin-cloud set-key far`, or set NOT_SET where the server starts" in task["why"]
    assert task["next"].startswith("tell the user what is missing (see why), then wait_for_task(")


async def test_an_unknown_tool_is_answered_with_the_nearest(refused: Any) -> None:
    text = await refused("publish_enhanced_tsk")
    assert "There is no tool 'publish_enhanced_tsk'. Fix: did you mean publish_enhanced_task?" in text


@pytest.mark.parametrize("settings", [Settings(toolsets=("tasks",), read_only=True)])
@pytest.mark.parametrize(("tool", "toolset"), [("call_api", "endpoints"), ("cancel_task", "tasks")])
async def test_a_tool_that_is_switched_off_says_how_to_have_it(refused: Any, tool: str, toolset: str) -> None:
    text = await refused(tool)
    assert f"The tool {tool} is switched off" in text
    assert f"the toolset {toolset} in HEABLCOIN_CLOUD_TOOLSETS" in text
