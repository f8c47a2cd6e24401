"""Which headers a request may carry. Pure."""

import re

OURS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "http2-settings",
    }
)
"""Headers that frame or route the exchange: a transport sets them, and whoever writes a request may not."""

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def header_fault(name: str, value: str) -> str:
    """Why this header cannot be sent, in words that follow "The header NAME"; '' when it can. Never holds the value."""
    if not _NAME.fullmatch(name):
        return "has a name that HTTP does not allow"
    if name.lower() in OURS or name.lower().startswith("proxy-"):
        return "may not be set: the connection sets it"
    if "\n" in value or "\r" in value:
        return "has a line break in its value"
    if not value.isascii():
        return "has characters outside ASCII in its value, which HTTP cannot carry"
    if not value.replace("\t", " ").isprintable():
        return "has control characters in its value"
    return ""
