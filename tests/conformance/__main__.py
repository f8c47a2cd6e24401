"""Runs the official suite for both revisions against the server and against the server with fixtures; prints a table.

Exits 0 when nothing unexpected failed, 1 when something did, 2 when the suite could not be run at all.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.conformance import baseline, servers, suite
from tests.support import node

REVISIONS = ("2025-11-25", "2026-07-28")
LEAST_NODE = 22
HERE = Path(__file__).resolve().parent

Runs = dict[tuple[str, str], dict[str, suite.Scenario]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument(
        "--server", choices=tuple(servers.MODULES), action="append", help="only this one (default: both)"
    )
    parser.add_argument("--revision", choices=REVISIONS, action="append", help="only this one (default: both)")
    parser.add_argument("--verbose", action="store_true", help="also show warnings and skipped checks")
    options = parser.parse_args()
    kinds, revisions = options.server or list(servers.MODULES), options.revision or list(REVISIONS)
    try:
        node.install(HERE)
        binary = node.find(HERE, LEAST_NODE)
        required = {revision: suite.scored(binary, revision) for revision in revisions}
        runs = asyncio.run(_run_all(binary, kinds, revisions))
    except (node.NodeMissingError, suite.SuiteError, RuntimeError) as error:
        print(f"The conformance suite could not be run: {error}", file=sys.stderr)
        return 2
    excluded = baseline.load()
    _print_table(runs, required)
    if options.verbose:
        _print_remarks(runs)
    _print_excluded(excluded, kinds, revisions)
    return _verdict(runs, excluded)


async def _run_all(binary: str, kinds: list[str], revisions: list[str]) -> Runs:
    runs: Runs = {}
    with tempfile.TemporaryDirectory(prefix="conformance-") as temporary:
        folder = Path(temporary)
        for kind in kinds:
            async with servers.serve(kind, folder) as url:
                for revision in revisions:
                    results = folder / f"{kind}-{revision}"
                    results.mkdir()
                    runs[kind, revision] = await asyncio.to_thread(suite.run, binary, url, revision, results)
    return runs


def _print_table(runs: Runs, required: Mapping[str, frozenset[str]]) -> None:
    names = list(dict.fromkeys(name for scenarios in runs.values() for name in scenarios))
    width = max(map(len, names))
    heads = [f"{kind} {revision}" for kind, revision in runs]
    print(f"{'scenario':<{width}}  {'scored for':<22}  {'  '.join(heads)}")
    for name in names:
        scored = ", ".join(revision for revision in required if name in required[revision]) or "-"
        cells = [
            f"{_cell(scenarios.get(name)):<{len(head)}}" for head, scenarios in zip(heads, runs.values(), strict=True)
        ]
        print(f"{name:<{width}}  {scored:<22}  {'  '.join(cells)}".rstrip())
    for (kind, revision), scenarios in runs.items():
        green = sum(not scenarios[name].failed for name in required[revision])
        checks = sum(scenario.passed for scenario in scenarios.values())
        print(f"{kind} {revision}: {green} of {len(required[revision])} scored scenarios, {checks} checks passed")


def _cell(scenario: suite.Scenario | None) -> str:
    if scenario is None:
        return ""
    if scenario.failed:
        return f"{len(scenario.failed)} failed"
    return f"ok {scenario.passed}" if scenario.passed else "skipped"


def _print_remarks(runs: Runs) -> None:
    for (kind, revision), scenarios in runs.items():
        for scenario in scenarios.values():
            for what, remarks in (("warning", scenario.warned), ("skipped", scenario.skipped)):
                for check, message in remarks.items():
                    print(f"{what} ({kind} {revision}) {scenario.name}:{check}: {message}")


def _print_excluded(excluded: list[baseline.Excluded], kinds: list[str], revisions: list[str]) -> None:
    for group in excluded:
        if group.server in kinds and set(group.revisions) & set(revisions):
            print(f"\nExcluded for {group.server} ({', '.join(group.revisions)}): {group.reason}")
            print("  " + ", ".join(group.entries))


def _verdict(runs: Runs, excluded: list[baseline.Excluded]) -> int:
    unexpected = 0
    for (kind, revision), scenarios in runs.items():
        verdict = baseline.judge(scenarios, excluded, kind, revision)
        for failure in verdict.failures:
            print(f"\nUNEXPECTED FAILURE ({kind} {revision}) {failure}")
        for entry in verdict.stale:
            print(f"\nSTALE ({kind} {revision}) {entry} passes; take it out of {baseline.FILE.name}")
        unexpected += len(verdict.failures) + len(verdict.stale)
    print(f"\n{unexpected} unexpected" if unexpected else "\nNothing unexpected.")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
