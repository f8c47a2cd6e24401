"""heablcoin-cloud, used as a script would use it."""

import threading
from collections.abc import Sequence
from pathlib import Path

from benchmarks.queue.floor import async_body, body
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.running.runner import TaskRunner
from core.cloud.running.wakeup import WakeUp
from core.cloud.store import open_store
from core.json_types import JsonObject


async def run_async(payload: JsonObject) -> JsonObject:
    return dict(await async_body(int(str(payload["i"]))))


def run_in_thread(payload: JsonObject) -> JsonObject:
    return dict(body(int(str(payload["i"]))))


class Ours:
    """The publisher, the store and the runner."""

    name = "heablcoin-cloud"

    def __init__(self, path: Path, synchronous: str = "FULL") -> None:
        self._store = open_store(str(path), synchronous="NORMAL" if synchronous == "NORMAL" else "FULL")
        self._wakeup = WakeUp(self._store.workers)
        self._publisher = EnhancedCloudTaskPublisher(store=self._store, wakeup=self._wakeup)

    def close(self) -> None:
        self._publisher.close()
        self._wakeup.close()
        self._store.close()

    def publish(self, index: int, priority: int = 2) -> None:
        self._publisher.publish("noop", {"i": index}, priority=priority)

    def publish_many(self, indices: Sequence[int], priorities: Sequence[int] | None = None) -> None:
        self._publisher.publish_many(
            [
                {"name": "noop", "payload": {"i": index}, "priority": priority}
                for index, priority in zip(indices, priorities or [2] * len(indices), strict=True)
            ]
        )

    def publish_graph(self, parents: Sequence[Sequence[int]]) -> None:
        """Node i depends on `parents[i]`, all of them before it."""
        self._publisher.publish_graph(
            {
                f"n{index}": {
                    "name": "noop",
                    "payload": {"i": index},
                    "depends_on": [f"n{parent}" for parent in needed],
                }
                for index, needed in enumerate(parents)
            }
        )

    def list_top(self) -> object:
        return self._publisher.list_tasks(status="pending", limit=10)

    def stats(self) -> object:
        return self._publisher.get_stats()

    def unfinished(self) -> int:
        by_status = self._publisher.get_stats()["by_status"]
        return sum(int(by_status.get(status, 0)) for status in ("pending", "acknowledged", "running"))

    def work(self, concurrency: int, kind: str, stopped: threading.Event) -> None:
        self._publisher.register_handler("noop", run_in_thread if kind == "thread" else run_async)
        runner = TaskRunner(self._store, self._publisher.handlers, wakeup=self._wakeup, concurrency=concurrency)
        runner.start()
        stopped.wait()
        runner.stop(5.0)
