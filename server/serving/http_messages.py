"""What the SDK's HTTP transports leave without an answer gets one here, and what must not be answered gets none.

ASGI middleware in front of both transports, by what stands on the wire only: a body that is no message is answered with
a JSON-RPC error (over SSE on the session's own stream, where its client waits), and the answer to a cancelled request is
taken out of its stream (the SDK writes one there to end it).
"""

import json
import logging
import re
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.serving.messages import BYTE_ORDER_MARK, RefusedMessage, error_message, read_message

log = logging.getLogger(__name__)

REQUEST_CANCELLED = -32800
"""The SDK's code in the answer to a request that was cancelled over session-based streamable HTTP."""
_EVENT = re.compile(rb"event: message\r?\ndata: (?P<data>[^\r\n]*)\r?\n\r?\n")
_SESSION = re.compile(rb"session_id=([0-9a-f]{32})")


class HttpMessages:
    """Reads every message before the transports do."""

    def __init__(self, app: ASGIApp, *, streamable: str, sse: str, posts: str, largest: int) -> None:
        """`streamable`, `sse` and `posts`: the paths of the transports; `largest`: bytes of a body that they take."""
        self._app = app
        self._streamable, self._sse, self._posts = streamable, sse, posts
        self._largest = largest
        self._streams: dict[str, Send] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "GET" and scope["path"] == self._sse:
            await self._stream(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"] == self._streamable:
            await self._post(scope, receive, _without_cancelled(send), None)
        elif scope["method"] == "POST" and scope["path"].startswith(self._posts):
            stream = self._streams.get(Request(scope).query_params.get("session_id", ""))
            await self._post(scope, receive, send, stream)
        else:
            await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an SSE stream, known by the session's id that it tells its client first."""
        session = ""

        async def watched(message: Message) -> None:
            nonlocal session
            if not session and (told := _SESSION.search(message.get("body", b""))):
                session = told[1].decode()
                self._streams[session] = send
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._streams.pop(session, None)

    async def _post(self, scope: Scope, receive: Receive, send: Send, stream: Send | None) -> None:
        headers = Headers(scope=scope)
        if "json" not in headers.get("content-type", "") or _declared(headers) > self._largest:
            await self._app(scope, receive, send)
            return
        body, received = await _body(receive, self._largest)
        refusal = read_message(body) if len(body) <= self._largest else None
        if isinstance(refusal, RefusedMessage):
            log.warning("refused a message: %s", refusal.reason)
            await _refuse(refusal, scope, receive, send, stream)
            return
        if body.startswith(BYTE_ORDER_MARK):
            received = [{"type": "http.request", "body": body.removeprefix(BYTE_ORDER_MARK), "more_body": False}]
        await self._app(scope, _again(received, receive), send)


def _declared(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


async def _body(receive: Receive, largest: int) -> tuple[bytes, list[Message]]:
    """The body, and the messages it came in; reading ends beyond `largest` bytes."""
    body, received, more = bytearray(), list[Message](), True
    while more and len(body) <= largest:
        message = await receive()
        received.append(message)
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return bytes(body), received


def _again(received: list[Message], receive: Receive) -> Receive:
    """`receive`, which gives `received` out once more first."""
    left = iter(received)

    async def replayed() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return replayed


async def _refuse(refusal: RefusedMessage, scope: Scope, receive: Receive, send: Send, stream: Send | None) -> None:
    """Answer on the stream where the client waits, else with the response to its POST."""
    waiting = [one for one in refusal.ids if one is not None]
    if stream is not None and waiting:
        for request_id in waiting:
            event = b"event: message\r\ndata: %b\r\n\r\n" % error_message(request_id, refusal.code, refusal.reason)
            await stream({"type": "http.response.body", "body": event, "more_body": True})
        await Response("Accepted", HTTPStatus.ACCEPTED)(scope, receive, send)
        return
    body = error_message(waiting[0] if len(waiting) == 1 else None, refusal.code, refusal.reason)
    await Response(body, HTTPStatus.BAD_REQUEST, media_type="application/json")(scope, receive, send)


def _without_cancelled(send: Send) -> Send:
    """`send`, which leaves out the events that answer a cancelled request."""

    async def quiet(message: Message) -> None:
        body = message.get("body", b"")
        if b"%d" % REQUEST_CANCELLED in body:
            message = {
                **message,
                "body": _EVENT.sub(lambda event: b"" if _cancelled(event["data"]) else event[0], body),
            }
        await send(message)

    return quiet


def _cancelled(data: bytes) -> bool:
    try:
        error = json.loads(data).get("error")
    except (ValueError, AttributeError):
        return False
    return isinstance(error, dict) and error.get("code") == REQUEST_CANCELLED
