"""Logs: one JSON object a line on stderr, without keys. stdout belongs to the protocol."""

import json
import logging
import sys
import traceback
from types import TracebackType
from typing import Any, TextIO

from core.clock import to_iso
from core.errors import HeablcoinError
from core.redaction import KNOWN_SECRETS, RedactingFilter
from core.redaction import redact as redact_text
from core.safe_text import encodable

OURS = ("core", "server", "utils")


def redact(text: str) -> str:
    """`text` without the keys this process has seen and without anything that looks like one."""
    return redact_text(text, KNOWN_SECRETS.values())


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message and, for a defect, where it happened."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": to_iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = _trace(record.exc_info[1])
        return encodable(redact(json.dumps(line, ensure_ascii=False)))


class Quiet(RedactingFilter):
    """Masks keys and keeps the traceback's text out of the record, for `JsonLines` to write its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        info, record.exc_info = record.exc_info, None
        passed = super().filter(record)
        record.exc_info = info
        return passed


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send our own log lines from `level` on, and everybody else's warnings, to stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(Quiet())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=True)


def _trace(error: BaseException) -> list[str]:
    """Where an error and its causes were raised. What a foreign error says is left out: it may quote a caller's data."""
    lines: list[str] = []
    current: BaseException | None = error
    while current is not None and len(lines) < 100:
        said = f": {current}" if isinstance(current, HeablcoinError | OSError) else ""
        lines += [f"{type(current).__name__}{said}", *_frames(current.__traceback__)]
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return lines


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)[-20:]]
