"""A worker process: `python -m benchmarks.queue.worker QUEUE DATABASE SYNCHRONOUS KIND`, until its stdin is closed."""

import sys
import threading
from pathlib import Path

from benchmarks.queue.floor import Floor
from benchmarks.queue.ours import Ours

QUEUES: dict[str, type[Floor | Ours]] = {"floor": Floor, "ours": Ours}
CONCURRENCY = 10


def main() -> None:
    queue, path, synchronous, kind = sys.argv[1:5]
    stopped = threading.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        stopped.set()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    opened = QUEUES[queue](Path(path), synchronous)
    opened.work(CONCURRENCY, kind, stopped)
    opened.close()


if __name__ == "__main__":
    main()
