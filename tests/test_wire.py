"""server.py and wire.py, spoken to in bytes: whatever a client, a proxy or an attacker sends has one right answer."""

from __future__ import annotations

import contextlib
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import SECONDS, Client, Response, held, request

import server as server_module
import wire
from server import Routes, Server
from terminal import Printer
from wire import Answer, Problem, Request

GET = request("GET", "/ok")
HOST = b"Host: localhost\r\n"
STOLEN = b"GET /stolen HTTP/1.1\r\nHost: localhost\r\n\r\n"  # a body that would pass for the next request
STALLED = request("POST", "/ok", b"{}", Expect="100-continue")[:-2]  # answered by 100, then waits for its body


def echo(asked: Request) -> Answer:
    body = None if asked.body is None else asked.body[:1_000].decode("latin-1")
    shown = ("method", "target", "path", "query", "headers", "authority", "peer", "parameters")
    return Answer(200, {name: getattr(asked, name) for name in shown} | {"body": body, "size": len(asked.body or b"")})


def read_json(asked: Request) -> Answer:
    value = asked.json()
    if not isinstance(value, dict):
        raise Problem(422, f"{value!r} is not an object")
    return Answer(200, value)


def bug(asked: Request) -> Answer:
    raise {"oserror": TimeoutError, "eof": EOFError}.get(asked.query.get("kind", ""), KeyError)("the innermost secret")


ROUTES: Routes = {
    "/ok": {"GET": echo, "POST": echo},
    "/items/{id}": {"GET": echo},
    "/json": {"POST": read_json},
    "/ignore": {"POST": lambda asked: Answer(204)},
    "/bug": {"GET": bug, "POST": lambda asked: Answer(200, {1}), "PUT": lambda asked: Answer(200, "\ud800")},
}


class Watched(Server):
    """A server whose tests know when a connection's thread has come to its end."""

    def __init__(self, routes: Routes, transcript: Printer | None = None) -> None:
        super().__init__(("127.0.0.1", 0), routes, transcript)
        self.ended = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.run, daemon=True)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.ended.release()

    def client(self) -> Client:
        return Client(self.server_port)


@contextlib.contextmanager
def serving(routes: Routes, transcript: Printer | None = None) -> Iterator[Watched]:
    server = Watched(routes, transcript)
    server.thread.start()
    try:
        yield server
    finally:
        server.stopping = True
        server.thread.join(SECONDS)


@pytest.fixture(scope="module")
def server() -> Iterator[Watched]:
    with serving(ROUTES) as it:
        yield it


@pytest.fixture
def client(server: Watched) -> Iterator[Client]:
    with server.client() as it:
        yield it


@pytest.fixture(autouse=True)
def stderr(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What has been written to stderr; nothing may be left there that the test did not ask for."""
    yield lambda: capfd.readouterr().err
    assert capfd.readouterr().err == ""


def is_problem(answer: Response, status: int, closes: bool) -> str:
    """The detail of an answer that has to be a problem."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers.get("connection") == "close") is closes
    problem = answer.json()
    assert list(problem) == ["title", "status", "detail"]
    assert problem["title"] and problem["status"] == status and problem["detail"]
    return str(problem["detail"])


def refused(client: Client, data: bytes, status: int = 400) -> None:
    """Sent `data`, the server answers with a problem and closes; the client's timeout is shorter than any of its."""
    with contextlib.suppress(OSError):  # it may close before it has read all
        client.send(data)
    is_problem(client.receive(), status, closes=True)
    assert client.closed()


def chunked(body: bytes, **fields: str) -> bytes:
    return request("POST", "/ok", None, **{"Transfer_Encoding": "chunked", **fields}) + body


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65_536), b""))


# --- one connection, many requests ------------------------------------------------------------------------------


