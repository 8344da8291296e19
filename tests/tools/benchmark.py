"""Measures the exposee, and prints a table of ratios: absolute figures say more about the machine.

    python tests/tools/benchmark.py                              the table, in a few minutes
    python tests/tools/benchmark.py --svg docs/benchmark.svg     the plot of the README as well
    python tests/tools/benchmark.py --quick                      small numbers, a few seconds: does it still work?

The exposee runs as its users start it, with journal and history, in a process of its own, and so does what it is
measured against (peers.py): a naive sender, which hands each delivery to urlopen in a thread pool, and the limit,
prepared bytes on connections that are kept open. A delivery counts when the sink, a third process, has received
it. Each round measures everything once, the things to be compared one right after the other; a ratio is the median
of the rounds' ratios, so that a machine that is busy for a while disturbs both sides.

What receivers that misbehave cost the others is measured once, by isolation.py, which tests/test_isolation.py shares.

Left out on purpose: other products. Their versions change, and none of them is in Python's standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import isolation
from plot import plot
from processes import (
    EVENT,
    EXPOSEE,
    OTHER,
    PATIENCE,
    PEERS,
    THIRD,
    Client,
    Failed,
    Sender,
    free_port,
    interruption,
    process,
    started,
    wait_until_open,
)
from table import QUICK, Numbers, table

BUDGET = 340.0  # seconds after which no round is begun that would not end by then


class Bench:
    """What all measurements share: a folder, a sink, how much to measure, and the samples so far."""

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

    def sender(
        self, webhooks: Iterable[tuple[str, str]] = (), *options: str, naive: bool = False, signed: bool = False
    ) -> contextlib.AbstractContextManager[Sender]:
        """A fresh sender with these (url, event) in its store."""
        program: tuple[str | Path, ...] = (PEERS, "naive") if naive else (EXPOSEE,)
        return started(self.new_folder(), webhooks, *options, program=program, signed=signed)

    def new_folder(self) -> Path:
        """The path of a folder that does not exist yet."""
        self._number += 1
        return self.folder / str(self._number)

    def add(self, name: str, value: float) -> None:
        self.samples[name].append(value)

    # What is measured

    def whole_round(self) -> None:
        self.limit()
        for name in ("exposee", "naive"):
            self.sending(name)
            self.registering(name)
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

    def sending(self, name: str) -> None:
        self.tell(f"{name}: fan-out and stream")
        n = self.n
        webhooks = [(url, EVENT) for url in self.urls(n.fanout)] + [(self.url("one"), OTHER)]
        with self.sender(webhooks, naive=name == "naive") as sender:
            self.add(f"{name} ready", sender.ready)
            self.add(f"{name} fanout", self.fanout(sender))
            with self.arriving(n.stream) as took:
                began = time.perf_counter()
                sender.trigger_many(OTHER, n.stream)
                self.add(f"{name} accept", n.stream / (time.perf_counter() - began))
            self.add(f"{name} stream", n.stream / took[0])
            self.add(f"{name} memory", sender.memory())

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

    def registering(self, name: str) -> None:
        self.tell(f"{name}: registrations")
        with self.sender(naive=name == "naive") as sender:
            began = time.perf_counter()
            for url in self.urls(self.n.register):
                sender.client.register(url)
            self.add(f"{name} register", self.n.register / (time.perf_counter() - began))

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
        with socket.create_server(("127.0.0.1", 0), backlog=4_096) as silent:  # the kernel connects
            hanging = [f"http://127.0.0.1:{silent.getsockname()[1]}/r/{number}" for number in range(n.hung)]
            webhooks = [(url, event) for url in well for event in (EVENT, OTHER, THIRD)]
            webhooks += [(url, OTHER) for url in self.urls(n.hung, "other-")] + [(url, THIRD) for url in hanging]
            self.tell("exposee: beside receivers that hang")
            with self.sender(webhooks) as sender:
                self.repeated(sender, n.events, n.well)
                self.add("exposee answering", self.events(sender, OTHER, n.well + n.hung))
                self.add("exposee hanging", self.events(sender, THIRD, n.well))
            if not self.samples["naive hanging"]:  # once is enough: it takes long, and the ratio is large
                self.tell("naive: beside receivers that hang")
                with self.sender(webhooks, naive=True) as sender:
                    self.add("naive answering", self.events(sender, OTHER, n.well + n.hung))
                    start, began = self.count(), time.perf_counter()
                    for _ in range(n.events):
                        sender.client.trigger(THIRD)
                    while self.count() - start < n.events * n.well and time.perf_counter() - began < n.patience:
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
        """Seconds for a burst; waits first until the last one has been printed."""
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

    def misbehaving(self) -> None:
        """Latencies beside receivers that misbehave, and of GET /health beside a burst: once, as they take their time."""
        n = self.n
        for whole in isolation.SCENARIOS:
            scenario = whole.smaller(n.part)
            if scenario.fault == "tls" and shutil.which("openssl") is None:
                self.tell("no openssl, so nothing beside TLS")
                continue
            self.tell(f"exposee: {scenario.what}")
            quiet, beside = isolation.run(scenario, self.new_folder(), n.patience)
            self.add(f"quiet {scenario.fault}", quiet.p95)
            self.add(f"beside {scenario.fault}", beside.p95)
        self.tell("exposee: GET /health beside a burst")
        idle, busy = isolation.health_beside_bursts(self.new_folder(), n.fanout, n.burst // n.fanout)
        self.add("idle health", idle)
        self.add("busy health", busy)

    def streamed(self, sender: Sender, count: int) -> float:
        """Seconds until `count` events have arrived at one URL."""
        with self.arriving(count) as took:
            sender.trigger_many(EVENT, count)
        return took[0]


def bare_replacement(path: Path) -> float:
    """Seconds for the least that durable storage needs: another file like this one, put in place in one step."""
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
    """A reader of the stream of deliveries, as the page is one."""
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
        bench.misbehaving()
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
