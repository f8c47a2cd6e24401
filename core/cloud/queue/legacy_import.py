"""Reads the original program's JSON files (`data/cloud_tasks.json`, `data/enhanced_cloud_tasks.json`).

Those files differ: a list of tasks, `{"tasks": [...]}`, or tasks by id. What cannot be carried over is named with its reason,
never dropped in silence. The same file gives the same ids each time, so importing it again adds nothing.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from core.cloud.queue.submission import Submission, ids_of, new_task, tags_of
from core.cloud.queue.transfer import Imported
from core.cloud.store_contract import RestoredTask, TaskStore
from core.cloud.task import FINAL, TaskPriority, TaskStatus
from core.errors import InvalidArgument
from core.json_types import dumps, plain_dumps
from core.safe_text import encodable

LARGEST_FILE = 256 * 1024 * 1024
"""Bytes."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{3,99}")
_MILLISECONDS_FROM = 1e11
"""An epoch reading above this is in milliseconds (as seconds it would be the year 5138)."""

STATUSES: Mapping[str, TaskStatus] = {
    **{status.value: status for status in TaskStatus},
    "": TaskStatus.PENDING,
    "published": TaskStatus.PENDING,
    "queued": TaskStatus.PENDING,
    "scheduled": TaskStatus.PENDING,
    "waiting": TaskStatus.PENDING,
    "ready": TaskStatus.PENDING,
    "retrying": TaskStatus.PENDING,
    "processing": TaskStatus.RUNNING,
    "in_progress": TaskStatus.RUNNING,
    "done": TaskStatus.COMPLETED,
    "success": TaskStatus.COMPLETED,
    "succeeded": TaskStatus.COMPLETED,
    "finished": TaskStatus.COMPLETED,
    "error": TaskStatus.FAILED,
    "timeout": TaskStatus.FAILED,
    "canceled": TaskStatus.CANCELLED,
}
"""What the original and its relatives called a status."""


