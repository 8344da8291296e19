"""One HTTP request as a client: urllib's opener over kept-open connections, with one deadline for everything.

    exchange = Transport().send(url, request_head("POST", url) + b"Content-Length: 2\r\n\r\n{}", seconds=10)
    exchange.status, exchange.error, exchange.request, exchange.response

`urllib.request.urlopen` would follow a redirected POST with a GET, open file: URLs, obey proxy variables,
close every connection, and start its timeout anew at every read. So the opener here has one handler only,
ours: http and https, no redirects, no proxies. What a response looks like in nearly every case (a length, or
no body at all) is read here in a few lines; what is unusual goes to http.client.

Left out on purpose: redirects, cookies, compression, proxies, HTTP/2, request bodies that are streamed.
"""

from __future__ import annotations

import errno
import functools
import http.client
import io
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from addresses import Guard, literal

MAX_HEAD = 65_536  # bytes of a response's head; http.client's limit for one line of it
MAX_RESPONSE = 1_048_576  # bytes of a whole response: nobody acknowledges a webhook with more
KEPT_RESPONSE = 4_096  # bytes of a response that an Exchange keeps, for people to look at
KEPT_OPEN = 256  # idle connections in all: each is a file descriptor, of which a process often has 1,024
IDLE_SECONDS = 30.0  # most servers close an idle connection after 5 to 75 s
RESOLVERS = 64  # names being resolved at once; a resolver that hangs cannot be interrupted, only abandoned
CHUNK = 65_536

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


class Failed(Exception):
    """This attempt has failed; str() is the one line that says why. `status` and `head` if they had come."""

    def __init__(self, reason: str, status: int = 0, head: bytes = b"") -> None:
        super().__init__(reason)
        self.status, self.head = status, head


def request_head(method: str, url: str) -> bytes:
    """The request line and the Host field for `url`: the part of a request that depends on nothing else."""
    parts = urllib.parse.urlsplit(url)
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    return f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode("ascii")


def request_json(method: str, url: str, value: Any = None) -> bytes:
    """A whole request with `value` as its JSON body (none without): what a script sends."""
    body = b"" if value is None else json.dumps(value, ensure_ascii=False).encode()
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    fields += "Bypass-Tunnel-Reminder: 1\r\nUser-Agent: integrator/1.0\r\nAccept: application/json\r\n\r\n"
    return request_head(method, url) + fields.encode() + body


def retry_after(head: bytes, now: float) -> float:
    """The seconds that a Retry-After field asks for (RFC 9110, 10.2.3: seconds or a date); 0.0 without one."""
    match = re.search(rb"(?im)^retry-after:[ \t]*([^\r\n]*?)[ \t]*\r?$", head)
    if match is None:
        return 0.0
    text = match[1].decode("latin-1")
    try:
        return float(text[:10]) if text.isdigit() else max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0  # a date that is none: as if the field were absent


