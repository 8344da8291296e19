"""Healthy receivers beside others that misbehave: how long do deliveries to the healthy ones take?

Each scenario runs twice, each time with a fresh exposee, the same number of URLs and the same events: once all of the
URLs answer as the healthy ones do (quiet), once the others misbehave (beside). A latency is the time from the moment
that POST /trigger is sent until the recorder, one process for all receivers, has the request of a healthy one.

The exposee is a black box: a command line and HTTP.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from processes import (
    EVENT,
    EXPOSEE,
    HERE,
    OTHER,
    PATIENCE,
    PEERS,
    THIRD,
    Client,
    Failed,
    Sender,
    free_port,
    process,
    started,
    wait_until_open,
)

RECORDER, HANGING_NAMES = HERE / "recorder.py", HERE / "hanging_names.py"
STRANGER = "X-Forwarded-For: 203.0.113.7\r\n"  # a field that proxies add makes the caller a stranger
STRANGER_RATE = 10  # pings a second, the allowance of strangers
STRANGER_AHEAD = 2.0  # seconds of pings before the first event
ASK_SECONDS = 0.02  # between two GET /health
IDLE_SECONDS = 0.5  # of them beside nothing
BURSTS = 8  # so that a fast sender is busy for a second
SETTLE_SECONDS, SILENT_SECONDS = 0.5, 2.0  # after silent callers have connected: ignored, then measured


class Scenario(NamedTuple):
    """`fault` is what the others do: slow, hang, tls, names, refuse or gone."""

    words: str
    fault: str
    healthy: int  # URLs
    after: float  # seconds until a healthy one answers
    others: int  # URLs
    events: int
    apart: float  # seconds from one event to the next
    stored: int = 0  # further webhooks, which no event goes to

    @property
    def what(self) -> str:
        return self.words.format(healthy=self.healthy, others=self.others)

    def smaller(self, part: int) -> Scenario:
        """The same with a `part`-th of the URLs and two events at most."""
        healthy, others, stored = (-(-count // part) for count in (self.healthy, self.others, self.stored))
        return self._replace(healthy=healthy, others=others, stored=stored, events=min(self.events, 2))


SCENARIOS = [
    Scenario("{healthy} of 50 ms beside {others:,} of 9 s", "slow", 20, 0.05, 400, 5, 0.5),
    Scenario("{healthy} of 1 ms beside {others:,} that hang", "hang", 20, 0.001, 2_000, 3, 0.5),
    Scenario("{healthy} of 1 ms beside {others:,} with a TLS handshake each time", "tls", 80, 0.001, 100, 10, 0.3),
    Scenario("{healthy} of 1 ms beside {others:,} names that hang in the resolver", "names", 1, 0.001, 64, 10, 0.3),
    Scenario("{healthy} of 1 ms beside {others:,} that refuse and are pinged", "refuse", 20, 0.001, 5_000, 20, 0.2),
    Scenario("{healthy} of 1 ms beside {others:,} that answer 410", "gone", 20, 0.001, 1_000, 10, 0.2, stored=100_000),
]


class Outcome(NamedTuple):
    """Of one run. Seconds; NaN for threads where there is no /proc."""

    p95: float
    missing: int  # deliveries to healthy ones that had not come when patience was over; their latency is until then
    threads: float  # of the exposee, the most that were seen


class Recorder:
    """recorder.py, running."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports

    def url(
        self, group: str, number: int, after: float | str, *, status: int = 204, close: bool = False, host: str = ""
    ) -> str:
        port = self.ports[number % len(self.ports)]
        return f"http://{host or '127.0.0.1'}:{port}/{group}/{after}/{status}/{'close' if close else 'keep'}/{number}"

    def arrivals(self, group: str, count: int, patience: float) -> list[tuple[float, str]]:
        """(time.monotonic(), webhook-id) of each request, once there are `count` or `patience` is over."""
        for least, seconds in ((count, max(0.1, patience)), (0, PATIENCE)):
            with contextlib.closing(Client(self.ports[0], seconds)) as client, contextlib.suppress(TimeoutError):
                return [(when, webhook_id) for when, webhook_id in json.loads(client.get(f"/{group}/{least}"))]
        raise Failed("the recorder does not answer")


