"""The pool beside the bare HTTP clients it runs on, and under faults planned to the second."""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Noise, Table, median, percentile, rate, ratio, save
from benchmarks.pool.callers import NO_LIMIT, BareAiohttp, BareHttpx2, Caller, Pooled, Target
from benchmarks.pool.mock import Mock, mock

ENDPOINTS = ("alpha", "beta", "gamma")
STRATEGIES = ("priority", "least_latency", "round_robin", "random")

DEAD_FROM, DEAD_UNTIL = 8.0, 20.0
QUICK_20 = {"from": 0, "delay": 0.02}
SCHEDULES: dict[str, dict[str, Any]] = {
    "outage": {
        "alpha": {"phases": [QUICK_20, {"from": DEAD_FROM, "error_rate": 1.0}, {"from": DEAD_UNTIL, "delay": 0.02}]},
        "beta": {"phases": [{"from": 0, "delay": 0.02, "slow_rate": 0.3, "slow_delay": 2.0}]},
        "gamma": {"phases": [QUICK_20], "limit": [120, 60]},
    },
    "flaky": {name: {"phases": [{"from": 0, "delay": 0.02, "error_rate": 0.05}]} for name in ENDPOINTS},
    "throttle": {
        "alpha": {"phases": [QUICK_20], "limit": [30, 5]},
        "beta": {"phases": [QUICK_20], "limit": [30, 5]},
        "gamma": {"phases": [{"from": 0, "delay": 0.2}]},
    },
    "badrequest": {
        name: {"phases": [{"from": 0, "error_rate": 1.0, "status": 400}, {"from": 5, "delay": 0.02}]}
        for name in ENDPOINTS
    },
}
"""outage: the preferred endpoint answers 500 for 12 s, the second is slow three times in ten, the third allows 120 a minute.
flaky: each fails 5% at random. throttle: two allow 30 in 5 s and say so only by 429. badrequest: 400 for 5 s, the caller's own
fault, then answers."""


async def overhead(rounds: int, calls: int, seconds: float) -> list[Table]:
    """One call after another, and 50 callers at once, against a server that answers at once."""
    with mock() as server:
        targets = [Target(name, server.url(name), priority) for priority, name in enumerate(ENDPOINTS, 1)]
        pairs: list[tuple[Caller, Caller]] = [
            (BareHttpx2(targets), Pooled(targets, "httpx2")),
            (BareAiohttp(targets), Pooled(targets, "aiohttp")),
        ]
        callers = [caller for pair in pairs for caller in pair]
        took: dict[str, list[float]] = {caller.name: [] for caller in callers}
        rates: dict[str, list[float]] = {caller.name: [] for caller in callers}
        for caller in callers:
            await one_after_another(caller, 30)
        for turn in range(rounds):
            for caller in rotated(callers, turn):
                took[caller.name].append(median(await one_after_another(caller, calls)))
        for turn in range(rounds):
            for caller in rotated(callers, turn):
                rates[caller.name].append(await at_once(caller, 50, seconds))
        for caller in callers:
            await caller.close()
    table = Table(
        "A call to a server without delay",
        ("caller", "one call, us", "over its floor", "calls a second, 50 callers", "share of its floor"),
    )
    for floor, ours in pairs:
        table.add(floor.name, f"{median(took[floor.name]) * 1e6:.0f}", "", rate(median(rates[floor.name])), "")
        over = median(b - a for a, b in zip(took[floor.name], took[ours.name], strict=True))
        table.add(
            ours.name,
            f"{median(took[ours.name]) * 1e6:.0f}",
            f"{over * 1e6:+.0f} us ({ratio(median(took[ours.name]), median(took[floor.name]))})",
            rate(median(rates[ours.name])),
            ratio(median(rates[ours.name]), median(rates[floor.name])),
        )
    return [table]


def rotated(callers: Sequence[Caller], turn: int) -> list[Caller]:
    at = turn % len(callers)
    return [*callers[at:], *callers[:at]]


