"""Calls of the pool, and handlers that make them, moved on a step at a time: no event loop, no network.

The call core, the drivers' `admit` and the handlers are the real ones; each request and each pause of a call ends when the test
says so.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.cloud.chat import ChatAnswer, Usage
from core.cloud.pool import wait_reports
from core.cloud.pool.admission import Refused
from core.cloud.pool.call import Call
from core.cloud.pool.commands import Admit, Pause, Send, SendEnded
from core.cloud.pool.drivers import admit
from core.cloud.pool.pool import Sending
from core.cloud.pool.wait_queue import Waiter
from core.cloud.pool.wait_reports import attend
from core.cloud.running.running_attempt import RunningAttempt
from core.cloud.store_contract import Claim
from core.errors import AllEndpointsFailed

if TYPE_CHECKING:
    from tests.support.limits_process import Process

FOREVER = float("inf")
ANSWER = ChatAnswer("yes", "m", Usage(1, 1), "stop")


class Nap:
    """A pause of a call, which may be ended early."""

    def __init__(self, pause: Pause) -> None:
        self.seconds, self.turn = pause.seconds, pause.turn
        self.called = False

    def wake(self) -> None:
        self.called = True


@types.coroutine
def stepwise(pool: Any, plan: Any, _work: object) -> Generator[Any, Any, Any]:
    """In the place of `adrive`: whoever moves the coroutine admits, asks and waits."""
    call = Call(pool, plan)
    steps = call.steps()
    presence = attend(pool.clock)
    event = None
    try:
        while True:
            command = steps.send(event)
            if isinstance(command, Pause):
                nap = Nap(command)
                with presence.pauses(nap.seconds, nap.wake):
                    yield nap
                event = None
            else:
                if isinstance(command, Send):
                    presence.asks()
                event = yield command
    except StopIteration as stop:
        return stop.value
    except AllEndpointsFailed as failure:
        raise failure from call.cause()
    finally:
        presence.over()
        steps.close()


@dataclass(frozen=True)
class Watch:
    """Whom a process tells of what happens in it."""

    claimed: Callable[["Process", Sequence[Claim]], None]
    admitted: Callable[["Process", Admit, int], None]
    left: Callable[["Process", "Mover", Send], None]
    ended_send: Callable[["Mover", BaseException | None], None]
    wrote: Callable[["Process"], None]


class Mover:
    """A coroutine that calls the pool, and stops at each request and at each pause."""

    def __init__(
        self,
        process: "Process",
        work: Coroutine[Any, Any, object],
        ended: Callable[["Mover", object, BaseException | None], None],
        key: tuple[str, int] | None = None,
    ) -> None:
        self.process, self.key = process, key
        self._work, self._ended = work, ended
        self.sending: Sending | None = None
        """What it asks an endpoint; None while it pauses."""
        self.fate: tuple[float, Exception | None] | None = None
        """When (monotonic) and how its request ends by itself; None for one that is ended by hand, or times out."""
        self.start: Any = None
        """The slot that its present request has, as whoever watches it calls it."""
        self.nap: Nap | None = None
        self.due = FOREVER
        """Monotonic: when the request times out, or the pause is over."""

    @property
    def turn(self) -> Waiter | None:
        return None if self.nap is None else self.nap.turn

    def go(self, event: SendEnded | None = None, error: BaseException | None = None) -> None:
        if self.sending is not None:
            self.process.watch.ended_send(self, error if error is not None else event.error)
        self.sending, self.nap, self.fate, self.due = None, None, None, FOREVER
        try:
            command = self._work.throw(error) if error is not None else self._work.send(event)
            while isinstance(command, Admit):
                answer = admit(self.process.manager._pool, command)
                if not isinstance(answer, Refused):
                    self.process.watch.admitted(self.process, command, answer)
                command = self._work.send(answer)
        except StopIteration as stop:
            self._ended(self, stop.value, None)
        except BaseException as failure:
            if isinstance(failure, AssertionError):
                raise
            self._ended(self, None, failure)
        else:
            self._stop_at(command)

    def _stop_at(self, command: Send | Nap) -> None:
        now = self.process.clock.monotonic()
        if isinstance(command, Send):
            self.sending, self.due = command.sending, now + command.timeout
            self.process.watch.left(self.process, self, command)
            if self.fate is not None:
                self.due = min(self.due, self.fate[0])
        else:
            self.nap, self.due = command, now + command.seconds
            if command.turn is not None:
                command.turn.listen(command.wake)

    def is_due(self) -> bool:
        return (self.nap is not None and self.nap.called) or self.due <= self.process.clock.monotonic()

    def go_on(self) -> None:
        """Its time has come."""
        if self.sending is None:
            self.go()
        elif self.fate is not None and self.fate[0] <= self.process.clock.monotonic():
            self.finish(self.fate[1])
        else:
            self.finish(TimeoutError("no answer in time"))

    def finish(self, error: Exception | None) -> None:
        assert self.sending is not None
        self.go(SendEnded(self.sending, ANSWER, error))

    def close(self) -> None:
        self._work.close()


class Bench:
    """In the place of a `AsyncExecutor`: its handlers begin, and make their next steps, when they are told to."""

    def __init__(self, process: "Process", ended: Any, too_late: Any) -> None:
        self._process, self._ended, self._too_late = process, ended, too_late
        self.queue: list[RunningAttempt] = []
        self.running: dict[tuple[str, int], RunningAttempt] = {}
        self.movers: dict[tuple[str, int], Mover] = {}
        self._cancelled: list[tuple[str, int]] = []

    def start(self, attempts: Sequence[RunningAttempt]) -> None:
        self.queue.extend(attempts)

    def recall(self) -> list[RunningAttempt]:
        recalled, self.queue = self.queue, []
        return recalled

    def cancel(self, attempt: RunningAttempt) -> None:
        attempt.cancel_seen = True
        self._cancelled.append(attempt.key)

    def answers(self) -> bool:
        return True

    def close(self) -> None: ...

    def step(self) -> bool:
        """Begin what was started, cancel what is to be cancelled, go on where the time has come. False when there was nothing."""
        queue, cancelled = self.recall(), [key for key in self._cancelled if key in self.movers]
        self._cancelled = []
        for attempt in queue:
            self._begin(attempt)
        for key in cancelled:
            if key in self.movers:
                self.movers[key].go(error=asyncio.CancelledError())
        due = [mover for mover in self.movers.values() if mover.is_due()]
        for mover in due:
            if self.movers.get(mover.key) is mover:
                mover.go_on()
        return bool(queue or cancelled or due)

    def _begin(self, attempt: RunningAttempt) -> None:
        attempt.begun = True
        if attempt.settled or attempt.unwanted() or self._too_late(attempt):
            self._ended([(attempt, None, asyncio.CancelledError())])
            return
        handler = attempt.handler
        work = (
            handler.func(attempt.payload, attempt.context) if handler.takes_context else handler.func(attempt.payload)
        )
        mover = Mover(self._process, work, self._over, attempt.key)
        self.running[attempt.key], self.movers[attempt.key] = attempt, mover
        with wait_reports.told_to(attempt.rest):
            mover.go()

    def _over(self, mover: Mover, value: object, error: BaseException | None) -> None:
        attempt = self.running.pop(mover.key)
        del self.movers[mover.key]
        attempt.done = True
        self._ended([(attempt, value, error)])
