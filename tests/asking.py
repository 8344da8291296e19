"""Real requests to a running exposee that bring about every answer in docs/openapi.json; test_openapi.py looks at them.

A new route or status: an exchange in exchanges.py where the table can say it, else a line in the scenario that fits.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from disks import Disk
from exchanges import BROUGHT_ABOUT_BY, EXCHANGES, PING_BACK, RECOVER, REGISTER, STRANGER, UNREGISTER, A, B, filled
from support import NO_CONTENT, SECONDS, Listener, Pair, Response, eventually, held, request
from support import fields as header_fields

from exposee import EVENT_TYPES

TAKE_A_BODY = {REGISTER: "POST", UNREGISTER: "DELETE", PING_BACK: "POST", "/trigger": "POST", RECOVER: "POST"}
OWNERS = {"/": "GET", "/webhooks": "GET", "/deliveries": "GET", "/deliveries/stream": "GET"}
HOOK = "http://127.0.0.1:1/hook"  # where nobody listens
SECRET, NEW_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_m8tWqH/m0/mw/oljlpJIGSWA8a18lYk3"
UNKNOWN = "/deliveries/dlv_000000000000000000000000_0"
EVENT = {"event": A, "data": {"amount": 100}}


class Answered(NamedTuple):
    method: str
    target: str
    fields: dict[str, str]
    body: bytes | None
    answer: Response
    of_http: bool  # it is about what any request can be answered with, whatever it asks for


class Asker:
    """Asks exposees, and keeps what was answered. `listener` is the receiver, with a new URL for each `url()`."""

    of_http = False  # of the answers that come next

    def __init__(self, folder: Path, listener: Listener) -> None:
        self.answers: list[Answered] = []
        self.listener, self._folder, self._numbers = listener, folder, itertools.count()

    def url(self) -> str:
        return self.listener.url(f"/webhook-receiver/{next(self._numbers)}")

    @contextmanager
    def exposee(self, **options: Any) -> Iterator[Pair]:
        """An exposee with these options and a store of its own."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        with Pair(folder, **options) as it:
            yield it

    def ask(self, pair: Pair, method: str, target: str, body: Any = None, **fields: str) -> Response:
        """`body` is sent as it is if it is bytes, else as JSON. `fields` have _ for -."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with pair.client() as client:
            with suppress(OSError):  # it may answer and close before it has read all
                client.send(request(method, target, data, **fields))
            answer = client.receive()
        sent = {name.replace("_", "-"): value for name, value in fields.items()}
        self.answers.append(Answered(method, target, sent, data, answer, self.of_http))
        return answer

    def stream(self, pair: Pair) -> None:
        """The beginning of a stream, with the changes of one delivery."""
        target, data = "/deliveries/stream", b""
        url = self.url()
        pair.register(url, A)
        with pair.client() as client:
            client.send(request("GET", target))
            while b"retry: " not in data:
                data += client.sock.recv(65_536)
            pair.trigger(A)
            while b"event: delivery" not in data or not data.endswith(b"\n\n"):
                data += client.sock.recv(65_536)
        pair.call("DELETE", UNREGISTER, {"url": url, "event": A})
        answer = Response(int(data.split()[1]), header_fields(data), data.partition(b"\r\n\r\n")[2])
        self.answers.append(Answered("GET", target, {}, None, answer, self.of_http))


def table(asker: Asker, pair: Pair) -> None:
    """All of exchanges.py."""
    for exchange in EXCHANGES:
        url = asker.url()
        for it in [*(BROUGHT_ABOUT_BY[fact] for fact in exchange.needs), exchange]:
            fields = {name.replace("-", "_"): value for name, value in it.sent_headers().items()}
            asker.ask(pair, it.method, filled(it.path, url), it.sent_body(url), **fields)
        for event in (A, B):
            pair.call("DELETE", UNREGISTER, {"url": url, "event": event})


def exercise(asker: Asker, pair: Pair) -> None:
    """A delivery and its redelivery, a secret and the one that replaces it, and what is different for a stranger."""
    url = asker.url()
    asker.ask(pair, "POST", REGISTER, {"url": url, "event_types": [A]})
    found = asker.ask(pair, "POST", "/trigger", EVENT, Prefer="wait=5").json()["deliveries"][0]["id"]
    asker.ask(pair, "GET", "/health")
    asker.ask(pair, "GET", f"/deliveries/{found}")
    asker.ask(pair, "GET", f"/deliveries?message=msg_{found[4:28]}&state=delivered&url={url}&limit=1000")
    asker.ask(pair, "POST", f"/deliveries/{found}/attempts")
    eventually(lambda: pair.call("GET", f"/deliveries/{found}").json()["attempt_count"] == 2, "the redelivery")
    asker.ask(pair, "POST", REGISTER, {"url": url, "event_types": [A], "secret": SECRET})
    asker.ask(pair, "DELETE", UNREGISTER, {"url": url, "event": A}, **tunnelled())
    asker.ask(pair, "POST", REGISTER, {"url": url, "event_types": [B]}, **tunnelled())
    asker.ask(pair, "GET", "/ping", **tunnelled())
    secrets = {"secret": NEW_SECRET, "old_secret": SECRET}
    asker.ask(pair, "POST", REGISTER, {"url": url, "event_types": [A], **secrets})
    asker.ask(pair, "DELETE", UNREGISTER, {"url": url, "event": A, "secret": NEW_SECRET}, **tunnelled())
    asker.ask(pair, "POST", f"/deliveries/{found}/attempts")
    asker.ask(pair, "POST", "/trigger", EVENT, webhook_id="msg_1", User_Agent="Exposee/1.0")
    asker.ask(pair, "GET", "/deliveries?state=late")


def failures(asker: Asker, pair: Pair) -> None:
    """Deliveries in other states than delivered."""
    asker.listener.answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5_000
    asker.ask(pair, "POST", REGISTER, {"url": asker.url(), "event_types": [A]})
    asker.ask(pair, "POST", REGISTER, {"url": "http://127.0.0.1:1/", "event_types": [A]})
    for delivery in asker.ask(pair, "POST", "/trigger", EVENT, Prefer="wait=5").json()["deliveries"]:
        asker.ask(pair, "GET", f"/deliveries/{delivery['id']}")
    asker.ask(pair, "GET", "/deliveries?state=retrying")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("history.RAW_ATTEMPTS", 0)  # the bytes of all attempts are forgotten
        again = asker.ask(pair, "POST", "/trigger", EVENT, Prefer="wait=5").json()["deliveries"][0]["id"]
        asker.ask(pair, "GET", f"/deliveries/{again}")
    asker.ask(pair, "DELETE", UNREGISTER, {"url": "http://127.0.0.1:1/", "event": A})
    asker.ask(pair, "GET", "/deliveries?state=cancelled")
    with held(gate := threading.Event()):

        def answer_late(connection: socket.socket) -> None:
            gate.wait(SECONDS)
            connection.sendall(NO_CONTENT)

        asker.listener.answer = answer_late
        message = asker.ask(pair, "POST", "/trigger", EVENT).json()["id"]
        asker.ask(pair, "GET", f"/deliveries?message={message}")
    asker.listener.answer = NO_CONTENT


def malformed_bodies(asker: Asker, pair: Pair) -> None:
    for path, method in TAKE_A_BODY.items():
        asker.ask(pair, method, path)
        asker.ask(pair, method, path, b'{"url": ')
        asker.ask(pair, method, path, [])
        asker.ask(pair, method, path, b"{}", Content_Type="text/plain")
        asker.ask(pair, method, path, b"{}", Content_Encoding="gzip")
        asker.ask(pair, method, path, b"", Content_Length="2000000")


def shapes(asker: Asker, pair: Pair) -> None:
    """Bodies at both sides of what the schemas allow."""
    good = {"url": HOOK, "event_types": [A]}
    urls = [5, "", "ftp://host.example/", "http://me@host.example/", f"{HOOK}#top", f"{HOOK}/ö", f"{HOOK}\n", "/hook"]
    secrets = [5, "", SECRET[6:], "whsec_" + "A" * 31, "whsec_" + "A" * 89, "whsec_é" + SECRET[7:], SECRET + "\n"]
    for url in [*urls, HOOK.ljust(2_049, "x"), HOOK.ljust(2_048, "x"), "HTTP://LOCALHOST:1?a=b@c"]:
        asker.ask(pair, "POST", REGISTER, {**good, "url": url})
    events: Any
    for events in ([], A, {}, ["ping"], [5], [A] * 65, list(EVENT_TYPES)):
        asker.ask(pair, "POST", REGISTER, {**good, "event_types": events})
    for secret in (*secrets, "whsec_" + "A" * 32, "whsec_" + "A" * 86 + "=="):
        asker.ask(pair, "POST", REGISTER, {**good, "secret": secret})
    for url, event in [(5, A), ("", A), (HOOK, 5), (HOOK, ""), (HOOK, "lunch"), (HOOK, A)]:
        asker.ask(pair, "DELETE", UNREGISTER, {"url": url, "event": event})
    for url in (5, "", HOOK):
        asker.ask(pair, "POST", PING_BACK, {"url": url})
    for value in (None, 1.5, "text", [1, {}], {"more": None}):
        asker.ask(pair, "POST", "/trigger", {"event": A, "data": value, "more": 1})
    for since in (5, -1.5, "2025-01-31", "2025-01-31T12:00", "2025-01-31T12:00:00.250Z", "2025-01-31T12:00:00+02:00"):
        asker.ask(pair, "POST", RECOVER, {"since": since})
    recoveries: list[dict[str, Any]] = [{"since": since} for since in ("", "today", "31.01.2025", True, None, [5])]
    recoveries += [{"url": ""}, {"url": 5}, {"state": None}, {"state": "late"}, {"url": HOOK, "event": A}]
    for wanted in [*recoveries, {"state": "cancelled", "url": HOOK}]:
        asker.ask(pair, "POST", RECOVER, wanted)
    for limit in ("0", "-1", "1001", "many", "1"):
        asker.ask(pair, "GET", f"/deliveries?limit={limit}")


def callers(asker: Asker, pair: Pair) -> None:
    """The owner's routes: for strangers without and with a token, and for local callers."""
    owners = [*OWNERS.items(), (UNKNOWN, "GET"), (f"{UNKNOWN}/attempts", "POST"), (RECOVER, "POST")]
    with asker.exposee(token="t0ken") as closed:
        for path, method in owners:
            asker.ask(pair, method, path, **tunnelled())
            asker.ask(closed, method, path, **tunnelled())
            if not path.endswith("stream"):
                asker.ask(closed, method, path, **tunnelled(), Authorization="Bearer t0ken")
                asker.ask(pair, method, path)
        asker.ask(closed, "POST", "/trigger", EVENT, **tunnelled())
        asker.stream(pair)


def limits(asker: Asker, pair: Pair) -> None:
    """Strangers who ask too often, too many streams, a disk that refuses."""
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("owner.MAX_STREAMS", 0)
        patch.setattr("rules.Allowance.take", lambda _: 1.0)
        asker.ask(pair, "GET", "/ping", **tunnelled())
        asker.ask(pair, "POST", "/trigger", EVENT, **tunnelled())
        with asker.exposee(fsync=disk, schedule=()) as full:
            url = asker.url()
            full.register(url, A)
            full.register(HOOK, A)
            found = full.trigger(A, Prefer="wait=5").json()["deliveries"][0]["id"]
            asker.ask(full, "GET", "/deliveries/stream")
            asker.ask(full, "POST", RECOVER, {"state": "failed"})
            eventually(lambda: full.call("GET", "/health").json()["waiting"] == 0, "the end of the recovery")
            disk.fail()
            asker.ask(full, "POST", RECOVER, {"state": "failed"})
            asker.ask(full, "GET", "/ping")
            asker.ask(full, "POST", "/trigger", EVENT)
            asker.ask(full, "POST", f"/deliveries/{found}/attempts")
            asker.ask(full, "POST", REGISTER, {"url": url, "event_types": [B]})
            asker.ask(full, "DELETE", UNREGISTER, {"url": url, "event": A})
            disk.mend()


def errors_of_http(asker: Asker, pair: Pair) -> None:
    """What any request can be answered with."""
    asker.of_http = True
    for path, method in (OWNERS | TAKE_A_BODY | {"/ping": "GET", UNKNOWN: "GET"}).items():
        asker.ask(pair, "PATCH", path)
        asker.ask(pair, method, path, Host="not a host")
        asker.ask(pair, method, f"{path}?{'x' * 9_000}")
        asker.ask(pair, method, path, **{f"field{number}": "" for number in range(65)})
        asker.ask(pair, method, path, Transfer_Encoding="gzip")
        asker.ask(pair, method, path, b"", Content_Length="2000000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.CLIENT_SECONDS", 0.05)
        asker.ask(pair, "POST", "/trigger", b"", Content_Length="10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair.store, "count", lambda: int("a bug"))
        asker.ask(pair, "GET", "/health")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.MAX_CONNECTIONS", 0)
        eventually(lambda: asker.ask(pair, "GET", "/event-types").status == 503, "the end of the other connections")


def tunnelled() -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in STRANGER.items()}


SCENARIOS: list[Callable[[Asker, Pair], None]] = [  # one exposee for all of them, in this order
    table, exercise, failures, malformed_bodies, callers, limits, shapes, errors_of_http,
]  # fmt: skip
