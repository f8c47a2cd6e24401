"""Payloads of built-in handlers are checked when they are published, as far as they are known by then."""

import pytest

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.ai_call import register_ai_call
from core.cloud.scheduler import CloudScheduler
from core.errors import InvalidArgument
from core.paths import MEMORY
from tests.unit.test_ai_call import Pool

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def publisher():
    with EnhancedCloudTaskPublisher(MEMORY) as publisher:
        register_ai_call(publisher.handlers, Pool())
        yield publisher


REFUSED = [
    ("ai_call", None, "needs either a prompt or messages"),
    ("ai_call", {"system": "Be brief."}, "needs either a prompt or messages"),
    ("ai_call", {"promt": "Hello"}, "does not know 'promt'"),
    ("ai_call", {"prompt": "Hello", "messages": HELLO}, "either a prompt or messages"),
    ("ai_call", {"prompt": "  "}, "no messages to send"),
    ("ai_call", {"messages": []}, "no messages to send"),
    ("ai_call", {"messages": "Hello"}, "messages that are not a list"),
    ("ai_call", {"messages": [{"content": "Hello"}]}, "role and content"),
    ("ai_call", {"prompt": "Hello", "max_tokens": "many"}, "max_tokens that is not a number"),
    ("ai_call", {"prompt": "Hello", "max_tokens": 0}, "max_tokens must be"),
    ("ai_call", {"prompt": "Hello", "temperature": 3}, "temperature must be"),
    ("ai_call", {"prompt": "Hello", "strategy": "fastest"}, "There is no strategy 'fastest'"),
    ("ai_call", {"prompt": "Hello", "when_limited": "later"}, "when_limited must be next or wait"),
    ("ai_call", {"prompt": "Hello", "when_limited": 5}, "when_limited that is not text"),
    ("ai_call", {"prompt": "Hello", "max_retries": 0}, "max_retries must be"),
    ("ai_call", {"prompt": "Hello", "deadline": -1}, "deadline must be"),
    ("ai_call", {"prompt": "Hello", "json": "yes"}, "json that is not true or false"),
    ("ai_call", [1], "not an object"),
    ("sleep", {"seconds": "long"}, "from 0 to 86400"),
    ("sleep", {"seconds": -1}, "from 0 to 86400"),
    ("sleep", {"second": 1}, "does not know 'second'"),
    ("sleep", "long", "from 0 to 86400"),
    ("sleep", {"seconds": True}, "from 0 to 86400"),
    ("http_request", None, "needs a url"),
    ("http_request", {"uri": "https://example.org"}, "needs a url"),
    ("http_request", {"url": "example.org"}, "no scheme"),
    ("http_request", {"url": "ftp://example.org"}, "scheme is 'ftp'"),
    ("http_request", {"url": "https://example.org", "method": "FETCH"}, "the method 'FETCH'"),
    ("http_request", {"url": "https://example.org", "timeout": "long"}, "timeout that is not"),
    ("http_request", {"url": "https://example.org", "headers": ["a: b"]}, "headers that are not an object"),
    ("http_request", {"url": "https://example.org", "body": "a", "json": {}}, "both body and json"),
]


@pytest.mark.parametrize(("name", "payload", "message"), REFUSED)
def test_a_payload_that_can_only_fail_is_refused_and_nothing_is_stored(publisher, name, payload, message):
    for publish in (
        lambda: publisher.publish(name, payload),
        lambda: publisher.publish_many([{"name": "echo"}, {"name": name, "payload": payload}]),
        lambda: publisher.publish_graph({"a": {"name": "echo"}, "b": {"name": name, "payload": payload}}),
        lambda: CloudScheduler(publisher).add_task(name, payload, every=60),
    ):
        with pytest.raises(InvalidArgument) as refused:
            publish()
        assert message in refused.value.message
    assert publisher.get_stats()["total"] == 0


ACCEPTED = [
    ("ai_call", "Hello"),
    ("ai_call", {"prompt": "${a}"}),
    ("ai_call", {"messages": "${a}"}),
    ("ai_call", {"prompt": {"question": "${a}"}}),
    ("ai_call", {"prompt": "Hello", "max_tokens": "${a.n}", "temperature": "${a.t}", "strategy": "${a.s}"}),
    ("ai_call", {"prompt": "Hello", "when_limited": "wait"}),
    ("ai_call", {"prompt": "Hello", "when_limited": "${a.when}"}),
    ("ai_call", {"messages": [{"role": "user", "content": "${a}"}], "json": "${a.json}", "deadline": "${a.d}"}),
    ("ai_call", "${a}"),
    ("sleep", None),
    ("sleep", 0.5),
    ("sleep", {"seconds": "${a.n}"}),
    ("sleep", "${a}"),
    ("http_request", {"url": "${a.url}", "method": "${a.method}", "headers": "${a.headers}", "timeout": "${a.n}"}),
    ("http_request", {"url": "https://example.org/${a}", "json": "${a}"}),
    ("http_request", {"url": "https://${a.host}/x", "body": "${a}"}),
    ("http_request", "${a}"),
    ("echo", {"anything": ["${a}"]}),
    ("nobody_knows_it", {"seconds": "long"}),
]


@pytest.mark.parametrize(("name", "payload"), ACCEPTED)
def test_what_may_yet_be_right_is_accepted(publisher, name, payload):
    made = publisher.publish_graph(
        {"a": {"name": "echo"}, "b": {"name": name, "payload": payload, "depends_on": ["a"]}}
    )
    assert made["b"].name == name


def test_a_handler_of_the_users_own_takes_what_it_likes(publisher):
    publisher.register_handler("sleep", lambda payload: payload)
    assert publisher.publish("sleep", {"seconds": "long"}).payload == {"seconds": "long"}
