"""Which URLs a model may choose, decided without a network."""

import pytest

from core.errors import InvalidArgument, UrlRefused
from core.network import UrlPolicy, check_url, join_path, parse_url
from core.network.policy import refused_kind
from core.network.resolve import allowed_addresses, parse_address

CLOSED = UrlPolicy()

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.15.255.255",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "64:ff9b::808:808",
]
PRIVATE = [
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("10.1.2.3", "private"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.168.1.1", "private"),
    ("100.64.0.1", "carrier"),
    ("100.100.100.200", "carrier"),
    ("169.254.169.254", "metadata"),
    ("168.63.129.16", "metadata"),
    ("192.0.0.192", "reserved"),
    ("0.0.0.0", "this host"),
    ("255.255.255.255", "reserved"),
    ("224.0.0.1", "multicast"),
    ("198.18.0.1", "benchmarking"),
    ("203.0.113.9", "documentation"),
    ("::1", "loopback"),
    ("::", "this host"),
    ("::127.0.0.1", "reserved"),
    ("fe80::1", "link-local"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "private"),
    ("fec0::1", "private"),
    ("ff02::1", "multicast"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:10.0.0.1", "private"),
    ("64:ff9b::a00:1", "private"),
    ("64:ff9b:1::1", "reserved"),
    ("2002:7f00:1::", "6to4"),
    ("2002:808:808::", "6to4"),
    ("2001::1", "Teredo"),
    ("2001:db8::1", "documentation"),
    ("100::1", "reserved"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert refused_kind(parse_address(address)) == ""


@pytest.mark.parametrize(("address", "kind"), PRIVATE)
def test_addresses_off_the_public_internet_are_refused_by_kind(address: str, kind: str) -> None:
    assert kind in refused_kind(parse_address(address))
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(UrlRefused):
        CLOSED.check(f"https://{literal}/v1")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "0x7f.0x0.0x0.0x1",
        "127.0.0.1.",
        "127.0.0.01",
        "1.1.1.0x1",
        "１２７.0.0.1",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "foo.localhost",
        "localhost.localdomain",
    ],
)
def test_other_spellings_of_this_machine_are_refused(host: str) -> None:
    with pytest.raises(UrlRefused):
        CLOSED.check(f"https://{host}/v1")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "//api.example.com/v1",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "gopher://127.0.0.1",
        "javascript:alert(1)",
        "https://",
        "https:///v1",
        "https://user@api.example.com/",
        "https://user:secret@api.example.com/",
        "https://api.example.com@127.0.0.1/",
        "https://api.example.com\\@127.0.0.1/",
        "https://api.example.com /v1",
        "https://api.example.com\n/v1",
        "https://api.example.com\t/v1",
        "https://api.example.com:0/",
        "https://api.example.com:/",
        "https://api.example.com:99999/",
        "https://api.example.com:port/",
        "https://[::1/",
        "https://[::1%25eth0]/",
        "https://exa%6dple.com/",
        "https://exa mple.com/",
        "https://api..example.com/",
        "https://.example.com/",
        "https://a,b.example.com/",
        "https://api.example.com/ü",
    ],
)
def test_urls_two_parsers_could_read_differently_are_refused(url: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        CLOSED.check(url)
    assert "secret" not in str(caught.value)


def test_plain_http_is_refused_unless_the_host_is_allowed() -> None:
    with pytest.raises(UrlRefused, match="use https"):
        CLOSED.check("http://api.example.com/v1")
    with pytest.raises(UrlRefused, match="plain http"):
        CLOSED.check("http://1.1.1.1/v1")
    assert UrlPolicy.parse("api.example.com").check("http://api.example.com/v1").port == 80
    assert UrlPolicy(require_https=False).check("http://api.example.com/v1").port == 80


def test_plain_http_to_a_public_address_is_refused_even_with_a_network_allowed() -> None:
    policy = UrlPolicy.parse("10.0.0.0/8")
    target = policy.check("http://gpu.lan:8000/")
    assert allowed_addresses(target, policy, ["10.0.0.7", "1.1.1.1"]) == ["10.0.0.7"]
    with pytest.raises(UrlRefused, match="plain http"):
        allowed_addresses(target, policy, ["1.1.1.1"])


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("localhost:11434", "http://localhost:11434/v1"),
        ("localhost:11434", "http://127.0.0.1:11434/v1"),
        ("localhost:11434", "http://[::1]:11434/v1"),
        ("127.0.0.1:11434", "http://127.0.0.1:11434/v1"),
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("::1", "http://[::1]:8000/v1"),
        ("192.168.0.0/16", "http://192.168.7.7/v1"),
        ("192.168.0.0/16", "http://[::ffff:192.168.7.7]/v1"),
        ("fd00::/8", "https://[fd12::1]/v1"),
        (" GPU.lan , 10.0.0.0/8", "http://gpu.lan:9/"),
    ],
)
def test_what_the_allow_list_names_passes(allowed: str, url: str) -> None:
    UrlPolicy.parse(allowed).check(url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("localhost:11434", "http://localhost:11435/v1"),
        ("localhost:11434", "http://127.0.0.1:22/v1"),
        ("127.0.0.1", "http://localhost/v1"),
        ("gpu.lan", "http://evil.gpu.lan.example/"),
        ("gpu.lan", "http://xgpu.lan/"),
        ("10.0.0.0/8", "http://192.168.0.1/"),
        ("10.0.0.0/8", "https://169.254.169.254/latest/meta-data"),
    ],
)
def test_what_the_allow_list_does_not_name_stays_refused(allowed: str, url: str) -> None:
    with pytest.raises(UrlRefused):
        UrlPolicy.parse(allowed).check(url)