def test_a_thousand_good_and_bad_requests_on_one_connection(client: Client) -> None:
    deep = b"[" * 5_000 + b"]" * 5_000
    kinds: list[tuple[Callable[[int], bytes], int, str]] = [
        (lambda n: request("GET", f"/ok?n={n}"), 200, '"n": "%d"'),
        (lambda n: request("POST", "/json", b'{"n": %d}' % n), 200, '{"n": %d}'),
        (lambda n: request("POST", "/json", b'{"n": %d' % n), 400, "not JSON"),
        (lambda n: request("POST", "/json", b'"\xff"'), 400, "not UTF-8"),
        (lambda n: request("POST", "/json", deep), 400, "nested too deeply"),
        (lambda n: request("GET", f"/no/{n}"), 404, "there is no /no/%d here"),
        (lambda n: request("POST", f"/no/{n}", STOLEN), 404, "there is no /no/%d here"),
        (lambda n: request("PUT", f"/items/{n}", STOLEN), 405, "/items/%d takes GET"),
        (lambda n: request("POST", "/json"), 411, "-H 'Content-Type: application/json'"),
        (lambda n: request("POST", "/json", STOLEN, Content_Type=f"a/x{n}"), 415, "a/x%d, expected application/json"),
        (lambda n: request("POST", "/json", b"%d" % n), 422, "%d is not an object"),
    ]
    seconds = []
    for n in range(1_000):
        build, status, words = kinds[n % len(kinds)]
        data = build(n)
        start = time.perf_counter()
        answer = client.ask(data)
        seconds.append(time.perf_counter() - start)
        assert (answer.status, answer.headers.get("connection")) == (status, None), (n, answer)
        assert (words % n if "%d" in words else words) in answer.body.decode(), n
        if status >= 400:
            is_problem(answer, status, closes=False)
        assert ("allow" in answer.headers) is (status == 405)
    assert statistics.median(seconds) < 0.005


def test_pipelined_requests_are_answered_in_order_up_to_the_malformed_one(client: Client) -> None:
    client.send(b"".join(request("POST", "/json", b'{"n": %d}' % n) for n in range(50)) + b"oops\r\n" + GET)
    assert [client.receive().json() for _ in range(50)] == [{"n": n} for n in range(50)]
    is_problem(client.receive(), 400, closes=True)
    assert client.closed()


@pytest.mark.parametrize("method, target, status", [("POST", "/ignore", 204), ("GET", "/ok", 200), ("BREW", "/", 404)])
@pytest.mark.parametrize("coded", [False, True])
def test_a_body_that_nobody_reads_is_not_the_next_request(
    client: Client, method: str, target: str, status: int, coded: bool
) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(STOLEN), STOLEN)
    data = request(method, target, Transfer_Encoding="chunked") + chunks if coded else request(method, target, STOLEN)
    assert client.ask(data).status == status
    assert client.ask(GET).json()["path"] == "/ok"


def test_a_request_may_come_byte_by_byte(client: Client) -> None:
    for byte in chunked(b"5\r\nhello\r\n0\r\n\r\n"):
        client.send(bytes([byte]))
    assert client.receive().json()["body"] == "hello"


def test_head_and_body_of_an_answer_arrive_as_one(client: Client) -> None:
    for data in (GET, request("GET", "/no")):
        client.send(data)
        head, _, body = client.sock.recv(65_536).partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n" and body


@pytest.mark.parametrize("rest", [b"0\r\n", b"0\r\nConnection: keep-alive\r\n", b"1\r\nConnection: Close\r\n" + HOST,
                                  b"0\r\nExpect: 100-continue\r\nContent-Length: 0\r\n"])  # fmt: skip
def test_a_connection_that_has_to_end_is_ended(client: Client, rest: bytes) -> None:
    answer = client.ask(b"GET /ok HTTP/1." + rest + b"\r\n")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert client.closed()


def test_no_connection_is_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_REQUESTS", 3)
    assert [client.ask(GET).headers.get("connection") for _ in range(3)] == [None, None, "close"]
    assert client.closed()


