"""Ten thousand replies that no provider should send: recorded shapes with something dropped, nulled, retyped, cut, moved or split.

Whatever comes, a call ends as a result or as an error of a known class, in time; no slot is kept, nothing of ours is logged as a fault,
and the endpoint's health is what its outcome says. Each case is made of its number alone, so that one that fails can be run by itself.
"""

import asyncio
import copy
import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.health import Health, HoldKind
from core.cloud.pool.outcome import OutcomeClass
from core.cloud.provider import ProviderError
from core.cloud.providers import provider_for
from core.cloud.replies.token_counts import MOST_TOKENS
from core.errors import AllEndpointsFailed
from tests.support.scripted_transport import Reply, ScriptedTransport
from tests.unit.providers.test_conformance import ERRORS, TOLERATED, WHOLE

CASES = 10_000
AT_ONCE = 50
TIMEOUT = 0.1
"""Seconds the endpoint has for a first token: what hangs, hangs for this long."""
DEADLINE = 20.0

STREAMS = [(wire, stream) for wire, stream, *_ in (*TOLERATED.values(), *ERRORS.values())]
BODIES = [(wire, body) for wire, body, _ in WHOLE.values()]
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 12, 12.5, 2**63, -(2**63), 1e308, 10**400, "", "0", "12", "null", "\u0000", "\ud800", "x" * 5000, "中文",
    [], {}, [None], [[]], [{}], {"": None}, {"error": None}, {"error": {}}, {"text": 1}, [[[[[[]]]]]], "data: {}", "[DONE]",
)  # fmt: skip
STATUSES = (200, 200, 200, 200, 201, 204, 302, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529)
TYPES = (
    "application/json",
    "text/event-stream",
    "text/event-stream; charset=utf-8",
    "text/plain",
    "text/html",
    "",
    ";",
)
HEADERS: tuple[dict[str, str], ...] = (
    {}, {}, {}, {"retry-after": "3"}, {"retry-after": "-1"}, {"retry-after": "nan"}, {"retry-after": "1e999"}, {"retry-after-ms": "x"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"},
    {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, {"x-should-retry": "maybe"},
)  # fmt: skip


def odd(rng: random.Random) -> Any:
    """One of ODD, a copy of its own: a case that changes it must not change what later cases get, nor make it hold itself."""
    return copy.deepcopy(rng.choice(ODD))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything inside a JSON value."""
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one thing in it dropped, nulled, retyped or doubled."""
    paths = list(places(value))
    if not paths:
        return odd(rng)
    path = rng.choice(paths)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    way = rng.choice(("drop", "null", "retype", "retype", "number as text", "wrap", "double"))
    key, old = path[-1], holder[path[-1]]
    if way == "drop":
        del holder[key]
    elif way == "double" and isinstance(holder, list):
        holder.append(old)
    elif way == "number as text" and isinstance(old, int | float):
        holder[key] = str(old)
    elif way == "wrap":
        holder[key] = [old]
    else:
        holder[key] = None if way == "null" else odd(rng)
    return value


def encoded(value: Any, rng: random.Random) -> bytes:
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def changed_event(block: bytes, rng: random.Random) -> bytes:
    """One event of a stream with its JSON changed; one without JSON as it is."""
    head, mark, data = block.partition(b"data:")
    try:
        value = json.loads(data)
    except ValueError:
        return block
    return head + mark + b" " + encoded(changed(value, rng), rng)


def fuzzed_stream(stream: bytes, rng: random.Random) -> bytes:
    blocks = stream.split(b"\n\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        way = rng.choice((*["change"] * 8, "drop", "drop", "double", "swap", "swap", "shuffle", "noise", "odd"))
        at = rng.randrange(len(blocks)) if blocks else 0
        if way == "change" and blocks:
            blocks[at] = changed_event(blocks[at], rng)
        elif way == "drop" and blocks:
            del blocks[at]
        elif way == "double" and blocks:
            blocks.insert(at, blocks[at])
        elif way == "swap" and blocks:
            other = rng.randrange(len(blocks))
            blocks[at], blocks[other] = blocks[other], blocks[at]
        elif way == "shuffle":
            rng.shuffle(blocks)
        elif way == "noise":
            blocks.insert(at, rng.randbytes(rng.randrange(1, 20)))
        else:
            blocks.insert(at, b"data: " + encoded(odd(rng), rng))
    return b"\n\n".join(blocks)


def split(body: bytes, rng: random.Random) -> list[bytes]:
    """The bytes in pieces cut anywhere; sometimes with some of them lost, or another in their place."""
    if body and rng.random() < 0.08:
        body = body[: rng.randrange(len(body))]
    if body and rng.random() < 0.05:
        at = rng.randrange(len(body))
        body = body[:at] + rng.randbytes(1) + body[at + 1 :]
    if rng.random() < 0.03:
        return [body[at : at + 1] for at in range(len(body))]
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.randrange(6)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@dataclass
class Case:
    """One reply, and how it is asked for."""

    wire: str
    reply: Reply
    way: str
    """`chat`, `stream`, or `leave`: a stream that is left after its first piece."""


def case(number: int) -> Case:
    rng = random.Random(number)
    if rng.random() < 0.6:
        wire, stream = rng.choice(STREAMS)
        body, kind = fuzzed_stream(stream, rng), "text/event-stream"
    else:
        wire, whole = rng.choice(BODIES)
        value = json.loads(json.dumps(whole))
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = changed(value, rng)
        body, kind = encoded(value, rng), "application/json"
    if rng.random() < 0.05:
        wire = rng.choice(("openai", "anthropic"))
    reply = Reply(
        split(body, rng),
        status=rng.choice(STATUSES) if rng.random() < 0.1 else 200,
        content_type=rng.choice(TYPES) if rng.random() < 0.2 else kind,
        headers=rng.choice(HEADERS),
        hangs=rng.random() < 0.03,
        cut=rng.random() < 0.03,
    )
    return Case(wire, reply, rng.choice(("chat", "stream", "stream", "leave")))


async def call(manager: ApiManager, way: str) -> Exception | None:
    """Make the call; what it answers is of the types it promises."""
    try:
        async with asyncio.timeout(DEADLINE + 10):  # not reached: the call ends by itself
            if way == "chat":
                answer = await manager.achat("hi", max_retries=1, deadline=DEADLINE)
                check_answer(answer.text, answer.reasoning, answer.finish_reason)
                return None
            text, reasoning, finish_reason = "", "", ""
            chunks = manager.astream("hi", max_retries=1, deadline=DEADLINE)
            async for chunk in chunks:
                assert not finish_reason, "a piece came after the last one"
                text, reasoning, finish_reason = (
                    text + chunk.text,
                    reasoning + chunk.reasoning,
                    chunk.finish_reason or "",
                )
                if way == "leave":
                    await chunks.aclose()  # type: ignore[attr-defined]
                    return None
            check_answer(text, reasoning, finish_reason)
    except (AllEndpointsFailed, ProviderError) as error:
        return error
    return None


def check_answer(text: str, reasoning: str, finish_reason: str) -> None:
    assert type(text) is type(reasoning) is type(finish_reason) is str
    assert finish_reason
    assert text.strip() or reasoning or finish_reason != "stop"


def check_error(error: Exception) -> None:
    """It is one of ours, about what the endpoint said: nothing of ours went wrong on the way."""
    cause = error.__cause__ if isinstance(error, AllEndpointsFailed) else error
    assert isinstance(cause, ProviderError), repr(cause)
    assert str(error).encode()
    assert "sk-canary" not in str(error)


_HOLDS = {
    OutcomeClass.TRANSIENT: HoldKind.TRANSIENT,
    OutcomeClass.RATE_LIMITED: HoldKind.RATE_LIMITED,
    OutcomeClass.ENDPOINT_FAULT: HoldKind.ENDPOINT_FAULT,
}


def check_state(manager: ApiManager, transport: ScriptedTransport, headers: dict[str, str]) -> str:
    """No slot is taken, and the endpoint's health is what the one outcome says. Returns that outcome."""
    state = manager._pool.get("only").state
    health: Health = state.health
    stats = manager.get_stats()["endpoints"]["only"]
    (outcome, count), *others = stats["outcomes"].items()
    assert (count, others) == (1, [])
    assert (state.in_flight, transport.open, health.probe) == (0, 0, 0)
    assert 0 <= stats["tokens_in"] <= MOST_TOKENS
    assert 0 <= stats["tokens_out"] <= MOST_TOKENS
    hold = _HOLDS.get(OutcomeClass(outcome))
    if hold is not None:
        assert (health.kind, health.failures) == (hold, 1)
        assert health.held_until > health.held_from
    else:
        assert health.failures == 0
        assert health.clean or "x-ratelimit-remaining-requests" in headers
    return str(outcome)


async def run(number: int) -> str:
    """One case; the outcome of its call."""
    made = case(number)
    transport = ScriptedTransport(made.reply)
    manager = ApiManager(providers={made.wire: provider_for(made.wire, transport=transport)}, rng=random.Random(number))
    manager.add_endpoint(
        ApiEndpoint("only", "https://only.example/v1", "sk-canary-1", "m", provider=made.wire, timeout=TIMEOUT)
    )
    try:
        error = await call(manager, made.way)
        if error is not None:
            check_error(error)
        return check_state(manager, transport, dict(made.reply.headers))
    except BaseException as error:
        error.add_note(f"case {number}: {made}")
        raise


@contextmanager
def no_fault_of_ours() -> Iterator[None]:
    """Nothing is logged as an error while this is open."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign]
    core = logging.getLogger("core")
    core.addHandler(handler)
    try:
        yield
    finally:
        core.removeHandler(handler)
    assert [record.getMessage() for record in records] == []


async def run_all(numbers: range) -> dict[str, int]:
    """So many at once that those which hang cost little. How often each outcome came."""
    outcomes: dict[str, int] = {}
    with no_fault_of_ours():
        for start in range(0, len(numbers), AT_ONCE):
            for outcome in await asyncio.gather(*map(run, numbers[start : start + AT_ONCE])):
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


@pytest.mark.parametrize(
    "numbers",
    [pytest.param(range(0, CASES, 10), id="a tenth"), pytest.param(range(CASES), id="all", marks=pytest.mark.soak)],
)
async def test_a_reply_changed_in_any_way_ends_as_a_result_or_a_known_error_and_leaves_nothing_behind(
    numbers: range,
) -> None:
    outcomes = await run_all(numbers)
    # The changes reach everything: were most replies refused at the door, nothing would have been tried.
    assert outcomes["ok"] > len(numbers) / 6
    assert {
        "ok",
        "transient",
        "rate_limited",
        "endpoint_fault",
        "caller_fault",
        "unsuited",
        "cancelled",
    } <= outcomes.keys()
