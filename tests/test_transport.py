"""One request as a client, against receivers that do everything wrong that a receiver can do."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import NO_CONTENT, ROOT, SECONDS, Behaviour, Listener, held, read_request

from addresses import Guard
from transport import Exchange, Transport, request_head, request_json, retry_after

BODY = b"Content-Length: 2\r\n\r\n{}"
KEPT = 4_096  # bytes of a response that are kept for people to look at
SHORT = 0.3  # seconds that are the whole deadline of what never ends


@pytest.fixture
def transport() -> Iterator[Transport]:
    it = Transport()
    yield it
    it.close()


def post(transport: Transport, url: str, seconds: float = SECONDS) -> Exchange:
    try:
        head = request_head("POST", url)
    except ValueError:
        head = b"POST / HTTP/1.1\r\n"
    return transport.send(url, head + BODY, seconds)


def then_close(data: bytes) -> Behaviour:
    """Answer this, then hang up."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return answer


def in_order(*answers: bytes | Behaviour) -> Behaviour:
    """The first answer to the first request, and so on."""
    left = iter(answers)

    def answer(connection: socket.socket) -> None:
        it = next(left)
        connection.sendall(it) if isinstance(it, bytes) else it(connection)

    return answer


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(connection.detach())  # now, not when the listener's file over it is closed as well


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"and so on " * 1_000)


def endless_interim(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000)