# --- methods, targets, fields -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/ok", "/no"])
def test_head_is_get_without_the_body(client: Client, target: str) -> None:
    get = client.ask(request("GET", target))
    client.send(request("HEAD", target))
    head = client.receive(head=True)
    assert (head.status, head.headers["content-type"]) == (get.status, get.headers["content-type"])
    assert int(head.headers["content-length"]) > 50
    assert client.ask(GET).status == 200, "nothing may have followed the head"


@pytest.mark.parametrize("method, target, status, allow", [
    ("OPTIONS", "/ok", 204, {"GET", "HEAD", "POST"}), ("OPTIONS", "/items/7", 204, {"GET", "HEAD"}),
    ("OPTIONS", "*", 204, set()), ("DELETE", "/ok", 405, {"GET", "HEAD", "POST"}), ("BREW", "/json", 405, {"POST"}),
    ("TRACE", "/items/7", 405, {"GET", "HEAD"}), ("get", "/ok", 405, {"GET", "HEAD", "POST"}),
])  # fmt: skip
def test_allow_names_the_methods(client: Client, method: str, target: str, status: int, allow: set[str]) -> None:
    answer = client.ask(request(method, target))
    assert answer.status == status
    assert set(answer.headers["allow"].split(", ")) - {"OPTIONS"} == allow
    assert client.ask(GET).status == 200


@pytest.mark.parametrize("target, path, query, parameters", [
    ("/ok?a=1&b=&a=%262+3", "/ok", {"a": "&2 3", "b": ""}, []),
    ("/%6Fk", "/ok", {}, []),
    ("/items/a%20b%3F", "/items/a b?", {}, ["a b?"]),
    ("/items/a%2Fb", "/items/a%2Fb", {}, ["a%2Fb"]),
    ("/items/%zz", "/items/%zz", {}, ["%zz"]),
    ("http://localhost/ok", "/ok", {}, []),
    ("HTTPS://localhost:443/ok?a=/", "/ok", {"a": "/"}, []),
    ("http://[::1]:80/items/1", "/items/1", {}, ["1"]),
])  # fmt: skip
def test_targets(client: Client, target: str, path: str, query: dict[str, str], parameters: list[str]) -> None:
    got = client.ask(request("GET", target)).json()
    assert (got["target"], got["path"], got["query"], got["parameters"]) == (target, path, query, parameters)


@pytest.mark.parametrize("target", ["/", "//ok", "/ok/", "/ok//", "/items/", "/items/a/b", "/./ok", "/ok%00",
                                    "/items%2F1", "/%FF", "http://localhost", "http://localhost?/ok"])  # fmt: skip
def test_paths_that_are_none_of_ours(client: Client, target: str) -> None:
    assert "known are /ok, " in is_problem(client.ask(request("GET", target)), 404, closes=False)


def test_an_absolute_target_says_whom_the_client_means(client: Client) -> None:
    got = client.ask(request("POST", "https://hooks.example:8443/ok", b"{}", Host="inside.example")).json()
    assert (got["authority"], got["headers"]["host"], got["body"]) == ("hooks.example:8443", "inside.example", "{}")


def test_fields_are_trimmed_joined_and_kept(client: Client) -> None:
    lines = b"HOST:localhost:1\r\nA: \t b  c\t \r\nEmpty:\r\na:d\r\nE: \xe9\r\nExpect: nothing\r\n\r\n"
    got = client.ask(b"\r\nGET /ok HTTP/1.1\r\n" + lines).json()  # after one empty line, which is tolerated
    assert got["headers"] == {"host": "localhost:1", "a": "b  c, d", "empty": "", "e": "é", "expect": "nothing"}
    assert (got["authority"], got["peer"], got["body"]) == ("localhost:1", "127.0.0.1", None)


# --- malformed requests -------------------------------------------------------------------------------------------


