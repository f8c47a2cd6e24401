"""heablcoin-cloud in the peers' queue harness: copy into its `adapters/` and name it in its table of contenders.

HEABLCOIN_ROOT is the checkout. The harness has a module `core` of its own, so ours joins it as its submodules.
"""

import os
import time
from pathlib import Path
from typing import Any

import core  # the harness's module

core.__path__ = [str(Path(os.environ["HEABLCOIN_ROOT"]) / "core")]

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher  # noqa: E402
from core.cloud.running.runner import TaskRunner  # noqa: E402
from core.cloud.running.wakeup import WakeUp  # noqa: E402
from core.cloud.store import open_store  # noqa: E402


async def run_async(payload: dict[str, Any]) -> dict[str, Any]:
    return await core.task_body_async(payload["i"], payload["sleep"])


def run_in_thread(payload: dict[str, Any]) -> dict[str, Any]:
    return core.task_body(payload["i"], payload["sleep"])


class Heablcoin(core.Contender):
    """Through its public interface, with a lease as short as the floor's."""

    supports = core.Contender.supports | {"dag"}
    single_n = 5000
    batch_n = 50_000
    work_n = 20_000

    def __init__(self, workdir: str, kind: str = "async", synchronous: str = "FULL") -> None:
        super().__init__(workdir)
        self.kind, self.synchronous = kind, synchronous
        self.durability = f"WAL synchronous={synchronous} (apsw), {kind} handlers"

    def create(self) -> None:
        self._store().close()

    def _store(self) -> Any:
        return open_store(str(self.dir / "queue.db"), synchronous=self.synchronous)

    def open(self) -> None:
        self.store = self._store()
        self.publisher = EnhancedCloudTaskPublisher(store=self.store, wakeup=WakeUp(self.store.workers))

    def close(self) -> None:
        self.publisher.close()
        self.store.close()

    def enqueue(self, i: int, priority: int = 2, sleep: float = 0.0) -> None:
        self.publisher.publish("noop", {"i": i, "sleep": sleep}, priority)

    def enqueue_many(self, idx: list[int], priorities: list[int] | None = None, sleep: float = 0.0) -> None:
        wanted = priorities or [2] * len(idx)
        self.publisher.publish_many(
            {"name": "noop", "payload": {"i": i, "sleep": sleep}, "priority": priority}
            for i, priority in zip(idx, wanted, strict=True)
        )

    def enqueue_dag(self, deps: list[list[int]], kind: str) -> None:
        self.publisher.publish_graph(
            {
                f"n{i}": {
                    "name": "noop",
                    "payload": {"i": i, "sleep": 0},
                    "depends_on": [f"n{parent}" for parent in parents],
                }
                for i, parents in enumerate(deps)
            }
        )

    def list_top(self, n: int = 10) -> Any:
        return self.publisher.list_tasks(status="pending", limit=n)

    def stats(self) -> Any:
        return self.publisher.get_stats()

    def pending(self) -> int:
        counts = self.publisher.get_stats()["by_status"]
        return sum(int(counts.get(status, 0)) for status in ("pending", "acknowledged", "running"))

    def worker(self, concurrency: int, stop_file: str) -> None:
        store = self._store()
        wakeup = WakeUp(store.workers)
        publisher = EnhancedCloudTaskPublisher(store=store, wakeup=wakeup)
        publisher.register_handler("noop", run_in_thread if self.kind == "thread" else run_async)
        lease = float(os.environ.get("TQ_LEASE", "3"))
        runner = TaskRunner(store, publisher.handlers, wakeup=wakeup, concurrency=concurrency, lease=lease)
        upkeep = self._upkeep(store, runner.worker_id, wakeup)
        runner.start()
        upkeep.start()
        while not Path(stop_file).exists():
            time.sleep(0.1)
        upkeep.stop()
        runner.stop(2.0)
        publisher.close()
        store.close()

    def _upkeep(self, store: Any, worker: str, wakeup: WakeUp) -> Any:
        from core.cloud.running.maintenance import Maintenance, standard_duties

        return Maintenance(store, standard_duties(store.tasks), worker=worker, wakeup=wakeup)
