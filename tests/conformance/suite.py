"""One run of the official suite against one server, and what it found."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
RUN_SECONDS = 300

_FOLDER = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What became of one scenario."""

    name: str
    passed: int
    failed: Mapping[str, str]
    """Message by the id of the check."""
    warned: Mapping[str, str]
    """Recommendations of the specification that were not met."""
    skipped: Mapping[str, str]


class SuiteError(RuntimeError):
    """The suite itself did not run."""


def run(node: str, url: str, revision: str, results: Path) -> dict[str, Scenario]:
    """Run every scenario that `revision` knows, scored or not, against the server at `url`."""
    _call(node, "server", "--url", url, "--requirements", revision, "--output-dir", str(results))
    found: dict[str, Scenario] = {}
    for folder in sorted(results.iterdir()):
        match = _FOLDER.fullmatch(folder.name)
        checks = folder / "checks.json"
        if match is None or not checks.exists():
            continue
        scenario = _read(match["scenario"], json.loads(checks.read_text(encoding="utf-8")))
        found[scenario.name] = scenario
    missing = scored(node, revision) - found.keys()
    if missing:
        raise SuiteError(f"The suite left out {', '.join(sorted(missing))} for {revision}.")
    return found


def scored(node: str, revision: str) -> frozenset[str]:
    """The server scenarios that `revision` requires."""
    listed = _call(node, "list", "--server", "--requirements", revision)
    required = listed.partition("Run and reported")[0].partition("Client scenarios")[0]
    names = frozenset(re.findall(r"^  - (\S+)$", required, re.MULTILINE))
    if not names:
        raise SuiteError(f"The suite lists no scenarios for {revision}: {listed[:500]}")
    return names


def _call(node: str, *arguments: str) -> str:
    # The exit code only says that something failed; which, and whether that is expected, is read from the results.
    done = subprocess.run(
        [node, str(SCRIPT), *arguments], cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    if done.returncode not in (0, 1):
        raise SuiteError(f"conformance {arguments[0]} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


def _read(name: str, checks: list[dict[str, Any]]) -> Scenario:
    def having(status: str) -> dict[str, str]:
        return {
            check["id"]: str(check.get("errorMessage") or check.get("description", ""))
            for check in checks
            if check["status"] == status
        }

    return Scenario(
        name=name,
        passed=sum(check["status"] == "SUCCESS" for check in checks),
        failed=having("FAILURE"),
        warned=having("WARNING"),
        skipped=having("SKIPPED"),
    )
