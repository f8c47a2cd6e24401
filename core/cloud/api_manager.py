"""The API pool: call whichever endpoint is able, exactly within its limits.

    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("openai", "https://api.openai.com/v1", "sk-...", "gpt-4o-mini", priority=1))
    result, endpoint = manager.call_with_retry(call_api, max_retries=3, strategy="priority")

`ApiManager()` is private to this process and writes nothing. `ApiManager(store)` shares endpoints (without their keys), limits,
holds, spending and statistics with every other process on the same database.
"""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from core.clock import Clock, SystemClock
from core.cloud.chat import ChatAnswer, ChatChunk, ChatRequest, Message
from core.cloud.endpoint import ApiEndpoint, ApiStatus
from core.cloud.pool.attempt_records import AttemptRecord
from core.cloud.pool.bounds import check_bounds, check_max_per_minute
from core.cloud.pool.chat_call import JSON_NEEDS, ChatOptions, ChatResult, request_of, usage_of
from core.cloud.pool.chat_stream import stream_chat
from core.cloud.pool.drivers import adrive, as_work, drive, within
from core.cloud.pool.grant import PoolGrant, snoozed
from core.cloud.pool.hedge import checked_hedge
from core.cloud.pool.membership import Membership, lacking
from core.cloud.pool.plan import CallPlan, no_usage
from core.cloud.pool.pool import Pool
from core.cloud.pool.pool_gate import PoolGate
from core.cloud.pool.pool_state import PoolState
from core.cloud.pool.portal import Portal
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.pool.readiness import Readiness
from core.cloud.pool.selection import check_strategy, check_when_limited
from core.cloud.pool.statistics import pool_stats
from core.cloud.provider import Provider
from core.cloud.providers.returned_error import unless_error
from core.errors import InvalidArgument, UnknownEndpoint
from core.fork import ForkAware, abandon, tell_of_forks
from core.network import UrlPolicy
from core.redaction import redact

if TYPE_CHECKING:
    from core.cloud.keys.secrets import KeyStore

__all__ = ["ApiEndpoint", "ApiManager", "ApiStatus", "AttemptRecord", "ChatResult"]

R = TypeVar("R")

LAST_WORDS = 5.0
"""Seconds beyond its deadline after which a sync call gives up a loop that does not answer."""
LONGEST = 1e6
DEADLINE = 120.0
"""Seconds a call may take in all when it does not say: a full minute's window and an attempt after it."""
NO_NEEDS: frozenset[str] = frozenset()


