"""Connections: opened to addresses that the guard has passed, kept open, and never outwaiting a deadline.

Left out on purpose: racing an address against the next one (RFC 8305). An address that does not answer leaves
half of the time to the next.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

from addresses import Guard, literal, spelled

MAX_RESPONSE = 1_048_576  # bytes of a whole response: nobody acknowledges a webhook with more
KEPT_RESPONSE = 4_096  # bytes of a response that an Exchange keeps, for people to look at
KEPT_OPEN = 256  # idle connections in all: each is a file descriptor, of which a process often has 1,024
IDLE_SECONDS = 30.0  # after which an idle connection is closed: most servers close an idle connection after 5 to 75 s
RESOLVERS = 64  # names being resolved at once; a resolver that hangs cannot be interrupted, only abandoned
CHUNK = 16_384  # bytes to read at once; with 64 KiB the threads of a fan-out keep three MiB more


class Failed(Exception):
    """This attempt has failed; str() is the one line that says why. `status` and `head` if they had come."""

    def __init__(self, reason: str, status: int = 0, head: bytes = b"") -> None:
        super().__init__(reason)
        self.status, self.head = status, head


_Target = tuple[int, tuple[Any, ...]]  # an address family, and an address as socket.connect takes it


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


@functools.lru_cache(8_192)
def origin_of(url: str) -> Origin:
    """The scheme, host and port that a URL is sent to."""
    parts = urllib.parse.urlsplit(url)
    return Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


class Link:
    """A connection that counts, keeps and limits what comes, and that never outwaits its deadline."""

    def __init__(self, origin: Origin, sock: socket.socket, clock: Callable[[], float]) -> None:
        self.origin, self.sock, self._clock = origin, sock, clock
        self.idle_since = 0.0
        self.kept_open = False  # whether it has been used before
        self._timeout: float | None = None  # what the socket's timeout was set to last
        self.begin(0.0)

    def begin(self, deadline: float) -> None:
        """A new exchange begins, which has to be over by `deadline`."""
        self.deadline, self.received, self.kept = deadline, 0, b""
        self.unread = b""  # received, but given back by a reader who could not make a whole response of it yet

    def send(self, data: bytes) -> None:
        self._set_timeout(self.left())
        self.sock.sendall(data)  # its timeout is for the whole of the data

    def post(self, data: bytes) -> bool:
        """Send without waiting; False when the connection did not take all of it at once."""
        self._set_timeout(0.0)
        try:
            return self.sock.send(data) == len(data)
        except OSError:
            return False

    def receive(self) -> bytes:
        """What has come, b"" at the end of the stream. TimeoutError or BlockingIOError at the deadline."""
        if self.unread:
            data, self.unread = self.unread, b""
            return data
        if self._timeout:
            self._set_timeout(self.left())
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:  # after `post` the first try does not wait: often the answer has come meanwhile
            self._set_timeout(self.left())
            data = self.sock.recv(CHUNK)
        self.received += len(data)
        if len(self.kept) < KEPT_RESPONSE:
            self.kept += data[: KEPT_RESPONSE - len(self.kept)]
        if self.received > MAX_RESPONSE:
            raise Failed(f"the answer is longer than {MAX_RESPONSE:,} bytes")
        return data

    def left(self) -> float:
        """Seconds until the deadline; 0.0 after it, with which a socket takes only what is there already."""
        return max(0.0, self.deadline - self._clock())

    def _set_timeout(self, seconds: float) -> None:
        if seconds or self._timeout != 0.0:  # each costs a system call
            self.sock.settimeout(seconds)
            self._timeout = seconds

    def is_idle(self) -> bool:
        """Whether nothing has come since the last response: else it is closed, or out of step with us."""
        self._set_timeout(0.0)
        try:
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # the plain recv, also for TLS, which cannot peek
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        self.sock.close()


class Pool:
    """Connections that are open and unused, by origin."""

    def __init__(self, guard: Guard | None, clock: Callable[[], float]) -> None:
        self._guard, self._clock = guard, clock
        self._lock = threading.Lock()  # guards the two below
        self._idle: dict[Origin, list[Link]] = {}  # the most recently used last
        self._count = 0
        self._resolvers = threading.BoundedSemaphore(RESOLVERS)

    def take(self, origin: Origin) -> Link | None:
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

    def give_back(self, link: Link) -> None:
        link.idle_since, link.kept_open = self._clock(), True
        with self._lock:
            self._idle.setdefault(link.origin, []).append(link)
            self._count += 1
            surplus = self._oldest() if self._count > KEPT_OPEN else None
        if surplus is not None:
            surplus.close()

    def _oldest(self) -> Link:
        """Remove one connection of the origin that was first to become idle."""
        origin = next(iter(self._idle))
        links = self._idle[origin]
        self._count -= 1
        oldest = links.pop(0)
        if not links:
            del self._idle[origin]
        return oldest

    def close_idle(self, seconds: float) -> None:
        """Close the connections that have been idle for so long: their servers have closed them, or soon will."""
        until = self._clock() - seconds
        with self._lock:
            old = [link for links in self._idle.values() for link in links if link.idle_since <= until]
            for link in old:
                self._idle[link.origin].remove(link)
            self._idle = {origin: links for origin, links in self._idle.items() if links}
            self._count -= len(old)
        for link in old:
            link.close()

    def connect(self, origin: Origin, deadline: float) -> Link:
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
                return Link(origin, sock, self._clock)
            except BaseException as error:
                sock.close()
                if tried == len(addresses) or not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
                    raise
        raise Failed(f"{origin.host} has no address")

    def _resolve(self, origin: Origin, deadline: float) -> list[_Target]:
        address = literal(origin.host.rstrip("."))
        if address is not None:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            found: list[_Target] = [(family, (str(address), origin.port))]
        else:
            found = self._look_up(origin, deadline)
            if spelled(origin.host) == "loopback":  # Windows takes 2 s to find that nobody listens on ::1
                found.sort(key=lambda target: target[0] != socket.AF_INET)
        for _, (host, *_rest) in found if self._guard else []:
            reason = self._guard and self._guard.refuse_address(origin.host, host)
            if reason:
                raise Failed(f"not connected: {reason}")
        return found

    def _look_up(self, origin: Origin, deadline: float) -> list[_Target]:
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
        try:
            threading.Thread(target=look_up, name=f"resolve {origin.host}", daemon=True).start()
        except RuntimeError:  # no thread to be had
            self._resolvers.release()
            raise Failed("no thread is left to resolve the host name") from None
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


def explain(error: Exception, doing: str) -> str:
    """One line for a person: what happened, and where it is known what to do."""
    if isinstance(error, (TimeoutError, BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)):
        return f"timed out {doing}"
    if isinstance(error, Failed):
        return str(error)
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens on that port"
    if isinstance(error, ConnectionError):
        return f"connection reset {doing}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the TLS certificate does not verify: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return f"TLS failed {doing}: the server does not speak it, is it http:// instead of https://?"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed {doing}: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(error, OSError) and error.errno:
        return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)}) {doing}"
    return f"failed {doing}: {error}"