async def one_after_another(caller: Caller, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await caller.call()
        times.append(time.perf_counter() - began)
    return times


async def at_once(caller: Caller, callers: int, seconds: float) -> float:
    """Calls ended a second with this many callers, each calling again as soon as it was answered."""
    began = time.perf_counter()
    ends = began + seconds

    async def work() -> int:
        done = 0
        while time.perf_counter() < ends:
            await caller.call()
            done += 1
        return done

    done = sum(await asyncio.gather(*(work() for _ in range(callers))))
    return done / (time.perf_counter() - began)


async def decision(sizes: Sequence[int], seconds: float) -> list[Table]:
    """Choosing an endpoint, its limit, its health and its statistics: a whole call whose function returns at once."""
    from core.cloud.api_manager import ApiEndpoint, ApiManager

    table = Table("Deciding, nothing sent (us a call)", ("endpoints", *STRATEGIES, "priority, from a coroutine"))
    for size in sizes:
        manager = ApiManager()
        for index in range(size):
            url = f"https://api{index}.example/v1"
            manager.add_endpoint(
                ApiEndpoint(f"e{index}", url, "sk", "m", 1 + index % 3, max_requests_per_minute=900_000)
            )
        cells = []
        for strategy in STRATEGIES:
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                manager.call_with_retry(lambda _: None, strategy=strategy)
                done += 1
            cells.append(f"{(time.perf_counter() - began) / done * 1e6:.1f}")

        async def nothing(_: ApiEndpoint) -> None:
            return None

        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            await manager.acall_with_retry(nothing)
            done += 1
        table.add(size, *cells, f"{(time.perf_counter() - began) / done * 1e6:.1f}")
        manager.close()
    return [table]


async def faults(schedules: Sequence[str], calls_per_second: float, seconds: float) -> list[Table]:
    """Calls start on time whether or not earlier ones have ended, so waiting shows as latency."""
    tables = []
    columns = ("strategy", "success", "p50 / p95 / p99 ms", "500s", "429s", "400s", "sent a call", "back after s")
    with mock() as server:
        for schedule in schedules:
            table = Table(f"Faults: {schedule}", columns)
            cases: list[tuple[str, float | None]] = [("priority", None), ("least_latency", None)]
            if schedule == "outage":
                cases.append(("priority", 0.25))
            for strategy, hedge_after in cases:
                limits = {"gamma": 120} if schedule == "outage" else {}
                targets = [
                    Target(name, server.url(name), priority, limits.get(name, NO_LIMIT))
                    for priority, name in enumerate(ENDPOINTS, 1)
                ]
                caller = Pooled(targets, strategy=strategy, hedge_after=hedge_after)
                row = await fault_row(caller, server, schedule, calls_per_second, seconds)
                await caller.close()
                table.add(strategy + (f", hedge after {hedge_after} s" if hedge_after else ""), *row)
            tables.append(table)
    return tables


async def fault_row(caller: Caller, server: Mock, schedule: str, calls_per_second: float, seconds: float) -> list[str]:
    server.plan(SCHEDULES[schedule])
    answerable_from = 5.05 if schedule == "badrequest" else 0.0
    began = time.perf_counter()
    ended: list[tuple[float, bool, float]] = []

    async def one(at: float) -> None:
        try:
            await caller.call()
            good = True
        except Exception:
            good = False
        ended.append((at, good, time.perf_counter() - began - at))

    tasks = []
    for index in range(int(calls_per_second * seconds)):
        at = index / calls_per_second
        await asyncio.sleep(max(0.0, at - (time.perf_counter() - began)))
        tasks.append(asyncio.create_task(one(at)))
    await asyncio.gather(*tasks)
    log = server.log()
    fair = [good for at, good, _ in ended if at >= answerable_from]
    waits = [took * 1e3 for _, _, took in ended]
    counts = {status: sum(each == status for rows in log.values() for _, each in rows) for status in (500, 429, 400)}
    back = [at - DEAD_UNTIL for at, status in log.get("alpha", []) if at >= DEAD_UNTIL and status == 200]
    return [
        f"{statistics.fmean(fair):.1%}",
        " / ".join(f"{percentile(waits, share):.0f}" for share in (0.5, 0.95, 0.99)),
        *(str(counts[status]) for status in (500, 429, 400)),
        f"{sum(map(len, log.values())) / len(ended):.2f}",
        (f"{min(back):.1f}" if back else "never") if schedule == "outage" else "",
    ]


def limit(seconds: float, processes: int = 2, callers: int = 50) -> list[Table]:
    """60 requests a minute, asked for without pause by 100 callers in two processes on one database."""
    table = Table(
        "Rate limit: 60 a minute",
        ("processes x callers", "seconds", "reached the endpoint in any 60 s", "over the limit"),
    )
    with mock() as server, tempfile.TemporaryDirectory() as folder:
        server.plan({"only": {"phases": [{"from": 0, "delay": 0.02}]}})
        command = [
            sys.executable,
            "-m",
            "benchmarks.pool.limited",
            str(Path(folder) / "pool.db"),
            server.url("only"),
            str(seconds),
            str(callers),
        ]
        running = [subprocess.Popen(command) for _ in range(processes)]
        for process in running:
            process.wait(seconds + 60)
        arrivals = sorted(at for at, _ in server.log().get("only", []))
        most = max((sum(at <= each < at + 60 for each in arrivals) for at in arrivals), default=0)
    table.add(f"{processes} x {callers}", f"{seconds:g}", most, max(0, most - 60))
    return [table]


def imports() -> list[Table]:
    """A fresh interpreter each: milliseconds and resident memory after the import."""
    probe = (
        "import json, sys, time; sys.path.insert(0, '.'); from benchmarks.measure import resident_mb; before = resident_mb();"
        "began = time.perf_counter(); exec(sys.argv[1]);"
        "print(json.dumps([(time.perf_counter() - began) * 1e3, resident_mb(), len(sys.modules)]))"
    )
    table = Table("Import (fresh interpreter, median of 5)", ("what", "ms", "resident MB", "modules"))
    for name, statement in {
        "nothing": "pass",
        "httpx2": "import httpx2",
        "aiohttp": "import aiohttp",
        "core.cloud.api_manager": "import core.cloud.api_manager",
        "core.runtime (queue and pool)": "import core.runtime",
    }.items():
        rows = [json.loads(subprocess.check_output([sys.executable, "-c", probe, statement])) for _ in range(5)]
        table.add(name, *(f"{median(row[at] for row in rows):.0f}" for at in range(3)))
    return [table]


def main(*, quick: bool, only: Sequence[str] = ()) -> list[Table]:
    noise = Noise()
    parts: dict[str, Callable[[], list[Table]]] = {
        "overhead": lambda: asyncio.run(overhead(3 if quick else 7, 100 if quick else 200, 0.5 if quick else 1.0)),
        "decision": lambda: asyncio.run(decision((3, 100, 1000), 0.2 if quick else 1.0)),
        "faults": lambda: asyncio.run(
            faults(("throttle", "badrequest") if quick else tuple(SCHEDULES), 20, 10 if quick else 30)
        ),
        "limit": lambda: limit(8 if quick else 70),
        "imports": imports,
    }
    tables: list[Table] = []
    for name, part in parts.items():
        if not only or name in only:
            print(f"\npool: {name}")
            tables += part()
    print(f"\nOther processes used {noise.share():.2f} of a core.")
    save("pool", tables)
    return tables