def framed(lines: bytes) -> bytes:
    return b"POST /ok HTTP/1.1\r\n" + HOST + lines + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def host(fields: bytes, target: bytes = b"/ok") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + fields + b"\r\n"


LENGTH, CHUNKED = b"Content-Length: 5", b"Transfer-Encoding: chunked"
BROKEN: dict[str, tuple[Callable[[bytes], bytes], list[bytes]]] = {
    "length": (lambda value: framed(b"Content-Length: " + value),
               [b"-1", b"+5", b"5.0", b"five", b"", b"0x5", b"5 5", b"5, 5", b"\xb2", b"1_0"]),
    "two framings": (lambda second: framed(LENGTH + b"\r\n" + second), [LENGTH, b"content-length: 6", CHUNKED]),
    "chunked and": (lambda second: framed(CHUNKED + b"\r\n" + second), [LENGTH, CHUNKED]),
    "coding in HTTP/1.0": (lambda old: framed(CHUNKED).replace(b"HTTP/1.1", old), [b"HTTP/1.0"]),
    "start": (lambda data: data, [
        b"GET /ok HTTP/1.1\n" + HOST + b"\r\n", b"GET HTTP/1.1\r\n", b"GET /ok http/1.1\r\n", b"GET /ok\r\n",
        b"\r\n\r\n", b"GET /ok HTTP/3.0\r\n" + HOST + b"\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00", b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    ]),
    "field": (lambda field: host(HOST + field), [
        b"A: b\n", b"\n", b"A: b\rC: d\r\n", b"A: b\r\n c\r\n", b"A : b\r\n", b"A\r\n", b": b\r\n",
        b"A: b\0\r\n", b"A\0: b\r\n",
    ]),
    "fields": (host, [b"", HOST + HOST, b" " + HOST, b"Host: localhost\n", b"Host : localhost\r\n"]),
    "Host": (lambda value: host(b"Host: " + value + b"\r\n"),
             [b"a b", b"a/b", b"a@b", b"a:b", b"a, b", b"[::1", b"a:80:80", b"\xe9", b"a?"]),
    "Host beside an absolute target": (lambda value: host(b"Host: " + value, b"http://localhost/ok"), [b"a b\r\n"]),
    "target": (lambda target: host(HOST, target), [
        b"/ok\0", b"/\xe9", b"/o k", b" /ok", b"*", b"ok", b"localhost:80", b"ftp://localhost/ok", b"http:///ok",
        b"http://a:b@localhost/ok",
    ]),
    "chunk size": (lambda size: chunked(size + b"\r\nhello\r\n0\r\n\r\n"),
                   [b"", b"g", b"-5", b"+5", b"0x5", b" 5", b"000000005", b"5 5", b"5;a\0", b"5\n5", b"5_0"]),
    "chunks": (chunked, [
        b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"4\r\nhello\r\n0\r\n\r\n", b"6\r\nhello\r\n0\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
    ]),
}  # fmt: skip
MALFORMED = {f"{kind} {case!r}": build(case) for kind, (build, cases) in BROKEN.items() for case in cases}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_are_refused_and_the_connection_closed(client: Client, data: bytes) -> None:
    refused(client, data + GET)


def test_https_on_the_plain_port_is_told_so(client: Client) -> None:
    assert "https" in is_problem(client.ask(b"\x16\x03\x01"), 400, closes=True)  # too short for anybody's line


@pytest.mark.parametrize("body", [
    b"5\r\nhello\r\n0\r\n\r\n", b"0005\r\nhello\r\n00\r\n\r\n", b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
    b'5;a=b;c="d;e"\r\nhello\r\n0;last\r\n\r\n', b"5 \t\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n",
], ids=["one", "zeros", "two", "extensions", "blanks", "trailers"])  # fmt: skip
def test_chunked_bodies_are_read(client: Client, body: bytes) -> None:
    for coding in ("chunked", "Chunked"):
        got = client.ask(chunked(body, Transfer_Encoding=coding)).json()
        assert (got["body"], "c" in got["headers"]) == ("hello", False)
    got = client.ask(chunked(b"A\r\n0123456789\r\n0\r\n\r\n")).json()
    assert got["body"] == "0123456789"


