"""HTTP as a server, for both servers: connections, threads and routes, on http.server.

    server = Server(("127.0.0.1", 3000), {"/health": {"GET": lambda request: Answer(200, {"status": "ok"})}})
    server.run()

A connection gets a thread. On it a request is read (wire.py) with one deadline for all of it, finds its handler in
the table of routes, and the `Answer` (or the `Problem` that was raised) goes out as one write. http.server brings the
connections, the threads and the order of events; what it lacks are limits: it waits for ever, for anybody.

Left out on purpose: TLS, which is a tunnel's or a proxy's job.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from terminal import Printer, printable
from wire import Answer, Problem, Request, RequestReader, answer_head, problem_answer

MAX_CONNECTIONS = 128  # each is a thread: about 60 KiB
MAX_REQUESTS = 10_000  # on one connection, so that none is for ever
IDLE_SECONDS = 12.0  # for the first byte of a request
REQUEST_SECONDS = 12.0  # for a whole request, from its first byte: with the idle time, under 30 s in all
SEND_SECONDS = 12.0  # for a client to take our answer; all three the same, so that they are seldom set
LINGER_SECONDS, LINGER_BYTES = 1.0, 262_144  # what we still read from a client whom we refuse: see `_linger`

Handler = Callable[[Request], Answer]
Routes = Mapping[str, Mapping[str, Handler]]  # path, method, handler; {id} in a path takes one segment


# --- one connection ------------------------------------------------------------------------------------------


class _Socket(io.RawIOBase):
    """The connection as a file with one deadline for many reads.

    The socket's own timeout starts anew at each read: a client that drips a byte a second would never meet it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.deadline, self._timeout = sock, 0.0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.set_timeout(left)
        return self.sock.recv_into(buffer)

    def set_timeout(self, seconds: float) -> None:
        """Set the socket's timeout, unless it is right within a tenth: each change costs a system call."""
        if not 0.9 * seconds <= self._timeout <= 1.1 * seconds:
            self._timeout = seconds
            self.sock.settimeout(seconds)


class _Handler(BaseHTTPRequestHandler):
    """One connection: requests are read and answered until one side has had enough."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body as two writes cost 40 ms (delayed ACK, cpython#108736)

    def setup(self) -> None:
        super().setup()
        self._socket = _Socket(self.connection)
        self._stream = io.BufferedReader(self._socket, 65_536)  # instead of rfile, whose timeout is per read
        self._requests = RequestReader(self._stream, self.server.transcript is not None, self._send_continue)
        self._served = 0

    def handle_one_request(self) -> None:
        """Read a request, answer it. Everything that can go wrong on the way becomes an answer or an end."""
        self.close_connection = True
        self._requests.begin()
        try:
            if not self._await_request():
                return
            request = self._requests.read(self.client_address[0])
            self._served += 1
            self.close_connection = self._requests.must_close or self._served >= MAX_REQUESTS
            self.server.busy(self.connection)
            answer = self.server.dispatch(request)
        except Problem as problem:
            answer = problem_answer(problem)
        except TimeoutError:
            late = f"the whole request did not arrive within {REQUEST_SECONDS:.0f} s"
            answer = problem_answer(Problem(408, late))
        except EOFError:
            return  # hung up in the middle of a request: nobody is there to be answered
        sent = False
        try:
            self._answer(answer)
            sent = True
        finally:
            if answer.release:
                answer.release(sent)
        if self.close_connection and not answer.raw:
            self._linger()

    def _await_request(self) -> bool:
        """Wait for a request's first byte; False when none comes. Sets the deadline for the rest of it."""
        self.server.waiting(self.connection, idle=True)
        if self.server.stopping:
            return False
        self._socket.deadline = time.monotonic() + IDLE_SECONDS
        try:
            first = self._stream.peek(1)[:1]
        except TimeoutError:
            return False
        self._socket.deadline = time.monotonic() + REQUEST_SECONDS
        if first and not (first.isalpha() or first in b"\r\n"):
            raise Problem(400, "that is not plain HTTP; is the client speaking https?")
        return bool(first)

    def _answer(self, answer: Answer) -> None:
        if answer.raw:
            self.close_connection = True
            answer.raw(self.connection)
            return
        self.close_connection = self.close_connection or self.server.stopping or answer.stream is not None
        if self.close_connection:
            answer.headers["Connection"] = "close"
        body = answer.encoded()
        data = answer_head(answer, body) + (b"" if self._requests.method == "HEAD" else body)
        self._show(data)
        self.server.waiting(self.connection, idle=False)  # for the client to take it
        self._write(data)
        if answer.stream and self._requests.method != "HEAD":
            self.server.busy(self.connection)
            answer.stream(self._write)
        if answer.then:
            answer.then()

    def _send_continue(self) -> None:
        self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _write(self, data: bytes) -> None:
        self._socket.set_timeout(SEND_SECONDS)
        self.connection.sendall(data)

    def _linger(self) -> None:
        """Read on a little before closing (RFC 9112, 9.6).

        Closing a socket with unread bytes resets the connection, and the reset can overtake our answer.
        """
        self.connection.shutdown(socket.SHUT_WR)
        self._socket.deadline = time.monotonic() + LINGER_SECONDS
        left = LINGER_BYTES
        while left > 0 and (data := self._stream.read1(65_536)):
            left -= len(data)

    def _show(self, data: bytes) -> None:
        if self.server.transcript:
            title = f"--- {self.client_address[0]} port {self.client_address[1]} called"
            asked = ("< ", bytes(self._requests.tape), self._requests.size)
            self.server.transcript.show(title, asked, ("> ", data, None))

    def finish(self) -> None:
        super().finish()
        self._stream.close()


