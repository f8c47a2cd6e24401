"""Handlers in child processes: what comes back, what is killed, what is refused."""

import os
import time
from pathlib import Path

import pytest

from core.cloud.handlers.files import load_handlers
from core.cloud.handlers.registry import HandlerRegistry
from core.errors import InvalidArgument, Permanent, RetryLater
from tests.process.queue_setup import Queue, queue
from tests.process.worker_process import alive
from tests.support.waiting import wait_until

__all__ = ["queue"]


def doubles(payload, context):
    context.progress(0.5, "half way")
    print("a handler may print")
    return {"twice": payload["n"] * 2, "pid": os.getpid(), "results": context.results, "attempt": context.attempt}


async def asynchronous(payload):
    return "async"


def fails(payload):
    raise {
        "permanent": Permanent("give up"),
        "later": RetryLater(0.01, "not yet"),
        "value": ValueError("no luck"),
        "argument": InvalidArgument("bad value"),
    }[payload]


def vanishes(payload):
    os._exit(7)


def returns_bytes(payload):
    return b"bytes"


def starts_another_and_sleeps(payload):
    child = os.fork()
    if child == 0:
        time.sleep(3600)
    Path(payload).write_text(f"{os.getpid()} {child}")
    time.sleep(3600)


def isolated(queue: Queue, *functions) -> None:
    for function in functions:
        queue.handlers.register(function.__name__, function, isolation="process")
    queue.run()


def test_a_value_progress_and_dependencies_cross_the_pipe_and_prints_do_not(queue: Queue, capfd) -> None:
    isolated(queue, doubles)
    parent = queue.publisher.publish("echo", "from the parent")
    task = queue.publisher.publish("doubles", {"n": 21}, depends_on=[parent])

    ended = queue.finished(task)

    assert ended.result["twice"] == 42
    assert ended.result["results"] == {parent.task_id: "from the parent"}
    assert ended.result["pid"] != os.getpid()
    assert capfd.readouterr().out == ""


def test_an_async_handler_runs_in_a_child_too(queue: Queue) -> None:
    isolated(queue, asynchronous)

    assert queue.finished(queue.publisher.publish("asynchronous")).result == "async"


@pytest.mark.parametrize(
    ("kind", "error", "attempts"),
    [
        ("permanent", "Permanent: give up", 1),
        ("argument", "Permanent: InvalidArgument: bad value", 1),
        ("later", "RetryLater: not yet", 2),
        ("value", "ValueError: no luck", 2),
    ],
)
def test_errors_of_a_child_count_as_if_raised_here(queue: Queue, kind: str, error: str, attempts: int) -> None:
    isolated(queue, fails)

    task = queue.finished(queue.publisher.publish("fails", kind, max_retries=1))

    assert (task.status, task.error, task.attempts) == ("failed", error, attempts)


def test_a_child_that_vanishes_is_a_failure_that_says_how(queue: Queue) -> None:
    isolated(queue, vanishes)

    task = queue.finished(queue.publisher.publish("vanishes", max_retries=0))

    assert task.error == "The process of the handler vanishes ended with exit code 7 before it gave a result."


def test_a_result_that_is_not_json_is_refused_in_the_child(queue: Queue) -> None:
    isolated(queue, returns_bytes)

    assert "bytes that is not JSON" in queue.finished(queue.publisher.publish("returns_bytes", max_retries=3)).error


def test_a_timeout_kills_the_child_and_all_it_started(queue: Queue, tmp_path: Path) -> None:
    isolated(queue, starts_another_and_sleeps)
    notes = tmp_path / "pids"

    task = queue.publisher.publish("starts_another_and_sleeps", str(notes), timeout=2.0, max_retries=0)

    assert queue.outcomes(queue.finished(task)) == ["timed_out"]
    for pid in map(int, notes.read_text().split()):
        wait_until(lambda pid=pid: not alive(pid), "the end of a killed process")


def test_cancelling_kills_the_child(queue: Queue, tmp_path: Path) -> None:
    isolated(queue, starts_another_and_sleeps)
    notes = tmp_path / "pids"
    task = queue.publisher.publish("starts_another_and_sleeps", str(notes))
    wait_until(lambda: notes.exists() and len(notes.read_text().split()) == 2, "the child's start")

    queue.publisher.cancel_task(task.task_id)

    for pid in map(int, notes.read_text().split()):
        wait_until(lambda pid=pid: not alive(pid), "the end of a killed process")
    assert queue.outcomes(task) == ["cancelled"]


def test_what_a_child_could_not_find_is_refused_when_registered() -> None:
    def inner(payload):
        return payload

    for function in (inner, lambda payload: payload):
        with pytest.raises(InvalidArgument, match="top level"):
            HandlerRegistry().register("name", function, isolation="process")


def test_the_example_handlers_file_runs_as_it_stands(queue: Queue) -> None:
    file = Path(__file__).resolve().parents[2] / "examples" / "handlers.py"
    assert load_handlers(str(file), queue.publisher) == ["backtest", "market_analysis", "watch_price"]
    queue.run()

    analysis = queue.publisher.publish("market_analysis", {"symbol": "BTC/USDT", "closes": [1, 2, 6]})
    computed = queue.publisher.publish("backtest", {"rounds": 10})
    watched = queue.publisher.publish("watch_price", {}, depends_on=[analysis])

    assert queue.finished(analysis).result == {"symbol": "BTC/USDT", "mean": 3.0, "spread": 5.0}
    assert queue.finished(computed).result == {"total": 19}
    assert queue.finished(watched).result == {"looked": 10, "built_on": [analysis.task_id]}
