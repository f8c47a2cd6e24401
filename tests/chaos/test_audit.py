"""The audit finds each kind of damage when it is there."""

import os
import time
from pathlib import Path

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.store_contract import ClaimRequest, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus
from tests.chaos.audit import Books
from tests.chaos.harness import Chaos, Plan
from tests.chaos.provider import Limits, Provider
from tests.support.llm_server import Arrival


@pytest.fixture
def books(tmp_path: Path):
    made = Books(str(tmp_path / "queue.db"))
    yield made
    made.close()


@pytest.fixture
def history(tmp_path: Path):
    """A parent and a child, both run and completed as they should be, and a log that says so."""
    publisher = EnhancedCloudTaskPublisher(str(tmp_path / "queue.db"))
    parent = publisher.publish("step")
    child = publisher.publish("step", depends_on=[parent])
    log = Log(tmp_path / "events")
    for task in (parent, child):
        store = publisher.store.tasks
        (claim,) = store.exchange([], ClaimRequest("w", ["step"], 1, 30.0), time.time()).claims
        log.add("S", task.task_id, claim.attempt)
        log.add("D", task.task_id, claim.attempt)
        done = Settlement(task.task_id, claim.attempt, "w", AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, "null")
        store.exchange([done], None, time.time())
    yield parent.task_id, child.task_id, log
    publisher.close()


class Log:
    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    def add(self, kind: str, task_id: str, attempt: int, at: float | None = None) -> None:
        with (self.directory / "1.log").open("a") as file:
            file.write(f"{kind} {task_id} {attempt} {os.getpid()} {at or time.time()!r}\n")


def damage(audit) -> dict[str, int]:
    names = (
        "lost",
        "finished_twice",
        "started_early",
        "run_after_completion",
        "cuts_not_shown",
        "failed_attempts",
    )
    return {name: getattr(audit, name) for name in names if getattr(audit, name)}


def test_a_sound_history_has_no_damage(books, history):
    _, _, log = history
    assert damage(books.audit(log.directory, 2)) == {}
    assert books.unfinished() == 0
    assert books.overdue() == 0


def test_a_task_that_is_missing_is_lost(books, history):
    assert damage(books.audit(history[2].directory, 3)) == {"lost": 1}


def test_a_child_that_began_before_its_parent_ended_started_early(books, history):
    _, child, log = history
    log.add("S", child, 1, at=1.0)
    assert damage(books.audit(log.directory, 2)) == {"started_early": 1}


def test_a_start_after_completion_and_an_attempt_nobody_knows_are_found(books, history):
    parent, _, log = history
    log.add("S", parent, 2)
    assert damage(books.audit(log.directory, 2)) == {"run_after_completion": 1, "cuts_not_shown": 1}


def test_a_completion_that_its_attempt_never_did_is_found(books, history):
    parent, _, log = history
    file = log.directory / "1.log"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(f"D {parent}")))
    assert damage(books.audit(log.directory, 2)) == {"cuts_not_shown": 1}


def test_a_second_completion_is_found(books, history):
    parent, _, log = history
    with books._store.database.write() as connection:
        connection.execute(
            "INSERT INTO attempt SELECT task, 9, worker, started_at, ended_at, outcome, error FROM attempt"
            " WHERE task = (SELECT seq FROM task WHERE id = ?)",
            (parent,),
        )
    assert damage(books.audit(log.directory, 2)) == {"finished_twice": 1}


def test_an_attempt_that_failed_is_found_although_its_task_was_completed_later(books, history):
    with books._store.database.write() as connection:
        connection.execute(
            "INSERT INTO attempt SELECT task, 9, worker, started_at, ended_at, 'failed', 'rate limit' FROM attempt"
            " WHERE task = (SELECT seq FROM task WHERE id = ?)",
            (history[0],),
        )
    assert damage(books.audit(history[2].directory, 2)) == {"failed_attempts": 1}
    assert books.why_failed() == {"rate limit"}


@pytest.mark.parametrize(
    ("moments", "passed"),
    [
        ({"first": [0.0, 0.5, 1.1]}, 0),
        ({"first": [0.0, 0.5, 0.9]}, 1),
        ({"first": [0.0, 0.5], "second": [0.2, 0.7]}, 0),
        ({"few": [0.0, 0.09]}, 1),
        ({"few": [0.0, 0.11]}, 0),
    ],
)
def test_requests_beyond_what_a_window_or_an_endpoint_allows_are_counted(moments, passed):
    provider = Provider(Limits(minute=1.0, each_minute=2, at_once=1))
    for name, times in moments.items():
        provider._server._arrivals += [Arrival(name, at, "POST", "/", {}, None, 200) for at in times]

    assert provider.seen().passed == passed


def test_a_call_that_is_completed_and_was_never_asked_is_found(books, tmp_path: Path):
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
        task = publisher.publish("ai_call", {"prompt": "step 1"})
        (claim,) = publisher.store.tasks.exchange([], ClaimRequest("w", ["ai_call"], 1, 30.0), time.time()).claims
        done = Settlement(task.task_id, claim.attempt, "w", AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, "{}")
        publisher.store.tasks.exchange([done], None, time.time())
    chaos = Chaos(Plan(tasks=1), make_directory(tmp_path / "run"))
    chaos.books = books

    chaos._audit_calls()
    assert (chaos.figures.calls, chaos.figures.answered_unasked) == (1, 1)
    assert not chaos.figures.sound


def test_a_lease_that_nobody_takes_back_is_overdue(books, history, tmp_path: Path):
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
        publisher.publish("step")
        publisher.store.tasks.exchange([], ClaimRequest("dead", ["step"], 1, 30.0), time.time() - 100)

    assert books.unfinished() == 1
    assert 60 < books.overdue() < 100


def test_a_run_in_which_a_lease_was_overdue_too_long_is_not_sound(books, history, tmp_path: Path):
    with EnhancedCloudTaskPublisher(str(tmp_path / "queue.db")) as publisher:
        publisher.publish("step")
        publisher.store.tasks.exchange([], ClaimRequest("dead", ["step"], 1, 30.0), time.time() - 100)
    chaos = Chaos(Plan(tasks=1), make_directory(tmp_path / "run"))
    chaos.books = books

    assert chaos.figures.sound
    chaos._watch_leases()
    assert chaos.figures.stuck == 1
    assert not chaos.figures.sound


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path
