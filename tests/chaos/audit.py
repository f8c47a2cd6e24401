"""The books: what the database says, and what the handlers' own records say against it."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cloud.store import open_store
from tests.chaos.event_log import DONE, START, Event, read_events
from tests.chaos.provider import Provider

UNFINISHED = ("pending", "acknowledged", "running")


@dataclass(frozen=True, slots=True)
class Audit:
    """Counts of what must not happen, and of the attempts that were cut off."""

    interrupted_attempts: int
    lost: int
    finished_twice: int
    started_early: int
    run_after_completion: int
    cuts_not_shown: int
    failed_attempts: int
    """No handler and no endpoint ever fails here: what does has failed for a limit, or by a fault of ours."""


class Books:
    """One reading connection to the database under test."""

    def __init__(self, database: str) -> None:
        self._store = open_store(database, busy_timeout=30.0)

    def close(self) -> None:
        self._store.close()

    def introduce(self, provider: Provider) -> None:
        """Have the pool of this database know the provider's endpoints."""
        provider.add_to(self._store)

    def unfinished(self) -> int:
        """Tasks that are not in a final status."""
        counts = self._store.tasks.stats().by_status
        return sum(count for status, count in counts.items() if status in UNFINISHED)

    def overdue(self) -> float:
        """Seconds since the end of the oldest lease that nobody has taken back; 0 when there is none."""
        rows = self._rows("SELECT min(lease_until) FROM task WHERE state IN ('acknowledged', 'running')")
        return 0.0 if rows[0][0] is None else max(0.0, time.time() - float(rows[0][0]))

    def audit(self, log: Path, published: int) -> Audit:
        """Everything that went wrong, counted."""
        events = read_events(log)
        ended = dict(self._rows("SELECT id, ended_at FROM task WHERE state = 'completed'"))
        attempts: dict[tuple[str, int], str] = {
            (task_id, number): outcome
            for task_id, number, outcome in self._rows(
                "SELECT task.id, attempt.number, attempt.outcome FROM attempt JOIN task ON task.seq = attempt.task"
            )
        }
        completions = Counter(task_id for (task_id, _), outcome in attempts.items() if outcome == "completed")
        return Audit(
            interrupted_attempts=sum(outcome == "interrupted" for outcome in attempts.values()),
            lost=published - len(ended),
            finished_twice=sum(count > 1 for count in completions.values()),
            started_early=self._started_early(events, ended),
            run_after_completion=sum(
                event.kind == START and event.at > ended.get(event.task_id, float("inf")) for event in events
            ),
            cuts_not_shown=self._cuts_not_shown(events, attempts),
            failed_attempts=sum(outcome not in ("completed", "interrupted") for outcome in attempts.values()),
        )

    def calls_answered(self) -> set[str]:
        """The prompts of `ai_call`s that are shown as completed."""
        rows = self._rows(
            "SELECT body.payload FROM task JOIN kind ON kind.id = task.kind JOIN body ON body.task = task.seq"
            " WHERE kind.name = 'ai_call' AND task.state = 'completed'"
        )
        return {json.loads(payload)["prompt"] for (payload,) in rows}

    def why_failed(self) -> set[str]:
        """What attempts that failed said of it."""
        return {
            str(error)
            for (error,) in self._rows("SELECT error FROM attempt WHERE outcome NOT IN ('completed', 'interrupted')")
        }

    def _started_early(self, events: list[Event], ended: dict[str, float]) -> int:
        parents: dict[str, list[str]] = {}
        for child, parent in self._rows(
            "SELECT child.id, parent.id FROM dependency JOIN task AS child ON child.seq = dependency.child"
            " JOIN task AS parent ON parent.seq = dependency.parent"
        ):
            parents.setdefault(child, []).append(parent)
        return sum(
            event.at < ended.get(parent, float("inf"))
            for event in events
            if event.kind == START
            for parent in parents.get(event.task_id, ())
        )

    def _cuts_not_shown(self, events: list[Event], attempts: dict[tuple[str, int], str]) -> int:
        """Attempts that a handler began and the database shows neither as completed nor as interrupted."""
        began = {(event.task_id, event.attempt) for event in events if event.kind == START}
        unknown = sum(attempts.get(key) not in ("completed", "interrupted") for key in began)
        # The other way round: what is shown as completed has indeed been done by that very attempt.
        done = {(event.task_id, event.attempt) for event in events if event.kind == DONE}
        return unknown + sum(
            outcome == "completed" and key in began and key not in done for key, outcome in attempts.items()
        )

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._store.database.read() as connection:
            return list(connection.execute(sql))