# --- all connections -----------------------------------------------------------------------------------------


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """A thread for each connection, MAX_CONNECTIONS at most.

    When all are taken, the connection that has waited longest for its request makes room for the new one: a
    client that opens connections and says nothing cannot keep others out. `transcript` prints every exchange.
    """

    daemon_threads = True
    request_queue_size = 1_024  # http.server's 5 makes a burst of clients wait a second for their SYN
    allow_reuse_address = os.name != "nt"  # there it would let two servers share the port

    def __init__(self, address: tuple[str, int], routes: Routes, transcript: Printer | None = None) -> None:
        self.transcript = transcript
        self.stopping = False  # set it to end serve_forever
        self._routes = {path: _with_head(methods) for path, methods in routes.items() if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"\{\w+\}", "([^/]+)", path)), _with_head(methods))
            for path, methods in routes.items()
            if "{" in path
        ]
        self._lock = threading.Lock()  # guards the two below
        self._open: set[socket.socket] = set()
        self._waiting: dict[socket.socket, bool] = {}  # those whose client has to do something, longest first
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

    def dispatch(self, request: Request) -> Answer:
        """Find the handler for the request and call it. Every failure is an Answer or a Problem."""
        methods, parameters = self._match(request)
        allow = ", ".join(methods)
        if request.method == "OPTIONS":
            return Answer(204, headers={"Allow": allow})
        handler = methods.get(request.method)
        if handler is None:
            raise Problem(405, f"{request.path} takes {allow}, not {request.method}", {"Allow": allow})
        try:
            answer = handler(request._replace(parameters=parameters) if parameters else request)
            answer.body = answer.encoded()  # here, so that what cannot be JSON is caught as well
            return answer
        except Problem:
            raise
        except Exception as error:  # a bug: the client learns that it is ours, the terminal what it was
            _report(error, f"answering {request.method} {request.path}")
            raise Problem(500, "an error on our side; the terminal of the server says more") from error

    def _match(self, request: Request) -> tuple[dict[str, Handler], tuple[str, ...]]:
        """The methods that the request's path takes, and what stands for {…} in its route."""
        if request.path in self._routes:
            return self._routes[request.path], ()
        for pattern, methods in self._patterns:
            match = pattern.fullmatch(request.path)
            if match:
                return methods, match.groups()
        if request.target == "*":
            return {"OPTIONS": lambda request: Answer(204)}, ()
        known = ", ".join([*self._routes, *(p.pattern.replace("([^/]+)", "{id}") for p, _ in self._patterns)])
        raise Problem(404, f"there is no {request.path} here; known are {known}")

    # Connections

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called by serve_forever for each new connection."""
        with self._lock:
            full = len(self._open) >= MAX_CONNECTIONS
            oldest = next(iter(self._waiting), None) if full else None
            if oldest is not None:
                del self._waiting[oldest]
                self._open.discard(oldest)  # its thread ends in a moment; the place is free now
            if not full or oldest is not None:
                self._open.add(request)
        if oldest is not None:
            _hang_up(oldest)
        if full and oldest is None:
            self._turn_away(request)
        else:
            super().process_request(request, client_address)

    def _turn_away(self, request: socket.socket) -> None:
        answer = problem_answer(Problem(503, f"all {MAX_CONNECTIONS} connections are busy", {"Retry-After": "1"}))
        answer.headers["Connection"] = "close"
        request.settimeout(0)
        try:
            request.sendall(answer_head(answer, answer.encoded()) + answer.encoded())
        except OSError:
            pass
        self.shutdown_request(request)

    def waiting(self, connection: socket.socket, idle: bool) -> None:
        """This connection waits for its client: it may be closed to make room. `idle`: for a request, or its rest."""
        with self._lock:
            self._waiting.pop(connection, None)
            if connection in self._open:
                self._waiting[connection] = idle

    def busy(self, connection: socket.socket) -> None:
        """This connection has a request in work."""
        with self._lock:
            self._waiting.pop(connection, None)

    def shutdown_request(self, request: Any) -> None:
        """Called when a connection has ended, for whatever reason."""
        with self._lock:
            self._open.discard(request)
            self._waiting.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is everyday life and no error; anything else is ours: one line."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, (OSError, EOFError)):
            _report(error, f"on the connection of {client_address[0]}")

    def service_actions(self) -> None:
        """Called by serve_forever ten times a second."""
        if self.stopping:
            raise Stopped

    def run(self) -> None:
        """Serve until `stopping` is set (a signal handler may do that), then close all connections."""
        try:
            self.serve_forever(poll_interval=0.1)
        except Stopped:
            pass
        finally:
            self.server_close()
            with self._lock:
                connections = [connection for connection, idle in self._waiting.items() if idle]
            for connection in connections:
                _hang_up(connection)


class Stopped(Exception):
    """Ends serve_forever."""


def stop_on_signals(server: Server) -> None:
    """Let Ctrl-C and SIGTERM end `server.run()`."""

    def stop(number: int, frame: object) -> None:
        server.stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _with_head(methods: Mapping[str, Handler]) -> dict[str, Handler]:
    """A route's methods; HEAD comes with GET (RFC 9110, 9.3.2), and `_answer` leaves its body out."""
    return {**methods, "HEAD": methods["GET"]} if "GET" in methods else dict(methods)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it, which then closes it
    except OSError:
        pass


def _report(error: BaseException, where: str) -> None:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
    print(printable(f"error {where}: {error!r} at {place}"), file=sys.stderr)
