"""One HTTP request as a client: urllib's opener over kept-open connections, with one deadline for everything.

    exchange = Transport().send(url, request_head("POST", url) + b"Content-Length: 2\r\n\r\n{}", seconds=10)
    exchange.status, exchange.error, exchange.request, exchange.response

`urllib.request.urlopen` would follow a redirected POST with a GET, open file: URLs, obey proxy variables,
close every connection, and start its timeout anew at every read. So the opener here has one handler only,
ours: http and https, no redirects, no proxies. Responses are read here, too: http.client takes a chunked one that
is cut off at the right place for a whole one, and its parser of header fields costs more than all the rest.

Left out on purpose: redirects, cookies, compression, proxies, HTTP/2, request bodies that are streamed.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple

from addresses import Guard
from connections import CHUNK, IDLE_SECONDS, MAX_RESPONSE, Failed, Link, Origin, Pool, explain, origin_of

MAX_HEAD = 65_536  # bytes of a response's head, or of a line between chunks


class Exchange(NamedTuple):
    """What one attempt came to. `error` is None exactly when a whole response was received.

    `request` and `response` are the bytes as they passed; of the response the first KEPT_RESPONSE of
    `received` bytes. `status` is 0 when no response head came. `body` is decoded from any transfer coding.
    """

    request: bytes
    response: bytes
    received: int
    status: int
    head: bytes
    body: bytes
    error: str | None


class Call(NamedTuple):
    """A request that is on its way, and whose answer is still out."""

    request: bytes
    link: Link


def request_head(method: str, url: str) -> bytes:
    """The request line and the Host field for `url`: the part of a request that depends on nothing else."""
    parts = urllib.parse.urlsplit(url)
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    return f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode("ascii", "backslashreplace")


def request_json(method: str, url: str, value: Any = None) -> bytes:
    """A whole request with `value` as its JSON body (none without): what a script sends."""
    body = b"" if value is None else json.dumps(value).encode()
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    fields += "Bypass-Tunnel-Reminder: 1\r\nUser-Agent: integrator/1.0\r\nAccept: application/json\r\n\r\n"
    return request_head(method, url) + fields.encode() + body


def retry_after(head: bytes, now: float) -> float:
    """The seconds that a Retry-After field asks for (RFC 9110, 10.2.3: seconds or a date); 0.0 without one."""
    match = re.search(rb"(?i)\nretry-after:([^\r\n]*)", head)  # nothing to try twice: a hostile head has 64 KiB
    if match is None:
        return 0.0
    text = match[1].strip(b" \t").decode("latin-1")
    try:
        if text.isdigit():
            return float(text[:10])
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0  # a date that is none: as if the field were absent


class Transport:
    """Sends requests; safe to use from many threads. `guard` None lets every address pass."""

    def __init__(self, guard: Guard | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._clock = Pool(guard, clock), clock
        self._opener = urllib.request.OpenerDirector()
        self._opener.add_handler(_Handler(self._pool, clock))

    def send(self, url: str, request: bytes, seconds: float) -> Exchange:
        """Send the whole `request` (head and body) to the host of `url`; never raises for what goes wrong.

        All of it (resolve, connect, TLS, send, read) takes `seconds` at most.
        """
        try:
            exchange: Exchange | None = self._opener.open(urllib.request.Request(url, request), timeout=seconds)
        except ValueError:
            exchange = None
        return exchange or _nothing(request, "not an http or https URL")

    # The same in two steps. Who posts to several receivers before reading the first answer waits for all of them
    # at once, in one thread; and without the opener, which costs more (13 µs) than a send.

    def post(self, url: str, request: bytes, seconds: float, patience: float = 0.0) -> Call | None:
        """Send without waiting: over a kept-open connection, or a new one that opens within `patience` seconds.

        None when there is none, and for https: then `send` it.
        """
        origin = origin_of(url)
        if origin.scheme != "http":
            return None
        link = self._pool.take(origin)
        if link is None and patience > 0:
            with contextlib.suppress(OSError, ValueError, Failed):  # `send` will meet the same, and tell of it
                link = self._pool.connect(origin, self._clock() + patience)
        if link is None:
            return None
        link.begin(self._clock() + seconds)
        if link.post(request):
            return Call(request, link)
        link.close()
        return None

    def look(self, call: Call, patience: float) -> Exchange | None:
        """The outcome, if all of an ordinary answer comes within `patience` seconds; else None: `finish` it."""
        link = call.link
        deadline, link.deadline = link.deadline, min(link.deadline, self._clock() + patience)
        try:
            answer = _read_response(link, whole=False)
        except (Failed, OSError):
            answer = None
        link.deadline = deadline
        if answer is None:
            return None
        return _exchange(self._pool, link, call.request, answer)

    def finish(self, call: Call) -> Exchange:
        """The outcome, however long it takes until the deadline; never raises for what goes wrong."""
        exchange = _converse(self._pool, call.link, call.request, sent=True)
        if _is_stale(call.link, exchange) and self._clock() < call.link.deadline:
            return _start(self._pool, call.link.origin, call.request, call.link.deadline)
        return exchange

    def close_idle(self, seconds: float = IDLE_SECONDS) -> None:
        """Close the connections that have been idle for so long; to be called now and then."""
        self._pool.close_idle(seconds)

    def close(self) -> None:
        """Close all idle connections."""
        self._pool.close_idle(0.0)


class _Handler(urllib.request.BaseHandler):
    """What the opener calls for http and https: one exchange over a kept-open or a new connection."""

    def __init__(self, pool: Pool, clock: Callable[[], float]) -> None:
        self._pool, self._clock = pool, clock

    def http_open(self, request: urllib.request.Request) -> Exchange:
        data = request.data
        assert isinstance(data, bytes) and request.timeout is not None
        deadline, origin = self._clock() + request.timeout, origin_of(request.full_url)
        link = self._pool.take(origin)
        if link is not None:
            link.begin(deadline)
            exchange = _converse(self._pool, link, data)
            if not _is_stale(link, exchange) or self._clock() >= deadline:
                return exchange
        return _start(self._pool, origin, data, deadline)

    https_open = http_open


def _is_stale(link: Link, exchange: Exchange) -> bool:
    """Whether a kept-open connection had died while it was idle: then once more, on a fresh one."""
    return link.kept_open and exchange.error is not None and not exchange.received


def _nothing(request: bytes, error: str) -> Exchange:
    return Exchange(request, b"", 0, 0, b"", b"", error)


def _start(pool: Pool, origin: Origin, request: bytes, deadline: float) -> Exchange:
    """One exchange over a new connection."""
    try:
        link = pool.connect(origin, deadline)
    except (OSError, ValueError, Failed) as error:  # ValueError: a host that IDNA cannot encode
        return _nothing(request, explain(error, "connecting"))
    link.begin(deadline)
    return _converse(pool, link, request)


def _converse(pool: Pool, link: Link, request: bytes, sent: bool = False) -> Exchange:
    """Send, unless that has been done, and read."""
    doing = "sending the request"
    try:
        if not sent:
            link.send(request)
        doing = "waiting for the answer"
        answer = _read_response(link)
        assert answer is not None
        return _exchange(pool, link, request, answer)
    except Failed as failed:
        status, head, error = failed.status, failed.head, str(failed)
    except OSError as problem:
        status, head, error = 0, b"", explain(problem, "in the middle of the answer" if link.received else doing)
    link.close()
    return Exchange(request, link.kept, link.received, status, head, b"", error)


def _exchange(pool: Pool, link: Link, request: bytes, answer: _Answer) -> Exchange:
    exchange = Exchange(request, link.kept, link.received, answer.status, answer.head, answer.body, None)
    if answer.keep:
        pool.give_back(link)
    else:
        link.close()
    return exchange


# --- reading a response ---------------------------------------------------------------------------------


class _Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes  # decoded
    keep: bool  # whether the connection can be used again


STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r\n")
FOLD = re.compile(rb"\r\n[ \t]+")  # a field that goes on in the next line (RFC 9112, 5.2)
CODING = re.compile(rb"\r\ntransfer-encoding:([^\r\n]*)")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t;][^\r\n]*)?\r\n")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,7})[ \t]*(?=\r\n)")


def _read_response(link: Link, whole: bool = True) -> _Answer | None:
    """Read a response to its end. Failed or an OSError when it does not get there.

    RFC 9112, 6.3 has eight rules for where a body ends. The two that nearly all responses meet are here: no
    body by its status, and exactly one Content-Length. The others are in `_read_unusual`. With `whole` false only the
    ordinary is read, and what has come stays unread if that does not make a whole response in time.
    """
    data = b""
    try:
        while True:
            while b"\r\n\r\n" not in data:
                data += _more(link, data)
                if len(data) > MAX_HEAD and b"\r\n\r\n" not in data:
                    raise Failed(f"the head of the answer is longer than {MAX_HEAD:,} bytes")
            head = data[: data.index(b"\r\n\r\n") + 2]
            line = STATUS_LINE.match(head)
            if line is None or line[1] == b"101":
                raise Failed("the answer is not HTTP/1.x: " + repr(head[:40])[1:])
            status = int(line[1])
            if status >= 200:
                break
            data = data[len(head) + 2 :]  # 1xx, an interim response (RFC 9110, 15.2): the real one follows
        fields = head.lower()
        if b"\n " in fields or b"\n\t" in fields:
            fields = FOLD.sub(b" ", fields)
        size = _body_length(status, fields)
        if size is None:
            if whole:
                return _read_unusual(link, data[len(head) + 2 :], status, head, fields)
            raise TimeoutError  # not now
        end = len(head) + 2 + size
        while len(data) < end:
            data += _more(link, data, end, status, head)
    except (OSError, Failed):
        if not whole:
            link.unread = data
        raise
    keep = b"\nconnection:" not in fields or fields.count(b"\nconnection:") == fields.count(
        b"\nconnection: keep-alive\r"
    )
    keep = keep and len(data) == end and fields.startswith(b"http/1.1")
    return _Answer(status, head, data[len(head) + 2 : end], keep)


def _body_length(status: int, fields: bytes) -> int | None:
    """The length of the body; None where an ordinary response does not say it. `fields` are in lower case."""
    if status in (204, 304):
        return 0
    length = LENGTH.findall(fields)
    if b"\ntransfer-encoding" in fields or fields.count(b"\ncontent-length") != len(length) or len(set(length)) != 1:
        return None
    return int(length[0])


def _more(link: Link, data: bytes, end: int = 0, status: int = 0, head: bytes = b"") -> bytes:
    more = link.receive()
    if more:
        return more
    if head:
        body = len(head) + 2
        raise Failed(f"the answer ended after {len(data) - body} of {end - body} bytes", status, head)
    raise Failed("the answer ended within its head" if data else "the connection was closed without an answer")


class _Replay(io.RawIOBase):
    """A response as a file: what was read already, then what the link has."""

    def __init__(self, data: bytes, link: Link) -> None:
        self._data, self._link = data, link

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._data or self._link.receive()
        self._data = data[len(buffer) :]
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        return count


def _read_unusual(link: Link, data: bytes, status: int, head: bytes, fields: bytes) -> _Answer:
    """Chunked, or ended by the connection's end. What could be read in two ways has failed."""
    codings = [coding.strip(b" \t") for coding in CODING.findall(fields)]
    stream: BinaryIO = io.BufferedReader(_Replay(data, link), CHUNK)
    try:
        if codings not in ([], [b"chunked"]) or fields.count(b"\ntransfer-encoding") != len(codings):
            raise Failed("the answer is malformed: it has another Transfer-Encoding than chunked")
        if b"\ncontent-length" in fields and not codings:
            raise Failed("the answer is malformed: its Content-Length is none")
        return _Answer(status, head, _chunks(stream) if codings else stream.read(), False)
    except Failed as error:
        error.status, error.head = status, head
        raise
    except OSError as error:
        raise Failed(explain(error, "in the middle of the answer"), status, head) from None


def _chunks(stream: BinaryIO) -> bytes:
    """A chunked body to its very end: trailer fields, which are discarded, and an empty line (RFC 9112, 7.1)."""
    body = bytearray()
    while size := _chunk_size(stream, len(body)):
        chunk = stream.read(min(size, MAX_RESPONSE) + 2)  # who promises a terabyte is not believed
        body += chunk[:size]
        if len(chunk) < size + 2:
            raise _cut_off(len(body))
        if chunk[size:] != b"\r\n":
            raise Failed("the answer is malformed: a chunk is longer than its size says")
    while (line := stream.readline(MAX_HEAD)) != b"\r\n":
        if not line.endswith(b"\n"):
            raise _cut_off(len(body))
    return bytes(body)


def _chunk_size(stream: BinaryIO, so_far: int) -> int:
    line = stream.readline(MAX_HEAD)
    match = CHUNK_SIZE.fullmatch(line)
    if match is None:
        raise Failed("the answer is malformed: a chunk has no size") if line.endswith(b"\n") else _cut_off(so_far)
    return int(match[1], 16)


def _cut_off(so_far: int) -> Failed:
    return Failed(f"the answer ended after {so_far} bytes of its body")
