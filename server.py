"""HTTP as a server, for both servers: connections, threads and routes, on http.server.

    server = Server(("127.0.0.1", 3000), {"/health": {"GET": lambda request: Answer(200, {"status": "ok"})}})
    server.run()

A connection gets a thread. On it a request is read (wire.py), finds its handler in the table of routes, and the
`Answer` (or the `Problem` that was raised) goes out as one write, a stream in pieces. http.server brings the loop over
requests; the limits are ours. Left out on purpose: TLS, which is a tunnel's or a proxy's job.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import math
import os
import re
import secrets
import signal
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from terminal import brief
from wire import Answer, Problem, Request, RequestReader

MAX_CONNECTIONS = 128  # each is a thread: about 60 KiB
CLIENT_SECONDS = 12.0  # for the first byte of a request, for all of it, and for a client to take our answer
LINGER_SECONDS = 1.0  # for what a client still sends when we close (RFC 9112, 9.6)
HAS_LOCK = getattr(sys, "_is_gil_enabled", lambda: True)()  # one thread of Python runs at a time
ACCEPT_PAUSE = 0.05  # seconds without accepting when there is no file descriptor for a connection

AROUND_PATH = re.compile(r"^\w+://[^/?]*|\?.*")  # of a request target: these may have credentials

Handler = Callable[[Request], Answer]
Refusals = Mapping[type[BaseException], int]  # exceptions whose text says why something is refused, and their status
Routes = Mapping[str, Mapping[str, "Handler | None"]]  # path, method, handler; {id} in a path takes one segment


class _Connection(socket.socket):
    """A connection with one deadline for all reads: a socket's own timeout starts anew at each of them."""

    deadline = math.inf  # until when we wait for the client; inf while we do not. Only the own thread sets it

    def recv_into(self, *arguments: Any) -> int:
        try:
            if (left := self.deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self.settimeout(left)
            return super().recv_into(*arguments)
        except TimeoutError:
            raise Problem(408, f"the whole request took over {CLIENT_SECONDS:.0f} s") from None

    def wake(self, how: int) -> None:
        """Shut the connection down, so that its thread reads no more and closes it."""
        with contextlib.suppress(OSError):
            self.shutdown(how)


class _Handler(BaseHTTPRequestHandler):
    """One connection: requests are read and answered until either side closes."""

    server: Server
    connection: _Connection
    rfile: io.BufferedReader
    rbufsize = 65_536
    disable_nagle_algorithm = True  # else each piece of a stream may wait 40 ms (delayed ACK, cpython#108736)

    def setup(self) -> None:
        super().setup()
        self._requests = RequestReader(self.rfile, self.connection.sendall)

    def handle_one_request(self) -> None:
        """Read a request and answer it; called until `close_connection` is True."""
        self.close_connection = True
        self.connection.deadline = time.monotonic() + CLIENT_SECONDS
        if self.server.stopping or not self.rfile.peek(1):
            return
        self.connection.deadline = time.monotonic() + CLIENT_SECONDS
        with self._answer() as answer:
            self._send(answer)
        if self.close_connection and not answer.takeover:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.deadline = time.monotonic() + LINGER_SECONDS
            while self.rfile.read1(65_536):  # unread bytes reset the connection, which can overtake our answer
                pass

    def _answer(self) -> Answer:
        """The answer to the next request. EOFError when the client hangs up in its middle: no answer would be read."""
        try:
            try:
                request = self._requests.read(self.client_address[0])
            finally:  # before it is handled, so that what it causes stands below it
                self._show("asks", "< ", self._requests.received, self._requests.size)
            self.close_connection = request.is_last()
            self.connection.deadline = math.inf
            return self.server.dispatch(request)
        except Problem as problem:
            self.close_connection |= problem.status == 411  # a body may follow nevertheless
            path = AROUND_PATH.sub("", self._requests.target)
            self.server.tell(f"{self._requests.method} {path}" if path else "a request", problem)
            return problem.answer()

    def _show(self, what: str, mark: str, data: bytes | bytearray, size: int | None = None) -> None:
        if self.server.show:
            host, port = self.client_address[:2]
            self.server.show(f"--- {host} port {port} {what}", (mark, bytes(data), size))

    def _send(self, answer: Answer) -> None:
        if answer.takeover:
            self.close_connection = True
            return answer.takeover(self.connection)
        self.close_connection |= self.server.stopping or answer.stream is not None
        data = answer.encoded(self._requests.method == "HEAD", self.close_connection)
        self._show("is answered", "> ", data)
        self.connection.deadline = time.monotonic() + CLIENT_SECONDS
        self.connection.settimeout(CLIENT_SECONDS)
        self.connection.sendall(data)
        if answer.stream and self._requests.method != "HEAD":
            self.connection.deadline = math.inf
            for piece in answer.stream:
                self.connection.sendall(piece)


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection, MAX_CONNECTIONS at most.

    `show` prints the bytes of all requests and answers, as Printer.show does; `log` prints a line for each Problem, and
    its notes. An exception of a handler that is neither a Problem nor among the `refusals` is a bug, and answers 500.

    When all are taken, or all file descriptors, the connection that has waited longest for its client makes room for
    the new one: a client that opens connections and says nothing cannot keep others out.
    """

    daemon_threads = True
    timeout = 0.1  # seconds between two looks at `stopping`
    request_queue_size = 1_024  # http.server's 5 makes a burst of clients wait a second for their SYN
    allow_reuse_address = os.name != "nt"  # there it would let two servers share the port

    def __init__(
        self,
        address: tuple[str, int],
        routes: Routes,
        show: Callable[..., None] | None = None,
        log: Callable[..., None] = lambda *lines: None,
        refusals: Refusals = {},
    ) -> None:
        self.show, self.log, self.stopping = show, log, False
        self._refusals = refusals
        self.set_routes(routes)
        self._lock = threading.Lock()  # guards the next one, and every shutdown: a closed descriptor may be reused
        self._open: set[_Connection] = set()
        host, port = address
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            other = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
            raise OSError(f"{host} port {port}: {error.strerror or error}; name another {other}") from None
        self.server_port = self.socket.getsockname()[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        self.url = f"http://{host}:{self.server_port}"
        self.everywhere = " and all addresses of this machine" * (address[0] in ("0.0.0.0", "::"))  # for people

    def server_bind(self) -> None:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        super().server_bind()

    def set_routes(self, routes: Routes) -> None:
        """To be called before `run` by a program that binds its port before it has what the handlers need.

        The first path that matches counts. HEAD comes with GET (RFC 9110, 9.3.2), unless it is None: GET has effects.
        """
        self._routes: dict[str, tuple[re.Pattern[str], dict[str, Handler]]] = {}
        for path, methods in routes.items():
            with_head = {**methods, "HEAD": methods.get("HEAD", methods.get("GET"))}
            known = {method: handler for method, handler in with_head.items() if handler}
            self._routes[path] = re.compile(re.sub(r"\{\w+\}", "([^/]+)", path)), known

    def dispatch(self, request: Request) -> Answer:
        """Find the handler for the request and call it. Every failure is a Problem."""
        if (request.method, request.target) == ("OPTIONS", "*"):
            return Answer(204, headers={"Allow": "OPTIONS"})
        for pattern, methods in self._routes.values():
            if match := pattern.fullmatch(request.path):
                break
        else:
            takers = self._takers(request.method)
            known = difflib.get_close_matches(request.path[:100], takers, 1) or takers or list(self._routes)
            raise Problem(404, f"there is no {request.path} here, expected {', '.join(known)}")
        allow = {"Allow": ", ".join(methods)}
        if request.method == "OPTIONS":
            return Answer(204, headers=allow)
        if request.method not in methods:
            takers = self._takers(request.method)
            hint = f"; expected {request.method} {takers[0]}" if len(takers) == 1 else ""
            raise Problem(405, f"{request.path} takes {allow['Allow']}, not {request.method}{hint}", allow)
        try:
            return methods[request.method](request._replace(parameters=match.groups()) if match.groups() else request)
        except Problem:
            raise  # as its own cause it would keep the request in memory until the next search for cycles
        except BaseException as error:  # also what asyncio and sys.exit raise
            raise as_problem(error, self._refusals) from error

    def tell(self, what: str, problem: Problem) -> None:
        """Tell the terminal what a request that failed is answered, and why."""
        notes = [f"  {note}" for note in problem.notes]
        detail = problem.detail.partition(";")[0] if notes else problem.detail  # after it: that the terminal says why
        self.log(f"{brief(what)}: {problem.status}, {brief(detail)}", *notes)

    def _takers(self, method: str) -> list[str]:
        """The paths that take a method."""
        return [path for path, (_, methods) in self._routes.items() if method in methods]

    def get_request(self) -> Any:
        """Accept a connection. While there is no file descriptor for it, it stays in the system's queue."""
        try:
            accepted, address = super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):  # no descriptor is free
                with self._lock:
                    self._make_room()
                time.sleep(ACCEPT_PAUSE)  # until that one is closed; to try again at once would take a whole core
            raise
        return _Connection(accepted.family, accepted.type, accepted.proto, accepted.detach()), address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called for each new connection: give it a thread, or turn it away."""
        with self._lock:
            busy = len(self._open) >= MAX_CONNECTIONS and not self._make_room()
            self._open.add(request)
        if not busy:
            return super().process_request(request, client_address)
        request.settimeout(0)
        problem = Problem(503, "all connections are busy", {"Retry-After": "1"})
        self.tell("a connection", problem)
        with contextlib.suppress(OSError):
            request.sendall(problem.answer().encoded(close=True))
        self.shutdown_request(request)

    def _make_room(self) -> bool:
        """Hang up on the client whose deadline is nearest. The lock is held."""
        oldest = min(self._open, key=lambda connection: connection.deadline, default=None)
        if oldest is None or oldest.deadline == math.inf:
            return False
        self._open.discard(oldest)  # its thread ends in a moment
        oldest.wake(socket.SHUT_RDWR)
        return True

    def shutdown_request(self, request: Any) -> None:
        """Called when a connection has ended, for whatever reason."""
        with self._lock:
            self._open.discard(request)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or says nothing is no error of ours. Any other exception is told to the terminal."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, (OSError, EOFError, Problem)):
            self.tell("a connection", as_problem(error))

    def stop(self) -> None:
        """End `run`; a signal handler may call this."""
        self.stopping = True
        with contextlib.suppress(OSError):  # on Linux this wakes `run`; elsewhere it soon looks at `stopping` by itself
            self.socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until `stop`, then close the connections that wait."""
        try:
            while not self.stopping:
                self.handle_request()
        finally:
            self.server_close()
            with self._lock:
                for connection in self._open:
                    if connection.deadline < math.inf:
                        connection.wake(socket.SHUT_RD)  # an answer on its way still arrives


