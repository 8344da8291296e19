"""Valid messages, mutated at random: whatever comes, a server answers with HTTP, a client knows what it was answered.

`pytest -m slow --cases N` says how many for each program. A case is made from SEED and its number alone, and a failure names both.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import JOURNAL, SECONDS, Client, Listener, Pair, Transport, eventually, request

import owner
import strict_json
from addresses import Guard, literal, reach, spelled, url_problem
from client import KEPT_RESPONSE, Exchange, request_head
from connections import origin_of
from receiver import PATH, Receiver
from server import Server

pytestmark = pytest.mark.slow

SEED = 20_240_601
STATUSES = {100, 200, 202, 204, 302, *range(400, 406), 408, 409, 411, 413, 414, 415, 422, 429, 431, 501, 503}
MEMORY = 48 * 1_024  # KiB that a run may grow by: 16 MiB of attempts' bytes and as much of messages are remembered
URL, EVENT, SECRET = "http://hook.example/a", "payment_received", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TUNNEL = {"X_Forwarded_For": "203.0.113.9"}

Bodies = list[tuple[str, str, Any]]  # method, target, value
EXPOSEE_BODIES: Bodies = [
    ("POST", "/webhooks/register", {"url": URL, "event_types": [EVENT, "invoice_completed"]}),
    ("POST", "/webhooks/register", {"url": URL + "?b=c", "event_types": [EVENT], "secret": SECRET}),
    ("DELETE", "/webhooks/unregister", {"url": URL, "event": EVENT, "secret": SECRET}),
    ("POST", "/trigger", {"event": EVENT, "data": {"amount": 100, "list": [1, None, "é 漢"]}}),
    ("POST", "/webhooks/ping-back", {"url": URL}),
]
EXPOSEE_TARGETS = (
    "/ /ping /webhooks /event-types /health /deliveries /deliveries?state=failed&limit=5&message=msg_0&url=http://h/ "
    "/deliveries/dlv_00_0 /deliveries/stream http://localhost/health"
).split()
RECEIVER_BODIES: Bodies = [
    ("POST", PATH, {"event": EVENT, "data": {"amount": 100}}),
    ("POST", PATH, {"event": "ping", "data": "Ping from Exposee"}),
    ("POST", PATH + "?respond=nonsense&times=2&retry_after=3", {"event": EVENT, "data": None}),
    ("POST", PATH + "?respond=redirect", {"event": EVENT, "data": None}),
]
SIGNED = {
    "webhook_id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook_timestamp": "1614265330",
    "webhook_signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    "X_Hub_Signature_256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
}

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\x1b[31m", b"\x9b2J", b"\xff\xfe", b"%00", b"%0d%0a", b"%2F",
    b"../", b"//", b"*", b"?", b"&", b"#", b"HTTP/1.0", b"HTTP/2.0", b"HEAD ", b"OPTIONS ", b"PUT ", b"-1", b"9" * 30,
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Host: b.example\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"Prefer: wait=0\r\n",
    b"0\r\n\r\n", b"ffffffff\r\n", b"A" * 9_000, b"A: b\r\n" * 70, "\u202e".encode(), "²٣".encode(),
]  # fmt: skip
ODD = [
    "NaN", "Infinity", "-Infinity", "1e999", "-0", "1" * 401, "9" * 5_000, "0.1e-5000", "0" * 10, "01", "+1", "1.",
    '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"\x1b"', '"\x7f"', '"\u0085\u2028\u202e"', '"\\x"',
    '"<script>alert(1)</script>"', '"' + "a" * 3_000 + '"', "[" * 65 + "]" * 65, "[" * 20_000, '{"a":' * 70 + "1",
    '{"a": 1, "a": 2}', '{"": {}}', "{}", "[]", "null", "true", '"ping"', '"http://[::1"', '"http://h:99999/"',
    '"http://[v1.a]/"', '"http://a..b/"', '"http://%s/"' % ("a" * 64), '"//h/"', '"whsec_"', "[[[]]]", "\ufeff1",
]  # fmt: skip
LABELS = [
    "example", "localhost", "a", "A-b", "xn--bcher-kva", "_x", "-a", "a-", "", "a" * 63, "a" * 64, "1a", "a b", "\u00fc", "%41",
    "0", "1", "127", "255", "256", "08", "010", "0x7f", "0x", "2130706433", "999999999999", "::1", "::ffff:127.0.0.1", "::",
    "::ffff:0:7f00:1", ":::1", "fe80::1%25eth0", "v1", "zz", "[", "]", "@", "\\", "#", "?", "/",
]  # fmt: skip
PORTS = ["", "", "", "", ":80", ":00080", ":", ":0", ":65535", ":65536", ":-1", ":8a", ":80:80"]
WHOLE = [
    "0",
    "1",
    "10",
    "9007199254740993",
    "99999999999999",
    "9" * 400,
    "1" * 20,
    "00",
    "01",
    "",
    "_1",
    "\u0663",
    "0x1",
]
FRACTIONS = ["", "", ".0", ".99", ".10", "." + "3" * 50, ".", ".e", ".1.2"]
EXPONENTS = [
    "",
    "",
    "",
    "e5",
    "E2",
    "e+9",
    "E-07",
    "e-400",
    "e400",
    "e308",
    "E",
    "e1.5",
    "e" + "9" * 30,
    "e-" + "9" * 30,
]
HOLE = "\x02hole"  # stands for an odd value, which json.dumps could not write


class Maker:
    """Makes the bytes of one case, and decides how they are sent."""

    def __init__(self, number: int, bodies: Bodies, targets: list[str]) -> None:
        self.dice = random.Random(f"{SEED}/{number}")
        self.bodies, self.targets = bodies, targets

    def data(self) -> bytes:
        data = b"".join(self.valid() for _ in range(self.dice.choice([1, 1, 1, 2, 3])))
        for _ in range(self.dice.choice([0, 1, 1, 2, 4, 8])):
            data = self.dice.choice([self.flip, self.cut, self.repeat, self.reorder, self.insert, self.end])(data)
        return data

    def pieces(self, data: bytes) -> list[bytes]:
        how = self.dice.random()
        if how < 0.7 or not data:
            return [data]
        size = 1 if how < 0.8 and len(data) < 1_000 else self.dice.randint(len(data) // 40 + 1, len(data))
        return [data[at : at + size] for at in range(0, len(data), size)]

    def valid(self) -> bytes:
        """A request that is right but for its JSON, perhaps."""
        fields = self.dice.choice([{}, {}, TUNNEL, SIGNED, {"Prefer": "wait=1"}, {"Expect": "100-continue"}])
        if self.targets and self.dice.random() < 0.3:
            return request(self.dice.choice(["GET", "GET", "HEAD"]), self.dice.choice(self.targets), None, **fields)
        method, target, value = self.dice.choice(self.bodies)
        body = self.json(value) if self.dice.random() < 0.6 else json.dumps(value).encode()
        if self.dice.random() < 0.8:
            return request(method, target, body, **fields)
        size = self.dice.randint(len(body) // 50 + 1, len(body) + 1)
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        fields = {**fields, "Transfer_Encoding": "chunked", "Content_Type": "application/json"}
        return request(method, target, None, **fields) + coded

    def json(self, value: Any) -> bytes:
        """The value with something odd in it, as JSON or nearly so."""
        text = json.dumps(self.with_hole(value), ensure_ascii=self.dice.random() < 0.5)
        odd = self.dice.choice([self.dice.choice(ODD), self.number(), json.dumps(self.url(), ensure_ascii=False)])
        if self.dice.random() < 0.1:  # as a key
            odd = f'{{{odd}: 1, "secret": {odd}}}'
        return text.replace(json.dumps(HOLE), odd).encode()

    def url(self) -> str:
        """A webhook's URL, perhaps: the host is the odd part."""
        host = self.dice.choice(["", "."]).join(self.dice.choices(LABELS, k=self.dice.choice([1, 1, 2, 2, 3, 4, 5])))
        host = self.dice.choice(["%s", "%s", "%s", "[%s]", "%s.", "[%s", "x[%s]"]) % host
        scheme, rest = self.dice.choice(["http", "https", "HTTP"]), self.dice.choice(["", "/hook", "/hook?", "?a=b"])
        return f"{scheme}://{host}{self.dice.choice(PORTS)}{rest}"

    def number(self) -> str:
        """A number in JSON, perhaps."""
        parts = (["", "", "-", "+"], WHOLE, FRACTIONS, EXPONENTS)
        return "".join(map(self.dice.choice, parts))

    def with_hole(self, value: Any) -> Any:
        if value and self.dice.random() < 0.8:
            if isinstance(value, dict):
                name = self.dice.choice(list(value))
                return {**value, name: self.with_hole(value[name])}
            if isinstance(value, list):
                at = self.dice.randrange(len(value))
                return [*value[:at], self.with_hole(value[at]), *value[at + 1 :]]
        return HOLE

    def part(self, data: bytes) -> tuple[int, int]:
        start = self.dice.randint(0, len(data))
        return start, min(len(data), start + self.dice.choice([1, 2, 4, 16, 64]))

    def flip(self, data: bytes) -> bytes:
        at = self.dice.randrange(len(data) or 1)
        return data[:at] + bytes(byte ^ 1 << self.dice.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]

    def cut(self, data: bytes) -> bytes:
        start, end = self.part(data)
        return data[:start] + data[end:]

    def repeat(self, data: bytes) -> bytes:
        start, end = self.part(data)
        return data[:start] + data[start:end] * self.dice.choice([2, 3, 50]) + data[end:]

    def reorder(self, data: bytes) -> bytes:
        a, b, c = sorted(self.dice.randint(0, len(data)) for _ in range(3))
        return data[:a] + data[b:c] + data[a:b] + data[c:]

    def insert(self, data: bytes) -> bytes:
        at = self.dice.randint(0, len(data))
        return data[:at] + self.dice.choice([*TOKENS, self.dice.randbytes(5)]) + data[at:]

    def end(self, data: bytes) -> bytes:
        return data[: self.dice.randint(0, len(data))]


