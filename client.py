"""One HTTP exchange as a client: a request is sent and its answer is read, straight down, by a generator.

    exchange -> Pool.take or Pool.connect -> _send -> _read_head -> _read_body

The generator yields when it has to wait (connections.py says for what), and returns an Exchange. Its driver throws
TimeoutError into it at the deadline. So one thread has thousands of exchanges under way, and one that hangs costs a
generator. http.client would need a thread for each; it also takes a chunked answer that was cut for a whole one.

Left out on purpose: redirects (a redirected POST would become a GET), cookies, compression, proxies, HTTP/2.
"""

from __future__ import annotations

import functools
import re
import ssl
import urllib.parse
from collections.abc import Callable, Generator
from typing import NamedTuple

from connections import READ, WRITE, Connection, Failed, Pool, Wait, explain, origin_of

MAX_HEAD = 65_536  # bytes of an answer's head, or of a line between chunks
MAX_RESPONSE = 1_048_576  # bytes of a whole answer: nobody acknowledges a webhook with more
KEPT_RESPONSE = 4_096  # bytes of an answer that an Exchange keeps, for people to look at
CHUNK = 16_384  # bytes to read at once
CHUNKED = -1  # instead of a body's length

STATUS_LINE = re.compile(rb"HTTP/1\.(\d) ([1-9]\d\d)(?: [^\r\n]*)?\r\n")
HEAD_END = re.compile(rb"\r\n\r\n|\n\r?\n")
FIELD = re.compile(rb"\n([^:\s][^:\r\n]*):([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)")  # it may go on in the next line (5.2)
CHUNK_SIZE = re.compile(rb"0*([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", re.DOTALL)


class Exchange(NamedTuple):
    """What one attempt came to. `error` is None exactly when a whole answer was received.

    `request` and `response` are the bytes as they passed; of the response the first KEPT_RESPONSE of `received`
    bytes. `status` is 0 when no head came; `head` is the status line and the fields, each with its CR LF.
    """

    request: bytes
    response: bytes
    received: int
    status: int
    head: bytes
    error: str | None


@functools.lru_cache(8_192)
def request_head(method: str, url: str) -> bytes:
    """The request line and the Host field for `url`: the part of a request that depends on nothing else."""
    parts = urllib.parse.urlsplit(url)
    target = url[len(parts.scheme) + 3 + len(parts.netloc) :]  # as it is spelled: urlunsplit would drop an empty query
    target = target if target.startswith("/") else "/" + target
    return f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode("ascii", "backslashreplace")


def exchange(pool: Pool, url: str, compose: Callable[[], bytes], deadline: float) -> Generator[Wait, None, Exchange]:
    """Send what `compose()` gives, once there is a connection for it, and read the answer. Raises nothing of the net's.

    `deadline` is when the driver will throw TimeoutError, by the pool's clock.
    """
    answer, request, connection = _Answer(), b"", None
    try:
        origin = origin_of(url)
        connection = pool.take(origin) or (yield from pool.connect(origin, deadline))
        request = compose()
        try:
            keep = yield from _converse(connection, request, answer)
        except (ConnectionError, ssl.SSLEOFError, Failed):
            if not connection.used or answer.received:
                raise
            pool.discard(connection)  # it had died while it was idle: once more, over a fresh one
            connection, answer = None, _Answer()
            connection = yield from pool.connect(origin, deadline)
            keep = yield from _converse(connection, request, answer)
        pool.give_back(connection) if keep else pool.discard(connection)
        return Exchange(request, answer.kept, answer.received, answer.status, answer.head, None)
    except (OSError, ValueError, Failed) as error:  # ValueError: a host that IDNA cannot encode
        if connection is not None:
            pool.discard(connection)
        return Exchange(request, answer.kept, answer.received, answer.status, answer.head, explain(error, answer.doing))
    except BaseException:
        if connection is not None:
            pool.discard(connection)
        raise


class _Answer:
    """What has come of an answer so far. Of `data`, what is before `at` has been used."""

    __slots__ = ("data", "at", "received", "kept", "status", "head", "doing")

    def __init__(self) -> None:
        self.data, self.at, self.received, self.kept, self.status, self.head = b"", 0, 0, b"", 0, b""
        self.doing = "connecting"

    def add(self, data: bytes) -> bool:
        """Take what was received; False when it is the end of the stream. Failed when it is too much."""
        self.data, self.at = self.data[self.at :] + data, 0
        self.received += len(data)
        if len(self.kept) < KEPT_RESPONSE:
            self.kept += data[: KEPT_RESPONSE - len(self.kept)]
        if self.received > MAX_RESPONSE:
            raise _too_long()
        if data:
            self.doing = "in the middle of the answer"
        return bool(data)


def _converse(connection: Connection, request: bytes, answer: _Answer) -> Generator[Wait, None, bool]:
    """Send the request and read the answer to its end. Returns whether the connection can be used again."""
    unsent, status = memoryview(request), 0
    while status < 200:  # 1xx is an interim answer (RFC 9110, 15.2): the real one follows
        answer.doing = "sending the request"
        while unsent and not answer.data:
            unsent = _send(connection, unsent, answer)
            if unsent and not answer.data:
                yield connection, READ | WRITE
        if not answer.data:
            answer.doing = "waiting for the answer"
        status, version = yield from _read_head(connection, answer)
    answer.status, fields = status, fields_of(answer.head)
    size = _body_size(status, fields)
    if size is CHUNKED:
        yield from _read_chunks(connection, answer)
    elif size is not None:
        yield from _skip(connection, answer, size)
    else:
        while (yield from _receive(connection, answer)):
            answer.at = len(answer.data)
    close = version == b"0" or b"close" in b",".join(fields.get(b"connection", ())).lower()
    both = size is CHUNKED and b"content-length" in fields  # which of them did the server mean?
    return size is not None and not (close or both or unsent) and answer.at == len(answer.data)


