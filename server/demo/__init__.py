"""`heablcoin-cloud demo`: the whole product at work on this machine, without a key and without the network."""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio

from server import DISTRIBUTION
from server.demo.scenario import Demo, Plan
from server.demo.screen import Screen
from server.demo.verdict import facts

INTRODUCTION = """\
heablcoin-cloud gives a chat a pool of LLM APIs and a durable task queue. Here it is at work: the real
server in a process of its own, driven over MCP by a real client, with two stand-ins for LLM APIs on
127.0.0.1. No key is needed and nothing leaves this machine."""


def main(plan: Plan | None = None, screen: Screen | None = None) -> int:
    """Run it; 0 when everything it promises was seen, else 1 after saying what was not."""
    screen = screen or Screen()
    began = time.monotonic()
    screen.say(" ".join(INTRODUCTION.split()))
    with tempfile.TemporaryDirectory(prefix="heablcoin-demo-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        try:
            seen = anyio.run(Demo(home, screen, plan or Plan()).run)
        except Exception as error:  # noqa: BLE001  # whatever stops it is told, with the servers' last words
            screen.panel([])
            screen.say("\nThe demo could not go on.", "bad")
            for reason in causes(error):
                screen.say(f"   {reason}")
            for line in last_lines(home / "server.log"):
                screen.say(f"   server: {line}", "dim")
            return 1
    screen.say("\nWhat was seen", "bold")
    results = facts(seen)
    for fact in results:
        screen.say(f" {screen.yes if fact.seen else screen.no} {fact.text}", "good" if fact.seen else "bad")
    missing = sum(not fact.seen for fact in results)
    if missing:
        screen.say(f"\n{missing} of {len(results)} things were not seen: this is a defect, please report it.", "bad")
        return 1
    screen.say(f"\nAll of it was seen, in {time.monotonic() - began:.0f} s. To add it to your own chat:", "bold")
    screen.say(f"   {_own_command()} print-config claude-desktop")
    screen.say("   (or claude-code, windsurf, inspector)", "dim")
    return 0


def _own_command() -> str:
    """How to start this program from here: by its name when it is installed, else as `make demo` did."""
    if shutil.which(DISTRIBUTION):
        return DISTRIBUTION
    python = Path(sys.executable)
    return f"{python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python} -m server"


def causes(error: BaseException) -> Iterator[str]:
    """What went wrong, a line for each error of a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from causes(each)
    else:
        yield f"{type(error).__name__}: {error}"


def last_lines(log: Path, count: int = 5) -> list[str]:
    """The end of a log; nothing when there is none."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:] if log.is_file() else []
