"""server.py: connections, threads and routes, with clients that are quick, slow, silent or gone."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import GET, HOST, ROUTES, STALLED, STOLEN, Watched, chunked, everything, host, is_problem, serving
from support import ROOT, SECONDS, Client, held, request

import server as server_module
from server import Server, page
from wire import SEEN, Answer, Problem, Request


@pytest.fixture(autouse=True)
def nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr().err == ""


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


def test_https_on_the_plain_port_is_told_so(client: Client) -> None:
    assert "https" in is_problem(client.ask(b"\x16\x03\x01"), 400, closes=True)  # too short for anybody's line


@pytest.mark.parametrize("start", [b"G", b"GET /ok HTTP/1.1\r\nA: ", request("POST", "/ok", Content_Length="9999"),
                                   chunked(b"ffff\r\n")], ids=["line", "field", "body", "chunk"])  # fmt: skip
def test_a_request_that_drips_in_has_one_deadline(
    client: Client, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(server_module, "CLIENT_SECONDS", 0.2)
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
    monkeypatch.setattr(server_module, "CLIENT_SECONDS", 0.1)
    with server.client() as silent, server.client() as used:
        assert used.ask(GET).headers.get("connection") is None
        assert everything(used.sock) == everything(silent.sock) == b""


# --- bodies that nobody can delimit --------------------------------------------------------------------------------


@pytest.mark.parametrize("method, target, status", [
    ("POST", "/json", 411), ("DELETE", "/ok", 405), ("POST", "/no", 404), ("POST", "/ok", 200), ("GET", "/ok", 200),
])  # fmt: skip
@pytest.mark.parametrize("field", ["Content-Type: application/json", "content-encoding: gzip", "Expect: 100-continue"])
def test_a_body_without_a_length_is_not_the_next_request(
    client: Client, method: str, target: str, status: int, field: str
) -> None:
    """Node's http.request sends DELETE like this, and keeps the connection open."""
    client.send(request(method, target).removesuffix(b"\r\n") + field.encode() + b"\r\n\r\n" + STOLEN)
    answer = client.receive()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert client.closed()


def test_a_body_that_is_missing_ends_the_connection(client: Client) -> None:
    client.send(request("POST", "/json") + STOLEN)
    assert "-H 'Content-Type: application/json'" in is_problem(client.receive(), 411, closes=True)
    assert client.closed()


def test_a_get_whose_route_says_so_has_no_head() -> None:
    asked: list[str] = []

    def note(request: Request) -> Answer:
        asked.append(request.method)
        return Answer(200, "done")

    with serving({"/send": {"GET": note, "HEAD": None}}) as server, server.client() as client:
        client.send(request("HEAD", "/send"))
        head = client.receive(head=True)
        assert (head.status, head.headers["allow"]) == (405, "GET")
        assert client.ask(request("OPTIONS", "/send")).headers["allow"] == "GET"
        assert client.ask(request("GET", "/send")).json() == "done"
    assert asked == ["GET"]


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
        server.stop()
        server.thread.join(SECONDS)


def test_stopping_ends_run_and_lets_a_request_in_work_finish() -> None:
    gate = Gate()
    with held(gate.opened), serving({**ROUTES, "/gate": {"GET": gate}}) as server, contextlib.ExitStack() as stack:
        waiting, busy = (stack.enter_context(server.client()) for _ in range(2))
        assert waiting.ask(STALLED).status == 100
        gate.enter(busy)
        server.stop()
        assert waiting.closed()
        server.thread.join(SECONDS)
        assert not server.thread.is_alive()
        with pytest.raises(OSError):
            server.client()
        gate.opened.set()
        assert busy.receive().status == 200
        with pytest.raises((EOFError, OSError)):
            busy.ask(GET)  # the rest of the program may be gone by now


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is seen when `timeout` is over")
def test_stop_is_seen_at_once() -> None:
    server = Watched(ROUTES)
    server.timeout = 2 * SECONDS
    server.thread.start()
    with server.client() as client:
        assert client.ask(GET).status == 200
        server.stop()
        server.thread.join(SECONDS)
        assert not server.thread.is_alive()


