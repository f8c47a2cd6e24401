"""What clients have sent that is no message: one table for every transport and both eras of the protocol."""

from dataclasses import dataclass
from typing import Any

PARSE_ERROR, INVALID_REQUEST = -32700, -32600


@dataclass(frozen=True)
class BadMessage:
    """Bytes, and the errors that answer them: their code, and an id for each."""

    name: str
    data: bytes
    code: int
    ids: tuple[Any, ...] = (41,)

    @property
    def fits_a_line(self) -> bool:
        return b"\n" not in self.data


CALL = b'{"jsonrpc":"2.0","id":41,"method":"tools/call","params":{"name":"echo","arguments":%b}}'
LAST = b'{"method":"tools/call","params":{"name":"echo","arguments":%b},"jsonrpc":"2.0","id":41}'
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000

BAD_MESSAGES = [
    # What is no JSON.
    BadMessage("words", b"hello, is there anybody?", PARSE_ERROR, (None,)),
    BadMessage("an HTTP request", b"POST /mcp HTTP/1.1", PARSE_ERROR, (None,)),
    BadMessage("an LSP header", b"Content-Length: 58", PARSE_ERROR, (None,)),
    BadMessage("half an object", b'{"jsonrpc":"2.0","id":41,"method":"tools/li', PARSE_ERROR),
    BadMessage("half an object before its id", b'{"jsonrpc":"2.0","i', PARSE_ERROR, (None,)),
    BadMessage("two objects", CALL % b"{}" + CALL % b"{}", PARSE_ERROR),
    BadMessage("single quotes", b"{'jsonrpc':'2.0','id':41,'method':'ping'}", PARSE_ERROR, (None,)),
    BadMessage("a trailing comma", b'{"jsonrpc":"2.0","id":41,"method":"ping",}', PARSE_ERROR),
    BadMessage("a comment", b'{"jsonrpc":"2.0","id":41,"method":"ping"} // hi', PARSE_ERROR),
    BadMessage("nested 100,000 deep", CALL % DEEP, PARSE_ERROR),
    BadMessage("nested 100,000 deep with the id last", LAST % DEEP, PARSE_ERROR),
    BadMessage("100,000 brackets", b"[" * 100_000, PARSE_ERROR, (None,)),
    BadMessage("NaN", CALL % b'{"x":NaN}', PARSE_ERROR),
    BadMessage("Infinity", CALL % b'{"x":-Infinity}', PARSE_ERROR),
    BadMessage("a NUL", CALL % b'{"x":"\x00"}', PARSE_ERROR),
    BadMessage("nothing but NULs", b"\x00" * 64, PARSE_ERROR, (None,)),
    BadMessage("a tab in a string", CALL % b'{"x":"\t"}', PARSE_ERROR),
    BadMessage("a byte that is no UTF-8", CALL % b'{"x":"caf\xe9"}', PARSE_ERROR),
    BadMessage("GBK", CALL % '{"x":"你好"}'.encode("gbk"), PARSE_ERROR),
    BadMessage("UTF-16", '{"jsonrpc":"2.0","id":41,"method":"ping"}'.encode("utf-16"), PARSE_ERROR, (None,)),
    BadMessage("a lone surrogate in bytes", CALL % b'{"x":"\xed\xa0\x80"}', PARSE_ERROR),
    BadMessage("a lone surrogate escaped", CALL % b'{"x":"\\ud83d"}', PARSE_ERROR),
    BadMessage("an id of 5,000 digits", b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b"}", PARSE_ERROR, (None,)),
    BadMessage("two byte-order marks", b"\xef\xbb\xbf" * 2 + CALL % b"{}", PARSE_ERROR),
    # JSON that is no request.
    BadMessage(
        "a batch",
        b"[" + CALL % b"{}" + b"," + b'{"jsonrpc":"2.0","id":"b","method":"ping"}]',
        INVALID_REQUEST,
        (41, "b"),
    ),
    BadMessage("a batch of one", b"[" + CALL % b"{}" + b"]", INVALID_REQUEST),
    BadMessage("a batch of nothing", b"[]", INVALID_REQUEST, (None,)),
    BadMessage("a batch of notifications", b'[{"jsonrpc":"2.0","method":"notifications/x"}]', INVALID_REQUEST, ()),
    BadMessage("a batch of numbers", b"[1,2]", INVALID_REQUEST, (None,)),
    BadMessage("an empty object", b"{}", INVALID_REQUEST, (None,)),
    BadMessage("a number", b"41", INVALID_REQUEST, (None,)),
    BadMessage("a string", b'"ping"', INVALID_REQUEST, (None,)),
    BadMessage("null", b"null", INVALID_REQUEST, (None,)),
    BadMessage("an id of 1.5", b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID_REQUEST, (1.5,)),
    BadMessage("an id of 41.0", b'{"jsonrpc":"2.0","id":41.0,"method":"ping"}', INVALID_REQUEST, (41.0,)),
    BadMessage("an id of 4.1e1", b'{"jsonrpc":"2.0","id":4.1e1,"method":"ping"}', INVALID_REQUEST, (41.0,)),
    BadMessage("an id of true", b'{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID_REQUEST, (None,)),
    BadMessage("an id of null", b'{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID_REQUEST, (None,)),
    BadMessage("an id that is an object", b'{"jsonrpc":"2.0","id":{"n":41},"method":"ping"}', INVALID_REQUEST, (None,)),
    BadMessage("an id that is a list", b'{"jsonrpc":"2.0","id":[41],"method":"ping"}', INVALID_REQUEST, (None,)),
    BadMessage("no method", b'{"jsonrpc":"2.0","id":41}', INVALID_REQUEST),
    BadMessage("a method that is a number", b'{"jsonrpc":"2.0","id":41,"method":1}', INVALID_REQUEST),
    BadMessage("a method that is null", b'{"jsonrpc":"2.0","id":41,"method":null}', INVALID_REQUEST),
    BadMessage("no version", b'{"id":41,"method":"ping"}', INVALID_REQUEST),
    BadMessage("version 1.0", b'{"jsonrpc":"1.0","id":41,"method":"ping"}', INVALID_REQUEST),
    BadMessage("a version that is a number", b'{"jsonrpc":2.0,"id":41,"method":"ping"}', INVALID_REQUEST),
    BadMessage("params that are a list", b'{"jsonrpc":"2.0","id":41,"method":"ping","params":[1]}', INVALID_REQUEST),
    BadMessage("params that are text", b'{"jsonrpc":"2.0","id":41,"method":"ping","params":"{}"}', INVALID_REQUEST),
    # What nobody waits for: an answer could go to and fro for ever.
    BadMessage(
        "a notification with a list", b'{"jsonrpc":"2.0","method":"notifications/x","params":[]}', INVALID_REQUEST, ()
    ),
    BadMessage(
        "a notification with NaN", b'{"jsonrpc":"2.0","method":"notifications/x","params":{"a":NaN}}', PARSE_ERROR, ()
    ),
    BadMessage("a response with a fraction as id", b'{"jsonrpc":"2.0","id":1.5,"result":{}}', INVALID_REQUEST, ()),
    BadMessage("a response with NaN", b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}', PARSE_ERROR, ()),
    BadMessage("an error that is text", b'{"jsonrpc":"2.0","id":1,"error":"no"}', INVALID_REQUEST, ()),
]
