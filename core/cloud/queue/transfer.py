"""The queue as JSON Lines and back: a header line, a task a line with its attempts, in the order of publication, an end.

The last line counts what comes before it, so that a file that was cut off between two lines is not taken for a whole one.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

from core.clock import to_iso
from core.cloud.queue.submission import ARGUMENTS, from_arguments, new_task
from core.cloud.store_contract import RestoredTask, TaskStore
from core.cloud.task import FINAL, Attempt, AttemptOutcome, TaskStatus, parse_status
from core.errors import InvalidArgument
from core.json_types import Json, JsonObject, dumps, plain_dumps
from core.safe_text import encodable

FORMAT = "heablcoin-cloud tasks"
VERSION = 2
WITHOUT_END = 1
"""The version whose files have no last line that counts."""
BATCH = 500
SPOOLED = 32 * 1024 * 1024
"""Bytes of an import that are held in memory while it is checked; the rest goes to a temporary file."""
LONGEST_LINE = 16 * 1024 * 1024
"""Bytes: more than the largest task with its result and attempts."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    added: int
    present: int
    """Tasks that were there already, from an earlier import."""
    notes: list[str]
    """What was changed or left out, one line each."""


def write_tasks(tasks: TaskStore, file: str | Path | IO[bytes], now: float) -> int:
    """Write every task as it is at one moment; returns how many.

    A path is replaced only once all is written, and is for this user alone.
    """
    count = attempts = 0
    with _writing(file) as out, closing(tasks.everything(BATCH)) as batches:
        _write_line(out, {"format": FORMAT, "version": VERSION, "exported_at": to_iso(now)})
        for batch in batches:
            for task, past in batch:
                history: list[Json] = [each.to_dict() for each in past]
                _write_line(out, {**task.to_dict(), "history": history})
                attempts += len(history)
            count += len(batch)
        _write_line(out, {"format": FORMAT, "end": True, "tasks": count, "attempts": attempts})
    return count


def read_tasks(tasks: TaskStore, lines: Iterable[bytes], now: float) -> Imported:
    """Add the tasks of an export that are not there yet: all of them, in one transaction, or none.

    Raises InvalidArgument, naming the line, for what is not a whole export or clashes with a task that is there.
    """
    with SpooledTemporaryFile(max_size=SPOOLED) as checked:
        read, notes = 0, list[str]()
        for number, record, line in _records(lines, notes):
            try:
                restored(record, now)
            except InvalidArgument as error:
                raise InvalidArgument(f"Line {number}: {error.message}", error.fix) from error
            read += 1
            checked.write(line.rstrip(b"\r\n") + b"\n")
        checked.seek(0)
        added = tasks.restore((restored(json.loads(line), now) for line in checked), now)
    count = sum(each.created for each in added)
    return Imported(count, read - count, notes)


def _records(lines: Iterable[bytes], notes: list[str]) -> Iterator[tuple[int, Mapping[str, object], bytes]]:
    """The tasks of an export with the number and text of their lines; InvalidArgument once it is not a whole one."""
    read, attempts = 0, 0
    version: object = None
    ended = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record = _record(number, line)
        if ended:
            raise InvalidArgument(
                f"Line {number} comes after the end of the export; nothing was imported.", "give one export at a time."
            )
        if number == 1:
            version = _version(record)
        elif record.get("format") == FORMAT and record.get("end") is True:
            _check_end(record, read, attempts)
            ended = True
        else:
            history = record.get("history")
            read, attempts = read + 1, attempts + (len(history) if isinstance(history, list) else 0)
            yield number, record, line
    if version == WITHOUT_END:
        notes.append("The export is of an older version, whose files have no end: whether it is whole cannot be told.")
    elif not ended:
        raise InvalidArgument(
            f"The export is cut off: it stops after {read:,} tasks, without the last line that counts them; nothing was"
            " imported.",
            "export again, or copy the whole file again.",
        )


def _record(number: int, line: bytes) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidArgument(
            f"Line {number} is not JSON; nothing was imported.", "give a file that export wrote, whole."
        ) from None
    if not isinstance(record, dict) or (number == 1 and record.get("format") != FORMAT):
        raise InvalidArgument("This is not an export of the queue.", "give a file that export wrote.")
    return record


def _version(header: Mapping[str, object]) -> object:
    version = header.get("version")
    if version not in (WITHOUT_END, VERSION):
        raise InvalidArgument(
            f"The export has version {str(version)[:20]}; this program reads up to {VERSION}.",
            "upgrade heablcoin-cloud.",
        )
    return version


