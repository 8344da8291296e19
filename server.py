"""HTTP as a server, for both servers: connections, threads and routes, on http.server.

    server = Server(("127.0.0.1", 3000), {"/health": {"GET": lambda request: Answer(200, {"status": "ok"})}})
    server.run()

A connection gets a thread. On it a request is read (wire.py) with one deadline for all of it, finds its handler in
the table of routes, and the `Answer` (or the `Problem` that was raised) goes out as one write. http.server brings the
connections and the threads, and no limits: it waits for any client for ever.

Left out on purpose: TLS, which is a tunnel's or a proxy's job.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import os
import re
import signal
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from terminal import Printer, printable
from wire import TOKEN, Answer, Problem, Request, RequestReader

MAX_CONNECTIONS = 128  # each is a thread: about 60 KiB
CLIENT_SECONDS = 12.0  # for the first byte of a request, for all of it, and for a client to take our answer
LINGER_SECONDS, LINGER_BYTES = 1.0, 262_144  # for what a client still sends when we close: see `_linger`
ACCEPT_PAUSE = 0.05  # seconds without accepting when there is no file descriptor for a connection
FIRST_BYTE = re.compile(rb"[\r\n]|" + TOKEN)

Handler = Callable[[Request], Answer]
Routes = Mapping[str, Mapping[str, "Handler | None"]]  # path, method, handler; {id} in a path takes one segment


class _Socket(io.RawIOBase):
    """The connection as a file with one deadline for all reads: a socket's own timeout starts anew at each of them."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.deadline = sock, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        return self.sock.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One connection: requests are read and answered until either side closes."""

    server: Server
    disable_nagle_algorithm = True  # else each piece of a stream may wait 40 ms (delayed ACK, cpython#108736)

    def setup(self) -> None:
        super().setup()
        self._socket = _Socket(self.connection)
        self._stream = io.BufferedReader(self._socket, 65_536)  # instead of rfile, whose timeout is per read
        go_on = lambda: self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._requests = RequestReader(self._stream, self.server.transcript is not None, go_on)

    def handle_one_request(self) -> None:
        """Read a request and answer it; called until `close_connection` is True."""
        self.close_connection = True
        if not (answer := self._next_answer()):
            return
        sent = False
        try:
            self._send(answer)
            sent = True
        finally:
            answer.end(sent)
        if self.close_connection and not answer.takeover:
            self._linger()

    def _next_answer(self) -> Answer | None:
        """The answer to the next request; None when none comes. Any failure becomes an answer."""
        self._requests.begin()
        self.server.track(self.connection, waiting=True)
        self._socket.deadline = time.monotonic() + CLIENT_SECONDS
        first = b""
        try:
            if self.server.stopping or not (first := self._stream.peek(1)[:1]):
                return None
            if not FIRST_BYTE.match(first):
                raise Problem(400, "that is not plain HTTP; is the client speaking https?")
            self._socket.deadline = time.monotonic() + CLIENT_SECONDS
            request = self._requests.read(self.client_address[0])
            self.close_connection = self._requests.must_close
            self.server.track(self.connection, waiting=False)
            return self.server.dispatch(request)
        except Problem as problem:
            self.close_connection = self.close_connection or problem.status == 411  # a body may follow nevertheless
            return problem.answer()
        except TimeoutError:
            return Problem(408, f"the whole request took over {CLIENT_SECONDS:.0f} s").answer() if first else None
        except EOFError:
            return None  # the client hung up in the middle of a request: no one reads an answer

    def _send(self, answer: Answer) -> None:
        if answer.takeover:
            self.close_connection = True
            return answer.takeover(self.connection)
        self.close_connection = self.close_connection or self.server.stopping or answer.stream is not None
        if self.close_connection:
            answer.headers["Connection"] = "close"
        head_only = self._requests.method == "HEAD"
        data = answer.encoded(head_only)
        if self.server.transcript:
            title = f"--- {self.client_address[0]} port {self.client_address[1]} called"
            asked = ("< ", bytes(self._requests.received), self._requests.size)
            self.server.transcript.show(title, asked, ("> ", data, None))
        self.server.track(self.connection, waiting=True)  # for the client to take it
        self._write(data)
        if answer.stream and not head_only:
            self.server.track(self.connection, waiting=False)
            for piece in answer.stream:
                self._write(piece)

    def _write(self, data: bytes) -> None:
        self.connection.settimeout(CLIENT_SECONDS)
        self.connection.sendall(data)

    def _linger(self) -> None:
        """Read on before closing: unread bytes reset the connection, which can overtake our answer (RFC 9112, 9.6)."""
        self.connection.shutdown(socket.SHUT_WR)
        self._socket.deadline = time.monotonic() + LINGER_SECONDS
        left = LINGER_BYTES
        while left > 0 and (data := self._stream.read1(65_536)):
            left -= len(data)


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """A thread for each connection, MAX_CONNECTIONS at most. `transcript` prints every exchange.

    When all are taken, or all file descriptors, the connection that has waited longest for its client makes room for
    the new one: a client that opens connections and says nothing cannot keep others out.
    """

    daemon_threads = True
    timeout = 0.1  # seconds between two looks at `stopping`
    request_queue_size = 1_024  # http.server's 5 makes a burst of clients wait a second for their SYN
    allow_reuse_address = os.name != "nt"  # there it would let two servers share the port

    def __init__(self, address: tuple[str, int], routes: Routes, transcript: Printer | None = None) -> None:
        self.transcript, self.stopping = transcript, False
        self.set_routes(routes)
        self._lock = threading.Lock()  # guards the next two, and every shutdown: a closed descriptor may be reused
        self._open: set[socket.socket] = set()
        self._waiting: dict[socket.socket, None] = {}  # those that wait for their client, longest first
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
            raise OSError(f"{address[0]} port {address[1]}: {error.strerror or error}; name another {other}") from None
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def server_bind(self) -> None:
        """Bind, without the getfqdn of HTTPServer, which can take seconds."""
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def set_routes(self, routes: Routes) -> None:
        """To be called before `run` by a program that binds its port before it has what the handlers need."""
        self._known = ", ".join(routes)
        self._routes = [  # a path without {…} goes before one with it
            (re.compile(re.sub(r"\{\w+\}", "([^/]+)", path)), _with_head(routes[path]))
            for path in sorted(routes, key=lambda path: "{" in path)
        ]

    def dispatch(self, request: Request) -> Answer:
        """Find the handler for the request and call it. Every failure is a Problem."""
        if (request.method, request.target) == ("OPTIONS", "*"):
            return Answer(204, headers={"Allow": "OPTIONS"})
        for pattern, methods in self._routes:
            if match := pattern.fullmatch(request.path):
                break
        else:
            raise Problem(404, f"there is no {request.path} here; known are {self._known}")
        allow = ", ".join(methods)
        if request.method == "OPTIONS":
            return Answer(204, headers={"Allow": allow})
        if request.method not in methods:
            raise Problem(405, f"{request.path} takes {allow}, not {request.method}", {"Allow": allow})
        try:
            return methods[request.method](request._replace(parameters=match.groups()) if match.groups() else request)
        except Problem:
            raise
        except Exception as error:  # a bug: the client learns that it is ours, the terminal what it was
            _report(error, f"answering {request.method} {request.path}")
            raise Problem(500, "an error on our side; the terminal of the server says more") from error

    def get_request(self) -> Any:
        """Accept a connection. While there is no file descriptor for it, it stays in the system's queue."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):  # no descriptor is free
                with self._lock:
                    self._make_room()
                time.sleep(ACCEPT_PAUSE)  # until that one is closed; to try again at once would take a whole core
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called for each new connection: give it a thread, or turn it away."""
        with self._lock:
            accepted = len(self._open) < MAX_CONNECTIONS or self._make_room()
            if accepted:
                self._open.add(request)
        if accepted:
            return super().process_request(request, client_address)
        problem = Problem(503, "all connections are busy", {"Retry-After": "1", "Connection": "close"})
        request.settimeout(0)
        with contextlib.suppress(OSError):
            request.sendall(problem.answer().encoded())
        self.shutdown_request(request)

    def _make_room(self) -> bool:
        """Hang up on the client that has kept us waiting longest. The lock is held."""
        oldest = next(iter(self._waiting), None)
        if oldest is not None:
            del self._waiting[oldest]
            self._open.discard(oldest)  # its thread ends in a moment
            _shut_down(oldest, socket.SHUT_RDWR)
        return oldest is not None

    def track(self, connection: socket.socket, waiting: bool) -> None:
        """Whether this connection waits for its client from now on, and may be closed to make room."""
        with self._lock:
            self._waiting.pop(connection, None)
            if waiting and connection in self._open:
                self._waiting[connection] = None

    def shutdown_request(self, request: Any) -> None:
        """Called when a connection has ended, for whatever reason."""
        with self._lock:
            self._open.discard(request)
            self._waiting.pop(request, None)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of ours. Any other exception is reported in one line."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, (OSError, EOFError)):
            _report(error, f"on the connection of {client_address[0]}")

    def run(self) -> None:
        """Serve until `stopping` is set (a signal handler may do that), then close all connections."""
        try:
            while not self.stopping:
                self.handle_request()
        finally:
            self.server_close()
            with self._lock:
                for connection in self._waiting:
                    _shut_down(connection, socket.SHUT_RD)  # an answer on its way still arrives