def test_stopping_lets_an_answer_on_its_way_arrive() -> None:
    body = bytes(20_000_000)  # more than the buffers of both sides take
    with serving({"/big": {"GET": lambda asked: Answer(200, body)}}) as server, server.client() as client:
        client.send(request("GET", "/big"))
        beginning = client.sock.recv(1_000)
        server.stop()
        server.thread.join(SECONDS)
        assert not server.thread.is_alive()
        data = beginning + everything(client.sock)
    assert data.endswith(body)


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


# --- without file descriptors --------------------------------------------------------------------------------------

FEW = """
import os, resource, sys, threading, time
sys.path.insert(0, sys.argv[1])
from server import Server, page
from wire import Answer
server = Server(("127.0.0.1", 0), {"/ok": {"GET": lambda request: Answer(200)}})
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    for _ in range(int(sys.argv[2])):
        os.close(taken.pop())
threading.Thread(target=server.run, daemon=True).start()
print(server.server_port, flush=True)
for line in sys.stdin:
    if line.strip() == "free":
        os.close(taken.pop())
    began = time.process_time()
    time.sleep(0.25)
    print(time.process_time() - began, flush=True)
"""
needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="there is no limit to be lowered")


@contextlib.contextmanager
def few_descriptors(free: int) -> Iterator[tuple[int, Callable[[str], float]]]:
    """A server in a process with so many free file descriptors: its port, and its CPU seconds in a quarter of one."""
    command = [sys.executable, "-c", FEW, str(ROOT), str(free)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def tell(line: str) -> float:
            stdin.write(line + "\n")
            stdin.flush()
            return float(stdout.readline())

        try:
            yield int(stdout.readline()), tell
        finally:
            process.kill()


@needs_limits
def test_silent_callers_with_all_file_descriptors_cost_nothing_and_keep_nobody_out() -> None:
    with few_descriptors(20) as (port, tell), contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(Client(port))
        with Client(port) as client:
            assert client.ask(GET).status == 200
        assert tell("measure") < 0.1


@needs_limits
def test_a_caller_without_a_file_descriptor_waits_for_one_and_costs_nothing() -> None:
    with few_descriptors(0) as (port, tell), Client(port) as client:
        client.send(GET)
        used = tell("measure")
        tell("free")
        assert client.receive().status == 200
    assert used < 0.1


# --- handlers and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, target, name", [
    ("GET", "/bug", "KeyError"), ("GET", "/bug?kind=oserror", "TimeoutError"), ("GET", "/bug?kind=eof", "EOFError"),
    ("POST", "/bug", "TypeError"), ("PUT", "/bug", "UnicodeEncodeError"),
])  # fmt: skip
def test_a_bug_is_a_problem_for_the_client_and_named_for_us(method: str, target: str, name: str) -> None:
    said: list[tuple[str, ...]] = []
    with serving(ROUTES, log=lambda *lines: said.append(lines)) as server, server.client() as client:
        answer = client.ask(request(method, target))
        assert "secret" not in is_problem(answer, 500, closes=False)
        assert client.ask(GET).status == 200
    ((line, note),) = said
    assert line == f"{method} /bug: 500, an error on our side"
    assert note.startswith(f"  {name}(") and re.search(r"\) at \w+\.py:\d+$", note)


def answering(answer: Callable[[], Answer], log: Callable[..., None] = lambda *lines: None) -> Any:
    return serving({"/ok": {"GET": lambda asked: answer()}}, log=log)


def test_a_request_that_is_refused_leaves_nothing_for_the_search_for_cycles() -> None:
    bodies: list[weakref.ref[Any]] = []

    def refuse() -> Answer:
        body = Pieces()
        bodies.append(weakref.ref(body))
        raise Problem(422, "no")

    gc.disable()
    try:
        with answering(refuse) as server, server.client() as client:
            assert [client.ask(GET).status for _ in range(2)] == [422, 422]  # the second time, the first one is over
            assert bodies[0]() is None
    finally:
        gc.enable()


def test_after_runs_after_the_answer() -> None:
    opened, told = threading.Event(), threading.Event()

    def after(sent: bool) -> None:
        assert opened.wait(SECONDS) and sent
        told.set()

    with held(opened), answering(lambda: Answer(200, "now", after=after)) as server, server.client() as client:
        assert client.ask(GET).json() == "now"
        assert not told.is_set()
        opened.set()
        assert told.wait(SECONDS)