@pytest.mark.parametrize(
    ("before", "url", "after"),
    [
        ("", "http://localhost:11434/v1", "localhost:11434"),
        ("10.0.0.0/8", "http://localhost:11434/v1", "10.0.0.0/8,localhost:11434"),
        ("", "http://[::1]:8000/v1", "[::1]:8000"),
        ("", "https://192.168.1.5/v1", "192.168.1.5:443"),
    ],
)
def test_a_refusal_names_the_value_that_would_admit_the_url(before: str, url: str, after: str) -> None:
    with pytest.raises(UrlRefused) as caught:
        UrlPolicy.parse(before).check(url)
    assert f"HEABLCOIN_CLOUD_ALLOW_HOSTS={after} " in caught.value.fix
    UrlPolicy.parse(after).check(url)


@pytest.mark.parametrize(
    "entry", ["*", "*.lan", "http://localhost", "localhost:", "localhost:x", "a/b", "10.0.0.0/33", "u@h", "a b"]
)
def test_an_entry_that_cannot_be_read_is_named(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="HEABLCOIN_CLOUD_ALLOW_HOSTS"):
        UrlPolicy.parse(f"localhost,{entry}")


def test_the_policy_of_the_environment_is_its_allow_list() -> None:
    assert UrlPolicy.from_environment({}) == UrlPolicy()
    policy = UrlPolicy.from_environment({"HEABLCOIN_CLOUD_ALLOW_HOSTS": "localhost:11434"})
    policy.check("http://localhost:11434/")


def test_a_url_is_taken_apart_in_one_way() -> None:
    target = parse_url("HTTPS://API.Example.com:443/v1/chat?x=1")
    assert (target.scheme, target.host, target.port, target.path) == ("https", "api.example.com", 443, "/v1/chat?x=1")
    assert target.origin == "https://api.example.com"
    assert parse_url("http://[0:0:0:0:0:0:0:1]:8000").origin == "http://[::1]:8000"
    assert parse_url("https://bücher.example").host == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("base", "joined"),
    [
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h", "https://h/chat/completions"),
        ("https://h/x?api-version=2", "https://h/x/chat/completions?api-version=2"),
    ],
)
def test_a_path_is_joined_before_the_query(base: str, joined: str) -> None:
    assert join_path(base, "chat/completions") == joined


# A name, before it is kept


def test_a_name_that_resolves_to_a_private_address_is_refused_at_once() -> None:
    with pytest.raises(UrlRefused, match=r"private address: gpu\.lan \(10\.0\.0\.7\)"):
        check_url("https://gpu.lan/v1", CLOSED, lookup=lambda _host, _port: ["10.0.0.7"])


def test_a_name_that_does_not_resolve_yet_is_accepted_with_a_warning() -> None:
    def lookup(_host: str, _port: int) -> list[str]:
        raise OSError("no network")

    assert "gpu.lan does not resolve" in check_url("https://gpu.lan/v1", CLOSED, lookup=lookup)[0]


def test_a_public_name_is_accepted_in_silence() -> None:
    assert check_url("https://api.example.com/v1", CLOSED, lookup=lambda _host, _port: ["1.1.1.1"]) == []
    assert check_url("https://1.1.1.1/v1", CLOSED) == []


def test_a_resolver_that_hangs_does_not_hold_the_caller() -> None:
    import threading

    release = threading.Event()

    def lookup(_host: str, _port: int) -> list[str]:
        release.wait(30)
        return ["1.1.1.1"]

    try:
        assert check_url("https://slow.example/v1", CLOSED, lookup=lookup, patience=0.01)
    finally:
        release.set()


def test_without_a_policy_nothing_is_checked() -> None:
    assert check_url("http://127.0.0.1:8000", None) == []
