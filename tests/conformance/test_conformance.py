"""The official conformance suite, as `make conformance` runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CANNOT_RUN = 2
ENVIRONMENT = dict(os.environ)
"""As it was before a test's own: npm finds its settings there."""


@pytest.mark.conformance
@pytest.mark.timeout(600)
def test_the_official_suite_finds_nothing_that_is_not_expected_and_explained() -> None:
    command = [sys.executable, "-m", "tests.conformance", "--verbose"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=580, check=False)
    if done.returncode == CANNOT_RUN:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