@pytest.mark.parametrize("data", [request("POST", "/ok", b"{}")[:-1], chunked(b"5\r\nhell"), chunked(b"2\r\n{}\r\n")])
def test_a_body_cut_short_is_no_request(client: Client, data: bytes) -> None:
    client.send(data)
    client.sock.shutdown(socket.SHUT_WR)  # it could still read an answer
    assert everything(client.sock) == b""


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", ""])
def test_other_transfer_codings_are_not_known(client: Client, coding: str) -> None:
    refused(client, chunked(b"5\r\nhello\r\n0\r\n\r\n", Transfer_Encoding=coding), 501)


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
def test_a_client_that_asks_first_is_told_to_go_on_or_not_to(client: Client, value: str) -> None:
    head = request("POST", "/json", b'{"a": 1}', Expect=value).removesuffix(b'{"a": 1}')
    assert client.ask(head).status == 100
    assert client.ask(b'{"a": 1}').json() == {"a": 1}
    assert client.ask(chunked(b"", Expect=value)).status == 100
    assert client.ask(b"2\r\n{}\r\n0\r\n\r\n").json()["body"] == "{}"
    refused(client, request("POST", "/ok", Expect=value, Content_Length="99999999"), 413)


# --- limits ------------------------------------------------------------------------------------------------------


def head_of(size: int) -> bytes:
    """A request whose fields have `size` bytes in all, none of them over MAX_LINE."""
    lines, left = [HOST], size - len(HOST)
    while left:
        step = left if left <= wire.MAX_LINE else min(wire.MAX_LINE, left - 10)
        lines.append(b"a%02d: %s\r\n" % (len(lines), b"x" * (step - 7)))
        left -= step
    return host(b"".join(lines))


LIMITS: dict[str, tuple[Callable[[int], bytes], int, int]] = {
    "request line": (lambda n: host(HOST, b"/ok?" + b"x" * (n - 19)), wire.MAX_LINE, 414),
    "field": (lambda n: host(HOST + b"A: " + b"x" * (n - 5) + b"\r\n"), wire.MAX_LINE, 431),
    "number of fields": (lambda n: host(HOST + b"".join(b"a%d:\r\n" % i for i in range(n - 1))), wire.MAX_FIELDS, 431),
    "one name": (lambda n: host(HOST + b"a: b\r\n" * (n - 1)), wire.MAX_FIELDS, 431),
    "fields in all": (head_of, wire.MAX_HEAD, 431),
    "body": (lambda n: request("POST", "/ok", bytes(n)), wire.MAX_BODY, 413),
    "chunked body": (lambda n: chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (n, bytes(n))), wire.MAX_BODY, 413),
    "two chunks": (lambda n: chunked(b"1\r\nx\r\n%x\r\n%s\r\n0\r\n\r\n" % (n - 1, bytes(n - 1))), wire.MAX_BODY, 413),
    "number of chunks": (lambda n: chunked(b"1\r\nx\r\n" * n + b"0\r\n\r\n"), wire.MAX_CHUNKS, 413),
    "chunk extension": (lambda n: chunked(b"0;" + b"x" * (n - 4) + b"\r\n\r\n"), wire.MAX_LINE, 400),
    "trailers": (lambda n: chunked(b"0\r\n" + b"a: b\r\n" * n + b"\r\n"), wire.MAX_FIELDS, 431),
    "query parameters": (lambda n: host(HOST, b"/ok?" + b"&".join([b"a=b"] * n)), wire.MAX_FIELDS, 400),
}