def _nothing(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a file holds."""

    tasks: list[RestoredTask]
    """Each after those it depends on."""
    notes: list[str]
    """What was changed or left out, one line each."""


def import_legacy(tasks: TaskStore, path: str | Path, now: float) -> Imported:
    """Add the tasks of one of the original's files with their ids, times and results: all that can be, in one transaction.

    A task whose id is there already stays as it is, so importing a file again adds nothing. Raises InvalidArgument for an
    unusable file.
    """
    legacy = read_legacy(path, known=lambda task_id: tasks.get(task_id) is not None, now=now)
    notes, new, present = legacy.notes, list[RestoredTask](), 0
    for each in legacy.tasks:
        stored = tasks.get(each.task.task_id)
        if stored is None:
            new.append(each)
        elif stored.name == each.task.name:
            present += 1
        else:
            notes.append(f"task {each.task.task_id}: left out: another task, {stored.name}, already has this id")
    added = sum(published.created for published in tasks.restore(new, now))
    return Imported(added, present, notes)


def read_legacy(path: str | Path, *, known: Callable[[str], bool] = _nothing, now: float) -> Legacy:
    """The tasks of one of the original's files. `known` tells which other ids are stored, so that a task may depend on them.

    Raises InvalidArgument when the file cannot be read or has another shape.
    """
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise InvalidArgument(f"{file.name} is larger than {LARGEST_FILE >> 20} MiB.", "split it.")
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidArgument(f"The file {path} cannot be read ({error.strerror}).", "check its path.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"The file {path} is not JSON.",
            "pass a file written by `heablcoin-cloud export`, or cloud_tasks.json of the version 1 program.",
        ) from error
    return convert(document, known=known, now=now)


def convert(document: object, *, known: Callable[[str], bool] = _nothing, now: float) -> Legacy:
    """`read_legacy` for JSON that was read already."""
    notes: list[str] = []
    ready: dict[str, RestoredTask] = {}
    renamed: dict[str, str] = {}
    for label, raw in _entries(document):
        try:
            found = _task(raw, label, now, notes)
        except (InvalidArgument, TypeError) as error:
            reason = error.message if isinstance(error, InvalidArgument) else str(error)
            notes.append(f"{label}: left out: {reason}")
            continue
        given = str(_first(raw, "task_id", "id"))  # type: ignore[arg-type]  # _task has checked it
        if given != found.task.task_id:
            renamed[given] = found.task.task_id
        if found.task.task_id in ready:
            notes.append(f"{label}: left out: the id {found.task.task_id} came before in the file")
            continue
        ready[found.task.task_id] = found
    for task_id, each in ready.items():
        parents = tuple(renamed.get(parent, parent) for parent in each.task.depends_on)
        ready[task_id] = replace(each, task=replace(each.task, depends_on=parents))
    return Legacy(_in_order(ready, known, notes), notes)


def _entries(document: object) -> Iterable[tuple[str, object]]:
    if isinstance(document, Mapping):
        inside = document.get("tasks")
        if isinstance(inside, list | Mapping):
            document = inside
    if isinstance(document, list):
        return [(f"task {index}", raw) for index, raw in enumerate(document)]
    by_id = _by_id(document)
    if by_id is None:
        raise InvalidArgument(
            "The file holds neither a list of tasks nor tasks by id.", "give the original's data/*cloud_tasks.json."
        )
    return [(f"task {key[:60]}", {"task_id": key, **raw}) for key, raw in by_id.items()]


def _by_id(document: object) -> dict[str, dict[str, object]] | None:
    if not isinstance(document, dict):
        return None
    if isinstance(document.get("tasks"), list | dict):
        return {}
    if all(isinstance(value, dict) for value in document.values()):
        return document
    return None


def _task(raw: object, label: str, now: float, notes: list[str]) -> RestoredTask:
    if not isinstance(raw, Mapping):
        raise InvalidArgument("it is not an object")
    name = _first(raw, "name", "task_name", "task", "type")
    if not isinstance(name, str):
        raise InvalidArgument("it has no name")
    said = Submission(
        name,
        payload=_first(raw, "payload", "params", "data", "args"),
        priority=_priority(raw.get("priority"), label, notes),
        tags=_tags(raw.get("tags"), label, notes),
        timeout=_positive(raw.get("timeout")),
        depends_on=ids_of(_first(raw, "depends_on", "dependencies")),
        max_retries=_retries(raw.get("max_retries")),
    )
    status, created_at = _status(raw, label, notes), _moment(raw, "created_at", "created", "timestamp")
    expires_at = _moment(raw, "expires_at")
    if status is TaskStatus.PENDING and expires_at is not None and expires_at <= now:
        status = TaskStatus.EXPIRED
        notes.append(f"{label}: expired while it waited in the file")
    if raw.get("schedule"):
        notes.append(f"{label}: its schedule {str(raw['schedule'])[:60]!r} was not taken over; add it with add_task")
    created_at = now if created_at is None else min(created_at, now)
    ended_at = _moment(raw, "completed_at", "finished_at", "updated_at")
    error = raw.get("error") or raw.get("error_message")
    return RestoredTask(
        task=new_task(_plain_references(said), _id(raw, label, notes), now),
        status=status,
        created_at=created_at,
        run_at=None,
        expires_at=expires_at,
        started_at=_moment(raw, "started_at"),
        ended_at=max(created_at, min(now, now if ended_at is None else ended_at)) if status in FINAL else None,
        attempts=(),
        interruptions=0,
        result=plain_dumps(raw.get("result"), "The result") if status is TaskStatus.COMPLETED else None,
        error=encodable(str(error)[:10_000]) if error and status is not TaskStatus.COMPLETED else None,
    )


def _first(raw: Mapping[str, object], *names: str) -> object:
    return next((raw[name] for name in names if raw.get(name) is not None), None)


def _plain_references(said: Submission) -> Submission:
    """`${` had no meaning in the original: kept as text."""
    if said.payload is None or "${" not in dumps(said.payload, "payload"):
        return said
    return replace(said, payload=json.loads(dumps(said.payload, "payload").replace("${", "$${")))


def _id(raw: Mapping[str, object], label: str, notes: list[str]) -> str:
    given = _first(raw, "task_id", "id")
    text = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
    if _ID.fullmatch(text):
        return text
    drawn = hashlib.sha256(json.dumps(raw, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]
    notes.append(f"{label}: its id {text[:40]!r} cannot be kept; it is now {drawn}")
    return drawn


def _status(raw: Mapping[str, object], label: str, notes: list[str]) -> TaskStatus:
    text = str(raw.get("status") or "").lower().removeprefix("taskstatus.")
    status = STATUSES.get(text)
    if status is None:
        raise InvalidArgument(f"its status {text[:40]!r} is not known")
    if status in {TaskStatus.RUNNING, TaskStatus.ACKNOWLEDGED}:
        notes.append(f"{label}: was {status} and waits again, since nobody works on it any more")
        return TaskStatus.PENDING
    return status


def _priority(value: object, label: str, notes: list[str]) -> int:
    if value is None:
        return TaskPriority.NORMAL
    text = str(value).upper().removeprefix("TASKPRIORITY.")
    if text in TaskPriority.__members__:
        return TaskPriority[text]
    if text in {"1", "2", "3", "4"}:
        return int(text)
    notes.append(f"{label}: its priority {str(value)[:40]!r} is not known; it is now 2 (NORMAL)")
    return TaskPriority.NORMAL


def _tags(value: object, label: str, notes: list[str]) -> tuple[str, ...]:
    kept: list[str] = []
    given = value if isinstance(value, list) else [value or ""]
    for tag in ",".join(str(each) for each in given).split(","):
        try:
            kept += tags_of([tag.strip()]) if tag.strip() else ()
        except InvalidArgument:
            notes.append(f"{label}: the tag {tag[:40]!r} cannot be kept")
    return tuple(kept)


def _positive(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    return float(value) if usable else None  # type: ignore[arg-type]


def _retries(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return 3
    return min(value, 100)


def _moment(raw: Mapping[str, object], *names: str) -> float | None:
    """A time given as ISO 8601 (without a zone: this machine's) or as seconds or milliseconds since the epoch."""
    value = _first(raw, *names)
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            return None
    seconds = _positive(value)
    return seconds / 1000 if seconds is not None and seconds > _MILLISECONDS_FROM else seconds


def _in_order(found: dict[str, RestoredTask], known: Callable[[str], bool], notes: list[str]) -> list[RestoredTask]:
    """Those whose dependencies are there, each after them."""
    ordered: dict[str, RestoredTask] = {}
    waiting = dict(found)
    while True:
        free = [
            task_id
            for task_id, each in waiting.items()
            if all(parent in ordered or (parent not in found and known(parent)) for parent in each.task.depends_on)
        ]
        if not free:
            break
        for task_id in free:
            ordered[task_id] = waiting.pop(task_id)
    for task_id, each in waiting.items():
        missing = [parent for parent in each.task.depends_on if parent not in ordered]
        notes.append(
            f"task {task_id}: left out: it depends on {', '.join(missing)[:200]}, which is not there to import"
        )
    return list(ordered.values())
