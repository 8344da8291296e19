"""Measures the exposee, and prints a table of ratios: absolute figures say more about the machine.

    python tests/benchmark.py                              the table, in a few minutes
    python tests/benchmark.py --svg docs/benchmark.svg     the plot of the README as well
    python tests/benchmark.py --quick                      small numbers, a few seconds: does it still work?

The exposee runs as its users start it, with journal and history, in a process of its own, and so does what it is
measured against (peers.py): a naive sender, which hands each delivery to urlopen in a thread pool, and the limit,
prepared bytes on connections that are kept open. A delivery counts when the sink, a third process, has received
it. Each round measures everything once, the things to be compared one right after the other; a ratio is the median
of the rounds' ratios, so that a machine that is busy for a while disturbs both sides.

Left out on purpose: other products. Their versions change, and none of them is in Python's standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
EXPOSEE, PEERS = HERE.parent / "exposee.py", HERE / "peers.py"
EVENT, OTHER, THIRD = "payment_received", "payment_processed", "invoice_completed"
DATA = {"amount": 100, "currency": "USD"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the one of the Standard Webhooks specification
PATIENCE = 60.0  # seconds for anything that is waited for: who takes longer is broken, not slow
BUDGET = 280.0  # seconds after which no round is begun that would not end by then
CLIENTS = 8


class Failed(Exception):
    """Something did not work at all; str() is one line for a person."""


class Numbers(NamedTuple):
    """How much of everything."""

    fanout: int = 1_000  # URLs for one event
    stream: int = 2_000  # events for one URL
    register: int = 500
    few: int = 20  # registrations in a store that is full
    stored: tuple[int, ...] = (100, 1_000, 5_000, 10_000, 100_000)
    reached: int = 100  # URLs of those that an event goes to
    hung: int = 200
    well: int = 80
    events: int = 30  # beside those that hang
    burst: int = 5_000
    pairs: int = 3
    past: tuple[int, ...] = (100, 10_000, 100_000)  # deliveries in the journal, and messages in the history
    limit: int = 20_000
    naive_patience: float = 15.0  # for a naive sender beside receivers that hang: it would take hours


QUICK = Numbers(50, 100, 20, 5, (100, 1_000), 50, 10, 10, 5, 200, 1, (100, 500), 1_000, 0.5)


# --- processes --------------------------------------------------------------------------------------------------


class Interruption:
    """SIGINT and its like end us in order: as a KeyboardInterrupt, once, and not while something is half begun."""

    def __init__(self) -> None:
        self._came = self._held_back = False
        self._signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def expect(self) -> None:
        for number in self._signals:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        for each in self._signals:
            signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not disturb the cleaning up
        self._came = True
        if not self._held_back:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Else what is begun inside could be left behind, with nobody who knows of it."""
        self._held_back = True
        yield
        self._held_back = False
        if self._came:
            raise KeyboardInterrupt