@pytest.mark.parametrize("build, limit, status", LIMITS.values(), ids=LIMITS)
def test_a_limit_is_inclusive_and_one_past_it_is_refused(
    client: Client, server: Watched, build: Callable[[int], bytes], limit: int, status: int
) -> None:
    assert client.ask(build(limit)).status == 200
    assert client.ask(GET).status == 200
    with server.client() as other:
        refused(other, build(limit + 1), status)


@pytest.mark.parametrize("value", [wire.MAX_BODY + 1, 10**15, 10**400])
def test_a_length_too_large_is_refused_before_the_body_comes(client: Client, value: int) -> None:
    refused(client, request("POST", "/ok", Content_Length=str(value)), 413)


@pytest.mark.parametrize("data, status, phrase", [
    (request("POST", "/ok", Content_Length="1048577"), 413, "Content Too Large"),
    (b"GET /" + b"x" * 10_000, 414, "URI Too Long"),
    (request("POST", "/json", b"1"), 422, "Unprocessable Content"),
], ids=["413", "414", "422"])  # fmt: skip
def test_the_words_of_a_status_are_the_same_on_every_python(
    client: Client, data: bytes, status: int, phrase: str
) -> None:
    client.send(data)
    answer = client.sock.recv(65_536).decode()
    assert answer.startswith(f"HTTP/1.1 {status} {phrase}\r\n")
    assert f'"title": "{phrase}"' in answer


def test_a_field_of_blanks_costs_no_time(client: Client) -> None:
    """A pattern that tries all ways to divide them up takes seconds here, and minutes for a whole MAX_LINE."""
    start = time.perf_counter()
    refused(client, host(HOST + b"A:" + b" " * 2_000 + b"\x01\r\n"))
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("start", [b"G", b"GET /ok HTTP/1.1\r\nA: ", request("POST", "/ok", Content_Length="9999"),
                                   chunked(b"ffff\r\n")], ids=["line", "field", "body", "chunk"])  # fmt: skip
def test_a_request_that_drips_in_has_one_deadline(
    client: Client, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.2)
    begin, answer = time.monotonic(), b""
    client.send(start)
    client.sock.settimeout(0.02)
    while not answer:
        assert time.monotonic() - begin < SECONDS, "each byte starts the time anew"
        client.send(b"x")
        with contextlib.suppress(TimeoutError):
            answer = client.sock.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"application/problem+json" in answer


