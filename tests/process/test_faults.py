"""The kinds of fault that providers really show, each through the whole pool: two endpoints, real sockets, both transports.

The list is that of the public Failover Bench, in our own words. For each: the call is answered by the other endpoint, or
raised when it cannot be; the fault is put in its class and laid at the right endpoint's door; nothing cut short passes as
an answer.
"""

import email.utils
import time
from collections.abc import AsyncIterator

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager, ApiStatus
from core.cloud.chat import ChatChunk
from core.cloud.provider import ProviderError
from core.cloud.providers import provider_for
from core.errors import AllEndpointsFailed
from core.network import open_transport
from tests.support.llm_server import LlmServer, Step

PROMPT = "Say hello"
LONG = "one two three four five six seven eight"


class Bench:
    """A manager with the endpoints alpha (preferred) and beta on one server."""

    def __init__(self, manager: ApiManager, server: LlmServer) -> None:
        self.manager = manager
        self.server = server
        self.server.script("beta", Step(text="from beta"))
        self.add("beta", server.base_url("beta"), 2)

    def add(self, name: str, base_url: str, priority: int, timeout: float = 5.0) -> None:
        self.manager.add_endpoint(ApiEndpoint(name, base_url, "sk-test-0123456789", "m", priority, 600, timeout))

    def alpha(self, *steps: Step, timeout: float = 5.0) -> None:
        self.server.script("alpha", *steps)
        self.add("alpha", self.server.base_url("alpha"), 1, timeout)

    async def ask(self) -> tuple[str, list[tuple[str, str]]]:
        """The answer, and every attempt's endpoint and outcome."""
        result = await self.manager.achat(PROMPT)
        return result.text, [(record.endpoint, str(record.outcome)) for record in result.attempts]

    async def stream(self, received: list[ChatChunk] | None = None) -> str:
        """The text of a stream that ends well; its chunks go to `received` as they come."""
        chunks = [] if received is None else received
        async for chunk in self.manager.astream(PROMPT):
            chunks.append(chunk)
        assert chunks[-1].finish_reason
        return "".join(chunk.text for chunk in chunks)

    def outcomes(self, name: str) -> dict[str, int]:
        return dict(self.manager.get_stats()["endpoints"][name]["outcomes"])

    def status(self, name: str) -> str:
        return str(self.manager.get_stats()["endpoints"][name]["status"])

    def cooldown(self, name: str) -> float:
        return float(self.manager.get_stats()["endpoints"][name]["cooldown_seconds"])

    def calls(self, name: str) -> int:
        return len(self.server.arrivals(name))


@pytest.fixture(params=["httpx2", "aiohttp"])
async def bench(request: pytest.FixtureRequest, llm_server: LlmServer) -> AsyncIterator[Bench]:
    transport = open_transport(kind=request.param)
    providers = {name: provider_for(name, transport=transport) for name in ("openai", "anthropic")}
    manager = ApiManager(providers=providers)
    yield Bench(manager, llm_server)
    await manager.aclose()


async def assert_served_by_beta(bench: Bench, outcome: str) -> None:
    """One call is answered by beta; alpha alone has the blame, in the class `outcome`."""
    assert await bench.ask() == ("from beta", [("alpha", outcome), ("beta", "ok")])
    assert bench.outcomes("alpha") == {outcome: 1}
    assert bench.outcomes("beta") == {"ok": 1}
    assert bench.status("beta") == ApiStatus.ACTIVE


# Nothing reaches the server


async def test_a_refused_connection_goes_to_the_other_endpoint(bench: Bench) -> None:
    bench.add("alpha", "http://127.0.0.1:9", 1)
    await assert_served_by_beta(bench, "transient")


async def test_a_name_that_does_not_resolve_goes_to_the_other_endpoint(bench: Bench) -> None:
    bench.add("alpha", "http://nothing-here.invalid/v1", 1)
    await assert_served_by_beta(bench, "transient")


# The server answers with an error


