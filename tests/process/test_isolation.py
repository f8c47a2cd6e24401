"""Handlers in child processes: what comes back, what is killed, what is refused."""

import contextlib
import os
import signal
import subprocess
import sys
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


class Own:
    pass


def returns_its_own(payload):
    return [Own()]


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
    isolated(queue, returns_its_own)

    task = queue.finished(queue.publisher.publish("returns_its_own", max_retries=3))

    assert task.attempts == 1
    assert "cannot be written as JSON: it is a list" in task.error
    assert "Its repr begins: [<" in task.error


def test_a_timeout_kills_the_child_and_all_it_started(queue: Queue, tmp_path: Path) -> None:
    isolated(queue, starts_another_and_sleeps)
    notes = tmp_path / "pids"

    for timeout in (1.0, 3.0, 9.0):  # on a busy machine the child takes its time to start
        task = queue.publisher.publish("starts_another_and_sleeps", str(notes), timeout=timeout, max_retries=0)
        assert queue.outcomes(queue.finished(task)) == ["timed_out"]
        if notes.exists():
            break

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


LONG = 60
"""Seconds for which what a child leaves behind goes on, if nobody ends it; far longer than any test waits."""


def reads_stdin(payload):
    if payload == "input":
        return input("a question: ")
    if payload == "read":
        return sys.stdin.read()
    if payload == "buffer":
        return sys.stdin.buffer.readline().decode()
    if payload == "descriptor":
        return os.read(0, 100).decode()
    if payload == "cat":
        return subprocess.run(["cat"], capture_output=True, text=True, check=True).stdout
    return subprocess.run(
        [sys.executable, "-c", "print(repr(input()))"], capture_output=True, text=True, check=False
    ).returncode


def leaves_something_and_dies(payload):
    if payload == "fork":
        if os.fork() == 0:
            time.sleep(LONG)
    elif payload == "daemon":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(LONG)
            os._exit(0)
        os.wait()
    elif payload == "program":
        subprocess.Popen(["sleep", str(LONG)], close_fds=False)
    elif payload == "program that is given everything":
        for descriptor in range(3, 20):
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, True)
        subprocess.Popen(["sleep", str(LONG)], close_fds=False, start_new_session=True)
    elif payload == "killed":
        if os.fork() == 0:
            time.sleep(LONG)
        os.kill(os.getpid(), signal.SIGKILL)
    elif payload == "all closed":
        os.closerange(3, 100)
    os._exit(9)


def forks_and_both_return(payload):
    fork = os.fork()
    if payload == "raise" and fork == 0:
        raise ValueError("of the fork")
    if fork == 0:
        return "of the fork"
    os.waitpid(fork, 0)
    return "of the child"


def forks_and_reports(payload, context):
    if os.fork() == 0:
        context.progress(0.25, "of the fork")
        os._exit(0)
    os.wait()
    context.progress(0.5, "of the child")
    return "done"


def closes_all_and_returns(payload):
    os.closerange(3, 100)
    return "nobody hears it"


def test_stdin_is_empty_for_an_isolated_handler_and_for_what_it_starts(queue: Queue) -> None:
    isolated(queue, reads_stdin)
    ways = ("input", "read", "buffer", "descriptor", "cat", "a program that asks")

    tasks = [queue.publisher.publish("reads_stdin", way, max_retries=0, timeout=30.0) for way in ways]

    asked, *others = [queue.finished(task) for task in tasks]
    assert asked.error == "EOFError: EOF when reading a line"
    assert [task.result for task in others] == ["", "", "", "", 1]


@pytest.mark.parametrize(
    ("way", "ended"),
    [
        ("fork", "ended with exit code 9"),
        ("daemon", "ended with exit code 9"),
        ("program", "ended with exit code 9"),
        ("program that is given everything", "ended with exit code 9"),
        ("killed", "was ended by SIGKILL"),
        ("all closed", "ended with exit code 9"),
    ],
)
def test_the_end_of_a_child_is_noticed_at_once_whatever_it_leaves_behind(queue: Queue, way: str, ended: str) -> None:
    isolated(queue, leaves_something_and_dies)

    task = queue.finished(queue.publisher.publish("leaves_something_and_dies", way, max_retries=0))

    assert f"{ended} before it gave a result" in task.error


def test_without_help_of_the_system_the_end_of_a_child_is_looked_for(queue: Queue, monkeypatch) -> None:
    monkeypatch.setattr("core.cloud.running.child_answers._end_of", lambda pid: None)
    isolated(queue, leaves_something_and_dies, doubles)

    died = queue.finished(queue.publisher.publish("leaves_something_and_dies", "fork", max_retries=0))
    returned = queue.finished(queue.publisher.publish("doubles", {"n": 1}))

    assert "ended with exit code 9" in died.error
    assert returned.result["twice"] == 2


def test_where_pipes_cannot_be_polled_a_thread_reads_them(queue: Queue, monkeypatch) -> None:
    from core.cloud.running import child_answers

    monkeypatch.setattr(
        child_answers, "_chunks", lambda process, pipe, ended: child_answers._from_a_thread(pipe, ended)
    )
    isolated(queue, leaves_something_and_dies, doubles)

    died = queue.finished(queue.publisher.publish("leaves_something_and_dies", "daemon", max_retries=0))
    returned = queue.finished(queue.publisher.publish("doubles", {"n": 1}))

    assert "ended with exit code 9" in died.error
    assert returned.result["twice"] == 2


@pytest.mark.parametrize("way", ["return", "raise"])
def test_only_the_child_itself_can_say_how_its_task_ended(queue: Queue, way: str) -> None:
    isolated(queue, forks_and_both_return, forks_and_reports)

    ended = queue.finished(queue.publisher.publish("forks_and_both_return", way, max_retries=0))
    reported = queue.finished(queue.publisher.publish("forks_and_reports", max_retries=0))

    assert (ended.result, ended.error) == ("of the child", None)
    assert reported.result == "done"


def test_a_child_that_closed_its_way_to_the_parent_is_a_failure_that_says_so(queue: Queue) -> None:
    isolated(queue, closes_all_and_returns)

    task = queue.finished(queue.publisher.publish("closes_all_and_returns", max_retries=0))

    assert "before it gave a result" in task.error


SCRIPT = """
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.errors import HeablcoinError

def double(payload):
    return payload * 2

publisher = EnhancedCloudTaskPublisher({database!r})
publisher.register_handler("double", double, isolation="process")
{guard}
    task = publisher.{publish}
    try:
        print(publisher.execute_task(task))
    except HeablcoinError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("guard", "publish", "says"),
    [
        ('if __name__ == "__main__":', 'publish("double", 21)', "42"),
        ("if True:", 'publish("double", 21)', "publishes a task while it is imported"),
        ("if True:", 'publish_many([{"name": "double", "payload": 21}])[0]', "publishes a task while it is imported"),
        ("if True:", 'publish_graph({"a": {"name": "double", "payload": 21}})["a"]', "publishes a task while"),
        ("for task in publisher.claim('me') or [None]:", 'publish("double", 21)', "claims tasks while it is imported"),
    ],
)
def test_a_script_without_a_main_guard_does_its_work_once_and_is_told_why(
    tmp_path: Path, guard: str, publish: str, says: str
) -> None:
    from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher

    script, database = tmp_path / "script.py", str(tmp_path / "queue.db")
    script.write_text(SCRIPT.format(database=database, guard=guard, publish=publish))

    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert says in ran.stdout
    assert ("__main__" in ran.stdout) == (says != "42")
    with EnhancedCloudTaskPublisher(database) as publisher:
        assert len(publisher.list_tasks()) == 1
