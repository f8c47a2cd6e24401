# ruff: noqa: INP001 - a script for the terminal
"""Draws docs/demo.svg, the picture of the READMEs, from a run of the demo: `make picture`.

What it shows is what the run said, line for line, shortened to how the work went and what was seen; a run in which
something was not seen draws nothing.
"""

import sys
import time
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from server.demo import main as run_demo  # noqa: E402 - the clone's own packages
from server.demo.screen import WIDTH, Screen, Style, wrap  # noqa: E402

PICTURE = ROOT / "docs" / "demo.svg"
Line = tuple[str, Style]
COLOURS: dict[Style, str] = {
    "plain": "#c9d1d9",
    "bold": "#ffffff",
    "dim": "#8b949e",
    "good": "#3fb950",
    "bad": "#f85149",
    "warn": "#d29922",
}
BACKGROUND, EDGE = "#0d1117", "#30363d"
COLUMN, ROW, MARGIN = 7.8, 18, 16
"""Of 13 px monospaced text, in pixels."""


class Recorder(Screen):
    """A screen that keeps what stays on it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Line] = []

    def say(self, text: str = "", style: Style = "plain") -> None:
        super().say(text, style)
        self.lines += [(piece, style) for line in text.split("\n") for piece in wrap(line, WIDTH)]


def shortened(lines: list[Line]) -> list[Line]:
    """How the work went, without the lines that only say that something began or waits, and what was seen."""
    starts = {
        name: next(n for n, (text, _) in enumerate(lines) if text.startswith(name)) for name in ("3.", "4.", "What ")
    }
    end = next(number for number, (text, _) in enumerate(lines) if text.startswith("All of it was seen"))
    went = [line for line in lines[starts["3."] : starts["4."]] if not line[0].endswith((" running", " pending"))]
    while not went[-1][0]:
        went.pop()
    return [("$ make demo", "bold"), ("...", "dim"), *went, ("...", "dim"), *lines[starts["What "] : end - 1]]


def drawn(lines: list[Line], when: str) -> str:
    """The lines as a terminal's window."""
    width, height = round(WIDTH * COLUMN + 2 * MARGIN), len(lines) * ROW + 2 * MARGIN
    weight = {"bold": ' font-weight="bold"'}
    rows = [
        f'<text x="{MARGIN}" y="{MARGIN + (number + 1) * ROW - 5}" fill="{COLOURS[style]}"{weight.get(style, "")}>{escape(text)}</text>'
        for number, (text, style) in enumerate(lines)
        if text
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" xml:space="preserve">',
            f"<title>make demo, {when}</title>",
            "<style>text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}</style>",
            f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}" stroke="{EDGE}"/>',
            *rows,
            "</svg>\n",
        ]
    )


def main() -> int:
    """Run the demo and draw it; the demo's exit code."""
    screen = Recorder()
    code = run_demo(screen=screen)
    if code == 0:
        today = time.strftime("%Y-%m-%d", time.gmtime())
        PICTURE.write_text(drawn(shortened(screen.lines), today), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
