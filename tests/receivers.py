"""Receivers that do one thing wrong: what they do with a connection, as functions of its socket."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

from support import Behaviour


def then_close(data: bytes) -> Behaviour:
    """Answer this, then hang up."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return answer


def then_reset(data: bytes) -> Behaviour:
    """Answer this, and reset the connection once the other side has taken it."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        threading.Event().wait(0.05 if data else 0.0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(connection.detach())  # now, not when the listener's file over it is closed as well

    return answer


def then_silence(data: bytes) -> Behaviour:
    """Answer this, and nothing more until the other side has gone."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        while connection.recv(65_536):
            pass

    return answer


def in_order(*answers: bytes | Behaviour) -> Behaviour:
    """The first answer to the first request, and so on."""
    left = iter(answers)

    def answer(connection: socket.socket) -> None:
        it = next(left)
        connection.sendall(it) if isinstance(it, bytes) else it(connection)

    return answer


def without_end(data: bytes, beginning: bytes = b"") -> Behaviour:
    def answer(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(data * 1_000)

    return answer


def drip(data: bytes, seconds: float) -> Behaviour:
    """Answer a byte at a time."""

    def answer(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            threading.Event().wait(seconds)

    return answer


@contextlib.contextmanager
def raw_server(behaviour: Behaviour, tls: ssl.SSLContext | None = None, narrow: bool = False) -> Iterator[int]:
    """Calls `behaviour` for each connection at once, without reading a request; the port.

    `narrow`: with segments as on an Ethernet and a small buffer, so that a large request is not sent at once.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server, contextlib.ExitStack() as held:
        if narrow:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_448)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)

        def handle(plain: socket.socket) -> None:
            with contextlib.suppress(OSError, ValueError):
                connection = tls.wrap_socket(plain, server_side=True) if tls else plain
                held.callback(connection.close)
                behaviour(connection)
                connection.close()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain = server.accept()[0]
                    held.callback(plain.close)
                    threading.Thread(target=handle, args=(plain,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
