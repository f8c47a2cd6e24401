"""Handlers: the functions that run tasks, found by the task's name."""

import inspect
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from core.cloud.gate import Closed, Gate
from core.cloud.handler_limits import HandlerLimits
from core.cloud.handlers.task_context import TaskContext
from core.cloud.queue.submission import check_name, handler_of
from core.errors import HeablcoinError, InvalidArgument, NoHandler, Permanent
from core.json_types import Json

log = logging.getLogger(__name__)

Isolation = Literal["thread", "process"]
HandlerFunction = Callable[..., Any]
CapabilitySource = Callable[[], Iterable[str]]
Lacking = Callable[[str], str]
Hindrance = Callable[["Handler"], str]
PayloadCheck = Callable[[Json], object]


class Place(Enum):
    """Where a handler runs."""

    LOOP = "loop"
    """On an event loop of this process: `async def`."""
    THREAD = "thread"
    """In a thread of this process."""
    PROCESS = "process"
    """In a child process."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function and how it is to be run."""

    name: str
    func: HandlerFunction
    isolation: Isolation
    """`thread`: in this process (`async def` on the runner's event loop). `process`: in a child that can be killed."""
    timeout: float | None
    """Seconds an attempt may take when the task itself sets no timeout; None is without limit."""
    is_async: bool
    takes_context: bool
    capabilities: CapabilitySource | None
    """What this process can run with it, asked again and again; None is the name alone."""
    lacking: Lacking | None
    """Given a capability that is not here: what is missing, in words for the user; '' when that is not known."""
    check: PayloadCheck | None
    """Raises Permanent or InvalidArgument for a payload that this handler could only fail with."""
    gate: Gate | None
    """The limits of something else that each of its tasks has to pass before it is claimed, such as the pool; None for none."""
    limits: HandlerLimits | None
    """Those of its own, over all processes; None leaves those that another process has registered."""

    @property
    def place(self) -> Place:
        """Where it runs."""
        if self.isolation == "process":
            return Place.PROCESS
        return Place.LOOP if self.is_async else Place.THREAD

    def call(self, payload: Json, context: TaskContext) -> object:
        """The function's value, or its awaitable when it is async."""
        return self.func(payload, context) if self.takes_context else self.func(payload)


