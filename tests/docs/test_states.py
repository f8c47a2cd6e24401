"""docs/states.md, the transition table in the code and the database's trigger are one table."""

import re
from pathlib import Path

import apsw
import pytest

from core.cloud.store import open_store
from core.cloud.store.states import STATUS_OF
from core.cloud.task import TRANSITIONS, AttemptOutcome, TaskStatus

PAGE = (Path(__file__).parents[2] / "docs/states.md").read_text(encoding="utf-8")


def test_the_table_is_the_codes():
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE)
    assert {start: set(re.findall(r"`(\w+)`", ends)) for start, ends in rows} == {
        start.value: {end.value for end in ends} for start, ends in TRANSITIONS.items()
    }


def test_the_diagram_is_the_codes():
    edges = re.findall(r"^    (\w+) --> (\w+): \S", PAGE, re.MULTILINE)
    assert sorted(edges) == sorted((start.value, end.value) for start, ends in TRANSITIONS.items() for end in ends)


def test_the_attempt_outcomes_are_the_codes():
    (line,) = re.findall(r"^\*\*Attempts\*\* .*$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", line)) == set(AttemptOutcome) - {AttemptOutcome.RUNNING}


@pytest.fixture(scope="module")
def allowed(tmp_path_factory):
    """Asks the database's own trigger whether a move is allowed."""
    file = tmp_path_factory.mktemp("states") / "queue.db"
    open_store(str(file)).close()
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    (sql,) = next(connection.execute("SELECT sql FROM sqlite_master WHERE name = 'task_transition'"))
    condition = re.search(r"\bWHEN (.*?)\bBEGIN\b", sql, re.DOTALL)
    assert condition is not None
    refused = condition[1].replace("old.state", ":old").replace("new.state", ":new")
    yield lambda old, new: not next(connection.execute(f"SELECT {refused}", {"old": old, "new": new}))[0]
    connection.close()


@pytest.mark.parametrize("old", STATUS_OF)
def test_the_database_allows_what_the_code_allows_and_nothing_else(old, allowed):
    waiting = STATUS_OF[old] is TaskStatus.PENDING
    for new, status in STATUS_OF.items():
        moved_within = old == new or (waiting and status is TaskStatus.PENDING)
        assert allowed(old, new) == (moved_within or status in TRANSITIONS[STATUS_OF[old]]), (old, new)
