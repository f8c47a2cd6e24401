"""The queue beside the floor: every figure from the same run, the two taking turns.

Rates come from the tasks' own start and end records, so they mean the same for both.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.measure import Noise, Table, median, percentile, rate, ratio, save, timed
from benchmarks.queue import records
from benchmarks.queue.floor import Floor
from benchmarks.queue.ours import Ours
from benchmarks.queue.worker import QUEUES

SEED = 20261123
WAIT = 120.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    singles: int
    batch: int
    work: int
    latencies: int
    backlog: int
    chain: int
    fan: int
    layer: int


FULL_SIZE = Size(
    singles=3000, batch=20_000, work=20_000, latencies=60, backlog=100_000, chain=1000, fan=1000, layer=1000
)
QUICK = Size(singles=500, batch=5000, work=4000, latencies=20, backlog=20_000, chain=200, fan=300, layer=100)


@contextmanager
def fresh(queue: str, synchronous: str = "FULL") -> Iterator[tuple[Floor | Ours, Path]]:
    """A new, empty queue, and the folder its workers write their records to."""
    folder = Path(tempfile.mkdtemp(prefix="bench-queue-"))
    records.start_in(folder)
    opened = QUEUES[queue](folder / "queue.db", synchronous)
    try:
        yield opened, folder
    finally:
        opened.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def worker(
    queue: str, folder: Path, kind: str = "async", synchronous: str = "FULL"
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.queue.worker", queue, str(folder / "queue.db"), synchronous, kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(30)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = WAIT) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.005)


def fill(opened: Floor | Ours, tasks: int, *, mixed: bool = False) -> None:
    draw = random.Random(SEED)
    for start in range(0, tasks, 1000):
        indices = range(start, min(tasks, start + 1000))
        opened.publish_many(indices, [draw.randint(1, 4) for _ in indices] if mixed else None)


def enqueue_one(queue: str, size: Size) -> dict[str, float]:
    with fresh(queue) as (opened, _):
        times = [timed(partial(opened.publish, index)) for index in range(size.singles)]
    return {"per_s": len(times) / sum(times), "p50_ms": median(times) * 1e3, "p99_ms": percentile(times, 0.99) * 1e3}


def enqueue_batch(queue: str, size: Size) -> dict[str, float]:
    with fresh(queue) as (opened, _):
        seconds = timed(lambda: fill(opened, size.batch))
    return {"per_s": size.batch / seconds}


def work(queue: str, size: Size, kind: str = "async", workers: int = 1) -> dict[str, float]:
    with fresh(queue) as (opened, folder):
        fill(opened, size.work)
        running = [worker(queue, folder, kind) for _ in range(workers)]
        processes = [each.__enter__() for each in running]
        try:
            wait_for(lambda: records.count(folder) >= size.work, f"running {size.work} tasks")
            wait_for(lambda: opened.unfinished() == 0, "finishing them")
        finally:
            for each in running:
                each.__exit__(None, None, None)
        runs = records.read(folder)
        repeated = len(runs) - len({run.index for run in runs})
        if any(process.returncode for process in processes) or repeated:
            raise RuntimeError(
                f"{queue}: {repeated} tasks ran twice, exits {[process.returncode for process in processes]}"
            )
        # The rate while all of them were at work: a process that starts later must not count as slow.
        together = max(min(run.started for run in runs if run.pid == pid) for pid in {run.pid for run in runs})
        return {"per_s": records.per_second([run for run in runs if run.started >= together])}


def latency(queue: str, size: Size) -> dict[str, float]:
    """Publishing here -> the task starts in an idle worker in another process."""
    draw = random.Random(SEED)
    with fresh(queue) as (opened, folder), worker(queue, folder) as process:
        opened.publish(10**6)
        wait_for(lambda: records.count(folder) >= 1, "the first task")
        time.sleep(1.0)
        before = _cpu_of(process.pid)
        time.sleep(2.0)
        idle = (_cpu_of(process.pid) - before) / 2.0
        sent = {}
        for index in range(size.latencies):
            time.sleep(draw.uniform(0.02, 0.2))
            sent[index] = time.monotonic_ns()
            opened.publish(index)
        wait_for(lambda: records.count(folder) > size.latencies, "the last task")
        waits = [(run.started - sent[run.index]) / 1e6 for run in records.read(folder) if run.index in sent]
    return {"p50_ms": median(waits), "p99_ms": percentile(waits, 0.99), "idle_percent": idle * 100}


def latency_here(queue: str, size: Size) -> dict[str, float]:
    """The same with the worker in the publishing process."""
    import threading

    draw = random.Random(SEED)
    with fresh(queue) as (opened, folder):
        stopped = threading.Event()
        thread = threading.Thread(target=opened.work, args=(10, "async", stopped))
        thread.start()
        try:
            opened.publish(10**6)
            wait_for(lambda: records.count(folder) >= 1, "the first task")
            sent = {}
            for index in range(size.latencies):
                time.sleep(draw.uniform(0.02, 0.2))
                sent[index] = time.monotonic_ns()
                opened.publish(index)
            wait_for(lambda: records.count(folder) > size.latencies, "the last task")
        finally:
            stopped.set()
            thread.join(30)
        waits = [(run.started - sent[run.index]) / 1e6 for run in records.read(folder) if run.index in sent]
    return {"p50_ms": median(waits), "p99_ms": percentile(waits, 0.99)}


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def backlog(queue: str, size: Size) -> dict[str, float]:
    """Each operation on an empty queue and with many tasks waiting: median milliseconds, and their ratio."""
    out: dict[str, float] = {}
    with fresh(queue) as (opened, folder):
        operations: dict[str, Callable[[int], object]] = {
            "enqueue": lambda index: opened.publish(10**6 + index),
            "list": lambda _: opened.list_top(),
            "stats": lambda _: opened.stats(),
        }

        def take(label: str) -> None:
            for name, operation in operations.items():
                out[f"{name} {label}"] = median(timed(partial(operation, index)) for index in range(100)) * 1e3

        take("empty")
        fill(opened, size.backlog, mixed=True)
        take("full")
        with worker(queue, folder):
            wait_for(lambda: records.count(folder) >= min(5000, size.backlog // 4), "working on the backlog")
        out["work per_s"] = records.per_second(records.read(folder))
    for name in operations:
        out[f"{name} ratio"] = out[f"{name} full"] / out[f"{name} empty"]
    return out


def graph_parents(shape: str, size: Size) -> list[list[int]]:
    draw = random.Random(SEED)
    if shape == "chain":
        return [[index - 1] if index else [] for index in range(size.chain)]
    if shape == "fan":
        return [[], *([0] for _ in range(size.fan)), list(range(1, size.fan + 1))]
    layer = size.layer
    return [
        sorted(draw.sample(range((level - 1) * layer, level * layer), 3)) if level else []
        for level in range(10)
        for _ in range(layer)
    ]


def graph(queue: str, shape: str, size: Size) -> dict[str, float]:
    parents = graph_parents(shape, size)
    with fresh(queue) as (opened, folder), worker(queue, folder):
        opened.publish(10**6)
        wait_for(lambda: records.count(folder) >= 1, "the first task")
        time.sleep(1.2)  # A process that has just started is told of new work after a second at most.
        began = time.monotonic_ns()
        opened.publish_graph(parents)
        published = (time.monotonic_ns() - began) / 1e9
        wait_for(lambda: records.count(folder) > len(parents), f"the {shape}")
        runs = {run.index: run for run in records.read(folder) if run.index < 10**6}
    early = sum(runs[index].started < runs[parent].ended for index, needed in enumerate(parents) for parent in needed)
    if early or len(runs) != len(parents):
        raise RuntimeError(f"{queue}: {early} nodes of the {shape} started before a parent ended, {len(runs)} ran")
    total = (max(run.ended for run in runs.values()) - began) / 1e9
    return {"per_s": len(parents) / total, "publish_s": published}


def compare(case: Callable[[str], dict[str, float]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of the floor's and of our figures over `rounds`, the two taking turns."""
    seen: dict[str, list[dict[str, float]]] = {"floor": [], "ours": []}
    for turn in range(rounds):
        for queue in ("floor", "ours") if turn % 2 == 0 else ("ours", "floor"):
            seen[queue].append(case(queue))
    floor, ours = (
        {key: median(each[key] for each in rows) for key in rows[0]} for rows in (seen["floor"], seen["ours"])
    )
    return floor, ours


