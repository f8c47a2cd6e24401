"""Three workers and a producer on one database, killed again and again; then the books are audited."""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from core.failpoints import ENVIRONMENT
from tests.chaos.audit import Books
from tests.chaos.provider import Limits, Provider

ROOT = Path(__file__).resolve().parents[2]
WORKER_FAILPOINTS = {
    "before_exchange": 0.02,
    "in_transaction_before_commit": 0.01,
    "after_exchange_commit": 0.02,
    "before_handler": 0.005,
    "after_handler": 0.005,
    "before_settle": 0.02,
    "before_renew": 0.5,
    "before_upkeep": 0.5,
}
"""Where workers are cut down, and how likely each pass is to be the last; enough to be hit within a second."""
PRODUCER_DEATHS = 0.02
"""Share of the rounds in which the producer is killed."""
SLACK = 3.0
"""Seconds after a lease and the leader's time within which its task must be back, on a machine busy with restarts."""
PRODUCER_FAILPOINTS = {"after_publish_commit": 0.3, "in_transaction_before_commit": 0.3}


@dataclass(frozen=True, slots=True)
class Plan:
    """How big and how hard."""

    tasks: int = 8000
    kills: int = 220
    workers: int = 3
    lease: float = 1.0
    leader_ttl: float = 1.0
    seed: int = 1
    kill_every: float = 0.25
    """Seconds, on average, between two random kills."""
    longest_task: float = 0.3
    """Seconds."""
    longest_life: float = 3.0
    """Seconds of work after which a worker that has not met its failpoint is killed like any other."""
    patience: float = 120.0
    """Seconds without any progress after which what is unfinished counts as lost."""
    calls: float = 0.15
    """Share of the tasks that are `ai_call`s, which wait for the limits of the endpoints they want."""
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Figures:
    """What a run found. All from `lost` on must be zero."""

    tasks: int = 0
    kills: int = 0
    kills_at: dict[str, int] = field(default_factory=dict)
    interrupted_attempts: int = 0
    seconds: float = 0.0
    longest_overdue_seconds: float = 0.0
    longest_neglected_seconds: float = 0.0
    """The same without the time in which no worker was at work, all of them being started anew."""
    calls: int = 0
    """Tasks that were `ai_call`s."""
    requests: int = 0
    """Those that came to the provider: of an attempt that was cut off, perhaps one of its own."""
    most_seen: dict[str, str] = field(default_factory=dict)
    """By endpoint, the most in a window, or at one time."""
    lost: int = 0
    stuck: int = 0
    finished_twice: int = 0
    started_early: int = 0
    run_after_completion: int = 0
    cuts_not_shown: int = 0
    failed_attempts: int = 0
    limits_passed: int = 0
    """Requests beyond what a window, or an endpoint at one time, allows."""
    answered_unasked: int = 0
    """Calls that are shown as completed and never came to the provider."""

    @property
    def sound(self) -> bool:
        return not (
            self.lost
            + self.stuck
            + self.finished_twice
            + self.started_early
            + self.run_after_completion
            + self.cuts_not_shown
            + self.failed_attempts
            + self.limits_passed
            + self.answered_unasked
        )