def as_problem(error: BaseException, refusals: Refusals = {}) -> Problem:
    """What a handler raised; when it is a bug, the client learns that it is ours, and the terminal what it was."""
    if isinstance(error, Problem):
        return error
    if status := refusals.get(type(error)):
        return Problem(status, str(error), {"Retry-After": "5"} if status == 503 else None)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    note = f"{error!r} at {os.path.basename(frame.filename)}:{frame.lineno}"
    return Problem(500, "an error on our side; the terminal of the server says more", notes=[note])


def stop_on_signals(server: Server) -> None:
    """Let Ctrl-C and SIGTERM end `server.run()`; a second one is a KeyboardInterrupt."""

    def stop(number: int, frame: object) -> None:
        if server.stopping:
            raise KeyboardInterrupt
        server.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def stay_on_one_core() -> None:
    """Keep all threads on one core, where the system can do that and only one of them runs at a time anyway.

    To wake the next one on another core costs an interrupt: accepting events is 1.8 times faster without that. The last
    core, because the first has the system's own work.
    """
    if sys.platform == "linux" and HAS_LOCK:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def page(path: Path) -> Answer:
    """An HTML page, with a policy under which only its own script and style count, and nothing is fetched elsewhere."""
    nonce = secrets.token_urlsafe(16)
    html = re.sub(b"<(script|style)>", rb'<\1 nonce="%b">' % nonce.encode(), path.read_bytes())
    policy = f"default-src 'none'; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    policy += "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return Answer(200, html, {**headers, "X-Content-Type-Options": "nosniff"}, "text/html; charset=utf-8")
