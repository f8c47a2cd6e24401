"""Whether this machine has any network at all, asked of its table of routes: nothing is sent."""

import errno
import socket

_FAR_AWAY = ((socket.AF_INET, "198.41.0.4"), (socket.AF_INET6, "2001:503:ba3e::2:30"))
"""An address of each kind that nothing but a route to the whole world leads to: a root server of the DNS."""
_NO_WAY = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def offline() -> bool:
    """True when no route leads out of this machine. A route that leads nowhere, such as a dead uplink's, is one all the same."""
    return not any(_leads_out(family, address) for family, address in _FAR_AWAY)


def _leads_out(family: int, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))  # of a datagram's socket: it only looks for the way
    except OSError as error:
        return error.errno not in _NO_WAY
    return True
