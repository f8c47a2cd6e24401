"""The scripted provider, as a user's own tests would use it."""

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.chat import ChatRequest, Usage
from core.cloud.provider import ProviderError
from core.cloud.providers.fake import FakeProvider, FakeStep
from core.errors import AllEndpointsFailed, InvalidArgument

REQUEST = ChatRequest(messages=[{"role": "user", "content": "say it again"}], model="m")


def fake_endpoint(base_url: str = "fake://", **values: object) -> ApiEndpoint:
    return ApiEndpoint("main", base_url, provider="fake", **values)  # type: ignore[arg-type]


async def no_wait(_: float) -> None:
    """In place of sleeping."""


async def test_without_a_script_it_echoes() -> None:
    answer = await FakeProvider().chat(fake_endpoint(), REQUEST, 1)
    assert (answer.text, answer.model, answer.usage) == ("echo: say it again", "m", Usage(3, 4))


async def test_steps_are_used_up_in_order_and_the_calls_are_kept() -> None:
    fake = FakeProvider({"main": [FakeStep(status=500), FakeStep(text="second", tokens_out=9)]})
    with pytest.raises(ProviderError) as caught:
        await fake.chat(fake_endpoint(), REQUEST, 1)
    assert (caught.value.kind, caught.value.status) == ("status", 500)
    answer = await fake.chat(fake_endpoint(), REQUEST, 1)
    assert (answer.text, answer.usage.tokens_out) == ("second", 9)
    fake.script("main", FakeStep(text="third", times=2))
    assert [(await fake.chat(fake_endpoint(), REQUEST, 1)).text for _ in range(3)] == [
        "third",
        "third",
        "echo: say it again",
    ]
    assert [call.endpoint for call in fake.calls] == ["main"] * 5
    assert fake.calls[0].request is REQUEST


@pytest.mark.parametrize("kind", ["connect", "timeout", "protocol", "empty", "cut"])
async def test_it_fails_in_every_way_a_provider_can(kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        await FakeProvider({"main": [FakeStep(fail=kind)]}).chat(fake_endpoint(), REQUEST, 1)
    assert caught.value.kind == kind


async def test_a_delay_beyond_the_timeout_is_a_timeout() -> None:
    fake = FakeProvider({"main": [FakeStep(delay=5)]}, sleep=no_wait)
    with pytest.raises(ProviderError) as caught:
        await fake.chat(fake_endpoint(), REQUEST, 1)
    assert caught.value.kind == "timeout"


async def test_a_stream_comes_word_by_word_and_can_be_cut() -> None:
    fake = FakeProvider({"main": [FakeStep(text="a b c d"), FakeStep(text="a b c d", fail="cut")]}, sleep=no_wait)
    chunks = [chunk async for chunk in fake.stream(fake_endpoint(), REQUEST, 1)]
    assert [chunk.text for chunk in chunks] == ["a ", "b ", "c ", "d", ""]
    assert chunks[-1].finish_reason == "stop"
    with pytest.raises(ProviderError) as caught:
        [chunk async for chunk in fake.stream(fake_endpoint(), REQUEST, 1)]
    assert caught.value.partial == "a b "


async def test_the_script_can_stand_in_the_endpoint() -> None:
    fake = FakeProvider()
    scripted = fake_endpoint(extra_body={"script": [{"status": 429, "retry_after": 2}, {"text": "Hello"}]})
    with pytest.raises(ProviderError) as caught:
        await fake.chat(scripted, REQUEST, 1)
    assert caught.value.headers == {"retry-after": "2"}
    assert (await fake.chat(scripted, REQUEST, 1)).text == "Hello"
    assert (await fake.chat(scripted, REQUEST, 1)).text == "echo: say it again"


async def test_a_step_in_the_url_holds_for_all_calls_or_as_many_as_it_says() -> None:
    fake = FakeProvider()
    for _ in range(3):
        assert (await fake.chat(fake_endpoint("fake://local?text=Hello"), REQUEST, 1)).text == "Hello"
    twice = fake_endpoint("fake://local?status=503&times=2")
    for _ in range(2):
        with pytest.raises(ProviderError):
            await fake.chat(twice, REQUEST, 1)
    assert (await fake.chat(twice, REQUEST, 1)).text == "echo: say it again"


@pytest.mark.parametrize(
    "endpoint",
    [
        fake_endpoint("fake://?statsu=500"),
        fake_endpoint("fake://?status=abc"),
        fake_endpoint("fake://?status=302"),
        fake_endpoint("fake://?delay=-1"),
        fake_endpoint(extra_body={"script": "500"}),
        fake_endpoint(extra_body={"script": [{"fail": "badly"}]}),
    ],
)
async def test_a_script_that_cannot_be_read_says_why(endpoint: ApiEndpoint) -> None:
    with pytest.raises(InvalidArgument):
        await FakeProvider().chat(endpoint, REQUEST, 1)


async def test_a_pool_of_fakes_fails_over_like_a_real_one() -> None:
    fake = FakeProvider({"first": [FakeStep(status=500)], "second": [FakeStep(text="here")]})
    manager = ApiManager(providers={"fake": fake})
    manager.add_endpoint(ApiEndpoint("first", "fake://", provider="fake", priority=1))
    manager.add_endpoint(ApiEndpoint("second", "fake://", provider="fake", priority=2))
    result = await manager.achat("hello")
    assert (result.text, result.endpoint) == ("here", "second")
    fake.script("first", FakeStep(fail="connect", times=0))
    fake.script("second", FakeStep(status=500, times=0))
    with pytest.raises(AllEndpointsFailed):
        await manager.achat("hello", max_retries=2)
    await manager.aclose()
