"""Keys, headers and addresses that can never be sent: refused where they are given, by name, and never shown."""

import logging

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.handlers.http_request import HttpRequests
from core.cloud.keys.key_text import check_key, stripped
from core.cloud.keys.secrets import KeyStore
from core.cloud.pool.discovery import discover
from core.cloud.pool.outcome import OutcomeClass
from core.errors import AllEndpointsFailed, InvalidArgument, KeyUnusable, Permanent
from core.network import HttpError, UrlPolicy, fetch, parse_url
from tests.support.llm_server import LlmServer

KEY = "sk-canary-0123456789abcdef"
URL = "https://api.example.com/v1"

PASTED = {
    "as it is": (KEY, ()),
    "white space and a line break": (f"\t {KEY} \r\n", ()),
    "no-break and ideographic spaces": (f"\u00a0{KEY}\u3000", ()),
    "a byte order mark and a zero-width space": (f"\ufeff{KEY}\u200b", ()),
    "Bearer": (f"Bearer {KEY}", ("`Bearer`",)),
    "bearer in lower case and a tab": (f"bearer\t{KEY}", ("`Bearer`",)),
    "Bearer twice": (f"Bearer Bearer {KEY}", ("`Bearer`",)),
    "the whole header": (f"Authorization: Bearer {KEY}", ("a header's name", "`Bearer`")),
    "Anthropic's header": (f"x-api-key: {KEY}", ("a header's name",)),
    "Azure's header": (f"api-key:{KEY}", ("a header's name",)),
    "quotes": (f'"{KEY}"', ("quotes",)),
    "quotes and a comma, as in JSON": (f'"{KEY}",', ("quotes",)),
    "curly quotes": (f"\u201c{KEY}\u201d", ("quotes",)),
    "a line of a .env file": (f"OPENAI_API_KEY='{KEY}'", ("quotes", "a variable's name")),
    "a shell's export": (f"export DEEPSEEK_API_KEY={KEY}", ("a variable's name",)),
    "quoted with Bearer inside": (f'"Bearer {KEY}"', ("quotes", "`Bearer`")),
}

UNUSABLE = {
    "a Chinese character": ("sk-中文-secret1", "outside ASCII (character 4 of 13)"),
    "an em dash for a hyphen": ("sk\u2014canary-secret1", "outside ASCII (character 3"),
    "a look-alike letter": ("sk-canary-secret\u028b1", "outside ASCII"),
    "a curly quote left over": ("sk-canary-secret1\u2019", "outside ASCII"),
    "the ellipsis of a shortened display": ("sk-ca\u2026secret1", "outside ASCII"),
    "Latin-1 beyond ASCII": ("sk-caf\u00e9-secret1", "outside ASCII"),
    "a line break inside": ("sk-canary-\nsecret1", "line break"),
    "a carriage return inside": ("sk-canary-\rsecret1", "line break"),
    "a space inside": ("sk-canary- secret1", "space inside (character 11"),
    "a no-break space inside": ("sk-canary\u00a0secret1", "space inside"),
    "a zero-width space inside": ("sk-canary\u200bsecret1", "outside ASCII"),
    "another scheme": ("Basic c2VjcmV0MQ==secret1", "space inside"),
    "a NUL": ("sk-canary\0secret1", "control character"),
    "a terminal's escape": ("\x1b[200~sk-secret1", "control character"),
    "an unpaired surrogate (undecodable bytes)": ("sk-\udce9-secret1", "outside ASCII"),
    "nothing after Bearer": ("Bearer ", "empty"),
    "only quotes": ('""', "empty"),
    "an unfilled placeholder of a client": ("${env:secret1}", "placeholder"),
    "a whole header with an unfilled placeholder": ("Bearer {env:secret1}", "placeholder"),
    "an unexpanded variable": ("$OPENAI_SECRET1_KEY", "placeholder"),
    "an unexpanded variable of Windows": ("%OPENAI_SECRET1_KEY%", "placeholder"),
    "an example's own words": ("<your secret1 key>", "placeholder"),
    "longer than any key": ("secret1" * 2000, "more than 8192"),
}


@pytest.mark.parametrize(("text", "taken_off"), PASTED.values(), ids=PASTED)
def test_what_was_pasted_around_a_key_is_taken_off_and_told(text: str, taken_off: tuple[str, ...]) -> None:
    key, told = stripped(text)
    assert (key, sorted(told)) == (KEY, sorted(taken_off))
    assert ApiEndpoint("a", URL, text).api_key == KEY


