"""Processes that fork: what is made anew in a child, what the parent keeps, and that neither waits for what is not there."""

import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest

from tests.support.llm_server import Step

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork")

PRELUDE = textwrap.dedent(
    """
    import asyncio, faulthandler, json, multiprocessing, os, signal, sys, threading, time, warnings
    from concurrent.futures import ProcessPoolExecutor
    warnings.simplefilter("ignore", DeprecationWarning)
    from core.cloud.api_manager import ApiEndpoint, ApiManager
    from core.cloud.store import open_store

    path = sys.argv[1]
    store = open_store(path) if path else None
    manager = ApiManager(store and store.pool)
    manager.add_endpoint(ApiEndpoint("a", "fake://", provider="fake", max_requests_per_minute=0))
    manager.add_endpoint(ApiEndpoint("b", "fake://?delay=0.05", provider="fake", max_requests_per_minute=10**7, max_concurrency=50))

    def everything():
        "Every public call of the pool, in this process; how many of them are counted."
        for name in ("a", "b"):
            assert manager.chat("hi", endpoint=name, deadline=5.0).text == "echo: hi"
            assert manager.call_with_retry(lambda endpoint: endpoint.name, endpoint=name, deadline=5.0)[0] == name

        async def in_a_loop():
            await manager.acall_with_retry(lambda endpoint: endpoint.name, deadline=5.0)
            await manager.achat("hi", deadline=5.0)
            return [chunk.text async for chunk in manager.astream("hi", deadline=5.0)]

        assert "".join(asyncio.run(in_a_loop())) == "echo: hi"
        stats = manager.get_stats()
        assert all(info["in_flight"] == 0 for info in stats["endpoints"].values())
        assert manager.usable() == {"a", "b"}
        return 7

    def child_of(work):
        "Run `work` in a forked child, which has 20 seconds; its process id."
        pid = os.fork()
        if pid == 0:
            faulthandler.register(signal.SIGALRM, chain=True)  # no thread of its own, which a fork of the fork would wait for
            signal.alarm(20)
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                if store is not None:
                    store.pool.flush()
                os._exit(code)
        return pid

    def ended(pid):
        return os.waitpid(pid, 0)[1]
    """
)

FORKS = {
    "a fork before any call": """
        pid = child_of(everything)
        assert ended(pid) == 0
        calls = everything() + 7
    """,
    "a fork after calls of every kind": """
        calls = everything()
        pid = child_of(everything)
        assert ended(pid) == 0
        calls += everything() + 7
    """,
    "four workers of a preloaded server, at once": """
        calls = everything()
        pids = [child_of(everything) for _ in range(4)]
        assert [ended(pid) for pid in pids] == [0] * 4
        calls += everything() + 28
    """,
    "multiprocessing by fork": """
        calls = everything()
        process = multiprocessing.get_context("fork").Process(target=lambda: (everything(), store and store.pool.flush()))
        process.start()
        process.join(20)
        assert process.exitcode == 0
        calls += everything() + 7
    """,
    "a pool of processes by fork": """
        calls = everything()
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            assert pool.submit(everything).result(20) == 7
            pool.submit(lambda_flush).result(20)
        calls += everything() + 7
    """,
    "a fork of a fork": """
        calls = everything()
        def again():
            everything()
            assert ended(child_of(everything)) == 0
            everything()
        assert ended(child_of(again)) == 0
        calls += everything() + 21
    """,
    "a fork by another thread than the one that called": """
        calls = everything()
        statuses = []
        thread = threading.Thread(target=lambda: statuses.append(ended(child_of(everything))))
        thread.start()
        thread.join(25)
        assert statuses == [0]
        calls += everything() + 7
    """,
    "a fork while calls are under way": """
        threads = [threading.Thread(target=lambda: manager.chat("slow", endpoint="b", deadline=5.0)) for _ in range(5)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while sum(info["in_flight"] for info in manager.get_stats()["endpoints"].values()) == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        pid = child_of(everything)
        assert ended(pid) == 0
        for thread in threads:
            thread.join(10)
        calls = everything() + 7 + 5
    """,
    "forks while four threads never stop calling": """
        going, made = True, []
        def call():
            while going:
                manager.call_with_retry(lambda endpoint: endpoint.name, deadline=5.0, strategy="round_robin")
                made.append(1)
                time.sleep(0.001)
        threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            assert ended(child_of(everything)) == 0
        going = False
        for thread in threads:
            thread.join(10)
        calls = len(made) + everything() + 42
    """,
}


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
@pytest.mark.parametrize("script", FORKS.values(), ids=FORKS)
def test_both_sides_of_a_fork_go_on(script, shared, tmp_path):
    path = tmp_path / "pool.db"
    end = """
    def lambda_flush():
        if store is not None:
            store.pool.flush()
    """
    report = """
    if store is not None:
        assert manager.get_stats()["calls"] == calls, (manager.get_stats()["calls"], calls)
    manager.close()
    if store is not None:
        store.close()
    print("done")
    """
    run(PRELUDE + textwrap.dedent(end) + textwrap.dedent(script) + textwrap.dedent(report), str(path) if shared else "")
    if shared:
        sound(path)


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
    return done.stdout


