"""The handler registry: what may be a handler, and what a process can run."""

import asyncio
import functools

import pytest

from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.errors import InvalidArgument, NoHandler, StoreBusy


def one(payload):
    return payload


def two(payload, context):
    return payload, context


async def asynchronous(payload, ctx):
    return ctx.attempt


class Callable:
    async def __call__(self, payload):
        return payload


@pytest.mark.parametrize(
    ("func", "takes_context", "is_async"),
    [
        (one, False, False),
        (two, True, False),
        (asynchronous, True, True),
        (lambda payload, retries=3: 0, False, False),
        (lambda payload, context=None: 0, True, False),
        (lambda *args: 0, False, False),
        (functools.partial(two, context=1), False, False),
        (functools.partial(asynchronous), True, True),
        (Callable(), False, True),
        (dict, False, False),
    ],
)
def test_the_context_is_passed_to_those_that_want_it(func, takes_context, is_async):
    handler = HandlerRegistry().register("name", func)

    assert (handler.takes_context, handler.is_async) == (takes_context, is_async)


@pytest.mark.parametrize(
    "func", [lambda: 0, lambda payload, context, more: 0, lambda payload, *, more: 0, "text", None]
)
def test_what_cannot_be_called_with_a_payload_is_refused(func):
    registry = HandlerRegistry()

    with pytest.raises(InvalidArgument, match="handler for name"):
        registry.register("name", func)
    assert registry.names() == []


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "line\nbreak", 7])
def test_a_bad_name_is_refused(name):
    with pytest.raises(InvalidArgument):
        HandlerRegistry().register(name, one)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_bad_timeout_is_refused(timeout):
    with pytest.raises(InvalidArgument, match="timeout"):
        HandlerRegistry().register("name", one, timeout=timeout)


def test_a_bad_isolation_is_refused():
    with pytest.raises(InvalidArgument, match="isolation"):
        HandlerRegistry().register("name", one, isolation="container")


def test_a_function_that_no_other_process_could_find_cannot_be_isolated():
    registry = HandlerRegistry()

    with pytest.raises(InvalidArgument, match="top level"):
        registry.register("inner", lambda payload: 0, isolation="process")
    registry.register("outer", one, isolation="process")
    assert registry.names() == ["outer"]


def test_a_later_registration_replaces_the_earlier_one():
    registry = HandlerRegistry()
    registry.register("name", one)
    registry.register("name", two)

    assert registry.get("name").func is two
    assert registry.names() == ["name"]


def test_a_missing_handler_is_named_with_those_there_are():
    registry = builtin_handlers()

    with pytest.raises(NoHandler, match="echo, http_request, sleep"):
        registry.require("market_analysis")


def test_capabilities_follow_what_a_handler_can_do_at_the_moment():
    usable = ["a"]
    registry = HandlerRegistry()
    registry.register("echo", one)
    registry.register("ai_call", one, capabilities=lambda: [f"ai_call@{name}" for name in usable])

    assert registry.capabilities() == {"echo", "ai_call@a"}
    usable.append("b")
    assert registry.capabilities() == {"echo", "ai_call@a", "ai_call@b"}


def test_a_handler_that_cannot_say_what_it_can_do_hides_no_other():
    def trouble():
        raise StoreBusy("not now")

    registry = HandlerRegistry()
    registry.register("echo", one)
    registry.register("ai_call", one, capabilities=trouble)

    assert registry.capabilities() == {"echo"}


def test_a_handler_gives_its_value_or_its_awaitable():
    registry = HandlerRegistry()
    context = TaskContext("id", "name", 3)

    assert registry.register("one", one).call({"a": 1}, context) == {"a": 1}
    assert asyncio.run(registry.register("async", asynchronous).call({}, context)) == 3


@pytest.mark.parametrize("share", [-0.1, 1.1, float("inf")])
def test_progress_outside_nought_to_one_is_refused(share):
    with pytest.raises(InvalidArgument, match="0 to 1"):
        TaskContext("id", "name", 1).progress(share)


def test_a_share_that_is_not_a_number_counts_as_unknown():
    said = []
    TaskContext("id", "name", 1, report=lambda share, message: said.append(share)).progress(float("nan"))
    assert said == [None]


def test_progress_is_reported_with_a_bounded_message():
    said = []
    context = TaskContext("id", "name", 1, report=lambda share, message: said.append((share, message)))

    context.progress(1, "x" * 1_000)
    context.progress(None)

    assert said == [(1.0, "x" * 500), (None, "")]