async def test_a_burst_of_server_errors_is_survived_and_the_endpoint_left_alone(bench: Bench) -> None:
    bench.alpha(Step(status=500), Step(status=502), Step(status=503), Step(status=504))
    for _ in range(6):
        text, attempts = await bench.ask()
        assert (text, attempts[-1]) == ("from beta", ("beta", "ok"))
    assert bench.calls("alpha") == 1  # held after the first, so the burst costs one call
    assert bench.status("alpha") in {ApiStatus.DEGRADED, ApiStatus.FAILED}


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"retry-after": "7"}, 6.0),
        ({"retry-after": "7.5"}, 6.5),
        ({"retry-after-ms": "7250"}, 6.2),
        ({"retry-after": "date"}, 5.0),
    ],
    ids=["seconds", "fractional", "milliseconds", "date"],
)
async def test_a_rate_limit_is_kept_for_as_long_as_the_server_says(
    bench: Bench, headers: dict[str, str], least: float
) -> None:
    if headers.get("retry-after") == "date":
        headers = {"retry-after": email.utils.formatdate(time.time() + 8, usegmt=True)}
    bench.alpha(Step(status=429, headers=headers))
    await assert_served_by_beta(bench, "rate_limited")
    assert bench.status("alpha") == ApiStatus.RATE_LIMITED
    assert least < bench.cooldown("alpha") < 10
    await bench.ask()
    assert bench.calls("alpha") == 1


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (402, "billing_error"), (403, ""), (404, "model_not_found")]
)
async def test_an_endpoint_that_is_set_up_wrong_or_out_of_money_is_left_alone_for_long(
    bench: Bench, status: int, code: str
) -> None:
    bench.alpha(Step(status=status, code=code))
    await assert_served_by_beta(bench, "endpoint_fault")
    assert bench.status("alpha") == ApiStatus.FAILED
    assert bench.cooldown("alpha") > 30


async def test_a_429_that_means_no_money_is_not_taken_for_a_rate_limit(bench: Bench) -> None:
    bench.alpha(Step(status=429, code="insufficient_quota"))
    await assert_served_by_beta(bench, "endpoint_fault")


async def test_a_bad_request_is_raised_at_once_and_blames_nobody(bench: Bench) -> None:
    bench.alpha(Step(status=400, code="invalid_request_error", message="'messages' must not be empty"))
    with pytest.raises(ProviderError, match="must not be empty") as caught:
        await bench.ask()
    assert caught.value.status == 400
    assert bench.calls("beta") == 0
    assert bench.status("alpha") == ApiStatus.ACTIVE


async def test_a_request_too_long_for_one_endpoint_is_served_by_the_next_and_blames_nobody(bench: Bench) -> None:
    bench.alpha(Step(status=400, code="context_length_exceeded", message="too long"))
    await assert_served_by_beta(bench, "unsuited")
    assert bench.status("alpha") == ApiStatus.ACTIVE


# The server answers, wrongly


@pytest.mark.parametrize(
    "step",
    [Step(fault="empty"), Step(fault="html"), Step(fault="not_json"), Step(fault="no_choices"), Step(fault="garbage")],
    ids=lambda step: step.fault,
)
async def test_an_answer_that_is_none_goes_to_the_other_endpoint(bench: Bench, step: Step) -> None:
    bench.alpha(step)
    await assert_served_by_beta(bench, "transient")


async def test_a_redirect_is_not_followed_and_counts_as_a_wrong_setup(bench: Bench) -> None:
    bench.alpha(Step(fault="redirect", location=bench.server.base_url("trap")))
    await assert_served_by_beta(bench, "endpoint_fault")
    assert bench.calls("trap") == 0


@pytest.mark.parametrize(
    "step", [Step(fault="cut"), Step(fault="reset"), Step(fault="close")], ids=lambda step: step.fault
)
async def test_a_lost_connection_goes_to_the_other_endpoint(bench: Bench, step: Step) -> None:
    bench.alpha(step)
    await assert_served_by_beta(bench, "transient")


async def test_a_read_timeout_goes_to_the_other_endpoint(bench: Bench) -> None:
    bench.alpha(Step(fault="hang"), timeout=0.1)
    await assert_served_by_beta(bench, "transient")


