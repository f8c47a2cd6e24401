"""Proxies on loopback, as little of them as a client needs: HTTP (CONNECT and absolute URLs) and SOCKS5."""

import base64
import contextlib
import select
import socket
import threading
from typing import Self
from urllib.parse import urlsplit

PATIENCE = 10.0
REFUSED = b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"


class _Proxy:
    """Accepts, serves each connection in a thread, and ends with everything closed. `hosts` maps names to loopback."""

    scheme = ""

    def __init__(self, hosts: dict[str, int], *, user: str = "", password: str = "") -> None:
        self._hosts = hosts
        """Where each name leads: a port of this machine."""
        self._user, self._password = user, password
        self._open: list[socket.socket] = []
        self.asked: list[str] = []
        """`host:port` of each request, in order."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)

    @property
    def url(self) -> str:
        credentials = f"{self._user}:{self._password}@" if self._user else ""
        return f"{self.scheme}://{credentials}127.0.0.1:{self.port}"

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            connection.settimeout(PATIENCE)
            self._open.append(connection)
            threads.append(threading.Thread(target=self._guarded, args=(connection,), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(PATIENCE)

    def _guarded(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def _behind(self, host: str, port: int) -> socket.socket:
        """A connection to where the name leads. Raises OSError."""
        self.asked.append(f"{host}:{port}")
        if host not in self._hosts:
            raise OSError("unknown here")
        found = socket.create_connection(("127.0.0.1", self._hosts[host]), PATIENCE)
        self._open.append(found)
        return found

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with other:
            while True:
                ready, _, _ = select.select([one, other], [], [], PATIENCE)
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (other if source is one else one).sendall(data)
                if not ready:
                    return


class HttpProxy(_Proxy):
    """CONNECT, and plain requests by absolute URL; with a user it wants Proxy-Authorization. `answers` with a status instead."""

    scheme = "http"

    def __init__(self, hosts: dict[str, int], *, answers: int = 0, user: str = "", password: str = "") -> None:
        super().__init__(hosts, user=user, password=password)
        self._answers = answers

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(65536)
            if not more:
                return
            head += more
        text, _, rest = head.partition(b"\r\n\r\n")
        lines = text.split(b"\r\n")
        method, url, version = lines[0].split(b" ", 2)
        wanted = b"basic " + base64.b64encode(f"{self._user}:{self._password}".encode())
        given = [line.split(b":", 1)[1].strip() for line in lines if line.lower().startswith(b"proxy-authorization:")]
        status = self._answers
        if self._user and [one.lower() for one in given] != [wanted.lower()]:
            status = 407
        if method == b"CONNECT":
            host, _, port = url.decode().rpartition(":")
        else:
            parts = urlsplit(url.decode())
            host, port = parts.hostname or "", str(parts.port or 80)
        try:
            behind = self._behind(host, int(port)) if not status else None
        except OSError:
            behind, status = None, 502
        if behind is None:
            connection.sendall(b"HTTP/1.1 %d Refused\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status)
            return
        if method == b"CONNECT":
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            behind.sendall(rest)
        else:
            path = urlsplit(url.decode())._replace(scheme="", netloc="").geturl() or "/"
            kept = [line for line in lines[1:] if not line.lower().startswith(b"proxy-")]
            behind.sendall(b"\r\n".join([b" ".join([method, path.encode(), version]), *kept, b"", rest]))
        self._pump(connection, behind)


class SocksProxy(_Proxy):
    """SOCKS5 (RFC 1928) with CONNECT by name or IPv4 address, without a password or with one (RFC 1929)."""

    scheme = "socks5"

    def _serve(self, connection: socket.socket) -> None:
        version, count = self._exactly(connection, 2)
        methods = self._exactly(connection, count)
        method = 2 if self._user else 0
        if version != 5 or method not in methods:
            connection.sendall(b"\x05\xff")
            return
        connection.sendall(bytes([5, method]))
        if self._user:
            user = self._exactly(connection, self._exactly(connection, 2)[1])
            password = self._exactly(connection, self._exactly(connection, 1)[0])
            right = (user, password) == (self._user.encode(), self._password.encode())
            connection.sendall(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        kind = self._exactly(connection, 4)[3]
        if kind == 3:
            host = self._exactly(connection, self._exactly(connection, 1)[0]).decode()
        else:
            host = socket.inet_ntoa(self._exactly(connection, 4))
        port = int.from_bytes(self._exactly(connection, 2), "big")
        try:
            behind = self._behind(host, port)
        except OSError:
            connection.sendall(REFUSED)
            return
        connection.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        self._pump(connection, behind)

    def _exactly(self, connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise OSError("gone")
            data += more
        return data