class Child:
    """One process to kill, started anew each time."""

    def __init__(self, role: str, options: dict[str, object], failpoint: str = "", probability: float = 0.0) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop(ENVIRONMENT, None)
        if failpoint:
            environment[ENVIRONMENT] = f"{failpoint}:kill:{probability}"
        self.failpoint = failpoint
        self.words: list[str] = []
        self.ready_at = float("inf")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.processes", role, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.ready_at = min(self.ready_at, time.monotonic())
                self.words.append(line.strip())

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def at_work(self) -> bool:
        return self.ready_at < float("inf") and self.alive

    def kill(self) -> None:
        """Kill it, if it still lives, and clear up after it."""
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self._listener.join()

    def end(self) -> int:
        """Close its stdin and wait for a clean exit."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(15)


class Chaos:
    """One run."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.log = directory / "events"
        self.log.mkdir()
        self.database = str(directory / "queue.db")
        self.plan_file = directory / "plan.json"
        self.plan_file.write_text(json.dumps(make_plan(plan, self.rng)))
        self.batches = len(json.loads(self.plan_file.read_text()))
        self.gate = directory / "gate"
        self.gate.touch()
        self.kills: Counter[str] = Counter()
        self.provider = Provider(plan.limits)
        self.figures = Figures(tasks=plan.tasks)
        self._failpoints = iter(())
        self.workers: list[Child] = []
        self._looked_at = time.monotonic()
        self._deserted = 0.0
        """Seconds without a worker at work, of those in which a lease has been overdue."""

    def run(self) -> Figures:
        self.provider.start()
        try:
            return self._run()
        finally:
            self.provider.stop()

    def _run(self) -> Figures:
        started = time.monotonic()
        self._migrate_under_fire()
        self.books = Books(self.database)
        self.books.introduce(self.provider)
        self.workers = [self._worker() for _ in range(self.plan.workers)]
        producer = self._producer("in_transaction_before_commit", 0.3)
        try:
            while sum(self.kills.values()) < self.plan.kills or "published" not in producer.words:
                time.sleep(self.plan.kill_every * self.rng.random() / self.plan.workers)
                self._open_gate()
                self._watch_leases()
                self.workers = [self._strike(worker) for worker in self.workers]
                producer = self._strike_producer(producer)
            for worker in self.workers:
                worker.end() if worker.alive and not worker.failpoint else worker.kill()
            self.workers = [self._calm_worker() for _ in range(self.plan.workers)]
            self._drain()
            for worker in self.workers:
                assert worker.end() == 0, "a worker that was asked to end did not end cleanly"
        finally:
            for child in (*self.workers, producer):
                child.kill()
        try:
            found = self.books.audit(self.log, self.plan.tasks)
            self._audit_calls()
        finally:
            self.books.close()
        self.figures.seconds = round(time.monotonic() - started, 1)
        self.figures.kills = sum(self.kills.values())
        self.figures.kills_at = dict(sorted(self.kills.items()))
        for name, value in asdict(found).items():
            setattr(self.figures, name, value)
        return self.figures

    def _audit_calls(self) -> None:
        answered, seen, figures = self.books.calls_answered(), self.provider.seen(), self.figures
        figures.calls, figures.requests, figures.most_seen = len(answered), seen.requests, seen.most
        figures.limits_passed = seen.passed
        figures.answered_unasked = len(answered - self.provider.prompts())
        for error in self.books.why_failed():
            print(error, file=sys.stderr)

    def _migrate_under_fire(self) -> None:
        """The first two processes die in the middle of making the database."""
        for _ in range(2):
            child = self._producer("during_migration", 1.0)
            child.process.wait(30)
            child.kill()
            self.kills["during_migration"] += child.process.returncode == -9

    def _open_gate(self) -> None:
        """As many batches as the share of kills done, so that there is work until the last of them."""
        share = sum(self.kills.values()) / self.plan.kills
        wanted = min(self.batches, int(share * self.batches) + 2)
        with self.gate.open("ab") as gate:
            gate.write(b"." * (wanted - gate.tell()))

    def _options(self) -> dict[str, object]:
        return {
            "database": self.database,
            "log": str(self.log),
            "plan": str(self.plan_file),
            "lease": self.plan.lease,
            "leader_ttl": self.plan.leader_ttl,
            "gate": str(self.gate),
            "window": self.plan.limits.window,
        }

    def _worker(self) -> Child:
        """A worker that will die at the next failpoint of the list, or, every other time, at random."""
        failpoint = self._next_failpoint() if self.rng.random() < 0.5 else ""
        return Child("worker", self._options(), failpoint, WORKER_FAILPOINTS.get(failpoint, 0.0))

    def _calm_worker(self) -> Child:
        return Child("worker", self._options())

    def _next_failpoint(self) -> str:
        try:
            return next(self._failpoints)
        except StopIteration:
            names = list(WORKER_FAILPOINTS)
            self.rng.shuffle(names)
            self._failpoints = iter(names)
            return next(self._failpoints)

    def _producer(self, failpoint: str = "", probability: float = 0.0) -> Child:
        return Child("producer", self._options(), failpoint, probability)

    def _strike(self, worker: Child) -> Child:
        """Count a worker that died at its failpoint; kill one that was due; start the next in its place."""
        if not worker.alive:
            if worker.process.returncode != -9:
                raise AssertionError(f"a worker ended by itself with exit code {worker.process.returncode}")
            worker.kill()
            self.kills[worker.failpoint or "random"] += 1
            return self._worker()
        tired = time.monotonic() - worker.ready_at > self.plan.longest_life
        if "ready" in worker.words and (tired or (not worker.failpoint and self.rng.random() < 0.1)):
            worker.kill()
            self.kills["random"] += 1
            return self._worker()
        return worker

    def _strike_producer(self, producer: Child) -> Child:
        if "published" in producer.words:
            return producer
        if producer.alive:
            if "ready" not in producer.words or self.rng.random() > PRODUCER_DEATHS:
                return producer
            producer.kill()
            producer.failpoint = ""
        else:
            producer.kill()
        if producer.process.returncode != -9:
            raise AssertionError(f"the producer ended by itself with exit code {producer.process.returncode}")
        self.kills[f"producer: {producer.failpoint or 'random'}"] += 1
        failpoint = self.rng.choice([*PRODUCER_FAILPOINTS, ""])
        return self._producer(failpoint, PRODUCER_FAILPOINTS.get(failpoint, 0.0))

    def _watch_leases(self) -> None:
        late, now = self.books.overdue(), time.monotonic()
        if not any(worker.at_work for worker in self.workers):
            self._deserted += now - self._looked_at
        self._deserted, self._looked_at = min(self._deserted, late), now
        neglected = late - self._deserted
        figures = self.figures
        figures.longest_overdue_seconds = round(max(figures.longest_overdue_seconds, late), 2)
        figures.longest_neglected_seconds = round(max(figures.longest_neglected_seconds, neglected), 2)
        # A lease that is over for longer than an upkeep round, or a new leader's first one, is nobody's business any more.
        figures.stuck = max(figures.stuck, int(neglected > self.plan.leader_ttl + SLACK))

    def _drain(self) -> None:
        """Let calm workers finish; give up when nothing moves for `patience` seconds."""
        left, moved_at = self.books.unfinished(), time.monotonic()
        while left:
            time.sleep(0.05)
            self._watch_leases()
            now_left = self.books.unfinished()
            if now_left < left:
                left, moved_at = now_left, time.monotonic()
            elif time.monotonic() - moved_at > self.plan.patience:
                return


