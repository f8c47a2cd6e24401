"""An endpoint: checked when made, silent about its key."""

import copy
import dataclasses
import pickle

import pytest

from core.cloud.endpoint import ApiEndpoint
from core.errors import InvalidArgument

KEY = "sk-canary-0123456789"


def test_the_guides_fields_come_in_the_guides_order():
    endpoint = ApiEndpoint("a", "https://a.example/v1", KEY, "m", 2, 100, 12.0)
    assert (endpoint.name, endpoint.base_url, endpoint.api_key, endpoint.model) == (
        "a",
        "https://a.example/v1",
        KEY,
        "m",
    )
    assert (endpoint.priority, endpoint.max_requests_per_minute, endpoint.timeout) == (2, 100, 12.0)
    plain = ApiEndpoint("a", "https://a.example/v1")
    assert (plain.api_key, plain.model, plain.priority, plain.max_requests_per_minute, plain.timeout) == (
        "",
        "",
        1,
        60,
        30.0,
    )


def test_the_key_is_there_to_be_used_and_shows_nowhere_else():
    endpoint = ApiEndpoint("a", "https://a.example", KEY)
    shown = [repr(endpoint), str(endpoint), str(dataclasses.asdict(endpoint)), str(vars(endpoint)), f"{endpoint!r:s}"]
    assert all(KEY not in text for text in shown)
    assert KEY.encode() not in pickle.dumps(endpoint)
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
    assert endpoint == ApiEndpoint("a", "https://a.example", "another")
    for other in (copy.copy(endpoint), copy.deepcopy(endpoint), dataclasses.replace(endpoint, priority=5)):
        assert other.api_key == KEY


def test_the_environment_goes_before_a_key_that_was_given(monkeypatch):
    endpoint = ApiEndpoint("a", "https://a.example", "given", api_key_env="A_KEY")
    assert endpoint.api_key == "given"
    monkeypatch.setenv("A_KEY", " from-the-environment\n")
    assert endpoint.api_key == "from-the-environment"


@pytest.mark.parametrize("name", ["通义千问", "DeepSeek-深度求索", "модель.2", "gpt-4o:mini@eu/west_1"])
def test_a_name_is_letters_and_digits_of_any_script(name):
    assert ApiEndpoint(name, "https://a.example").name == name


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "-a"},
        {"name": "通义 千问"},
        {"name": "x" * 101},
        {"base_url": "api.example"},
        {"base_url": "ftp://api.example"},
        {"base_url": "https://"},
        {"base_url": "https://user:pass@api.example"},
        {"base_url": "https://api.example:port"},
        {"base_url": f"https://api.example/v1?key={KEY}"},
        {"api_key": "two\nlines"},
        {"api_key_env": KEY},
        {"model": "a\nb"},
        {"priority": 1.5},
        {"priority": True},
        {"max_requests_per_minute": -1},
        {"max_requests_per_minute": "60"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"weight": -1.0},
        {"max_concurrency": -1},
        {"cost_per_million_in": -0.1},
        {"max_cost_per_day": float("nan")},
        {"headers": {"x-api-key": KEY}},
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"x-title": "a\r\nevil: yes"}},
        {"headers": {"bad name": "x"}},
        {"extra_body": {"a": object()}},
        {"extra_body": []},
    ],
)
def test_what_cannot_be_used_is_refused_and_not_repeated_when_it_may_be_a_key(wrong):
    with pytest.raises(InvalidArgument) as failure:
        ApiEndpoint(**{"name": "a", "base_url": "https://a.example", **wrong})
    assert KEY not in str(failure.value)


def test_prices_are_per_million_tokens():
    assert (
        ApiEndpoint("a", "https://a.example", cost_per_million_in=2.0, cost_per_million_out=8.0).cost(1000, 500)
        == 0.006
    )