def stop_on_signals(server: Server) -> None:
    """Let Ctrl-C and SIGTERM end `server.run()`; a second one is a KeyboardInterrupt."""

    def stop(number: int, frame: object) -> None:
        if server.stopping:
            raise KeyboardInterrupt
        server.stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def stay_on_one_core() -> None:
    """Keep all threads on one core, where the system can do that and one thread of Python runs at a time anyway.

    To wake the next one on another core costs an interrupt: accepting events is 1.8 times faster without. The last core,
    because the first has the system's own work: a registration took 0.1 ms longer there. The price: TLS has no core to
    itself. SCHED_BATCH would be 5 % faster alone on a machine, and 3 to 25 times slower beside programs that compute.
    """
    if sys.platform == "linux" and getattr(sys, "_is_gil_enabled", lambda: True)():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def page(path: Path) -> Answer:
    """An HTML page, with a policy under which nothing runs but its own script, and nothing is fetched from elsewhere.

    A browser hashes what it has parsed, in which every line ends with LF, whatever the file has.
    """
    html = path.read_bytes().replace(b"\r\n", b"\n")

    def source(tag: bytes) -> str:
        inside = html.partition(b"<%b>" % tag)[2].partition(b"</%b>" % tag)[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"

    policy = (
        f"default-src 'none'; connect-src 'self'; script-src {source(b'script')}; style-src {source(b'style')}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Answer(200, html, headers, "text/html; charset=utf-8")


def _with_head(methods: Mapping[str, Handler | None]) -> dict[str, Handler]:
    """A route's methods. HEAD comes with GET (RFC 9110, 9.3.2), unless it is None there: a GET that has effects."""
    with_head = {**methods, "HEAD": methods.get("HEAD", methods["GET"])} if "GET" in methods else methods
    return {method: handler for method, handler in with_head.items() if handler}


def _shut_down(connection: socket.socket, how: int) -> None:
    """Wake the thread that reads from this connection: it then closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(how)


def _report(error: BaseException, where: str) -> None:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    print(printable(f"error {where}: {error!r} at {os.path.basename(frame.filename)}:{frame.lineno}"), file=sys.stderr)