@contextlib.contextmanager
def recorder(folder: Path, ports: int = 1, certificate: tuple[Path, Path] | None = None) -> Iterator[Recorder]:
    """A recorder with that many ports; with a certificate, the last one is for https."""
    log = folder / "recorder"
    log.write_text("")
    with process(RECORDER, str(ports), *(certificate or ()), log=log) as running:
        end = time.monotonic() + PATIENCE
        while not (text := log.read_text()).endswith("\n"):
            if running.poll() is not None or time.monotonic() > end:
                raise Failed(f"the recorder did not start: {text[-300:].strip()}")
            time.sleep(0.002)
        yield Recorder(json.loads(text))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key. Failed where there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise Failed("the certificate is made with the openssl command: install it")
    files = folder / "certificate.pem", folder / "key.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run([openssl, *command.split(), *names], check=True, capture_output=True)
    return files


def run(scenario: Scenario, folder: Path, patience: float) -> tuple[Outcome, Outcome]:
    """(quiet, beside). `folder` is a new one; `patience` are seconds to wait after the last event."""
    folder.mkdir()
    certificate = make_certificate(folder) if scenario.fault == "tls" else None
    env = {"SSL_CERT_FILE": str(certificate[0])} if certificate else {}
    program = HANGING_NAMES if scenario.fault == "names" else EXPOSEE
    outcomes = []
    for name in ("quiet", "beside"):
        with contextlib.ExitStack() as stack:
            inner = folder / name
            inner.mkdir()
            receivers = stack.enter_context(recorder(inner, 1, certificate))
            refusing = stack.enter_context(refusing_port())
            webhooks = arrange(scenario, receivers, refusing, faulty=name == "beside")
            sender = stack.enter_context(started(inner / "exposee", webhooks, program=(program,), env=env))
            if scenario.fault == "refuse" and name == "beside":
                stack.enter_context(pinging(sender.port))
                time.sleep(STRANGER_AHEAD)
            outcomes.append(measure(scenario, sender, receivers, patience))
    return outcomes[0], outcomes[1]


def arrange(scenario: Scenario, receivers: Recorder, refusing: int, faulty: bool) -> list[tuple[str, str]]:
    """The (url, event) of a run: healthy and other URLs mixed, the same way in both runs."""
    fault, after = scenario.fault, scenario.after
    plain = Recorder(receivers.ports[:1])

    def quiet(group: str, number: int) -> str:
        return plain.url(group, number, after, close=fault == "names", host=names(number) if fault == "names" else "")

    def names(number: int) -> str:
        return f"n{number}.localhost"

    def other(number: int) -> str:
        if not faulty:
            return quiet("other", number)
        if fault == "tls":
            secure = Recorder(receivers.ports[-1:]).url("other", number, 0.008, close=True, host="localhost")
            return secure.replace("http://", "https://", 1)
        if fault == "names":
            return f"http://n{number}.hang.example/{number}"
        if fault == "refuse":
            return f"http://127.0.0.1:{refusing}/{number}"
        if fault == "gone":
            return plain.url("other", number, 0, status=410)
        return plain.url("other", number, 9 if fault == "slow" else "never")

    urls = [(quiet("healthy", number), EVENT) for number in range(scenario.healthy)]
    event = OTHER if fault == "refuse" else EVENT  # those are pinged only
    urls += [(other(number), event) for number in range(scenario.others)]
    random.Random(1).shuffle(urls)
    urls += [(quiet("healthy", number), THIRD) for number in range(scenario.healthy) if fault == "names"]
    return urls + [(plain.url("stored", number, 0), OTHER) for number in range(scenario.stored)]


def measure(scenario: Scenario, sender: Sender, receivers: Recorder, patience: float) -> Outcome:
    sent: dict[str, float] = {}
    before = 0
    if scenario.fault == "names":
        # It is known that the healthy one resolves: among names never seen, no bounded pool of threads could tell.
        sender.client.trigger(THIRD)
        before = len(receivers.arrivals("healthy", scenario.healthy, PATIENCE))
    with most_threads(sender) as threads:
        began = time.monotonic()
        for number in range(scenario.events):
            time.sleep(max(0.0, began + number * scenario.apart - time.monotonic()))
            moment = time.monotonic()
            sent[json.loads(sender.client.trigger())["id"]] = moment
        arrivals = receivers.arrivals("healthy", before + scenario.healthy * len(sent), patience)
        end = time.monotonic()
    latencies = [when - sent[webhook_id] for when, webhook_id in arrivals if webhook_id in sent]
    left = dict.fromkeys(sent, scenario.healthy)
    for _, webhook_id in arrivals:
        if left.get(webhook_id):
            left[webhook_id] -= 1
    for webhook_id, count in left.items():
        latencies += [end - sent[webhook_id]] * count
    latencies.sort()
    return Outcome(latencies[math.ceil(0.95 * len(latencies)) - 1], sum(left.values()), max(threads))


