"""Every named query is used, explained in its file, and walks an index."""

import re
from pathlib import Path

import apsw
import pytest

from core.cloud.store.database import Database
from core.cloud.store.queries import ATTEMPT, DEPENDENCY, LEADER, LIMIT, TASK, WORKER

STORE = Path(__file__).parents[2] / "core" / "cloud" / "store"
NOUNS = {queries.noun: queries for queries in (TASK, DEPENDENCY, ATTEMPT, WORKER, LEADER, LIMIT)}
NAMED = [(noun, name) for noun, queries in NOUNS.items() for name in queries]

SCANS = {
    ("task", "newest_ids"): "reads the end of the table, as far as its LIMIT",
    ("task", "counters"): "the table has 36 rows",
    ("task", "all_capabilities"): "a row for each kind of task",
    ("task", "next_suspect"): "the index holds the suspects only, which are as many as ran when a process crashed",
    ("limit", "all"): "a row for each handler with limits",
    ("limit", "suspects"): "like next_suspect",
    ("worker", "forget_dead"): "a row for each process",
    ("worker", "alive"): "a row for each process",
    ("worker", "able"): "a row for each process",
}
SORTS = {
    ("task", "claim"): "a few heads for each kind",
    ("task", "heads"): "a few heads for each kind",
    ("task", "heads_aged"): "a few heads for each kind and priority",
    ("task", "claim_aged"): "a few heads for each kind and priority",
    ("task", "page_sorted_oldest"): "the ready tasks of a handler with limits",
    ("task", "page_sorted_newest"): "the ready tasks of a handler with limits",
    ("dependency", "of_tasks"): "the dependencies of one page",
    ("worker", "alive"): "a row for each process",
}
NOT_TABLES = ("json_each", "wanted", "other", "has", "doomed", "part", "(subquery", "CONSTANT ROW")


@pytest.fixture(scope="module")
def connection():
    database = Database(":memory:")
    with database.read() as connection:
        yield connection
    database.close()


def plan(connection, statement):
    numbered = [int(number) for number in re.findall(r"\?(\d+)", statement)]
    count = max(numbered) if numbered else statement.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", (None,) * count)]


@pytest.mark.parametrize(("noun", "name"), NAMED)
def test_no_query_walks_a_whole_table(connection, noun, name):
    steps = plan(connection, NOUNS[noun][name])
    scans = [
        step for step in steps if step.startswith("SCAN") and not step.removeprefix("SCAN ").startswith(NOT_TABLES)
    ]
    assert bool(scans) == ((noun, name) in SCANS), scans
    sorts = [step for step in steps if "TEMP B-TREE FOR ORDER BY" in step]
    assert bool(sorts) == ((noun, name) in SORTS), sorts
    assert not [step for step in steps if "AUTOMATIC" in step]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("claim", "task_kind (kind=? AND state=?)"),
        ("has_ready", "task_kind (kind=? AND state=?)"),
        ("settle", "sqlite_autoindex_task_1 (id=?)"),
        ("page_oldest", "task_state (state=? AND priority=? AND seq>?)"),
        ("page_kind_newest", "task_kind (kind=? AND state=? AND priority=? AND seq<?)"),
        ("expire", "task_expiring (expires_at<?)"),
        ("promote", "task_later (run_at<?)"),
        ("lost", "task_held (lease_until<?)"),
        ("purgeable", "task_ended (ended_at>? AND ended_at<?)"),
    ],
)
def test_the_hot_queries_use_the_index_made_for_them(connection, name, index):
    assert any(index in step for step in plan(connection, TASK[name]))


def test_every_query_is_used_and_every_use_has_its_query():
    code = "\n".join(path.read_text(encoding="utf-8") for path in STORE.glob("*.py"))
    used = {(noun.lower(), name) for noun, name in re.findall(r"\b([A-Z]+)\[\"([a-z_]+)\"\]", code)}
    used = {pair for pair in used if pair[0] in NOUNS}
    pages = {
        ("task", f"{name}_{order}")
        for name in ("page", "page_kind", "page_sorted", "page_tag")
        for order in ("oldest", "newest")
    }
    assert used | pages | {("task", name) for name in ("next_later", "next_expiring", "next_lost")} == set(NAMED)


def test_a_statement_is_planned_once_whatever_is_bound_to_it(connection):
    assert connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1
