"""Where the pool's limits meet the queue: what waits for a limit costs nothing and holds nothing up.

The server is a mock in a process of its own that notes each arrival; starts are noted by the handlers themselves.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.limits.handlers import UNLIMITED, register
from benchmarks.limits.place import Place, most_in, place, wait_for
from benchmarks.limits.worker import Used
from benchmarks.measure import Noise, Table, median, percentile, save
from benchmarks.queue import records
from benchmarks.server.bench import INITIALIZE, Raw
from core.cloud.pool.rate_limit import MARGIN, MINUTE, WINDOW
from core.json_types import JsonObject

SEED = 20261125
EDGE = 0.2
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; minutes are shorter by the scales, the margin of the windows is not."""

    scale: float
    slow_scale: float
    """For the case that takes seven minutes."""
    fast_scale: float
    """For the one of 6,000 a minute."""
    waiting: int
    seconds: float
    latencies: int
    windows: int


FULL_SIZE = Size(1.0, 4.0, 4.0, waiting=100_000, seconds=30.0, latencies=100, windows=2)
QUICK = Size(10.0, 20.0, 20.0, waiting=20_000, seconds=10.0, latencies=40, windows=2)


def starts(at: Place, numbers: Sequence[int], publish: Callable[[int], object], longest: float = 0.2) -> list[float]:
    """Milliseconds between the call that publishes a task and the start of its handler, the tasks at random moments."""
    draw = random.Random(SEED)
    sent = {}
    for number in numbers:
        time.sleep(draw.uniform(0.02, longest))
        sent[number] = time.monotonic_ns()
        publish(number)
    known = set(numbers)
    wait_for(lambda: len({run.index for run in records.read(at.folder)} & known) == len(known), "the last task", 90.0)
    began = {run.index: run.started for run in records.read(at.folder)}
    return [(began[number] - sent[number]) / 1e6 for number in numbers]


def from_here(at: Place, size: Size) -> list[float]:
    return starts(
        at, range(size.latencies), lambda number: at.here.publisher.publish(UNLIMITED, {"i": number}, priority=4)
    )


def shown(waits: Sequence[float]) -> str:
    return f"{median(waits):.2f} / {percentile(waits, 0.99):.2f}"


