"""The Tasks extension's pure parts: handles, states on the wire, questions, what can still happen to a graph."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import CallToolResult, TextContent

from core.cloud.task import OnDependencyFailure, Task, TaskStatus
from core.errors import InvalidArgument
from core.json_types import Json
from server.answers.records import ASK_USER
from server.extensions.offers import _literally
from server.extensions.outlook import MOST_VISITED, outlook
from server.extensions.questions import DEFAULT_SCHEMA, answered, input_request, key_of
from server.extensions.shapes import Handle, State, Status, detail, seed

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDS = st.text("0123456789abcdef", min_size=16, max_size=16)


def task(task_id: str = "a" * 16, status: TaskStatus = TaskStatus.PENDING, **more: Any) -> Task:
    made = Task(
        task_id=task_id,
        name="echo",
        status=status,
        priority=2,
        payload=None,
        tags=(),
        depends_on=(),
        blocked_by=(),
        on_dependency_failure=OnDependencyFailure.WAIT,
        timeout=None,
        max_retries=3,
        attempts=0,
        interruptions=0,
        idempotency_key=None,
        created_at=NOON,
        run_at=None,
        expires_at=None,
        started_at=None,
        completed_at=None,
        worker=None,
        lease_until=None,
        progress=None,
        progress_message="",
        result=None,
        error=None,
    )
    return replace(made, **more)


@given(st.sampled_from(["wait_for_task", "call_api"]), st.lists(IDS, min_size=1, max_size=50))
def test_a_handle_read_back_is_the_handle_that_was_written(tool: str, ids: list[str]) -> None:
    handle = Handle(tool, tuple(ids))
    assert Handle.parse(str(handle)) == handle
    assert str(handle).isascii(), "it travels in an HTTP header"


@given(st.text())
def test_no_text_breaks_the_reading_of_handles(text: str) -> None:
    handle = Handle.parse(text)
    assert handle is None or str(handle) == text


@pytest.mark.parametrize("text", ["", ".", "x", "x.", ".x", "x.a+", "x.+a", "x.a++b"])
def test_what_is_no_handle_is_none(text: str) -> None:
    assert Handle.parse(text) is None


WORKING = State(Status.WORKING, NOON, NOON + timedelta(seconds=1), "going on", 1.5, 60.0)
HANDLE = Handle("call_api", ("a" * 16,))


def test_a_new_handle_carries_its_state_and_nothing_of_an_outcome() -> None:
    assert seed(HANDLE, WORKING) == {
        "resultType": "task",
        "taskId": "call_api.aaaaaaaaaaaaaaaa",
        "status": "working",
        "statusMessage": "going on",
        "createdAt": "2026-11-23T12:00:00.000Z",
        "lastUpdatedAt": "2026-11-23T12:00:01.000Z",
        "ttlMs": 60_000,
        "pollIntervalMs": 1_500,
    }


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"status": Status.WORKING}, None, None),
        ({"status": Status.CANCELLED}, None, None),
        (
            {"status": Status.INPUT_REQUIRED, "input_requests": {"k": {"method": "m"}}},
            "inputRequests",
            {"k": {"method": "m"}},
        ),
        (
            {"status": Status.FAILED, "error": {"code": -32603, "message": "no"}},
            "error",
            {"code": -32603, "message": "no"},
        ),
    ],
)
def test_each_status_carries_its_own_field_and_no_other(changes: dict[str, Any], field: str | None, value: Any) -> None:
    body = detail(HANDLE, replace(WORKING, **changes))
    carried = body.keys() & {"result", "error", "inputRequests"}
    assert carried == ({field} if field else set())
    if field:
        assert body[field] == value


def test_a_completed_task_carries_the_tools_answer_as_the_wire_has_it() -> None:
    answer = CallToolResult(content=[TextContent(type="text", text="hi")], structured_content={"x": 1}, is_error=True)
    body = detail(HANDLE, replace(WORKING, status=Status.COMPLETED, result=answer))
    assert body["result"]["isError"] is True
    assert body["result"]["structuredContent"] == {"x": 1}
    assert body["result"]["content"] == [{"type": "text", "text": "hi"}]


def test_a_task_kept_for_ever_has_a_null_ttl() -> None:
    assert detail(HANDLE, replace(WORKING, ttl_seconds=None))["ttlMs"] is None


# Questions


@pytest.mark.parametrize(
    ("payload", "message", "schema"),
    [
        ({"message": "Sure?"}, "Sure?", DEFAULT_SCHEMA),
        ("Sure?", "Sure?", DEFAULT_SCHEMA),
        ({"message": "Sure?", "schema": {"type": "object"}}, "Sure?", {"type": "object"}),
        ({"message": "Sure?", "schema": {"type": "no such type"}}, "Sure?", DEFAULT_SCHEMA),
        ({"message": "Sure?", "schema": "text"}, "Sure?", DEFAULT_SCHEMA),
        ({"message": 7}, "A background task needs your answer.", DEFAULT_SCHEMA),
        (None, "A background task needs your answer.", DEFAULT_SCHEMA),
    ],
)
def test_a_question_becomes_an_elicitation(payload: Json, message: str, schema: Json) -> None:
    assert input_request(task(name=ASK_USER, payload=payload)) == {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": schema},
    }


def test_an_accepted_answer_is_the_result_and_a_declined_one_a_reason() -> None:
    question = task(name=ASK_USER, payload={"message": "?"})
    assert answered(question, {"action": "accept", "content": {"answer": "yes"}}) == (True, {"answer": "yes"})
    assert answered(question, {"action": "decline"}) == (False, "The user declined the question.")
    assert answered(question, {"action": "cancel"}) == (False, "The user cancelled the question.")


@pytest.mark.parametrize(
    "response",
    [None, "yes", 1, [], {}, {"action": "yes"}, {"action": "accept"}, {"action": "accept", "content": {"answer": 7}}],
)
def test_an_answer_that_does_not_fit_is_refused_without_its_value(response: Json) -> None:
    with pytest.raises(InvalidArgument) as caught:
        answered(task(name=ASK_USER, payload={"message": "?"}), response)
    assert "7" not in str(caught.value)


def test_a_question_asked_again_has_another_key() -> None:
    keys = {key_of(task(name=ASK_USER, attempts=attempts)) for attempts in range(3)}
    assert len(keys) == 3


# What can still happen


def graph(*tasks: Task) -> dict[str, Task]:
    return {each.task_id: each for each in tasks}


def test_a_task_that_can_start_moves() -> None:
    seen = outlook(graph().get, [task()])
    assert seen.moving
    assert not seen.held
    assert not seen.questions


def test_a_task_behind_a_failed_one_does_not_move() -> None:
    failed = task("f" * 16, TaskStatus.FAILED)
    middle = task("m" * 16, blocked_by=("f" * 16,))
    seen = outlook(graph(failed, middle).get, [task(blocked_by=("m" * 16,))])
    assert not seen.moving


def test_a_task_behind_a_failed_and_a_running_one_moves_while_the_running_one_runs() -> None:
    failed, running = task("f" * 16, TaskStatus.FAILED), task("e" * 16, TaskStatus.RUNNING)
    seen = outlook(graph(failed, running).get, [task(blocked_by=("f" * 16, "e" * 16))])
    assert seen.moving
    assert seen.held


def test_a_question_counts_as_movement_until_something_it_waits_for_fails() -> None:
    asked = task("9" * 16, name=ASK_USER)
    assert outlook(graph(asked).get, [task(blocked_by=("9" * 16,))]).questions == (asked,)
    failed = task("f" * 16, TaskStatus.FAILED)
    later = replace(asked, blocked_by=("f" * 16,))
    seen = outlook(graph(later, failed).get, [task(blocked_by=("9" * 16,))])
    assert not seen.questions
    assert not seen.moving


def test_a_diamond_is_visited_once_and_a_huge_graph_is_taken_to_be_moving() -> None:
    size = MOST_VISITED * 2
    ids = [f"{number:016x}" for number in range(size)]
    chain = {ids[n]: task(ids[n], blocked_by=(ids[n + 1],)) for n in range(size - 1)}
    chain[ids[-1]] = task(ids[-1], TaskStatus.FAILED)
    read: list[str] = []

    def get(task_id: str) -> Task | None:
        read.append(task_id)
        return chain.get(task_id)

    assert outlook(get, [chain[ids[0]]]).moving
    assert len(read) <= MOST_VISITED + 1
    read.clear()
    wide = task(blocked_by=tuple(ids[:1000]))
    chain = graph(*(task(task_id) for task_id in ids[:1000]))
    assert outlook(get, [wide], questions=False).moving
    top = task(blocked_by=("b" * 16, "c" * 16))
    sides = [task("b" * 16, blocked_by=("d" * 16,)), task("c" * 16, blocked_by=("d" * 16,))]
    read.clear()
    chain = graph(*sides, task("d" * 16, TaskStatus.FAILED))
    assert not outlook(get, [top]).moving
    assert sorted(read) == sorted(chain)


@given(st.text("${}ax.", max_size=20))
def test_a_prompt_is_passed_on_to_the_letter(prompt: str) -> None:
    from core.cloud.queue.graph import resolve

    assert resolve(_literally(prompt), {"a": "RESULT", "x": "RESULT"}) == prompt