def exchange(port: int, pieces: list[bytes]) -> tuple[bytes, bool]:
    """All that the server answers to these bytes and the end of the stream; whether the connection was reset."""
    with Client(port) as client:
        with contextlib.suppress(OSError):  # it need not take all of what it refuses
            for piece in pieces:
                client.send(piece)
            client.sock.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while data := client.sock.recv(65_536):
                answer += data
                if b"text/event-stream" in data:  # it has no end of its own
                    break
        except ConnectionResetError:
            return answer, True
        except OSError as error:
            if not isinstance(error, TimeoutError):
                return answer, True
            raise AssertionError(f"no end of the answer within {SECONDS} s: {answer[:200]!r}") from None
        return answer, False


HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n((?:[A-Za-z-]+: [\x20-\x7e]*\r\n)*)\r\n")


def check_answers(data: bytes, bodiless: bool) -> None:
    """`data` is one well-formed response after the other. `bodiless`: some may be answers to HEAD."""
    if not data:
        return
    match = HEAD.match(data)
    assert match, f"no head of a response: {data[:300]!r}"
    status, rest = int(match[1]), data[match.end() :]
    assert status in STATUSES, f"status {status}: {data[:400]!r}"
    names = [line.partition(b":")[0].lower() for line in match[2].splitlines()]
    assert len(names) == len(set(names)), names
    fields = dict(line.lower().split(b": ", 1) for line in match[2].splitlines())
    if fields.get(b"content-type") == b"text/event-stream":
        assert not rest or bodiless or rest.startswith(b"retry: "), rest[:100]
        return
    assert (b"content-length" in fields) is (status not in (100, 204)), fields
    length = int(fields.get(b"content-length", 0))
    if bodiless and length and (not rest or rest.startswith(b"HTTP/1.1 ")):
        return check_answers(rest, bodiless)
    body = rest[:length]
    assert len(body) == length, f"{len(body)} of {length} bytes: {data[:300]!r}"
    if status >= 400:
        assert fields[b"content-type"] == b"application/problem+json", data[:300]
        problem = strict_json.loads(body)
        assert set(problem) == {"title", "status", "detail"} and problem["status"] == status != 500
    elif fields.get(b"content-type") == b"application/json":
        strict_json.loads(body)
    check_answers(rest[length:], bodiless)


