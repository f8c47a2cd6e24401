"""Schedules driven by several real processes over one database."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.scheduler import CloudScheduler
from core.cloud.store_contract import TaskQuery

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_795_000_000.0
BOUND = 60

DRIVER = """
import sys
from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.scheduler import CloudScheduler

path, now, rounds, step = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
clock = ManualClock(now)
with EnhancedCloudTaskPublisher(path, clock=clock) as publisher:
    scheduler = CloudScheduler(publisher, clock=clock)
    print("ready", flush=True)
    sys.stdin.readline()
    fired = 0
    for _ in range(rounds):
        clock.advance(step)
        fired += scheduler.fire_due()
    print(fired, flush=True)
"""


def start(path: Path, rounds: int, step: float, failpoints: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "HEABLCOIN_CLOUD_FAILPOINTS": failpoints}
    arguments = [sys.executable, "-c", DRIVER, str(path), str(NOW), str(rounds), str(step)]
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def let_go(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Start their race together; what each said at its end."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=BOUND)[0].strip() for process in processes]


def keys_of(publisher: EnhancedCloudTaskPublisher) -> Counter[str]:
    return Counter(str(task.idempotency_key) for task in publisher.page(TaskQuery(limit=10_000)).tasks)


def test_two_processes_that_race_through_the_same_time_publish_every_run_once(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with EnhancedCloudTaskPublisher(str(path), clock=ManualClock(NOW)) as publisher:
        scheduler = CloudScheduler(publisher, clock=ManualClock(NOW))
        for number in range(4):
            scheduler.add_task(f"every-{number}", every=60 + number, missed="all")
        scheduler.add_task("cron", cron="*/5 * * * *", timezone="Asia/Shanghai", missed="all")

        said = let_go([start(path, 100, 60.0), start(path, 100, 60.0)])

        end = NOW + 100 * 60
        expected = sum(int((end - NOW) // (60 + number)) for number in range(4)) + 20
        keys = keys_of(publisher)
        assert set(keys.values()) == {1}
        assert len(keys) == expected
        assert sum(int(count) for count in said) == expected
        assert sum(record.runs for record in scheduler.schedules()) == expected


def test_a_process_killed_while_it_publishes_loses_no_run_and_doubles_none(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with EnhancedCloudTaskPublisher(str(path), clock=ManualClock(NOW)) as publisher:
        scheduler = CloudScheduler(publisher, clock=ManualClock(NOW))
        scheduler.add_task("tick", every=60, missed="all")
        for failpoint in ("in_transaction_before_commit", "after_publish_commit"):
            for _ in range(3):
                process = start(path, 40, 60.0, f"{failpoint}:kill")
                let_go([process])
                assert process.returncode == -9

        let_go([start(path, 40, 60.0)])

        assert keys_of(publisher) == Counter({f"schedule:tick:{stamp}": 1 for stamp in stamps(NOW + 60, 40)})
        assert scheduler.get("tick").runs == 40


def stamps(first: float, count: int) -> list[str]:
    from core.clock import to_iso

    return [to_iso(first + 60 * number) for number in range(count)]