class Pieces:
    """A stream that notes its end; `then` is called after its two pieces."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.then, self.left, self.closed = then, [b"two", b"one"], 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            self.then()
            raise StopIteration
        return self.left.pop()

    def close(self) -> None:
        self.closed += 1


def fail(error: BaseException) -> Any:
    raise error


def hold(sock: socket.socket) -> None:
    sock.sendall(b"as I like")


def failing(pieces: Pieces) -> dict[str, Any]:
    pieces.then = lambda: fail(OSError())
    return {"body": pieces}


ENDS: dict[str, tuple[Callable[[Pieces], dict[str, Any]], bytes, bool]] = {
    "an answer": (lambda pieces: {"body": [1]}, GET, True),
    "no body": (lambda pieces: {"status": 204}, GET, True),
    "a stream": (lambda pieces: {"body": pieces}, GET, True),
    "the head of a stream": (lambda pieces: {"body": pieces}, request("HEAD", "/ok"), True),
    "a stream that fails": (failing, GET, False),
    "a head that cannot be written": (lambda pieces: {"body": pieces, "headers": {"A": "\u20ac"}}, GET, False),
    "a takeover": (lambda pieces: {"takeover": hold}, GET, True),
    "a takeover that fails": (lambda pieces: {"takeover": lambda sock: fail(OSError())}, GET, False),
}  # fmt: skip


@pytest.mark.parametrize("build, asked, sent", ENDS.values(), ids=ENDS)
def test_the_end_is_told_once_and_a_stream_is_closed_whatever_happens(
    build: Callable[[Pieces], dict[str, Any]], asked: bytes, sent: bool
) -> None:
    told: list[tuple[bool, int]] = []
    said: list[str] = []
    pieces = Pieces()
    answer = Answer(**build(pieces), after=lambda sent: told.append((sent, pieces.closed)))
    with answering(lambda: answer, log=lambda *lines: said.extend(lines)) as server, server.client() as client:
        client.send(asked)
        client.sock.shutdown(socket.SHUT_WR)
        everything(client.sock)
        assert server.ended.acquire(timeout=SECONDS)
    assert told == [(sent, 1 if answer.stream else 0)]
    assert any("UnicodeEncodeError" in line for line in said) == ("\u20ac" in answer.headers.values())  # a bug of ours


def test_the_end_is_told_when_the_client_is_gone() -> None:
    gone, told = threading.Event(), threading.Semaphore(0)
    ends: list[bool] = []

    def after(sent: bool) -> None:
        ends.append(sent)
        told.release()

    def late() -> Answer:
        assert gone.wait(SECONDS)
        return Answer(200, bytes(10_000_000), after=after)

    with held(gone), answering(late) as server:
        with server.client() as client:
            client.send(GET)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        assert told.acquire(timeout=SECONDS)
    assert ends == [False]


@pytest.mark.parametrize("error", [TimeoutError(), EOFError(), OSError(), KeyError(), Problem(400, "late")], ids=repr)
@pytest.mark.parametrize("where", ["after", "stream"])
def test_an_error_after_the_answer_is_no_second_answer(error: Exception, where: str) -> None:
    answer = Answer(after=lambda sent: fail(error)) if where == "after" else Answer(body=Pieces(lambda: fail(error)))
    with answering(lambda: answer) as server, server.client() as client:
        client.send(request("GET", "/ok", Connection="close"))
        assert everything(client.sock).count(b"HTTP/1.1 ") == 1
        assert server.ended.acquire(timeout=SECONDS)


def test_a_stream_is_sent_as_it_comes_until_it_ends() -> None:
    opened = threading.Event()

    def stream() -> Iterator[bytes]:
        yield b"one"
        assert opened.wait(SECONDS)
        yield b"two"

    with held(opened), answering(lambda: Answer(200, stream(), type="text/event-stream")) as server:
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
    monkeypatch.setattr(server_module, "CLIENT_SECONDS", 0.2)
    ended: list[bool] = []

    def stream() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(65_536)
        finally:
            ended.append(True)

    with answering(lambda: Answer(200, stream())) as server, server.client() as client:
        client.send(GET)
        assert server.ended.acquire(timeout=SECONDS)
    assert ended == [True]


def test_a_takeover_has_the_connection_to_itself() -> None:
    with answering(lambda: Answer(takeover=hold)) as server, server.client() as client:
        client.send(GET + GET)
        assert client.sock.recv(65_536) == b"as I like"
        assert client.closed()


class Shown:
    """What a transcript is given."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, bytes]] = []
        self.sizes: list[int | None] = []  # of the requests

    def show(self, title: str, *messages: tuple[str, bytes, int | None]) -> None:
        ((mark, data, size),) = messages
        assert title.startswith("--- 127.0.0.1 port ")
        self.shown.append((mark, data))
        self.sizes += [size] * (mark == "< ")


