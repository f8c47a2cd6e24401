"""heablcoin-cloud in the peers' pool harness: copy into its `contenders/` and name it there and in the scripts' cases."""

from harness import MESSAGES, Contender  # the harness's module

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.providers import provider_for
from core.network import UrlPolicy, open_transport

UNLIMITED = 1_000_000


class Heablcoin(Contender):
    """`ApiManager.achat` over httpx2."""

    transport = "httpx2"

    async def start(self):
        provider = provider_for("openai", transport=open_transport(UrlPolicy.parse("127.0.0.1"), self.transport))
        self.manager = ApiManager(providers={"openai": provider}, hedge_after=self.options.extra.get("hedge_after"))
        for spec in self.specs:
            limit = spec.rpm if spec.rpm <= UNLIMITED else 0
            self.manager.add_endpoint(
                ApiEndpoint(
                    spec.name,
                    spec.base_url,
                    spec.api_key,
                    spec.model,
                    spec.priority,
                    max_requests_per_minute=limit,
                    timeout=spec.timeout,
                )
            )

    async def close(self):
        await self.manager.aclose()

    async def call(self):
        answer = await self.manager.achat(
            MESSAGES, strategy=self.options.strategy, max_retries=self.options.max_attempts, deadline=30.0
        )
        return answer.endpoint

    async def pick(self):
        """A whole call but for the sending: choosing, limiter, health, statistics."""
        _, endpoint = await self.manager.acall_with_retry(_nothing, strategy=self.options.strategy)
        return endpoint


class HeablcoinFast(Heablcoin):
    """The same over aiohttp, the extra `fast`."""

    transport = "aiohttp"


async def _nothing(endpoint):
    return endpoint
