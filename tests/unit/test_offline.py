"""A machine without a network: nobody's fault but its own, and over as soon as the network is back."""

import errno
import socket
from collections.abc import Callable
from typing import Self

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.outcome import OutcomeClass, classify
from core.errors import AllEndpointsFailed
from core.network import HttpError
from core.network import offline as routes
from core.network.failures import connect_failure
from core.network.url import parse_url
from tests.support.llm_server import LlmServer, Step

TARGET = parse_url("https://api.example/v1")


def wrapped(cause: BaseException) -> Exception:
    """As a transport raises what a socket raised."""
    error = ConnectionError("all attempts failed")
    error.__cause__ = cause
    return error


def has_route(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr("core.network.failures.offline", lambda: not there)


@pytest.mark.parametrize(
    ("cause", "without", "with_route"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "offline", "dns"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "offline", "dns"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "offline", "network"),
        (OSError(errno.ENETDOWN, "Network is down"), "offline", "network"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "network", "network"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "refused", "refused"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "network", "network"),
    ],
)
def test_only_what_the_want_of_a_network_explains_is_laid_at_its_door(
    monkeypatch: pytest.MonkeyPatch, cause: BaseException, without: str, with_route: str
) -> None:
    for there, code in ((False, without), (True, with_route)):
        has_route(monkeypatch, there)
        assert connect_failure(TARGET, wrapped(cause)).code == code


def test_being_offline_is_a_local_fault() -> None:
    assert classify(HttpError("x", kind="connect", code="offline"), 0.0).kind is OutcomeClass.LOCAL_FAULT
    assert classify(HttpError("x", kind="connect", code="dns"), 0.0).kind is OutcomeClass.TRANSIENT


class Probe:
    """A socket that finds a way to some kinds of address."""

    def __init__(self, ways: dict[int, int]) -> None:
        self.ways = ways

    def __call__(self, family: int, kind: int) -> "Probe":
        assert kind == socket.SOCK_DGRAM, "only a datagram's socket connects without a word"
        self.family = family
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, address: tuple[str, int]) -> None:
        if problem := self.ways[self.family]:
            raise OSError(problem, "no")


V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    ("ways", "offline"),
    [
        ({V4: errno.ENETUNREACH, V6: errno.ENETUNREACH}, True),
        ({V4: errno.ENETDOWN, V6: errno.EADDRNOTAVAIL}, True),
        ({V4: errno.ENETUNREACH, V6: errno.EAFNOSUPPORT}, True),
        ({V4: 0, V6: errno.ENETUNREACH}, False),
        ({V4: errno.ENETUNREACH, V6: 0}, False),
        ({V4: errno.EPERM, V6: errno.ENETUNREACH}, False),
        ({V4: errno.EMFILE, V6: errno.EMFILE}, False),
    ],
)
def test_a_machine_is_offline_when_no_kind_of_address_has_a_route(
    monkeypatch: pytest.MonkeyPatch, ways: dict[int, int], offline: bool
) -> None:
    monkeypatch.setattr(routes.socket, "socket", Probe(ways))
    assert routes.offline() is offline


@pytest.mark.parametrize("problem", [socket.EAI_AGAIN, socket.EAI_NONAME])
def test_the_pool_blames_nobody_while_this_machine_is_offline_and_works_as_soon_as_it_is_not(
    llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    real: Callable[..., object] = socket.getaddrinfo

    def no_names(host: object, *arguments: object, **options: object) -> object:
        if str(host).endswith(".example"):
            raise socket.gaierror(problem, "no names here")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    has_route(monkeypatch, there=False)
    llm_server.script("a", Step())
    with ApiManager() as manager:
        for name in ("a", "b"):
            manager.add_endpoint(ApiEndpoint(name, f"http://{name}.example:{llm_server.port}/{name}", "sk-x", "m"))
        for _ in range(6):
            with pytest.raises(AllEndpointsFailed, match="seems to be offline") as caught:
                manager.chat("hi", max_retries=2)
        assert {str(attempt.outcome) for attempt in caught.value.attempts} == {"local_fault"}  # type: ignore[attr-defined]
        assert "this machine's network" in caught.value.fix
        assert {row["status"] for row in manager.get_stats()["endpoints"].values()} == {"active"}

        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **options: real("127.0.0.1", *rest, **options))
        has_route(monkeypatch, there=True)
        assert manager.chat("hi").text