@pytest.mark.parametrize(
    "key", ["abcKEY==", "A_KEY==", "id:secret/part+of=", "bearer-of-news", "a.b-c_d~e", "$2y$10$abc", "x" * 8192]
)
def test_a_key_that_only_looks_unusual_is_left_as_it_is(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(("text", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_key_no_header_can_carry_is_refused_when_it_is_given_and_not_shown(text: str, said: str) -> None:
    store = KeyStore("process")
    for give in (lambda: ApiEndpoint("a", URL, text), lambda: store.set("a", URL, text)):
        with pytest.raises(KeyUnusable) as caught:
            give()
        assert said in caught.value.message
        assert "secret1" not in str(caught.value).lower()
    assert store.names() == {}


def test_what_was_taken_off_is_told_when_the_endpoint_is_added() -> None:
    manager = ApiManager()
    told = manager.add_endpoint(ApiEndpoint("a", URL, f"Authorization: Bearer {KEY}"))
    assert told == ["The key was given with a header's name and `Bearer` around it; that was taken off."]
    assert manager.get_endpoint("a").api_key == KEY


@pytest.mark.parametrize("text", ["sk-\ncanary-secret1", "sk-中-secret1", "Basic secret1=="])
def test_a_bad_key_in_the_environment_is_refused_when_the_endpoint_is_added(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("A_KEY", text)
    manager = ApiManager()
    with pytest.raises(KeyUnusable, match="environment variable A_KEY") as caught:
        manager.add_endpoint(ApiEndpoint("a", URL, api_key_env="A_KEY"))
    assert "secret1" not in str(caught.value)
    assert manager.endpoints == []


@pytest.mark.parametrize("text", ["sk-\ncanary-secret1", "sk-中-secret1", "Basic secret1=="])
def test_a_key_that_goes_bad_in_the_environment_is_the_endpoints_set_up_and_names_the_variable(
    llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", llm_server.base_url("a"), model="m", api_key_env="A_KEY"))
    monkeypatch.setenv("A_KEY", text)
    for ask in (lambda: manager.chat("hi"), lambda: manager.call_with_retry(lambda endpoint: endpoint.api_key)):
        manager.reset_stats("a")
        with pytest.raises(AllEndpointsFailed) as caught:
            ask()
        assert "environment variable A_KEY" in str(caught.value)
        assert "secret1" not in str(caught.value)
        assert [record.outcome for record in caught.value.attempts] == [OutcomeClass.ENDPOINT_FAULT]
    assert llm_server.arrivals() == []


def test_the_backup_answers_while_the_key_of_the_first_endpoint_is_unusable(
    llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", llm_server.base_url("a"), model="m", api_key_env="A_KEY"))
    manager.add_endpoint(ApiEndpoint("b", llm_server.base_url("b"), KEY, model="m", priority=2))
    monkeypatch.setenv("A_KEY", "sk-中-secret1")
    assert manager.chat("hi").endpoint == "b"


def test_a_placeholder_in_the_environment_counts_as_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "${user_config.a_key}")
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", URL, api_key_env="A_KEY"))
    assert manager.usable() == set()
    assert ApiEndpoint("b", URL, KEY, api_key_env="A_KEY").api_key == KEY


def test_a_bad_key_in_the_environment_leaves_its_vendor_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = discover({"OPENAI_API_KEY": "sk-中-secret1", "DEEPSEEK_API_KEY": f"Bearer {KEY}"})
    assert [endpoint.name for endpoint in found] == ["deepseek"]
    assert "OPENAI_API_KEY has a character outside ASCII" in caplog.text
    assert "secret1" not in caplog.text


# Headers

HEADERS = {
    "Host": ({"Host": "other.example"}, "may not be set"),
    "Content-Length": ({"content-length": "0"}, "may not be set"),
    "Transfer-Encoding": ({"Transfer-Encoding": "chunked"}, "may not be set"),
    "Connection": ({"connection": "close"}, "may not be set"),
    "Upgrade": ({"Upgrade": "h2c"}, "may not be set"),
    "Keep-Alive": ({"Keep-Alive": "timeout=5"}, "may not be set"),
    "TE": ({"te": "trailers"}, "may not be set"),
    "Expect": ({"Expect": "100-continue"}, "may not be set"),
    "Proxy-Connection": ({"Proxy-Connection": "keep-alive"}, "may not be set"),
    "a Chinese value": ({"x-title": "我的应用"}, "outside ASCII"),
    "a Latin-1 value": ({"x-title": "caf\u00e9"}, "outside ASCII"),
    "a line break": ({"x-title": "a\r\nx-evil: 1"}, "line break"),
    "a NUL": ({"x-title": "a\0b"}, "control characters"),
    "an empty name": ({"": "x"}, "name"),
    "a name with a colon": ({"x-title:": "x"}, "name"),
    "a Chinese name": ({"标题": "x"}, "name"),
    "the same name twice": ({"x-title": "a", "X-Title": "b"}, "twice"),
    "a number for a text": ({"x-title": 1}, "texts"),
}


@pytest.mark.parametrize(("headers", "said"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_can_never_be_sent_is_refused_when_the_endpoint_is_made(
    headers: dict[str, str], said: str
) -> None:
    with pytest.raises(InvalidArgument, match="headers") as caught:
        ApiEndpoint("a", URL, headers=headers)
    assert said in caught.value.message


async def test_a_task_whose_header_can_never_be_sent_fails_for_good(llm_server: LlmServer) -> None:
    requests = HttpRequests(UrlPolicy.parse("127.0.0.1"))
    with pytest.raises(Permanent, match="'x-title' has characters outside ASCII"):
        await requests.run({"url": llm_server.base_url("a"), "headers": {"x-title": "我"}})
    assert llm_server.arrivals() == []


# Addresses

ADDRESSES = {
    "a short spelling of an address": ("http://127.1:80/v1", "unusual spelling"),
    "an address as one number": ("http://2130706433/v1", "unusual spelling"),
    "an address in hexadecimal": ("http://0x7f.0.0.1:8080/v1", "unusual spelling"),
    "an address with octal parts": ("http://0177.0.0.01/v1", "unusual spelling"),
    "an address out of range": ("http://192.168.1.300:8000/v1", "unusual spelling"),
    "a path that is not ASCII": ("https://api.example.com/代理/v1", "outside ASCII"),
    "a query that is not ASCII": ("https://api.example.com/v1?区=1", "outside ASCII"),
    "a space inside": ("https://api.example.com/my v1", "spaces"),
    "a space before the port": ("https://api.example.com :8000/v1", "spaces"),
    "a port that is no number": ("http://host:8o00/v1", "cannot be read"),
    "a port that is two": ("http://localhost::8000/v1", "cannot be read"),
    "a port that is too large": ("http://localhost:123456/v1", "cannot be read"),
    "a port that is missing": ("http://localhost:/v1", "port is missing"),
    "an IPv6 address without brackets": ("http://fd00:cc66:f0::1:11434/v1", "cannot be read"),
    "an unfilled placeholder for all of it": ("${MY_URL}", "no scheme"),
    "quotes around it": ('"https://api.example.com/v1"', "no scheme"),
    "the scheme twice": ("https://https://api.example.com/v1", "port is missing"),
    "a semicolon after it": ("https://api.example.com;", "neither a host name"),
    "a label of 64 characters": (f"https://{'a' * 64}.example.com/v1", "neither a host name"),
    "a placeholder for the host": ("https://{resource}.openai.azure.com/openai", "neither a host name"),
    "a placeholder in the path": ("https://gateway.example.com/v1/{account_id}/openai", "{ }"),
    "a placeholder of a shell": ("https://gateway.example.com/v1/${ACCOUNT}/openai", "{ }"),
    "a zone of a link": ("http://[fe80::1%25eth0]:8000/v1", "zone"),
    "a user and a password": ("https://me:secret1@api.example.com/v1", "user name"),
    "a fragment": ("https://api.example.com/v1#chat", "fragment"),
}


@pytest.mark.parametrize(("url", "said"), ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_that_can_never_be_called_is_refused_when_the_endpoint_is_made(url: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match="base_url") as caught:
        ApiEndpoint("a", url)
    assert said in caught.value.message
    assert "secret1" not in str(caught.value)


def test_a_path_outside_ascii_is_told_as_it_has_to_be_written() -> None:
    with pytest.raises(InvalidArgument) as caught:
        ApiEndpoint("a", "https://api.example.com/代理/v1?x=%20é")
    encoded = "/%E4%BB%A3%E7%90%86/v1?x=%20%C3%A9"
    assert encoded in caught.value.fix
    assert parse_url("https://api.example.com" + encoded).path == encoded


async def test_an_unsendable_header_and_a_bad_address_never_reach_a_socket() -> None:
    with pytest.raises(HttpError) as caught:
        await fetch("http://127.0.0.1:9/", headers={"x-a": "中"})
    assert caught.value.code == "unsendable"
    with pytest.raises(InvalidArgument):
        await fetch("http://127.1:9/")
