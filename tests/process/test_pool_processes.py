"""Real processes on one database: the limit holds over both of them, and what they count is the sum."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.store import open_store
from core.cloud.store.database import Database
from core.cloud.store.pool_windows import WHOLE_POOL
from core.cloud.store.sqlite_pool_state import SqlitePoolState
from tests.support.pool_world import most_in_window

ROOT = Path(__file__).resolve().parents[2]
WINDOW, LIMIT, SECONDS = 1.5, 40, 4.5

CALLERS = textwrap.dedent(
    """
    import asyncio, json, sys, time
    from core.cloud.api_manager import ApiManager
    from core.cloud.store.database import Database
    from core.cloud.store.sqlite_pool_state import SqlitePoolState
    from core.errors import AllEndpointsFailed

    path, window, seconds, limit = sys.argv[1], *map(float, sys.argv[2:])
    store = SqlitePoolState(Database(path), window=window)
    manager = ApiManager(store, max_per_minute=int(limit))
    arrivals = []

    async def work(endpoint):
        arrivals.append(time.time())
        await asyncio.sleep(0.005)

    async def caller():
        while time.time() < begin + seconds:
            try:
                await manager.acall_with_retry(work, deadline=1.0)
            except AllEndpointsFailed:
                pass  # no slot came before its deadline

    print("ready", flush=True)
    begin = float(sys.stdin.readline())

    async def main():
        await asyncio.gather(*(caller() for _ in range(50)))

    asyncio.run(main())
    manager.close()
    store.close()
    print(json.dumps(arrivals))
    """
)


EVERY_START = """
CREATE TABLE every_start (endpoint TEXT NOT NULL, at REAL NOT NULL);
CREATE TRIGGER keep_every_start AFTER INSERT ON pool_start BEGIN INSERT INTO every_start VALUES (NEW.endpoint, NEW.at); END
"""
"""Keeps what the ring of starts drops when it is out of the window."""


def python(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def arrivals_of_two_processes(store: SqlitePoolState, limit: int = 0) -> list[list[float]]:
    """When the calls of two processes with fifty callers each arrived; `limit` is the whole pool's."""
    with store.database.write() as connection:
        connection.execute(EVERY_START)
    processes = [python(CALLERS, store.database.location, str(WINDOW), str(SECONDS), str(limit)) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2  # however long a start takes
    begin = time.time()
    for process in processes:
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    arrivals = [json.loads(out) for out, _ in outputs]
    assert all(arrivals), "one process starved the other"
    return arrivals


def starts_of(store: SqlitePoolState, name: str) -> list[float]:
    with store.database.read() as connection:
        return [
            at for (at,) in connection.execute("SELECT at FROM every_start WHERE endpoint = ? ORDER BY at", (name,))
        ]


def test_two_processes_with_fifty_callers_each_keep_one_limit_exactly_and_use_all_of_it(tmp_path):
    store = SqlitePoolState(Database(str(tmp_path / "pool.db")), window=WINDOW)
    manager = ApiManager(store)
    manager.add_endpoint(ApiEndpoint("only", "https://only.example", max_requests_per_minute=LIMIT))
    arrivals = arrivals_of_two_processes(store)
    both = arrivals[0] + arrivals[1]
    assert len(both) >= LIMIT * (SECONDS // WINDOW)
    starts = starts_of(store, "only")
    assert most_in_window(starts, WINDOW) <= LIMIT
    # Each call came after a start of its own: how long after is the machine's affair.
    assert all(start <= came for start, came in zip(starts, sorted(both), strict=False))
    assert len(both) <= len(starts)
    info = manager.get_stats()["endpoints"]["only"]
    assert info["outcomes"].keys() <= {"ok", "cancelled"}
    assert info["calls"] == len(both)
    store.close()


def test_two_processes_keep_the_limit_of_the_whole_pool_exactly_and_use_all_of_it(tmp_path):
    store = SqlitePoolState(Database(str(tmp_path / "pool.db")), window=WINDOW)
    manager = ApiManager(store)
    for name, own in (("one", LIMIT // 2), ("other", 0)):
        manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example", max_requests_per_minute=own))
    arrivals = arrivals_of_two_processes(store, LIMIT)
    assert len(arrivals[0] + arrivals[1]) >= LIMIT * (SECONDS // WINDOW)
    starts = starts_of(store, WHOLE_POOL)
    assert most_in_window(starts, WINDOW) <= LIMIT
    assert len(arrivals[0] + arrivals[1]) <= len(starts)
    assert most_in_window(starts_of(store, "one"), WINDOW) <= LIMIT // 2
    store.close()


TOKENS = 20_000

TALKERS = textwrap.dedent(
    """
    import asyncio, random, sys, time
    from core.cloud.api_manager import ApiManager
    from core.cloud.provider import ChatAnswer, Usage
    from core.cloud.store.database import Database
    from core.cloud.store.sqlite_pool_state import SqlitePoolState
    from core.errors import AllEndpointsFailed

    path, window, seconds = sys.argv[1], *map(float, sys.argv[2:])
    rng = random.Random(path)

    class Model:
        keeps_time = True

        async def chat(self, endpoint, request, timeout):
            await asyncio.sleep(0.01)
            return ChatAnswer("hi", "m", Usage(rng.randint(50, 100), rng.randint(1, request.max_tokens)), "stop")

        async def aclose(self):
            pass

    store = SqlitePoolState(Database(path), window=window)
    manager = ApiManager(store, providers={"fake": Model()})

    async def caller():
        while time.time() < begin + seconds:
            try:
                await manager.achat("a" * 300, max_tokens=rng.randint(1, 200), deadline=window)
            except AllEndpointsFailed:
                await asyncio.sleep(0.01)

    print("ready", flush=True)
    begin = float(sys.stdin.readline())

    async def main():
        await asyncio.gather(*(caller() for _ in range(20)))

    asyncio.run(main())
    manager.close()
    store.close()
    """
)

EVERY_RESERVATION = """
CREATE TABLE every_reservation (token INTEGER PRIMARY KEY, at REAL NOT NULL, reserved INTEGER NOT NULL, tokens INTEGER NOT NULL);
CREATE TRIGGER keep_every_reservation AFTER INSERT ON pool_reservation
BEGIN INSERT INTO every_reservation VALUES (NEW.token, NEW.at, NEW.tokens, NEW.tokens); END;
CREATE TRIGGER keep_every_correction AFTER UPDATE OF tokens ON pool_reservation
BEGIN UPDATE every_reservation SET tokens = NEW.tokens WHERE token = NEW.token; END
"""


def most_tokens_in_window(taken: list[tuple[float, int]], window: float) -> int:
    """`taken` in the order of time."""
    most = held = first = 0
    for at, tokens in taken:
        held += tokens
        while at - taken[first][0] >= window:
            held -= taken[first][1]
            first += 1
        most = max(most, held)
    return most


def test_two_processes_keep_one_limit_of_tokens_exactly_and_use_nearly_all_of_it(tmp_path):
    store = SqlitePoolState(Database(str(tmp_path / "pool.db")), window=WINDOW)
    manager = ApiManager(store)
    manager.add_endpoint(
        ApiEndpoint("only", "fake", provider="fake", max_requests_per_minute=0, max_tokens_per_minute=TOKENS)
    )
    with store.database.write() as connection:
        connection.execute(EVERY_RESERVATION)
    processes = [python(TALKERS, store.database.location, str(WINDOW), str(SECONDS)) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    begin = time.time()
    for process in processes:
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    with store.database.read() as connection:
        taken = list(connection.execute("SELECT at, tokens, reserved FROM every_reservation ORDER BY at"))
    assert all(tokens <= reserved for _, tokens, reserved in taken)
    assert most_tokens_in_window([(at, tokens) for at, tokens, _ in taken], WINDOW) <= TOKENS
    info = manager.get_stats()["endpoints"]["only"]
    used = sum(tokens for _, tokens, _ in taken)
    assert used == info["tokens_in"] + info["tokens_out"]
    assert used >= 0.95 * TOKENS * (SECONDS // WINDOW)
    store.close()


SHORT = textwrap.dedent(
    """
    import sys
    from core.cloud.api_manager import ApiManager
    from core.cloud.store import open_store
    manager = ApiManager(open_store(sys.argv[1]).pool)
    def work(endpoint):
        if sys.argv[2] == "fail":
            raise PermissionError("no")
    try:
        manager.call_with_retry(work, max_retries=1)
    except RuntimeError:
        pass
    """
)


def test_a_process_that_ends_without_closing_its_manager_loses_no_count(tmp_path):
    path = str(tmp_path / "pool.db")
    store = open_store(path)
    manager = ApiManager(store.pool)
    manager.add_endpoint(ApiEndpoint("only", "https://only.example"))
    for kind in ("ok", "fail"):
        out, err = (process := python(SHORT, path, kind)).communicate(timeout=60)
        assert process.returncode == 0, (out, err)
    assert manager.get_stats()["endpoints"]["only"]["outcomes"] == {"ok": 1, "transient": 1}
    manager.close()
    store.close()


@pytest.mark.parametrize("change", ["add", "remove", "hold"])
def test_what_one_process_changes_the_other_knows_within_a_second(tmp_path, change):
    path = str(tmp_path / "pool.db")
    mine, theirs = open_store(path), open_store(path)
    here, there = ApiManager(mine.pool), ApiManager(theirs.pool)
    here.add_endpoint(ApiEndpoint("a", "https://a.example"))
    here.add_endpoint(ApiEndpoint("b", "https://b.example", priority=2))

    class UnauthorizedError(Exception):
        status_code = 401

    def refuse(endpoint):
        if endpoint.name == "a":
            raise UnauthorizedError

    changes = {
        "add": lambda: here.add_endpoint(ApiEndpoint("c", "https://c.example", priority=0)),
        "remove": lambda: here.remove_endpoint("a"),
        "hold": lambda: here.call_with_retry(refuse),
    }
    changes[change]()
    expected = {"add": "c", "remove": "b", "hold": "b"}[change]
    bound = time.monotonic() + 10
    while (used := there.call_with_retry(lambda endpoint: endpoint.name)[0]) != expected:
        assert time.monotonic() < bound, used
    for manager, store in ((here, mine), (there, theirs)):
        manager.close()
        store.close()