class Transport:
    """Sends requests; safe to use from many threads. `guard` None lets every address pass."""

    def __init__(self, guard: Guard | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = _Pool(guard, clock)
        self._opener = urllib.request.OpenerDirector()
        self._opener.add_handler(_KeepAlive(self._pool, clock))

    def send(self, url: str, request: bytes, seconds: float) -> Exchange:
        """Send the whole `request` (head and body) to the host of `url`; never raises for what goes wrong.

        All of it (resolve, connect, TLS, send, read) takes `seconds` at most.
        """
        exchange: Exchange = self._opener.open(urllib.request.Request(url, request), timeout=seconds)
        return exchange

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


class _KeepAlive(urllib.request.BaseHandler):
    """What the opener calls for http and https: one exchange over a kept-open or a new connection."""

    def __init__(self, pool: _Pool, clock: Callable[[], float]) -> None:
        self._pool, self._clock = pool, clock

    def http_open(self, request: urllib.request.Request) -> Exchange:
        data = request.data
        assert isinstance(data, bytes) and request.timeout is not None
        deadline, origin = self._clock() + request.timeout, _origin(request.type, request.host)
        link = self._pool.take(origin)
        if link is not None:
            exchange = self._converse(link, data, deadline)
            if exchange.error is None or exchange.received or self._clock() >= deadline:
                return exchange
            # It died while it was idle, before the first byte of an answer: once more, on a fresh one.
        try:
            link = self._pool.connect(origin, deadline)
        except (OSError, ValueError, Failed) as error:  # ValueError: a host that IDNA cannot encode
            return Exchange(data, b"", 0, 0, b"", b"", _explain(error, "connecting"))
        return self._converse(link, data, deadline)

    https_open = http_open

    def _converse(self, link: _Link, data: bytes, deadline: float) -> Exchange:
        link.begin(deadline)
        status, head, body, error, keep = 0, b"", b"", None, False
        doing = "sending the request"
        try:
            link.send(data)
            doing = "waiting for the answer"
            status, head, body, keep = _read_response(link)
        except Failed as failed:
            status, head, error = failed.status, failed.head, str(failed)
        except OSError as problem:
            error = _explain(problem, doing if not link.received else "in the middle of the answer")
        if keep:
            self._pool.give_back(link)
        else:
            link.close()
        return Exchange(data, bytes(link.kept), link.received, status, head, body, error)


_Target = tuple[int, tuple[Any, ...]]  # an address family, and an address as socket.connect takes it


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


@functools.lru_cache(4_096)
def _origin(scheme: str, netloc: str) -> _Origin:
    parts = urllib.parse.urlsplit(f"{scheme}://{netloc}")
    return _Origin(scheme, parts.hostname or "", parts.port or (443 if scheme == "https" else 80))


class _Link:
    """A connection that counts, keeps and limits what comes, and that never outwaits its deadline."""

    def __init__(self, origin: _Origin, sock: socket.socket, clock: Callable[[], float]) -> None:
        self.origin, self.sock, self._clock = origin, sock, clock
        self.idle_since = 0.0
        self.begin(0.0)

    def begin(self, deadline: float) -> None:
        self.deadline, self.received, self.kept = deadline, 0, b""

    def send(self, data: bytes) -> None:
        self.sock.settimeout(self.left())
        self.sock.sendall(data)  # its timeout is for the whole of the data

    def receive(self) -> bytes:
        """What has come, b"" at the end of the stream."""
        self.sock.settimeout(self.left())
        data = self.sock.recv(CHUNK)
        self.received += len(data)
        if len(self.kept) < KEPT_RESPONSE:
            self.kept += data[: KEPT_RESPONSE - len(self.kept)]
        if self.received > MAX_RESPONSE:
            raise Failed(f"the answer is longer than {MAX_RESPONSE:,} bytes")
        return data

    def left(self) -> float:
        left = self.deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left

    def is_idle(self) -> bool:
        """Whether nothing has come since the last response: else it is closed, or out of step with us."""
        self.sock.settimeout(0)
        try:
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # the plain recv, also for TLS, which cannot peek
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        self.sock.close()


class _Pool:
    """Connections that are open and unused, by origin."""

    def __init__(self, guard: Guard | None, clock: Callable[[], float]) -> None:
        self._guard, self._clock = guard, clock
        self._lock = threading.Lock()  # guards the two below
        self._idle: dict[_Origin, list[_Link]] = {}  # the most recently used last
        self._count = 0
        self._resolvers = threading.BoundedSemaphore(RESOLVERS)

    def take(self, origin: _Origin) -> _Link | None:
        while True:
            with self._lock:
                links = self._idle.get(origin)
                if not links:
                    return None
                link = links.pop()
                self._count -= 1
                if not links:
                    del self._idle[origin]
            if self._clock() - link.idle_since < IDLE_SECONDS and link.is_idle():
                return link
            link.close()

    def give_back(self, link: _Link) -> None:
        link.idle_since = self._clock()
        with self._lock:
            self._idle.setdefault(link.origin, []).append(link)
            self._count += 1
            surplus = self._oldest() if self._count > KEPT_OPEN else None
        if surplus is not None:
            surplus.close()

    def _oldest(self) -> _Link:
        """Remove one connection of the origin that was first to become idle."""
        origin = next(iter(self._idle))
        links = self._idle[origin]
        self._count -= 1
        oldest = links.pop(0)
        if not links:
            del self._idle[origin]
        return oldest

    def close(self) -> None:
        with self._lock:
            links = [link for some in self._idle.values() for link in some]
            self._idle, self._count = {}, 0
        for link in links:
            link.close()

    def connect(self, origin: _Origin, deadline: float) -> _Link:
        """A new connection to one of the addresses of `origin`, all of which the guard has judged."""
        addresses = self._resolve(origin, deadline)
        for tried, (family, address) in enumerate(addresses, 1):
            left = deadline - self._clock()
            if left <= 0:
                raise TimeoutError
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                # an address that does not answer leaves half of the time to the next one
                sock.settimeout(left if tried == len(addresses) else left / 2)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if origin.scheme == "https":
                    sock.settimeout(max(0.001, deadline - self._clock()))
                    sock = _tls().wrap_socket(sock, server_hostname=origin.host)
                return _Link(origin, sock, self._clock)
            except BaseException as error:
                sock.close()
                if tried == len(addresses) or not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
                    raise
        raise Failed(f"{origin.host} has no address")

    def _resolve(self, origin: _Origin, deadline: float) -> list[_Target]:
        address = literal(origin.host.rstrip("."))
        if address is not None:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            found: list[_Target] = [(family, (str(address), origin.port))]
        else:
            found = self._look_up(origin, deadline)
        for _, (host, *_rest) in found if self._guard else []:
            reason = self._guard and self._guard.refuse_address(origin.host, host)
            if reason:
                raise Failed(f"not connected: {reason}")
        return found

    def _look_up(self, origin: _Origin, deadline: float) -> list[_Target]:
        """getaddrinfo in a thread of its own, which is left behind when it outlasts the deadline."""
        result: list[_Target] = []
        failure: list[Exception] = []
        done = threading.Event()

        def look_up() -> None:
            try:
                found = socket.getaddrinfo(origin.host, origin.port, 0, socket.SOCK_STREAM)
                result.extend((family, address) for family, _, _, _, address in found)
            except (OSError, UnicodeError) as error:
                failure.append(error)
            finally:
                self._resolvers.release()
                done.set()

        if not self._resolvers.acquire(timeout=max(0, deadline - self._clock())):
            raise TimeoutError
        threading.Thread(target=look_up, name=f"resolve {origin.host}", daemon=True).start()
        if not done.wait(max(0, deadline - self._clock())):
            raise TimeoutError
        if failure:
            raise failure[0]
        return result


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


# --- reading a response ---------------------------------------------------------------------------------


STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r\n")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,7})[ \t]*\r\n")