def run(cases: int, port: int, bodies: Bodies, targets: list[str], well: Callable[[], object]) -> None:
    warm = 0
    for number in range(cases):
        maker = Maker(number, bodies, targets)
        data = maker.data()
        try:
            answer, reset = exchange(port, maker.pieces(data))
            if not reset:
                check_answers(answer, b"HEAD" in data)
            well()
        except Exception as error:
            raise AssertionError(f"case {number} of seed {SEED}: {error!r}\nsent {data[:3_000]!r}") from error
        if number == cases // 10:
            warm = memory()
    assert memory() - warm < MEMORY


def memory() -> int:
    """KiB of this process that are in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.fixture
def nothing_left(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No thread, no file descriptor and no word on stderr is left over; every line printed is plain text."""
    Transport().close()  # what is loaded once may stay
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    eventually(lambda: threading.active_count() <= threads, "the end of all threads")
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= files, "the end of all connections")
    out, err = capfd.readouterr()
    assert err == ""
    assert not [line for line in out.split("\n") if not line.isprintable()]


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--cases"))


class Harmless(Guard):
    """Lets names through, all of which lead to the listener, and no address that a mutation has spelled."""

    def refuse_address(self, host: str, address: str) -> str | None:
        return None if literal(host.rstrip(".")) is None else "no address is called here"


