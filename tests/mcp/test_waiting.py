"""Waiting for tasks: woken, bounded, honest about what is not done, and harmless to give up."""

import threading
import time
from typing import Any

import anyio
import pytest
from mcp import Client

from core.cloud.task import TaskStatus
from core.runtime import Runtime
from server import waiting
from server.context import App
from server.tools.arguments import DEFAULT_WAIT, MAX_WAIT
from server.tools.tasks import wait_for_task
from tests.mcp.conftest import Connect

LONG = 40.0
"""A wait whose own end would be noticed."""


@pytest.fixture
def gate(runtime: Runtime) -> threading.Event:
    """Opens the handler `gated`, which waits for it."""
    opened = threading.Event()
    runtime.publisher.register_handler("gated", lambda payload: opened.wait(30) and payload)
    return opened


@pytest.fixture
def no_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the slow polling: only wake-ups count."""
    monkeypatch.setattr(waiting, "NET_SECONDS", 1000.0)


def test_no_wait_is_longer_than_hosts_allow() -> None:
    assert DEFAULT_WAIT <= 45
    assert MAX_WAIT <= 55


@pytest.mark.parametrize("nothing", ["", " , ,", "[]", []])
async def test_waiting_for_nothing_is_refused(refused: Any, nothing: Any) -> None:
    assert "`task_id` must not be empty" in await refused("wait_for_task", task_id=nothing)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "is -1; at least 0"), (56, "is 56; at most 55"), ("soon", "must be a number, not 'soon'")],
)
async def test_a_wait_of_another_length_is_refused(refused: Any, seconds: Any, said: str) -> None:
    text = await refused("wait_for_task", task_id="x", timeout=seconds)
    assert f"`timeout` {said}" in text
    assert "Fix: give a number from 0 to 55" in text


async def test_more_tasks_than_one_wait_can_have_are_refused_with_a_way_out(refused: Any) -> None:
    text = await refused("wait_for_task", task_id=[f"{number:016x}" for number in range(1_001)])
    assert (
        "`task_id` has 1,001 entries; at most 1,000 are allowed. Fix: wait for a part of them, then for the rest."
        in text
    )


async def test_a_wait_for_many_counts_them_and_shows_those_that_matter(call: Any, client: Client) -> None:
    graph = [{"key": f"k{number}", "name": "echo"} for number in range(60)]
    graph += [{"key": "bad", "name": "nobody"}]
    made = await call("publish_task_graph", tasks=graph)
    ids = [row["task_id"] for row in made["tasks"]]
    assert all(one in made["next"] for one in ids), "waiting for some of them would not be waiting for all"
    await call("cancel_task", task_id=ids[-1])
    told: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    result = await client.call_tool("wait_for_task", {"task_id": ",".join(ids)}, progress_callback=hear)
    waited = result.structured_content
    assert waited is not None
    assert (waited["done"], waited["ended"], waited["left_out"]) == (True, "61 of 61", 11)
    assert waited["tasks"][-1]["status"] == "cancelled", "the one that did not complete is shown"
    assert all(message.endswith("of 61 tasks done") for message in told)


async def test_a_large_graph_names_the_tasks_that_no_other_waits_for(call: Any) -> None:
    graph = [{"key": f"k{number}", "name": "echo"} for number in range(60)]
    graph += [{"key": "sum", "name": "echo", "payload": {"n": "${k0}"}, "depends_on": [f"k{n}" for n in range(60)]}]
    made = await call("publish_task_graph", tasks=graph)
    last = made["tasks"][-1]["task_id"]
    assert made["next"].startswith(f'wait_for_task(task_id="{last}") (the 1 that no other waits for')
    assert (await call("wait_for_task", task_id=last))["done"] is True


async def test_a_wait_of_no_time_looks_once(call: Any) -> None:
    task = await call("publish_enhanced_task", name="nobody")
    waited = await call("wait_for_task", task_id=task["task_id"], timeout="0")
    assert (waited["done"], waited["waited_seconds"]) == (False, 0.0)
    assert task["task_id"] in waited["next"]


async def test_a_wait_ends_as_soon_as_the_task_does(
    call: Any, runtime: Runtime, gate: threading.Event, no_net: None
) -> None:
    task = await call("publish_enhanced_task", name="gated", payload=7)
    async with anyio.create_task_group() as group:
        answers: list[Any] = []

        async def wait() -> None:
            answers.append(await call("wait_for_task", task_id=task["task_id"], timeout=LONG))

        group.start_soon(wait)
        with anyio.fail_after(10):
            while runtime.publisher.get_task(task["task_id"]).status is not TaskStatus.RUNNING:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        gate.set()
    assert answers[0]["done"] is True
    assert answers[0]["tasks"][0]["result"] == 7
    assert answers[0]["waited_seconds"] < LONG - 5, "it was not woken: it waited until its own time ran out"


async def test_a_change_in_another_process_ends_a_wait(call: Any, runtime: Runtime, no_net: None) -> None:
    """Another process is played by a second runtime on the same database: it announces by datagram."""
    from core.runtime import RuntimeOptions

    task = await call("publish_enhanced_task", name="elsewhere")
    other = Runtime.open(RuntimeOptions(database=runtime.options.database, keys="process", concurrency=1))
    other.publisher.register_handler("elsewhere", lambda payload: "done there")
    try:
        await anyio.to_thread.run_sync(other.start)
        waited = await call("wait_for_task", task_id=task["task_id"], timeout=LONG)
        assert waited["tasks"][0]["result"] == "done there"
        assert waited["waited_seconds"] < LONG - 5, "it was not woken"
    finally:
        await anyio.to_thread.run_sync(other.stop, 0.5)


async def test_a_wait_that_runs_out_is_a_success_that_says_when_to_look_again(
    call: Any, client: Client, gate: threading.Event
) -> None:
    task = await call("publish_enhanced_task", name="gated")
    result = await client.call_tool("wait_for_task", {"task_id": task["task_id"], "timeout": 0.05})
    gate.set()
    waited = result.structured_content
    assert not result.is_error
    assert waited is not None
    assert waited["done"] is False
    assert waited["poll_after_seconds"] > 0
    assert task["task_id"] in waited["next"]
    assert waited["tasks"][0]["why"]


async def test_a_wait_tells_its_progress(call: Any, client: Client, gate: threading.Event) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    task = await call("publish_enhanced_task", name="gated")
    await client.call_tool("wait_for_task", {"task_id": task["task_id"], "timeout": 0.2}, progress_callback=hear)
    gate.set()
    assert told
    assert [share for share, _, _ in told] == sorted(share for share, _, _ in told)
    assert all(total == 0.2 and message and "gated" in message for _, total, message in told)


async def test_a_wait_for_what_nobody_can_run_ends_early_and_says_why(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    task = await call("publish_enhanced_task", name="nobody")
    waited = await call("wait_for_task", task_id=task["task_id"], timeout=50)
    assert waited["done"] is False
    assert waited["waited_seconds"] < 10
    assert "nobody" in waited["tasks"][0]["why"]


async def test_several_tasks_are_waited_for_until_the_last(call: Any) -> None:
    ids = [(await call("publish_enhanced_task", name="echo", payload=n))["task_id"] for n in range(3)]
    waited = await call("wait_for_task", task_id=ids)
    assert [task["task_id"] for task in waited["tasks"]] == ids
    assert [task["result"] for task in waited["tasks"]] == [0, 1, 2]


async def test_the_same_id_twice_is_one_task(call: Any) -> None:
    task = await call("publish_enhanced_task", name="echo")
    waited = await call("wait_for_task", task_id=[task["task_id"], task["task_id"]])
    assert len(waited["tasks"]) == 1


async def test_a_client_that_gives_up_loses_nothing(
    connect: Connect, app: App, runtime: Runtime, gate: threading.Event
) -> None:
    async with connect() as client:
        published = await client.call_tool("publish_enhanced_task", {"name": "gated", "payload": '"kept"'})
        assert published.structured_content is not None
        task_id = published.structured_content["task_id"]
        with anyio.move_on_after(0.1) as scope:
            await client.call_tool("wait_for_task", {"task_id": task_id, "timeout": 50})
        assert scope.cancelled_caught
        gate.set()
        with anyio.fail_after(10):
            while any(watch.task_ids for watch in list(app.changes._watches)):  # noqa: ASYNC110
                await anyio.sleep(0.005)
        again = await client.call_tool("wait_for_task", {"task_id": task_id})
    assert again.structured_content is not None
    assert again.structured_content["tasks"][0]["result"] == "kept"
    assert [attempt.outcome for attempt in runtime.publisher.attempts(task_id)] == ["completed"]


async def test_other_calls_are_answered_while_some_wait(call: Any, gate: threading.Event) -> None:
    task = await call("publish_enhanced_task", name="gated")
    async with anyio.create_task_group() as group:
        for _ in range(60):  # more than there are worker threads
            group.start_soon(lambda: call("wait_for_task", task_id=task["task_id"], timeout=30))
        await anyio.sleep(0.1)
        with anyio.fail_after(10):
            await call("get_enhanced_task_stats")
        gate.set()


def test_the_tool_answers_with_what_it_says_it_does() -> None:
    assert wait_for_task.__doc__ is not None
    assert "Not yet done is no error" in wait_for_task.__doc__


def test_a_change_after_the_loop_has_ended_harms_nobody(app: App, runtime: Runtime) -> None:
    async def leave_a_watch_behind() -> Any:
        return app.changes.watch().__enter__()

    watch = anyio.run(leave_a_watch_behind)
    assert watch.loop.is_closed()
    task = runtime.publisher.publish("nobody")
    deadline = time.monotonic() + 5
    while runtime.publisher.get_task(task.task_id).status is not TaskStatus.PENDING and time.monotonic() < deadline:
        pass
    assert runtime.publisher.get_task(task.task_id).status is TaskStatus.PENDING
