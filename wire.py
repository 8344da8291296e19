"""HTTP/1.1 as bytes, for both servers: bytes to requests, answers to bytes, and nothing about webhooks.

http.server has both, but it accepts what RFC 9112 tells a server to refuse (two lengths, bare LF, folded fields), and
its errors are HTML. So requests are read here, with limits. Where the RFC leaves a choice, we mostly refuse,
and close. Connections and threads are server.py's business. Left out on purpose: compression, ranges, HTTP/2.
"""

from __future__ import annotations

import email.utils
import functools
import http
import io
import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import strict_json

MAX_LINE = 8_192  # bytes of a request line or a header field; what most servers allow
MAX_FIELDS = 64  # header fields; a proxy adds a dozen to a client's dozen
MAX_BODY = 1_048_576  # bytes; GitHub's cap is 25 MiB, but ours are a learner's events
MAX_CHUNKS = 16_384  # a body of one-byte chunks costs us far more than its sender
TOO_LARGE = f"the body is over {MAX_BODY:,} bytes"
SEEN = 32_768  # bytes of a request that are kept for transcripts

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
FIRST_BYTE = re.compile(rb"[\r\n]|" + TOKEN)
REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/(1\.\d)\r\n" % TOKEN)
FIELD = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)\r\n" % TOKEN)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")  # what follows ; is ignored
AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")
SINGLE = ("content-length", "host", "transfer-encoding", "content-type", "authorization")  # never repeated

