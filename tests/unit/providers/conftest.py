"""One provider of each wire format over each transport."""

from collections.abc import AsyncIterator

import pytest

from core.cloud.chat import ChatRequest
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import Provider
from core.cloud.providers import provider_for
from core.network import open_transport
from tests.support.llm_server import LlmServer

KEY = "sk-canary-0123456789abcdef"
REQUEST = ChatRequest(messages=[{"role": "user", "content": "Say hello"}], model="small-1")


@pytest.fixture(params=["httpx2", "aiohttp"])
def transport_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["openai", "anthropic"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def provider(wire: str, transport_kind: str) -> AsyncIterator[Provider]:
    found = provider_for(wire, transport=open_transport(kind=transport_kind), stall_timeout=0.3)
    yield found
    await found.aclose()


@pytest.fixture
def alpha(llm_server: LlmServer) -> ApiEndpoint:
    return ApiEndpoint("alpha", llm_server.base_url("alpha"), api_key=KEY, model="small-1")
