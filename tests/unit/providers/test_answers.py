"""Whole answers over real sockets: the proper one, and every wrong one as an error of its own kind."""

import pytest

from core.cloud.chat import ChatRequest, Usage
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import Provider, ProviderError
from core.cloud.providers import provider_for
from core.errors import InvalidArgument, UrlRefused
from core.network import UrlPolicy
from tests.support.llm_server import LlmServer, Step
from tests.unit.providers.conftest import KEY, REQUEST


async def failure(provider: Provider, endpoint: ApiEndpoint, timeout: float = 5) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.chat(endpoint, REQUEST, timeout)
    return caught.value


@pytest.mark.parametrize(
    ("step", "kind", "status", "code"),
    [
        (Step(fault="reset"), "cut", 0, "closed"),
        (Step(fault="close"), "cut", 0, "closed"),
        (Step(fault="cut"), "cut", 0, "closed"),
        (Step(fault="hang"), "timeout", 0, "read"),
        (Step(fault="garbage"), "protocol", 0, "not_http"),
        (Step(fault="html"), "protocol", 200, "content_type"),
        (Step(content_type="text/plain"), "protocol", 200, "content_type"),
        (Step(fault="not_json"), "protocol", 200, ""),
        (Step(fault="no_choices"), "protocol", 200, ""),
        (Step(raw=b"[]"), "protocol", 200, ""),
        (Step(raw=b"null"), "protocol", 200, ""),
        (Step(raw=b""), "protocol", 200, ""),
        (Step(raw=b"[" * 100_000), "protocol", 200, ""),
        (Step(raw=b"\xff\xfe{}"), "protocol", 200, ""),
        (Step(fault="redirect"), "protocol", 302, "redirect"),
        (Step(fault="empty"), "empty", 200, "stop"),
        (Step(text="  \n "), "empty", 200, "stop"),
        (Step(status=500), "status", 500, "scripted"),
        (Step(status=401, code="invalid_api_key"), "status", 401, "invalid_api_key"),
        (Step(status=429, code="insufficient_quota"), "status", 429, "insufficient_quota"),
        (Step(status=529, code="overloaded_error"), "status", 529, "overloaded_error"),
        (Step(status=503, raw=b"<html>busy</html>", content_type="text/html"), "status", 503, ""),
        (Step(raw=b'{"error": {"code": 503, "message": "upstream"}}'), "status", 503, ""),
        (Step(raw=b'{"type": "error", "error": {"type": "overloaded_error"}}'), "status", 529, "overloaded_error"),
    ],
    ids=lambda value: (value.fault or str(value.raw)[:20]) if isinstance(value, Step) else str(value),
)
async def test_every_wrong_answer_is_an_error_of_its_own_kind(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint, step: Step, kind: str, status: int, code: str
) -> None:
    # The first call opens the connection, so that a short timeout is a timeout of the answer.
    llm_server.script("alpha", Step(), step)
    await provider.chat(alpha, REQUEST, 5)
    error = await failure(provider, alpha, 0.15 if step.fault == "hang" else 5)
    assert (error.kind, error.status, error.code) == (kind, status, code)
    assert "Endpoint alpha" in error.message
    assert error.fix


async def test_an_answer_comes_whole_with_usage_model_and_reason(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(text="Hello, 世界", tokens_in=5, tokens_out=2, headers={"X-Request-Id": "r1"}))
    answer = await provider.chat(alpha, REQUEST, 5)
    assert (answer.text, answer.model, answer.usage) == ("Hello, 世界", "small-1", Usage(5, 2))
    assert answer.finish_reason == "stop"
    assert answer.headers["x-request-id"] == "r1"


async def test_an_answer_cut_short_by_its_token_limit_says_so(
    llm_server: LlmServer, alpha: ApiEndpoint, transport_kind: str
) -> None:
    del transport_kind
    provider = provider_for("anthropic")
    llm_server.script("alpha", Step(finish_reason="max_tokens"))
    assert (await provider.chat(alpha, REQUEST, 5)).finish_reason == "length"


async def test_headers_of_a_refusal_reach_the_pool_in_lower_case(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(status=429, headers={"Retry-After-Ms": "1500", "Set-Cookie": "session=1"}))
    error = await failure(provider, alpha)
    assert error.headers["retry-after-ms"] == "1500"
    assert "set-cookie" not in error.headers


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (Step(status=401), "set-key alpha"),
        (Step(status=402), "add credit"),
        (Step(status=429, code="insufficient_quota"), "add credit"),
        (Step(status=404), "base_url"),
        (Step(status=400), "change the request"),
        (Step(fault="redirect"), "base_url"),
        (Step(fault="empty"), "ask again"),
        (Step(fault="empty", finish_reason="content_filter"), "put the request otherwise"),
    ],
)
async def test_each_error_says_what_to_do(llm_server: LlmServer, alpha: ApiEndpoint, step: Step, advice: str) -> None:
    llm_server.script("alpha", step)
    provider = provider_for("openai")
    assert advice in (await failure(provider, alpha)).fix


async def test_a_missing_key_is_told_from_a_wrong_one(llm_server: LlmServer) -> None:
    llm_server.script("alpha", Step(status=401))
    error = await failure(provider_for("openai"), ApiEndpoint("alpha", llm_server.base_url("alpha")))
    assert "no key is set" in error.fix
    assert "authorization" not in llm_server.arrivals()[0].headers


async def test_json_comes_without_the_fence_models_put_around_it(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    llm_server.script("alpha", Step(text='```json\n{"a": 1}\n```'))
    wanted = ChatRequest(messages=REQUEST.messages, model="small-1", json=True)
    assert (await provider.chat(alpha, wanted, 5)).text == '{"a": 1}'
    assert (await provider.chat(alpha, REQUEST, 5)).text.startswith("```")


async def test_a_refused_url_is_not_an_error_of_the_provider_and_sends_nothing(
    llm_server: LlmServer, alpha: ApiEndpoint
) -> None:
    provider = provider_for("openai", policy=UrlPolicy())
    with pytest.raises(UrlRefused, match="HEABLCOIN_CLOUD_ALLOW_HOSTS="):
        await provider.chat(alpha, REQUEST, 5)
    assert llm_server.arrivals() == []


async def test_bad_messages_are_refused_before_anything_is_sent(
    llm_server: LlmServer, provider: Provider, alpha: ApiEndpoint
) -> None:
    for messages in ([], "hello", [{"content": "x"}], ["hello"]):
        with pytest.raises(InvalidArgument):
            await provider.chat(alpha, ChatRequest(messages=messages, model="m"), 5)  # type: ignore[arg-type]
    assert llm_server.arrivals() == []


async def test_the_request_carries_key_model_headers_and_extra_body(
    llm_server: LlmServer, provider: Provider, wire: str
) -> None:
    endpoint = ApiEndpoint(
        "alpha",
        llm_server.base_url("alpha"),
        api_key=KEY,
        model="own",
        provider=wire,
        headers={"X-Title": "tests"},
        extra_body={"top_p": 0.5},
    )
    await provider.chat(endpoint, ChatRequest(messages=REQUEST.messages, model="", temperature=0.1), 5)
    arrival = llm_server.arrivals()[0]
    assert arrival.headers["x-title"] == "tests"
    assert (arrival.headers.get("authorization"), arrival.headers.get("x-api-key")) == (
        (f"Bearer {KEY}", None) if wire == "openai" else (None, KEY)
    )
    assert (arrival.body["model"], arrival.body["top_p"], arrival.body["temperature"]) == ("own", 0.5, 0.1)


def test_an_unknown_provider_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="openai, anthropic, fake"):
        provider_for("bedrock")