@contextmanager
def server_at(at: Place) -> Iterator[Raw]:
    """The MCP server on stdio, on the same database."""
    environment = {
        **os.environ,
        "HEABLCOIN_CLOUD_DATABASE": at.options.database,
        "HEABLCOIN_CLOUD_ALLOW_HOSTS": "127.0.0.1",
        "HEABLCOIN_CLOUD_KEYS": "process",
        "HEABLCOIN_CLOUD_HANDLERS": "benchmarks.limits.handlers",
        "HEABLCOIN_CLOUD_LOG_LEVEL": "ERROR",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "server"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        raw = Raw(process)
        raw.request("initialize", INITIALIZE)
        raw.notify("notifications/initialized")
        yield raw
    finally:
        process.communicate(timeout=30)


def call(raw: Raw, tool: str, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = raw.request("tools/call", {"name": tool, "arguments": arguments})["result"]
    if answer.get("isError"):
        raise RuntimeError(f"{tool}: {answer}")
    return answer


def urgent(size: Size) -> Table:
    """60 calls at 10 a minute, and URGENT tasks beside them."""
    table = Table(
        "An URGENT task beside 60 ai_calls at 10 a minute (ms from publishing it to its start)",
        ("where", "nothing else waits, p50 / p99", "50 calls wait, p50 / p99", "before"),
    )
    with place(concurrency=10) as at:
        register(at.here.publisher)
        at.here.start()
        at.add(per_minute=10)
        alone = starts(at, range(50), lambda number: at.here.publisher.publish(UNLIMITED, {"i": number}, priority=4))
        at.ask(60)
        wait_for(lambda: len(at.arrivals()) >= 10, "the first ten calls", 30.0)
        beside = starts(
            at, range(50, 100), lambda number: at.here.publisher.publish(UNLIMITED, {"i": number}, priority=4)
        )
    table.add("script, in its own process", shown(alone), shown(beside), "49 s")
    with place() as at, server_at(at) as raw:
        at.add(per_minute=10)

        def publish(number: int) -> None:
            call(raw, "publish_enhanced_task", name=UNLIMITED, payload=json.dumps({"i": number}), priority=4)

        alone = starts(at, range(50), publish)
        at.ask(60)
        wait_for(lambda: len(at.arrivals()) >= 10, "the first ten calls", 30.0)
        beside = starts(at, range(50, 100), publish)
    table.add("MCP server on stdio", shown(alone), shown(beside), "49 s")
    return table


def scheduled(size: Size) -> Table:
    """A server and a worker, 120 calls at 60 a minute, and a schedule."""
    table = Table(
        "A schedule of every 5 s beside 120 ai_calls at 60 a minute, MCP server and a worker",
        ("runs due", "published", "begun", "latest publication, s", "latest start, s", "before"),
    )
    with place() as at, server_at(at) as raw, at.workers():
        at.add(per_minute=60)
        at.ask(120)
        wait_for(lambda: len(at.arrivals()) >= 60, "the first 60 calls", 60.0)
        call(raw, "schedule_task", name="tick", task=UNLIMITED, payload=json.dumps({"i": 0}), every=5)
        first = time.time() + 5.0
        time.sleep(size.seconds + 2.0)
        due = [first + 5.0 * number for number in range(int(size.seconds // 5))]
        tasks = at.here.publisher.list_tasks(name=UNLIMITED, limit=100)
        published = sorted(task.created_at.timestamp() for task in tasks)[: len(due)]
        ahead = time.time() - time.monotonic()
        begun = sorted(run.started / 1e9 + ahead for run in records.read(at.folder))[: len(due)]
    late = [
        max((was - should for was, should in zip(moments, due, strict=False)), default=float("nan"))
        for moments in (published, begun)
    ]
    table.add(
        len(due),
        len(published),
        len(begun),
        *(f"{max(0.0, each):.2f}" for each in late),
        "12 published in 60 s, none begun",
    )
    return table


@dataclass(frozen=True, slots=True)
class Case:
    """Calls that have to wait for a limit."""

    what: str
    calls: int
    per_minute: int
    scale: float
    before: str
    endpoints: tuple[str, ...] = ("only",)
    payload: JsonObject = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def cases(size: Size) -> list[Case]:
    timeout = 10.0 / size.scale
    return [
        Case(
            f"timeout={timeout:g}",
            20,
            5,
            size.scale,
            "11 failed for good",
            settings={"timeout": timeout},
        ),
        Case("max_retries=0", 8, 1, size.slow_scale, "failed after 61 s", settings={"max_retries": 0}),
        Case("max_retries=3", 8, 1, size.slow_scale, "a retry lost in 61 s", settings={"max_retries": 3}),
        Case(
            'when_limited="wait", a second endpoint',
            10,
            5,
            size.scale,
            "5 by each",
            ("first", "second"),
            {"when_limited": "wait"},
        ),
    ]


def waited(case: Case) -> list[str]:
    """A row: how the calls of a case ended."""
    with place(MINUTE / case.scale + MARGIN) as at:
        for priority, name in enumerate(case.endpoints, 1):
            at.add(name, per_minute=case.per_minute, priority=priority)
        tasks = at.ask(case.calls, payload=case.payload, **case.settings)
        with at.workers():
            wait_for(
                lambda: not at.unfinished(), "the end of the calls", at.window * (case.calls / case.per_minute) + 60
            )
        ended = at.found(tasks)
        arrivals = {name: at.arrivals(name) for name in case.endpoints}
    statuses = Counter(task.status.value for task in ended)
    minute, moments = MINUTE / case.scale, sorted(at for each in arrivals.values() for at in each)
    return [
        f"{case.calls} at {case.per_minute} in {minute:g} s, {case.what}",
        f"{statuses['completed']} of {case.calls}",
        str(sum(task.attempts - 1 for task in ended)),
        " + ".join(str(len(each)) for each in arrivals.values()),
        " + ".join(str(most_in(each, minute)) for each in arrivals.values()),
        f"{moments[-1] - moments[0]:.0f}",
        case.before,
    ]


def patience(size: Size) -> Table:
    """The cases that spend their time waiting, side by side."""
    table = Table(
        "Calls that wait",
        (
            "what",
            "completed",
            "attempts too many",
            "requests",
            "most in a minute",
            "first to last, s",
            "before",
        ),
    )
    with ThreadPoolExecutor() as pool:
        for row in pool.map(waited, cases(size)):
            table.add(*row)
    return table


def rate(size: Size, processes: int, *, spread: bool) -> tuple[list[str], list[float]]:
    """How much of 6,000 a minute several processes use, with more than enough waiting, and how soon another task starts meanwhile."""
    per_minute = round(6000 / size.fast_scale)
    with place(MINUTE / size.fast_scale + MARGIN, delay=0.0) as at:
        at.add(per_minute=per_minute)
        at.ask(per_minute * (size.windows + 3))
        if spread:
            at.spread(per_minute)
        with at.workers(processes) as workers:
            wait_for(lambda: bool(at.arrivals()), "the first call", 30.0)
            # In the quiet before the second burst, so that no burst lies across the edge of what is measured.
            until = 1.0 if spread else at.arrivals()[0] + at.window - EDGE - at.server.now()
            time.sleep(max(0.0, until))
            before = [each.used() for each in workers]
            began = at.server.now()
            waits = from_here(at, size)
            time.sleep(max(0.0, size.windows * at.window + 0.5 - (at.server.now() - began)))
            used = [each.used().since(then) for each, then in zip(workers, before, strict=True)]
            arrivals = at.arrivals()
    steady = sum(began <= each < began + at.window * size.windows for each in arrivals)
    share = steady / (per_minute * size.windows)
    cpu = sum(each.cpu for each in used) / sum(each.at for each in used)
    writes, vain = totals(used)
    return [
        f"{processes}, slots {'one by one' if spread else 'in bursts'}",
        f"{steady:,}",
        f"{share:.3f}",
        f"{share * MINUTE / WINDOW:.3f}",
        f"{most_in(arrivals, at.minute):,} of {per_minute:,}",
        f"{cpu:.0%}",
        f"{writes / max(1, steady):.2f} ({vain / max(1, writes):.0%})",
    ], waits


def totals(used: Sequence[Used]) -> tuple[int, int]:
    """Write transactions, and those of them that changed nothing."""
    return sum(sum(each.writes.values()) for each in used), sum(sum(each.in_vain.values()) for each in used)


def cost(size: Size) -> Table:
    table = Table(
        f"{size.waiting:,} ai_calls that wait for 60 a minute, a slot each second ({size.seconds:.0f} s)",
        (
            "processes",
            "waiting",
            "calls made",
            "CPU, % of a core each",
            "write transactions a call",
            "more than idle",
            "in vain",
        ),
    )
    for processes in (1, 3):
        idle = 0
        for tasks in (0, size.waiting):
            calls, used = waiting(size, tasks, processes)
            writes, vain = totals(used)
            idle = idle if tasks else writes
            cpu = sum(each.cpu for each in used) / sum(each.at for each in used)
            table.add(
                processes,
                f"{tasks:,}",
                calls,
                f"{cpu:.2%}",
                f"{(writes - idle) / calls:.2f}" if calls else "-",
                writes - idle,
                vain,
            )
    return table


def waiting(size: Size, tasks: int, processes: int) -> tuple[int, list[Used]]:
    """Calls made and what the processes used, while `tasks` wait for 60 a minute and one slot opens a second."""
    with place() as at:
        at.add(per_minute=60)
        at.ask(tasks)
        at.spread(60)
        with at.workers(processes) as workers:
            time.sleep(3.0)
            before, calls = [each.used() for each in workers], len(at.arrivals())
            time.sleep(size.seconds)
            used = [each.used().since(then) for each, then in zip(workers, before, strict=True)]
            return len(at.arrivals()) - calls, used


def idle_to_start(size: Size, processes: int, tasks: int) -> list[float]:
    """How soon an unlimited task starts while `tasks` wait for 60 a minute."""
    with place() as at:
        at.add(per_minute=60)
        at.ask(tasks)
        at.spread(60)
        with at.workers(processes):
            time.sleep(3.0)
            return from_here(at, size)


def speed(size: Size) -> list[Table]:
    rates = Table(
        f"6,000 ai_calls a minute (measured as {6000 / size.fast_scale:,.0f} in {MINUTE / size.fast_scale:g} s), server without delay",
        (
            "processes",
            "calls",
            "share of the slots",
            "of the limit",
            "most in a minute",
            "CPU, % of a core each",
            "write transactions a call (in vain)",
        ),
    )
    begins = Table(
        "Publishing an unlimited task to its start in another process (ms)",
        ("meanwhile", "1 process, p50 / p99", "3 processes, p50 / p99"),
    )
    for words, tasks in (("nothing waits", 0), (f"{size.waiting:,} wait for 60 a minute", size.waiting)):
        begins.add(words, *(shown(idle_to_start(size, processes, tasks)) for processes in (1, 3)))
    waits: dict[int, list[float]] = {}
    for processes, spread in ((1, False), (3, False), (3, True)):
        row, waits[processes] = rate(size, processes, spread=spread)
        rates.add(*row)
    begins.add("6,000 a minute are made", shown(waits[1]), shown(waits[3]))
    return [rates, begins]


PARTS: dict[str, Callable[[Size], Table | list[Table]]] = {
    "urgent": urgent,
    "schedule": scheduled,
    "waits": patience,
    "cost": cost,
    "speed": speed,
}


def main(*, quick: bool, only: Sequence[str] = ()) -> list[Table]:
    size = QUICK if quick else FULL_SIZE
    noise = Noise()
    tables: list[Table] = []
    for name, part in PARTS.items():
        if not only or name in only:
            print(f"\nlimits: {name}")
            made = part(size)
            tables += made if isinstance(made, list) else [made]
    print(f"\nOther processes used {noise.share():.2f} of a core.")
    save("limits", tables)
    return tables
