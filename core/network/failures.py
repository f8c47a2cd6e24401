"""What went wrong between us and a server, in words that name the host and nothing secret."""

import errno
import socket
import ssl
from collections.abc import Iterator

from core.network.http import HttpError
from core.network.offline import offline
from core.network.proxies import proxy_for, shown
from core.network.url import Target

CONNECT_TIMEOUT = 10.0
"""Most seconds spent on DNS, TCP and TLS before a server counts as not reachable."""


def connect_patience(timeout: float) -> float:
    """Seconds to connect in: less than the whole `timeout`, so that a server that was never reached is known as such."""
    return min(CONNECT_TIMEOUT, timeout * 0.9)


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and everything it was raised from, groups included."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        found = queue.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, BaseExceptionGroup):
            queue.extend(found.exceptions)
        queue.extend((found.__cause__, found.__context__))


def connect_failure(target: Target, error: BaseException, *, timed_out: bool = False) -> HttpError:
    """Nothing was sent: which of the usual reasons it was."""
    where = f"{target.host} port {target.port}"
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = getattr(getattr(cause, "certificate_error", cause), "verify_message", "") or "verification failed"
            return HttpError(
                f"The certificate of {where} is not trusted ({detail}).",
                "for a private certificate authority set SSL_CERT_FILE to its file.",
                kind="connect",
                code="tls",
            )
        if isinstance(cause, ssl.SSLError):
            return HttpError(
                f"{where} does not speak TLS ({cause.reason or 'handshake failed'}).",
                "check that the base URL's scheme and port are right.",
                kind="connect",
                code="tls",
            )
        if isinstance(cause, socket.gaierror) or (_no_network(cause) and not timed_out):
            return _nowhere(target, found_name=not isinstance(cause, socket.gaierror))
        if isinstance(cause, ConnectionRefusedError):
            return HttpError(
                f"{where} refused the connection.",
                "check that the server runs there and that the port is right.",
                kind="connect",
                code="refused",
            )
    if timed_out:
        return HttpError(
            f"{where} did not accept a connection in time.",
            "check the network.",
            kind="connect",
            code="connect_timeout",
        )
    return _no_connection(target)


def _no_connection(target: Target) -> HttpError:
    return HttpError(
        f"No connection to {target.host} port {target.port}.",
        "check the network and the base URL.",
        kind="connect",
        code="network",
    )


def _no_network(cause: BaseException) -> bool:
    """Not EHOSTUNREACH, which a machine of the same network that is switched off gives too."""
    return isinstance(cause, OSError) and cause.errno in {errno.ENETUNREACH, errno.ENETDOWN}


def _nowhere(target: Target, *, found_name: bool) -> HttpError:
    """No name, or no way to its address: the endpoint's own, unless this machine has no way to anybody."""
    if offline():
        return HttpError(
            f"{target.host} was not asked: this machine seems to be offline, no route leads out of it.",
            "connect it to a network; nothing about the server is known.",
            kind="connect",
            code="offline",
        )
    if found_name:
        return _no_connection(target)
    return HttpError(
        f"The name {target.host} does not resolve.",
        "check the base URL's spelling and the network.",
        kind="connect",
        code="dns",
    )


def timeout_failure(target: Target) -> HttpError:
    """The request went out (or may have) and no answer came in time."""
    return HttpError(
        f"{target.host} did not answer in time.",
        "raise the endpoint's timeout if it is slow.",
        kind="timeout",
        code="read",
    )


def cut_failure(target: Target) -> HttpError:
    """The request went out and the connection was lost before the answer was whole."""
    return HttpError(f"{target.host} closed the connection too early.", "try again.", kind="cut", code="closed")


def not_http(target: Target) -> HttpError:
    return HttpError(
        f"{target.host} port {target.port} did not answer in HTTP.",
        "check the base URL's scheme and port.",
        kind="protocol",
        code="not_http",
    )


def too_large(host: str, limit: int) -> HttpError:
    return HttpError(
        f"The answer of {host} is larger than {limit:,} bytes.", "ask for less.", kind="protocol", code="too_large"
    )


def unsendable(what: str) -> HttpError:
    """Something of the request that HTTP cannot carry; `what` never quotes a value."""
    return HttpError(
        f"The {what} holds characters that HTTP cannot carry.",
        "copy the key (or header value) again: plain ASCII, one line.",
        kind="protocol",
        code="unsendable",
    )


_PROXY_FIX = "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; NO_PROXY names the hosts to be reached without a proxy."


def proxy_down(target: Target, error: BaseException, *, timed_out: bool = False) -> HttpError:
    """The proxy itself was not reached: nothing about the server behind it is known."""
    why = "was not reached"
    for cause in causes(error):
        if isinstance(cause, socket.gaierror):
            why = "does not resolve"
        elif isinstance(cause, ConnectionRefusedError):
            why = "refused the connection"
    if timed_out and why == "was not reached":
        why = "did not accept a connection in time"
    return _of_proxy(target, why)


def no_proxy_there(target: Target) -> HttpError:
    """What listens at the proxy's address does not speak its protocol."""
    return _of_proxy(target, "did not answer as a proxy of its kind does")


def proxy_answered(target: Target, status: int) -> HttpError:
    """The proxy would not, or could not, connect to `target`; `status` is HTTP's for it."""
    if status in {401, 407}:
        return _of_proxy(target, "wants a user and a password, or other ones than it was given")
    proxy, where = shown(proxy_for(target)), f"{target.host} port {target.port}"
    if status == 403:
        return HttpError(
            f"The proxy {proxy} lets nothing through to {where}.",
            f"have {target.host} allowed there, or name it in NO_PROXY.",
            kind="connect",
            code="proxy_refused",
        )
    return HttpError(
        f"The proxy {proxy} could not reach {where} (HTTP {status}).",
        "check the base URL, and whether the server runs.",
        kind="connect",
        code="unreachable",
    )


def _of_proxy(target: Target, why: str) -> HttpError:
    return HttpError(
        f"The proxy {shown(proxy_for(target))} {why}; {target.host} was not asked.",
        _PROXY_FIX,
        kind="connect",
        code="proxy",
    )