def main(size: Size, rounds: int, only: Sequence[str] = ()) -> list[Table]:
    noise = Noise()
    rates = Table("Rates (tasks a second; synchronous=FULL)", ("what", "raw SQLite", "heablcoin-cloud", "ratio"))
    cases: dict[str, Callable[[str], dict[str, float]]] = {
        "enqueue one": lambda queue: enqueue_one(queue, size),
        "enqueue batches of 1,000": lambda queue: enqueue_batch(queue, size),
        "claim+run+complete, async": lambda queue: work(queue, size),
        "claim+run+complete, threads": lambda queue: work(queue, size, "thread"),
        "two worker processes": lambda queue: work(queue, size, workers=2),
        "chain": lambda queue: graph(queue, "chain", size),
        "fan 1-n-1": lambda queue: graph(queue, "fan", size),
        "layered, 10 levels, 3 parents": lambda queue: graph(queue, "layered", size),
    }
    for name, case in cases.items():
        if only and not any(word in name for word in only):
            continue
        floor, ours = compare(case, rounds)
        extra = f" (p50 {ours['p50_ms']:.2f} ms, p99 {ours['p99_ms']:.2f} ms)" if "p50_ms" in ours else ""
        rates.add(name, rate(floor["per_s"]), rate(ours["per_s"]) + extra, ratio(ours["per_s"], floor["per_s"]))
    tables = [rates]
    if not only or "latency" in only:
        waits = Table(
            "Idle to start (ms)",
            ("where", "raw SQLite p50 / p99", "heablcoin-cloud p50 / p99", "idle CPU, % of a core"),
        )
        for name, case in (("same process", latency_here), ("other process", latency)):
            floor, ours = (case(queue, size) for queue in ("floor", "ours"))
            pair = [f"{each['p50_ms']:.2f} / {each['p99_ms']:.2f}" for each in (floor, ours)]
            waits.add(name, *pair, f"{ours['idle_percent']:.2f}" if "idle_percent" in ours else "-")
        tables.append(waits)
    if not only or "backlog" in only:
        piled = Table(
            f"With {size.backlog:,} waiting (median ms; times the figure on an empty queue)",
            ("what", "raw SQLite", "heablcoin-cloud"),
        )
        floor, ours = (backlog(queue, size) for queue in ("floor", "ours"))
        for what in ("enqueue", "list", "stats"):
            piled.add(what, *(f"{each[f'{what} full']:.3f} ({each[f'{what} ratio']:.2f}x)" for each in (floor, ours)))
        piled.add("work a second", rate(floor["work per_s"]), rate(ours["work per_s"]))
        tables.append(piled)
    print(f"\nOther processes used {noise.share():.2f} of a core.")
    save("queue", tables)
    return tables
