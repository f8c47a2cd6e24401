"""Waking what waits: at once in this process, by a datagram on loopback in the user's other processes.

A signal is a hint, never the truth: it may be lost, repeated or come from anybody on this machine, so whoever is woken
looks into the store, and slow polling is the net below. That is why a datagram needs no proof of who sent it.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from core.clock import Clock, SystemClock
from core.cloud.store_contract import WorkerStore
from core.errors import HeablcoinError
from core.fork import ForkAware, abandon, tell_of_forks
from core.safe_text import encodable

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
HEADER = b"heablcoin1"
MAX_DATAGRAM = 1400
PEERS_FOR = 0.1
"""Seconds for which the list of other processes is used before it is read again; a runner that started looks for work
once more after so long, because a publisher may not have known it until then."""
PEER_SEEN_WITHIN = 60.0
"""Seconds since its last heartbeat for which a process is still told of changes."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Something changed in the queue."""

    task_ids: tuple[str, ...] = ()
    """The tasks that changed; () when they were too many to name."""
    work: bool = True
    """True when something may have become ready, or due at a new time; False for progress and results alone."""
    origin: object | None = None
    """Who said so, when it was said in this process; lets a subscriber pass over its own words."""


Subscriber = Callable[[Signal], None]


class WakeUp(ForkAware):
    """Tells this process's subscribers and the user's other processes that the queue changed.

    Thread-safe. `notify` never raises and never waits: a publish that is already durable must not fail over a hint.
    """

    def __init__(self, workers: WorkerStore | None = None, *, clock: Clock | None = None) -> None:
        self._workers = workers
        self._clock = clock or SystemClock()
        self._host = encodable(socket.gethostname())
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._peers: tuple[int, ...] = ()
        self._peers_read_at = float("-inf")
        self._sender: socket.socket | None = None
        self._receiver: socket.socket | None = None
        self._port = 0
        self._closed = False
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """Nobody listens here: the thread that heard, and those it told, are the parent's."""
        abandon(self._receiver, self._sender)
        self._lock = threading.Lock()
        self._subscribers, self._receiver, self._sender = (), None, None
        self._port, self._peers_read_at = 0, float("-inf")

    @property
    def port(self) -> int:
        """The loopback UDP port on which this process can be woken; 0 before `listen`."""
        return self._port

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback` with every signal, in the thread that gave it; returns what ends that.

        A callback must be quick and must not wait. One that raises is logged and goes on being called.
        """
        with self._lock:
            self._subscribers = (*self._subscribers, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(each for each in self._subscribers if each is not callback)

        return unsubscribe

    def listen(self) -> int:
        """Start to hear the other processes; returns the port to register in the worker table. Repeats are harmless.

        Raises OSError or RuntimeError, and nothing has begun, when there is no socket or no thread to be had.
        """
        with self._lock:
            if self._receiver is None and not self._closed:
                receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                try:
                    receiver.bind((LOOPBACK, 0))
                    port = int(receiver.getsockname()[1])
                    self._receiver = receiver
                    threading.Thread(target=self._hear, args=(receiver,), name="heablcoin-wakeup", daemon=True).start()
                except BaseException:
                    self._receiver = None
                    receiver.close()
                    raise
                self._port = port
            return self._port

    def deafen(self) -> None:
        """Hear the other processes no more, until `listen` is called again."""
        with self._lock:
            receiver, self._receiver = self._receiver, None
            port, self._port = self._port, 0
        if receiver is not None:
            _end_of_hearing(port)

    def notify(self, task_ids: Iterable[str] = (), *, work: bool = True, origin: object | None = None) -> None:
        """Tell everybody that these tasks changed."""
        ids = tuple(task_ids)
        self._tell(Signal(ids, work, origin))
        peers = self._other_ports()
        if not peers:
            return
        datagram = encode(ids, work=work)
        try:
            sender = self._sender
            if sender is None:
                sender = self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sender.setblocking(False)
        except OSError as error:
            log.debug("no socket to wake other processes with: %s", error)
            return
        for port in peers:
            with contextlib.suppress(OSError):
                sender.sendto(datagram, (LOOPBACK, port))

    def refresh(self) -> None:
        """Forget the list of other processes, so that the next `notify` reads it anew."""
        self._peers_read_at = float("-inf")

    def close(self) -> None:
        """Stop hearing and telling; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._subscribers = ()
            receiver, self._receiver = self._receiver, None
            sender, self._sender = self._sender, None
        if receiver is not None:
            _end_of_hearing(self._port)
        if sender is not None:
            sender.close()

    def _other_ports(self) -> tuple[int, ...]:
        if self._workers is None or self._closed:
            return ()
        now = self._clock.monotonic()
        if now - self._peers_read_at >= PEERS_FOR:
            self._peers_read_at = now
            try:
                alive = self._workers.alive(self._clock.now() - PEER_SEEN_WITHIN)
            except HeablcoinError as error:
                log.debug("the list of other processes could not be read: %s", error.message)
                return self._peers
            self._peers = tuple(
                {each.wake_port for each in alive if each.wake_port and each.host == self._host} - {self._port}
            )
        return self._peers

    def _hear(self, receiver: socket.socket) -> None:
        with receiver:
            while self._receiver is receiver:
                try:
                    datagram = receiver.recv(MAX_DATAGRAM + 1)
                except ConnectionError:
                    # Windows reports a peer's closed port here; it concerns an earlier send, not us.
                    continue
                except OSError as error:
                    if self._receiver is receiver:
                        log.warning("waking by other processes ended (%s); polling goes on", error)
                    return
                signal = decode(datagram)
                if signal is not None:
                    self._tell(signal)

    def _tell(self, signal: Signal) -> None:
        for callback in self._subscribers:
            try:
                callback(signal)
            except Exception:
                log.exception("a subscriber to queue changes failed")


def _end_of_hearing(port: int) -> None:
    # A blocked recv does not notice that its socket was closed: wake it first.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(b"", (LOOPBACK, port))


def encode(task_ids: tuple[str, ...], *, work: bool) -> bytes:
    """A signal as one datagram; ids that do not fit make it one without ids."""
    head = b"%s %s" % (HEADER, b"w" if work else b"c")
    datagram = b" ".join((head, *(task_id.encode() for task_id in task_ids)))
    return datagram if len(datagram) <= MAX_DATAGRAM else head


def decode(datagram: bytes) -> Signal | None:
    """The signal in a datagram; None for anything that is not one of ours."""
    if len(datagram) > MAX_DATAGRAM or not datagram.isascii():
        return None
    header, *rest = datagram.split(b" ")
    if header != HEADER or not rest or rest[0] not in {b"w", b"c"}:
        return None
    return Signal(tuple(part.decode() for part in rest[1:] if part), work=rest[0] == b"w")
