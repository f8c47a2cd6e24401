"""A task with many parents: their results are there, in each kind of handler, without all being in memory at once."""

import tracemalloc

import pytest

from core.cloud.running.stored_results import FEW, StoredResults
from tests.process.queue_setup import Queue, queue

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
    return {"total": sum(result["n"] for result in context.results.values()), "payload": payload}


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
