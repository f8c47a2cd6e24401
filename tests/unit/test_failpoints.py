"""Failpoints do nothing unless armed, and every name is used somewhere."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import InvalidArgument
from core.failpoints import ENVIRONMENT, NAMES, Arming, failpoint, parse

ROOT = Path(__file__).resolve().parents[2]


def run(armed: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, ENVIRONMENT: armed, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_an_unarmed_failpoint_does_nothing():
    failpoint("before_exchange")
    failpoint("no such name")


def test_each_name_is_called_in_the_code_and_each_call_has_a_name():
    called = set()
    for file in (ROOT / "core").rglob("*.py"):
        called |= set(re.findall(r'(?:failpoint|survived)\("([a-z_]+)"\)', file.read_text(encoding="utf-8")))

    assert called - {"after_claim"} == set(NAMES)


def test_what_is_armed_is_read_from_text():
    assert parse("") == {}
    assert parse("before_exchange:kill, before_renew:raise:0.25") == {
        "before_exchange": Arming("kill", 1.0),
        "before_renew": Arming("raise", 0.25),
    }


@pytest.mark.parametrize(
    "text",
    ["nowhere:kill", "before_exchange:explode", "before_exchange", "before_exchange:kill:2", "before_exchange:kill:x"],
)
def test_what_would_arm_nothing_is_refused(text):
    with pytest.raises(InvalidArgument, match="arms nothing"):
        parse(text)


def test_an_armed_failpoint_kills_its_process_as_kill_9_would():
    ended = run(
        "before_settle:kill",
        "from core.failpoints import failpoint; failpoint('before_renew'); print('here', flush=True); failpoint('before_settle'); print('not here')",
    )

    assert ended.stdout == "here\n"
    assert ended.returncode in (-signal.SIGKILL, 137)


def test_an_armed_failpoint_raises_where_it_stands():
    ended = run("before_settle:raise", "from core.failpoints import failpoint; failpoint('before_settle')")

    assert "FailpointError: The failpoint before_settle was armed to raise." in ended.stderr