def _read_response(link: _Link) -> tuple[int, bytes, bytes, bool]:
    """(status, head, body, whether the connection can be used again), the body decoded.

    RFC 9112, 6.3 has eight rules for where a body ends. The two that nearly all responses meet are here: no
    body by its status, and exactly one Content-Length. The others are http.client's.
    """
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = link.receive()
            if not more:
                raise _ended(data)
            data += more
            if len(data) > MAX_HEAD and b"\r\n\r\n" not in data:
                raise Failed(f"the head of the answer is longer than {MAX_HEAD:,} bytes")
        head, _, body = data.partition(b"\r\n\r\n")
        head += b"\r\n"
        line = STATUS_LINE.match(head)
        if line is None or line[1] == b"101":
            raise Failed("the answer is not HTTP/1.x: " + repr(head[:40])[1:])
        if line[1][:1] != b"1":
            break
        data = body  # 1xx: an interim response (RFC 9110, 15.2); the real one follows
    status, fields = int(line[1]), head.lower()
    length = LENGTH.findall(fields)
    if b"\ntransfer-encoding" in fields or fields.count(b"\ncontent-length") != len(length) or len(length) > 1:
        return _read_unusual(link, data, status, head)
    if status in (204, 304):
        size = 0
    elif length:
        size = int(length[0])
    else:
        return _read_unusual(link, data, status, head)
    while len(body) < size:
        more = link.receive()
        if not more:
            raise Failed(f"the answer ended after {len(body)} of {size} bytes", status, head)
        body += more
    keep = len(body) == size and b"\nconnection:" not in fields.replace(b"\nconnection: keep-alive", b"")
    return status, head, body[:size], keep and fields.startswith(b"http/1.1")


def _ended(data: bytes) -> Exception:
    if data:
        return Failed("the answer ended within its head")
    return Failed("the connection was closed without an answer")


class _Replay(io.RawIOBase):
    """A response as the file that http.client wants: what was read already, then what the link has."""

    def __init__(self, data: bytes, link: _Link) -> None:
        self._data, self._link = data, link

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self, CHUNK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._data or self._link.receive()
        self._data = data[len(buffer) :]
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        return count


def _read_unusual(link: _Link, data: bytes, status: int, head: bytes) -> tuple[int, bytes, bytes, bool]:
    """Chunked, ended by the connection's end, or with doubtful lengths: http.client knows them all."""
    response = http.client.HTTPResponse(_Replay(data, link), method="POST")  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except http.client.IncompleteRead as error:
        raise Failed(f"the answer ended after {len(error.partial)} bytes of its body", status, head) from None
    except Failed as error:
        error.status, error.head = status, head
        raise
    except (http.client.HTTPException, ValueError) as error:
        raise Failed(f"the answer is malformed: {error!r}", status, head) from None
    except OSError as error:
        raise Failed(_explain(error, "in the middle of the answer"), status, head) from None
    finally:
        response.close()
    return status, head, body, False


# --- words for what went wrong ------------------------------------------------------------------------------


def _explain(error: Exception, doing: str) -> str:
    """One line for a person: what happened, and where it is known what to do."""
    if isinstance(error, TimeoutError):
        return f"timed out {doing}"
    if isinstance(error, Failed):
        return str(error)
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens on that port"
    if isinstance(error, ConnectionError):
        return f"connection reset {doing}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the TLS certificate does not verify: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed {doing}: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(error, OSError) and error.errno:
        return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)}) {doing}"
    return f"failed {doing}: {error}"
