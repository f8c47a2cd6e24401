"""Exceptions of HTTP libraries and SDKs, known by their shape alone."""

from types import SimpleNamespace

import pytest
import requests

from core.cloud.pool.outcome import OutcomeClass, classify
from core.cloud.provider import ProviderError
from core.cloud.replies.retry_after import exhausted_for
from core.errors import InvalidArgument, UrlRefused

NOW = 1_750_000_000.0


class SdkError(Exception):
    """As openai and anthropic raise it."""

    def __init__(self, status, body=None, headers=None, code=None):
        super().__init__("sdk error")
        self.status_code, self.body, self.code = status, body, code
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


class TimeoutException(Exception):
    pass


class APITimeoutError(Exception):
    pass


def of_requests(status, headers=None, body=None):
    response = requests.Response()
    if body is not None:
        response._content = body
    response.status_code = status
    response.headers.update(headers or {})
    return requests.HTTPError("requests error", response=response)


def test_the_body_of_a_response_tells_a_lack_of_money_when_the_exception_does_not():
    body = b'{"error": {"message": "see your plan", "code": "insufficient_quota"}}'
    outcome = classify(of_requests(429, body=body), NOW)
    assert (outcome.kind, "insufficient_quota" in outcome.reason) == (OutcomeClass.ENDPOINT_FAULT, True)
    for other in (b'{"error": {"code": "rate_limit_exceeded"}}', b"{broken", b"<html>", b"{" * 100_000, None):
        assert classify(of_requests(429, body=other), NOW).kind is OutcomeClass.RATE_LIMITED


def test_a_status_that_the_message_names_is_not_named_twice():
    error = ProviderError("Endpoint a: the answer is HTTP 503.", kind="status", status=503)
    assert classify(error, NOW).reason.count("503") == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, OutcomeClass.CALLER_FAULT),
        (413, OutcomeClass.UNSUITED),
        (422, OutcomeClass.CALLER_FAULT),
        (401, OutcomeClass.ENDPOINT_FAULT),
        (402, OutcomeClass.ENDPOINT_FAULT),
        (403, OutcomeClass.ENDPOINT_FAULT),
        (404, OutcomeClass.ENDPOINT_FAULT),
        (302, OutcomeClass.ENDPOINT_FAULT),
        (429, OutcomeClass.RATE_LIMITED),
        (529, OutcomeClass.RATE_LIMITED),
        (408, OutcomeClass.TRANSIENT),
        (409, OutcomeClass.TRANSIENT),
        (500, OutcomeClass.TRANSIENT),
        (503, OutcomeClass.TRANSIENT),
    ],
)
def test_a_status_means_the_same_whoever_raises_it(status, kind):
    errors = [
        SdkError(status),
        of_requests(status),
        ProviderError("x", kind="status", status=status),
        type("ClientResponseError", (Exception,), {"status": status, "headers": {}})(),
        type("HTTPError", (Exception,), {"code": status})(),
    ]
    assert [classify(error, NOW).kind for error in errors] == [kind] * len(errors)
    assert [classify(error, NOW).status for error in errors] == [status] * len(errors)


@pytest.mark.parametrize(
    "error",
    [
        SdkError(429, {"error": {"code": "insufficient_quota"}}),
        SdkError(429, {"code": "exceeded_current_quota_error"}),
        SdkError(429, code="billing_hard_limit_reached"),
        ProviderError("x", kind="status", status=429, code="insufficient_quota"),
        ProviderError(
            "Your credit balance is too low to access the API", kind="status", status=400, code="invalid_request_error"
        ),
        SdkError(429, {"error": {"code": "1113"}}),
    ],
)
def test_out_of_money_is_the_endpoints_fault_whatever_its_status(error):
    assert classify(error, NOW).kind is OutcomeClass.ENDPOINT_FAULT


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "rate_limit_error", "tokens_per_minute", "RESOURCE_EXHAUSTED"])
def test_a_429_for_speed_is_no_lack_of_money(code):
    assert classify(SdkError(429, {"error": {"code": code}}), NOW).kind is OutcomeClass.RATE_LIMITED


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Sun, 15 Jun 2025 15:07:10 GMT"}, 30.0),
        ({"retry-after": "Sun, 15 Jun 2025 15:00:00 GMT"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "99999999999"}, 86_400.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert classify(SdkError(429, headers=headers), NOW).retry_after == seconds
    assert classify(of_requests(503, headers), NOW).retry_after == seconds


def test_a_server_may_overrule_what_its_status_means():
    assert classify(SdkError(400, headers={"x-should-retry": "true"}), NOW).kind is OutcomeClass.TRANSIENT
    assert not classify(SdkError(500, headers={"x-should-retry": "false"}), NOW).same_again


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), TimeoutException(), APITimeoutError(), requests.ReadTimeout(), ProviderError("x", kind="timeout")],
)
def test_a_request_that_timed_out_goes_elsewhere_and_not_to_the_same_endpoint(error):
    outcome = classify(error, NOW)
    assert (outcome.kind, outcome.timed_out, outcome.same_again) == (OutcomeClass.TRANSIENT, True, False)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        requests.ConnectionError(),
        requests.ConnectTimeout(),
        OSError(),
        KeyError("choices"),
        RuntimeError("?"),
    ],
)
def test_an_unknown_exception_is_transient_and_may_be_tried_on_the_same_endpoint(error):
    outcome = classify(error, NOW)
    assert (outcome.kind, outcome.status, outcome.same_again) == (OutcomeClass.TRANSIENT, 0, True)


def test_a_bad_argument_is_the_callers_and_a_refused_address_the_endpoints():
    assert classify(InvalidArgument("x"), NOW).kind is OutcomeClass.CALLER_FAULT
    assert classify(UrlRefused("x"), NOW).kind is OutcomeClass.ENDPOINT_FAULT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0.5s"}, 60.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"}, 179.56),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2025-06-15T15:07:00Z",
            },
            20.0,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int((NOW + 9) * 1000))}, 9.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW + 9))}, 9.0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "later"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({}, None),
    ],
)
def test_an_exhausted_limit_is_learned_from_the_headers(headers, seconds):
    found = exhausted_for(headers, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))
