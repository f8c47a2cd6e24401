"""What is expected not to pass, and why. An entry that passes after all is an error too: it must go."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.suite import Scenario

FILE = Path(__file__).resolve().parent / "expected-failures.toml"


@dataclass(frozen=True, slots=True)
class Excluded:
    """Scenarios, or checks written `scenario:check`, that one server is not expected to pass."""

    server: str
    revisions: tuple[str, ...]
    reason: str
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What of a run was not expected."""

    failures: tuple[str, ...]
    """Checks that failed and are not excluded: `scenario:check: message`."""
    stale: tuple[str, ...]
    """Exclusions without a failure."""


def load(file: Path = FILE) -> list[Excluded]:
    """The exclusions, each with its reason."""
    groups = tomllib.loads(file.read_text(encoding="utf-8"))["excluded"]
    return [
        Excluded(group["server"], tuple(group["revisions"]), group["reason"], tuple(group["entries"]))
        for group in groups
    ]


def judge(scenarios: Mapping[str, Scenario], excluded: list[Excluded], server: str, revision: str) -> Verdict:
    """Compare one run with what is excluded for it."""
    entries = {
        entry for group in excluded if group.server == server and revision in group.revisions for entry in group.entries
    }
    hit: set[str] = set()
    failures = []
    for scenario in scenarios.values():
        for check, message in scenario.failed.items():
            named = {scenario.name, f"{scenario.name}:{check}"} & entries
            hit |= named
            if not named:
                failures.append(f"{scenario.name}:{check}: {message}")
    return Verdict(tuple(failures), tuple(sorted(entries - hit)))
