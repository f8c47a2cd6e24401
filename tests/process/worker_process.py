"""A worker as a process of its own: `python -m tests.process.worker_process OPTIONS-AS-JSON`, and its handle for tests.

It says `ready WORKER-ID`, runs tasks until stdin ends or SIGTERM or SIGINT comes, stops its runner and leaves by
`os._exit` as the server does.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.files import load_handlers
from core.cloud.retry import RetryPolicy
from core.cloud.running.maintenance import Maintenance, TaskUpkeep
from core.cloud.running.runner import TaskRunner, new_worker_id
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
HANDLERS = str(Path(__file__).with_name("worker_handlers.py"))


def main(options: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.WARNING)
    publisher = EnhancedCloudTaskPublisher(options["database"])
    load_handlers(HANDLERS, publisher)
    worker = new_worker_id()
    maintenance = Maintenance(
        publisher.store,
        [TaskUpkeep(publisher.store.tasks, options.get("poison_limit", 5))],
        worker=worker,
        wakeup=publisher.wakeup,
        leader_ttl=options.get("leader_ttl", 0.5),
    )
    runner = TaskRunner(
        publisher.store,
        publisher.handlers,
        wakeup=publisher.wakeup,
        lease=options.get("lease", 30.0),
        poll_interval=options.get("poll_interval", 1.0),
        concurrency=options.get("concurrency", 10),
        maintenance=maintenance,
        retry=RetryPolicy(base=0.01, cap=0.05),
        worker_id=worker,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    runner.start()
    print("ready", worker, flush=True)
    while not stop.wait(0.1):
        # Python runs signal handlers in this thread only, and the kernel may give a signal to a spinning one: look up for it.
        continue
    runner.stop(options.get("grace", 1.0))
    publisher.close()
    os._exit(0)


class WorkerProcess:
    """A worker process that a test may stop, kill, freeze."""

    def __init__(self, database: str, failpoints: str = "", **options: Any) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HEABLCOIN_CLOUD_FAILPOINTS": failpoints}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.worker_process", json.dumps({"database": database, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        self.worker = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self) -> "WorkerProcess":
        """Once it runs tasks. Their handlers may print before it says so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, self.worker = line.strip().partition(" ")
            if word == "ready":
                return self
        raise AssertionError(f"the worker ended ({self.process.wait(10)}) before it was ready")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Ask it to end as a host does, by the end of its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def exit_code(self, timeout: float = 5.0) -> int:
        """How it ended, within the five seconds that a host gives a server."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def alive(pid: int) -> bool:
    """Whether a process that is nobody's zombie has this id."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def words(file: Path) -> list[str]:
    """What a handler has noted so far."""
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def pids(file: Path) -> list[int]:
    """Who noted it."""
    return [int(line.split()[1]) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_word(file: Path, word: str) -> None:
    wait_until(lambda: word in words(file), f"the handler to note {word}", timeout=20)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