def _check_end(end: Mapping[str, object], read: int, attempts: int) -> None:
    if (end.get("tasks"), end.get("attempts")) != (read, attempts):
        said = f"{str(end.get('tasks'))[:20]} tasks with {str(end.get('attempts'))[:20]} attempts"
        raise InvalidArgument(
            f"The export is not whole: its last line counts {said}, and it holds {read} with {attempts}; nothing was"
            " imported.",
            "export or copy it again; if lines were taken out on purpose, change the counts in the last line.",
        )


def restored(record: Mapping[str, object], now: float) -> RestoredTask:
    """A task from one record of an export (`Task.to_dict` with `history`); InvalidArgument for what cannot be one."""
    task_id = record.get("task_id")
    if not isinstance(task_id, str) or not 1 <= len(task_id) <= 100 or not task_id.isprintable():
        raise InvalidArgument("The record has no usable task_id.", "give a file that export wrote.")
    arguments = {name: record[name] for name in ARGUMENTS if name in record and name not in ("delay", "expires_in")}
    said = from_arguments(arguments, f"Task {task_id}")
    new = new_task(said, task_id, now, checked_references=True)
    status = parse_status(str(record.get("status", TaskStatus.PENDING)))
    created_at = _moment(record, "created_at")
    completed_at = _moment(record, "completed_at")
    history = record.get("history") or []
    if not isinstance(history, list):
        raise InvalidArgument("The record's history is not a list.", "give a file that export wrote.")
    error = record.get("error")
    return RestoredTask(
        task=new,
        status=status if status in FINAL else TaskStatus.PENDING,
        created_at=now if created_at is None else created_at,
        run_at=_moment(record, "run_at"),
        expires_at=_moment(record, "expires_at"),
        started_at=_moment(record, "started_at"),
        ended_at=(now if completed_at is None else completed_at) if status in FINAL else None,
        attempts=tuple(_attempt(each, now) for each in history),
        interruptions=_count(record, "interruptions"),
        result=_result(record.get("result"), status),
        error=None if error is None else encodable(str(error)),
    )


def _result(result: object, status: TaskStatus) -> str | None:
    if status is TaskStatus.COMPLETED:
        return plain_dumps(result, "The result")
    # What was kept of one that was too large.
    return plain_dumps(result, "The result") if status is TaskStatus.FAILED and isinstance(result, str) else None


def _attempt(record: object, now: float) -> Attempt:
    if not isinstance(record, Mapping):
        raise InvalidArgument("An attempt in the history is not an object.", "give a file that export wrote.")
    started_at = _moment(record, "started_at")
    ended_at = _moment(record, "ended_at")
    number = _count(record, "number")
    try:
        outcome = AttemptOutcome(str(record.get("outcome")))
    except ValueError:
        raise InvalidArgument(
            "An attempt in the history has no known outcome.", "give a file that export wrote."
        ) from None
    if outcome is AttemptOutcome.RUNNING:
        outcome = AttemptOutcome.INTERRUPTED
    error = record.get("error")
    return Attempt(
        number,
        str(record.get("worker", "")),
        datetime.fromtimestamp(now if started_at is None else started_at, UTC),
        datetime.fromtimestamp(now if ended_at is None else ended_at, UTC),
        outcome,
        None if error is None else encodable(str(error)),
    )


def _count(record: Mapping[str, object], name: str) -> int:
    value = record.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1_000_000_000:
        raise InvalidArgument(f"{name} is not a count.", "give a file that export wrote.")
    return value


def _moment(record: Mapping[str, object], name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
        if moment.tzinfo is None:
            raise ValueError(name)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"{name} is not a time.", "write ISO 8601 with a zone, such as 2026-11-23T20:00:00Z."
        ) from None


@contextmanager
def _writing(file: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if not isinstance(file, (str, Path)):
        yield file
        return
    target = Path(file)
    unfinished = target.with_name(target.name + ".unfinished")
    try:
        descriptor = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    except OSError as error:
        raise InvalidArgument(
            f"The file {target} cannot be written ({error.strerror}).", "give another path."
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write_line(out: IO[bytes], record: JsonObject) -> None:
    out.write(dumps(record).encode() + b"\n")


@contextmanager
def reading(file: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """The file opened, or the stream given. Raises InvalidArgument for one that cannot be read."""
    if not isinstance(file, (str, Path)):
        yield file
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise InvalidArgument(f"The file {file} cannot be read ({error.strerror}).", "check its path.") from error
        yield stream


def is_export(first_line: bytes) -> bool:
    """True for the header line of an export."""
    try:
        header = json.loads(first_line.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT
