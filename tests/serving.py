"""A server with test routes, and the bytes that tests of wire.py and server.py send to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from support import SECONDS, Client, Response, request

from server import Routes, Server
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

    def __init__(
        self, routes: Routes, show: Callable[..., None] | None = None, log: Callable[..., None] = lambda *lines: None
    ) -> None:
        super().__init__(("127.0.0.1", 0), routes, show, log)
        self.ended = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.run, daemon=True)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.ended.release()

    def client(self) -> Client:
        return Client(self.server_port)


@contextlib.contextmanager
def serving(
    routes: Routes, show: Callable[..., None] | None = None, log: Callable[..., None] = lambda *lines: None
) -> Iterator[Watched]:
    server = Watched(routes, show, log)
    server.thread.start()
    try:
        yield server
    finally:
        server.stop()
        server.thread.join(SECONDS)


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


def host(fields: bytes, target: bytes = b"/ok") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + fields + b"\r\n"
