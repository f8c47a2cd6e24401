"""A provider that answers from a script and sends nothing: for tests of your own code, demos and dry runs.

    fake = FakeProvider({"main": [FakeStep(status=500), FakeStep(text="second try")]})
    manager = ApiManager(providers={"fake": fake})
    manager.add_endpoint(ApiEndpoint("main", "fake://", provider="fake"))

Steps are used up in order, one a call; after the last one the endpoint echoes. Without Python the script stands in the
endpoint itself: one step in the URL (`fake://?text=Hello&delay=0.2`, `fake://?status=503&times=3`), or several in
`extra_body={"script": [{"status": 429, "retry_after": 2}, {"text": "Hello"}]}`.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from core.cloud.chat import ChatAnswer, ChatChunk, ChatRequest, Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import ErrorKind, ProviderError
from core.cloud.providers.wire_format import check_messages, text_of
from core.errors import InvalidArgument
from core.json_types import Json

KINDS: tuple[ErrorKind, ...] = ("connect", "timeout", "protocol", "empty", "cut")


@dataclass(frozen=True, slots=True)
class FakeStep:
    """What one call gets. All defaults: an echo of the last user message."""

    text: str = ""
    """The answer; '' echoes."""
    delay: float = 0.0
    """Seconds before the answer (or the error); the call times out when they exceed its timeout."""
    token_delay: float = 0.0
    """Seconds between the words of a streamed answer."""
    status: int = 200
    """400 to 599 fails the call with this HTTP status."""
    code: str = ""
    """The provider's error code, such as insufficient_quota."""
    retry_after: float | None = None
    """Seconds in the error's Retry-After header."""
    fail: str = ""
    """Fails the call in another way: connect, timeout, protocol, empty, or cut (a stream: after half its words)."""
    finish_reason: str = "stop"
    tokens_in: int | None = None
    """None counts the words of the messages."""
    tokens_out: int | None = None
    times: int = 1
    """How many calls in a row get this step; 0 is all from here on."""

    def __post_init__(self) -> None:
        if self.fail and self.fail not in KINDS:
            raise InvalidArgument(f"A fake cannot fail with {self.fail[:20]!r}.", f"use one of: {', '.join(KINDS)}.")
        if self.status != 200 and not 400 <= self.status <= 599:
            raise InvalidArgument("A fake's status must be 200, or 400 to 599.", "give one of these")
        if min(self.delay, self.token_delay, self.times) < 0:
            raise InvalidArgument("A fake's delay, token_delay and times must be 0 or more.", "give 0 or more")

    @classmethod
    def parse(cls, values: Mapping[str, Json]) -> Self:
        """A step from JSON or from a URL's query. Raises InvalidArgument naming what it does not know."""
        kinds = {item.name: item.type for item in fields(cls)}
        unknown = sorted(set(values) - set(kinds))
        if unknown:
            raise InvalidArgument(f"A fake's step has no {unknown[0][:40]!r}.", f"use: {', '.join(sorted(kinds))}.")
        step: dict[str, str | int | float] = {}
        for name, value in values.items():
            wanted = kinds[name]
            make: Callable[[str], str | int | float] = str if wanted is str else int if "int" in str(wanted) else float
            try:
                step[name] = make(str(value))
            except ValueError:
                raise InvalidArgument(
                    f"A fake's {name} must be a number, not {str(value)[:40]!r}.", "give a number"
                ) from None
        return cls(**step)  # type: ignore[arg-type]  # every value was just made the type its field names


@dataclass(frozen=True, slots=True)
class FakeCall:
    """One call the fake received."""

    endpoint: str
    request: ChatRequest


