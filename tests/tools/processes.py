"""What the benchmark and the tests of isolation start, and a cheap client for it. Shares no code with the exposee."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPOSEE, PEERS = HERE.parent.parent / "exposee.py", HERE / "peers.py"
EVENT, OTHER, THIRD = "payment_received", "payment_processed", "invoice_completed"
DATA = {"amount": 100, "currency": "USD"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of the Standard Webhooks specification
PATIENCE = 60.0  # seconds to wait for anything: a longer wait means that it is broken, not slow
CLIENTS = 8
CPU_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0


class Failed(Exception):
    """Something did not work at all; str() is one line for a person."""


class Interruption:
    """SIGINT, SIGTERM and SIGHUP become one KeyboardInterrupt, which `held_back` can postpone."""

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
        """A signal that comes inside takes effect at the end: else a process just started would be left running."""
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
def process(
    *command: str | Path, log: Path, env: dict[str, str] | None = None, shell: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program in a session of its own, killed at the end. `shell` is run before it, such as an ulimit."""
    running = None
    before = ["sh", "-c", f'{shell} && exec "$0" "$@"'] if shell else []
    try:
        with open(log, "ab") as out, interruption.held_back():
            running = subprocess.Popen(
                [*before, sys.executable, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=log.parent,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
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

    def __init__(self, port: int, patience: float = PATIENCE) -> None:
        self._port, self._patience = port, patience
        self._sock: socket.socket | None = None

    def send(self, path: str, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        self._write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def get(self, path: str, fields: str = "") -> bytes:
        """`fields` are more header fields, each with its CRLF."""
        self._write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{fields}\r\n".encode())
        return self.receive()

    def post(self, path: str, value: object) -> bytes:
        self.send(path, value)
        return self.receive()

    def trigger(self, event: str = EVENT) -> bytes:
        return self.post("/trigger", {"event": event, "data": DATA})

    def register(self, url: str, event: str = EVENT) -> None:
        self.post("/webhooks/register", {"url": url, "event_types": [event]})

    def _write(self, data: bytes) -> None:
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), self._patience)
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

    def __init__(self, pid: int, port: int, ready: float, store: Path) -> None:
        self.pid, self.port, self.ready, self.store = pid, port, ready, store
        self.client = Client(port)

    def memory(self) -> float:
        """MiB that are resident; not a number where there is no /proc."""
        return self._status("VmRSS") / 1024

    def threads(self) -> float:
        """How many there are; not a number where there is no /proc."""
        return self._status("Threads")

    def _status(self, field: str) -> float:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    return float(line.split()[1])
        return math.nan

    def cpu(self) -> float:
        """Seconds of user and system time so far; not a number where there is no /proc."""
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / CPU_TICKS  # proc(5): utime and stime
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


@contextlib.contextmanager
def started(
    folder: Path,
    webhooks: Iterable[tuple[str, str]] = (),
    *options: str,
    program: tuple[str | Path, ...] = (EXPOSEE,),
    signed: bool = False,
    env: dict[str, str] | None = None,
    shell: str = "",
) -> Iterator[Sender]:
    """A fresh sender in a new folder, with these (url, event) in its store."""
    folder.mkdir()
    store, log, port = folder / "webhooks.json", folder / "log", free_port()
    entries = list(webhooks)
    lines = ",\n".join(json.dumps({"url": url, "event": event}) for url, event in entries)
    store.write_text(f"[\n{lines}\n]\n" if lines else "[]\n")
    if signed:
        (folder / "webhooks.secrets.json").write_text(json.dumps({url: SECRET for url, _ in entries}))
    if program[0] == PEERS:
        command: tuple[str | Path, ...] = (*program, str(port), store)
    else:
        command = (*program, "--port", str(port), "--store", store, *options)
    began = time.perf_counter()
    with process(*command, log=log, env=env, shell=shell) as running:
        wait_until_open(port, running, log)
        sender = Sender(running.pid, port, time.perf_counter() - began, store)
        with contextlib.closing(sender.client):
            yield sender