@contextlib.contextmanager
def most_threads(sender: Sender) -> Iterator[list[float]]:
    """How many threads the sender has, looked at again and again; NaN where there is no /proc."""
    seen, over = [sender.threads()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            seen.append(sender.threads())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of ours that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def pinging(port: int) -> Iterator[None]:
    """A stranger that asks for a ping STRANGER_RATE times a second, answered or not. Failed if none was answered."""
    over, answered = threading.Event(), threading.Event()
    request = f"GET /ping HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{STRANGER}Connection: close\r\n\r\n".encode()

    def ask_again_and_again() -> None:
        with contextlib.ExitStack() as connections:
            while not over.wait(1 / STRANGER_RATE):
                sock = connections.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
                sock.sendall(request)

    def ask_once() -> None:
        with contextlib.closing(Client(port)) as client, contextlib.suppress(Failed, OSError):
            client.get("/ping", STRANGER)
            answered.set()

    threads = [threading.Thread(target=ask_once), threading.Thread(target=ask_again_and_again)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if not answered.is_set():
        raise Failed("no ping of the stranger was answered")


# --- other guarantees beside a burst, and with few descriptors ---------------------------------------------------


def health_beside_bursts(folder: Path, urls: int, events: int) -> tuple[float, float]:
    """Seconds at the median until GET /health is answered: beside nothing, and beside BURSTS of `events` for `urls`."""
    folder.mkdir()
    port, log = free_port(), folder / "sink"
    webhooks = [(f"http://127.0.0.1:{port}/r/{number}", EVENT) for number in range(urls)]
    idle, busy = list[float](), list[float]()
    with process(PEERS, "sink", str(port), log=log) as sink, started(folder / "exposee", webhooks) as sender:
        wait_until_open(port, sink, log)
        with asking_for_health(sender.port, idle):
            time.sleep(IDLE_SECONDS)
        with contextlib.closing(Client(port)) as counter:
            for burst in range(1, BURSTS + 1):
                with asking_for_health(sender.port, busy):
                    for _ in range(events):
                        sender.client.trigger()
                    counter.get(f"/{burst * events * urls}")
    return statistics.median(idle), statistics.median(busy)


@contextlib.contextmanager
def asking_for_health(port: int, took: list[float]) -> Iterator[None]:
    """Ask for GET /health every ASK_SECONDS, later when an answer takes longer; `took` gets the seconds of each."""
    over = threading.Event()

    def ask() -> None:
        with contextlib.closing(Client(port)) as client:
            while True:
                began = time.monotonic()
                client.get("/health")
                took.append(time.monotonic() - began)
                if over.wait(max(0.0, began + ASK_SECONDS - time.monotonic())):
                    return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class FewDescriptors(NamedTuple):
    delivered: int
    cpu: float  # seconds of user and system time in SILENT_SECONDS beside silent callers; NaN where there is no /proc


def few_descriptors(folder: Path, ulimit: str, count: int, callers: int, patience: float) -> FewDescriptors:
    """One event to `count` receivers, each on a port of its own, by an exposee that `ulimit ULIMIT` was run for.

    Then `callers` connect to it and say nothing.
    """
    folder.mkdir()
    with recorder(folder, ports=count) as receivers, contextlib.ExitStack() as stack:
        webhooks = [(receivers.url("healthy", number, 0), EVENT) for number in range(count)]
        sender = stack.enter_context(started(folder / "exposee", webhooks, shell=f"ulimit {ulimit}"))
        sender.client.trigger()
        delivered = len(receivers.arrivals("healthy", count, patience))
        for _ in range(callers):
            stack.enter_context(socket.create_connection(("127.0.0.1", sender.port), PATIENCE))
        time.sleep(SETTLE_SECONDS)
        before = sender.cpu()
        time.sleep(SILENT_SECONDS)
        return FewDescriptors(delivered, sender.cpu() - before)
