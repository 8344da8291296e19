"""wire.py, spoken to in bytes: whatever a client, a proxy or an attacker sends has one right answer."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from serving import GET, HOST, Watched, chunked, everything, host, is_problem, refused
from support import Client, request

import wire
from wire import Answer

# --- targets and fields ------------------------------------------------------------------------------------------


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
    detail = is_problem(client.ask(request("GET", target)), 404, closes=False)
    assert re.search("here, expected /", detail)


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
                   [b"", b"g", b"-5", b"+5", b"0x5", b" 5", b"5 5", b"5;a\0", b"5\n5", b"5_0", b"5 ", b"5\t", b"5 a", b"5,a",
                b"5;a\n", b"5;a\r"]),
    "chunks": (chunked, [
        b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"4\r\nhello\r\n0\r\n\r\n", b"6\r\nhello\r\n0\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
    ]),
}  # fmt: skip
MALFORMED = {f"{kind} {case!r}": build(case) for kind, (build, cases) in BROKEN.items() for case in cases}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_are_refused_and_the_connection_closed(client: Client, data: bytes) -> None:
    refused(client, data + GET)


@pytest.mark.parametrize("body", [
    b"5\r\nhello\r\n0\r\n\r\n", b"0005\r\nhello\r\n00\r\n\r\n", b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
    b'5;a=b;c="d;e"\r\nhello\r\n0;last\r\n\r\n', b'5 \t; a = b\t;c= "d\\"\te;"\r\nhello\r\n0\r\n\r\n',
    b'5;a="\xe9";b=""\r\nhello\r\n0\r\n\r\n',
    b"5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n",
    b"0" * 5_000 + b"5\r\nhello\r\n" + b"0" * 5_000 + b"\r\n\r\n",
], ids=["one", "zeros", "two", "extensions", "blanks", "bytes", "trailers", "many zeros"])  # fmt: skip
def test_chunked_bodies_are_read(client: Client, body: bytes) -> None:
    for coding in ("chunked", "Chunked"):
        got = client.ask(chunked(body, Transfer_Encoding=coding)).json()
        assert (got["body"], "c" in got["headers"]) == ("hello", False)
    got = client.ask(chunked(b"A\r\n0123456789\r\n0\r\n\r\n")).json()
    assert got["body"] == "0123456789"


@pytest.mark.parametrize("method", ["-BLARGH", "!", "'", "~x", "1", "$%&*+.^_`|"])
def test_any_token_is_a_method(client: Client, method: str) -> None:
    answer = client.ask(request(method, "/ok"))
    assert method in is_problem(answer, 405, closes=False) and "POST" in answer.headers["allow"]
    is_problem(client.ask(request(method, "/no")), 404, closes=False)


@pytest.mark.parametrize("start", [b"\x16\x03\x01", b"\x80\x2e\x01", b"(", b"\0", b"\xff"])
def test_what_begins_like_no_method_is_asked_whether_it_is_https(client: Client, start: bytes) -> None:
    client.send(start)  # a hello has no end of line that could be waited for
    assert "https" in is_problem(client.receive(), 400, closes=True)


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


LIMITS: dict[str, tuple[Callable[[int], bytes], int, int]] = {
    "request line": (lambda n: host(HOST, b"/ok?" + b"x" * (n - 19)), wire.MAX_LINE, 414),
    "field": (lambda n: host(HOST + b"A: " + b"x" * (n - 5) + b"\r\n"), wire.MAX_LINE, 431),
    "number of fields": (lambda n: host(HOST + b"".join(b"a%d:\r\n" % i for i in range(n - 1))), wire.MAX_FIELDS, 431),
    "one name": (lambda n: host(HOST + b"a: b\r\n" * (n - 1)), wire.MAX_FIELDS, 431),
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


@pytest.mark.parametrize("zeros", [0, 3, 20, 8_000])
@pytest.mark.parametrize("digits", [0, 1, 12, wire.MAX_BODY])
def test_a_length_is_judged_by_its_value_and_not_by_its_digits(client: Client, zeros: int, digits: int) -> None:
    data = request("POST", "/ok", None, Content_Type="a/b", Content_Length="0" * zeros + str(digits)) + bytes(digits)
    assert client.ask(data).json()["size"] == digits
    assert client.ask(GET).status == 200


@pytest.mark.parametrize("zeros", ["", "000"])
@pytest.mark.parametrize(
    "value", [wire.MAX_BODY + 1, 10**15, 10**400, 10**5_000], ids=["1 MiB + 1", "15", "400", "5000"]
)
def test_a_length_too_large_is_refused_before_the_body_comes(client: Client, value: int, zeros: str) -> None:
    digits = zeros + "1" + "0" * 5_000 if value == 10**5_000 else f"{zeros}{value}"  # str() takes no such number
    refused(client, request("POST", "/ok", Content_Length=digits), 413)


@pytest.mark.parametrize("size", [b"100001", b"123456789", b"000100001", b"f" * 8_000], ids=len)
def test_a_chunk_too_large_is_refused_before_it_comes(client: Client, size: bytes) -> None:
    refused(client, chunked(size + b"\r\n"), 413)


@pytest.mark.parametrize("line", [
    b"5" + b" " * 8_000, b"5" + b";a" * 4_000 + b"\0", b"5" + b" ;" * 4_000 + b"\0", b"0" * 8_000 + b"g",
], ids=["blanks", "extensions", "separators", "zeros"])  # fmt: skip
def test_a_hostile_chunk_size_costs_no_time(client: Client, line: bytes) -> None:
    start = time.perf_counter()
    refused(client, chunked(line + b"\r\n"))
    assert time.perf_counter() - start < 1


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


# --- bodies as JSON -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate, gzip", "x"])
def test_a_body_in_a_content_coding_is_refused_in_its_own_words(client: Client, coding: str) -> None:
    answer = client.ask(request("POST", "/json", b"\x1f\x8b", Content_Encoding=coding))
    detail = is_problem(answer, 415, closes=False)
    assert f"Content-Encoding is {coding}, expected none" in detail and answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_in_no_coding_may_say_so(client: Client, coding: str) -> None:
    assert client.ask(request("POST", "/json", b"{}", Content_Encoding=coding)).json() == {}


def test_a_byte_order_mark_is_refused_in_its_own_words(client: Client) -> None:
    answer = client.ask(request("POST", "/json", b"\xef\xbb\xbf{}"))
    assert "the body is JSON after a byte order mark" in is_problem(answer, 400, closes=False)


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, [], {"a": "\u00e9"}, "x", False, 0])
def test_an_answer_is_json_unless_it_is_bytes(value: Any) -> None:
    head, _, body = Answer(200, value).encoded().partition(b"\r\n\r\n")
    assert json.loads(body) == value and b"Content-Type: application/json\r\n" in head + b"\r\n"
    assert Answer(200, b"as is").encoded().endswith(b"\r\n\r\nas is")
    assert Answer(200, value).encoded(head_only=True) == head + b"\r\n\r\n"


@pytest.mark.parametrize("body", [{1}, "\ud800", object()], ids=["a set", "a surrogate", "an object"])
def test_an_answer_that_cannot_be_sent_is_not_made(body: Any) -> None:
    with pytest.raises((TypeError, UnicodeEncodeError)):
        Answer(200, body)


# What IANA has registered, and 418. Python's own words differ between its versions, and so may the statuses it knows.
PHRASES = """
100 Continue | 101 Switching Protocols | 102 Processing | 103 Early Hints | 200 OK | 201 Created | 202 Accepted | 203
Non-Authoritative Information | 204 No Content | 205 Reset Content | 206 Partial Content | 207 Multi-Status | 208
Already Reported | 226 IM Used | 300 Multiple Choices | 301 Moved Permanently | 302 Found | 303 See Other | 304 Not
Modified | 305 Use Proxy | 307 Temporary Redirect | 308 Permanent Redirect | 400 Bad Request | 401 Unauthorized | 402
Payment Required | 403 Forbidden | 404 Not Found | 405 Method Not Allowed | 406 Not Acceptable | 407 Proxy
Authentication Required | 408 Request Timeout | 409 Conflict | 410 Gone | 411 Length Required | 412 Precondition
Failed | 413 Content Too Large | 414 URI Too Long | 415 Unsupported Media Type | 416 Range Not Satisfiable | 417
Expectation Failed | 418 I'm a Teapot | 421 Misdirected Request | 422 Unprocessable Content | 423 Locked | 424 Failed
Dependency | 425 Too Early | 426 Upgrade Required | 428 Precondition Required | 429 Too Many Requests | 431 Request
Header Fields Too Large | 451 Unavailable For Legal Reasons | 500 Internal Server Error | 501 Not Implemented | 502
Bad Gateway | 503 Service Unavailable | 504 Gateway Timeout | 505 HTTP Version Not Supported | 506 Variant Also
Negotiates | 507 Insufficient Storage | 508 Loop Detected | 510 Not Extended | 511 Network Authentication Required
"""


def test_the_phrases_are_the_same_on_every_python() -> None:
    phrases = [phrase.split(maxsplit=1) for phrase in PHRASES.replace("\n", " ").split("|")]
    assert wire.PHRASES == {int(status): phrase.strip() for status, phrase in phrases}