class FakeProvider:
    """Scripted answers by endpoint name. Thread-safe. `calls` lists what was asked, in order."""

    def __init__(
        self,
        script: Mapping[str, Sequence[FakeStep]] | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.calls: list[FakeCall] = []
        self._sleep = sleep
        self._lock = threading.Lock()
        self._scripts: dict[str, deque[FakeStep]] = {name: deque(steps) for name, steps in (script or {}).items()}
        self._inline: dict[str, tuple[str, deque[FakeStep]]] = {}

    def script(self, endpoint: str, *steps: FakeStep) -> None:
        """Append steps for the endpoint of this name."""
        with self._lock:
            self._scripts.setdefault(endpoint, deque()).extend(steps)

    async def chat(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> ChatAnswer:
        step, text, usage = self._next(endpoint, request)
        await self._wait(endpoint, step.delay, timeout)
        if step.fail:
            raise _failure(endpoint, step.fail)
        return ChatAnswer(text, request.model or endpoint.model or "fake", usage, step.finish_reason)

    async def stream(self, endpoint: ApiEndpoint, request: ChatRequest, timeout: float) -> AsyncIterator[ChatChunk]:
        step, text, usage = self._next(endpoint, request)
        await self._wait(endpoint, step.delay, timeout)
        if step.fail and step.fail != "cut":
            raise _failure(endpoint, step.fail)
        words = [word + " " for word in text.split(" ")]
        words[-1] = words[-1][:-1]
        said = words[: len(words) // 2] if step.fail else words
        for position, word in enumerate(said):
            if position:
                await self._wait(endpoint, step.token_delay, timeout, "".join(said[:position]))
            yield ChatChunk(word)
        if step.fail:
            raise _failure(endpoint, step.fail, "".join(said))
        yield ChatChunk("", step.finish_reason, usage)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _next(self, endpoint: ApiEndpoint, request: ChatRequest) -> tuple[FakeStep, str, Usage]:
        check_messages(request.messages)
        with self._lock:
            self.calls.append(FakeCall(endpoint.name, request))
            step = self._take(endpoint)
        if step.status != 200:
            headers = {} if step.retry_after is None else {"retry-after": f"{step.retry_after:g}"}
            raise ProviderError(
                f"Endpoint {endpoint.name}: the answer is HTTP {step.status} (by its script).",
                kind="status",
                status=step.status,
                code=step.code,
                headers=headers,
            )
        text = step.text or f"echo: {_last_words(request)}"
        words_in = sum(len(text_of(message.get("content")).split()) for message in request.messages)
        return (
            step,
            text,
            Usage(
                words_in if step.tokens_in is None else step.tokens_in,
                len(text.split()) if step.tokens_out is None else step.tokens_out,
            ),
        )

    def _take(self, endpoint: ApiEndpoint) -> FakeStep:
        """Use up one call of the endpoint's script."""
        written = repr((endpoint.base_url, endpoint.extra_body.get("script")))
        if self._inline.get(endpoint.name, ("",))[0] != written:
            self._inline[endpoint.name] = (written, deque(inline_steps(endpoint)))
        steps = self._scripts.get(endpoint.name) or self._inline[endpoint.name][1]
        if not steps:
            return FakeStep()
        step = steps[0]
        if step.times == 1:
            steps.popleft()
        elif step.times:
            steps[0] = replace(step, times=step.times - 1)
        return step

    async def _wait(self, endpoint: ApiEndpoint, delay: float, timeout: float, partial: str = "") -> None:
        if delay > 0:
            await self._sleep(min(delay, timeout))
        if delay > timeout:
            raise _failure(endpoint, "timeout", partial)


def inline_steps(endpoint: ApiEndpoint) -> list[FakeStep]:
    """The script that stands in the endpoint itself. Raises InvalidArgument."""
    query = dict(parse_qsl(urlsplit(endpoint.base_url).query))
    # A step in the URL describes the endpoint, so it holds for all calls unless it says how many.
    steps = [FakeStep.parse({"times": 0, **query})] if query else []
    script = endpoint.extra_body.get("script", [])
    if not isinstance(script, list) or not all(isinstance(step, dict) for step in script):
        raise InvalidArgument(
            "A fake's script must be a list of objects.", 'write it like [{"status": 500}, {"text": "Hi"}].'
        )
    return [FakeStep.parse(step) for step in script if isinstance(step, dict)] + steps


def _last_words(request: ChatRequest) -> str:
    asked = [text_of(message.get("content")) for message in request.messages if message.get("role") == "user"]
    return asked[-1] if asked else ""


def _failure(endpoint: ApiEndpoint, kind: str, partial: str = "") -> ProviderError:
    found = next(known for known in KINDS if known == kind)
    return ProviderError(f"Endpoint {endpoint.name}: {found} failure (by its script).", kind=found, partial=partial)
