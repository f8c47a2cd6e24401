"""Look-ups and functions that hang: they hold up nobody else, and no event loop waits for them at its end."""

import asyncio
import contextvars
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import daemon_threads
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.daemon_threads import DaemonThreads, in_thread
from core.errors import AllEndpointsFailed
from core.network import HttpError, HttpRequest, Transport, UrlPolicy
from core.network.aiohttp_transport import AiohttpTransport
from core.network.httpcore_transport import HttpcoreTransport
from core.network.lookups import TOO_OLD, Lookups
from tests.support.llm_server import LlmServer
from tests.support.waiting import wait_until

MANY = 70
"""More than any default executor has threads."""


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Set when the test is over, so that no thread outlives it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(params=[HttpcoreTransport, AiohttpTransport], ids=["httpx2", "aiohttp"])
def make(request: pytest.FixtureRequest) -> Callable[..., Transport]:
    found: Callable[..., Transport] = request.param
    return found


def hanging_for(bad: Callable[[str], bool], stuck: threading.Event) -> Callable[[str, int], list[str]]:
    def lookup(host: str, _port: int) -> list[str]:
        if bad(host):
            stuck.wait(30)
            raise socket.gaierror("it never came")
        return ["127.0.0.1"]

    return lookup


@pytest.mark.parametrize("hosts", [1, MANY], ids=["one host", "many hosts"])
async def test_a_host_whose_look_up_hangs_holds_up_no_other(
    make: Callable[..., Transport], llm_server: LlmServer, stuck: threading.Event, hosts: int
) -> None:
    transport = make(None, lookup=hanging_for(lambda host: host.startswith("bad"), stuck))
    waiting = [
        asyncio.create_task(
            transport.send(HttpRequest("GET", f"http://bad{number % hosts}.example:{llm_server.port}/"), 20)
        )
        for number in range(MANY)
    ]
    await asyncio.sleep(0)
    good = HttpRequest("POST", f"http://good.example:{llm_server.port}/alpha", body=b"{}")
    assert (await transport.send(good, 10)).status == 200
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await transport.aclose()


async def test_a_look_up_that_hangs_is_told_of_its_own_host_only(
    make: Callable[..., Transport], stuck: threading.Event
) -> None:
    transport = make(None, lookup=hanging_for(lambda _host: True, stuck))
    with pytest.raises(HttpError) as caught:
        await transport.send(HttpRequest("GET", "http://bad.example/"), 0.5)
    assert (caught.value.kind, caught.value.code) == ("connect", "connect_timeout")


async def test_behind_a_proxy_no_look_up_that_hangs_is_waited_for(
    make: Callable[..., Transport], llm_server: LlmServer, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.network.resolve.VETTING_PATIENCE", 0.05)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{llm_server.port}")
    transport = make(UrlPolicy(require_https=False), lookup=hanging_for(lambda _host: True, stuck))
    request = HttpRequest("POST", "http://api.example/v1", body=b"{}")
    assert (await transport.send(request, 10)).status == 200
    await transport.aclose()


def test_an_event_loop_ends_although_look_ups_hang(make: Callable[..., Transport], stuck: threading.Event) -> None:
    transport = make(None, lookup=hanging_for(lambda _host: True, stuck))

    async def ask() -> None:
        with pytest.raises(HttpError):
            await transport.send(HttpRequest("GET", "http://bad.example/"), 0.05)

    ended = threading.Thread(target=lambda: asyncio.run(ask()))
    ended.start()
    ended.join(10)
    assert not ended.is_alive()


async def test_a_host_is_looked_up_once_at_a_time_and_all_who_ask_get_the_answer() -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def lookup(host: str, _port: int) -> list[str]:
        asked.append(host)
        go_on.wait(10)
        return ["192.0.2.1"]

    lookups = Lookups()
    waiting = [asyncio.create_task(lookups.find(lookup, "a.example", 80)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    go_on.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [answer for answer in answers if answer == ["192.0.2.1"]] == [["192.0.2.1"]] * 19
    assert asked == ["a.example"]
    await lookups.find(lookup, "a.example", 80)
    assert asked == ["a.example"] * 2  # an answer is not kept: the next connection asks again


@pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("label"), RuntimeError("plugin")])
async def test_what_a_look_up_raises_reaches_everybody_who_waits(error: Exception) -> None:
    def lookup(_host: str, _port: int) -> list[str]:
        raise error

    lookups = Lookups()
    found = await asyncio.gather(*(lookups.find(lookup, "a", 80) for _ in range(3)), return_exceptions=True)
    assert found == [error] * 3


