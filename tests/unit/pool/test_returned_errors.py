"""A function that returns what the server said, error or not, as the guide's own does, still gets its failover."""

import pytest
import requests

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.provider import ProviderError
from core.errors import AllEndpointsFailed
from tests.support.llm_server import Step


@pytest.fixture
def manager(llm_server):
    with ApiManager() as manager:
        llm_server.script("second", Step(text="from the second"))
        for priority, name in enumerate(("first", "second"), 1):
            url = llm_server.base_url(name)
            manager.add_endpoint(ApiEndpoint(name, url, f"sk-canary-{name}", "m", priority=priority))
        yield manager


def ask(endpoint):
    return requests.post(
        f"{endpoint.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {endpoint.api_key}"},
        json={"model": endpoint.model, "messages": [{"role": "user", "content": "hello"}]},
        timeout=5,
    )


def call_api(endpoint):
    """The guide's, word for word: nothing in it looks at the status."""
    return ask(endpoint).json()


FAILING = {
    "a server error": (Step(status=503), "transient", "transient"),
    "a wrong key": (Step(status=401, code="invalid_api_key"), "endpoint_fault", "endpoint_fault"),
    "no money": (Step(status=429, code="insufficient_quota"), "endpoint_fault", "endpoint_fault"),
    "a rate limit": (Step(status=429, code="rate_limit_exceeded"), "rate_limited", "rate_limited"),
    "an error under status 200": (Step(raw=b'{"error": "model is loading"}'), "transient", "ok"),
}


@pytest.mark.parametrize("what", FAILING)
@pytest.mark.parametrize("func", [call_api, ask], ids=["json", "response"])
def test_an_error_that_is_returned_sends_the_call_to_the_next_endpoint(manager, llm_server, what, func):
    step, if_json, if_response = FAILING[what]
    llm_server.script("first", step)
    result, used = manager.call_with_retry(func)
    kind = if_json if func is call_api else if_response
    assert used.name == ("first" if kind == "ok" else "second")
    assert manager.get_stats()["endpoints"]["first"]["outcomes"] == {kind: 1}
    assert result if func is call_api else result.ok


async def test_an_async_call_looks_at_what_is_returned_too(manager, llm_server):
    llm_server.script("first", Step(status=500))
    result, used = await manager.acall_with_retry(call_api)
    assert used.name == "second"
    assert result["choices"][0]["message"]["content"] == "from the second"


@pytest.mark.parametrize("func", [call_api, ask], ids=["json", "response"])
def test_a_wrong_request_that_is_returned_is_raised_at_once_and_blames_nobody(manager, llm_server, func):
    llm_server.script("first", Step(status=400, code="invalid_request_error", message="no such parameter"))
    with pytest.raises(ProviderError if func is call_api else requests.HTTPError):
        manager.call_with_retry(func)
    assert len(llm_server.arrivals("second")) == 0
    assert manager.get_stats()["endpoints"]["first"]["status"] == "active"


def test_when_all_return_errors_the_failure_tells_them_without_the_keys(manager, llm_server):
    for name in ("first", "second"):
        llm_server.script(name, Step(status=401, code="invalid_api_key", message="wrong key", echo_key=True))
    with pytest.raises(AllEndpointsFailed) as failure:
        manager.call_with_retry(call_api)
    assert str(failure.value).count("invalid_api_key") >= 2
    assert "sk-canary" not in str(failure.value)


@pytest.mark.parametrize(
    "result",
    [
        {"choices": [], "error": None},
        {"error": ""},
        {"error": {}},
        {"error": "half of it failed", "rows": [1, 2]},
        {"errors": ["none"]},
        {"error": {"rate": 0.5}},
        ["error"],
        "error",
        None,
    ],
)
def test_what_only_looks_a_little_like_an_error_is_an_answer(manager, result):
    assert manager.call_with_retry(lambda endpoint: result)[0] == result
