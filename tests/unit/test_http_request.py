"""http_request: what a payload may say, what an answer becomes, and a real exchange on loopback."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.cloud.handlers.http_request import HttpRequests, HttpStatusError, as_result, parse
from core.errors import Permanent, UrlRefused
from core.network import HttpResponse, UrlPolicy


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (None, "needs a url"),
        ({"url": 5}, "needs a url"),
        ({"url": "https://a.b", "methd": "GET"}, "does not know 'methd'"),
        ({"url": "https://a.b", "method": "TRACE"}, "method 'TRACE'"),
        ({"url": "https://a.b", "timeout": -1}, "timeout"),
        ({"url": "https://a.b", "timeout": 1e9}, "timeout"),
        ({"url": "https://a.b", "headers": ["x"]}, "headers"),
        ({"url": "https://a.b", "headers": {"x": 1}}, "header"),
        ({"url": "https://a.b", "body": {}}, "body"),
        ({"url": "https://a.b", "body": "x", "json": {}}, "both"),
    ],
)
def test_a_payload_that_cannot_work_is_refused_for_good(payload, said):
    with pytest.raises(Permanent, match=said):
        parse(payload)


def test_a_json_body_says_that_it_is_json():
    request, timeout = parse({"url": "https://a.b", "method": "post", "json": {"a": 1}, "headers": {"X-Mine": "y"}})

    assert (request.method, request.body, timeout) == ("POST", b'{"a":1}', 30.0)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-mine"] == "y"


def test_an_answer_is_json_text_or_base64():
    def result(body, kind=""):
        return as_result(HttpResponse(200, {"content-type": kind, "set-cookie": "no"}, body), 0.0)

    assert result(b'{"a": 1}', "application/json")["json"] == {"a": 1}
    assert result(b"{broken", "application/json")["body"] == "{broken"
    assert result("größe".encode(), "text/plain") == {
        "status": 200,
        "headers": {"content-type": "text/plain"},
        "body": "größe",
    }
    assert result(b"\xff\xfe")["body_base64"] == "//4="


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_status_that_may_pass_is_retried_and_not_too_soon(status):
    with pytest.raises(HttpStatusError, match=str(status)) as caught:
        as_result(HttpResponse(status, {"retry-after": "7"}, b"busy"), 0.0)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_any_other_error_status_is_final(status):
    with pytest.raises(Permanent, match=f"{status}: no such page"):
        as_result(HttpResponse(status, {}, b"no such page"), 0.0)


@pytest.fixture
def port():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            body = b"x" * (600_000 if self.path == "/large" else 2)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_private_address_is_refused_unless_it_is_allowed(port):
    url = f"http://127.0.0.1:{port}/"
    with pytest.raises(UrlRefused):
        await HttpRequests(UrlPolicy.parse("")).run({"url": url})

    allowed = HttpRequests(UrlPolicy.parse(f"127.0.0.1:{port}"))
    answer = await allowed.run({"url": url})
    assert (answer["status"], answer["body"]) == (200, "xx")
    with pytest.raises(Permanent):
        await allowed.run({"url": url + "large"})
