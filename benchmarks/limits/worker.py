"""A process that runs tasks under limits: `python -m benchmarks.limits.worker OPTIONS-AS-JSON`, until its stdin is closed.

It says `ready`, and answers each line with one of JSON: what it has used so far, see `Used`.
"""

import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

from benchmarks.limits.handlers import register
from core.cloud.store.sqlite import SqliteStore
from core.runtime import Runtime, RuntimeOptions


@dataclass(frozen=True, slots=True)
class Options:
    """What a process is started with."""

    database: str
    window: float = 0.0
    """Seconds of the pool's windows; 0 for those it has."""
    concurrency: int = 10


@dataclass(slots=True)
class Used:
    """Since the process began."""

    at: float = 0.0
    cpu: float = 0.0
    """Seconds."""
    writes: dict[str, int] = field(default_factory=dict)
    """Write transactions that were committed, by the thread that wrote."""
    in_vain: dict[str, int] = field(default_factory=dict)
    """Those of them that changed nothing."""

    def since(self, before: "Used") -> "Used":
        return Used(
            self.at - before.at,
            self.cpu - before.cpu,
            dict(Counter(self.writes) - Counter(before.writes)),
            dict(Counter(self.in_vain) - Counter(before.in_vain)),
        )


class Counted:
    """Counts the write transactions of this process."""

    def __init__(self, store: SqliteStore) -> None:
        self._connection = store.database._writer
        self._changes = 0
        self._writes: Counter[str] = Counter()
        self._in_vain: Counter[str] = Counter()
        self._connection.set_commit_hook(self._committed)

    def used(self) -> Used:
        return Used(time.monotonic(), time.process_time(), dict(self._writes), dict(self._in_vain))

    def _committed(self) -> bool:
        thread, changes = threading.current_thread().name, self._connection.total_changes()
        self._writes[thread] += 1
        self._in_vain[thread] += changes == self._changes
        self._changes = changes
        return False


def opened(options: Options) -> Runtime:
    """The parts of one process that may call the mock."""
    runtime = Runtime(
        RuntimeOptions(
            database=options.database,
            concurrency=options.concurrency,
            allow_hosts=("127.0.0.1",),
            keys="process",
        )
    )
    if options.window:
        runtime.store.pool.window = options.window
    return runtime


def main() -> None:
    runtime = opened(Options(**json.loads(sys.argv[1])))
    counted = Counted(runtime.store)
    register(runtime.publisher)
    runtime.start()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(asdict(counted.used())), flush=True)
    runtime.stop(1.0)


if __name__ == "__main__":
    main()
