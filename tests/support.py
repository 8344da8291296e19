"""What the tests share: real sockets, real processes, and receivers that do as they are told."""

from __future__ import annotations

import contextlib
import json
import queue
import selectors
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10.0  # that anything which must happen may take; nothing waits this long when all is well

sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tools")]

import walkthrough  # noqa: E402
from addresses import Guard, url_problem  # noqa: E402
from client import Exchange  # noqa: E402
from client import exchange as run_exchange  # noqa: E402
from connections import KEPT_OPEN, NextAddress, Pool, Resolver, Wait  # noqa: E402
from delivery import Dispatcher  # noqa: E402
from exposee import EVENT_TYPES, REFUSALS, Exposee  # noqa: E402
from history import delivery_json  # noqa: E402
from journal import Journal  # noqa: E402
from messages import DELIVERING, Delivery, Message, body_of  # noqa: E402
from ondemand import OnDemand  # noqa: E402
from rules import Rules  # noqa: E402
from sender import InFlight  # noqa: E402
from server import Server  # noqa: E402
from store import WebhookStore  # noqa: E402

JOURNAL = "webhooks.deliveries.jsonl"  # of a store with the name webhooks.json
EVENT, OTHER = "payment_received", "invoice_completed"

# --- a client that writes bytes -----------------------------------------------------------------------------


