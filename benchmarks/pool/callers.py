"""Who makes the calls: the bare HTTP clients, which are the floors, and our pool on each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from core.cloud.api_manager import ApiManager
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.pool_state import PoolState
from core.cloud.providers import provider_for
from core.network import UrlPolicy, open_transport

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Say hello in five words."}]
NO_LIMIT = 0


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint as a caller is told about it."""

    name: str
    base_url: str
    priority: int = 1
    per_minute: int = NO_LIMIT
    timeout: float = 5.0


class Caller(Protocol):
    """One way to make a chat call."""

    name: str

    async def call(self) -> str:
        """The name of the endpoint that answered; raises when none did."""
        ...

    async def close(self) -> None: ...


class BareHttpx2:
    """One client, one endpoint, no routing: the floor of the default transport."""

    name = "bare httpx2"

    def __init__(self, targets: Sequence[Target]) -> None:
        import httpx2

        self._target = targets[0]
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
        self._client = httpx2.AsyncClient(
            limits=limits, trust_env=False, timeout=self._target.timeout, headers={"authorization": "Bearer sk-bench"}
        )

    async def call(self) -> str:
        answer = await self._client.post(
            f"{self._target.base_url}/chat/completions", json={"model": "bench", "messages": MESSAGES}
        )
        answer.raise_for_status()
        answer.json()
        return self._target.name

    async def close(self) -> None:
        await self._client.aclose()


class BareAiohttp:
    """The same on aiohttp: the floor of the extra `fast`."""

    name = "bare aiohttp"

    def __init__(self, targets: Sequence[Target]) -> None:
        import aiohttp

        self._target = targets[0]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._target.timeout),
            headers={"authorization": "Bearer sk-bench"},
        )

    async def call(self) -> str:
        body = {"model": "bench", "messages": MESSAGES}
        async with self._session.post(f"{self._target.base_url}/chat/completions", json=body) as answer:
            answer.raise_for_status()
            await answer.json()
        return self._target.name

    async def close(self) -> None:
        await self._session.close()


class Pooled:
    """Our pool over one of the transports, with all the endpoints it is told of."""

    def __init__(
        self,
        targets: Sequence[Target],
        transport: str = "httpx2",
        *,
        strategy: str = "priority",
        attempts: int = 3,
        hedge_after: float | str | None = None,
        store: PoolState | None = None,
    ) -> None:
        self.name = f"pool on {transport}" + (", shared store" if store else "")
        self._strategy, self._attempts, self._hedge_after = strategy, attempts, hedge_after
        provider = provider_for("openai", transport=open_transport(UrlPolicy.parse("127.0.0.1"), transport))
        self.manager = ApiManager(store, providers={"openai": provider})
        for target in targets:
            self.manager.add_endpoint(
                ApiEndpoint(
                    target.name,
                    target.base_url,
                    "sk-bench",
                    "bench",
                    target.priority,
                    max_requests_per_minute=target.per_minute,
                    timeout=target.timeout,
                )
            )

    async def call(self) -> str:
        answer = await self.manager.achat(
            MESSAGES, strategy=self._strategy, max_retries=self._attempts, hedge_after=self._hedge_after
        )
        return answer.endpoint

    async def close(self) -> None:
        await self.manager.aclose()
