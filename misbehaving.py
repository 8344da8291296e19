"""How a receiver misbehaves when the URL that it was registered with asks for it, for lessons and tests.

/webhook-receiver?respond=503&retry_after=3&times=2     or respond=hang, drip, reset, half, endless, redirect
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Callable

from wire import PHRASES, Answer, Problem, Request

HOLD_SECONDS = 60.0  # that `hang`, `drip` and `endless` go on at the most
COUNTED = 10_000  # request targets whose misbehaviour is counted


def answer_as_asked(request: Request, done: dict[str, int]) -> Answer | None:
    """What the URL asks for; None when it asks for nothing, or has had it `times` times. Problem 422.

    `done` counts, for each request target, how often it was answered so. The caller holds a lock.
    """
    name, times, after = (request.query.get(name) for name in ("respond", "times", "retry_after"))
    if name is None:
        return None
    if times and not times.isdecimal():
        raise Problem(422, f"times={times[:40]} is no number")
    count = done.get(request.target, 0)
    if times and count >= int(times[:9]):
        return None
    if count or len(done) < COUNTED:
        done[request.target] = count + 1
    if name in BEHAVIOUR:
        return Answer(takeover=BEHAVIOUR[name])
    if re.fullmatch("[2-5][0-9][0-9]", name) and int(name) in PHRASES:
        headers = {"Retry-After": after} if after and re.fullmatch("[ -~]+", after) else {}
        return Answer(int(name), None if name in ("204", "304") else {"respond": int(name)}, headers)
    known = f"a known status from 200 on, or one of {', '.join(BEHAVIOUR)}"
    raise Problem(422, f"respond={name[:40]} is unknown, expected {known}")


def _hang(connection: socket.socket) -> None:
    """Take the request and never answer."""
    connection.settimeout(HOLD_SECONDS)
    while connection.recv(65_536):
        pass


def _reset(connection: socket.socket) -> None:
    """Close with a TCP reset: a socket that lingers for 0 s throws away what is on its way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    connection.close()


def _sending(first: str, again: bytes = b"", pause: float = 0.0) -> Callable[[socket.socket], None]:
    """Send `first`, then `again` and again, with so many seconds between."""

    def send(connection: socket.socket) -> None:
        connection.settimeout(HOLD_SECONDS)
        connection.sendall(f"HTTP/1.1 {first}".encode())
        end = time.monotonic() + HOLD_SECONDS
        while again and time.monotonic() < end:
            connection.sendall(again)
            time.sleep(pause)

    return send


BEHAVIOUR: dict[str, Callable[[socket.socket], None]] = {
    "hang": _hang,
    "drip": _sending("200 OK\r\nContent-Length: 1000\r\n\r\n", b".", 1.0),  # no read of it times out
    "reset": _reset,
    "half": _sending("200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nonly half of"),
    "endless": _sending("200 OK\r\n\r\n", b"and so on " * 1_000),
    "redirect": _sending("302 Found\r\nLocation: /somewhere-else\r\nContent-Length: 0\r\n\r\n"),
}
