"""Every text that a client may send as one message: served, or answered so that nobody waits in vain."""

import json
from typing import Any

import pytest
from mcp.types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from server.serving.messages import SCANNED, RefusedMessage, error_message, read_message, too_long
from tests.support.bad_messages import BAD_MESSAGES, BadMessage

SERVED = [
    ("a request", b'{"jsonrpc":"2.0","id":7,"method":"ping"}', JSONRPCRequest),
    ("a request after a byte-order mark", b'\xef\xbb\xbf{"jsonrpc":"2.0","id":7,"method":"ping"}', JSONRPCRequest),
    ("an id that is text", b'{"jsonrpc":"2.0","id":"1.5","method":"ping","params":{}}', JSONRPCRequest),
    ("an id beyond 64 bits", b'{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"ping"}', JSONRPCRequest),
    ("members nobody knows", b'{"jsonrpc":"2.0","id":7,"method":"ping","extra":[1]}', JSONRPCRequest),
    ("an escaped NUL", b'{"jsonrpc":"2.0","id":7,"method":"x","params":{"a":"\\u0000"}}', JSONRPCRequest),
    ("a request that also has a result", b'{"jsonrpc":"2.0","id":7,"method":"x","result":{}}', JSONRPCRequest),
    ("a notification", b'{"jsonrpc":"2.0","method":"notifications/initialized"}', JSONRPCNotification),
    ("a response", b'{"jsonrpc":"2.0","id":1,"result":{}}', JSONRPCResponse),
    ("an error without an id", b'{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m"}}', JSONRPCError),
    ("spaces and a line's end", b' {"jsonrpc":"2.0","id":7,"method":"ping"} \r\n', JSONRPCRequest),
]


@pytest.mark.parametrize(("data", "kind"), [row[1:] for row in SERVED], ids=[row[0] for row in SERVED])
def test_what_is_a_message_is_served(data: bytes, kind: type) -> None:
    assert isinstance(read_message(data), kind)


@pytest.mark.parametrize("bad", BAD_MESSAGES, ids=lambda bad: bad.name)
def test_what_is_no_message_is_answered_with_its_id_where_one_can_be_read(bad: BadMessage) -> None:
    refusal = read_message(bad.data)
    assert isinstance(refusal, RefusedMessage)
    assert (refusal.code, list(refusal.ids)) == (bad.code, list(bad.ids))
    for answer in map(json.loads, refusal.answers()):
        assert answer["error"]["message"].endswith(".")
        assert len(answer["error"]["message"]) < 300


@pytest.mark.parametrize(
    ("head", "tail", "ids"),
    [
        (b'{"id":7,"method":"x","params":{"a":"' + b"x" * 100, b"", (7,)),
        (b'{"method":"x","params":{"a":"' + b"x" * SCANNED, b'xxx"}},"jsonrpc":"2.0","id":"t-9"}\n', ("t-9",)),
        (b'{"method":"x","params":{"a":"' + b"x" * SCANNED, b'xxx"}},"id":7,"jsonrpc":"2.0"}\n', (7,)),
        (b'{"method":"x","params":{"a":"' + b"x" * SCANNED, b'"id":7 xxx', (None,)),
        (b'{"id":3,"result":{"a":"' + b"x" * 100, b"", ()),
        (b"x" * 100, b"xxx", (None,)),
    ],
)
def test_a_message_that_is_too_long_is_answered_with_the_id_at_its_head_or_its_end(
    head: bytes, tail: bytes, ids: tuple[Any, ...]
) -> None:
    refusal = too_long(head, tail, 100)
    assert refusal.ids == ids
    assert "100 bytes" in refusal.reason


def test_an_error_can_carry_any_id_a_client_may_have_sent() -> None:
    for request_id in (None, 0, -1, 1.5, "", "é", 10**30):
        assert json.loads(error_message(request_id, -32600, "No."))["id"] == request_id
