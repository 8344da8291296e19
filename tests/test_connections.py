"""Connections: which address, which certificate, which thread resolves, and how long a connection is kept."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from receivers import in_order, raw_server, then_close, then_silence
from support import NO_CONTENT, ROOT, SECONDS, Listener, Transport, held, read_request

import connections
from addresses import Guard
from client import Exchange, request_head
from connections import Connection, Resolver, origin_of

BODY = b"Content-Length: 2\r\n\r\n{}"
SHORT = 0.2  # seconds that are the whole deadline of what never ends
CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def post(transport: Transport, url: str, seconds: float = SECONDS) -> Exchange:
    try:
        head = request_head("POST", url)
    except ValueError:
        head = b"POST / HTTP/1.1\r\n"
    return transport.send(url, head + BODY, seconds)


# --- kept open ------------------------------------------------------------------------------------------------


def test_one_connection_serves_many_requests(transport: Transport, listener: Listener) -> None:
    assert [post(transport, listener.url()).status for _ in range(20)] == [204] * 20
    assert listener.connections == 1


def test_what_was_chunked_leaves_the_connection_open(transport: Transport, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    assert [post(transport, listener.url()).status for _ in range(3)] == [200] * 3
    assert listener.connections == 1


def test_a_connection_that_died_idle_is_replaced_once(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, then_close(b""), NO_CONTENT)
    assert [post(transport, listener.url()).status for _ in range(2)] == [204, 204]
    assert listener.connections == 2 and listener.requests.qsize() == 3


def test_the_replacement_is_not_replaced(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, then_close(b""), then_close(b""), NO_CONTENT)
    post(transport, listener.url())
    assert post(transport, listener.url()).error == "the connection was closed waiting for the answer"
    assert listener.connections == 2 and listener.requests.qsize() == 3


def test_a_new_connection_is_not_replaced(transport: Transport, listener: Listener) -> None:
    listener.answer = then_close(b"")
    assert post(transport, listener.url()).error == "the connection was closed waiting for the answer"
    assert listener.connections == 1


def test_nothing_is_sent_again_once_an_answer_has_begun(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, then_close(b"H"), NO_CONTENT)
    post(transport, listener.url())
    assert post(transport, listener.url()).error == "the connection was closed in the middle of the answer"
    assert listener.connections == 1 and listener.requests.qsize() == 2


def test_what_a_silent_connection_was_sent_is_not_sent_again(transport: Transport, listener: Listener) -> None:
    listener.answer = in_order(NO_CONTENT, then_silence(b""), NO_CONTENT)
    post(transport, listener.url())
    assert post(transport, listener.url(), SHORT).error == "timed out waiting for the answer"
    assert listener.requests.qsize() == 2


def wait_for_events(transport: Transport) -> None:
    """What a sender does between two exchanges."""
    for key, _ in transport.pool.selector.select(SECONDS):
        assert key.data.waiter is None
        transport.pool.look(key.data)


@pytest.mark.parametrize("more", [b"", b"H", b"HTTP/1.1 500 Too Late\r\nContent-Length: 0\r\n\r\n"])
def test_what_comes_while_idle_spoils_a_connection(more: bytes, transport: Transport, listener: Listener) -> None:
    gate = threading.Event()

    def answer_twice(connection: socket.socket) -> None:
        connection.sendall(NO_CONTENT)
        gate.wait(SECONDS)
        then_close(more)(connection)

    listener.answer = in_order(answer_twice, NO_CONTENT)
    post(transport, listener.url())
    gate.set()
    wait_for_events(transport)
    assert post(transport, listener.url()).status == 204
    assert listener.connections == listener.requests.qsize() == 2


def test_an_idle_tls_connection_is_spoiled_by_data_but_not_by_what_tls_says_itself(transport: Transport) -> None:
    """As a session ticket, which is readable and yet no data."""

    class Ticket(socket.socket):
        said: list[bytes | Exception] = [ssl.SSLWantReadError(), BlockingIOError(), b"H"]

        def recv(self, *_: object) -> bytes:
            it = self.said.pop(0)
            if isinstance(it, Exception):
                raise it
            return it

    near, far = socket.socketpair()
    with far, Ticket(near.family, near.type, near.proto, near.detach()) as sock:
        origin = origin_of("https://h.example")
        connection = Connection(origin, sock)
        transport.pool.selector.register(sock, connections.WRITE, connection)
        transport.pool.give_back(connection)
        transport.pool.look(connection)
        transport.pool.look(connection)
        assert transport.pool.take(origin) is connection
        transport.pool.give_back(connection)
        transport.pool.look(connection)
        assert transport.pool.take(origin) is None and sock.fileno() == -1


def test_a_connection_that_is_idle_for_long_is_closed(listener: Listener) -> None:
    now, theirs = [0.0], list[socket.socket]()

    def answer(connection: socket.socket) -> None:
        theirs.append(connection.dup())
        connection.sendall(NO_CONTENT)

    listener.answer = answer
    transport = Transport(clock=lambda: now[0])
    post(transport, listener.url())
    with theirs[0] as connection:
        now[0] = connections.IDLE_SECONDS - 1
        assert transport.pool.close_idle() == connections.IDLE_SECONDS
        connection.settimeout(0)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        now[0] = connections.IDLE_SECONDS + 1
        assert transport.pool.close_idle() == float("inf")
        connection.settimeout(SECONDS)
        assert connection.recv(1) == b""
    transport.close()


def test_of_too_many_idle_connections_the_oldest_is_closed(transport: Transport) -> None:
    pool = connections.Pool(transport.pool.selector, Resolver(), None, 3, time.monotonic)
    pairs = [socket.socketpair() for _ in range(5)]
    for number, (near, _) in enumerate(pairs):
        connection = Connection(origin_of(f"http://h{number % 2}/"), near)
        pool.selector.register(near, connections.WRITE, connection)
        pool.give_back(connection)
    assert [near.fileno() == -1 for near, _ in pairs] == [True, True, False, False, False]
    taken = [pool.take(origin_of(f"http://h{number}/")) for number in (0, 0, 0, 1, 1)]
    assert [connection and connection.sock for connection in taken] == [
        pairs[4][0],
        pairs[2][0],
        None,
        pairs[3][0],
        None,
    ]
    for one in filter(None, taken):
        pool.discard(one)
    for _, far in pairs:
        far.close()


def test_proxy_variables_are_not_obeyed(
    transport: Transport, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert post(transport, listener.url()).status == 204


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
    outcome = post(transport, f"http://127.0.0.1:{port}/")
    assert outcome.error and outcome.error.startswith("connection refused") and outcome.status == 0


def test_an_address_that_cannot_be_reached_says_so(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: Any) -> None:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert post(transport, "http://127.0.0.1/").error == "failed connecting: [Errno 113] No route to host"


def test_too_many_open_files_are_an_error_and_not_an_exception(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    assert post(transport, "http://127.0.0.1/").error == "failed connecting: [Errno 24] Too many open files"


def test_this_machine_is_tried_under_its_older_address_first(
    transport: Transport, dialled: list[str], resolve: Callable[..., None]
) -> None:
    """Windows takes two seconds to find that nobody listens on ::1."""
    resolve(lambda *_: [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), *addresses("127.0.0.1")])
    assert post(transport, "http://localhost/").status == 204
    assert dialled == ["127.0.0.1"]


def test_a_name_that_does_not_resolve_says_so(transport: Transport, resolve: Callable[..., None]) -> None:
    def fail(*_: object) -> Found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolve(fail)
    assert post(transport, "http://nowhere.example/").error == "the host name does not resolve"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host", ["a" * 70 + ".example", "a..example", ".example", "%00", "a" * 253, "xn--", "[::1]x", "-", "."]
)
def test_a_host_that_is_no_name_is_an_error_and_not_an_exception(transport: Transport, scheme: str, host: str) -> None:
    outcome = post(transport, f"{scheme}://{host}/", 5)
    assert outcome.error and outcome.status == 0 and outcome.error.isprintable()


@pytest.mark.parametrize("host", ["a\0b.example", "\udc80.example", "ü" * 64])
def test_a_name_that_the_resolver_refuses_is_an_error_and_not_a_wait(host: str) -> None:
    resolver = Resolver()
    for _ in range(2):
        assert isinstance(resolver.look_up(host).exception(SECONDS), (OSError, ValueError))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.0.0.1."]
)
def test_an_address_in_any_spelling_is_connected_to_without_a_resolver(
    host: str, transport: Transport, listener: Listener, resolve: Callable[..., None]
) -> None:
    resolve(lambda *_: pytest.fail("it was resolved"))
    assert post(transport, f"http://{host}:{listener.port}/").status == 204


@pytest.mark.parametrize(
    "name, found, allowed",
    [
        ("hook.example.com", ["8.8.8.8"], True),
        ("hook.example.com.", ["8.8.8.8"], True),
        ("hook.example.com", ["8.8.8.8", "9.9.9.9"], True),
        ("hook.example.com", ["10.0.0.1"], False),
        ("hook.example.com", ["8.8.8.8", "10.0.0.1"], False),
        ("hook.example.com.", ["10.0.0.1"], False),
        ("hook.example.com", ["127.0.0.1"], False),
        ("hook.example.com", ["169.254.169.254"], False),
        ("hook.test", ["10.0.0.1"], True),
        ("hook.test", ["127.0.0.1"], False),
        ("hook.localhost", ["127.0.0.1"], True),
        ("2852039166", [], False),
        ("169.254.169.254.", [], False),
        ("0xa9fea9fe", [], False),
    ],
)
def test_the_guard_judges_every_address_before_a_connect(
    name: str, found: list[str], allowed: bool, dialled: list[str], resolve: Callable[..., None]
) -> None:
    transport = Transport(Guard())
    resolve(lambda *_: addresses(*found))
    outcome = post(transport, f"http://{name}/")
    transport.close()
    if allowed:
        assert outcome.status == 204 and dialled == found[:1]
    else:
        assert outcome.error and outcome.error.startswith("not connected: ") and name in outcome.error
        assert dialled == []


def test_a_name_that_turns_private_is_refused_at_the_next_connect(
    dialled: list[str], resolve: Callable[..., None], listener: Listener
) -> None:
    listener.answer = CLOSED
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


def test_the_next_address_is_tried_when_this_machine_knows_no_such_family(
    transport: Transport, listener: Listener, resolve: Callable[..., None]
) -> None:
    resolve(lambda *_: [(9_999, 1, 6, "", ("::1", 0, 0, 0)), *addresses("127.0.0.1")])
    assert post(transport, f"http://two.example:{listener.port}/").status == 204


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_next_address_is_tried_when_one_does_not_answer(
    scheme: str, transport: Transport, trusted: ssl.SSLContext, resolve: Callable[..., None]
) -> None:
    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            read_request(file)
        connection.sendall(NO_CONTENT)

    resolve(lambda *_: addresses("127.0.0.2", "127.0.0.1"))
    with raw_server(serve, trusted if scheme == "https" else None) as port, contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.2", port), backlog=0 if scheme == "http" else 9))
        for _ in range(4 if scheme == "http" else 0):  # fill the queue of connections that nobody accepts
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        assert post(transport, f"{scheme}://localhost:{port}/", 1.0).status == 204


def test_the_deadline_is_the_end_even_if_there_is_another_address(
    transport: Transport, resolve: Callable[..., None]
) -> None:
    resolve(lambda *_: addresses("127.0.0.1", "127.0.0.1", "127.0.0.1"))
    with raw_server(then_silence(b"")) as port:
        began = time.monotonic()
        assert post(transport, f"https://localhost:{port}/", SHORT).error == "timed out connecting"
        assert SHORT <= time.monotonic() - began < SHORT + 1


# --- resolving ------------------------------------------------------------------------------------------------


def resolvers() -> int:
    return sum(thread.name.startswith("resolve ") for thread in threading.enumerate())


@pytest.fixture
def hanging(resolve: Callable[..., None]) -> Iterator[set[str]]:
    """The names that hang in the resolver; all others are 127.0.0.1. In the end, it lets go of them."""
    names, gate = set[str](), threading.Event()

    def look_up(host: str, *_: object) -> Found:
        if host in names:
            gate.wait()
        return addresses("127.0.0.1")

    resolve(look_up)
    with held(gate):
        yield names
    gate.set()


def test_a_resolver_that_hangs_is_abandoned_at_the_deadline(transport: Transport, hanging: set[str]) -> None:
    hanging.add("slow.example")
    began = time.monotonic()
    assert post(transport, "http://slow.example/", SHORT).error == "timed out connecting"
    assert time.monotonic() - began < SHORT + 1


def test_names_that_hang_do_not_hold_up_a_name_that_is_known_to_resolve(
    transport: Transport, listener: Listener, hanging: set[str]
) -> None:
    listener.answer = CLOSED
    before = resolvers()  # of other tests
    url = f"http://well.example:{listener.port}/"
    assert post(transport, url).status == 200
    slow = [f"slow{number}.example" for number in range(64)]
    hanging.update(slow)
    for name in slow:
        assert post(transport, f"http://{name}/", 0.001).error == "timed out connecting"
    assert [post(transport, url).status for _ in range(5)] == [200] * 5
    assert resolvers() - before <= 11


def test_names_that_took_long_do_not_hold_up_new_ones(
    transport: Transport, listener: Listener, hanging: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, before = [f"slow{number}.example" for number in range(64)], resolvers()
    monkeypatch.setattr(connections, "PROMPT", -1.0)  # whatever was resolved by now took long
    for name in slow:
        post(transport, f"http://{name}:{listener.port}/")
    hanging.update(slow)
    listener.answer = CLOSED
    transport.pool.close_idle(0.0)
    for name in slow:
        assert post(transport, f"http://{name}:{listener.port}/", 0.001).error == "timed out connecting"
    assert post(transport, f"http://new.example:{listener.port}/").status == 200
    assert resolvers() - before <= 11


def test_one_look_up_is_for_all_who_ask_meanwhile(hanging: set[str]) -> None:
    hanging.add("slow.example")
    resolver = Resolver()
    first = resolver.look_up("slow.example")
    assert resolver.look_up("slow.example") is first and not first.done()


def test_a_name_is_looked_up_anew_once_it_was_resolved(hanging: set[str]) -> None:
    resolver = Resolver()
    first = resolver.look_up("well.example")
    assert first.result(SECONDS) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert resolver.look_up("well.example") is not first


def test_the_names_that_are_remembered_are_bounded(hanging: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REMEMBERED", 10)
    resolver = Resolver()
    for number in range(30):
        resolver.look_up(f"h{number}.example").result(SECONDS)
    assert len(resolver._kinds) <= 10 and len(resolver._pending) <= 11


def test_an_exit_does_not_wait_for_a_look_up_that_hangs() -> None:
    program = (
        "import socket, threading, time, terminal; from connections import Resolver\n"
        "began = threading.Event()\n"
        "def hang(*_):\n    began.set()\n    time.sleep(60)\n"
        "socket.getaddrinfo = hang; resolver = Resolver(); resolver.look_up('slow.example'); began.wait()\n"
        "terminal.run(lambda: print('end') or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=SECONDS)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"end", b"")


# --- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture
def names() -> list[str | None]:
    """The names that the receiver was asked for (SNI)."""
    return []


@pytest.fixture
def tls_port(tls: ssl.SSLContext, names: list[str | None]) -> Iterator[int]:
    """A receiver that speaks TLS, and answers 204."""

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while read_request(file):
                connection.sendall(NO_CONTENT)

    tls.sni_callback = lambda sock, name, context: names.append(name)
    with raw_server(serve, tls) as port:
        yield port


def test_a_certificate_that_nobody_vouches_for_is_refused_whatever_another_address_says(
    transport: Transport, tls_port: int, resolve: Callable[..., None]
) -> None:
    resolve(lambda *_: addresses("127.0.0.1", "127.0.0.2"))  # nothing listens on the second
    outcome = post(transport, f"https://localhost:{tls_port}/")
    assert outcome.error and outcome.error.startswith("the TLS certificate does not verify: ")


def test_certificates_are_checked_as_strictly_on_every_python() -> None:
    flags = connections.tls_context().verify_flags
    assert flags & ssl.VERIFY_X509_STRICT and flags & ssl.VERIFY_X509_PARTIAL_CHAIN


def test_a_connection_over_tls_is_used_again(
    transport: Transport, tls_port: int, trusted: ssl.SSLContext, names: list[str | None]
) -> None:
    assert [post(transport, f"https://localhost:{tls_port}/").status for _ in range(3)] == [204] * 3
    assert names == ["localhost"]


@pytest.mark.parametrize(
    "host, asked_for",
    [("localhost", "localhost"), ("localhost.", "localhost"), ("LOCALHOST", "localhost")]
    + [(address, None) for address in ("127.0.0.1", "127.1", "127.0.0.1.", "2130706433", "0x7f.1")],
)
def test_the_certificate_is_for_the_host_however_it_is_spelled(
    host: str, asked_for: str | None, transport: Transport, tls_port: int, trusted: ssl.SSLContext,
    names: list[str | None], hanging: set[str]
) -> None:  # fmt: skip
    outcome = post(transport, f"https://{host}:{tls_port}/")
    assert (outcome.status, outcome.error) == (204, None)
    assert names == [asked_for]


@pytest.mark.parametrize("host", ["127.0.0.2", "other.example", "localhost.example"])
def test_a_trusted_certificate_counts_for_its_names_only(
    host: str, transport: Transport, tls_port: int, trusted: ssl.SSLContext, hanging: set[str]
) -> None:
    outcome = post(transport, f"https://{host}:{tls_port}/")
    refused = host[0] == "1"  # nobody listens there
    expected = "connection refused" if refused else "the TLS certificate does not verify: "
    assert outcome.status == 0 and str(outcome.error).startswith(expected)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", b"\0" * 99])
def test_another_protocol_where_tls_was_asked_for_is_an_error(answer: bytes, transport: Transport) -> None:
    with raw_server(then_close(answer)) as port:
        outcome = post(transport, f"https://127.0.0.1:{port}/")
    assert outcome.error and outcome.status == 0 and "is it http://" in outcome.error and outcome.error.isprintable()


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x03"])
def test_a_handshake_that_is_cut_is_an_error(data: bytes, transport: Transport) -> None:
    def behave(connection: socket.socket) -> None:
        connection.recv(65_536)
        then_close(data)(connection)

    with raw_server(behave) as port:
        assert post(transport, f"https://127.0.0.1:{port}/").error == "the TLS connection was cut connecting"


def test_a_driver_may_wait_in_any_selector(listener: Listener) -> None:
    transport = Transport(selector=selectors.SelectSelector())
    assert [post(transport, listener.url()).status for _ in range(2)] == [204, 204]
    transport.close()
