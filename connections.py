"""Connections to receivers: a name is resolved, its addresses are judged, a socket is opened, and kept open afterwards.

Nothing here blocks. What takes time is a generator that yields what it waits for, and its driver, a sender or a test,
resumes it: `connection, READ` or `connection, WRITE` (or both) for a socket, a Future for a name.

Left out on purpose: racing an address against the next one (RFC 8305). An address that does not answer leaves half of
the time to the next.
"""

from __future__ import annotations

import functools
import math
import os
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from time import monotonic
from typing import Any, NamedTuple

from addresses import Guard, literal, spelled

READ, WRITE = EVENT_READ, EVENT_WRITE
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
KEPT_OPEN = 256  # idle connections in all: each is a file descriptor, of which a process often has 1,024
IDLE_SECONDS = 30.0  # after which an idle connection is closed: most servers close an idle connection after 5 to 75 s
PROMPT = 1.0  # seconds: a name that took longer to resolve may take a thread for long
RESOLVERS = {"prompt": 3, "new": 6, "slow": 2}  # threads for names by how they were resolved last time
REMEMBERED = 10_000  # names of which that is remembered


class Failed(Exception):
    """This attempt has failed; str() is the one line that says why."""


class NextAddress(OSError):
    """Thrown into a generator whose address has had its share of the time: see `Pool.out_of_patience`."""


EXPLANATIONS: list[tuple[type[Exception], str]] = [  # the first that fits counts
    (Failed, "{error}"),
    (EOFError, "the connection was closed {doing}"),
    (TimeoutError, "timed out {doing}"),
    (ConnectionRefusedError, "connection refused: nothing listens on that port"),
    (ConnectionError, "connection reset {doing}"),
    (socket.gaierror, "the host name does not resolve"),
    (ssl.SSLCertVerificationError, "the TLS certificate does not verify: {error.verify_message}"),
    (ssl.SSLEOFError, "the TLS connection was cut {doing}"),
    (ssl.SSLError, "TLS failed {doing}: {error}; if the server does not speak it, is it http:// instead of https://?"),
    (Exception, "failed {doing}: {error}"),
]


def explain(error: Exception, doing: str) -> str:
    """One line for a person: what happened, and where it is known what to do."""
    return next(text for kind, text in EXPLANATIONS if isinstance(error, kind)).format(error=error, doing=doing)


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


