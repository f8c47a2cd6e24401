"""However an address is spelt, a private one is refused before anything is sent."""

import ipaddress
import socket

from hypothesis import given
from hypothesis import strategies as st

from core.errors import UrlRefused
from core.network import UrlPolicy, parse_url
from core.network.policy import refused_kind
from core.network.resolve import allowed_addresses

POLICY = UrlPolicy()
PRIVATE_NETWORKS = ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")


def addresses_in(network: str) -> st.SearchStrategy[ipaddress.IPv4Address]:
    found = ipaddress.ip_network(network)
    return st.integers(int(found[0]), int(found[-1])).map(ipaddress.IPv4Address)


private_v4 = st.one_of([addresses_in(network) for network in PRIVATE_NETWORKS])


@st.composite
def spelt(draw: st.DrawFn) -> str:
    """A private address as inet_aton takes it: 1 to 4 parts, each decimal, octal or hexadecimal, with zeros and a last dot."""
    number = int(draw(private_v4))
    count = draw(st.integers(1, 4))
    parts = [(number >> (24 - 8 * place)) & 0xFF for place in range(count - 1)]
    parts.append(number & ((1 << (8 * (5 - count))) - 1))
    texts = []
    for part in parts:
        form = draw(st.sampled_from(["d", "o", "x", "X"]))
        zeros = "0" * draw(st.integers(0, 3))
        texts.append(
            {"d": f"{part}", "o": f"0{zeros}{part:o}", "x": f"0x{zeros}{part:x}", "X": f"0X{zeros}{part:X}"}[form]
        )
    return ".".join(texts) + draw(st.sampled_from(["", "."]))


def refused(url: str) -> bool:
    """True when the URL is refused as it stands, or when every address the system resolves it to is."""
    try:
        target = POLICY.check(url)
    except UrlRefused:
        return True
    try:
        found = [
            str(entry[4][0]) for entry in socket.getaddrinfo(target.host, target.port, flags=socket.AI_NUMERICHOST)
        ]
    except OSError:
        return False
    try:
        allowed_addresses(target, POLICY, found)
    except UrlRefused:
        return True
    return False


@given(spelt())
def test_every_spelling_of_a_private_ipv4_address_is_refused(host: str) -> None:
    assert refused(f"https://{host}/v1")


@given(private_v4, st.sampled_from(["::ffff:0:0", "64:ff9b::", "::", "2002::"]), st.booleans())
def test_every_ipv6_form_of_a_private_ipv4_address_is_refused(
    address: ipaddress.IPv4Address, prefix: str, exploded: bool
) -> None:
    shift = 80 if prefix == "2002::" else 0
    wrapped = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(address) << shift)
    assert refused(f"https://[{wrapped.exploded if exploded else wrapped}]/")


@given(st.ip_addresses(v=4))
def test_nothing_the_standard_library_calls_private_passes(address: ipaddress.IPv4Address) -> None:
    if (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
    ):
        assert refused_kind(address)


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_global_unicast_passes(address: ipaddress.IPv6Address) -> None:
    if not refused_kind(address):
        assert any(
            address in ipaddress.ip_network(network) for network in ("2000::/3", "64:ff9b::/96", "::ffff:0:0/96")
        )
        assert address.ipv4_mapped or not address.is_private


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_is_refused_in_our_words(text: str) -> None:
    for url in (text, f"https://{text}", f"https://host/{text}"):
        try:
            target = parse_url(url)
        except UrlRefused:
            continue
        assert parse_url(target.url) == target
        assert target.url.isascii()


@given(st.text(alphabet="abc.-:/[]@*0123456789xF, ", max_size=40))
def test_an_allow_list_is_read_or_refused_and_reads_the_same_again(text: str) -> None:
    from core.errors import InvalidArgument

    try:
        policy = UrlPolicy.parse(text)
    except InvalidArgument:
        return
    assert UrlPolicy.parse(policy.text) == policy