def test_an_idle_connection_is_closed_without_a_word(server: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE_SECONDS", 0.1)
    with server.client() as silent, server.client() as used:
        assert used.ask(GET).headers.get("connection") is None
        assert everything(used.sock) == everything(silent.sock) == b""


# --- many connections -----------------------------------------------------------------------------------------------


class Gate:
    """A handler that says when it has been entered and answers when it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Semaphore(0), threading.Event()

    def __call__(self, asked: Request) -> Answer:
        self.entered.release()
        assert self.opened.wait(SECONDS)
        return Answer(200, {})

    def enter(self, client: Client, **fields: str) -> None:
        client.send(request("GET", "/gate", None, **fields))
        assert self.entered.acquire(timeout=SECONDS)


def test_the_longest_waiting_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 4)
    gate = Gate()
    with held(gate.opened), serving({**ROUTES, "/gate": {"GET": gate}}) as server, contextlib.ExitStack() as stack:
        busy, first, second, third = (stack.enter_context(server.client()) for _ in range(4))
        gate.enter(busy)
        assert [client.ask(STALLED).status for client in (first, second, third)] == [100] * 3
        new = stack.enter_context(server.client())  # only now: before, `busy` could have been the longest to wait
        assert new.ask(STALLED).status == 100
        assert first.closed()
        gate.opened.set()
        assert busy.receive().status == 200
        assert [client.ask(b"{}").status for client in (second, third, new)] == [200] * 3


def test_a_connection_is_turned_away_when_all_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    gate = Gate()
    with held(gate.opened), serving({**ROUTES, "/gate": {"GET": gate}}) as server, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(server.client()) for _ in range(2)]
        for client in busy:
            gate.enter(client, Connection="close")
        with server.client() as late:
            answer = late.receive()
            assert late.closed()
        gate.opened.set()
        assert [(client.receive().status, client.closed()) for client in busy] == [(200, True)] * 2
        with server.client() as later:
            assert later.ask(GET).status == 200
    assert answer.headers["retry-after"].isdigit()
    is_problem(answer, 503, closes=True)


def test_a_burst_of_connections_finds_room_in_the_backlog() -> None:
    server = Watched(ROUTES)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(100)]  # nobody accepts them yet
        server.thread.start()
        assert {client.ask(GET).status for client in clients} == {200}
        server.stopping = True
        server.thread.join(SECONDS)


def test_stopping_ends_run_and_lets_a_request_in_work_finish() -> None:
    gate = Gate()
    with held(gate.opened), serving({**ROUTES, "/gate": {"GET": gate}}) as server:
        with server.client() as waiting, server.client() as busy:
            assert waiting.ask(STALLED).status == 100
            gate.enter(busy)
            server.stopping = True
            assert waiting.closed()
            server.thread.join(SECONDS)
            assert not server.thread.is_alive()
            with pytest.raises(OSError):
                server.client()
            gate.opened.set()
            assert busy.receive().status == 200
            with pytest.raises((EOFError, OSError)):
                busy.ask(GET)  # the rest of the program may be gone by now


def test_a_client_that_hangs_up_leaves_no_trace() -> None:
    """Nothing on stderr (see the fixture), and a thread that ends."""
    gone = [b"", b"GE", b"\r\n", GET[:-2], GET, STALLED, request("POST", "/ok", b"{}")[:-1], chunked(b"5\r\nhe")]
    with serving(ROUTES) as server:
        for data in gone:
            for reset in (False, True):
                with server.client() as client:
                    client.send(data)
                    if reset:
                        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                assert server.ended.acquire(timeout=SECONDS), (data, reset)


def test_binding_asks_no_name_server_and_a_taken_port_is_one_line(
    server: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("this can take seconds"))
    Watched(ROUTES).server_close()
    with pytest.raises(OSError, match=f"^127.0.0.1 port {server.server_port}: .*; name another --port$"):
        Server(("127.0.0.1", server.server_port), ROUTES)


# --- handlers and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, target, name", [
    ("GET", "/bug", "KeyError"), ("GET", "/bug?kind=oserror", "TimeoutError"), ("GET", "/bug?kind=eof", "EOFError"),
    ("POST", "/bug", "TypeError"), ("PUT", "/bug", "UnicodeEncodeError"),
])  # fmt: skip
def test_a_bug_is_a_problem_for_the_client_and_one_line_for_us(
    client: Client, stderr: Callable[[], str], method: str, target: str, name: str
) -> None:
    answer = client.ask(request(method, target))
    assert "secret" not in is_problem(answer, 500, closes=False)
    line = stderr()
    assert name in line and f"{method} /bug" in line and line.count("\n") == 1
    assert client.ask(GET).status == 200


def answering(answer: Callable[[], Answer]) -> Any:
    return serving({"/ok": {"GET": lambda asked: answer()}})


def test_then_runs_after_the_answer() -> None:
    opened, done = threading.Event(), threading.Event()

    def then() -> None:
        assert opened.wait(SECONDS)
        done.set()

    with held(opened), answering(lambda: Answer(200, "now", then=then)) as server, server.client() as client:
        assert client.ask(GET).json() == "now"
        assert not done.is_set()
        opened.set()
        assert done.wait(SECONDS)


@pytest.mark.parametrize("error", [TimeoutError(), EOFError(), OSError(), KeyError(), Problem(400, "late")], ids=repr)
@pytest.mark.parametrize("where", ["then", "stream"])
def test_an_error_after_the_answer_is_no_second_answer(
    stderr: Callable[[], str], error: Exception, where: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    answer = Answer(then=fail) if where == "then" else Answer(stream=fail)
    with answering(lambda: answer) as server, server.client() as client:
        client.send(request("GET", "/ok", Connection="close"))
        assert everything(client.sock).count(b"HTTP/1.1 ") == 1
        assert server.ended.acquire(timeout=SECONDS)
    assert stderr().count("\n") <= 1


def test_a_stream_is_sent_as_it_comes_until_it_ends() -> None:
    opened = threading.Event()

    def stream(send: Callable[[bytes], None]) -> None:
        send(b"one")
        assert opened.wait(SECONDS)
        send(b"two")

    with held(opened), answering(lambda: Answer(type="text/event-stream", stream=stream)) as server:
        with server.client() as client:
            client.send(GET)
            data = b""
            while not data.endswith(b"\r\n\r\none"):
                data += client.sock.recv(65_536)
            assert b"Content-Type: text/event-stream\r\n" in data and b"Connection: close\r\n" in data
            assert b"Content-Length" not in data
            opened.set()
            assert everything(client.sock) == b"two"
        with server.client() as client:
            client.send(request("HEAD", "/ok"))
            assert everything(client.sock).endswith(b"\r\n\r\n")


def test_a_client_that_takes_nothing_does_not_hold_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SEND_SECONDS", 0.2)
    ended: list[Exception] = []

    def stream(send: Callable[[bytes], None]) -> None:
        try:
            while True:
                send(bytes(65_536))
        except Exception as error:
            ended.append(error)
            raise

    with answering(lambda: Answer(stream=stream)) as server, server.client() as client:
        client.send(GET)
        assert server.ended.acquire(timeout=SECONDS)
    assert [type(error) for error in ended] == [TimeoutError]


def test_a_raw_answer_has_the_connection_to_itself() -> None:
    with answering(lambda: Answer(raw=lambda sock: sock.sendall(b"as I like"))) as server, server.client() as client:
        client.send(GET + GET)
        assert client.sock.recv(65_536) == b"as I like"
        assert client.closed()


class Tape(Printer):
    """What a transcript is given, instead of what it makes of it."""

    def __init__(self) -> None:
        self.shown: list[tuple[bytes, bytes]] = []
        self.sizes: list[int | None] = []  # of the requests

    def show(self, title: str, *messages: tuple[str, bytes, int | None]) -> None:
        (to, asked, size), (fro, answered, _) = messages
        assert (to, fro) == ("< ", "> ") and "127.0.0.1" in title
        self.shown.append((asked, answered))
        self.sizes.append(size)


@pytest.mark.parametrize("data", [
    request("POST", "/json", b'"\xff"'), chunked(b"5;a\r\nhello\r\n0\r\nB: c\r\n\r\n"), b"\r\n" + GET,
    host(b"A : b\r\n"),
], ids=["not JSON", "chunks", "an empty line", "malformed"])  # fmt: skip
def test_the_transcript_has_the_bytes_as_they_were(data: bytes) -> None:
    tape = Tape()
    with serving(ROUTES, tape) as server, server.client() as client:
        client.send(data)
        answer = client.sock.recv(65_536)
    ((asked, answered),) = tape.shown
    assert answered == answer
    assert asked == data if b"A : b" not in data else data.startswith(asked) and b"A : b" in asked


@pytest.mark.parametrize("data", [
    request("POST", "/json", b" " * 200_000), chunked(b"fa00\r\n%b\r\n" % (b" " * 64_000) * 3 + b"0\r\n\r\n"),
], ids=["a length", "chunks"])  # fmt: skip
def test_the_transcript_keeps_the_beginning_and_the_size_of_what_is_long(data: bytes) -> None:
    tape = Tape()
    with serving(ROUTES, tape) as server, server.client() as client:
        client.ask(data)
    ((asked, _),) = tape.shown
    assert asked == data[:65_536] and tape.sizes == [len(data)]
