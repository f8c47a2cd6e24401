"""A million waiting tasks, once and by hand: `python -m benchmarks.queue.million [COUNT]`.

Median milliseconds of each operation on an empty queue and on the full one, and their ratio.
"""

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import percentile, timed
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.store_contract import ClaimRequest, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus

COUNT = 1_000_000
BATCH = 10_000
ROUNDS = 200
WORKER = "bench"


def operations(publisher: EnhancedCloudTaskPublisher) -> dict[str, Callable[[], object]]:
    """What is measured; together they leave about as many tasks waiting as before."""
    tasks, numbers = publisher.store.tasks, itertools.count()
    known = publisher.publish("noop", {"i": -1}).task_id

    def claim_and_finish() -> None:
        request = ClaimRequest(WORKER, ("noop",), 1, 30.0)
        done = [
            Settlement(claim.task_id, claim.attempt, WORKER, AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, "null")
            for claim in tasks.exchange([], request, time.time()).claims
        ]
        tasks.exchange(done, None, time.time())

    return {
        "publish": lambda: publisher.publish("noop", {"i": next(numbers)}),
        "claim and finish": claim_and_finish,
        "list 10": lambda: publisher.list_tasks(status="pending", limit=10),
        "statistics": publisher.get_stats,
        "get one": lambda: publisher.get_task(known),
        "why": lambda: publisher.why(known),
        "upkeep, nothing due": publisher.cleanup_expired,
    }


def measured(publisher: EnhancedCloudTaskPublisher) -> dict[str, float]:
    """Median milliseconds of each operation, the operations taking turns."""
    doing = operations(publisher)
    seconds: dict[str, list[float]] = {name: [] for name in doing}
    for _ in range(ROUNDS):
        for name, action in doing.items():
            seconds[name].append(timed(action))
    return {name: percentile(each, 0.5) * 1000 for name, each in seconds.items()}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with TemporaryDirectory(prefix="bench-million-") as folder:
        path = Path(folder) / "queue.db"
        with EnhancedCloudTaskPublisher(str(path)) as publisher:
            empty = measured(publisher)
            began = time.perf_counter()
            for start in range(0, count, BATCH):
                publisher.publish_many(
                    [{"name": "noop", "payload": {"i": i}} for i in range(start, min(count, start + BATCH))]
                )
            rate = count / (time.perf_counter() - began)
            full = measured(publisher)
            size = path.stat().st_size / 2**20
    print(f"{count:,} tasks published in batches of {BATCH:,}: {rate:,.0f} a second; the file has {size:,.0f} MiB\n")
    print("| operation | empty, ms | full, ms | times |\n|---|---|---|---|")
    for name, before in empty.items():
        print(f"| {name} | {before:.3f} | {full[name]:.3f} | {full[name] / before:.2f} |")


if __name__ == "__main__":
    main()