def test_exposee_survives_whatever_comes(
    cases: int, nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **options: Any) -> Any:
        return real(host, *more, **options) if host == "127.0.0.1" else real("127.0.0.1", listener.port, *more[1:])

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(owner, "STREAM_BEAT", 0.05)
    with Listener() as listener, Pair(tmp_path, guard=Harmless(), schedule=()) as pair:

        def well() -> None:
            assert pair.call("GET", "/health").status == 200
            while len(listener.requests.queue) > 100:
                listener.requests.get()
            if pair.store.count() > 20:  # else each ping would go to hundreds
                pair.store.unregister_urls(pair.store.urls())

        run(cases, pair.port, EXPOSEE_BODIES, EXPOSEE_TARGETS, well)
        assert all(line.isprintable() for line in pair.log)
    for line in (tmp_path / JOURNAL).read_bytes().split(b"\n")[:-1]:
        assert isinstance(strict_json.loads(line), dict)


@pytest.mark.parametrize("secret", ["", SECRET], ids=["unsigned", "signed"])
def test_receiver_survives_whatever_comes(cases: int, nothing_left: None, secret: str) -> None:
    server = Server(("127.0.0.1", 0), Receiver(secret).routes)
    thread = threading.Thread(target=server.run)
    thread.start()

    def well() -> None:
        with Client(server.server_port) as client:
            assert client.ask(request("POST", PATH, b"1")).status == (401 if secret else 204)

    try:
        run(cases, server.server_port, RECEIVER_BODIES, [PATH], well)
    finally:
        server.stop()
        thread.join(SECONDS)


# --- hosts and numbers ----------------------------------------------------------------------------------------------


