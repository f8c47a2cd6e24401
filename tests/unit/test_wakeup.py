"""Signals within a process and between processes (here: between two listeners of one process)."""

import socket
import threading

import pytest

from core.clock import ManualClock
from core.cloud.running.wakeup import MAX_DATAGRAM, Signal, WakeUp, decode, encode
from core.cloud.store_contract import WorkerInfo
from core.errors import StoreBusy


class Workers:
    """A worker table of ports."""

    def __init__(self):
        self.rows = []
        self.reads = 0
        self.trouble = False

    def add(self, port, host=None):
        self.rows.append(WorkerInfo("w", 1, host or socket.gethostname(), port, (), 0, 0))

    def alive(self, since):
        self.reads += 1
        if self.trouble:
            raise StoreBusy("not now")
        return list(self.rows)


class Heard:
    """Remembers signals and lets a test wait for them."""

    def __init__(self):
        self.signals = []
        self.came = threading.Semaphore(0)

    def __call__(self, signal):
        self.signals.append(signal)
        self.came.release()

    def next(self):
        assert self.came.acquire(timeout=10), "no signal came"
        return self.signals[-1]


@pytest.fixture
def workers():
    return Workers()


@pytest.fixture
def pair(workers):
    """A listener, and one that tells it."""
    listener, teller = WakeUp(workers), WakeUp(workers, clock=ManualClock())
    workers.add(listener.listen())
    yield listener, teller
    listener.close()
    teller.close()


def test_a_signal_reaches_another_listener_by_datagram(pair):
    listener, teller = pair
    heard = Heard()
    listener.subscribe(heard)

    teller.notify(["a1", "b2"], work=False)

    assert heard.next() == Signal(("a1", "b2"), work=False)


def test_subscribers_here_are_told_at_once_and_only_once(workers):
    wakeup = WakeUp(workers)
    workers.add(wakeup.listen())
    heard = Heard()
    wakeup.subscribe(heard)
    mine = object()

    wakeup.notify(["a"], origin=mine)

    assert heard.signals == [Signal(("a",), work=True, origin=mine)]
    wakeup.close()


def test_what_unsubscribed_or_fails_hinders_nobody(workers):
    wakeup = WakeUp(workers)
    first, last = Heard(), Heard()
    unsubscribe = wakeup.subscribe(first)
    wakeup.subscribe(lambda signal: 1 / 0)
    wakeup.subscribe(last)
    unsubscribe()
    unsubscribe()

    wakeup.notify()

    assert first.signals == []
    assert len(last.signals) == 1


def test_a_notify_never_fails_for_a_dead_peer_or_a_store_in_trouble(workers):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    workers.add(port)
    teller = WakeUp(workers)
    teller.notify(["a"])
    teller.refresh()
    workers.trouble = True
    teller.notify(["a"])
    teller.close()
    teller.notify(["after"])


def test_the_list_of_peers_is_read_once_a_second_not_once_a_signal(workers):
    clock = ManualClock()
    teller = WakeUp(workers, clock=clock)

    for _ in range(100):
        teller.notify()
    assert workers.reads == 1
    clock.advance(1.0)
    teller.notify()
    assert workers.reads == 2
    teller.close()


def test_workers_of_another_machine_are_not_told(workers, pair):
    listener, teller = pair
    heard = Heard()
    listener.subscribe(heard)
    workers.rows[0] = WorkerInfo("w", 1, "elsewhere", listener.port, (), 0, 0)

    teller.notify(["not-yours"])
    workers.rows[0] = WorkerInfo("w", 1, socket.gethostname(), listener.port, (), 0, 0)
    teller.refresh()
    teller.notify(["yours"])

    assert heard.next().task_ids == ("yours",)
    assert len(heard.signals) == 1


@pytest.mark.parametrize(
    "datagram", [b"", b"x", b"heablcoin1", b"heablcoin1 q", b"\xff" * 40, b"heablcoin1 w " + b"a" * 2000]
)
def test_datagrams_of_strangers_are_passed_over(pair, datagram):
    listener, teller = pair
    heard = Heard()
    listener.subscribe(heard)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(datagram, ("127.0.0.1", listener.port))
    teller.notify(["real"])

    assert heard.next().task_ids == ("real",)
    assert len(heard.signals) == 1


def test_listening_twice_is_one_port_and_closing_twice_is_harmless(workers):
    wakeup = WakeUp(workers)

    assert wakeup.listen() == wakeup.listen() == wakeup.port != 0
    wakeup.close()
    wakeup.close()


def test_ids_that_do_not_fit_a_datagram_are_told_as_something_changed():
    ids = tuple(f"{number:032x}" for number in range(100))

    assert decode(encode(ids[:10], work=True)) == Signal(ids[:10], work=True)
    assert decode(encode(ids, work=False)) == Signal((), work=False)
    assert len(encode(ids, work=True)) <= MAX_DATAGRAM