def _send(connection: Connection, data: memoryview, answer: _Answer) -> memoryview:
    """Send what the socket takes; returns what is left. The beginning of an early answer is taken (RFC 9112, 9.5)."""
    try:
        data = data[connection.sock.send(data) :]
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    except ConnectionError:
        if not _early_answer(connection, answer):
            raise
    else:
        if not data:
            return data
    _early_answer(connection, answer)
    return data


def _early_answer(connection: Connection, answer: _Answer) -> bool:
    """Take what has come of an answer while the request is not sent; False when nothing has."""
    try:
        data = connection.sock.recv(CHUNK)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    if not data:
        raise ConnectionResetError
    return answer.add(data)


def _receive(connection: Connection, answer: _Answer) -> Generator[Wait, None, bool]:
    """Wait for more of the answer; False at the end of the stream."""
    while True:
        if not connection.has_data():
            yield connection, READ
        try:
            return answer.add(connection.sock.recv(CHUNK))
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except ssl.SSLWantWriteError:
            yield connection, WRITE


def _read_head(connection: Connection, answer: _Answer) -> Generator[Wait, None, tuple[int, bytes]]:
    """Read a status line and header fields, up to the empty line. Returns the status and HTTP's minor version."""
    start = answer.at
    while not (end := HEAD_END.search(answer.data, start)):
        start = max(0, len(answer.data) - answer.at - 3)  # what has been searched is not searched again
        if len(answer.data) - answer.at > MAX_HEAD:
            raise Failed(f"the head of the answer is longer than {MAX_HEAD:,} bytes")
        if not (yield from _receive(connection, answer)):
            began = len(answer.data) > answer.at
            raise Failed("the answer ended within its head" if began else "the connection was closed without an answer")
        if answer.data[:7] != b"HTTP/1."[: len(answer.data)]:
            raise Failed("the answer is not HTTP/1.x: " + repr(answer.data[:40])[1:])
    if end[0] != b"\r\n\r\n":
        raise Failed("the answer is malformed: its lines end with LF alone, expected CR LF")
    head = answer.data[answer.at : end.start() + 2]
    line = STATUS_LINE.match(head)
    if line is None or line[2] == b"101":
        raise Failed("the answer is not HTTP/1.x: " + repr(head[:40])[1:])
    answer.head, answer.data, answer.at = head, answer.data[end.end() :], 0
    return int(line[2]), line[1]


def fields_of(head: bytes) -> dict[bytes, list[bytes]]:
    """The values of each header field, by its name in lower case."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in FIELD.findall(head):
        fields.setdefault(name.strip().lower(), []).append(value.strip())
    return fields


def _body_size(status: int, fields: dict[bytes, list[bytes]]) -> int | None:
    """The length of the body by RFC 9112, 6.3; CHUNKED; None when it lasts until the connection ends."""
    if status in (204, 304):
        return 0
    if b"transfer-encoding" in fields:
        if b",".join(fields[b"transfer-encoding"]).lower() != b"chunked":
            raise Failed("the answer is malformed: it has another Transfer-Encoding than chunked")
        return CHUNKED
    return _length(fields[b"content-length"]) if b"content-length" in fields else None


def _length(fields: list[bytes]) -> int:
    """The number that all Content-Length fields agree on; a list of the same number is one (RFC 9110, 8.6)."""
    listed = [value.strip(b" \t") for field in fields for value in field.split(b",")]
    values = {value.lstrip(b"0") or value[:1] for value in listed}
    value = values.pop()
    if values or not value.isdigit():
        raise Failed("the answer is malformed: its Content-Length is not one number")
    if len(value) > 15 or int(value) > MAX_RESPONSE:
        raise _too_long()
    return int(value)


def _skip(connection: Connection, answer: _Answer, size: int) -> Generator[Wait, None, None]:
    """Read `size` bytes and forget them."""
    left = size
    while left > len(answer.data) - answer.at:
        left -= len(answer.data) - answer.at
        answer.at = len(answer.data)
        if not (yield from _receive(connection, answer)):
            raise Failed(f"the answer ended after {size - left} of {size} bytes")
    answer.at += left


def _read_chunks(connection: Connection, answer: _Answer) -> Generator[Wait, None, None]:
    """Read a chunked body to its very end: trailer fields, and an empty line (RFC 9112, 7.1)."""
    while True:
        match = CHUNK_SIZE.fullmatch((yield from _read_line(connection, answer)))
        if match is None:
            raise Failed("the answer is malformed: a chunk has no size")
        size = int(match[1], 16)
        if size == 0:
            break
        if size > MAX_RESPONSE:  # the size is the peer's claim
            raise _too_long()
        yield from _skip(connection, answer, size)
        if (yield from _read_line(connection, answer)):
            raise Failed("the answer is malformed: a chunk is longer than its size says")
    while (yield from _read_line(connection, answer)):
        pass


def _read_line(connection: Connection, answer: _Answer) -> Generator[Wait, None, bytes]:
    """A line of a chunked body, without its CR LF."""
    while (end := answer.data.find(b"\r\n", answer.at)) < 0:
        if len(answer.data) - answer.at > MAX_HEAD:
            raise Failed(f"the answer has a line between its chunks that is longer than {MAX_HEAD:,} bytes")
        if not (yield from _receive(connection, answer)):
            raise Failed("the answer ended within its chunked body")
    line, answer.at = answer.data[answer.at : end], end + 2
    return line


def _too_long() -> Failed:
    return Failed(f"the answer is longer than {MAX_RESPONSE:,} bytes")