interruption = Interruption()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def process(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program, in a session of its own: Ctrl-C is for us, and we end it."""
    running = None
    try:
        with open(log, "ab") as out, interruption.held_back():
            running = subprocess.Popen(
                [sys.executable, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=log.parent,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        yield running
    finally:
        if running:
            running.kill()
            running.wait()


def wait_until_open(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end and running.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.001)
    raise Failed(f"{running.args!r} does not listen: {log.read_text('utf-8', 'replace')[-300:].strip()}")


class Client:
    """Prepared bytes on a connection that is kept open while the server wants: cheap beside what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock: socket.socket | None = None

    def send(self, path: str, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        self._write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def get(self, path: str) -> bytes:
        self._write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        return self.receive()

    def post(self, path: str, value: object) -> None:
        self.send(path, value)
        self.receive()

    def trigger(self, event: str = EVENT) -> None:
        self.post("/trigger", {"event": event, "data": DATA})

    def register(self, url: str, event: str = EVENT) -> None:
        self.post("/webhooks/register", {"url": url, "event_types": [event]})

    def _write(self, data: bytes) -> None:
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(data)

    def receive(self) -> bytes:
        """The body of the answer."""
        assert self._sock
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        if head[9:10] != b"2":
            raise Failed(f"{head[:40]!r} {body[:200]!r}")
        if head.startswith(b"HTTP/1.0"):
            self.close()
        return body

    def _more(self) -> bytes:
        assert self._sock
        data = self._sock.recv(65_536)
        if not data:
            raise Failed("a server closed the connection instead of answering")
        return data

    def close(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None


class Sender:
    """The exposee or the naive sender, running."""

    def __init__(self, running: subprocess.Popen[bytes], port: int, ready: float, store: Path) -> None:
        self.pid, self.port, self.ready, self.store = running.pid, port, ready, store
        self.client = Client(port)

    def memory(self) -> float:
        """MiB that are resident; not a number where there is no /proc."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    return int(line.split()[1]) / 1024
        return math.nan

    def trigger_many(self, event: str, count: int) -> None:
        """`count` events from CLIENTS clients, each of which waits for its answer before it sends the next."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(Client(self.port))) for _ in range(CLIENTS)]
            asking: deque[Client] = deque()
            for number in range(count):
                client = clients[number] if number < CLIENTS else asking.popleft()
                if number >= CLIENTS:
                    client.receive()
                client.send("/trigger", {"event": event, "data": DATA})
                asking.append(client)
            for client in asking:
                client.receive()


class Bench:
    """Where everything happens: a folder, a sink, a place that never answers, and what was measured so far."""

    def __init__(self, folder: Path, sink: int, numbers: Numbers) -> None:
        self.folder, self.sink, self.n = folder, sink, numbers
        self.samples: dict[str, list[float]] = defaultdict(list)
        self.stage = ""
        self.began = time.perf_counter()
        self._asker = Client(sink)
        self._number = 0

    def close(self) -> None:
        self._asker.close()

    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def tell(self, what: str) -> None:
        print(f"{self.elapsed():5.0f} s  {self.stage}{what}", file=sys.stderr, flush=True)

    def url(self, name: object) -> str:
        return f"http://127.0.0.1:{self.sink}/r/{name}"

    def urls(self, count: int, prefix: str = "") -> list[str]:
        return [self.url(f"{prefix}{number}") for number in range(count)]

    def count(self, least: int = 0) -> int:
        """What the sink has received, once that is `least`."""
        try:
            return int(self._asker.get(f"/{least}"))
        except TimeoutError:
            self._asker.close()
            raise Failed(f"the sink has {self.count() - least} of the deliveries that it waits for") from None

    @contextlib.contextmanager
    def arriving(self, count: int) -> Iterator[list[float]]:
        """The seconds until what is done inside has brought `count` deliveries; known afterwards."""
        start, took = self.count(), [0.0]
        began = time.perf_counter()
        yield took
        self.count(start + count)
        took[0] = time.perf_counter() - began

    @contextlib.contextmanager
    def sender(
        self, webhooks: Iterable[tuple[str, str]] = (), *options: str, naive: bool = False, signed: bool = False
    ) -> Iterator[Sender]:
        """A fresh sender with these (url, event) in its store."""
        self._number += 1
        folder = self.folder / str(self._number)
        folder.mkdir()
        store, log, port = folder / "webhooks.json", folder / "log", free_port()
        entries = list(webhooks)
        lines = ",\n".join(json.dumps({"url": url, "event": event}) for url, event in entries)
        store.write_text(f"[\n{lines}\n]\n" if lines else "[]\n")
        if signed:
            (folder / "webhooks.secrets.json").write_text(json.dumps({url: SECRET for url, _ in entries}))
        if naive:
            command: tuple[str | Path, ...] = (PEERS, "naive", str(port), store)
        else:
            command = (EXPOSEE, "--port", str(port), "--store", store, *options)
        began = time.perf_counter()
        with process(*command, log=log) as running:
            wait_until_open(port, running, log)
            sender = Sender(running, port, time.perf_counter() - began, store)
            try:
                yield sender
            finally:
                sender.client.close()

    def add(self, name: str, value: float) -> None:
        self.samples[name].append(value)

    # What is measured

    def whole_round(self) -> None:
        self.limit()
        for who in ("exposee", "naive"):
            self.sending(who)
            self.registering(who)
        self.signing()
        self.storing()
        self.isolating()
        self.watching()
        self.printing()

    def limit(self) -> None:
        self.tell("the limit")
        log = self.folder / "limit"
        log.write_text("")
        with process(PEERS, "limit", str(self.sink), str(self.n.limit), log=log) as running:
            running.wait(PATIENCE)
        self.add("limit fanout", float(log.read_text()))

    def sending(self, who: str) -> None:
        self.tell(f"{who}: fan-out and stream")
        n = self.n
        webhooks = [(url, EVENT) for url in self.urls(n.fanout)] + [(self.url("one"), OTHER)]
        with self.sender(webhooks, naive=who == "naive") as sender:
            self.add(f"{who} ready", sender.ready)
            self.add(f"{who} fanout", self.fanout(sender))
            with self.arriving(n.stream) as took:
                began = time.perf_counter()
                sender.trigger_many(OTHER, n.stream)
                self.add(f"{who} accept", n.stream / (time.perf_counter() - began))
            self.add(f"{who} stream", n.stream / took[0])
            self.add(f"{who} memory", sender.memory())

    def fanout(self, sender: Sender) -> float:
        """Deliveries a second; the first event only opens the connections and starts the threads."""
        rates = []
        for _ in range(4):
            with self.arriving(self.n.fanout) as took:
                sender.client.trigger()
            rates.append(self.n.fanout / took[0])
        return statistics.median(rates[1:])

    def signing(self) -> None:
        self.tell("exposee: fan-out, signed")
        with self.sender([(url, EVENT) for url in self.urls(self.n.fanout)], signed=True) as sender:
            self.add("exposee signed", self.fanout(sender))

    def registering(self, who: str) -> None:
        self.tell(f"{who}: registrations")
        with self.sender(naive=who == "naive") as sender:
            began = time.perf_counter()
            for url in self.urls(self.n.register):
                sender.client.register(url)
            self.add(f"{who} register", self.n.register / (time.perf_counter() - began))

    def storing(self) -> None:
        """What a delivery and a registration cost while more and more is stored."""
        n = self.n
        for stored in n.stored:
            self.tell(f"exposee: {stored:,} webhooks stored")
            webhooks = [(url, EVENT) for url in self.urls(n.reached)]
            webhooks += [(url, OTHER) for url in self.urls(stored - n.reached, "other-")]
            with self.sender(webhooks) as sender:
                self.add(f"delivery at {stored}", self.repeated(sender, 20, n.reached))
                taken, bare = [], []
                for number in range(n.few):
                    began = time.perf_counter()
                    sender.client.register(self.url(f"new-{number}"))
                    taken.append(time.perf_counter() - began)
                    bare.append(bare_replacement(sender.store))
                self.add(f"registration at {stored}", statistics.median(taken))
                self.add(f"replacement at {stored}", statistics.median(bare))

    def repeated(self, sender: Sender, events: int, urls: int, event: str = EVENT) -> float:
        """Seconds for a delivery, once the connections are open."""
        with self.arriving(urls):
            sender.client.trigger(event)
        with self.arriving(events * urls) as took:
            for _ in range(events):
                sender.client.trigger(event)
        return took[0] / (events * urls)

    def isolating(self) -> None:
        """As many URLs both times: beside those that answer, then beside as many that hang."""
        n, well = self.n, self.urls(self.n.well)
        with socket.create_server(("127.0.0.1", 0), backlog=4_096) as hole:  # the kernel connects, nobody answers
            hanging = [f"http://127.0.0.1:{hole.getsockname()[1]}/r/{number}" for number in range(n.hung)]
            webhooks = [(url, event) for url in well for event in (EVENT, OTHER, THIRD)]
            webhooks += [(url, OTHER) for url in self.urls(n.hung, "other-")] + [(url, THIRD) for url in hanging]
            self.tell("exposee: beside receivers that hang")
            with self.sender(webhooks) as sender:
                self.repeated(sender, n.events, n.well)
                self.add("exposee answering", self.events(sender, OTHER, n.well + n.hung))
                self.add("exposee hanging", self.events(sender, THIRD, n.well))
            if not self.samples["naive hanging"]:  # once is enough for what is that far off
                self.tell("naive: beside receivers that hang")
                with self.sender(webhooks, naive=True) as sender:
                    self.add("naive answering", self.events(sender, OTHER, n.well + n.hung))
                    start, began = self.count(), time.perf_counter()
                    for _ in range(n.events):
                        sender.client.trigger(THIRD)
                    while self.count() - start < n.events * n.well and time.perf_counter() - began < n.naive_patience:
                        time.sleep(0.02)
                    self.add("naive hanging", time.perf_counter() - began)

    def events(self, sender: Sender, event: str, answers: int) -> float:
        with self.arriving(self.n.events * answers) as took:
            for _ in range(self.n.events):
                sender.client.trigger(event)
        return took[0]

    def watching(self) -> None:
        self.tell("exposee: a burst with and without a reader of its stream")
        with self.sender([(url, EVENT) for url in self.urls(self.n.fanout)]) as sender:
            self.burst(sender)
            for _ in range(self.n.pairs):
                self.add("unwatched", self.burst(sender))
                with reader(sender.port):
                    self.add("watched", self.burst(sender))

    def printing(self) -> None:
        self.tell("exposee: a burst with and without --raw")
        webhooks = [(url, EVENT) for url in self.urls(self.n.fanout)]
        with self.sender(webhooks) as quiet, self.sender(webhooks, "--raw") as raw:
            for sender in (quiet, raw):
                self.burst(sender)
            for _ in range(self.n.pairs):
                self.add("quiet", self.burst(quiet))
                self.add("raw", self.burst(raw))

    def burst(self, sender: Sender) -> float:
        """Seconds for a burst, when what the last one has left to print is printed."""
        time.sleep(0.7 * self.n.burst / Numbers().burst)
        events = self.n.burst // self.n.fanout
        with self.arriving(events * self.n.fanout) as took:
            for _ in range(events):
                sender.client.trigger()
        return took[0]

    def growing(self) -> None:
        """What a delivery costs when much has been delivered before: once, as it takes its time."""
        n = self.n
        with self.sender([(url, EVENT) for url in self.urls(n.reached)]) as sender:
            done = 0
            for past in n.past:
                self.tell(f"exposee: {past:,} deliveries in the journal")
                while done < past:
                    with self.arriving(n.reached):
                        sender.client.trigger()
                    done += n.reached
                self.add(f"journal at {past}", self.repeated(sender, 20, n.reached))
                done += 21 * n.reached
        with self.sender([(self.url("one"), EVENT)]) as sender:
            done = 0
            for past in n.past:
                self.tell(f"exposee: {past:,} messages in the history")
                while done < past:
                    step = min(n.stream, past - done)
                    self.streamed(sender, step)
                    done += step
                self.add(f"history at {past}", self.streamed(sender, n.stream) / n.stream)
                done += n.stream

    def streamed(self, sender: Sender, count: int) -> float:
        """Seconds until `count` events have arrived at one URL."""
        with self.arriving(count) as took:
            sender.trigger_many(EVENT, count)
        return took[0]


def bare_replacement(path: Path) -> float:
    """Seconds for what nobody who stores durably can leave out: another file like this one, in one step."""
    data = path.read_bytes()
    began = time.perf_counter()
    other = path.with_name("bare")
    with open(path.with_name("bare.tmp"), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, other)
    if os.name != "nt":
        descriptor = os.open(path.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - began


@contextlib.contextmanager
def reader(port: int) -> Iterator[None]:
    """Somebody who watches the deliveries, as the page does."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(f"GET /deliveries/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        if b" 200 " not in sock.recv(65_536)[:20]:
            raise Failed("the stream of deliveries cannot be read")

        def read() -> None:
            with contextlib.suppress(OSError):
                while sock.recv(65_536):
                    pass

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


# --- the table --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """`ours` and `theirs` are names of samples, `unit` how both are shown, `than` what `theirs` is."""

    what: str
    ours: str
    than: str
    theirs: str
    unit: str
    better: str = "low"
    least: bool = False  # whether `ours` was cut off, so that it is at least that


def rows(n: Numbers) -> list[Row]:
    least, most = n.stored[0], n.stored[-1]
    pool, all_urls = "urlopen in a thread pool", n.well + n.hung
    hang = f"{n.events} events, {all_urls} URLs of which {n.hung} hang: the other {n.well}"
    return [
        Row(f"1 event to {n.fanout:,} URLs", "exposee fanout", pool, "naive fanout", "/s", "high"),
        Row("", "exposee fanout", "the limit, prepared bytes", "limit fanout", "/s", "high"),
        Row("the same, signed", "exposee signed", f"{pool}, unsigned", "naive fanout", "/s", "high"),
        Row("", "exposee signed", "the same, unsigned", "exposee fanout", "/s", "high"),
        Row(f"{n.stream:,} events to 1 URL, delivered", "exposee stream", pool, "naive stream", "/s", "high"),
        Row("the same, accepted", "exposee accept", "the same, nothing on disk", "naive accept", "/s", "high"),
        Row(
            f"{n.register} registrations",
            "exposee register",
            "the naive sender, without fsync",
            "naive register",
            "/s",
            "high",
        ),
        *(
            Row(
                f"a registration with {stored:,} stored",
                f"registration at {stored}",
                "bare replacement of the file",
                f"replacement at {stored}",
                "ms",
            )
            for stored in n.stored
            if stored in (least, 5_000, most)
        ),
        *(
            Row(
                f"a delivery with {stored:,} webhooks stored",
                f"delivery at {stored}",
                f"with {least:,}",
                f"delivery at {least}",
                "µs",
            )
            for stored in n.stored
            if stored in (10_000, most)
        ),
        *(
            Row(
                f"a delivery with {past:,} in the journal",
                f"journal at {past}",
                f"with {n.past[0]:,}",
                f"journal at {n.past[0]}",
                "µs",
            )
            for past in n.past[1:]
        ),
        *(
            Row(
                f"one with {past:,} messages in the history",
                f"history at {past}",
                f"with {n.past[0]:,}",
                f"history at {n.past[0]}",
                "µs",
            )
            for past in n.past[1:]
        ),
        Row(hang, "exposee hanging", "all URLs answer", "exposee answering", "s"),
        Row(f"the same, {pool}", "naive hanging", "all URLs answer", "naive answering", "s", least=True),
        Row(f"{n.burst:,} deliveries beside a reader of the stream", "watched", "without", "unwatched", "s"),
        Row(f"{n.burst:,} deliveries with `--raw`", "raw", "without", "quiet", "s"),
        Row("memory after fan-out and stream", "exposee memory", pool, "naive memory", "MiB"),
        Row("start to first connection", "exposee ready", pool, "naive ready", "ms"),
    ]


def ratio(samples: dict[str, list[float]], row: Row) -> float:
    pairs = zip(samples[row.ours], samples[row.theirs], strict=False)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def shown(values: Sequence[float], unit: str) -> str:
    value = statistics.median(values) * {"ms": 1e3, "µs": 1e6}.get(unit, 1)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit == '/s' else ' '}{unit}"


def table(samples: dict[str, list[float]], n: Numbers) -> str:
    lines = ["| what | exposee | against | | ratio | better |", "|---|---:|---|---:|---:|---|"]
    for row in rows(n):
        if any(map(math.isnan, samples[row.ours])):
            continue
        least = "over " if row.least and statistics.median(samples[row.ours]) >= n.naive_patience else ""
        ours, theirs = (shown(samples[name], row.unit) for name in (row.ours, row.theirs))
        cells = (row.what, least + ours, row.than, theirs, f"{least}{ratio(samples, row):.2f}", row.better)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- the plot ---------------------------------------------------------------------------------------------------

STYLE = """
  svg { --ground: #ffffff; --ink: #24292f; --faint: #d0d7de; --a: #0969da; --b: #bc4c00; --c: #6e7781 }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #0d1117; --ink: #e6edf3; --faint: #30363d; --a: #58a6ff; --b: #f0883e; --c: #8b949e }
  }
  text { font: 13px system-ui, sans-serif; fill: var(--ink) }
  .ground { fill: var(--ground) } .grid { stroke: var(--faint) }
  polyline { fill: none; stroke-width: 2.5 }
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 380, 76, 196, 44, 56


def plot(samples: dict[str, list[float]], stored: Sequence[int]) -> str:
    """Three lines over the number of webhooks stored; both axes are logarithmic."""
    names = (("registration", "b", "none"), ("replacement", "c", "6 5"), ("delivery", "a", "none"))
    titles = {
        "registration": ("a registration",),
        "replacement": ("the bare replacement", "of the file"),
        "delivery": ("a delivery",),
    }
    costs = {name: [statistics.median(samples[f"{name} at {n}"]) * 1e3 for n in stored] for name, _, _ in names}
    every = [cost for values in costs.values() for cost in values]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    first, last = math.log10(stored[0]), math.log10(stored[-1])

    def x(n: float) -> float:
        return round(LEFT + (math.log10(n) - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def y(cost: float) -> float:
        return round(HEIGHT - BOTTOM - (math.log10(cost) - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>What a delivery and a registration cost, by the number of webhooks stored</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text x="{LEFT}" y="26" font-weight="600">What one of them costs (both axes logarithmic)</text>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">webhooks stored</text>',
        f'<text transform="translate(20 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">milliseconds</text>',
    ]
    for power in range(low, high + 1):
        level = y(10.0**power)
        parts.append(f'<path class="grid" d="M{LEFT} {level}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{level + 4}" text-anchor="end">{10.0**power:g}</text>')
    for power in range(math.ceil(first), math.floor(last) + 1):
        parts.append(f'<path class="grid" d="M{x(10**power)} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x(10**power)}" y="{bottom + 20}" text-anchor="middle">{10**power:,}</text>')
    heights = apart({name: y(values[-1]) for name, values in costs.items()})
    for name, colour, dashes in names:
        points = [(x(n), y(cost)) for n, cost in zip(stored, costs[name], strict=True)]
        line = " ".join(f"{a},{b}" for a, b in points)
        parts.append(f'<polyline points="{line}" style="stroke: var(--{colour}); stroke-dasharray: {dashes}"/>')
        parts += [f'<circle cx="{a}" cy="{b}" r="3.5" style="fill: var(--{colour})"/>' for a, b in points]
        for number, text in enumerate(titles[name]):
            place = f'x="{right + 12}" y="{heights[name] + 4 + 16 * number}"'
            parts.append(f'<text {place} style="fill: var(--{colour})">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


def apart(heights: dict[str, float], distance: float = 20.0) -> dict[str, float]:
    """The same heights, moved down where two of them would lie upon each other."""
    moved: dict[str, float] = {}
    for name in sorted(heights, key=lambda name: heights[name]):
        moved[name] = max([heights[name], *(height + distance for height in moved.values())])
    return moved


# --- the command line -------------------------------------------------------------------------------------------


def measure(numbers: Numbers, rounds: int) -> dict[str, list[float]]:
    with contextlib.ExitStack() as stack:
        with interruption.held_back():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        port, log = free_port(), folder / "sink"
        sink = stack.enter_context(process(PEERS, "sink", str(port), log=log))
        wait_until_open(port, sink, log)
        bench = stack.enter_context(contextlib.closing(Bench(folder, port, numbers)))
        bench.growing()
        longest = 0.0
        for number in range(1, rounds + 1):
            began = bench.elapsed()
            if began + longest > BUDGET:
                bench.tell(f"there is time for {number - 1} rounds only")
                break
            bench.stage = f"round {number} of {rounds}, "
            bench.whole_round()
            longest = max(longest, bench.elapsed() - began)
        bench.stage = ""
        bench.tell("done")
        return bench.samples


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=int, choices=range(1, 21), metavar="N", help="3, or 1 with --quick")
    options.add_argument("--quick", action="store_true", help="small numbers: to see that it works, not how fast")
    options.add_argument("--svg", type=Path, metavar="FILE", help="write the plot here")
    chosen = options.parse_args(argv)
    numbers = QUICK if chosen.quick else Numbers()
    interruption.expect()
    try:
        samples = measure(numbers, chosen.rounds or (1 if chosen.quick else 3))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (Failed, OSError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if chosen.svg:
        chosen.svg.write_text(plot(samples, numbers.stored), "utf-8")
    print(table(samples, numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
