"""One HTTP exchange as a client: a request is sent and its answer is read, straight down, by a generator.

    exchange -> Pool.take or Pool.connect -> _Conversation.run -> _read_head -> _skip or _read_chunks

The generator yields when it has to wait (connections.py says for what), and returns an Exchange. Its driver throws
TimeoutError into it at the deadline. So one thread has thousands of exchanges under way, and one that hangs costs a
generator. http.client would need a thread for each; it also takes a chunked answer that was cut for a whole one.

Left out on purpose: redirects (a redirected POST would become a GET), cookies, compression, proxies, HTTP/2.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import urllib.parse
from collections.abc import Callable, Generator
from typing import NamedTuple

from connections import READ, WRITE, Connection, Failed, Pool, Wait, explain, origin_of

MAX_LINES = 65_536  # bytes of an answer's head, or of a line between chunks
MAX_RESPONSE = 1_048_576  # bytes of a whole answer: nobody acknowledges a webhook with more
KEPT_RESPONSE = 4_096  # bytes of an answer that an Exchange keeps, for people to look at
AT_ONCE = 4_096  # bytes to read at once; then other exchanges have their turn
CHUNKED = -1  # instead of a body's length

BARE_END = re.compile(rb"\n\r?\n")
STATUS_LINE = re.compile(rb"HTTP/1\.\d ([1-9]\d\d)(?: [^\r\n]*)?\r\n")
FIELD = re.compile(  # a value may go on in the next line (RFC 9112, 5.2)
    rb"(?i)\n(content-length|transfer-encoding|connection|retry-after)[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)"
)
LENGTH = re.compile(rb"\s*0*(\d{1,15})\s*")
CHUNK_SIZE = re.compile(rb"0*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Exchange(NamedTuple):
    """What one attempt came to. `error` is None exactly when a whole answer was received.

    `request` and `response` are the bytes as they passed; of the response the first KEPT_RESPONSE of `received`
    bytes. `request` is empty when there was no connection to send it on, also if it had been composed for one that had
    died. `status` is 0 when no head came; `head` is the status line and the fields, each with its CR LF.
    """

    request: bytes
    response: bytes
    received: int
    status: int
    head: bytes
    error: str | None


def request_head(method: str, url: str) -> bytes:
    """The request line and the Host field for `url`: the part of a request that depends on nothing else."""
    parts = urllib.parse.urlsplit(url)
    target = (parts.path or "/") + ("?" + parts.query if "?" in url else "")  # an empty query is sent as well
    return f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode("ascii", "backslashreplace")


def exchange(pool: Pool, url: str, compose: Callable[[], bytes], deadline: float) -> Generator[Wait, None, Exchange]:
    """Send what `compose()` gives, once there is a connection for it, and read the answer, or what went wrong.

    A connection that was used before may have been closed by its server meanwhile. If it dies before anything came, the
    same bytes are sent once more over a new one. At `deadline`, by the pool's clock, the driver throws TimeoutError.
    """
    talk, request, connection, keep, error = _Conversation(), b"", None, False, None
    try:
        origin = origin_of(url)
        connection = pool.take(origin)
        while True:
            connection = connection or (yield from pool.connect(origin, deadline))
            request = request or compose()
            try:
                keep = yield from talk.run(connection, request)
                break
            except (ConnectionError, ssl.SSLEOFError, EOFError):
                if talk.received or not connection.used:
                    raise
                pool.discard(connection)
                connection, talk = None, _Conversation()
    except (OSError, EOFError, ValueError, Failed) as problem:  # ValueError: a host that IDNA cannot encode
        error = explain(problem, talk.doing)
    finally:
        if connection is not None:
            pool.give_back(connection) if keep else pool.discard(connection)
    sent = b"" if talk.doing == "connecting" else request
    return Exchange(sent, talk.kept, talk.received, talk.status, talk.head, error)


class _Conversation:
    """A request on its way, and what has come of its answer. Of `data`, what is before `at` has been read."""

    __slots__ = ("at", "connection", "data", "doing", "head", "kept", "received", "sending", "status", "unsent")

    def __init__(self) -> None:
        self.connection: Connection  # set by `run`
        self.unsent, self.sending = memoryview(b""), False  # it may be given up before everything was sent
        self.data, self.at, self.received, self.kept = b"", 0, 0, b""
        self.status, self.head, self.doing = 0, b"", "connecting"

    def run(self, connection: Connection, request: bytes) -> Generator[Wait, None, bool]:
        """Send the request and read the answer to its end, both in `_receive`.

        Returns whether the connection can be used again.
        """
        self.connection, self.unsent, self.sending = connection, memoryview(request), True
        self.doing = "sending the request"
        status = 100
        while status < 200:  # 1xx is an interim answer (RFC 9110, 15.2): the real one follows
            status, head = yield from self._read_head()
        self.status, self.head, fields = status, head, fields_of(head)
        self.sending = self.sending and status < 300  # from 300 on it does not want the rest (RFC 9112, 9.5)
        size = _body_size(status, fields)
        if size == CHUNKED:
            yield from self._read_chunks()
        elif size is not None:
            yield from self._skip(size)
        else:
            with contextlib.suppress(EOFError):
                while True:
                    self.at = len(self.data)
                    yield from self._receive()
        if self.sending:  # a 2xx came before all was sent: send the rest; an error changes nothing now
            with contextlib.suppress(OSError):
                while self._send() & WRITE:  # something is left
                    yield connection, WRITE
        close = head.startswith(b"HTTP/1.0") or b"close" in b",".join(fields.get(b"connection", ())).lower()
        return size is not None and not (close or self.unsent) and self.at == len(self.data)

    def _send(self) -> int:
        """Send what the socket takes of the request. Returns what to wait for next."""
        try:
            self.unsent = self.unsent[self.connection.sock.send(self.unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            return READ | WRITE
        except (ConnectionError, ssl.SSLError) as error:
            self.sending = isinstance(error, ssl.SSLWantReadError)  # else it takes no more: the answer may say why
            return READ
        if self.unsent:
            return READ | WRITE
        self.sending, self.doing = False, "waiting for the answer"
        return READ

    def _receive(self) -> Generator[Wait, None, None]:
        """Wait for more of the answer, and send what is left of the request meanwhile. EOFError at the stream's end."""
        sock, data = self.connection.sock, None
        while data is None:
            events = self._send() if self.sending else READ
            if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):  # what was decrypted, no selector tells of
                yield self.connection, events
            try:
                data = sock.recv(AT_ONCE)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except ssl.SSLWantWriteError:
                yield self.connection, WRITE
        if not data:
            raise EOFError
        self.data, self.at, self.doing = self.data[self.at :] + data, 0, "in the middle of the answer"
        self.received += len(data)
        self.kept += data[: KEPT_RESPONSE - len(self.kept)]
        if len(self.data) > MAX_LINES + AT_ONCE:
            raise Failed(f"a line or the head of the answer is longer than {MAX_LINES:,} bytes")
        if self.received > MAX_RESPONSE:
            raise Failed(f"the answer is longer than {MAX_RESPONSE:,} bytes")

    def _read_head(self) -> Generator[Wait, None, tuple[int, bytes]]:
        """Read up to the empty line. Returns the status, and the head without that line."""
        searched = self.at
        while (end := self.data.find(b"\r\n\r\n", searched)) < 0:
            if BARE_END.search(self.data, searched):
                raise Failed("the answer is malformed: its lines end with LF alone, expected CR LF")
            searched = max(0, len(self.data) - self.at - 3)  # of what is left then; CR LF CR LF may be cut
            yield from self._receive()
            if self.data[:7] != b"HTTP/1."[: len(self.data)]:  # as far as it has come
                raise Failed("the answer is not HTTP/1.x: " + repr(self.data[:40])[1:])
        head = self.data[self.at : end + 2]
        line = STATUS_LINE.match(head)
        if line is None or line[1] == b"101":
            raise Failed("the answer is not HTTP/1.x: " + repr(head[:40])[1:])
        self.at = end + 4
        return int(line[1]), head

    def _skip(self, size: int) -> Generator[Wait, None, None]:
        """Read `size` bytes of the body and forget them."""
        left = size
        while left > len(self.data) - self.at:
            left -= len(self.data) - self.at
            self.at = len(self.data)
            try:
                yield from self._receive()
            except EOFError:
                raise Failed(f"the answer ended after {size - left} of {size} bytes") from None
        self.at += left

    def _read_chunks(self) -> Generator[Wait, None, None]:
        """Read a chunked body to its very end: trailer fields, and an empty line (RFC 9112, 7.1)."""
        size = 1
        while size:
            match = CHUNK_SIZE.fullmatch((yield from self._read_line()))
            if match is None:
                raise Failed("the answer is malformed: a chunk has no size")
            size = int(match[1], 16)
            yield from self._skip(size)
            if size and (yield from self._read_line()):
                raise Failed("the answer is malformed: a chunk is longer than its size says")
        while (yield from self._read_line()):
            pass

    def _read_line(self) -> Generator[Wait, None, bytes]:
        """A line of a chunked body, without its CR LF."""
        while (end := self.data.find(b"\n", self.at)) < 0:
            yield from self._receive()
        line, self.at = self.data[self.at : end], end + 1
        if not line.endswith(b"\r"):
            raise Failed("the answer is malformed: a line of its chunked body does not end with CR LF")
        return line[:-1]


def fields_of(head: bytes) -> dict[bytes, list[bytes]]:
    """The values of the header fields that concern us, by their names in lower case."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in FIELD.findall(head):
        fields.setdefault(name.lower(), []).append(value.strip())
    return fields


def _body_size(status: int, fields: dict[bytes, list[bytes]]) -> int | None:
    """The length of the body by RFC 9112, 6.3; CHUNKED; None when it lasts until the connection ends."""
    if status in (204, 304):
        return 0
    if b"transfer-encoding" in fields:
        if b",".join(fields[b"transfer-encoding"]).lower() != b"chunked":
            raise Failed("the answer is malformed: it has another Transfer-Encoding than chunked")
        return CHUNKED
    if b"content-length" not in fields:
        return None
    found = (LENGTH.fullmatch(value) for value in b",".join(fields[b"content-length"]).split(b","))
    lengths = {match and int(match[1]) for match in found}  # "2, 2" is 2 (RFC 9110, 8.6)
    if len(lengths) > 1 or None in lengths:
        raise Failed("the answer is malformed: its Content-Length is not one number")
    return lengths.pop()
