"""Two real processes that claim and settle at full speed on one database: no lock error, no task twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.cloud.store import open_store
from core.cloud.store_contract import NewTask
from core.cloud.task import TaskStatus

ROOT = Path(__file__).parents[2]

CLAIMER = """
import json, sys, time
from core.cloud.store import open_store
from core.cloud.store_contract import ClaimRequest, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus
store = open_store(sys.argv[1])
worker, seconds = sys.argv[2], float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
taken, held, refused, until = [], [], 0, time.monotonic() + seconds
while held or time.monotonic() < until:
    ends = [Settlement(t, a, worker, AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, "1") for t, a in held]
    request = ClaimRequest(worker, ("n",), 3, 60.0) if time.monotonic() < until else None
    done = store.tasks.exchange(ends, request, time.time())
    refused += len(done.refused)
    held = [(claim.task_id, claim.attempt) for claim in done.claims]
    taken += [task_id for task_id, _ in held]
    if not held and not store.tasks.stats().ready:
        break
store.close()
print(json.dumps({"taken": taken, "refused": refused}))
"""


def race(path, seconds, tasks):
    store = open_store(path, synchronous="NORMAL")
    for start in range(0, tasks, 5000):
        count = min(5000, tasks - start)
        store.tasks.publish([NewTask(f"{start + n:016x}", "n", "{}", "n") for n in range(count)], 1.0)
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, path, worker, str(seconds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in ("w1", "w2")
    ]
    for claimer in claimers:
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        claimer.stdin.write("\n")
        claimer.stdin.flush()
    reports = []
    for claimer in claimers:
        out, errors = claimer.communicate(timeout=seconds + 60)
        assert claimer.returncode == 0, errors
        reports.append(json.loads(out))
    stats, sound = store.tasks.stats(), store.health().sound
    store.close()
    taken = [task_id for report in reports for task_id in report["taken"]]
    assert len(taken) == len(set(taken)) == stats.by_status[TaskStatus.COMPLETED]
    assert stats.by_status[TaskStatus.RUNNING] == 0
    assert sum(report["refused"] for report in reports) == 0
    assert sound
    return [len(report["taken"]) for report in reports]


def test_two_processes_at_full_speed_take_no_task_twice_and_meet_no_lock_error(tmp_path):
    shares = race(str(tmp_path / "queue.db"), 3.0, 20_000)
    assert min(shares) > 0


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_two_processes_at_full_speed_for_a_minute(tmp_path):
    shares = race(str(tmp_path / "queue.db"), 60.0, 600_000)
    assert min(shares) > 0
