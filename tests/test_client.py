"""One exchange as a client, against receivers that do everything wrong that a receiver can do."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from receivers import drip, in_order, raw_server, then_close, then_reset, then_silence, without_end
from support import NO_CONTENT, SECONDS, Behaviour, Listener, Transport, mostly_slow, read_request

from client import KEPT_RESPONSE, Exchange, exchange, fields_of, request_head

BODY = b"Content-Length: 2\r\n\r\n{}"
SHORT = 0.2  # seconds that are the whole deadline of what never ends


def post(transport: Transport, url: str, seconds: float = SECONDS) -> Exchange:
    return transport.send(url, request_head("POST", url) + BODY, seconds)


# --- what is sent ---------------------------------------------------------------------------------------------


def test_what_is_written_and_kept_are_the_bytes_themselves(transport: Transport, listener: Listener) -> None:
    listener.answer = answer = b"HTTP/1.1 200 Fine\r\nX-Y:  z \r\nContent-Length: 3\r\n\r\n\xff\x00!"
    request = request_head("POST", listener.url("/a?b=%20")) + b"webhook-ID: x\r\nContent-Length: 2\r\n\r\n{}"
    outcome = transport.send(listener.url("/elsewhere"), request)
    assert listener.next() == request == outcome.request
    assert outcome.response == answer and outcome.received == len(answer)
    assert (outcome.status, outcome.error) == (200, None)
    assert outcome.head == b"HTTP/1.1 200 Fine\r\nX-Y:  z \r\nContent-Length: 3\r\n"


def test_a_request_that_no_connection_took_was_not_sent(transport: Transport, listener: Listener) -> None:
    """Although it was composed, for a kept connection that turned out to be dead."""
    assert post(transport, listener.url()).status == 204
    listener.close()
    outcome = post(transport, listener.url())
    assert outcome.error and outcome.error.startswith("connection refused")
    assert outcome.request == b""


def test_of_a_long_answer_the_beginning_is_kept(transport: Transport, listener: Listener) -> None:
    listener.answer = answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"0123456789" * 5_000
    outcome = post(transport, listener.url())
    assert outcome.response == answer[:KEPT_RESPONSE] and outcome.received == len(answer)
    assert outcome.error is None


def test_a_request_is_composed_once_and_not_before_there_is_a_connection(
    transport: Transport, listener: Listener
) -> None:
    composed: list[None] = []

    def compose() -> bytes:
        composed.append(None)
        return request_head("POST", listener.url()) + BODY

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert str(transport.send(f"http://127.0.0.1:{port}/", compose).error).startswith("connection refused")
    assert len(composed) == 0
    listener.answer = in_order(NO_CONTENT, then_close(b""), NO_CONTENT)
    assert [transport.send(listener.url(), compose).status for _ in range(2)] == [204, 204]
    assert len(composed) == 2 and listener.requests.qsize() == 3  # the second was sent over a new connection as well


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours")])
def test_an_error_in_composing_leaves_no_connection_open(
    error: Exception, transport: Transport, listener: Listener
) -> None:
    def compose() -> bytes:
        raise error

    with contextlib.suppress(KeyError):
        assert "ours" in str(transport.send(listener.url(), compose).error)
    assert not [key for key in transport.pool.selector.get_map().values()]


@pytest.mark.parametrize(
    "url, line, host",
    [
        ("http://h", "POST / HTTP/1.1", "h"),
        ("http://h/", "POST / HTTP/1.1", "h"),
        ("http://h/hook?", "POST /hook? HTTP/1.1", "h"),
        ("http://h?", "POST /? HTTP/1.1", "h"),
        ("http://h/a??", "POST /a?? HTTP/1.1", "h"),
        ("http://h/a?b?c", "POST /a?b?c HTTP/1.1", "h"),
        ("http://h/a;", "POST /a; HTTP/1.1", "h"),
        ("http://h//a//", "POST //a// HTTP/1.1", "h"),
        ("http://h/a/b;c?d=e&f=%20", "POST /a/b;c?d=e&f=%20 HTTP/1.1", "h"),
        ("http://h?a=b", "POST /?a=b HTTP/1.1", "h"),
        ("HTTP://H/a", "POST /a HTTP/1.1", "H"),
        ("https://h:8443/a", "POST /a HTTP/1.1", "h:8443"),
        ("http://[::1]:8080/a", "POST /a HTTP/1.1", "[::1]:8080"),
        ("http://[::1]/", "POST / HTTP/1.1", "[::1]"),
    ],
)
def test_a_url_is_sent_as_it_is_spelled(url: str, line: str, host: str) -> None:
    assert request_head("POST", url) == f"{line}\r\nHost: {host}\r\n".encode()


@pytest.mark.parametrize("url", ["http://h/a\r\nX: y", "http://h/\na", "http://h\r\n/", "http://h/\tb"])
def test_a_url_cannot_add_a_line_to_the_head(url: str) -> None:
    assert request_head("POST", url).count(b"\n") == 2


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/", "data:,x", "nonsense", "", "http://[::1"]
    + ["http://h:99999/", "http:///path", "https://"],
)
def test_other_urls_are_an_error_and_not_an_exception(transport: Transport, url: str) -> None:
    outcome = transport.send(url, b"POST / HTTP/1.1\r\n" + BODY, 2)
    assert outcome.error and outcome.status == 0 and outcome.received == 0


# --- answers --------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH_2 = OK + b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS: dict[str, tuple[bytes, int, bool]] = {  # answer, status, whether the connection is used again
    "no content": (NO_CONTENT, 204, True),
    "length": (LENGTH_2, 200, True),
    "empty body": (b"HTTP/1.1 500 Oh No\r\ncontent-length:0\r\n\r\n", 500, True),
    "no reason phrase": (b"HTTP/1.1 204\r\n\r\n", 204, True),
    "no reason phrase, but a space": (b"HTTP/1.1 204 \r\n\r\n", 204, True),
    "a reason that is no ASCII": (b"HTTP/1.1 204 \xc3\xa9\xff\r\n\r\n", 204, True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, True),
    "204 with a coding": (b"HTTP/1.1 204 -\r\nTransfer-Encoding: chunked\r\n\r\n", 204, True),
    "close": (OK + b"Connection: Close\r\nContent-Length: 2\r\n\r\nok", 200, False),
    "close among others": (OK + b"Connection: x\r\nConnection: y, close\r\nContent-Length: 2\r\n\r\nok", 200, False),
    "keep-alive": (OK + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n" + NO_CONTENT,
        204,
        True,
    ),
    "an interim answer that has none of our names": (b"HTTP/1.1 199 -\r\n\r\n" + LENGTH_2, 200, True),
    "leftovers after no content": (NO_CONTENT + b"left over", 204, False),
    "leftovers after a length": (LENGTH_2 + b"!", 200, False),
    "leftovers after chunks": (CHUNKED + b"0\r\n\r\n!", 200, False),
    "chunked": (CHUNKED + b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: t\r\n\r\n", 200, True),
    "chunked, odd sizes": (
        CHUNKED + b'000000002\r\nhe\r\n2 \t\r\nhe\r\n2;\r\nhe\r\n2 ; a="b"\r\nhe\r\nA\r\n0123456789\r\n000\r\n\r\n',
        200,
        True,
    ),
    "chunked, zeros": (CHUNKED + b"0" * 5_000 + b"2\r\nhe\r\n" + b"0" * 5_000 + b"\r\n\r\n", 200, True),
    "chunked, 150 fields": (CHUNKED[:-2] + b"X: y\r\n" * 150 + b"\r\n2\r\nhe\r\n0\r\n\r\n", 200, True),
    "chunked, error status": (CHUNKED.replace(b"200", b"503") + b"0\r\n\r\n", 503, True),
    "chunked, in capitals": (CHUNKED.replace(b"chunked", b"CHUNKED") + b"0\r\n\r\n", 200, True),
    "chunked, folded": (CHUNKED.replace(b": ", b":\r\n\t") + b"2\r\nhe\r\n0\r\n\r\n", 200, True),
    "chunked, with a space before the colon": (CHUNKED.replace(b"g:", b"g :") + b"0\r\n\r\n", 200, True),
    "chunked, and a length": (CHUNKED[:-2] + b"Content-Length: 99\r\n\r\n0\r\n\r\n", 200, True),
    "a field in two lines": (OK + b"X: a,\r\n\tb\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "the same length twice": (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "the same length in a list": (OK + b"Content-Length: 2, 2,2\r\n\r\nok", 200, True),
    "the same length, spelled differently": (OK + b"Content-Length: 2\r\nContent-Length: 002\r\n\r\nok", 200, True),
    "a length with zeros": (OK + b"Content-Length: 0000000002\r\n\r\nok", 200, True),
    "a length with many zeros": (OK + b"Content-Length: " + b"0" * 6_000 + b"2\r\n\r\nok", 200, True),
    "a length of zeros": (OK + b"Content-Length: 0000000000000000000000\r\n\r\n", 200, True),
    "a length after a tab": (OK + b"Content-Length:\t2\t\r\n\r\nok", 200, True),
    "a name that begins like a length": (OK + b"Content-Length-Original: 9\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "a name that ends like a length": (OK + b"X-Content-Length: 9\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "a value that looks like a length": (OK + b"X: Content-Length: 9\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "a coding there was": (OK + b"Transfer-Encoding-Was: chunked\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "a coding that is accepted": (OK + b"Accept-Transfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "a field without a name": (OK + b": x\r\nnonsense\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "HTTP/1.0": (LENGTH_2.replace(b"1.1", b"1.0"), 200, False),
    "HTTP/1.2": (LENGTH_2.replace(b"1.1", b"1.2"), 200, True),
    "HTTP/1.9": (LENGTH_2.replace(b"1.1", b"1.9"), 200, True),
    "600": (b"HTTP/1.1 600 Unknown\r\nContent-Length: 2\r\n\r\nok", 600, True),
    "999": (b"HTTP/1.1 999 Request denied\r\nContent-Length: 2\r\n\r\nok", 999, True),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n", 302, True),
    "redirect to a file": (b"HTTP/1.1 307 T\r\nLocation: file:///etc/p\r\nContent-Length: 0\r\n\r\n", 307, True),
}


@pytest.mark.parametrize("answer, status, again", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read_to_its_end_and_no_further(
    answer: bytes, status: int, again: bool, transport: Transport, listener: Listener
) -> None:
    listener.answer = answer
    outcome = post(transport, listener.url())
    assert (outcome.status, outcome.error) == (status, None)
    assert listener.requests.qsize() == 1
    listener.answer = NO_CONTENT
    assert post(transport, listener.url()).status == 204
    assert (listener.connections == 1) == again


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("answer, status", [answer[:2] for answer in ANSWERS.values()], ids=ANSWERS)
def test_in_pieces_it_is_the_same_answer(
    answer: bytes, status: int, size: int, transport: Transport, listener: Listener
) -> None:
    def answer_in_pieces(connection: socket.socket) -> None:
        step = max(size, len(answer) // 1_000)
        with contextlib.suppress(OSError):  # what is left over may be too much
            for start in range(0, len(answer), step):
                connection.sendall(answer[start : start + step])
                time.sleep(0)

    listener.answer = answer_in_pieces
    outcome = post(transport, listener.url())
    assert (outcome.status, outcome.error) == (status, None)


@pytest.mark.parametrize("head", [OK + b"Connection: close\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n", OK + b"\r\n"])
def test_without_a_length_the_answer_lasts_until_the_end(head: bytes, transport: Transport, listener: Listener) -> None:
    listener.answer = then_close(head + b"to the end")
    outcome = post(transport, listener.url())
    assert (outcome.status, outcome.received, outcome.error) == (200, len(head) + 10, None)


def test_an_answer_may_have_as_much_as_the_limit_says(transport: Transport, listener: Listener) -> None:
    listener.answer = OK + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    assert post(transport, listener.url()).error is None


FAULTS: dict[str, tuple[bytes | Behaviour, int, str]] = {  # answer, status, what the error says
    "closed without an answer": (then_close(b""), 0, "closed waiting for the answer"),
    "reset": (then_reset(b""), 0, "reset waiting for the answer"),
    "half a head": (then_close(OK + b"X: "), 0, "closed in the middle of the answer"),
    "half a head, reset": (then_reset(OK + b"X: "), 0, "reset in the middle of the answer"),
    "an interim answer only": (then_close(b"HTTP/1.1 100 Continue\r\n\r\n"), 0, "closed in the middle"),
    "half a body": (then_close(OK + b"Content-Length: 10\r\n\r\nhalf"), 200, "ended after 4 of 10 bytes"),
    "half a body, reset": (then_reset(OK + b"Content-Length: 10\r\n\r\nhalf"), 200, "reset in the middle"),
    "reset instead of an end": (then_reset(OK + b"\r\nhello"), 200, "reset in the middle"),
    "absurd length": (then_close(OK + b"Content-Length: 9999999999999\r\n\r\nx"), 200, "ended after 1 of 9999"),
    "more absurd length": (then_close(OK + b"Content-Length: %b\r\n\r\nx" % (b"9" * 9_000)), 200, "not one number"),
    "a long body": (without_end(b"x", OK + b"Content-Length: 12345678\r\n\r\n"), 200, "longer than 1,048,576 bytes"),
    "absurd chunk": (then_close(CHUNKED + b"7fffffffffffff\r\nx"), 200, "ended after 1 of"),
    "more absurd chunk": (then_close(CHUNKED + b"f" * 9_000 + b"\r\nx"), 200, "has no size"),
    "chunked, cut": (then_close(CHUNKED + b"5\r\nhel"), 200, "ended after 3 of 5 bytes"),
    "chunked, no last chunk": (then_close(CHUNKED + b"2\r\nhe\r\n"), 200, "closed in the middle"),
    "chunked, no size": (then_close(CHUNKED + b"zz\r\nhe\r\n0\r\n\r\n"), 200, "has no size"),
    "chunked, an empty size": (then_close(CHUNKED + b"\r\nhe\r\n0\r\n\r\n"), 200, "has no size"),
    "chunked, a size with a sign": (then_close(CHUNKED + b"-0\r\n\r\n"), 200, "has no size"),
    "chunked, a size with a plus": (then_close(CHUNKED + b"+2\r\nhe\r\n0\r\n\r\n"), 200, "has no size"),
    "chunked, a size with 0x": (then_close(CHUNKED + b"0x2\r\nhe\r\n0\r\n\r\n"), 200, "has no size"),
    "chunked, a size with _": (then_close(CHUNKED + b"1_0\r\nhe\r\n0\r\n\r\n"), 200, "has no size"),
    "chunked, longer than its size": (then_close(CHUNKED + b"2\r\nhello\r\n0\r\n\r\n"), 200, "longer than its size"),
    "chunked, cut in the last size": (then_close(CHUNKED + b"2\r\nhe\r\n0"), 200, "closed in the middle"),
    "chunked, cut before the last line": (then_close(CHUNKED + b"2\r\nhe\r\n0\r\n"), 200, "closed in the middle"),
    "chunked, cut in the trailer": (then_close(CHUNKED + b"2\r\nhe\r\n0\r\nT: 1\r\n"), 200, "closed in the middle"),
    "chunked, LF alone": (then_silence(CHUNKED + b"2\nhe\n0\n\n"), 200, "CR LF"),
    "chunked, a line without end": (without_end(b"1", CHUNKED), 200, "a line or the head of the answer is longer"),
    "chunked, a trailer without end": (without_end(b"A: b\r\n", CHUNKED + b"0\r\n"), 200, "longer than 1,048,576"),
    "chunked, and coded otherwise": (
        then_close(CHUNKED.replace(b"chunked", b"gzip, chunked") + b"2\r\nhe\r\n0\r\n\r\n"), 200, "malformed"
    ),
    "chunked twice": (then_close(CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n"), 200, "malformed"),
    "another coding": (then_close(CHUNKED.replace(b"chunked", b"identity") + b"0\r\n\r\n"), 200, "malformed"),
    "a length in two lines": (then_close(OK + b"Content-Length: 2\r\n 0\r\n\r\nok"), 200, "malformed"),
    "two lengths": (then_close(OK + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\nok123"), 200, "malformed"),
    "two lengths in a list": (then_close(OK + b"Content-Length: 2, 5\r\n\r\nok123"), 200, "malformed"),
    "a length that is no number": (then_close(OK + b"Content-Length: two\r\n\r\nok"), 200, "malformed"),
    "a length that is nearly a number": (then_close(OK + b"Content-Length: 2;\r\n\r\nok"), 200, "malformed"),
    "a length that is none": (then_close(OK + b"Content-Length:\r\n\r\nok"), 200, "malformed"),
    "a length with other digits": (then_close(OK + "Content-Length: ²\r\n\r\nok".encode()), 200, "malformed"),
    "a negative length": (then_close(OK + b"Content-Length: -1\r\n\r\nok"), 200, "malformed"),
    "a length with a plus": (then_close(OK + b"Content-Length: +2\r\n\r\nok"), 200, "malformed"),
    "a length with _": (then_close(OK + b"Content-Length: 0_2\r\n\r\nok"), 200, "malformed"),
    "101": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 0, "not HTTP/1.x"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "a status that begins with 0": (b"HTTP/1.1 099 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "another version": (b"HTTP/2 200 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "a version of two digits": (b"HTTP/1.10 200 OK\r\n\r\n", 0, "not HTTP/1.x"),
    "another protocol": (then_silence(b"SSH-2.0-OpenSSH_9.9\r\n"), 0, "not HTTP/1.x"),
    "not even a word of it": (then_silence(b"\0"), 0, "not HTTP/1.x"),
    "binary": (b"\x15\x03\x01\xff\r\n\r\n", 0, "not HTTP/1.x"),
    "LF alone": (then_silence(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"), 0, "LF alone, expected CR LF"),
    "LF alone, but for the last": (then_silence(b"HTTP/1.1 200 OK\nX: y\n\r\n"), 0, "LF alone, expected CR LF"),
    "LF alone in the status line": (b"HTTP/1.1 200 OK\nX: y\r\n\r\n", 0, "not HTTP/1.x"),
    "1 MB of header": (then_close(OK + b"X-Y: zzzzzzzz\r\n" * 70_000 + b"\r\n"), 0, "the head of the answer is longer"),
    "one long header": (then_close(OK + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n"), 0, "the head"),
    "interim answers without end": (without_end(b"HTTP/1.1 103 Hints\r\n\r\n"), 0, "longer than 1,048,576 bytes"),
    "endless body": (without_end(b"and so on", OK + b"\r\n"), 200, "longer than 1,048,576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("answer, status, error", FAULTS.values(), ids=FAULTS)
def test_a_faulty_answer_is_a_failure_with_a_reason(
    answer: bytes | Behaviour, status: int, error: str, transport: Transport, listener: Listener
) -> None:
    listener.answer = answer
    outcome = post(transport, listener.url())
    assert outcome.error and error in outcome.error
    assert outcome.status == status and outcome.error.isprintable() and len(outcome.error) < 300
    assert len(outcome.response) <= KEPT_RESPONSE
    listener.answer = NO_CONTENT
    assert post(transport, listener.url()).status == 204
    assert listener.connections == 2


@pytest.mark.parametrize("behaviour", [then_close, then_reset, then_silence], ids=["ends early", "reset", "stalls"])
@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_the_status_and_its_fields_are_kept_when_the_body_fails(
    behaviour: Callable[[bytes], Behaviour], framing: bytes, transport: Transport, listener: Listener
) -> None:
    listener.answer = behaviour(b"HTTP/1.1 429 -\r\nRetry-After: 7\r\n" + framing + b"\r\n\r\n5\r\n")
    outcome = post(transport, listener.url(), SHORT)
    assert outcome.error and outcome.status == 429
    assert fields_of(outcome.head)[b"retry-after"] == [b"7"]


# --- an answer that comes while the request is being sent (RFC 9112, 9.5) ----------------------------------------

LARGE = b"x" * 8_000_000  # more than all buffers on the way have room for
EARLY = b"HTTP/1.1 %d Early\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nok"


def send_large(transport: Transport, scheme: str, port: int, seconds: float = SECONDS) -> Exchange:
    url = f"{scheme}://localhost:{port}/"
    request = request_head("POST", url) + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE
    return transport.send(url, request, seconds)


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest, trusted: ssl.SSLContext) -> Iterator[tuple[str, ssl.SSLContext | None]]:
    yield request.param, trusted if request.param == "https" else None


def read_head(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(16)


@pytest.mark.parametrize("then", [then_close, then_reset, lambda data: lambda connection: never(connection, data)],
                         ids=["closes", "resets", "stays"])  # fmt: skip
@pytest.mark.parametrize("status", [302, 410, 413, 429, 503])
def test_an_error_that_comes_early_ends_the_sending(
    status: int, then: Callable[[bytes], Behaviour], scheme: tuple[str, ssl.SSLContext | None], transport: Transport
) -> None:
    def behave(connection: socket.socket) -> None:
        read_head(connection)
        then(EARLY % status)(connection)

    with raw_server(behave, scheme[1], narrow=True) as port:
        outcome = send_large(transport, scheme[0], port)
    assert (outcome.status, outcome.error) == (status, None)
    assert fields_of(outcome.head)[b"retry-after"] == [b"7"]


def never(connection: socket.socket, data: bytes) -> None:
    """Send this, and neither read nor write any more."""
    connection.sendall(data)
    threading.Event().wait(2 * SHORT)


def test_what_was_accepted_early_is_sent_to_its_end(
    scheme: tuple[str, ssl.SSLContext | None], transport: Transport
) -> None:
    requests: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            head = file.readline() + file.readline() + file.readline() + file.readline()
            connection.sendall(EARLY % 202)
            requests.append(head + file.read(len(LARGE)))
            requests.append(read_request(file))
            connection.sendall(NO_CONTENT)

    with raw_server(behave, scheme[1], narrow=True) as port:
        first = send_large(transport, scheme[0], port)
        second = post(transport, f"{scheme[0]}://localhost:{port}/")
    assert (first.status, first.error, second.status) == (202, None, 204)
    assert requests == [first.request, second.request]


@pytest.mark.parametrize("behaviour", [then_close, then_reset, lambda data: lambda connection: never(connection, data)],
                         ids=["closes", "resets", "stays"])  # fmt: skip
def test_what_was_accepted_early_is_accepted_even_if_the_rest_is_not_taken(
    behaviour: Callable[[bytes], Behaviour], scheme: tuple[str, ssl.SSLContext | None], transport: Transport
) -> None:
    def behave(connection: socket.socket) -> None:
        read_head(connection)
        behaviour(EARLY % 202)(connection)

    with raw_server(behave, scheme[1], narrow=True) as port:
        outcome = send_large(transport, scheme[0], port, SHORT)
    assert (outcome.status, outcome.error) == (202, None)


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 -\r\n\r\nHTTP/1.1 103 -\r\nA: b\r\n\r\n"]
)
def test_an_interim_answer_does_not_end_the_sending(
    interim: bytes, scheme: tuple[str, ssl.SSLContext | None], transport: Transport
) -> None:
    requests: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            head = file.readline() + file.readline() + file.readline() + file.readline()
            connection.sendall(interim[:9])
            body = file.read(len(LARGE) // 2)
            connection.sendall(interim[9:])
            requests.append(head + body + file.read(len(LARGE) - len(body)))
            connection.sendall(NO_CONTENT)

    with raw_server(behave, scheme[1], narrow=True) as port:
        outcome = send_large(transport, scheme[0], port)
    assert (outcome.status, outcome.error) == (204, None)
    assert requests == [outcome.request]


def test_an_answer_whose_body_follows_the_request_is_read(transport: Transport) -> None:
    """As of a receiver that sends back what it reads."""

    def behave(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            for _ in range(4):
                file.readline()
            connection.sendall(CHUNKED)
            for _ in range(8):
                connection.sendall(b"7\r\n%7d\r\n" % len(file.read(len(LARGE) // 8)))
            connection.sendall(b"0\r\n\r\n")

    with raw_server(behave, narrow=True) as port:
        assert send_large(transport, "http", port).error is None


@pytest.mark.parametrize("behaviour", [then_close, then_reset], ids=["closes", "resets"])
def test_an_end_while_the_request_is_being_sent_is_no_wait_for_the_deadline(
    behaviour: Callable[[bytes], Behaviour], scheme: tuple[str, ssl.SSLContext | None], transport: Transport
) -> None:
    def behave(connection: socket.socket) -> None:
        read_head(connection)
        behaviour(b"")(connection)

    with raw_server(behave, scheme[1], narrow=True) as port:
        outcome = send_large(transport, scheme[0], port)
    assert outcome.status == 0 and outcome.error and "timed out" not in outcome.error
    assert "sending the request" in outcome.error


def test_a_receiver_that_ends_its_side_first_has_not_answered(transport: Transport) -> None:
    def behave(connection: socket.socket) -> None:
        read_head(connection)
        connection.shutdown(socket.SHUT_WR)
        never(connection, b"")

    with raw_server(behave, narrow=True) as port:
        assert send_large(transport, "http", port).error == "the connection was closed sending the request"


def test_a_large_request_on_a_connection_that_was_kept_is_sent_once(
    scheme: tuple[str, ssl.SSLContext | None], transport: Transport
) -> None:
    requests: list[int] = []

    def behave(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while data := read_request(file):
                requests.append(len(data))
                connection.sendall(NO_CONTENT)

    with raw_server(behave, scheme[1], narrow=True) as port:
        small = post(transport, f"{scheme[0]}://localhost:{port}/")
        large = [send_large(transport, scheme[0], port) for _ in range(2)]
    assert [outcome.status for outcome in large] == [204, 204]
    assert requests == [len(small.request), len(large[0].request), len(large[1].request)]


# --- TLS ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, is_cut, error",
    [
        (OK + b"\r\nhello", True, "the TLS connection was cut in the middle of the answer"),
        (OK + b"\r\nhello", False, None),
        (CHUNKED + b"2\r\nhe\r\n", True, "the TLS connection was cut in the middle of the answer"),
        (LENGTH_2, True, None),
        (NO_CONTENT, True, None),
        (b"", True, "the TLS connection was cut waiting for the answer"),
        (b"", False, "the connection was closed waiting for the answer"),
    ],
)
def test_an_answer_over_tls_that_lasts_until_the_end_is_whole_when_the_end_was_said(
    answer: bytes, is_cut: bool, error: str | None, transport: Transport, trusted: ssl.SSLContext
) -> None:
    def behave(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            read_request(file)
        connection.sendall(answer)
        if not is_cut:
            assert isinstance(connection, ssl.SSLSocket)
            connection.unwrap()

    with raw_server(behave, trusted) as port:
        outcome = post(transport, f"https://localhost:{port}/")
    assert outcome.error == error
    assert outcome.status == (int(answer[9:12]) if answer else 0)


# --- one deadline for everything ------------------------------------------------------------------------------

SLOW = SHORT / 10
SILENT: dict[str, tuple[str, Behaviour, str]] = {
    "hang": ("http", then_silence(b""), "waiting for the answer"),
    "dripping head": ("http", drip(OK + b"X: " + b"." * 1_000, SLOW), "in the middle of the answer"),
    "dripping body": (
        "http",
        drip(OK + b"Content-Length: 999\r\n\r\n" + b"." * 999, SLOW),
        "in the middle of the answer",
    ),
    "half an answer": ("http", then_silence(OK + b"Content-Length: 9\r\n\r\nhalf"), "in the middle of the answer"),
    "chunked, half": ("http", then_silence(CHUNKED + b"5\r\nhe"), "in the middle of the answer"),
    "dripping chunks": ("http", drip(CHUNKED + b"1\r\nx\r\n" * 1_000, SLOW), "in the middle of the answer"),
    "interim answers": ("http", drip(b"HTTP/1.1 100 -\r\n\r\n" * 1_000, SLOW), "in the middle of the answer"),
    "silent TLS handshake": ("https", then_silence(b""), "connecting"),
    "dripping TLS handshake": ("https", drip(b"\x16\x03\x03\x10\x00" + b"." * 1_000, SLOW), "connecting"),
}


def test_everything_is_over_at_the_deadline() -> None:
    """All at the same time, so that it takes no longer than one."""

    def error(case: tuple[str, Behaviour, str]) -> str | None:
        with raw_server(case[1]) as port, contextlib.closing(Transport()) as transport:
            began = time.monotonic()
            outcome = post(transport, f"{case[0]}://127.0.0.1:{port}/", SHORT)
            return outcome.error if time.monotonic() - began < SHORT + 1 else "after the deadline"

    with ThreadPoolExecutor(len(SILENT)) as pool:
        errors = dict(zip(SILENT, pool.map(error, SILENT.values())))
    assert errors == {name: f"timed out {doing}" for name, (_, _, doing) in SILENT.items()}


def test_a_receiver_that_does_not_read_is_left_at_the_deadline(
    scheme: tuple[str, ssl.SSLContext | None], transport: Transport
) -> None:
    with raw_server(lambda connection: never(connection, b""), scheme[1], narrow=True) as port:
        assert send_large(transport, scheme[0], port, SHORT).error == "timed out sending the request"


def test_a_connect_that_takes_long_is_left_at_the_deadline(transport: Transport) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # fill the queue of connections that nobody accepts
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        began = time.monotonic()
        outcome = post(transport, f"http://127.0.0.1:{server.getsockname()[1]}/", SHORT)
        assert outcome.error == "timed out connecting"
        assert time.monotonic() - began < SHORT + 1


# --- no receiver takes the time of another ---------------------------------------------------------------------

HOSTILE: dict[str, tuple[bytes, int]] = {  # an answer, and how much of it comes at once
    "a head of LF, a byte at a time": (OK + b"X:\r\n y" * 9_000 + b"\r\n\r\n", 1),
    "a line between chunks, a byte at a time": (CHUNKED + b"1;" + b"y" * 65_000 + b"\r\n", 1),
    "chunks of a byte": (CHUNKED + b"1\r\nx\r\n" * 170_000, 65_536),
    "a trailer of many fields": (CHUNKED + b"0\r\n" + b"a:\r\n" * 250_000, 65_536),
    "a head of 64 KiB, a byte at a time": (OK + b"X: " + b"y" * 65_000 + b"\r\n\r\n", 1),
    "chunks of a byte, a byte at a time": (CHUNKED + b"1\r\nx\r\n" * 10_000, 1),
    "interim answers": (b"HTTP/1.1 100\r\n\r\n" * 60_000, 65_536),
    "fields": (OK + b"a:\r\n" * 16_000 + b"\r\n", 65_536),
    "names of blanks": (OK + b"a" + b" " * 65_000 + b"\r\n\r\n", 65_536),
    "values of blanks": (OK + b"a:" + b"\r\n " * 21_000 + b"\r\n\r\n", 65_536),
    "a length of zeros": (OK + b"Content-Length:" + b"0" * 65_000 + b"x\r\n\r\n", 65_536),
    "a length of blanks": (OK + b"Content-Length:" + b"\r\n " * 21_000 + b"x\r\n\r\n", 65_536),
    "lengths": (OK + b"Content-Length: 1\r\n" * 3_000 + b"\r\n", 65_536),
    "lengths in a list": (OK + b"Content-Length: " + b"1," * 32_000 + b"\r\n\r\n", 65_536),
    "a chunk size of zeros": (CHUNKED + b"0" * 65_000 + b"x\r\n", 65_536),
    "a chunk size of digits": (CHUNKED + b"f" * 65_000 + b"\r\n", 65_536),
    "a chunk size and blanks": (CHUNKED + b"1" + b" " * 65_000 + b"x\r\n", 65_536),
}


@pytest.mark.parametrize("name", mostly_slow(HOSTILE, 4))
def test_each_step_of_an_exchange_is_a_short_one(
    name: str, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, size = HOSTILE[name]
    stream = io.BytesIO(answer)

    class Receiver(socket.socket):
        """Takes everything, and answers without a network."""

        def send(self, data: bytes, *_: object) -> int:  # type: ignore[override]
            return len(data)

        def recv(self, count: int, *_: object) -> bytes:
            return stream.read(min(count, size))

    monkeypatch.setattr(socket, "socket", Receiver)
    with Listener() as listener:
        steps = exchange(transport.pool, listener.url(), lambda: b"x", 0.0)
        longest = total = 0.0
        with contextlib.suppress(StopIteration):
            while True:
                began = time.thread_time()
                next(steps)
                took = time.thread_time() - began
                longest, total = max(longest, took), total + took
    assert stream.tell() > 50_000  # it was read, or there was no test
    assert longest < 0.05 and total < 2
