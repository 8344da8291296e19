"""HTTP/1.1 as a server, on http.server: what both servers know about bytes, and nothing about webhooks.

    server = Server(("127.0.0.1", 3000), {"/health": {"GET": lambda request: Answer(200, {"status": "ok"})}})
    server.serve_forever()

A request comes in as bytes, is read here with limits and one deadline, becomes a `Request`, finds its handler
in the table of routes, and the `Answer` (or the `Problem` that was raised) goes out as one write.
http.server brings the connections, the threads and the order of events; its reading of requests is replaced,
because it accepts what RFC 9112 tells a server to refuse (two lengths, bare LF, folded fields) and because it
waits for ever. Where the RFC leaves a choice, we refuse with 400 and close.

Left out on purpose: TLS (a tunnel's or a proxy's job), compression, ranges, HTTP/2.
"""

from __future__ import annotations

import email.utils
import functools
import http
import io
import json
import os
import re
import signal
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple

import strict_json
from terminal import Printer, printable

MAX_LINE = 8_192  # bytes of a request line or a header field; what most servers allow
MAX_FIELDS = 64  # header fields; a proxy adds a dozen to a client's dozen
MAX_HEAD = 32_768  # bytes of all header fields
MAX_BODY = 1_048_576  # bytes; GitHub's cap is 25 MiB, but ours are a learner's events
MAX_CHUNKS = 16_384  # a body of one-byte chunks costs us far more than its sender
MAX_CONNECTIONS = 128  # each is a thread: about 60 KiB
MAX_REQUESTS = 10_000  # on one connection, so that none is for ever
IDLE_SECONDS = 12.0  # for the first byte of a request
REQUEST_SECONDS = 12.0  # for a whole request, from its first byte: with the idle time, under 30 s in all
SEND_SECONDS = 12.0  # for a client to take our answer; all three the same, so that they are seldom set
LINGER_SECONDS, LINGER_BYTES = 1.0, 262_144  # what we still read from a client whom we refuse: see `_linger`
SEEN = 65_536  # bytes of a request that the transcript keeps

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/(\d)\.(\d)\r\n")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\r\n")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")

PHRASES = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
JSON_TYPE, PROBLEM_TYPE = "application/json", "application/problem+json"
CURL_HINT = "add curl's -H 'Content-Type: application/json'"


class Problem(Exception):
    """An answer that says what was wrong: raised anywhere in a handler, sent as problem+json (RFC 9457).

    `detail` is one sentence: what was wrong, what was expected, what to do. `close` ends the connection.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, close: bool = False) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.close = status, detail, dict(headers or {}), close


class Request(NamedTuple):
    """A request that has been read whole. Field names are in lower case; a repeated field is joined by commas."""

    method: str
    target: str  # as it was sent
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    authority: str  # host and port that the client believes to talk to
    peer: str  # the address of who connected: a tunnel's own end, when there is one
    body: bytes | None  # None: there was none, not even an empty one
    parameters: tuple[str, ...] = ()  # what stands for {…} in the route

    def json(self) -> Any:
        """The body as JSON. Problem 411, 415 or 400 when it is not."""
        if self.body is None:
            raise Problem(411, f"a JSON body is needed: send it with Content-Length, or {CURL_HINT} and -d '{{…}}'")
        kind = self.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != JSON_TYPE:
            raise Problem(415, f"Content-Type is {kind or 'missing'}, expected {JSON_TYPE}: {CURL_HINT}")
        try:
            return strict_json.loads(self.body)
        except ValueError as error:
            raise Problem(400, f"the body is {error}") from None


class Answer:
    """What a handler returns. `body` is JSON unless it is bytes; `then` runs after it has been sent.

    `stream`, when given, gets the connection after the head, as a function that sends bytes, and ends it by
    returning. `raw` instead of anything else gets the connection with nothing sent on it.
    """

    def __init__(
        self,
        status: int = 200,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        type: str = JSON_TYPE,
        then: Callable[[], None] | None = None,
        stream: Callable[[Callable[[bytes], None]], None] | None = None,
        raw: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self.status, self.body, self.headers, self.type = status, body, dict(headers or {}), type
        self.then, self.stream, self.raw = then, stream, raw

    def encoded(self) -> bytes:
        """The body as it is sent."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body or b""
        return _to_json(self.body).encode() + b"\n"


