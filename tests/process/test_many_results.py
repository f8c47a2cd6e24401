"""A task with many parents: their results are there, in each kind of handler, without all being in memory at once."""

import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.cloud.running import child_answers
from core.cloud.running.process_executor import ProcessRun
from core.cloud.running.stored_results import FEW, StoredResults
from core.cloud.task import Task
from core.errors import StoreBusy
from tests.process.queue_setup import Queue, queue
from tests.process.worker_process import WorkerProcess, alive, pids, wait_for_word
from tests.support.waiting import wait_until

__all__ = ["queue"]

SIZE = 100_000


def parent(payload):
    return {"n": payload, "text": "x" * SIZE}


def in_thread(payload, context):
    assert type(context.results) is StoredResults
    tracemalloc.start()
    total = sum(result["n"] for result in context.results.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"total": total, "peak": peak, "payload": payload}


async def in_loop(payload, context):
    return {"total": sum(result["n"] for result in context.results.values()), "payload": payload}


def in_child(payload, context):
    return in_thread(payload, context)


def in_threads_of_a_child(payload, context):
    with ThreadPoolExecutor(8) as threads:
        return sum(threads.map(lambda task_id: context.results[task_id]["n"], [*context.results] * 3))


def in_a_fork_of_a_child(payload, context):
    first, second, *_ = context.results
    kept = context.results[first]["n"]
    receiver, sender = os.pipe()
    if os.fork() == 0:
        try:
            said = str(context.results[first]["n"] == kept and context.results[second])
        except RuntimeError as error:
            said = str(error)
        os.write(sender, said.encode())
        os._exit(0)
    os.wait()
    return {"fork": os.read(receiver, 1000).decode(), "itself": context.results[second]["n"]}


def closes_its_lifeline(payload, context):
    import fcntl

    for descriptor in range(3, 20):
        try:
            closes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        except OSError:
            continue
        if closes:
            os.close(descriptor)
    return in_threads_of_a_child(payload, context)


def many(queue: Queue, handler, *, value=parent, **options) -> Task:
    """A task in a child process that has more parents than are sent along."""
    queue.publisher.register_handler("parent", value)
    queue.publisher.register_handler("child", handler, isolation="process")
    parents = [queue.publisher.publish("parent", number) for number in range(FEW + 14)]
    return queue.publisher.publish("child", depends_on=parents, max_retries=0, **options)


@pytest.mark.parametrize(("handler", "isolation"), [(in_thread, "thread"), (in_loop, "thread"), (in_child, "process")])
def test_the_results_of_many_parents_reach_a_handler_of_each_kind(queue: Queue, handler, isolation) -> None:
    queue.publisher.register_handler("parent", parent)
    queue.publisher.register_handler("child", handler, isolation=isolation)
    count = FEW + 14
    parents = [queue.publisher.publish("parent", number) for number in range(count)]
    names = {"first": f"${{{parents[0].task_id}.n}}", "last": f"${{{parents[-1].task_id}.n}}"}
    child = queue.publisher.publish("child", names, depends_on=parents)
    queue.run()
    result = queue.finished(child).result
    assert result["total"] == sum(range(count))
    assert result["payload"] == {"first": 0, "last": count - 1}
    assert result.get("peak", 0) < count * SIZE / 2


def test_a_child_is_sent_no_result_of_many_before_it_asks(queue: Queue, monkeypatch) -> None:
    sent = []
    written = ProcessRun._request
    monkeypatch.setattr(ProcessRun, "_request", lambda *arguments: sent.append(written(*arguments)) or sent[-1])
    task = many(queue, in_child)
    queue.run()

    assert queue.finished(task).result["total"] == sum(range(FEW + 14))
    assert len(sent) == 1
    assert len(sent[0]) < SIZE


def large(payload):
    return {"n": payload, "text": "é\n" * 250_000}


def reads_it_whole(payload, context):
    return [result == large(number) for number, result in enumerate(context.results.values())]


def test_results_far_larger_than_a_pipe_arrive_as_they_are(queue: Queue) -> None:
    task = many(queue, reads_it_whole, value=large)
    queue.run()
    assert queue.finished(task).result == [True] * (FEW + 14)


def test_threads_of_a_child_may_ask_at_once(queue: Queue) -> None:
    task = many(queue, in_threads_of_a_child)
    queue.run()
    assert queue.finished(task).result == 3 * sum(range(FEW + 14))


def test_only_the_child_itself_asks_and_its_fork_is_told_so(queue: Queue) -> None:
    task = many(queue, in_a_fork_of_a_child)
    queue.run()
    result = queue.finished(task).result
    assert result["itself"] == 1
    assert "by the process of the handler itself" in result["fork"]


def test_a_child_that_closed_its_lifeline_fails_and_does_not_wait_for_an_answer(queue: Queue) -> None:
    task = many(queue, closes_its_lifeline)
    queue.run()
    assert "RuntimeError: the handler closed the descriptor" in queue.finished(task).error


def test_a_result_that_the_parent_cannot_read_is_an_error_in_the_child(queue: Queue, monkeypatch) -> None:
    task = many(queue, in_child)

    def busy(task_ids):
        raise StoreBusy("It is held by another.", "wait.")

    monkeypatch.setattr(queue.store.tasks, "results", busy)
    queue.run()
    assert queue.finished(task).error == "StoreError: It is held by another. Fix: wait."


def test_a_question_that_is_open_when_its_attempt_is_stopped_keeps_nobody(queue: Queue, monkeypatch) -> None:
    task = many(queue, in_child)
    asked, release = threading.Event(), threading.Event()
    read = queue.store.tasks.results

    def slow(task_ids):
        asked.set()
        assert release.wait(60)
        return read(task_ids)

    children = []
    ask = ProcessRun._ask
    monkeypatch.setattr(
        ProcessRun, "_ask", lambda run, process, request: (children.append(process.pid), ask(run, process, request))
    )
    monkeypatch.setattr(queue.store.tasks, "results", slow)
    try:
        runner = queue.run(concurrency=1)
        assert asked.wait(30)
        queue.publisher.cancel_task(task.task_id)
        wait_until(lambda: not alive(children[0]), "the end of the child")
        assert queue.outcomes(task) == ["cancelled"]
        after = queue.publisher.publish("echo", "next")
        assert queue.finished(after).result == "next"
        assert runner.in_flight == 0
    finally:
        release.set()


def test_a_child_whose_parent_dies_before_it_answers_ends(queue: Queue, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    parents = [queue.publisher.publish("echo", number) for number in range(FEW + 1)]
    queue.publisher.publish("ask_on_and_on", {"file": str(notes)}, depends_on=parents)
    worker = WorkerProcess(queue.database).ready()
    try:
        wait_for_word(notes, "asking")
        worker.signal(signal.SIGSTOP)  # what the child asks next stays unanswered
        assert alive(pids(notes)[0])
    finally:
        worker.kill()
    wait_until(lambda: not alive(pids(notes)[0]), "the end of the child")


def test_an_answer_is_given_up_once_the_child_has_ended_whoever_else_holds_its_pipe() -> None:
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE)
    ended = threading.Event()
    answering = threading.Thread(target=child_answers.answer, args=(holder, b"x" * 1_000_000, ended.is_set))
    try:
        answering.start()
        ended.set()
        answering.join(10)
        assert not answering.is_alive()
        holder.kill()
        holder.wait(10)
        child_answers.answer(holder, b"to nobody", lambda: False)
    finally:
        holder.kill()
        holder.communicate()
