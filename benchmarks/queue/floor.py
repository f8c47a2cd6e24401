"""The floor: the least that SQLite must do for a durable queue with priorities, dependencies, results and O(1) statistics.

Inserting, and finishing + freeing dependents + claiming, are one transaction each, through prepared statements on one
connection. No leases, fencing, attempts, expiry, timeouts, retries or errors: what those cost is the ratio to ours.
"""

import asyncio
import json
import os
import random
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

from benchmarks.queue import records

WAITING, READY, RUNNING, DONE = range(4)

SCHEMA = """
CREATE TABLE task(
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, priority INTEGER NOT NULL, state INTEGER NOT NULL,
  parents INTEGER NOT NULL, owner TEXT);
CREATE INDEX ready ON task(priority DESC, seq) WHERE state = 1;
CREATE TABLE body(seq INTEGER PRIMARY KEY, payload TEXT NOT NULL, result TEXT);
CREATE TABLE edge(parent INTEGER NOT NULL, child INTEGER NOT NULL, PRIMARY KEY(parent, child)) WITHOUT ROWID;
CREATE TABLE tally(state INTEGER NOT NULL, priority INTEGER NOT NULL, tasks INTEGER NOT NULL, PRIMARY KEY(state, priority)) WITHOUT ROWID;
CREATE TRIGGER came AFTER INSERT ON task BEGIN
  INSERT INTO tally VALUES(new.state, new.priority, 1) ON CONFLICT DO UPDATE SET tasks = tasks + 1;
END;
CREATE TRIGGER moved AFTER UPDATE OF state ON task WHEN new.state <> old.state BEGIN
  UPDATE tally SET tasks = tasks - 1 WHERE state = old.state AND priority = old.priority;
  INSERT INTO tally VALUES(new.state, new.priority, 1) ON CONFLICT DO UPDATE SET tasks = tasks + 1;
END;
"""
INSERT = "INSERT INTO task(id, priority, state, parents) VALUES(?, ?, ?, ?) RETURNING seq"
INSERT_BODY = "INSERT INTO body(seq, payload) VALUES(?, ?)"
CLAIM = """UPDATE task SET state = 2, owner = ?1
WHERE seq IN (SELECT seq FROM task WHERE state = 1 ORDER BY priority DESC, seq LIMIT ?2)
RETURNING seq, (SELECT payload FROM body WHERE body.seq = task.seq)"""
FINISH = "UPDATE task SET state = 3, owner = NULL WHERE seq = ? AND owner = ? AND state = 2"
KEEP = "UPDATE body SET result = ? WHERE seq = ?"
FREE = """UPDATE task SET parents = parents - 1, state = CASE WHEN parents = 1 THEN 1 ELSE state END
WHERE seq IN (SELECT child FROM edge WHERE parent = ?)"""


class Floor:
    """Raw SQLite."""

    name = "raw SQLite"

    def __init__(self, path: Path, synchronous: str = "FULL") -> None:
        self.path = path
        fresh = not path.exists()
        self._db = apsw.Connection(str(path))
        self._db.set_busy_timeout(10_000)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={synchronous}")
        self._db.execute("PRAGMA cache_size=-16000")
        if fresh:
            self._db.execute(SCHEMA)
        self._lock = threading.Lock()
        self._bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ports: list[int] = []
        self._ports_read = 0.0

    def close(self) -> None:
        self._bell.close()
        self._db.close()

    def publish(self, index: int, priority: int = 2) -> None:
        self.publish_many([index], [priority])

    def publish_many(self, indices: Sequence[int], priorities: Sequence[int] | None = None) -> None:
        self._insert(indices, priorities or [2] * len(indices), [()] * len(indices))

    def publish_graph(self, parents: Sequence[Sequence[int]]) -> None:
        """Node i depends on `parents[i]`, all of them before it."""
        self._insert(range(len(parents)), [2] * len(parents), parents)

    def _insert(self, indices: Sequence[int], priorities: Sequence[int], parents: Sequence[Sequence[int]]) -> None:
        seqs: list[int] = []
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            for index, priority, needed in zip(indices, priorities, parents, strict=True):
                row = (f"{random.getrandbits(128):032x}", priority, WAITING if needed else READY, len(needed))
                seq = int(next(self._db.execute(INSERT, row))[0])
                self._db.execute(INSERT_BODY, (seq, json.dumps({"i": index})))
                if needed:
                    self._db.executemany("INSERT INTO edge VALUES(?, ?)", [(seqs[parent], seq) for parent in needed])
                seqs.append(seq)
            self._db.execute("COMMIT")
        self._ring()

    def list_top(self) -> object:
        return list(
            self._db.execute("SELECT id, priority FROM task WHERE state = 1 ORDER BY priority DESC, seq LIMIT 10")
        )

    def stats(self) -> object:
        return list(self._db.execute("SELECT state, priority, tasks FROM tally"))

    def unfinished(self) -> int:
        return int(next(self._db.execute("SELECT coalesce(sum(tasks), 0) FROM tally WHERE state < 3"))[0])

    def _ring(self) -> None:
        if time.monotonic() - self._ports_read > 0.5:
            self._ports = [int(file.suffix[1:]) for file in self.path.parent.glob("worker.*")]
            self._ports_read = time.monotonic()
        for port in self._ports:
            self._bell.sendto(b".", ("127.0.0.1", port))

    def _exchange(self, finished: list[tuple[int, str]], free: int, owner: str) -> list[tuple[int, str]]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            if finished:
                self._db.executemany(FINISH, [(seq, owner) for seq, _ in finished])
                self._db.executemany(KEEP, [(result, seq) for seq, result in finished])
                self._db.executemany(FREE, [(seq,) for seq, _ in finished])
            rows = [(int(seq), str(payload)) for seq, payload in self._db.execute(CLAIM, (owner, free))] if free else []
            self._db.execute("COMMIT")
            return rows

    def work(self, concurrency: int, kind: str, stopped: threading.Event) -> None:
        asyncio.run(self._work(concurrency, kind, stopped))

    async def _work(self, concurrency: int, kind: str, stopped: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        rung = asyncio.Event()
        owner = os.urandom(6).hex()
        finished: list[tuple[int, str]] = []
        running: set[asyncio.Task[None]] = set()
        writer, threads = ThreadPoolExecutor(1), ThreadPoolExecutor(concurrency)

        class Bell(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                rung.set()

        transport, _ = await loop.create_datagram_endpoint(Bell, local_addr=("127.0.0.1", 0))
        port_file = self.path.parent / f"worker.{transport.get_extra_info('sockname')[1]}"
        port_file.touch()

        async def run(seq: int, payload: str) -> None:
            index = json.loads(payload)["i"]
            result = await loop.run_in_executor(threads, body, index) if kind == "thread" else await async_body(index)
            finished.append((seq, json.dumps(result)))
            rung.set()

        while not stopped.is_set():
            rung.clear()
            done, finished = finished, []
            claimed = await loop.run_in_executor(writer, self._exchange, done, concurrency - len(running), owner)
            for seq, payload in claimed:
                task = loop.create_task(run(seq, payload))
                running.add(task)
                task.add_done_callback(running.discard)
            if claimed:
                await asyncio.sleep(0)
            try:
                await asyncio.wait_for(rung.wait(), 0.1)
            except TimeoutError:
                continue
        port_file.unlink()
        transport.close()
        writer.shutdown()
        threads.shutdown()


def body(index: int) -> dict[str, int]:
    """What every task does: nothing, and a record of it."""
    records.write(index, time.monotonic_ns())
    return {"ok": index}


async def async_body(index: int) -> dict[str, int]:
    return body(index)