async def test_an_error_inside_a_successful_answer_is_taken_for_what_it_is(bench: Bench) -> None:
    bench.alpha(Step(raw=b'{"error": {"code": 429, "message": "upstream is busy"}}'))
    await assert_served_by_beta(bench, "rate_limited")


# Streams, before the first token: another endpoint answers


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (Step(fault="hang"), "transient"),
        (Step(first_token_delay=30), "transient"),
        (Step(fault="reset"), "transient"),
        (Step(fault="empty"), "transient"),
        (Step(fault="html"), "transient"),
        (Step(status=500), "transient"),
        (Step(status=429, headers={"retry-after": "5"}), "rate_limited"),
        (Step(status=401), "endpoint_fault"),
        (Step(fault="redirect"), "endpoint_fault"),
    ],
    ids=lambda value: (value.fault or str(value.status)) if isinstance(value, Step) else value,
)
async def test_a_stream_that_fails_before_its_first_token_goes_to_the_other_endpoint(
    bench: Bench, step: Step, outcome: str
) -> None:
    bench.alpha(step, timeout=0.2)
    assert await bench.stream() == "from beta"
    assert bench.outcomes("alpha") == {outcome: 1}
    assert bench.outcomes("beta") == {"ok": 1}


# Streams, after the first token: an error with what came so far, never a success


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("cut", "cut"), ("stall", "timeout"), ("no_finish", "cut"), ("bad_chunk", "protocol"), ("error_event", "status")],
)
async def test_a_stream_that_fails_after_its_first_token_is_an_error_that_carries_the_text_so_far(
    bench: Bench, fault: str, kind: str
) -> None:
    bench.alpha(Step(text=LONG, fault=fault), timeout=1.0 if fault == "stall" else 5.0)  # type: ignore[arg-type]
    received: list[ChatChunk] = []
    with pytest.raises(ProviderError) as caught:
        await bench.stream(received)
    text = "".join(chunk.text for chunk in received)
    assert all(chunk.finish_reason is None for chunk in received)
    assert caught.value.kind == kind
    assert text
    assert LONG.startswith(text)
    assert caught.value.partial == text
    assert bench.outcomes("alpha") == {"transient": 1}
    assert bench.calls("beta") == 0


async def test_the_wait_for_the_first_token_and_the_pause_between_two_have_limits_of_their_own(bench: Bench) -> None:
    bench.alpha(Step(text=LONG, first_token_delay=0.4, token_delay=0.15), timeout=1.0)
    # The whole takes longer than a second, each wait less: this is a slow stream and no failure.
    assert await bench.stream() == LONG
    assert bench.outcomes("alpha") == {"ok": 1}


async def test_a_caller_who_stops_reading_blames_nobody(bench: Bench) -> None:
    bench.alpha(Step(text=LONG, fault="stall"))
    chunks = bench.manager.astream(PROMPT)
    assert (await anext(chunks)).text == "one "
    await chunks.aclose()  # type: ignore[attr-defined]
    assert bench.outcomes("alpha") == {"cancelled": 1}
    assert bench.status("alpha") == ApiStatus.ACTIVE


# Nobody is left


async def test_when_all_fail_every_attempt_is_listed_with_its_reason(bench: Bench) -> None:
    bench.alpha(Step(status=500, message="boom"))
    bench.server.script("beta", Step(status=401, code="invalid_api_key"))
    with pytest.raises(AllEndpointsFailed) as caught:
        await bench.manager.achat(PROMPT, max_retries=2)
    text = str(caught.value)
    assert "alpha" in text
    assert "500" in text
    assert "beta" in text
    assert "invalid_api_key" in text


def test_a_sync_call_is_served_by_the_other_endpoint_as_well(llm_server: LlmServer) -> None:
    manager = ApiManager()
    bench = Bench(manager, llm_server)
    bench.alpha(Step(fault="reset"))
    try:
        for _ in range(3):
            assert manager.chat(PROMPT).text == "from beta"
    finally:
        manager.close()
    assert bench.calls("alpha") == 1
