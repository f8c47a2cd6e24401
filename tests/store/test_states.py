"""Code, database and docs/states.md have one table of transitions."""

import re
from pathlib import Path

import apsw
import pytest

from core.cloud.store.database import Database
from core.cloud.store.states import FINAL_STATES, HELD_STATES, STATES_OF, STATUS_OF
from core.cloud.task import FINAL, TRANSITIONS, TaskStatus

PAGE = Path(__file__).parents[2] / "docs" / "states.md"


@pytest.fixture(scope="module")
def connection():
    database = Database(":memory:")
    with database.read() as connection:
        connection.execute("INSERT INTO kind (id, name, capability) VALUES (1, 'n', 'n')")
        yield connection
    database.close()


def put(connection, state):
    """A sound row in this state."""
    held, final = state in HELD_STATES, state in FINAL_STATES
    connection.execute("DELETE FROM task")
    connection.execute(
        "INSERT INTO task (seq, id, kind, state, priority, blockers, attempt, max_retries, created_at, run_at, started_at,"
        " ended_at, owner, lease_until) VALUES (1, 'x', 1, ?, 2, ?, 1, 3, 0, 9, 1, ?, ?, ?)",
        (state, state == "blocked", 2 if final else None, "w" if held else None, 5 if held else None),
    )


def move(connection, state):
    held, final = state in HELD_STATES, state in FINAL_STATES
    connection.execute(
        "UPDATE task SET state = ?, blockers = ?, ended_at = ?, owner = ?, lease_until = ? WHERE seq = 1",
        (state, state == "blocked", 2 if final else None, "w" if held else None, 5 if held else None),
    )


@pytest.mark.parametrize("wanted", STATUS_OF)
@pytest.mark.parametrize("current", STATUS_OF)
def test_the_database_allows_exactly_the_moves_of_the_table(connection, current, wanted):
    put(connection, current)
    before, after = STATUS_OF[current], STATUS_OF[wanted]
    if before is after or after in TRANSITIONS[before]:
        move(connection, wanted)
    else:
        with pytest.raises(apsw.ConstraintError, match="cannot make this move"):
            move(connection, wanted)


def test_the_page_shows_the_table_and_a_diagram_of_it():
    text = PAGE.read_text(encoding="utf-8")
    table = {
        row[1]: frozenset(filter(None, map(str.strip, row[2].split(","))))
        for row in re.finditer(r"^\| (\w+) \| ([\w, ]*)\|$", text, re.MULTILINE)
        if row[1] in set(TaskStatus)
    }
    drawn = {status.value: set() for status in TaskStatus}
    for start, end in re.findall(r"^    (\w+) --> (\w+):", text, re.MULTILINE):
        drawn[start].add(end)
    expected = {status.value: frozenset(each.value for each in TRANSITIONS[status]) for status in TaskStatus}
    assert table == expected
    assert drawn == expected


def test_every_status_has_its_states_and_only_the_final_ones_stay():
    assert set(STATES_OF) == set(TaskStatus)
    assert {status for status, allowed in TRANSITIONS.items() if not allowed - {TaskStatus.PENDING}} == FINAL


@pytest.mark.parametrize(
    "nonsense",
    [
        "state = 'dreaming'",
        "priority = 5",
        "priority = 0",
        "on_dependency_failure = 'ignore'",
        "owner = 'w'",
        "lease_until = 5",
        "ended_at = 5",
        "state = 'running'",
        "state = 'completed'",
        "state = 'blocked'",
        "blockers = 1",
        "blockers = -1",
        "run_at = NULL, state = 'later'",
        "interruptions = 2",
        "forgiven = -1",
        "kind = 'text'",
    ],
)
def test_a_row_that_makes_no_sense_is_refused(connection, nonsense):
    put(connection, "ready")
    with pytest.raises(apsw.ConstraintError):
        connection.execute(f"UPDATE task SET {nonsense} WHERE seq = 1")
