"""A world of virtual time for the pool: scripted servers, open-loop callers, and the real policy between them.

It is a third driver of the same generator that the sync and async drivers carry out, so hours of traffic take seconds.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.call import Call
from core.cloud.pool.commands import Admit, Pause, Send, SendEnded
from core.cloud.pool.plan import CallPlan


class HttpError(Exception):
    """An HTTP error as SDKs raise it."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, code: str = "") -> None:
        super().__init__(f"server says {status}")
        self.status_code = status
        self.code = code
        self.headers = headers or {}


@dataclass
class Server:
    """Answers after `delay(t)` with `status(t)`; allows `limit` requests in any `window` seconds, then 429 with Retry-After."""

    status: Callable[[float], int] = lambda t: 200
    delay: Callable[[float], float] = lambda t: 0.02
    limit: int = 0
    window: float = 60.0
    retry_after: bool = True
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    recent: deque[float] = field(default_factory=deque)

    def serve(self, t: float) -> tuple[float, int, dict[str, str]]:
        while self.recent and t - self.recent[0] >= self.window:
            self.recent.popleft()
        if self.limit and len(self.recent) >= self.limit:
            self.arrivals.append((t, 429))
            wait = max(1, int(self.window - (t - self.recent[0]) + 0.999))
            return 0.001, 429, {"retry-after": str(wait)} if self.retry_after else {}
        self.recent.append(t)
        status = self.status(t)
        self.arrivals.append((t, status))
        return (self.delay(t) if status == 200 else 0.002), status, {}


@dataclass
class Done:
    """How a call of the world ended."""

    at: float
    latency: float
    endpoint: str
    error: Exception | None


class World:
    """Managers, servers and callers on one clock."""

    def __init__(
        self, servers: dict[str, Server], *, seed: int = 1, managers: list[ApiManager] | None = None, **limits: int
    ) -> None:
        self.clock = ManualClock()
        self.start = self.clock.monotonic()
        self.servers = servers
        self.rng = random.Random(seed)
        self.done: list[Done] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.managers = managers or [ApiManager(clock=self.clock, rng=random.Random(seed))]
        for priority, name in enumerate(servers, 1):
            endpoint = ApiEndpoint(
                name,
                f"https://{name}.example",
                priority=priority,
                timeout=5.0,
                max_requests_per_minute=limits.get(name, 0),
            )
            for manager in self.managers:
                manager.add_endpoint(endpoint)

    @property
    def now(self) -> float:
        return self.clock.monotonic() - self.start

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))

    def run(self, until: float = float("inf")) -> None:
        """Let time pass until nothing is left to happen (or until `until`)."""
        while self._events and self._events[0][0] <= until:
            when, _, action = heapq.heappop(self._events)
            self.clock.advance(max(0.0, when - self.now))
            action()

    def open_loop(self, rate: float, seconds: float, begin: float = 0.0, **plan: object) -> None:
        """Calls that start on schedule whether or not earlier ones have ended."""
        for index in range(int(rate * seconds)):
            manager = self.managers[index % len(self.managers)]
            self.at(begin + index / rate, lambda manager=manager: self.call(manager, **plan))

    def call(self, manager: ApiManager | None = None, then: Callable[[], None] | None = None, **plan: object) -> None:
        pool = (manager or self.managers[0])._pool
        steps = Call(pool, CallPlan(**plan)).steps()
        state = _Steps(self, pool, steps, self.now, then)
        state.send(None)


class _Steps:
    def __init__(self, world, pool, steps, began, then):
        self.world, self.pool, self.steps, self.began, self.then = world, pool, steps, began, then
        self.under_way: dict[object, tuple[float, SendEnded]] = {}
        self.waiting = 0

    def send(self, event):
        world = self.world
        try:
            while True:
                command = self.steps.send(event)
                if isinstance(command, Admit):
                    event = command.member.state.admit(
                        world.clock, last_resort=command.last_resort, tokens=command.tokens
                    )
                elif isinstance(command, Pause):
                    self.pause(command)
                    return
                else:
                    if isinstance(command, Send):
                        self.fly(command)
                    self.wait(command.hedge_after if isinstance(command, Send) else None)
                    return
        except StopIteration as stop:
            self.end(stop.value.sending.member.name, None)
        except Exception as error:
            self.end("", error)

    def pause(self, command):
        self.waiting += 1
        ticket = self.waiting

        def resume():
            if ticket == self.waiting:
                self.waiting += 1
                self.send(None)

        self.world.at(self.world.now + command.seconds, resume)
        if command.turn is not None:
            command.turn.listen(lambda: self.world.at(self.world.now, resume))

    def fly(self, command):
        delay, status, headers = self.world.servers[command.sending.member.name].serve(self.world.now)
        error = None if status == 200 else HttpError(status, headers)
        if delay > command.timeout:
            delay, error = command.timeout, TimeoutError("read timed out")
        self.under_way[command.sending] = (self.world.now + delay, SendEnded(command.sending, "answer", error))

    def wait(self, hedge_after):
        self.waiting += 1
        ticket = self.waiting
        at, ended_send = min(self.under_way.values(), key=lambda entry: entry[0])
        if hedge_after is not None and self.world.now + hedge_after < at:
            self.world.at(self.world.now + hedge_after, lambda: self.send(None) if ticket == self.waiting else None)
            return

        def finish():
            del self.under_way[ended_send.sending]
            self.send(ended_send)

        self.world.at(at, finish)

    def end(self, endpoint, error):
        self.steps.close()
        self.world.done.append(Done(self.began, self.world.now - self.began, endpoint, error))
        if self.then is not None:
            self.then()


def most_in_window(times: list[float], window: float) -> int:
    """The largest number of `times` in any half-open window of that length."""
    times = sorted(times)
    most = first = 0
    for index, time in enumerate(times):
        while time - times[first] >= window:
            first += 1
        most = max(most, index - first + 1)
    return most


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
