"""What the walkthrough runs: the programs of this directory as processes, and a socket that receives.

They run in a temporary folder, on ports that stay the same through the whole lesson. Whatever ends the walkthrough, no
process and no file is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SECONDS = 10.0  # after which an event that the lesson waits for counts as missing
OPTIONS = ("--retry-schedule", "0.5,1", "--timeout", "1")  # of the exposee: no step waits for minutes
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PAGE_PORTS = (53000, 58080, 58081, 58082, 53000, 58080)  # what a page shows in place of the ports, in their order


class LessonFailed(Exception):
    """Something that the lesson needs did not happen; str() is one line for the terminal."""


def free_ports(count: int) -> tuple[int, ...]:
    """Ports on which nothing listens now."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(one.getsockname()[1] for one in held)


class Program:
    """One of the programs of this directory as a process. `lines` is its output so far, of both streams."""

    def __init__(self, script: str, options: Sequence[str], folder: Path) -> None:
        private = ("EXPOSEE_TOKEN", "WEBHOOK_SECRET")  # the reader's settings would change the answers
        environment = {name: value for name, value in os.environ.items() if name not in private}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), *options],
            cwd=folder,
            env={**environment, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.script, self.lines = script, list[str]()
        self._ended = False
        self._more = threading.Condition()  # guards lines and _ended
        self._reader = threading.Thread(target=self._read, name=script, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def wait_for(self, found: Callable[[list[str]], Any], what: str) -> Any:
        """The first result of `found(lines)` that is not empty. LessonFailed after SECONDS; `what` is for its text."""
        with self._more:
            self._more.wait_for(lambda: found(self.lines) or self._ended, SECONDS)
            result = found(self.lines)
        if not result:
            raise LessonFailed(f"{self.script} has not printed {what}, but {self.lines[-3:]}")
        return result

    def wait_until_it_listens(self) -> None:
        self.wait_for(lambda lines: " on http://" in "".join(lines[:1]), "that it listens")

    def kill(self) -> None:
        """End the process at once: SIGKILL, or TerminateProcess on Windows. It cannot prevent that."""
        self.process.kill()
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        if self.process.stdout:
            self.process.stdout.close()


class Programs:
    """The pair of programs, and the folder in which they run. `close` ends the programs and removes the folder.

    `ports` are those of the exposee, the receiver, a second receiver, a plain socket, and of a solution's own pair.
    """

    def __init__(self, ports: Sequence[int] = ()) -> None:
        self.ports = tuple(ports) or free_ports(len(PAGE_PORTS))
        self._temporary = tempfile.TemporaryDirectory(prefix="walkthrough-", ignore_cleanup_errors=True)
        self._programs: list[Program] = []
        self.folder = Path(self._temporary.name)

    def start(self, name: str, receiver_options: Sequence[str] = (), exposee_options: Sequence[str] = ()) -> None:
        """End the last pair and start a fresh one, in a folder `name` of its own."""
        self.clear()
        self.folder = Path(self._temporary.name, name)
        self.folder.mkdir()
        self._exposee_options = exposee_options
        self.receiver = self.run("receiver.py", "--port", str(self.ports[1]), "--raw", *receiver_options)
        self.start_exposee()
        self.receiver.wait_until_it_listens()

    def start_exposee(self) -> None:
        self.exposee = self.run("exposee.py", "--port", str(self.ports[0]), *OPTIONS, *self._exposee_options)
        self.exposee.wait_until_it_listens()

    def run(self, script: str, *options: str) -> Program:
        with signals_deferred():
            program = Program(script, options, self.folder)
            self._programs.append(program)
        return program

    def clear(self) -> None:
        while self._programs:
            self._programs[-1].kill()
            self._programs.pop()

    def close(self) -> None:
        with signals_deferred():
            self.clear()
            self._temporary.cleanup()


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block, so that every process that has started is on the list, and no other."""
    came: list[int] = []
    before = [(number, signal.signal(number, lambda number, frame: came.append(number))) for number in STOPPING]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


class Listener:
    """A receiver that is a plain socket: `receive` returns a request's bytes, `answer` sends the given bytes."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self._socket.settimeout(SECONDS)
        self._connections: list[socket.socket] = []
        self.port: int = self._socket.getsockname()[1]

    def receive(self, message: str) -> bytes:
        """The next request that delivers this message. The reader may have triggered others: they are answered 204."""
        while f"\r\nwebhook-id: {message}\r\n".encode() not in (data := self._receive()):
            self.answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            self._connections.pop().close()
        return data

    def _receive(self) -> bytes:
        """The next request, on a new connection."""
        connection, _ = self._socket.accept()
        connection.settimeout(SECONDS)
        self._connections.append(connection)
        data, end = b"", None
        while end is None or len(data) < end:
            more = connection.recv(65_536)
            if not more:
                raise LessonFailed("a request ended early")
            data += more
            head, empty_line, _ = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            end = len(head) + 4 + int(length[1] if length else 0) if empty_line else None
        return data

    def answer(self, data: bytes) -> None:
        """Answer the last request."""
        self._connections[-1].sendall(data)

    def close(self) -> None:
        for one in (*self._connections, self._socket):
            one.close()