class ApiManager(ForkAware):
    """A pool of endpoints. Thread-safe; usable from any number of event loops."""

    def __init__(
        self,
        store: PoolState | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        providers: Mapping[str, Provider] | None = None,
        url_policy: UrlPolicy | None = None,
        keys: "KeyStore | None" = None,
        hedge_after: float | str | None = None,
        when_limited: str = "next",
        max_per_minute: int | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """`when_limited` is what calls do that do not say: see `call_with_retry`. `max_per_minute` bounds the requests of the whole pool in
        any 60 s, over all processes on the store that set it (each keeps to its own number); None leaves the store's as it is, 0 is none. `clock`, `rng` and `sleep` (which `call_with_retry` waits with) are there to be replaced by tests; `providers` by a FakeProvider.
        """
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._store: PoolState = store or PrivatePoolState()
        if max_per_minute is not None:
            self._store.max_per_minute = check_max_per_minute(max_per_minute)
        self._own_rng = random.Random() if rng is None else None
        self._pool = Pool(self._clock, rng or self._own_rng or random.Random(), self._redact, shared=self._store.shared)
        self._membership = Membership(self._pool, self._store, keys, url_policy)
        self._url_policy = url_policy
        self._providers: dict[str, Provider] = dict(providers or {})
        self._sleep = sleep
        self._hedge_after = checked_hedge(hedge_after)
        self._when_limited = check_when_limited(when_limited)
        self._portal: Portal | None = None
        self._given_providers = dict(providers or {})
        self._readiness = Readiness(self._pool, lambda endpoint: endpoint.provider in self._providers, self._provider)
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """Threads, connections and locks are made anew when they are needed; those of the parent are left alone."""
        abandon(self._portal, self._providers)
        self._lock = threading.RLock()
        self._portal = None
        self._providers = dict(self._given_providers)
        self._readiness.begin_anew()
        self._pool.begin_anew(self._own_rng)
        self._membership.begin_anew()

    # Endpoints

    def add_endpoint(self, endpoint: ApiEndpoint) -> list[str]:
        """Add an endpoint, or replace the one of that name; returns warnings in words, mostly none.

        A replaced one starts with a clean health, and its limit goes on counting. Raises InvalidArgument, UrlRefused for an address that
        this installation may not call, KeyStoreError when its key cannot be kept.
        """
        if not isinstance(endpoint, ApiEndpoint):
            raise InvalidArgument("add_endpoint takes an ApiEndpoint.", "pass ApiEndpoint(name=..., base_url=...)")
        return self._membership.add(endpoint)

    def remove_endpoint(self, name: str) -> None:
        """Remove an endpoint and forget its key; calls under way end normally. Raises UnknownEndpoint."""
        self._refresh(name)
        self._membership.remove(name)

    def get_endpoint(self, name: str) -> ApiEndpoint:
        """The endpoint of that name. Raises UnknownEndpoint."""
        self._refresh(name)
        return self._pool.get(name).endpoint

    @property
    def endpoints(self) -> list[ApiEndpoint]:
        """All endpoints, in the order they were added."""
        self._refresh()
        return [member.endpoint for member in self._pool.members.values()]

    def usable(self) -> set[str]:
        """Names of the endpoints whose key this process has (or that need none)."""
        self._refresh()
        return {member.name for member in self._pool.members.values() if not member.keyless}

    def lacking(self, endpoint: str = "") -> str:
        """Why no call can be made (to that endpoint, when one is named), and the way out; '' when one can."""
        self._refresh(endpoint)
        return lacking(self._pool.members.values(), endpoint)

    def on_usable(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after each change of what `usable` returns, in the thread that brought it; it must not raise."""
        self._membership.on_usable.append(changed)

    def gate(self, changed: Callable[[], None]) -> PoolGate:
        """What the queue asks before it claims tasks that call the pool; `changed` is called when it may open earlier than it said."""
        self._pool.watchers.append(changed)
        return PoolGate(self._pool, self._when_limited, self._readiness.made)

    # Calls

    def call_with_retry(
        self,
        func: Callable[[ApiEndpoint], R],
        max_retries: int = 3,
        strategy: str = "priority",
        backoff_factor: float = 1.5,
        *,
        deadline: float | None = None,
        endpoint: str | None = None,
        when_limited: str = "",
    ) -> tuple[R, ApiEndpoint]:
        """Call `func(endpoint)` until an endpoint answers; returns what it returned, and the endpoint.

        `max_retries` counts attempts in all (a task's `max_retries` counts those after the first: decision 0007). Another endpoint is asked at once; the same one again only when no other is left, after
        a random wait whose ceiling grows by `backoff_factor`. `deadline` (seconds, 120 if None) bounds everything but `func` itself,
        which has `endpoint.timeout` to go by. When a limit of the best endpoints is used up (requests, concurrency, the day's budget, the
        server's own 429), `when_limited="next"` asks those of the next priority, and "wait" waits: by strategy `priority` only, and only a
        fault sends the call on; '' is what the pool was set to. A 400 or 422 that is the caller's is raised as it came; one that only this endpoint
        gives (too long for its context window, its content filter, a field it does not take) goes to the next. What `func` returns counts as raised if it is
        an error: an HTTP response of 400 or more, or an LLM API's `{"error": {...}}`. Raises AllEndpointsFailed (a RuntimeError),
        InvalidArgument, UnknownEndpoint.
        """
        self._refresh(endpoint)
        plan = self._plan(
            max_retries, strategy, backoff_factor, deadline=deadline, endpoint=endpoint, when_limited=when_limited
        )

        def ask(endpoint: ApiEndpoint) -> R:
            return unless_error(endpoint, func(endpoint))

        success = drive(self._pool, plan, ask, self._sleep)
        return success.result, success.sending.member.endpoint

    async def acall_with_retry(
        self,
        func: Callable[[ApiEndpoint], Awaitable[R]] | Callable[[ApiEndpoint], R],
        max_retries: int = 3,
        strategy: str = "priority",
        backoff_factor: float = 1.5,
        *,
        deadline: float | None = None,
        endpoint: str | None = None,
        hedge_after: float | str | None = None,
        when_limited: str = "",
    ) -> tuple[R, ApiEndpoint]:
        """Like `call_with_retry`, on the event loop. An async `func` is stopped at its timeout; a sync one runs in a thread.

        With `hedge_after` (seconds, or "p95" for the endpoint's own 95th percentile) a second endpoint is asked when the first takes
        longer, and the slower one is cancelled; at most a fifth of the calls do so.
        """
        await self._arefresh(endpoint)
        plan = self._plan(
            max_retries,
            strategy,
            backoff_factor,
            deadline=deadline,
            endpoint=endpoint,
            hedge_after=hedge_after,
            when_limited=when_limited,
        )
        work = as_work(func)

        async def ask(endpoint: ApiEndpoint, seconds: float) -> Any:
            return unless_error(endpoint, await work(endpoint, seconds))

        success = await adrive(self._pool, plan, ask)
        return success.result, success.sending.member.endpoint

    async def achat(
        self, messages: str | Sequence[Message], *, grant: PoolGrant | None = None, **options: Unpack[ChatOptions]
    ) -> ChatResult:
        """Ask a language model; failures are handled as in `call_with_retry`. `messages` may be one text.

        With a task's `grant` its first request takes the slot that was taken for it, and it raises Snoozed rather than wait for a limit.
        """
        await self._arefresh(options.get("endpoint"))
        request = request_of(messages, options)
        try:
            plan = self._chat_plan(options, request)
        except UnknownEndpoint:
            if grant is None:
                raise
            raise snoozed() from None  # removed since the task was claimed, which waits for it as it did before
        plan.grant = grant
        self._readiness.make()

        async def ask(endpoint: ApiEndpoint, seconds: float) -> ChatAnswer:
            provider = self._provider(endpoint)
            asked = provider.chat(endpoint, request, seconds)
            # Its promise to be over in time is relied on where it was made by us.
            return await (asked if getattr(provider, "keeps_time", False) else within(seconds, asked))

        success = await adrive(self._pool, plan, ask)
        answer: ChatAnswer = success.result
        return ChatResult(
            answer.text,
            success.sending.member.name,
            answer.model,
            success.usage,
            success.sending.cost,
            success.latency,
            success.attempts,
            answer.finish_reason,
            answer.reasoning,
            answer.adapted,
        )

    def chat(self, messages: str | Sequence[Message], **options: Unpack[ChatOptions]) -> ChatResult:
        """`achat` for sync code, run on an event loop in a thread of the pool's own."""
        with self._lock:
            if self._portal is None:
                self._portal = Portal()
            portal = self._portal
        deadline = options.get("deadline")
        seconds = min(deadline, LONGEST) if isinstance(deadline, int | float) and deadline > 0 else DEADLINE
        return portal.run(self.achat(messages, **options), seconds + LAST_WORDS)

    async def astream(
        self, messages: str | Sequence[Message], **options: Unpack[ChatOptions]
    ) -> AsyncIterator[ChatChunk]:
        """The answer as it comes. Other endpoints are asked until a first token came; a failure after it raises ProviderError with the
        text so far in `partial`. Not hedged.
        """
        await self._arefresh(options.get("endpoint"))
        request = request_of(messages, options)
        plan = replace(self._chat_plan(options, request), hedge_after=None, keep_open=True, usage_of=no_usage)
        self._readiness.make()
        async with aclosing(stream_chat(self._pool, plan, request, self._provider)) as chunks:
            async for chunk in chunks:
                yield chunk

    # Statistics

    def get_stats(self) -> dict[str, Any]:
        """What the pool did and how it is. The guide's keys, and numbers beside its texts."""
        self._membership.refresh()
        stats = pool_stats(self._pool)
        if limit := self._store.max_per_minute:
            stats["rate_limit"] = f"{self._store.used(self._pool.time())}/{limit}"
        return stats

    def reset_stats(self, name: str | None = None) -> None:
        """Set the counts of one endpoint (or all) to zero and lift its holds; limits go on counting."""
        self._refresh(name)
        self._membership.reset(name or None)

    def close(self) -> None:
        """Write down what is counted and close connections; a second call does nothing."""
        portal, self._portal = self._portal, None
        if portal is not None:
            portal.run(self._close_providers(), LAST_WORDS)
            portal.close()
        self._pool.close()
        self._store.flush()

    async def aclose(self) -> None:
        """`close` for async code."""
        await self._close_providers()
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()

    async def _close_providers(self) -> None:
        for provider in list(self._providers.values()):
            await provider.aclose()

    # Helpers

    def _refresh(self, name: str | None = None) -> None:
        if self._membership.due(name or ""):
            self._membership.refresh()

    async def _arefresh(self, name: str | None = None) -> None:
        if self._membership.due(name or ""):
            await asyncio.get_running_loop().run_in_executor(self._pool.executor, self._refresh, name)

    def _plan(
        self,
        max_retries: int,
        strategy: str,
        backoff_factor: float,
        *,
        deadline: float | None,
        endpoint: str | None,
        hedge_after: float | str | None = None,
        when_limited: str | None = "",
        needs: frozenset[str] = NO_NEEDS,
        model: str = "",
    ) -> CallPlan:
        check_bounds(max_retries, deadline)
        if not 1 <= backoff_factor <= 1000:
            raise InvalidArgument(
                f"backoff_factor must be between 1 and 1000, not {backoff_factor!r}.", "give a factor such as 1.5"
            )
        if endpoint:
            self._pool.get(endpoint)
        waits = check_when_limited(when_limited, self._when_limited) == "wait"
        return CallPlan(
            check_strategy(strategy),
            max_retries,
            backoff_factor,
            DEADLINE if deadline is None else deadline,
            endpoint or "",
            checked_hedge(hedge_after) or self._hedge_after,
            needs=needs,
            model=model,
            patient=waits and strategy == "priority",
            usage_of=usage_of,
        )

    def _chat_plan(self, options: ChatOptions, request: ChatRequest) -> CallPlan:
        plan = self._plan(
            options.get("max_retries", 3),
            options.get("strategy", "priority"),
            1.5,
            deadline=options.get("deadline"),
            endpoint=options.get("endpoint"),
            hedge_after=options.get("hedge_after"),
            when_limited=options.get("when_limited"),
            needs=JSON_NEEDS if options.get("json") else NO_NEEDS,
            model=options.get("model", ""),
        )
        plan.request = request
        return plan

    def _provider(self, endpoint: ApiEndpoint) -> Provider:
        provider = self._providers.get(endpoint.provider)
        if provider is None:
            with self._lock:
                provider = self._providers.get(endpoint.provider)
                if provider is None:
                    from core.cloud.providers import provider_for

                    provider = self._providers[endpoint.provider] = provider_for(
                        endpoint.provider, policy=self._url_policy
                    )
        return provider

    def _redact(self, text: str) -> str:
        return redact(text, (member.endpoint.found_key for member in self._pool.members.values()))