@functools.lru_cache(8_192)
def origin_of(url: str) -> Origin:
    """The scheme, host and port that a URL is sent to. ValueError for a URL that has none."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https URL")
    return Origin(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))


class Connection:
    """A socket to a receiver, in the selector for as long as it is open.

    `waiter` is what its events resume, None while it is idle; `events` is what it is registered for.
    """

    __slots__ = ("events", "origin", "sock", "used", "waiter")

    def __init__(self, origin: Origin, sock: socket.socket) -> None:
        self.origin, self.sock = origin, sock
        self.events, self.waiter = WRITE, None  # type: int, Any
        self.used = False  # whether an exchange has been completed on it


Wait = tuple[Connection, int] | Future[Any]
Address = tuple[int, tuple[Any, ...]]  # a family, and an address as socket.connect takes it
Clock = Callable[[], float]


class Pool:
    """The connections of one sender thread: no other thread may touch them. `guard` None lets every address pass."""

    def __init__(
        self, selector: BaseSelector, resolver: Resolver, guard: Guard | None, kept_open: int, clock: Clock = monotonic
    ) -> None:
        self.selector, self.resolver, self._guard = selector, resolver, guard
        self._kept_open, self._clock = kept_open, clock
        self._opening: dict[Connection, float] = {}  # until when, if there is another address to try
        self._idle: dict[Connection, float] = {}  # since when; the first has been idle longest
        self._by_origin: dict[Origin, dict[Connection, None]] = {}  # the same

    def take(self, origin: Origin) -> Connection | None:
        """The idle connection that was used last, if there is one."""
        if origin not in self._by_origin:
            return None
        connection, _ = self._by_origin[origin].popitem()  # `reversed` would pass over all that were taken before
        self._forget_idle(connection)
        return connection

    def _forget_idle(self, connection: Connection) -> None:
        del self._idle[connection]
        connections = self._by_origin[connection.origin]
        connections.pop(connection, None)
        if not connections:
            del self._by_origin[connection.origin]

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request. It stays registered, so that its server's close is seen."""
        connection.used = True
        self.watch(connection, READ, None)
        self._by_origin.setdefault(connection.origin, {})[connection] = None
        self._idle[connection] = self._clock()
        if len(self._idle) > self._kept_open:
            self.discard(next(iter(self._idle)))

    def watch(self, connection: Connection, events: int, waiter: Any) -> None:
        """Let these events resume `waiter`."""
        connection.waiter = waiter
        if connection.events != events:
            connection.events = events
            self.selector.modify(connection.sock, events, connection)

    def look(self, connection: Connection) -> None:
        """An idle connection became readable: it was closed or is out of step, unless only TLS had something to say."""
        if connection in self._idle:  # else it was discarded a moment ago
            try:
                connection.sock.recv(1)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                pass
            self.discard(connection)

    def discard(self, connection: Connection) -> None:
        """Close a connection, whatever its state."""
        if connection in self._idle:
            self._forget_idle(connection)
        self._opening.pop(connection, None)
        connection.waiter = None
        self.selector.unregister(connection.sock)
        connection.sock.close()

    def close_idle(self, seconds: float = IDLE_SECONDS) -> float:
        """Close what has been idle for so long. Returns when there will be something to close; infinity for never."""
        while self._idle:
            oldest, since = next(iter(self._idle.items()))
            if since + seconds > self._clock():
                return since + seconds
            self.discard(oldest)
        return math.inf

    def next_address(self) -> float:
        """The time when an address has had its share of the time; infinity for never."""
        return min(self._opening.values(), default=math.inf)

    def out_of_patience(self, now: float) -> list[Any]:
        """The waiters into which NextAddress is to be thrown: their address has had its share of the time."""
        return [connection.waiter for connection, until in self._opening.items() if until <= now]

    # Opening

    def connect(self, origin: Origin, deadline: float) -> Generator[Wait, None, Connection]:
        """A new connection to one of the addresses of `origin`, all of which the guard has judged. OSError, Failed."""
        addresses = yield from self._addresses(origin)
        while True:
            address = addresses.pop(0)
            until = (self._clock() + deadline) / 2 if addresses else math.inf
            try:
                return (yield from self._open(origin, address, until))
            except OSError as error:
                judged = isinstance(error, ssl.SSLCertVerificationError)  # another address has the same certificate
                if not addresses or judged or self._clock() >= deadline:
                    raise

    def _addresses(self, origin: Origin) -> Generator[Wait, None, list[Address]]:
        address = literal(origin.host.rstrip("."))
        if address is not None:
            found: list[Address] = [(FAMILIES[address.version], (str(address), origin.port))]
        else:
            future = self.resolver.look_up(origin.host)
            if not future.done():
                yield future
            found = [(family, (host, origin.port, *more)) for family, (host, _, *more) in future.result()]
            if spelled(origin.host) == "loopback":  # Windows takes 2 s to find that nobody listens on ::1
                found.sort(key=lambda target: target[0] != socket.AF_INET)
        for _, (host, *_more) in found:
            if self._guard and (reason := self._guard.refuse_address(origin.host, host)):
                raise Failed(f"not connected: {reason}")
        return found

    def _open(self, origin: Origin, address: Address, until: float) -> Generator[Wait, None, Connection]:
        connection = Connection(origin, socket.socket(address[0], socket.SOCK_STREAM))
        connection.sock.setblocking(False)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(connection.sock, WRITE, connection)
        if until < math.inf:
            self._opening[connection] = until
        try:
            try:
                connection.sock.connect(address[1])
            except BlockingIOError:
                yield connection, WRITE
                if problem := connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(problem, os.strerror(problem)) from None
            if origin.scheme == "https":
                yield from self._start_tls(connection)
        except BaseException:
            self.discard(connection)
            raise
        self._opening.pop(connection, None)
        return connection

    def _start_tls(self, connection: Connection) -> Generator[Wait, None, None]:
        host = connection.origin.host.rstrip(".")  # a certificate has names without the root's dot
        connection.sock = tls_context().wrap_socket(
            connection.sock,
            server_hostname=str(literal(host) or host),
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # else a connection that was cut looks like one that was closed
        )
        while True:
            try:
                return connection.sock.do_handshake()
            except ssl.SSLWantReadError:
                yield connection, READ
            except ssl.SSLWantWriteError:
                yield connection, WRITE


@functools.cache  # reading all certificates takes a moment
def tls_context() -> ssl.SSLContext:
    """With Python's defaults, those of 3.13 for certificates also on an older one."""
    context = ssl.create_default_context()
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    return context


class Resolver:
    """Resolves names in threads, as nothing can interrupt getaddrinfo. For all senders.

    Names that were resolved promptly last time, names that were not, and new ones have threads of their own: names that
    hang keep no other name from its thread. A look-up that hangs would hold up an exit: terminal.run does not wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the next two
        self._pending: dict[str, Future[list[Address]]] = {}  # the look-ups under way
        self._kinds: dict[str, str] = {}  # of names, "new" for any other
        self._executors = {kind: ThreadPoolExecutor(count, f"resolve {kind}") for kind, count in RESOLVERS.items()}

    def look_up(self, host: str) -> Future[list[Address]]:
        """The addresses of a name, port 0. One look-up at a time for a name: all who ask meanwhile share it."""
        with self._lock:
            if host not in self._pending:
                executor = self._executors[self._kinds.get(host, "new")]
                self._pending[host] = executor.submit(self._resolve, host)
            return self._pending[host]

    def _resolve(self, host: str) -> list[Address]:
        began = monotonic()
        try:
            found = socket.getaddrinfo(host, 0, 0, socket.SOCK_STREAM)
            return [(family, address) for family, _, _, _, address in found]
        finally:
            with self._lock:
                del self._pending[host]
                if len(self._kinds) >= REMEMBERED:
                    self._kinds.clear()
                self._kinds[host] = "prompt" if monotonic() - began < PROMPT else "slow"

    def close(self) -> None:
        """Resolve no more; what hangs is left behind."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)