def test_a_host_is_refused_or_is_the_one_that_is_called(cases: int) -> None:
    """What registration takes, the sender understands, and judges as registration did."""
    taken = 0
    for number in range(10 * cases):
        url = Maker(number, [], []).url()
        try:
            if url_problem(url) is not None:
                continue
            authority = re.split("[/?]", url)[2]
            host = re.sub(r":\d*$", "", authority).strip("[]").lower()
            origin = origin_of(url)
            assert origin.host == host
            assert request_head("POST", url).count(b"\n") == 2 and f"Host: {authority}\r\n".encode() in request_head(
                "POST", url
            )
            if address := literal(host.rstrip(".")):
                assert reach(address) == spelled(host)
            else:
                host.encode("idna")  # as the resolver does
            taken += 1
        except Exception as error:
            raise AssertionError(f"case {number} of seed {SEED}: {error!r}\nurl {url!r}") from error
    assert cases / 5 < taken < cases * 9


def test_a_number_is_refused_or_sent_as_it_is_spelled(
    cases: int, nothing_left: None, tmp_path: Path, listener: Listener
) -> None:
    sent = 0
    with Pair(tmp_path, schedule=()) as pair:
        pair.register(listener.url(), EVENT)
        for number in range(cases):
            maker = Maker(number, [], [])
            text = maker.number()
            data = maker.dice.choice(["%s", "[%s]", '{"a": %s}', "[0,%s ]"]) % text
            body = f'{{"event":"{EVENT}","data":{data}}}'.encode()
            try:
                with pair.client() as client:
                    status = client.ask(request("POST", "/trigger", body)).status
                if status == 400:
                    continue
                assert status == 202
                assert listener.next().endswith(f'{{"event": "{EVENT}", "data": {data}}}'.encode())
                assert math.isfinite(float(text or 0))  # [] has none
                sent += 1
            except Exception as error:
                raise AssertionError(f"case {number} of seed {SEED}: {error!r}\ndata {data!r}") from error
    assert cases / 20 < sent < cases * 19 / 20


# --- what a receiver may answer -------------------------------------------------------------------------------------

NUMBERS = [
    "0", "1", "2", "7", "10", "0000000002", "0" * 99 + "2", "2, 2", "2,2 ,2", "2, 3", "2,", ",2", "+2", "-2", "-0",
    "0x2", "2.0", "1e3", "2_0", "\u00b2", "two", "", " ", "2 2", "2;", "12345678", "9" * 15, "9" * 20, "9" * 5_000,
    "f", "A;x=y",
]  # fmt: skip
STATUSES_ANSWERED = (200, 204, 304, 410, 429, 503, 600, 999)
STATUS_LINES = [
    *(f"HTTP/1.{version} {status} OK" for version in (0, 1, 2, 9) for status in STATUSES_ANSWERED),
    "HTTP/1.1 100 Continue", "HTTP/1.1 103", "HTTP/1.1 101 -", "HTTP/1.1 099 -", "HTTP/1.1 1000 -", "HTTP/1.1  200",
    "HTTP/1.10 200 -", "HTTP/2 200", "http/1.1 200 OK", "HTTP/1.1 OK", "ICY 200 OK", "", " HTTP/1.1 200 OK",
]  # fmt: skip
NAMES = [
    "Content-Length", "content-length", "Content-Length ", "Content-Length-Original", "X-Content-Length", "X", "", " X",
    "Transfer-Encoding", "Transfer-Encoding-Was", "Connection", "Retry-After",
]  # fmt: skip
VALUES = [
    "chunked",
    "Chunked",
    "gzip, chunked",
    "chunked, chunked",
    "identity",
    "close",
    "keep-alive, close",
    "120",
    "a\r\n b",
    "\r\n 2",
]


