"""The demo's terminal: lines that stay, and below them, where the terminal can, a panel that is redrawn in place."""

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, TextIO

Style = Literal["plain", "bold", "dim", "good", "bad", "warn"]

CODES: Mapping[Style, str] = {"plain": "", "bold": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33"}
WIDTH = 80
"""Columns used at most; a narrower terminal gets narrower lines."""


class Screen:
    """Writes to `stream`. In a terminal the panel is redrawn in place; in a pipe or file only the lines are written."""

    def __init__(self, stream: TextIO | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        environ = os.environ if environ is None else environ
        self.live = self._stream.isatty() and environ.get("TERM", "") != "dumb" and _escapes_work(environ)
        self._colour = self.live and not environ.get("NO_COLOR")
        self.width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) if self.live else WIDTH
        self._panel: list[str] = []
        encoding = getattr(self._stream, "encoding", None) or "ascii"
        self.yes, self.no, self.arrow = (
            (good if _encodable(good, encoding) else plain) for good, plain in (("✓", "ok"), ("✗", "NO"), ("→", "->"))
        )
        self._encoding = encoding

    def say(self, text: str = "", style: Style = "plain") -> None:
        """Lines that stay. Words are wrapped, and continued under the first one."""
        self._wipe()
        for line in text.split("\n"):
            for piece in wrap(line, self.width):
                self._write(self._styled(piece, style) + "\n")
        self._draw()

    def panel(self, lines: Sequence[str]) -> None:
        """Replace what is shown below the lines; cut, never wrapped. Nothing where it cannot be redrawn."""
        new = [cut(line, self.width - 1) for line in lines]
        if self.live and new != self._panel:
            self._wipe()
            self._panel = new
            self._draw()

    def _wipe(self) -> None:
        if self._panel:
            self._write(f"\x1b[{len(self._panel)}A\x1b[J")

    def _draw(self) -> None:
        for line in self._panel:
            self._write(self._styled(line, "dim") + "\n")
        self._stream.flush()

    def _styled(self, text: str, style: Style) -> str:
        code = CODES[style]
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text

    def _write(self, text: str) -> None:
        self._stream.write(text.encode(self._encoding, "replace").decode(self._encoding))


def columns(text: str) -> int:
    """Terminal columns `text` takes; East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns, ending in `...` when something was left out."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 3:
        text = text[:-1]
    return text + "..."


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns, broken at spaces; later lines are indented as the first is."""
    indent = " " * min(len(text) - len(text.lstrip()), width // 2)
    lines, line = [], ""
    for piece in re.findall(r"\s*\S+", text):
        if columns(line + piece) <= width:
            line += piece
            continue
        if line.strip():
            lines.append(line)
        line = indent + cut(piece.lstrip(), width - len(indent))
    return [*lines, line]


def _encodable(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _escapes_work(environ: Mapping[str, str]) -> bool:
    """Windows' old console prints escape codes; Windows Terminal (WT_SESSION) and ConEmu obey them."""
    return sys.platform != "win32" or bool(
        environ.get("WT_SESSION") or environ.get("ANSICON") or environ.get("ConEmuANSI")
    )
