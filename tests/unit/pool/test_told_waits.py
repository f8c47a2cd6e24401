"""Waits that a server tells in the body of its error. Where each was reported: docs/field-faults.md, 4."""

import json
from types import SimpleNamespace

import pytest

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.outcome import OutcomeClass, classify
from core.cloud.provider import ProviderError
from core.cloud.replies.complaint import complaint_of
from core.cloud.replies.refusal import told_by
from core.cloud.replies.retry_after import LONGEST_RETRY_AFTER
from tests.support.llm_server import Step

NOW = 1_750_000_000.0


def said(message, code="rate_limit_exceeded"):
    return {"error": {"message": message, "type": "requests", "code": code}}


def google(delay, message="You exceeded your current quota, please check your plan and billing details."):
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaValue": "4000000"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]
    return {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}


def openrouter(reset):
    headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    message = "Rate limit exceeded: free-models-per-day."
    return {"error": {"message": message, "code": 429, "metadata": {"headers": headers}}, "user_id": "user_1"}


WAITS = {
    "google: RetryInfo": (google("17s"), 17.0),
    "google: RetryInfo, in a list": ([google("38s")], 38.0),
    "google: RetryInfo with nanoseconds": (google("45.837906927s"), 45.837906927),
    "google: RetryInfo as an object": (google({"seconds": 26, "nanos": 500_000_000}), 26.5),
    "google: the sentence alone": (
        google(None, "You exceeded your current quota.\nPlease retry in 47.434392449s."),
        47.434392449,
    ),
    "google behind a gateway, as text": ({"error": {"message": json.dumps(google("12s")), "code": 429}}, 12.0),
    "openai: seconds": (
        said("Rate limit reached for gpt-x on requests per min. Please try again in 20s. Visit us."),
        20.0,
    ),
    "openai: milliseconds": (
        said("Rate limit reached. Limit 30000, Used 29500, Requested 700. Please try again in 340ms."),
        0.34,
    ),
    "openai: minutes and seconds": (
        said("Rate limit reached on requests per day (RPD): Limit 200. Please try again in 7m12s."),
        432.0,
    ),
    "openai: six minutes": (said("Please try again in 6m0s."), 360.0),
    "openai: hours and minutes": (said("Please try again in 1h2m."), 3720.0),
    "openai: fractions": (
        said("on requests per day: Limit 10000, Used 10000, Requested 1. Please try again in 8.64s."),
        8.64,
    ),
    "groq: minutes and fractions": (
        said("Rate limit reached (TPD): Limit 100000. Please try again in 9m38.016s. Need more?"),
        578.016,
    ),
    "azure": (
        {
            "error": {
                "code": "429",
                "message": "Requests to the Operation have exceeded call rate limit of your current OpenAI"
                " S0 pricing tier. Please retry after 26 seconds.",
            }
        },
        26.0,
    ),
    "azure: a day": (
        {"error": {"code": "429", "message": "have exceeded token rate limit. Please retry after 86400 seconds."}},
        86_400.0,
    ),
    "azure, older": ({"error": {"message": "Rate limit is exceeded. Try again in 30 seconds."}}, 30.0),
    "moonshot": (
        {
            "error": {
                "message": "max request per minute reached: 3, please try again after 1 seconds",
                "type": "rate_limit_reached_error",
            }
        },
        1.0,
    ),
    "openrouter: a moment in milliseconds": (openrouter(str(int((NOW + 90) * 1000))), 90.0),
    "openrouter: the same as a number": (openrouter(int((NOW + 90) * 1000)), 90.0),
    "a moment in seconds": (openrouter(str(int(NOW + 90))), 90.0),
    "a field in seconds": ({"error": {"message": "slow down", "metadata": {"retry_after_seconds": 31}}}, 31.0),
    "a field in milliseconds": ({"error": {"message": "slow down", "retry_after_ms": 1500}}, 1.5),
    "a field of another style": ({"message": "slow down", "retryAfter": "2m"}, 120.0),
    "a moment as a sentence": (said("You are out of tokens. Your limit resets at 2025-06-15T15:07:00Z."), 20.0),
    "in words": (said("Too many requests, please wait 1 minute and 30 seconds before the next one."), 90.0),
    "in Chinese": (said("请求过于频繁，请在 15 秒后重试"), 15.0),
    "two waits": (google("3s", "Please retry in 41s."), 41.0),
    "longer than a day": (said("Please try again in 90d."), LONGEST_RETRY_AFTER),
    "no wait: figures": (said("Limit 200 / min. Current: 210 / min. Used 20s of compute."), None),
    "no wait: later": (said("The server is busy. Please try again later."), None),
    "no wait: a number too many": (said("Please try again in " + "9" * 400 + "s"), None),
    "no wait: in the past": (openrouter(str(int((NOW - 90) * 1000))), 0.0),
    "no wait: what RetryInfo should not hold": (google("soon"), None),
    "no wait: nonsense": (openrouter({"a": ["b"]}), None),
}


class SdkError(Exception):
    def __init__(self, body, headers=None):
        super().__init__(f"Error code: 429 - {body}")
        self.status_code, self.body = 429, body
        self.response = SimpleNamespace(status_code=429, headers=headers or {})


@pytest.mark.parametrize("case", WAITS)
def test_a_wait_that_stands_only_in_the_body_is_kept(case):
    body, seconds = WAITS[case]
    told = told_by(429, complaint_of(json.dumps(body).encode()))
    for error in (ProviderError("x", kind="status", status=429, told=told), SdkError(body)):
        outcome = classify(error, NOW)
        assert outcome.retry_after == (None if seconds is None else pytest.approx(seconds, abs=1e-3))
        if seconds is not None:
            assert outcome.kind is OutcomeClass.RATE_LIMITED, "who says when to come back is not out of money"


@pytest.mark.parametrize(("header", "seconds"), [("5", 20.0), ("60", 60.0), ("x", 20.0)])
def test_of_a_wait_in_the_header_and_one_in_the_body_the_longer_counts(header, seconds):
    error = SdkError(said("Please try again in 20s."), {"retry-after": header})
    assert classify(error, NOW).retry_after == seconds


def test_out_of_money_is_no_matter_of_waiting():
    body = said("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota")
    assert classify(SdkError(body), NOW).kind is OutcomeClass.ENDPOINT_FAULT


@pytest.mark.parametrize("way", ["chat", "stream", "function"])
async def test_an_endpoint_is_held_as_long_as_its_body_says(llm_server, way):
    clock = ManualClock()
    llm_server.script("first", Step(status=429, raw=json.dumps([google("17s")]).encode()))
    llm_server.script("second", Step(text="from the second"))
    manager = ApiManager(clock=clock)
    for priority, name in enumerate(("first", "second"), 1):
        manager.add_endpoint(ApiEndpoint(name, llm_server.base_url(name), "sk-canary-0123", "m", priority=priority))
    if way == "chat":
        assert (await manager.achat("hello")).endpoint == "second"
    elif way == "stream":
        assert {chunk.endpoint async for chunk in manager.astream("hello")} == {"second"}
    else:

        def ask(endpoint):
            if endpoint.name == "first":
                raise SdkError(google("17s"))
            return "ok"

        assert manager.call_with_retry(ask)[1].name == "second"
    first = manager.get_stats()["endpoints"]["first"]
    assert (first["status"], first["cooldown_seconds"]) == ("rate_limited", pytest.approx(17.0, abs=0.1))
    await manager.aclose()
