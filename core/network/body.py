"""Bodies as bytes: decompression in bounded steps, for servers that compress although we ask them not to."""

import zlib
from collections.abc import Iterator

from core.network.http import HttpError

_STEP = 256 * 1024
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Decoder:
    """Undoes one content-encoding, chunk by chunk; a bomb unfolds only as far as its reader asks."""

    def __init__(self, encoding: str) -> None:
        name = encoding.strip().lower()
        self._inflate = None
        if name in _WINDOW_BITS:
            self._inflate = zlib.decompressobj(_WINDOW_BITS[name])
        elif name not in ("", "identity"):
            raise HttpError(
                f"The server compressed its answer with {name[:20]!r}.",
                "make it (or the proxy before it) honour `Accept-Encoding: identity`.",
                kind="protocol",
                code="encoding",
            )

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` unfolds to, in pieces of at most 256 KiB."""
        if self._inflate is None:
            yield data
            return
        try:
            while data:
                if piece := self._inflate.decompress(data, _STEP):
                    yield piece
                data = self._inflate.unconsumed_tail
        except zlib.error:
            raise HttpError(
                "The server's compressed answer is damaged.", "try again.", kind="protocol", code="encoding"
            ) from None

    def finish(self) -> None:
        """Raise HttpError when the compressed body ended too soon."""
        if self._inflate is not None and not self._inflate.eof:
            raise HttpError("The server's compressed answer broke off.", "try again.", kind="cut", code="encoding")