class Response(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A connection on which a test sends what it likes."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, head: bool = False) -> Response:
        """The next response; EOFError when the connection has been closed instead. `head`: it has no body."""
        line = self._file.readline()
        if not line:
            raise EOFError
        headers = {}
        while (field := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if head else int(headers.get("content-length", 0))
        return Response(int(line.split()[1]), headers, self._file.read(length))

    def ask(self, data: bytes) -> Response:
        self.send(data)
        return self.receive()

    def closed(self) -> bool:
        """Whether the server has ended the connection; waits for it."""
        try:
            return self._file.read(1) == b""
        except OSError:
            return True

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(method: str, target: str, body: bytes | None = None, **fields: str) -> bytes:
    """The bytes of a request. `fields` are header fields, with _ for -; Host and the usual ones are added."""
    headers = {"Host": "localhost"}
    if body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + (body or b"")


def is_problem(answer: Response, status: int, *words: str) -> bool:
    """Whether this is a problem of RFC 9457, in one sentence; its detail has to have all the words."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    problem = answer.json()
    assert problem.keys() == {"title", "status", "detail"} and problem["status"] == status
    assert not [word for word in words if word not in problem["detail"]], problem["detail"]
    return "Traceback" not in problem["detail"] and "\n" not in problem["detail"] and len(problem["detail"]) < 500


# --- a receiver that shares no code with ours ------------------------------------------------------------------

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
Behaviour = Callable[[socket.socket], None]


class Listener:
    """A plain socket that takes requests one after the other on each connection and answers each as told.

    `answer` is bytes, or a function that gets the connection after the request was read; it may block, close
    or misbehave. `requests` has every request's bytes in order of arrival.
    """

    def __init__(self, answer: bytes | Behaviour = NO_CONTENT) -> None:
        self.answer: bytes | Behaviour = answer
        self.requests: queue.Queue[bytes] = queue.Queue()
        self.connections = 0
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._sock.getsockname()[1]
        self._held: list[socket.socket] = []
        self._released = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def hang(self, connection: socket.socket) -> None:
        """An answer: none, until the listener is closed."""
        self._released.wait()

    def next(self) -> bytes:
        """The next request; fails the test if none comes."""
        return self.requests.get(timeout=SECONDS)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._sock.accept()
                self.connections += 1
                self._held.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as file:
            while data := read_request(file):
                self.requests.put(data)
                answer = self.answer
                connection.sendall(answer) if isinstance(answer, bytes) else answer(connection)

    def close(self) -> None:
        self._released.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for connection in self._held:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_request(file: IO[bytes]) -> bytes:
    """The bytes of one request, b"" at the end of the connection."""
    data, length = b"", 0
    while not data.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            return b""
        data += line
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return data + file.read(length)


# --- our client, in this thread -----------------------------------------------------------------------------------


class Transport:
    """Runs one exchange after the other in the calling thread, as a sender runs many of them."""

    def __init__(
        self,
        guard: Guard | None = None,
        clock: Callable[[], float] = time.monotonic,
        selector: selectors.BaseSelector | None = None,
    ) -> None:
        self._clock = clock
        self.pool = Pool(selector or selectors.DefaultSelector(), Resolver(), guard, KEPT_OPEN, clock)

    def send(self, url: str, request: bytes | Callable[[], bytes], seconds: float = SECONDS) -> Exchange:
        """The outcome of sending the whole `request`, or what it gives, to the host of `url`."""
        deadline = self._clock() + seconds
        compose = (lambda: request) if isinstance(request, bytes) else request
        generator = run_exchange(self.pool, url, compose, deadline)
        try:
            wait = next(generator)
            while True:
                if isinstance(wait, futures.Future):
                    is_done = futures.wait([wait], deadline - self._clock()).done
                    error: Exception | None = None if is_done else TimeoutError()
                else:
                    self.pool.watch(*wait, generator)
                    error = self._wait(deadline)
                wait = generator.throw(error) if error else next(generator)
        except StopIteration as end:
            answer: Exchange = end.value
            return answer

    def _wait(self, deadline: float) -> Exception | None:
        """Wait for the socket. Returns what to throw into the generator when its time is up."""
        is_ready = False
        while not is_ready:
            now = self._clock()
            if now >= deadline:
                return TimeoutError()
            if self.pool.out_of_patience(now):
                return NextAddress()
            for key, _ in self.pool.selector.select(min(deadline, self.pool.next_address()) - now):
                is_ready = is_ready or key.data.waiter is not None
                if key.data.waiter is None:
                    self.pool.look(key.data)
        return None

    def close(self) -> None:
        self.pool.close_idle(0.0)
        self.pool.selector.close()


# --- our side, in this process -----------------------------------------------------------------------------------


def no_sync(descriptor: int) -> None:
    """An fsync for tests that are about something else."""


class Pair:
    """An exposee on a free port, built as its main does; close it in the end.

    Options go to Dispatcher (schedule, timeout, workers, clock …); fsync, guard, token and event_types where they
    belong.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        fsync, guard = options.pop("fsync", no_sync), options.pop("guard", Guard())
        front = {name: options.pop(name) for name in ("token", "event_types") if name in options}
        self.log: list[str] = []
        self.store = WebhookStore(folder / "webhooks.json", url_problem, fsync)
        self.journal = Journal(folder / JOURNAL, fsync)
        options.setdefault("log", self.log.append)
        self.dispatcher = Dispatcher(self.store, self.journal, guard, **options)
        rules = Rules(front.pop("event_types", EVENT_TYPES), guard, **front)
        self.exposee = Exposee(self.store, self.dispatcher, rules, self.log.append)
        self.server = Server(
            ("127.0.0.1", 0), self.exposee.routes, log=lambda *lines: self.log.extend(lines), refusals=REFUSALS
        )
        self.port, self.url = self.server.server_port, self.server.url
        self.dispatcher.start()
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()

    def client(self) -> Client:
        return Client(self.port)

    def call(self, method: str, target: str, value: Any = None, **fields: str) -> Response:
        """One request with `value` as JSON, on a connection of its own."""
        body = None if value is None else json.dumps(value).encode()
        with self.client() as client:
            return client.ask(request(method, target, body, **fields))

    def register(self, url: str, *events: str, **more: str) -> None:
        answer = self.call("POST", "/webhooks/register", {"url": url, "event_types": list(events), **more})
        assert answer.status == 200, answer

    def trigger(self, event: str, data: Any = None, **fields: str) -> Response:
        return self.call("POST", "/trigger", {"event": event, "data": data}, **fields)

    def close(self) -> int:
        self.server.stop()
        self._thread.join(SECONDS)
        waiting = self.dispatcher.close()
        self.store.close()
        return waiting

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- a dispatcher whose time and receivers belong to the test -----------------------------------------------------


def exchange(status: int = 204, *fields: str, error: str | None = None) -> Exchange:
    """What an attempt came to."""
    head = "\r\n".join([f"HTTP/1.1 {status} -", *fields, ""]).encode() if status else b""
    return Exchange(b"", head + b"\r\n", len(head) + 2, status, head, error)


def a_delivery(event: str = EVENT) -> Delivery:
    """One that nothing has happened to yet, of a message with a known id and time."""
    message = Message("msg_0123456789abcdef01234567", event, 1_700_000_000.25, body_of(event, b'{"amount": 100}'))
    return Delivery(message, 3, "http://example.com/hook")


def fields(request: bytes) -> dict[str, str]:
    """The header fields of a request, names in lower case."""
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Clock:
    """Time, Unix and monotonic, that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


class Sent(NamedTuple):
    url: str
    request: bytes
    at: float

    @property
    def body(self) -> bytes:
        return self.request.partition(b"\r\n\r\n")[2]


Answer = Exchange | Callable[[str], Exchange | Future[Exchange]]


class Blocking:
    """An answer that does not come before `set`."""

    def __init__(self, then: Exchange | None = None) -> None:
        self.then, self._answer = then or exchange(), Future[Exchange]()

    def __call__(self, url: str) -> Future[Exchange]:
        return self._answer

    def set(self) -> None:
        if not self._answer.done():
            self._answer.set_result(self.then)


def without_bytes(delivery: Delivery) -> dict[str, Any]:
    """All that the API shows, but for the bytes, which a restart loses."""
    value = delivery_json(delivery, attempts=True)
    for attempt in value["attempts"]:
        for name in ("request", "response", "gone"):
            attempt.pop(name, None)
    return value


class _CountingDispatcher(Dispatcher):
    """Counts the turns of its senders, so that a test knows when they have seen another time."""

    turns = 0

    def turn(self, over: list[InFlight], room: int) -> tuple[list[Delivery], float]:
        result = super().turn(over, room)
        self.turns += 1
        return result


class Desk:
    """A dispatcher, and everything around it in the test's hands; `urls` are registered for EVENT.

    `answer` is what each attempt comes to; `sent` has every request.
    """

    def __init__(
        self, folder: Path, *urls: str, answer: Answer | None = None, time: Clock | None = None, **options: Any
    ) -> None:
        self.clock, self.answer = time or Clock(), answer or exchange()  # type: Clock, Answer
        self.sent: queue.Queue[Sent] = queue.Queue()
        self.log: list[str] = []
        more = {"clock": self.clock, "monotonic": self.clock, "chance": lambda: 0.5, "log": self.log.append}
        self.options = {**more, "exchanging": self._exchange, **options}
        self.open(folder)
        for url in urls:
            self.register(url, EVENT)

    def open(self, folder: Path) -> None:
        self.folder = folder
        self.store = WebhookStore(folder / "webhooks.json", fsync=no_sync, clock=self.clock)
        self.journal = Journal(folder / JOURNAL, no_sync)
        self.dispatcher = _CountingDispatcher(self.store, self.journal, **self.options)
        self.on_demand = OnDemand(self.dispatcher)
        self.dispatcher.start()

    def _exchange(
        self, pool: Pool, url: str, compose: Callable[[], bytes], deadline: float
    ) -> Generator[Wait, None, Exchange]:
        """In place of client.exchange."""
        request = compose()
        self.sent.put(Sent(url, request, self.clock()))
        outcome = self.answer if isinstance(self.answer, Exchange) else self.answer(url)
        try:
            if isinstance(outcome, Future):
                yield outcome
                outcome = outcome.result()
        except TimeoutError:
            outcome = exchange(0, error="timed out waiting for the answer")
        return outcome._replace(request=request)

    def register(self, url: str, *events: str, secret: str | None = None) -> None:
        """As exposee.py does it."""
        self.store.register(url, events, secret, lambda _: self.dispatcher.housekeeper.forget(url))
        self.dispatcher.registered(url)

    def unregister(self, url: str, event: str) -> int:
        """As exposee.py does it; how many deliveries have waited for it."""
        assert self.store.unregister(url, event, lambda _: None) == 1
        return self.dispatcher.cancel(url, event)

    def accept(self, event: str = EVENT, data: Any = None) -> Message:
        return self.dispatcher.trigger(event, body_of(event, json.dumps(data, ensure_ascii=False).encode()))

    def trigger(self, event: str = EVENT, data: Any = None) -> Delivery:
        """The first delivery of a new message."""
        delivery = self.accept(event, data).deliveries[0]
        assert delivery is not None
        return delivery

    def find(self, delivery: Delivery) -> Delivery:
        """The same delivery after a restart."""
        found = self.dispatcher.history.find(delivery.id)
        assert found is not None
        return found

    def settled(self, delivery: Delivery, attempts: int = 1) -> Delivery:
        """Wait until so many attempts are over."""

        def is_over() -> Delivery | None:
            found = self.find(delivery)
            return found if found.count == attempts and found.state != DELIVERING else None

        found: Delivery = eventually(is_over, f"attempt {attempts} of {delivery.id}")
        return found

    @contextlib.contextmanager
    def blocked(self, then: Exchange | None = None) -> Iterator[None]:
        """Attempts are answered when this ends, with `then`."""
        blocking = Blocking(then)
        with held(blocking):
            self.answer = blocking
            yield

    @contextlib.contextmanager
    def redelivering(self, delivery: Delivery, then: Exchange | None = None) -> Iterator[None]:
        """A redelivery is under way until this ends."""
        with self.blocked(then):
            self.on_demand.redeliver(delivery)
            self.under_way(delivery)
            yield

    def under_way(self, delivery: Delivery) -> Delivery:
        """Wait until an attempt is under way."""
        eventually(lambda: delivery.state == DELIVERING, f"an attempt of {delivery.id}")
        return delivery

    def all(self) -> list[Delivery]:
        """All remembered deliveries, newest first."""
        return self.dispatcher.history.newest(lambda delivery: True, 1_000_000)

    def next_sent(self) -> Sent:
        return self.sent.get(timeout=SECONDS)

    def pass_time(self, seconds: float) -> None:
        """Returns when what is due is under way."""
        self.clock.now += seconds
        self.turn()

    def turn(self) -> None:
        """Let the sender look at the time and at its endpoints."""
        with self.dispatcher.changed:
            turns = self.dispatcher.turns
            self.dispatcher.wake()
        eventually(lambda: self.dispatcher.turns > turns, "a turn of the sender")

    def stop(self, seconds: float = SECONDS) -> int:
        waiting = self.dispatcher.close(seconds)
        self.store.close()
        return waiting

    def restart(self) -> None:
        self.stop()
        self.open(self.folder)

    def copy(self, folder: Path) -> Path:
        """The files as a kill -9 would leave them now."""
        folder.mkdir()
        for path in sorted(self.folder.glob("webhooks.*js*[nl]")):  # the journal first, and nothing temporary
            shutil.copy(path, folder)
        return folder

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """A port that nobody listens on, for a program that cannot say which one it got."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def mostly_slow(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Parameters of one kind, of which the first `quick` are always tried, and the others with the slow tests."""
    values = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*value, marks=[pytest.mark.slow] * (number >= quick)) for number, value in enumerate(values)]