@pytest.mark.parametrize("data", [
    request("POST", "/json", b'"\xff"'), chunked(b"5;a\r\nhello\r\n0\r\nB: c\r\n\r\n"), b"\r\n" + GET,
    host(b"A : b\r\n"),
], ids=["not JSON", "chunks", "an empty line", "malformed"])  # fmt: skip
def test_the_transcript_has_the_bytes_as_they_were(data: bytes) -> None:
    printer = Shown()
    with serving(ROUTES, printer.show) as server, server.client() as client:
        client.send(data)
        answer = client.sock.recv(65_536)
    (to, asked), (fro, answered) = printer.shown
    assert (to, fro, answered) == ("< ", "> ", answer)
    assert asked == data if b"A : b" not in data else data.startswith(asked) and b"A : b" in asked


@pytest.mark.parametrize("data", [
    request("POST", "/json", b" " * 200_000), chunked(b"fa00\r\n%b\r\n" % (b" " * 64_000) * 3 + b"0\r\n\r\n"),
], ids=["a length", "chunks"])  # fmt: skip
def test_the_transcript_keeps_the_beginning_and_the_size_of_what_is_long(data: bytes) -> None:
    printer = Shown()
    with serving(ROUTES, printer.show) as server, server.client() as client:
        client.ask(data)
    assert printer.shown[0] == ("< ", data[:SEEN]) and printer.sizes == [len(data)]


def test_a_request_is_shown_before_what_it_causes() -> None:
    printer = Shown()

    def cause(asked: Request) -> Answer:
        printer.shown.append(("", b"caused"))
        return Answer(204)

    with serving({"/ok": {"GET": cause}}, printer.show) as server, server.client() as client:
        client.ask(GET)
    assert [mark for mark, _ in printer.shown] == ["< ", "", "> "]


@pytest.mark.parametrize("data, line", [
    (request("GET", "/nothing?token=s3cret"), "GET /nothing: 404, there is no /nothing here, expected /ok, /items/{id}, "),
    (host(HOST, b"http://me:s3cret@h/ok"), "GET /ok: 400, the host is malformed"),
    (request("PUT", "/ok"), "PUT /ok: 405, /ok takes GET, POST, HEAD, not PUT"),
    (request("GET", "/whsec_s3cret"), "GET /***: 404, "),
    (b"POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n", "POST /json: 413, the body is over "),
    (b"\x16\x03\x01", "a request: 400, that is not plain HTTP"),
    (request("GET", "/" + "a" * 5_000), "GET /" + "a" * 290),
], ids=["path", "credentials", "method", "secret", "size", "TLS", "long"])  # fmt: skip
def test_a_problem_is_one_short_line_without_secrets(data: bytes, line: str) -> None:
    said: list[str] = []
    with serving(ROUTES, log=said.append) as server, server.client() as client:
        client.ask(data)
    assert len(said) == 1 and said[0].startswith(line) and "s3cret" not in said[0] and len(said[0]) < 700


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_page_runs_its_own_script_and_style_only(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(b"<style>\r\n</style><script>1</script>")
    answers = [page(tmp_path / "page.html") for _ in range(2)]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        nonces = set(re.findall(r"-src 'nonce-([^']{16,})'", policy))
        assert (
            nonces == set(re.findall(r'<(?:style|script) nonce="([^"]*)">', answer.body.decode())) and len(nonces) == 1
        )
        assert "default-src 'none'" in policy and "unsafe" not in policy
    assert answers[0].body != answers[1].body


@pytest.mark.parametrize("host, everywhere", [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_server_tells_when_all_addresses_of_the_machine_lead_to_it(host: str, everywhere: bool) -> None:
    with Server((host, 0), {}) as server:
        assert server.url == f"http://127.0.0.1:{server.server_port}"
        assert server.everywhere == " and all addresses of this machine" * everywhere
