"""What a call of the pool tells the host of the code that makes it."""

import asyncio
import os
import random
import subprocess
import sys
import threading

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.pool.wait_reports import attend, told_to
from core.cloud.providers.fake import FakeProvider
from core.errors import AllEndpointsFailed, LeaseLost
from tests.support.pool_world import HttpError


class Host:
    """Keeps the counts, and each state they came to."""

    def __init__(self):
        self.asking = self.waiting = 0
        self.unwanted = False
        self.waits = threading.Event()
        self.states = []
        self.wakes = []

    def count(self, *, asking, waiting):
        self.asking += asking
        self.waiting += waiting
        self.states.append((self.asking, self.waiting))
        if self.waiting:
            self.waits.set()

    def listen(self, wake):
        self.wakes.append(wake)
        if self.unwanted:
            wake()

    def unlisten(self, wake):
        self.wakes.remove(wake)


ASKS, WAITS, NEITHER = (1, 0), (0, 1), (0, 0)


@pytest.fixture
def host():
    return Host()


class LongestJitter(random.Random):
    """Every back-off is as long as it may be: one of a few milliseconds would be told to nobody."""

    def uniform(self, a, b):
        return b


def manager_of(clock=None, sleep=None, window=60.0, rng=None, **settings):
    manager = ApiManager(
        PrivatePoolState(window=window), clock=clock, sleep=sleep, providers={"fake": FakeProvider()}, rng=rng
    )
    manager.add_endpoint(ApiEndpoint("a", "https://a.example", provider="fake", **settings))
    return manager


def answers(endpoint):
    return "answer"


def test_a_call_that_need_not_wait_only_asks(host):
    with told_to(host):
        manager_of().call_with_retry(answers)
    assert host.states == [ASKS, NEITHER]


def test_a_call_waits_from_its_first_pause_until_it_asks(host):
    clock = ManualClock()
    manager = manager_of(clock, clock.advance, max_requests_per_minute=1)
    manager.call_with_retry(answers)
    with told_to(host):
        manager.call_with_retry(answers)
    assert host.states == [WAITS, ASKS, NEITHER]
    assert host.wakes == []


def test_a_call_that_fails_and_pauses_before_it_asks_again_waits_in_between(host):
    clock, errors = ManualClock(), [HttpError(503), HttpError(503)]
    manager = manager_of(clock, clock.advance, rng=LongestJitter())

    def fails_twice(endpoint):
        if errors:
            raise errors.pop()
        return "answer"

    with told_to(host):
        manager.call_with_retry(fails_twice)
    assert host.states == [ASKS, WAITS, ASKS, WAITS, ASKS, NEITHER]


def test_a_wait_of_many_short_pauses_is_told_once_it_is_long_enough(host):
    clock = ManualClock()
    with told_to(host):
        presence = attend(clock)
    for _ in range(10):
        with presence.pauses(0.02, lambda: None):
            clock.advance(0.02)
    assert host.states == [WAITS]
    presence.over()
    presence.over()
    assert host.states == [WAITS, NEITHER]


def test_a_short_pause_is_told_to_nobody(host):
    clock = ManualClock()
    with told_to(host):
        presence = attend(clock)
    for _ in range(10):
        with presence.pauses(0.02, lambda: None):
            clock.advance(0.02)
        presence.asks()
        presence.over()
    assert (0, 1) not in host.states


def test_a_call_that_gives_up_leaves_no_trace(host):
    manager = manager_of(max_requests_per_minute=1)
    manager.call_with_retry(answers)
    with told_to(host), pytest.raises(AllEndpointsFailed):
        manager.call_with_retry(answers, deadline=1)
    assert (host.asking, host.waiting) == NEITHER


async def test_a_call_that_is_cancelled_leaves_no_trace(host):
    manager = manager_of(max_requests_per_minute=1)
    await manager.achat("?")
    with told_to(host):
        call = asyncio.create_task(manager.achat("?"))
    assert await asyncio.to_thread(host.waits.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert host.states == [WAITS, NEITHER]
    assert host.wakes == []


async def test_a_stream_asks_until_its_reader_is_done(host):
    manager = manager_of()
    with told_to(host):
        stream = manager.astream("one two three")
        await anext(stream)
        assert host.states == [ASKS]
        await stream.aclose()
    assert host.states == [ASKS, NEITHER]


@pytest.mark.parametrize("way", ["chat", "call_with_retry"])
def test_a_wait_that_nobody_wants_any_more_ends_at_once(host, way):
    manager = manager_of(max_requests_per_minute=1)
    manager.call_with_retry(answers)
    ended = []

    def calls():
        with told_to(host):
            try:
                getattr(manager, way)(answers if way == "call_with_retry" else "?")
            except LeaseLost as error:
                ended.append(error)

    caller = threading.Thread(target=calls)
    caller.start()
    assert host.waits.wait(10)
    host.unwanted = True
    for wake in list(host.wakes):
        wake()
    caller.join(10)

    assert len(ended) == 1
    assert (host.asking, host.waiting) == NEITHER
    assert not manager._pool.wait_queue.waiters
    manager.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_fork_of_its_process_tells_it_nothing(tmp_path):
    program = tmp_path / "forks.py"
    program.write_text(
        """
import os, warnings
warnings.simplefilter("ignore")
from tests.unit.pool.test_waiting_hosts import Host, answers, manager_of
from core.cloud.pool.wait_reports import told_to
host = Host()
with told_to(host):
    manager_of().call_with_retry(answers)
    assert host.states, "its own process is told"
    host.states.clear()
    child = os.fork()
    if child == 0:
        manager_of().call_with_retry(answers)
        inherited = list(host.states)
        with told_to(host):
            manager_of().call_with_retry(answers)
        os._exit(1 if inherited else 0 if host.states else 2)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_outside_its_code_nothing_is_told(host):
    with told_to(host):
        pass
    manager_of().call_with_retry(answers)
    with told_to(host), told_to(None):
        manager_of().call_with_retry(answers)
    assert host.states == []