def each(names: str, cases: Iterable[Any], ids: Any = None) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """As pytest.mark.parametrize, but one test for a whole table; it fails with all cases that fail.

    For functions that need no fixture and leave nothing behind: a test costs more than such a case does.
    """
    count, table = names.count(",") + 1, list(cases)
    labels = [ids(case) if callable(ids) else case for case in table] if callable(ids) or ids is None else list(ids)

    def decorate(test: Callable[..., None]) -> Callable[[], None]:
        def test_all() -> None:
            failed = []
            for label, case in zip(labels, table):
                try:
                    test(*(case if count > 1 else [case]))
                except Exception as error:
                    failed.append(f"{label!r:.200}: {error!r}")
            assert not failed, "\n".join([f"{len(failed)} of {len(table)} cases", *failed])

        test_all.__doc__, test_all.__module__ = test.__doc__, test.__module__
        return test_all

    return decorate


def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait until `condition()` is true, and return what it gave; for what has no event to wait for."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {SECONDS} s"
        time.sleep(0.001)
    return value


# --- our side, as processes -----------------------------------------------------------------------------------


class Program(walkthrough.Program):
    """One of the programs as its users start it. `lines` are what it has printed so far, both streams."""

    def wait_for(self, text: str) -> str:
        """The first line that has `text` in it; fails the test if none comes."""
        return str(self.wait_until(lambda lines: [line for line in lines if text in line], repr(text))[0])

    @property
    def port(self) -> int:
        """The port of a server, from its first line."""
        return int(self.wait_for("http://").split("http://")[1].split(":")[1].split("/")[0].split(",")[0])

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send this signal; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Gate(Protocol):
    """A threading.Event, or a Blocking answer."""

    def set(self) -> None: ...


@contextlib.contextmanager
def held(gate: Gate) -> Iterator[None]:
    """Open the gate in the end, whatever happens, so that no thread stays behind it."""
    try:
        yield
    finally:
        gate.set()