def drip(data: bytes) -> Behaviour:
    def answer(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            threading.Event().wait(SHORT / 10)

    return answer


def begin(data: bytes) -> Behaviour:
    """Answer this, and nothing more until the other side has gone."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        while connection.recv(65_536):
            pass

    return answer


never = begin(b"")


# --- what is sent, and over which connection ------------------------------------------------------------------


def test_what_is_written_and_kept_are_the_bytes_themselves(transport: Transport, listener: Listener) -> None:
    listener.answer = answer = b"HTTP/1.1 200 Fine\r\nX-Y:  z \r\nContent-Length: 3\r\n\r\n\xff\x00!"
    request = request_head("POST", listener.url("/a?b=%20")) + b"webhook-ID: x\r\nContent-Length: 2\r\n\r\n{}"
    exchange = transport.send(listener.url("/elsewhere"), request, SECONDS)
    assert listener.next() == request == exchange.request
    assert exchange.response == answer and exchange.received == len(answer)
    assert (exchange.status, exchange.body, exchange.error) == (200, b"\xff\x00!", None)
    assert exchange.head.rstrip() == answer.partition(b"\r\n\r\n")[0].rstrip()


def test_one_connection_serves_many_requests(transport: Transport, listener: Listener) -> None:
    assert [post(transport, listener.url()).status for _ in range(20)] == [204] * 20
    assert listener.connections == 1


def test_a_connection_that_died_idle_is_replaced_once(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, then_close(b""), NO_CONTENT)
    assert [post(transport, listener.url()).status for _ in range(2)] == [204, 204]
    assert listener.connections == 2 and listener.requests.qsize() == 3


def test_the_replacement_is_not_replaced(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, then_close(b""), then_close(b""), NO_CONTENT)
    post(transport, listener.url())
    assert post(transport, listener.url()).error == "the connection was closed without an answer"
    assert listener.connections == 2 and listener.requests.qsize() == 3


def test_a_fresh_connection_is_not_replaced(transport: Transport, listener: Listener) -> None:
    listener.answer = then_close(b"")
    assert post(transport, listener.url()).error == "the connection was closed without an answer"
    assert listener.connections == 1


def test_in_two_steps_the_replacement_is_a_fresh_connection(transport: Transport, listener: Listener) -> None:
    """Others that are idle have probably died as well."""
    together = threading.Barrier(3)

    def answer_together(connection: socket.socket) -> None:
        together.wait(SECONDS)
        connection.sendall(NO_CONTENT)

    listener.answer = answer_together
    senders = [threading.Thread(target=post, args=(transport, listener.url())) for _ in range(3)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(SECONDS)
    assert listener.connections == 3
    listener.answer = then_close(b"")
    call = transport.post(listener.url(), request_head("POST", listener.url()) + BODY, SECONDS)
    assert call is not None
    assert transport.finish(call).error == "the connection was closed without an answer"
    assert (listener.connections, listener.requests.qsize()) == (4, 3 + 2)


@pytest.mark.parametrize("value", [b"x" + b" " * 60_000 + b"x", b" " * 30_000 + b"\r x", b" \t" * 30_000])
def test_a_hostile_retry_after_costs_no_time(value: bytes) -> None:
    began = time.process_time()
    assert retry_after(b"HTTP/1.1 503 -\r\nRetry-After:" + value + b"\r\n", 0.0) == 0.0
    assert time.process_time() - began < 0.5


def test_nothing_is_sent_again_once_an_answer_has_begun(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, then_close(b"H"), NO_CONTENT)
    post(transport, listener.url())
    assert post(transport, listener.url()).error == "the answer ended within its head"
    assert listener.connections == 1 and listener.requests.qsize() == 2


def test_what_a_silent_connection_was_sent_is_not_sent_again(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, never, NO_CONTENT)
    post(transport, listener.url())
    assert post(transport, listener.url(), SHORT).error == "timed out waiting for the answer"
    assert listener.requests.qsize() == 2


def test_bytes_that_come_while_idle_spoil_a_connection(transport: Transport, listener: Listener) -> None:
    late = threading.Event()

    def answer_twice(connection: socket.socket) -> None:
        connection.sendall(NO_CONTENT)
        threading.Event().wait(0.05)
        connection.sendall(b"HTTP/1.1 500 Too Late\r\nContent-Length: 0\r\n\r\n")
        late.set()

    listener.answer = in_order(answer_twice, NO_CONTENT)
    post(transport, listener.url())
    assert late.wait(SECONDS)
    assert post(transport, listener.url()).status == 204
    assert listener.connections == 2


def test_a_connection_that_is_idle_for_long_is_closed(listener: Listener) -> None:
    now, theirs = [0.0], list[socket.socket]()

    def answer(connection: socket.socket) -> None:
        theirs.append(connection.dup())
        connection.sendall(NO_CONTENT)

    listener.answer = answer
    transport = Transport(clock=lambda: now[0])
    post(transport, listener.url())
    with theirs[0] as connection:
        now[0] = 29.0
        transport.close_idle()
        connection.settimeout(0)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        now[0] = 31.0
        transport.close_idle()
        connection.settimeout(SECONDS)
        assert connection.recv(1) == b""
    transport.close()


def test_proxy_variables_are_not_obeyed(
    transport: Transport, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert post(transport, listener.url()).status == 204


# --- answers --------------------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS: dict[str, tuple[bytes, int, bytes, bool | None]] = {  # answer, status, body, reused (None: either)
    "no content": (NO_CONTENT, 204, b"", True),
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True),
    "empty body": (b"HTTP/1.1 500 Oh No\r\ncontent-length:0\r\n\r\n", 500, b"", True),
    "no reason phrase": (b"HTTP/1.1 204\r\n\r\n", 204, b"", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", None),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n" + NO_CONTENT,
        204,
        b"",
        True,
    ),
    "leftovers after no content": (NO_CONTENT + b"left over", 204, b"", False),
    "leftovers after a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", 200, b"ok", False),
    "chunked": (CHUNKED + b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: t\r\n\r\n", 200, b"hello", None),
    "chunked, 150 fields": (
        CHUNKED[:-2] + b"X: y\r\n" * 150 + b"\r\n2\r\nhe\r\n0\r\n\r\n", 200, b"he", None
    ),
    "a field in two lines": (b"HTTP/1.1 200 OK\r\nX: a,\r\n\tb\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True),
    "chunked, error status": (CHUNKED.replace(b"200", b"503") + b"0\r\n\r\n", 503, b"", None),
    "the same length twice": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", None
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n", 302, b"", True),
    "redirect to a file": (b"HTTP/1.1 307 T\r\nLocation: file:///etc/p\r\nContent-Length: 0\r\n\r\n", 307, b"", True),
}  # fmt: skip


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("answer, status, body, again", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read_to_its_end_and_no_further(
    answer: bytes, status: int, body: bytes, again: bool | None, pieces: bool, transport: Transport, listener: Listener
) -> None:
    def answer_in_pieces(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # what is left over may be too much
            for start in range(0, len(answer), 7):
                connection.sendall(answer[start : start + 7])
                time.sleep(0)

    listener.answer = answer_in_pieces if pieces else answer
    exchange = post(transport, listener.url())
    assert (exchange.status, exchange.body, exchange.error) == (status, body, None)
    assert listener.requests.qsize() == 1
    listener.answer = NO_CONTENT
    if not pieces:
        assert post(transport, listener.url()).status == 204
        assert again is None or (listener.connections == 1) == again


def test_without_a_length_the_answer_lasts_until_the_end(transport: Transport, listener: Listener) -> None:
    listener.answer = then_close(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end")
    exchange = post(transport, listener.url())
    assert (exchange.status, exchange.body, exchange.error) == (200, b"to the end", None)


FAULTS: dict[str, tuple[bytes | Behaviour, int, str]] = {  # answer, status, what the error says
    "closed without an answer": (then_close(b""), 0, "closed without an answer"),
    "reset": (reset, 0, "reset waiting for the answer"),
    "half a head": (then_close(b"HTTP/1.1 200 OK\r\nX: "), 0, "ended within its head"),
    "half a body": (then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), 200, "ended after 4 of 10 bytes"),
    "absurd length": (then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\nx"), 200, "the answer"),
    "absurd chunk": (then_close(CHUNKED + b"7fffffffffffff\r\nx"), 200, "the answer"),
    "chunked, cut": (then_close(CHUNKED + b"5\r\nhel"), 200, "ended after"),
    "chunked, no last chunk": (then_close(CHUNKED + b"2\r\nhe\r\n"), 200, "ended after"),
    "chunked, no size": (then_close(CHUNKED + b"zz\r\nhe\r\n0\r\n\r\n"), 200, "has no size"),
    "chunked, a size with a sign": (then_close(CHUNKED + b"-0\r\n\r\n"), 200, "has no size"),
    "chunked, a size with 0x": (then_close(CHUNKED + b"0x2\r\nhe\r\n0\r\n\r\n"), 200, "has no size"),
    "chunked, longer than its size": (then_close(CHUNKED + b"2\r\nhello\r\n0\r\n\r\n"), 200, "longer than its size"),
    "chunked, cut in the last size": (then_close(CHUNKED + b"2\r\nhe\r\n0"), 200, "ended after 2 bytes"),
    "chunked, cut before the last line": (then_close(CHUNKED + b"2\r\nhe\r\n0\r\n"), 200, "ended after 2 bytes"),
    "chunked, cut in the trailer": (then_close(CHUNKED + b"2\r\nhe\r\n0\r\nT: 1\r\n"), 200, "ended after 2 bytes"),
    "chunked, and coded otherwise": (
        then_close(CHUNKED.replace(b"chunked", b"gzip, chunked") + b"2\r\nhe\r\n0\r\n\r\n"), 200, "malformed"
    ),
    "a space before the colon": (then_close(CHUNKED.replace(b"g:", b"g :") + b"0\r\n\r\n"), 200, "malformed"),
    "a length in two lines": (then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n 0\r\n\r\nok"), 200, "malformed"),
    "two lengths": (
        then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nok123"), 200, "malformed"
    ),
    "a length that is no number": (then_close(b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"), 200, "malformed"),
    "a negative length": (then_close(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok"), 200, "malformed"),
    "101": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 0, "not HTTP/1.x"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "a status out of range": (b"HTTP/1.1 999 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "another version": (b"HTTP/2 200 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "another protocol": (then_close(b"SSH-2.0-OpenSSH_9.9\r\n"), 0, "answer"),
    "binary": (b"\x15\x03\x01\xff\r\n\r\n", 0, "not HTTP/1.x"),
    "1 MB of header": (then_close(b"HTTP/1.1 200 OK\r\n" + b"X-Y: zzzzzzzz\r\n" * 70_000 + b"\r\n"), 0, "the head"),
    "one long header": (then_close(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n"), 0, "the head"),
    "interim answers without end": (endless_interim, 0, "longer than"),
    "endless body": (endless, 200, "longer than 1,048,576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("answer, status, error", FAULTS.values(), ids=FAULTS)
def test_a_faulty_answer_is_a_failure_with_a_reason(
    answer: bytes | Behaviour, status: int, error: str, transport: Transport, listener: Listener
) -> None:
    listener.answer = answer
    exchange = post(transport, listener.url())
    assert exchange.error and error in exchange.error
    assert exchange.status == status and exchange.error.isprintable() and len(exchange.error) < 300
    assert len(exchange.response) <= KEPT
    listener.answer = NO_CONTENT
    assert post(transport, listener.url()).status == 204
    assert listener.connections == 2


@pytest.mark.parametrize(
    "answer, status, error",
    [*((answer, status, None) for answer, status, _, _ in ANSWERS.values()), *FAULTS.values()],
    ids=[*ANSWERS, *FAULTS],
)
def test_in_two_steps_the_outcome_is_the_same(
    answer: bytes | Behaviour, status: int, error: str | None, transport: Transport, listener: Listener
) -> None:
    assert transport.post(listener.url(), b"", SECONDS) is None  # no connection is open yet
    post(transport, listener.url())
    listener.answer = answer
    call = transport.post(listener.url(), request_head("POST", listener.url()) + BODY, SECONDS)
    assert call is not None
    exchange = transport.look(call, SHORT) or transport.finish(call)
    assert exchange.status == status
    assert exchange.error is None if error is None else error in str(exchange.error)


def test_with_patience_a_post_opens_a_connection_of_its_own(transport: Transport, listener: Listener) -> None:
    message = request_head("POST", listener.url()) + BODY
    calls = [transport.post(listener.url(), message, SECONDS, SECONDS) for _ in range(3)]
    for call in calls:
        assert call is not None
        assert (transport.look(call, SECONDS) or transport.finish(call)).status == 204
    assert listener.connections == 3
    listener.close()
    transport.close()
    assert transport.post(listener.url(), message, SECONDS, SECONDS) is None  # and `send` says what is the matter
    assert "refused" in str(post(transport, listener.url()).error)


def test_of_a_long_answer_the_beginning_is_kept(transport: Transport, listener: Listener) -> None:
    listener.answer = answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"0123456789" * 5_000
    exchange = post(transport, listener.url())
    assert exchange.response == answer[:KEPT] and exchange.received == len(answer)
    assert len(exchange.body) == 50_000 and exchange.error is None


# --- one deadline for everything ------------------------------------------------------------------------------

SILENT: dict[str, tuple[str, Behaviour, str]] = {
    "hang": ("http", never, "waiting for the answer"),
    "dripping head": ("http", drip(b"HTTP/1.1 200 OK\r\nX: " + b"." * 1_000), "in the middle of the answer"),
    "dripping body": (
        "http", drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"." * 1_000), "in the middle of the answer"
    ),
    "half an answer": (
        "http", begin(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "in the middle of the answer"
    ),
    "chunked, half": ("http", begin(CHUNKED + b"5\r\nhe"), "in the middle of the answer"),
    "dripping chunks": ("http", drip(CHUNKED + b"1\r\nx\r\n" * 1_000), "in the middle of the answer"),
    "dripping TLS handshake": ("https", drip(b"\x16\x03\x03\x10\x00" + b"." * 1_000), "connecting"),
}  # fmt: skip


@contextlib.contextmanager
def raw_server(behaviour: Behaviour) -> Iterator[int]:
    """Calls `behaviour` for the first connection at once, without reading a request; the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection = server.accept()[0]
                with connection:
                    behaviour(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(SECONDS)


@pytest.mark.parametrize("scheme, behaviour, doing", SILENT.values(), ids=SILENT)
def test_everything_is_over_at_the_deadline(
    scheme: str, behaviour: Behaviour, doing: str, transport: Transport
) -> None:
    with raw_server(behaviour) as port:
        began = time.monotonic()
        exchange = post(transport, f"{scheme}://127.0.0.1:{port}/", SHORT)
        assert time.monotonic() - began < SHORT + 1
    assert exchange.error and exchange.error.startswith("timed out") and doing in exchange.error


def test_a_receiver_that_does_not_read_is_left_at_the_deadline(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        exchange = transport.send(url, request_head("POST", url) + b"\r\n" + b"x" * 20_000_000, SHORT)
        assert exchange.error == "timed out sending the request"


def test_a_connect_that_takes_long_is_left_at_the_deadline(transport: Transport) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # fill the queue of connections that nobody accepts
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        began = time.monotonic()
        exchange = post(transport, f"http://127.0.0.1:{server.getsockname()[1]}/", SHORT)
        assert exchange.error == "timed out connecting"
        assert time.monotonic() - began < SHORT + 1


# --- names and addresses --------------------------------------------------------------------------------------

Found = list[tuple[Any, ...]]


def addresses(*hosts: str, port: int = 80) -> Found:
    """What getaddrinfo gives."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Found]], None]:
    """Sets what resolves names from now on."""
    return lambda function: monkeypatch.setattr(socket, "getaddrinfo", function)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> list[str]:
    """Every address that is connected to; each of them is really the listener."""
    hosts: list[str] = []
    connect = socket.socket.connect

    def connect_to_listener(self: socket.socket, address: Any) -> None:
        hosts.append(address[0])
        connect(self, ("127.0.0.1", listener.port))

    monkeypatch.setattr(socket.socket, "connect", connect_to_listener)
    return hosts


def test_a_refused_connection_says_so(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    exchange = post(transport, f"http://127.0.0.1:{port}/")
    assert exchange.error and exchange.error.startswith("connection refused") and exchange.status == 0


def test_a_name_that_does_not_resolve_says_so(transport: Transport, resolve: Callable[..., None]) -> None:
    def fail(*_: object) -> Found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolve(fail)
    assert post(transport, "http://nowhere.example/").error == "the host name does not resolve"


def test_a_resolver_that_hangs_is_abandoned_at_the_deadline(transport: Transport, resolve: Callable[..., None]) -> None:
    gate = threading.Event()
    resolve(lambda *_: gate.wait() and [])
    with held(gate):
        began = time.monotonic()
        assert post(transport, "http://slow.example/", SHORT).error == "timed out connecting"
        assert time.monotonic() - began < SHORT + 1


def test_hanging_resolvers_do_not_pile_up(transport: Transport, resolve: Callable[..., None]) -> None:
    gate = threading.Event()
    resolve(lambda *_: gate.wait() and [])
    before = threading.active_count()
    with held(gate):
        for number in range(100):
            assert post(transport, f"http://slow{number}.example/", 0.001).error == "timed out connecting"
        assert threading.active_count() - before <= 64


@pytest.mark.parametrize(
    "url", ["http://" + "a" * 70 + ".example/", "http://a..example/", "http://.example/", "http:///path", "http://%00/"]
)
def test_a_host_that_is_no_name_is_an_error_and_not_an_exception(transport: Transport, url: str) -> None:
    exchange = post(transport, url, 2)
    assert exchange.error and exchange.status == 0


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/", "data:,x", "nonsense", "", "http://[::1", "http://h:99999/"]
)
def test_other_urls_are_an_error_and_not_an_exception(transport: Transport, url: str) -> None:
    exchange = post(transport, url, 2)
    assert exchange.error and exchange.status == 0 and exchange.body == b"" and exchange.received == 0


@pytest.mark.parametrize(
    "name, found, allowed",
    [
        ("hook.example.com", ["8.8.8.8"], True),
        ("hook.example.com", ["8.8.8.8", "9.9.9.9"], True),
        ("hook.example.com", ["10.0.0.1"], False),
        ("hook.example.com", ["8.8.8.8", "10.0.0.1"], False),
        ("hook.example.com", ["127.0.0.1"], False),
        ("hook.example.com", ["169.254.169.254"], False),
        ("hook.test", ["10.0.0.1"], True),
        ("hook.test", ["127.0.0.1"], False),
        ("hook.localhost", ["127.0.0.1"], True),
        ("2852039166", [], False),
    ],
)
def test_the_guard_judges_every_address_before_a_connect(
    name: str, found: list[str], allowed: bool, dialled: list[str], resolve: Callable[..., None]
) -> None:
    transport = Transport(Guard())
    resolve(lambda *_: addresses(*found))
    exchange = post(transport, f"http://{name}/")
    transport.close()
    if allowed:
        assert exchange.status == 204 and dialled == found[:1]
    else:
        assert exchange.error and exchange.error.startswith("not connected: ") and name in exchange.error
        assert dialled == []


def test_a_name_that_turns_private_is_refused_at_the_next_connect(
    dialled: list[str], resolve: Callable[..., None], listener: Listener
) -> None:
    listener.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answers = iter([addresses("8.8.8.8"), addresses("192.168.1.1"), addresses("8.8.4.4")])
    resolve(lambda *_: next(answers))
    transport = Transport(Guard())
    outcomes = [post(transport, "http://hook.example.com/") for _ in range(3)]
    transport.close()
    assert [outcome.status for outcome in outcomes] == [200, 0, 200]
    assert "192.168.1.1" in str(outcomes[1].error)
    assert dialled == ["8.8.8.8", "8.8.4.4"]


def test_the_next_address_is_tried_when_one_refuses(
    transport: Transport, listener: Listener, resolve: Callable[..., None]
) -> None:
    resolve(lambda *_: addresses("127.0.0.2", "127.0.0.1", port=listener.port))  # the listener is on the second only
    assert post(transport, f"http://two.example:{listener.port}/").status == 204


# --- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that nobody has signed but itself, and its key; made anew for each run."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes a certificate with the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "certificate.pem", folder / "key.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run([openssl, *command.split(), *names], check=True, capture_output=True)
    return files


@pytest.fixture
def tls_port(certificate: tuple[Path, Path]) -> Iterator[int]:
    """A receiver that speaks TLS with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    server = socket.create_server(("127.0.0.1", 0))

    def handle(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as sock:
            with sock.makefile("rb") as file:
                while read_request(file):
                    sock.sendall(NO_CONTENT)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=handle, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def test_a_certificate_that_nobody_vouches_for_is_refused(transport: Transport, tls_port: int) -> None:
    exchange = post(transport, f"https://localhost:{tls_port}/")
    assert exchange.error and exchange.error.startswith("the TLS certificate does not verify: ")


def test_plain_http_where_tls_was_asked_for_is_an_error(transport: Transport) -> None:
    with raw_server(then_close(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        exchange = post(transport, f"https://127.0.0.1:{port}/")
    assert exchange.error and exchange.status == 0 and "is it http://" in exchange.error


def test_a_trusted_certificate_counts_for_its_name_only(certificate: tuple[Path, Path], tls_port: int) -> None:
    # In a process of its own, because that is where the certificate can be trusted.
    program = (
        "import json, sys; from transport import *; t = Transport()\n"
        "send = lambda url: t.send(url, request_json('POST', url, 1), 10)\n"
        "print(json.dumps([send(url)[3::3] for url in sys.argv[1:]])); t.close()"
    )
    good, bad = f"https://localhost:{tls_port}/", f"https://127.0.0.1:{tls_port}/"
    command, trusted = [sys.executable, "-c", program, good, good, bad], {"SSL_CERT_FILE": str(certificate[0])}
    done = subprocess.run(command, cwd=ROOT, env=trusted, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    first, second, wrong = json.loads(done.stdout)
    assert first == second == [204, None]
    assert wrong[0] == 0 and wrong[1].startswith("the TLS certificate does not verify: ")


# --- the small parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, line, host",
    [
        ("http://h", "POST / HTTP/1.1", "h"),
        ("http://h/", "POST / HTTP/1.1", "h"),
        ("http://h/a/b;c?d=e&f=%20", "POST /a/b;c?d=e&f=%20 HTTP/1.1", "h"),
        ("http://h?a=b", "POST /?a=b HTTP/1.1", "h"),
        ("https://h:8443/a", "POST /a HTTP/1.1", "h:8443"),
        ("http://[::1]:8080/a", "POST /a HTTP/1.1", "[::1]:8080"),
        ("http://[::1]/", "POST / HTTP/1.1", "[::1]"),
    ],
)
def test_the_head_of_a_request(url: str, line: str, host: str) -> None:
    assert request_head("POST", url) == f"{line}\r\nHost: {host}\r\n".encode()


def test_a_request_with_json_says_how_long_it_is(transport: Transport, listener: Listener) -> None:
    transport.send(listener.url(), request_json("POST", listener.url(), {"a": "é"}), SECONDS)
    head, _, body = listener.next().partition(b"\r\n\r\n")
    assert json.loads(body) == {"a": "é"}
    assert b"Content-Type: application/json" in head and b"Content-Length: %d" % len(body) in head
    transport.send(listener.url(), request_json("GET", listener.url()), SECONDS)
    assert listener.next().startswith(b"GET /hook HTTP/1.1\r\n")


NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    "field, seconds",
    [
        (b"Retry-After: 120", 120),
        (b"retry-after:\t3 ", 3),
        (b"Retry-After: 0", 0),
        (b"Retry-After: Sun, 06 Nov 1994 08:50:37 GMT", 60),
        (b"Retry-After: Sunday, 06-Nov-94 08:50:37 GMT", 60),
        (b"Retry-After: Sun Nov  6 08:50:37 1994", 60),
        (b"Retry-After: Sun, 06 Nov 1994 08:48:37 GMT", 0),
        (b"Retry-After: -5", 0),
        (b"Retry-After: 1.5", 0),
        (b"Retry-After: 1e9", 0),
        (b"Retry-After: soon", 0),
        (b"Retry-After: \xb2\xff", 0),
        (b"Retry-After: Sun, 99 Nov 99999999999 99:99:99 GMT", 0),
        (b"Retry-After: Mon, 01 Jan 0001 00:00:00 +9999", 0),
        (b"Retry-After:", 0),
        (b"X-Retry-After: 5", 0),
        (b"X: Retry-After: 5", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(field: bytes, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert retry_after(b"HTTP/1.1 503 Busy\r\n" + field + b"\r\nX: y\r\n", NOW) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_absurd_retry_after_is_a_long_time() -> None:
    assert retry_after(b"HTTP/1.1 503 Busy\r\nRetry-After: " + b"9" * 5_000 + b"\r\n", NOW) > 1e9