class AnswerMaker(Maker):
    """Answers of a receiver, right but for one thing or another."""

    def __init__(self, number: int) -> None:
        super().__init__(number, [], [])

    def valid(self) -> bytes:
        body = self.dice.randbytes(self.dice.choice([0, 2, 2, 7, 300]))
        lines = [self.dice.choice(STATUS_LINES if self.dice.random() < 0.3 else STATUS_LINES[:32])]
        for _ in range(self.dice.choice([0, 0, 1, 2, 3])):
            lines.append(f"{self.dice.choice(NAMES)}: {self.dice.choice(NUMBERS + VALUES)}")
        how = self.dice.random()
        if how < 0.4:
            length = self.dice.choice(NUMBERS) if self.dice.random() < 0.3 else str(len(body))
            lines.append(f"Content-Length: {length}")
        elif how < 0.9:
            lines.append("Transfer-Encoding: chunked")
            body = self.chunked(body)
        lines[1:] = self.dice.sample(lines[1:], len(lines) - 1)
        end = "\n" if self.dice.random() < 0.05 else "\r\n"
        return end.join([*lines, "", ""]).encode() + body

    def chunked(self, body: bytes) -> bytes:
        step, coded = self.dice.randint(1, len(body) + 1), b""
        for at in range(0, len(body), step):
            chunk = body[at : at + step]
            size = self.dice.choice(NUMBERS) if self.dice.random() < 0.1 else f"{len(chunk):x}"
            coded += size.encode() + b"\r\n" + chunk + b"\r\n"
        return (
            coded
            + self.dice.choice([b"0", b"0", b"000", b"0;a=b"])
            + b"\r\n"
            + self.dice.choice([b"", b"T: 1\r\n"])
            + b"\r\n"
        )


class Wire(socket.socket):
    """A receiver without a network: takes every request, and answers with `pieces` and the end of the stream."""

    pieces: list[bytes] = []

    def connect(self, address: Any) -> None:
        pass

    def send(self, data: Any, *_: object) -> int:
        return len(data)

    def recv(self, count: int, *_: object) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece[count:]:
            self.pieces.insert(0, piece[count:])
        return piece[:count]


def answered(transport: Transport, pieces: list[bytes]) -> Exchange:
    Wire.pieces = [piece for piece in pieces if piece]
    outcome = transport.send("http://127.0.0.1/", b"POST / HTTP/1.1\r\n\r\n", SECONDS)
    transport.pool.close_idle(0.0)
    return outcome


def check_outcome(outcome: Exchange, data: bytes) -> None:
    assert data.startswith(outcome.response) and len(outcome.response) == min(outcome.received, KEPT_RESPONSE)
    assert (
        outcome.head in data
        and outcome.status in (0, *range(200, 1_000))
        and (outcome.status > 0) == bool(outcome.head)
    )
    if outcome.error is None:
        assert outcome.status
    else:
        assert outcome.error.isprintable() and len(outcome.error) < 300
        assert "our side" not in outcome.error and "timed out" not in outcome.error


def test_client_survives_whatever_is_answered(cases: int, nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """However an answer is cut into pieces, it is the same answer; and none takes long."""
    transport = Transport(selector=Ready())
    monkeypatch.setattr(socket, "socket", Wire)
    whole = 0
    for number in range(cases):
        maker = AnswerMaker(number)
        data = maker.data()[:60_000]
        try:
            outcome = answered(transport, [data])
            check_outcome(outcome, data)
            began = time.thread_time()
            again = answered(transport, maker.pieces(data))
            assert time.thread_time() - began < 2
            assert again[3:5] == outcome[3:5] and (again.error is None) == (outcome.error is None), (outcome, again)
        except Exception as error:
            raise AssertionError(f"case {number} of seed {SEED}: {error!r}\nanswer {data[:3_000]!r}") from error
        whole += outcome.error is None
    assert cases / 20 < whole < cases * 19 / 20  # else it is no test of the one or the other
    transport.close()


class Ready(selectors.BaseSelector):
    """Says that every socket is ready."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, sock: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[sock] = selectors.SelectorKey(sock, sock.fileno(), events, data)
        return self._keys[sock]

    def unregister(self, sock: Any) -> selectors.SelectorKey:
        return self._keys.pop(sock)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return [(key, key.events) for key in self._keys.values()]

    def get_map(self) -> Any:
        return self._keys
