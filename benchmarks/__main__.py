"""`make bench`, or `python -m benchmarks [SUITE ...] [--quick] [--only WORD ...]`."""

import argparse
from collections.abc import Callable

from benchmarks.measure import RESULTS, Table, put_into_docs


def queue(options: argparse.Namespace) -> list[Table]:
    from benchmarks.queue import bench

    return bench.main(bench.QUICK if options.quick else bench.FULL_SIZE, 1 if options.quick else 3, options.only)


def pool(options: argparse.Namespace) -> list[Table]:
    from benchmarks.pool import bench

    return bench.main(quick=options.quick, only=options.only)


def server(options: argparse.Namespace) -> list[Table]:
    from benchmarks.server import bench

    return bench.main(quick=options.quick)


SUITES: dict[str, Callable[[argparse.Namespace], list[Table]]] = {"queue": queue, "pool": pool, "server": server}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed, as ratios to a floor taken in the same run."
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes: a minute instead of ten")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="WORD", help="parts of a suite, such as latency or faults"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are: {', '.join(SUITES)}")
    for name in options.suites or SUITES:
        tables = SUITES[name](options)
        print(*tables, sep="\n")
        if options.write:
            put_into_docs(name, tables)
    print(f"\nKept in {RESULTS.name}/, one file a suite.")


if __name__ == "__main__":
    main()