def make_plan(plan: Plan, rng: random.Random) -> list[list[dict[str, object]]]:
    """Tasks in batches; each may depend on up to three of the 200 before it."""
    tasks: list[dict[str, object]] = []
    for step in range(plan.tasks):
        parents = rng.sample(range(max(0, step - 200), step), min(step, rng.choice([0, 0, 1, 2, 3])))
        name, payload = make_work(plan, rng, step)
        tasks.append(
            {
                "step": step,
                "name": name,
                "payload": payload,
                "priority": rng.choice([1, 2, 2, 3, 4]),
                "parents": parents,
            }
        )
    batches = []
    while tasks:
        size = rng.randint(1, 40)
        batches.append(tasks[:size])
        tasks = tasks[size:]
    return batches


def make_work(plan: Plan, rng: random.Random, step: int) -> tuple[str, dict[str, object]]:
    """A task's name and payload."""
    if rng.random() < plan.calls:
        wants = rng.choice([{}, {"when_limited": "wait"}, {"endpoint": "first"}, {"endpoint": "few"}])
        return "ai_call", {"prompt": f"step {step}", **wants}
    drawn = rng.random()
    name = "isolated_step" if drawn < 0.01 else "sync_step" if drawn < 0.3 else "async_step"
    return name, {"step": step, "seconds": round(rng.random() * plan.longest_task, 4)}


def run(plan: Plan) -> Figures:
    """Run `plan` in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="heablcoin-chaos-") as directory:
        return Chaos(plan, Path(directory)).run()
