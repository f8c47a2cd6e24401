"""The guide's Python blocks and chat sentences, read from the guide itself."""

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.zh.md"

F = TypeVar("F", bound=Callable[..., Any])

_HEADING = re.compile(r"^(#{2,3}) (.+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    place: str
    """`chapter / section`."""
    language: str
    code: str
    line: int
    """Of its first line of code in the file."""


def fenced() -> list[Block]:
    """Every fenced block of the guide, in order."""
    blocks: list[Block] = []
    chapter = section = ""
    fence: tuple[str, int] | None = None
    body: list[str] = []
    for number, line in enumerate(GUIDE.read_text(encoding="utf-8").splitlines(), start=1):
        if fence is not None:
            if line == "```":
                blocks.append(Block(f"{chapter} / {section}", fence[0], "\n".join(body), fence[1]))
                fence = None
            else:
                body.append(line)
        elif line.startswith("```"):
            fence, body = (line[3:], number + 1), []
        elif heading := _HEADING.match(line):
            if heading[1] == "##":
                chapter, section = heading[2], ""
            else:
                section = heading[2]
    return blocks


PYTHON = {block.place: block for block in fenced() if block.language == "python"}
"""The Python blocks by place; each section has one, which a test checks."""
SENTENCES = {block.place: block.code for block in fenced() if block.language == "" and "MCP" in block.place}
"""What a user says to the chat, by place."""


class Reader:
    """Somebody who types the guide's blocks in, one after another, into one interpreter."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "reader"}
        self.ran: list[str] = []

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def run(self, place: str, *, fill: dict[str, list[str]] | None = None, **given: object) -> list[str]:
        """Run the block at `place`; returns the lines it printed.

        `given` are names that the guide leaves open. `fill` replaces the texts that it leaves open (`"xxx"`, `[...]`,
        `{...}`), one value for each place where they stand.
        """
        block = PYTHON[place]
        code = block.code
        for blank, values in (fill or {}).items():
            parts = code.split(blank)
            assert len(parts) == len(values) + 1, f"{place} has {len(parts) - 1} times {blank}"
            code = "".join(part + value for part, value in zip(parts, [*values, ""], strict=True))
        self.names.update(given)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (block.line - 1) + code, str(GUIDE), "exec"), self.names)
        self.ran.append(place)
        return printed.getvalue().splitlines()

    def close(self) -> None:
        """Close what the blocks opened."""
        for name in ("manager", "publisher"):
            if name in self.names:
                self.names[name].close()


def block(place: str) -> Callable[[F], F]:
    """Marks the test that proves the block at `place`; the test fails if it did not run it."""

    def mark(test: F) -> F:
        test.guide_block = place  # type: ignore[attr-defined]
        return test

    return mark
