"""Handlers that need neither a key nor a file of the user's: echo, sleep, http_request."""

import asyncio
from typing import Final

from core.cloud.handlers.http_request import register_http_request
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.cloud.queue.graph import heads, with_stand_ins
from core.errors import Permanent
from core.json_types import Json
from core.network import UrlPolicy

LONGEST_SLEEP: Final = 86_400.0
STEPS: Final = 20


async def echo(payload: Json) -> Json:
    """Return the payload."""
    return payload


async def sleep(payload: Json, context: TaskContext) -> Json:
    """Wait `{"seconds": n}` (0 to 86,400), reporting progress; cancelling it takes effect at once."""
    seconds = seconds_of(payload)
    # At least a quarter of a second a step: no host shows progress faster.
    steps = max(1, min(STEPS, round(seconds / 0.25)))
    for step in range(steps):
        await asyncio.sleep(seconds / steps)
        context.progress((step + 1) / steps, f"slept {seconds * (step + 1) / steps:.1f} of {seconds:g} s")
    return {"slept": seconds}


def seconds_of(payload: Json) -> float:
    """How long to sleep. Raises Permanent that says what is wrong."""
    if isinstance(payload, dict) and (unknown := sorted(payload.keys() - {"seconds"})):
        raise Permanent(f"sleep does not know {unknown[0][:40]!r}.", 'write {"seconds": 2}.')
    seconds = payload.get("seconds", 1.0) if isinstance(payload, dict) else payload
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_SLEEP:
        raise Permanent(
            'sleep needs {"seconds": n} with n from 0 to 86400.', 'publish it with a payload such as {"seconds": 2}.'
        )
    return seconds


def check_sleep(payload: Json) -> None:
    """Raise Permanent for a payload that sleep could only fail with."""
    if not (isinstance(payload, str) and heads(payload)):
        seconds_of(with_stand_ins(payload, {"seconds": 1}))


def builtin_handlers(policy: UrlPolicy | None = None, http_max_per_minute: int | None = None) -> HandlerRegistry:
    """A registry with the handlers that need no key: echo, sleep, and http_request under `policy` (None: the environment's),
    `http_max_per_minute` to each host (0: no limit; None: what another process said).
    """
    registry = HandlerRegistry()
    registry.register("echo", echo)
    registry.register("sleep", sleep, check=check_sleep)
    register_http_request(registry, policy, http_max_per_minute)
    return registry
