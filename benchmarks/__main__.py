"""`make bench`, or `python -m benchmarks [SUITE ...] [--runs N] [--quick] [--only WORD ...]`."""

import argparse
from collections.abc import Callable

from benchmarks.measure import RESULTS, Table, over_runs, put_into_docs, save


def queue(options: argparse.Namespace) -> list[Table]:
    from benchmarks.queue import bench

    return bench.main(bench.QUICK if options.quick else bench.FULL_SIZE, 1 if options.quick else 3, options.only)


def pool(options: argparse.Namespace) -> list[Table]:
    from benchmarks.pool import bench

    return bench.main(quick=options.quick, only=options.only)


def server(options: argparse.Namespace) -> list[Table]:
    from benchmarks.server import bench

    return bench.main(quick=options.quick)


def limits(options: argparse.Namespace) -> list[Table]:
    from benchmarks.limits import bench

    return bench.main(quick=options.quick, only=options.only)


RUNS = 5
"""What is published is the median of so many, with its range."""
SUITES: dict[str, Callable[[argparse.Namespace], list[Table]]] = {
    "queue": queue,
    "pool": pool,
    "limits": limits,
    "server": server,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed, as ratios to a floor taken in the same run."
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes and one run: a minute instead of an hour")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="WORD", help="parts of a suite, such as latency or faults"
    )
    parser.add_argument("--runs", type=int, default=0, metavar="N", help="runs of each suite: 5, or 1 with --quick")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are: {', '.join(SUITES)}")
    runs = options.runs or (1 if options.quick else RUNS)
    taken: dict[str, list[list[Table]]] = {name: [] for name in options.suites or SUITES}
    for number in range(runs):  # suites take turns, so that the runs of one are spread over the whole time
        for name, tables in taken.items():
            print(f"\n{name}: run {number + 1} of {runs}")
            tables.append(SUITES[name](options))
    for name, tables in taken.items():
        merged = over_runs(tables)
        print(*merged, sep="\n")
        save(name, merged)
        if options.write:
            put_into_docs(name, merged, runs)
    print(f"\nKept in {RESULTS.name}/, one file a suite.")


if __name__ == "__main__":
    main()
