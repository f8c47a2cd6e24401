"""What `@monitor_performance` costs a call, beside a bare call and beside the least any monitor must do.

    python -m benchmarks.bench_monitor [--json]

The floor reads the clock twice, takes a lock and appends: the simplest thing that loses nothing. Read the ratios.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable

from utils.performance_monitor import PerformanceMonitor, monitor_performance

CALLS = 100_000
ROUNDS = 9


def bare(value: int) -> int:
    return value


monitored = monitor_performance(monitor=PerformanceMonitor())(bare)

_lock = threading.Lock()
_durations: list[float] = []


def floor(value: int) -> int:
    started = time.perf_counter()
    try:
        return bare(value)
    finally:
        seconds = time.perf_counter() - started
        with _lock:
            _durations.append(seconds)


def nanoseconds(func: Callable[[int], int]) -> float:
    """Best of several rounds, so that a busy machine disturbs little."""
    best = float("inf")
    for _ in range(ROUNDS):
        _durations.clear()
        started = time.perf_counter()
        for number in range(CALLS):
            func(number)
        best = min(best, time.perf_counter() - started)
    return best / CALLS * 1e9


def in_threads(func: Callable[[int], int], count: int = 8) -> float:
    """Nanoseconds a call when `count` threads call at once; median of three."""
    each = CALLS // count

    def work() -> None:
        for number in range(each):
            func(number)

    rounds = []
    for _ in range(3):
        _durations.clear()
        threads = [threading.Thread(target=work) for _ in range(count)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rounds.append((time.perf_counter() - started) / (each * count) * 1e9)
    return statistics.median(rounds)


def measure() -> dict[str, float]:
    alone = {name: nanoseconds(func) for name, func in (("bare", bare), ("floor", floor), ("monitored", monitored))}
    crowd = {name: in_threads(func) for name, func in (("floor", floor), ("monitored", monitored))}
    return {
        **{f"{name}_ns": round(figure, 1) for name, figure in alone.items()},
        **{f"{name}_8_threads_ns": round(figure, 1) for name, figure in crowd.items()},
        "monitored_over_floor": round(alone["monitored"] / alone["floor"], 2),
        "monitored_over_floor_8_threads": round(crowd["monitored"] / crowd["floor"], 2),
        "added_ns": round(alone["monitored"] - alone["bare"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    figures = measure()
    if parser.parse_args().json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:34} {figure:>10}")


if __name__ == "__main__":
    main()