JSON_TYPE = "application/json"
PHRASES = {status.value: status.phrase for status in http.HTTPStatus}  # the four below vary between Pythons
PHRASES |= {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
CURL_HINT = "add curl's -H 'Content-Type: application/json'"


class Problem(Exception):
    """Raised anywhere in a handler, sent as problem+json (RFC 9457). `detail`: what was wrong, and what was expected.

    `notes` are lines that the terminal shows below it, and that are not sent.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, notes: Sequence[str] = ()
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.notes = status, detail, dict(headers or {}), notes

    def answer(self) -> Answer:
        body = {"title": PHRASES[self.status], "status": self.status, "detail": self.detail}
        return Answer(self.status, body, self.headers, "application/problem+json")


class Request(NamedTuple):
    """A request that has been read whole. Field names are in lower case; a repeated field is joined by commas."""

    method: str
    target: str  # as it was sent
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    authority: str  # host and port that the client believes to talk to
    peer: str  # the address of the other end: a tunnel's own, when there is one
    body: bytes | None  # None: there was none, not even an empty one
    parameters: tuple[str, ...] = ()  # the values of {…} in the route
    version: str = "1.1"  # of HTTP; 1.0 or a later one
    received: bytes = b""  # the request as it came, its first SEEN bytes
    size: int = 0  # bytes of the whole request

    def json(self) -> Any:
        """The body as JSON. Problem 411, 415 or 400 when it is not."""
        if self.body is None:
            raise Problem(411, f"a JSON body is needed: send it with Content-Length, or {CURL_HINT} and -d '{{…}}'")
        coding, kind = self.headers.get("content-encoding", ""), self.headers.get("content-type", "")
        if coding.lower() not in ("", "identity"):
            detail = f"Content-Encoding is {coding}, expected none: send the body uncompressed"
            raise Problem(415, detail, {"Accept-Encoding": "identity"})  # RFC 9110, 15.5.16
        if kind.partition(";")[0].strip().lower() != JSON_TYPE:
            raise Problem(415, f"Content-Type is {kind or 'missing'}, expected {JSON_TYPE}: {CURL_HINT}")
        try:
            return strict_json.loads(self.body)
        except ValueError as error:
            raise Problem(400, f"the body is {error}") from None

    def is_last(self) -> bool:
        """Whether the connection has to end after it (RFC 9112, 9.3).

        A body that is described but has no length (node's DELETE) would be taken for the next request.
        """
        described = self.body is None and any(re.match("content-|expect$", name) for name in self.headers)
        return described or self.version == "1.0" or "close" in self.headers.get("connection", "").lower()


class Answer:
    """What a handler returns; server.py sends it inside a `with`, whose end closes the stream and calls `after`.

    `body` is a JSON value, bytes, or an iterator of bytes: a stream, sent piece by piece after the head. `after` is
    told whether the answer was sent. `takeover` gets the connection with nothing sent on it, in place of an answer.
    """

    def __init__(
        self,
        status: int = 200,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        type: str = JSON_TYPE,
        after: Callable[[bool], None] | None = None,
        takeover: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self.status, self.headers, self.type = status, dict(headers or {}), type
        self.after, self.takeover = after, takeover
        self.stream: Any = body if isinstance(body, Iterator) else None
        plain = b"" if body is None or self.stream else body
        self.body: bytes = plain if isinstance(plain, bytes) else strict_json.to_json(plain).encode() + b"\n"

    def __enter__(self) -> Answer:
        return self

    def encoded(self, head_only: bool = False, close: bool = False) -> bytes:
        """The status line, the header fields and the body, but for a stream's."""
        headers = {"Date": _date(int(time.time()))}
        if self.status not in (204, 304) and self.stream is None:  # RFC 9110, 8.6: no length with a 204
            headers["Content-Length"] = str(len(self.body))
        if self.body or self.stream:
            headers["Content-Type"] = self.type
        if close:
            headers["Connection"] = "close"
        headers.update(self.headers)
        lines = [f"HTTP/1.1 {self.status} {PHRASES[self.status]}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else self.body)

    def __exit__(self, error: object, *_: object) -> None:
        try:
            if hasattr(self.stream, "close"):
                self.stream.close()
        finally:
            if self.after:
                self.after(error is None)


@functools.lru_cache(1)  # an encoder and a date made for each answer would make POST /trigger take a tenth longer
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


class RequestReader:
    """Reads requests from a connection, one after the other, as RFC 9112 (sections in brackets) has them.

    About the newest one: `method`, `target`, `received` (its first bytes) and `size` (of all that came).
    """

    def __init__(self, stream: io.BufferedReader, send: Callable[[bytes], object]) -> None:
        self._stream, self._send = stream, send

    def read(self, peer: str) -> Request:
        """A whole request. Problem when it is not one we take, EOFError when it ends in the middle."""
        self.method, self.target, self.received, self.size = "", "", bytearray(), 0
        if not FIRST_BYTE.match(self._stream.peek(1)):  # server.py has seen that there is one
            raise Problem(400, "that is not plain HTTP; is the client speaking https?")
        if (line := self._line("request line", 414)) == b"\r\n":  # [2.2] one empty line before it is tolerated
            line = self._line("request line", 414)
        if not (match := REQUEST_LINE.fullmatch(line)):  # [3]
            raise Problem(400, "malformed request line, expected METHOD SP target SP HTTP/1.1 CR LF")
        self.method, self.target, version = (part.decode() for part in match.groups())
        headers = self._fields()
        if "host" not in headers and version != "1.0":  # [3.2]
            raise Problem(400, "the Host field is missing")
        authority, path, query = _split_target(self.method, self.target, headers.get("host", ""))
        body = self._body(headers, version == "1.0")
        received = bytes(self.received), self.size
        return Request(self.method, self.target, path, query, headers, authority, peer, body, (), version, *received)

    def _fields(self) -> dict[str, str]:
        """[5] Header fields, up to the empty line after them."""
        fields: dict[str, str] = {}
        for _ in range(MAX_FIELDS + 1):
            line = self._line("header field", 431)
            if line == b"\r\n":
                return fields
            if not (match := FIELD.fullmatch(line)):
                raise Problem(400, "malformed header field, expected name: value CR LF, without folding")
            name, value = match[1].decode().lower(), match[2].strip(b" \t").decode("latin-1")
            if name in fields:
                if name in SINGLE:
                    raise Problem(400, f"the field {name} appears twice")
                value = f"{fields[name]}, {value}"
            fields[name] = value
        raise Problem(431, f"more than {MAX_FIELDS} header fields")

    def _body(self, headers: Mapping[str, str], old: bool) -> bytes | None:
        """[6] The body is in chunks, has a length, or is not there."""
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is None and length is None:
            return None
        if coding is not None and (length is not None or old):  # [6.1] requests are smuggled past a proxy like this
            raise Problem(400, "Transfer-Encoding beside Content-Length, or in HTTP/1.0")
        if coding is not None and coding.lower() != "chunked":
            raise Problem(501, f"the transfer coding {coding} is unknown here, expected chunked")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Problem(400, "Content-Length is not a number")
        size = float(length or 0)  # int would refuse a number with thousands of digits
        if size > MAX_BODY:
            raise Problem(413, TOO_LARGE)
        if not old and headers.get("expect", "").lower() == "100-continue":
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110, 10.1.1: the client may wait for this
        return self._exactly(int(size)) if coding is None else self._chunks()

    def _chunks(self) -> bytes:
        """[7.1] Chunks, up to an empty one and the trailer fields."""
        body = bytearray()
        for _ in range(MAX_CHUNKS + 1):
            if not (match := CHUNK_SIZE.fullmatch(self._line("chunk size", 400))):
                raise Problem(400, "malformed chunk size, expected hexadecimal digits CR LF")
            if (size := int(match[1], 16)) == 0:
                self._fields()  # [7.1.2] trailer fields may be discarded
                return bytes(body)
            if len(body) + size > MAX_BODY:
                raise Problem(413, TOO_LARGE)
            body += self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise Problem(400, "a chunk is longer than its size said, expected CR LF after it")
        raise Problem(413, f"more than {MAX_CHUNKS:,} chunks")

    def _line(self, what: str, status: int) -> bytes:
        line = self._kept(self._stream.readline(MAX_LINE + 1))
        if len(line) > MAX_LINE:
            raise Problem(status, f"{what} over {MAX_LINE:,} bytes")
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    def _exactly(self, size: int) -> bytes:
        data = self._kept(self._stream.read(size))
        if len(data) < size:
            raise EOFError
        return data

    def _kept(self, data: bytes) -> bytes:
        self.received += data[: SEEN - len(self.received)]
        self.size += len(data)
        return data


def _split_target(method: str, target: str, host: str) -> tuple[str, str, dict[str, str]]:
    """[3.2] (authority, path, query) of a request target. It is a path, * for OPTIONS, or an absolute URL."""
    authority = host
    if not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        absolute = re.fullmatch(r"https?://([^/?]+)/?(.*)", target, re.IGNORECASE)  # every server has to take it
        if absolute is None:
            raise Problem(400, "the request target is neither a path nor an absolute http or https URL")
        authority, target = absolute[1], "/" + absolute[2]
    if any(name and not AUTHORITY.fullmatch(name) for name in {authority, host}):
        raise Problem(400, "the host is malformed, expected name or name:port")
    path, _, query = target.partition("?")
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS) if query else []
    except ValueError:
        raise Problem(400, f"more than {MAX_FIELDS} query parameters") from None
    if "%" in path and "%2f" not in path.lower():  # %2F is data, not a separator: it matches no route
        path = urllib.parse.unquote(path)
    return authority, path, dict(pairs)
