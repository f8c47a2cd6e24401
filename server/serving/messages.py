"""Reads what a client sent as one JSON-RPC message, or says what answers it instead: nobody is left waiting.

The SDK's transports drop, or answer without an id, what they cannot read, and take a request with an unusable id for a
notification. So every byte from a client comes through `read_message` first, on stdio and over HTTP.
"""

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from core.json_types import Json

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DEEPEST = 200
"""Levels of nesting that the JSON reader follows."""
SCANNED = 1024 * 1024
"""Bytes of an unreadable text that are searched for its id."""
TAIL = 4096
"""Bytes at the end of a longer one that are searched as well: some clients write the id last."""
MOST_ANSWERED = 1000
"""Members of a batch that get an error of their own."""

Id: TypeAlias = str | int | float | None
"""What a request's id may be in JSON-RPC. MCP allows text and whole numbers only, but a fraction can be sent back."""


@dataclass(frozen=True)
class RefusedMessage:
    """Why a text is no message that is served, and whom to tell."""

    code: int
    """-32700 for what is no JSON, -32600 for JSON that is no request."""
    reason: str
    ids: tuple[Id, ...] = (None,)
    """The requests it held; None where an answer is owed but no id could be read, nothing where none is owed."""

    def answers(self) -> list[bytes]:
        """The error for each id, as JSON without a line's end."""
        return [error_message(one, self.code, self.reason) for one in self.ids]


def error_message(request_id: Id, code: int, reason: str) -> bytes:
    """A JSON-RPC error as JSON."""
    return to_json({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": reason}})


def read_message(data: bytes) -> JSONRPCMessage | RefusedMessage:
    """The one message in `data`. A byte-order mark before it is skipped."""
    data = data.removeprefix(BYTE_ORDER_MARK)
    try:
        parsed = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        return _unreadable(data, str(error))
    return _message(parsed)


def too_long(data: bytes, tail: bytes, limit: int) -> RefusedMessage:
    """The refusal of a message that begins with `data`, ends with `tail` and has more bytes than `limit`."""
    return RefusedMessage(
        INVALID_REQUEST, f"The message is longer than {limit} bytes. Send less at once.", _ids(data, tail)
    )


def _unreadable(data: bytes, why: str) -> RefusedMessage:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"byte {error.start + 1} is not UTF-8"
    why = why.replace("recursion limit exceeded", f"nested more than {DEEPEST} deep")
    return RefusedMessage(
        PARSE_ERROR, f"The message is not JSON: {why}. Send one JSON object in UTF-8.", _ids(data, data[-TAIL:])
    )


def _message(parsed: Any) -> JSONRPCMessage | RefusedMessage:
    if isinstance(parsed, list):
        return _batch(parsed)
    if not isinstance(parsed, dict):
        return RefusedMessage(INVALID_REQUEST, "A JSON-RPC message is an object.")
    if "method" not in parsed and ("result" in parsed or "error" in parsed):
        return _response(parsed)
    if "id" not in parsed and "method" in parsed:
        # Nobody waits for an answer to a notification, so an unusable one is only logged.
        return _as(JSONRPCNotification, parsed, ())
    request_id = parsed.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, (str, int)):
        number = request_id if isinstance(request_id, float) else None
        wrong = "has no id" if "id" not in parsed else "has an id that is neither a string nor a whole number"
        return RefusedMessage(INVALID_REQUEST, f"The request {wrong}.", (number,))
    return _as(JSONRPCRequest, parsed, (request_id,))


def _response(parsed: dict[str, Any]) -> JSONRPCMessage | RefusedMessage:
    # An answer to an answer could go on for ever between two confused peers.
    return _as(JSONRPCResponse if "result" in parsed else JSONRPCError, parsed, ())


def _as(kind: type[Any], parsed: dict[str, Any], ids: tuple[Id, ...]) -> JSONRPCMessage | RefusedMessage:
    try:
        message: JSONRPCMessage = kind.model_validate(parsed, by_name=False)
    except ValidationError as error:
        return RefusedMessage(INVALID_REQUEST, f"The message is no JSON-RPC 2.0 {_noun(kind)}: {_fault(error)}.", ids)
    return message


def _noun(kind: type[BaseModel]) -> str:
    return {JSONRPCRequest: "request", JSONRPCNotification: "notification"}.get(kind, "response")


FAULTS = {"jsonrpc": 'jsonrpc must be "2.0"', "method": "method must be a string", "params": "params must be an object"}


def _fault(error: ValidationError) -> str:
    """Which member is wrong, without its value."""
    member = str(error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"][0])
    return FAULTS.get(member, f"{member} is not as it should be")


def _batch(parsed: list[Any]) -> RefusedMessage:
    """One error for each request in a batch: a client that sent one waits for all of them."""
    reason = "Batches are not part of MCP since 2025-06-18. Send each message by itself."
    requests = [one for one in parsed if isinstance(one, dict) and "method" in one and "id" in one]
    ids = [one["id"] for one in requests[:MOST_ANSWERED] if _can_be_sent_back(one["id"])]
    notified = bool(parsed) and all(isinstance(one, dict) and "method" in one and "id" not in one for one in parsed)
    return RefusedMessage(INVALID_REQUEST, reason, () if notified else tuple(ids) or (None,))


def _can_be_sent_back(request_id: Json) -> bool:
    return isinstance(request_id, (str, int, float)) and not isinstance(request_id, bool)


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s"\[\]{}:,]+', re.DOTALL)
_LAST_ID = re.compile(
    rb',\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?)\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z', re.DOTALL
)


def _ids(head: bytes, tail: bytes) -> tuple[Id, ...]:
    """The id of a message that cannot be read as a whole; () for what shows itself to be no request."""
    members, whole = _members(head[:SCANNED])
    if b'"method"' not in members and not members.keys().isdisjoint((b'"result"', b'"error"')):
        return ()  # an answer, and to one of our own ids
    if b'"id"' not in members and len(head) > SCANNED and (last := _LAST_ID.search(tail)):
        return (_scalar(last[1]),)
    if b'"id"' in members:
        return (_scalar(members[b'"id"']),)
    return () if whole and b'"method"' in members else (None,)


def _members(text: bytes) -> tuple[dict[bytes, bytes], bool]:
    """The first tokens of the outermost object's members, by key, as far as they can be told, and whether it ends."""
    found: dict[bytes, bytes] = {}
    depth, key, before = 0, b"", b""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if depth == 1 and before == b":" and key:
            found.setdefault(key, token)
        if token in (b"{", b"["):
            depth += 1
            if depth == 1 and token == b"[":
                return {}, False
        elif token in (b"}", b"]"):
            depth -= 1
            if depth <= 0:
                return found, True
        elif token == b":":
            key = before if depth == 1 else b""
        before = token
    return found, False


def _scalar(token: bytes) -> Id:
    """The id that `token` writes; None for what cannot be one."""
    try:
        value = from_json(token, allow_inf_nan=False)
    except ValueError:
        return None
    return value if _can_be_sent_back(value) else None