async def test_a_look_up_that_hangs_for_long_is_begun_again_for_the_next_caller(stuck: threading.Event) -> None:
    now = [0.0]
    begun: list[int] = []

    def lookup(_host: str, _port: int) -> list[str]:
        first_of_all = not begun
        begun.append(1)
        if first_of_all:
            stuck.wait(30)
        return ["192.0.2.1"]

    lookups = Lookups(lambda: now[0])
    first = asyncio.create_task(lookups.find(lookup, "a", 80))
    while not begun:  # noqa: ASYNC110 - its thread may start late on a busy machine
        await asyncio.sleep(0.001)
    now[0] = TOO_OLD + 1
    assert await lookups.find(lookup, "a", 80) == ["192.0.2.1"]
    assert not first.done()
    stuck.set()
    assert await first == ["192.0.2.1"]


async def test_a_thread_that_cannot_be_started_is_a_connection_failure_and_the_next_look_up_works(
    make: Callable[..., Transport], llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    transport = make(None, lookup=lambda _host, _port: ["127.0.0.1"])
    request = HttpRequest("POST", f"http://good.example:{llm_server.port}/alpha", body=b"{}")
    with monkeypatch.context() as patch:
        patch.setattr(daemon_threads, "THREADS", DaemonThreads())
        patch.setattr("core.network.lookups.THREADS", daemon_threads.THREADS)
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(HttpError) as caught:
            await transport.send(request, 5)
    assert caught.value.kind == "connect"
    assert (await transport.send(request, 5)).status == 200
    await transport.aclose()


async def test_a_function_that_hangs_holds_up_no_other_call(llm_server: LlmServer, stuck: threading.Event) -> None:
    def func(endpoint: ApiEndpoint) -> str:
        if endpoint.name == "bad":
            stuck.wait(30)
        return endpoint.name

    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("bad", llm_server.base_url("bad"), "sk-x", max_requests_per_minute=0))
    manager.add_endpoint(ApiEndpoint("good", llm_server.base_url("good"), "sk-x"))
    waiting = [asyncio.create_task(manager.acall_with_retry(func, endpoint="bad")) for _ in range(MANY)]
    await asyncio.sleep(0.01)
    result, endpoint = await manager.acall_with_retry(func, endpoint="good")
    assert (result, endpoint.name) == ("good", "good")
    assert manager.get_stats()["endpoints"]["good"]["status"] == "active"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def test_an_event_loop_ends_although_a_function_hangs(llm_server: LlmServer, stuck: threading.Event) -> None:
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", llm_server.base_url("a"), "sk-x"))

    async def ask() -> None:
        with pytest.raises(AllEndpointsFailed):
            await manager.acall_with_retry(lambda _endpoint: stuck.wait(30), deadline=0.1)

    ended = threading.Thread(target=lambda: asyncio.run(ask()))
    ended.start()
    ended.join(10)
    assert not ended.is_alive()


def raises_stop(_: object = None) -> None:
    raise StopIteration


@pytest.mark.parametrize(
    ("func", "error"),
    [(lambda: 1 // 0, ZeroDivisionError), (raises_stop, RuntimeError), (lambda: int("x"), ValueError)],
    ids=["an error", "StopIteration", "a bad value"],
)
async def test_what_a_function_raises_in_its_thread_reaches_the_caller(
    func: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await in_thread(func)


async def test_a_function_in_a_thread_sees_the_context_of_its_caller() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("caller")
    assert await in_thread(name.get) == "caller"


async def test_threads_are_used_again_and_an_idle_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_threads, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(daemon_threads, "THREADS", DaemonThreads())
    first = await in_thread(threading.current_thread)
    await asyncio.sleep(0)
    wait_until(lambda: first in threading.enumerate(), "the thread to be idle")
    again = {await in_thread(threading.current_thread) for _ in range(20)}
    assert len(again) <= 2
    assert first.daemon
    wait_until(lambda: not (again | {first}) & set(threading.enumerate()), "the idle threads to end")
    assert (await in_thread(threading.current_thread)) not in again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_forked_child_looks_up_with_threads_of_its_own(tmp_path: Path) -> None:
    program = tmp_path / "forks.py"
    program.write_text(
        """
import asyncio, os, threading, warnings
warnings.simplefilter("ignore")
from core.network.lookups import LOOKUPS
from core.daemon_threads import in_thread
stuck = threading.Event()
def lookup(host, port):
    if os.getpid() == parent:
        stuck.wait(30)
    return ["192.0.2.1"]
async def ask():
    await in_thread(int)
    return await asyncio.wait_for(LOOKUPS.find(lookup, "a", 80), 10 if os.getpid() != parent else 0.1)
parent = os.getpid()
try:
    asyncio.run(ask())
except TimeoutError:
    pass
child = os.fork()
if child == 0:
    os._exit(0 if asyncio.run(ask()) == ["192.0.2.1"] else 1)
raise SystemExit(os.waitpid(child, 0)[1])
""",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