def sound(path: Path) -> None:
    connection = apsw.Connection(str(path))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_connections_are_made_anew_in_a_child(llm_server):
    llm_server.script("one", Step(text="hello"))
    script = PRELUDE + textwrap.dedent(
        """
        manager.add_endpoint(ApiEndpoint("http", sys.argv[2], api_key="sk-test-test", model="m"))
        ask = lambda: manager.chat("hi", endpoint="http", deadline=10.0).text
        assert ask() == "hello"

        def many():
            for _ in range(5):
                assert ask() == "hello"

        pids = [child_of(many) for _ in range(3)]
        many()
        assert [ended(pid) for pid in pids] == [0] * 3
        many()
        manager.close()
        print("done")
        """
    )
    run(
        script.replace(
            "manager = ApiManager(",
            'from core.network import UrlPolicy\nmanager = ApiManager(url_policy=UrlPolicy.parse("127.0.0.1"), store=',
            1,
        ),
        "",
        llm_server.base_url("one"),
    )
    assert len(llm_server.arrivals("one")) == 1 + 15 + 10


def test_a_queue_is_used_on_both_sides_of_a_fork(tmp_path):
    path = tmp_path / "queue.db"
    script = """
    import json, os, signal, sys, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    from core.runtime import Runtime, RuntimeOptions
    from core.cloud.enhanced_publisher import TaskStatus

    runtime = Runtime.open(RuntimeOptions(database=sys.argv[1], keys="process"))
    runtime.start()
    publisher = runtime.publisher

    def finished(task_id):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if publisher.get_task(task_id).status is TaskStatus.COMPLETED:
                return True
            time.sleep(0.01)
        return False

    slow = publisher.publish("sleep", {"seconds": 1.5}).task_id
    assert finished(publisher.publish("echo", {"of": "the parent"}).task_id)
    pids = []
    for end in ("stop", "exit"):
        pid = os.fork()
        if pid == 0:
            signal.alarm(25)
            try:
                assert finished(publisher.publish("echo", {"of": "a child"}).task_id)
                assert publisher.get_stats()
                if end == "stop":
                    runtime.stop()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            if end == "stop":
                os._exit(0)
            sys.exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert finished(slow)
    assert finished(publisher.publish("echo", {"of": "the parent again"}).task_id)
    runtime.stop()
    print("done")
    """
    run(textwrap.dedent(script), str(path))
    sound(path)
    connection = apsw.Connection(str(path))
    attempts = connection.execute("SELECT outcome, count(*) FROM attempt GROUP BY outcome").fetchall()
    connection.close()
    assert attempts == [("completed", 5)]