class HandlerRegistry:
    """Handlers by name. Thread-safe; a later registration of a name replaces the earlier one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[str, Handler] = {}
        self._runners: tuple[tuple[Callable[[], None], Hindrance], ...] = ()
        self._lookers: tuple[Callable[[], None], ...] = ()
        self.coming: Callable[[], str] | None = None
        """Says in words what keeps handlers that are not here; '' or None when all are."""
        self.arriving = False
        """True while more handlers may come by themselves."""

    def register(
        self,
        name: str,
        func: HandlerFunction,
        *,
        isolation: Isolation = "thread",
        timeout: float | None = None,
        capabilities: CapabilitySource | None = None,
        lacking: Lacking | None = None,
        check: PayloadCheck | None = None,
        gate: Gate | None = None,
        max_per_minute: int | None = 0,
        max_concurrency: int = 0,
        key: str = "",
    ) -> Handler:
        """Have tasks named `name` run by `func(payload)` or `func(payload, context)`, `def` or `async def`.

        What it returns is the task's result, written as JSON (see `core.json_types.plain_dumps`): a date, a dataclass or an array
        is read again as text, an object or a list. `timeout` is in seconds, for tasks that set none.
        `isolation="process"` runs each attempt in a fresh child process that is killed at the timeout; the function must
        then be importable by name, and what its script does at the top level must stand under `if __name__ == "__main__":`,
        since each child imports it.

        At most `max_per_minute` tasks start in any 60 s and at most `max_concurrency` run at once (0: no limit), over all processes on the
        database; with `key`, a field of the payload such as `customer`, `order.customer` or `host(url)`, for each of its values by
        itself. A task that has to wait stays pending, and holds up no other. When processes register a name with different limits,
        what the runner of one registers last counts for all, none included; `max_per_minute=None` leaves them as they are.
        What is run by hand, or claimed by an agent, is not held up, but counts as running.

        Raises InvalidArgument when the function cannot be used so, or for limits that cannot be.
        """
        limits = None if max_per_minute is None else HandlerLimits(max_per_minute, max_concurrency, key)
        check_name(name)
        if isolation not in ("thread", "process"):
            raise InvalidArgument(f"There is no isolation {isolation!r}.", 'use "thread" or "process".')
        if timeout is not None and not 0 < timeout < float("inf"):
            raise InvalidArgument(f"The handler {name} has a timeout of {timeout!r}.", "give seconds above 0, or None.")
        handler = Handler(
            name=name,
            func=func,
            isolation=isolation,
            timeout=timeout,
            is_async=is_async_function(func),
            takes_context=takes_context(name, func),
            capabilities=capabilities,
            lacking=lacking,
            check=check,
            gate=gate,
            limits=limits,
        )
        if isolation == "process":
            from core.cloud.handlers.address import address_of

            address_of(name, func)
        with self._lock:
            replaced = name in self._handlers
            self._handlers = {**self._handlers, name: handler}
        log.debug("handler %s %s", name, "replaced" if replaced else "registered")
        self.announce()
        return handler

    def register_handler(
        self,
        name: str,
        func: HandlerFunction,
        *,
        isolation: Isolation = "thread",
        timeout: float | None = None,
        max_per_minute: int = 0,
        max_concurrency: int = 0,
        key: str = "",
    ) -> None:
        """The publisher's method of the same name, so that a handlers file works on either."""
        self.register(
            name,
            func,
            isolation=isolation,
            timeout=timeout,
            max_per_minute=max_per_minute,
            max_concurrency=max_concurrency,
            key=key,
        )

    def get(self, name: str) -> Handler | None:
        """The handler for tasks named `name`, or None."""
        return self._handlers.get(name)

    def require(self, name: str) -> Handler:
        """The handler for tasks named `name`; NoHandler lists those there are."""
        handler = self._handlers.get(name)
        if handler is None:
            raise NoHandler(
                f"No handler for tasks named {name!r} is registered in this process.",
                f"register one with publisher.register_handler({name!r}, function); there are: "
                f"{', '.join(self.names()) or 'none'}.",
            )
        return handler

    def check(self, name: str, payload: Json) -> None:
        """Raise InvalidArgument for a payload that the handler of this name could only fail with.

        Texts that refer to a result are left out of it: what they will be is not known yet.
        """
        handler = self._handlers.get(name)
        if handler is None or handler.check is None:
            return
        try:
            handler.check(payload)
        except (Permanent, InvalidArgument) as error:
            raise InvalidArgument(error.message, error.fix) from error

    def names(self) -> list[str]:
        """The names that have a handler, sorted."""
        return sorted(self._handlers)

    def snapshot(self) -> Mapping[str, Handler]:
        """The handlers by name, as they stand now."""
        return self._handlers

    def capabilities(self, without: Collection[Place] = ()) -> frozenset[str]:
        """What this process can run at this moment: names, and `ai_call@ENDPOINT` for endpoints it has the key of.

        Handlers that run in one of `without` are left out.
        """
        found: set[str] = set()
        for handler in self._handlers.values():
            if without and handler.place in without:
                continue
            if handler.capabilities is None:
                found.add(handler.name)
                continue
            try:
                found.update(handler.capabilities())
            except HeablcoinError as error:
                log.warning("what %s can run is unknown for now: %s", handler.name, error.message)
        return frozenset(found)

    def gates(self, capabilities: Collection[str]) -> dict[str, Gate]:
        """Of these the ones whose tasks have to pass limits."""
        limited = {name: handler.gate for name, handler in self._handlers.items() if handler.gate is not None}
        if not limited:
            return {}
        found = ((each, limited.get(handler_of(each))) for each in capabilities)
        return {each: gate for each, gate in found if gate is not None}

    def gated(self) -> list[str]:
        """The names of the handlers whose tasks have to pass limits."""
        return [name for name, handler in self._handlers.items() if handler.gate is not None]

    def closed(self, capability: str) -> Closed | None:
        """What tasks with this capability wait for now, because of a limit; None for nothing."""
        gate = self.gates([capability]).get(capability)
        try:
            return None if gate is None else gate.closed(capability)
        except HeablcoinError as error:
            log.debug("what %s waits for is unknown for now: %s", capability, error.message)
            return None

    def lacking(self, capability: str) -> str:
        """What this process misses for a capability that it does not have, in words; '' when there is nothing to tell."""
        handler = self._handlers.get(handler_of(capability))
        if handler is None:
            return self.coming() if self.coming is not None else ""
        if handler.lacking is None:
            return ""
        try:
            return handler.lacking(capability)
        except HeablcoinError as error:
            log.debug("what is missing for %s is unknown for now: %s", capability, error.message)
            return ""

    @property
    def served(self) -> bool:
        """True while a runner in this process runs tasks with these handlers."""
        return bool(self._runners)

    def hindrance(self, capability: str) -> str:
        """Why no runner of this process begins it now though it has what it takes, in words; '' when one does."""
        handler = self._handlers.get(handler_of(capability))
        said = [hindrance(handler) for _, hindrance in self._runners] if handler is not None else []
        return said[0] if said and all(said) else ""

    def serve(self, changed: Callable[[], None], hindrance: Hindrance) -> Callable[[], None]:
        """A runner begins to run tasks with these handlers; `changed` is called when `capabilities` may be others.

        `hindrance` says why it begins nothing with a handler for now, '' when it does. Returns what ends that.
        """
        runner = (changed, hindrance)
        with self._lock:
            self._runners = (*self._runners, runner)

        def end() -> None:
            with self._lock:
                self._runners = tuple(each for each in self._runners if each is not runner)

        return end

    def on_opening(self, look: Callable[[], None]) -> Callable[[], None]:
        """Have `look` called when a gate may open earlier than it said; it must not raise or wait. Returns what ends that."""
        with self._lock:
            self._lookers = (*self._lookers, look)

        def end() -> None:
            with self._lock:
                self._lookers = tuple(each for each in self._lookers if each is not look)

        return end

    def reopen(self) -> None:
        """A gate may be open by now: have the runners look. From any thread; never waits."""
        for look in self._lookers:
            look()

    def announce(self) -> None:
        """Something that `capabilities` goes by has changed: tell the runners. Raises nothing."""
        for changed, _ in self._runners:
            try:
                changed()
            except HeablcoinError as error:
                log.warning("what this process can run could not be written down yet: %s", error.message)


def is_async_function(func: HandlerFunction) -> bool:
    """True for `async def`, also behind functools.partial and on a callable object."""
    while hasattr(func, "func") and hasattr(func, "keywords"):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


def takes_context(name: str, func: HandlerFunction) -> bool:
    """True when `func` wants `(payload, context)`, False for `(payload)`; InvalidArgument for anything else.

    The context is passed to a second positional parameter that has no default or is named context or ctx.
    """
    if not callable(func):
        raise InvalidArgument(f"The handler for {name} is not callable.", "pass a function.")
    try:
        parameters = list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    anything = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    needed = [each for each in positional if each.default is each.empty]
    keyword_needed = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    if (not positional and not anything) or len(needed) > 2 or keyword_needed:
        raise InvalidArgument(
            f"The handler for {name} cannot be called with a payload.",
            "give it the parameters (payload) or (payload, context).",
        )
    second = positional[1] if len(positional) > 1 else None
    return second is not None and (second.default is second.empty or second.name in ("context", "ctx"))
