"""The pool's statements: all used, none scans a table."""

import re
from pathlib import Path

import apsw
import pytest

from core.cloud.store import pool_rows, pool_tokens, pool_windows, sqlite_endpoint_state, sqlite_pool_state
from core.cloud.store.database import Database

TABLES = {"pool_endpoint"}
"""Small enough, and wanted whole."""


@pytest.fixture(scope="module")
def database():
    database = Database(":memory:")
    yield database
    database.close()


def test_every_statement_is_used_and_every_one_used_is_there():
    sources = "".join(
        Path(module.__file__).read_text(encoding="utf-8")
        for module in (sqlite_pool_state, sqlite_endpoint_state, pool_rows, pool_tokens, pool_windows)
    )
    used = set(re.findall(r'(?:POOL\[|row_of\(connection, )"(\w+)"', sources))
    used |= {
        "clear_total",
        "clear_outcomes",
        "clear_latencies",
        "clean_health",
        "next_started",
        "next_spender",
        "next_reserver",
    }
    assert used == set(pool_rows.POOL)


@pytest.mark.parametrize("name", sorted(pool_rows.POOL))
def test_no_statement_scans_a_table(database, name):
    statement = pool_rows.POOL[name]
    names = set(re.findall(r":(\w+)", statement))
    values = dict.fromkeys(names, 1) if names else (1,) * statement.count("?")
    with database.write() as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    scans = [
        step
        for step in plan
        if re.match(r"SCAN (?!newest|\(subquery|oldest)", step) and not step.startswith("SCAN CONSTANT")
    ]
    assert [step for step in scans if step.split()[1] not in TABLES] == [], plan
    assert apsw.sqlite_lib_version()