_to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each call
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
        self._reader = io.BufferedReader(self._socket, 65_536)  # instead of rfile, whose timeout is per read
        self._served = 0

    def handle_one_request(self) -> None:
        """Read a request, answer it. Everything that can go wrong on the way becomes an answer or an end."""
        self.close_connection = True
        self._method = ""
        try:
            if not self._await_request():
                return
            request = self._read_request()
            self.server.busy(self.connection)
            answer = self.server.dispatch(request)
        except Problem as problem:
            self.close_connection = self.close_connection or problem.close
            answer = problem_answer(problem)
        except TimeoutError:
            late = f"the whole request did not arrive within {REQUEST_SECONDS:.0f} s"
            answer = problem_answer(Problem(408, late))
        except EOFError:
            return  # hung up in the middle of a request: nobody is there to be answered
        self._answer(answer)
        if self.close_connection and not answer.raw:
            self._linger()

    def _await_request(self) -> bool:
        """Wait for a request's first byte; False when none comes. Sets the deadline for the rest of it."""
        self.server.waiting(self.connection, idle=True)
        if self.server.stopping:
            return False
        self._socket.deadline = time.monotonic() + IDLE_SECONDS
        self._tape = bytearray()  # the bytes of this request as they were read
        try:
            first = self._reader.peek(1)[:1]
        except TimeoutError:
            return False
        self._socket.deadline = time.monotonic() + REQUEST_SECONDS
        if first and not (first.isalpha() or first in b"\r\n"):
            raise Problem(400, "that is not plain HTTP; is the client speaking https?", close=True)
        return bool(first)

    # Reading (RFC 9112, sections 2 to 7)

    def _read_request(self) -> Request:
        line = self._line("request line", 414)
        if line == b"\r\n":  # 2.2: one empty line before a request is tolerated
            line = self._line("request line", 414)
        match = REQUEST_LINE.fullmatch(line)
        if match is None:
            raise Problem(400, "malformed request line, expected METHOD SP target SP HTTP/1.1 CR LF", close=True)
        if match[3] != b"1":
            raise Problem(400, "HTTP/1.1 is spoken here, and no other major version", close=True)
        self._method, target = match[1].decode(), match[2].decode()
        headers = self._read_fields()
        old = match[4] == b"0"
        authority, path, query = _split_target(self._method, target, headers, old)
        self._served += 1
        connection = headers.get("connection", "").lower()
        if self._served < MAX_REQUESTS and "close" not in connection:
            self.close_connection = old  # HTTP/1.0 closes, unless both sides announce otherwise: we do not
        keep, self.close_connection = self.close_connection, True  # until the body is read we may be out of step
        body = self._read_body(headers, old)
        self.close_connection = keep
        return Request(self._method, target, path, query, headers, authority, self.client_address[0], body)

    def _line(self, what: str, status: int = 431) -> bytes:
        line = self._reader.readline(MAX_LINE + 1)
        self._keep(line)
        if len(line) > MAX_LINE:
            raise Problem(status, f"{what} over {MAX_LINE:,} bytes", close=True)
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def _read_fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        size = 0
        for _ in range(MAX_FIELDS + 1):
            line = self._line("header field")
            if line == b"\r\n":
                return fields
            size += len(line)
            match = FIELD.fullmatch(line)
            if match is None:
                raise Problem(400, "malformed header field, expected name: value CR LF, without folding", close=True)
            name, value = match[1].decode().lower(), match[2].strip(b" \t").decode("latin-1")
            if name in fields:
                if name in ("content-length", "host", "transfer-encoding", "content-type", "authorization"):
                    raise Problem(400, f"the field {name} appears twice", close=True)
                value = f"{fields[name]}, {value}"
            fields[name] = value
            if size > MAX_HEAD:
                raise Problem(431, f"header fields over {MAX_HEAD:,} bytes in all", close=True)
        raise Problem(431, f"more than {MAX_FIELDS} header fields", close=True)

    def _read_body(self, headers: Mapping[str, str], old: bool) -> bytes | None:
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None:
            if length is not None or old:  # 6.1: how requests are smuggled past a proxy
                raise Problem(400, "Transfer-Encoding beside Content-Length, or in HTTP/1.0", close=True)
            if coding.lower() != "chunked":
                raise Problem(501, f"the transfer coding {coding} is unknown here, expected chunked", close=True)
            self._send_continue(headers, old)
            return self._read_chunks()
        if length is None:
            return None
        if not (length.isascii() and length.isdigit()):
            raise Problem(400, "Content-Length is not a number", close=True)
        if len(length) > 15 or int(length) > MAX_BODY:
            raise Problem(413, f"the body is over {MAX_BODY:,} bytes", close=True)
        self._send_continue(headers, old)
        return self._exactly(int(length))

    def _read_chunks(self) -> bytes:
        body = bytearray()
        for _ in range(MAX_CHUNKS + 1):  # the last one is empty
            match = CHUNK_SIZE.fullmatch(self._line("chunk size", 400))
            if match is None:
                raise Problem(400, "malformed chunk size, expected hexadecimal digits CR LF", close=True)
            size = int(match[1], 16)
            if size == 0:
                self._read_fields()  # 7.1.2: trailer fields may be discarded
                return bytes(body)
            if len(body) + size > MAX_BODY:
                raise Problem(413, f"the body is over {MAX_BODY:,} bytes", close=True)
            body += self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise Problem(400, "a chunk is longer than its size said, expected CR LF after it", close=True)
        raise Problem(413, f"more than {MAX_CHUNKS:,} chunks", close=True)

    def _exactly(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._keep(data)
        if len(data) < size:
            raise EOFError
        return data

    def _keep(self, data: bytes) -> None:
        if self.server.transcript and len(self._tape) < SEEN:
            self._tape += data

    def _send_continue(self, headers: Mapping[str, str], old: bool) -> None:
        if not old and headers.get("expect", "").lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Answering

    def _answer(self, answer: Answer) -> None:
        if answer.raw:
            self.close_connection = True
            answer.raw(self.connection)
            return
        self.close_connection = self.close_connection or self.server.stopping or answer.stream is not None
        if self.close_connection:
            answer.headers["Connection"] = "close"
        body = answer.encoded()
        data = answer_head(answer, body) + (b"" if self._method == "HEAD" else body)
        self._show(data)
        self.server.waiting(self.connection, idle=False)  # for the client to take it
        self._write(data)
        if answer.stream and self._method != "HEAD":
            self.server.busy(self.connection)
            answer.stream(self._write)
        if answer.then:
            answer.then()

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
        while left > 0 and (data := self._reader.read1(65_536)):
            left -= len(data)

    def _show(self, data: bytes) -> None:
        if self.server.transcript:
            title = f"--- {self.client_address[0]} port {self.client_address[1]} called"
            self.server.transcript.show(title, ("< ", bytes(self._tape), None), ("> ", data, None))

    def finish(self) -> None:
        super().finish()
        self._reader.close()


def _split_target(method: str, target: str, headers: Mapping[str, str], old: bool) -> tuple[str, str, dict[str, str]]:
    """(authority, path, query) of the four forms of a request target (RFC 9112, 3.2)."""
    host = headers.get("host")
    if host is None and not old:
        raise Problem(400, "the Host field is missing", close=True)
    authority = host or ""
    if not (target.startswith("/") or target == "*" and method == "OPTIONS"):
        authority, target = _split_absolute(target)
    if any(name and not AUTHORITY.fullmatch(name) for name in {authority, host}):
        raise Problem(400, "the host is malformed, expected name or name:port", close=True)
    path, _, query = target.partition("?")
    if "%" in path and "%2f" not in path.lower():  # %2F is data, not a separator: it matches no route
        path = urllib.parse.unquote(path)
    if not query:
        return authority, path, {}
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem(400, f"more than {MAX_FIELDS} query parameters") from None
    return authority, path, dict(pairs)


def _split_absolute(target: str) -> tuple[str, str]:
    """(authority, path and query) of a target in absolute-form: every server has to take it."""
    if not re.match("https?://", target, re.IGNORECASE):
        raise Problem(400, "the request target is neither a path nor an absolute http or https URL", close=True)
    rest = target.partition("://")[2]
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    if not authority:
        raise Problem(400, "the request target has no host", close=True)
    return authority, "/" + rest[len(authority) :].removeprefix("/")


@functools.lru_cache(1)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def answer_head(answer: Answer, body: bytes) -> bytes:
    """The status line and the header fields, to the empty line that ends them."""
    headers = {"Date": _date(int(time.time()))}
    if answer.status not in (204, 304) and not answer.stream:  # RFC 9110, 8.6: no length with a 204
        headers["Content-Length"] = str(len(body))
    if body or answer.stream:
        headers["Content-Type"] = answer.type
    headers.update(answer.headers)
    lines = [f"HTTP/1.1 {answer.status} {phrase(answer.status)}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


@functools.cache
def phrase(status: int) -> str:
    """The words for a status, as RFC 9110 has them: the standard library's change between versions."""
    return PHRASES.get(status) or http.HTTPStatus(status).phrase


def problem_answer(problem: Problem) -> Answer:
    """A problem as RFC 9457 writes it."""
    body = {"title": phrase(problem.status), "status": problem.status, "detail": problem.detail}
    return Answer(problem.status, body, problem.headers, PROBLEM_TYPE)


# --- the server ----------------------------------------------------------------------------------------------


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
            raise OSError(f"{address[0]} port {address[1]}: {error.strerror or error}; name another --port") from None
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
        """This connection waits for its client: it may be closed to make room. `idle`: nobody would miss anything."""
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
