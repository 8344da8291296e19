"""The walkthrough: runs the exposee and the receiver, and shows every byte that passes between them.

    python3 walkthrough.py               the whole lesson, one step at a time
    python3 walkthrough.py --chapter 3   one chapter; each stands alone
    python3 walkthrough.py --list        the titles of the chapters
    python3 walkthrough.py --markdown    a page; WALKTHROUGH.md is this page

The programs are those of this directory. They run on free ports, in a temporary folder that is removed at the end. The
chapters are in lesson.py. This file has the programs, the screens and the page, the methods that the chapters use, and
the command line. Exit codes: 0 at the end, after q and after Ctrl-C; 1 when one of the programs did not do what the
lesson needs; 2 for a wrong option.
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import contextlib
import hashlib
import inspect
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, AnyStr

import lesson
from lesson import CHAPTERS, Chapter, read_answer, receiver_url, registration, request, talk
from options import Parser, checked

if sys.platform != "win32":
    import termios

SECONDS = 10.0  # after which an event that the lesson waits for counts as missing
OPTIONS = ("--retry-schedule", "0.5,1", "--timeout", "1")  # of the exposee: no step waits for minutes
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PAGE_PORTS = (53000, 58080, 58081, 58082, 53000, 58080)  # what a page shows in place of the ports, in their order
WIDEST, NARROWEST = 100, 40  # columns of the text; a narrower terminal breaks the lines itself
PROMPT_LINES = 2  # of a screen: an empty line and the prompt
BODY = 320  # characters that a dump shows of a line, unless a step says otherwise


class LessonFailed(Exception):
    """Something that the lesson needs did not happen; str() is one line for the terminal."""


class Leave(Exception):
    """The reader typed q."""


# --- the programs -----------------------------------------------------------------------------------------------------


def free_ports(count: int) -> tuple[int, ...]:
    """Ports on which nothing listens now."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(one.getsockname()[1] for one in held)


class Program:
    """One of the programs of this directory as a process. `lines` is its output so far, of both streams."""

    def __init__(self, script: str, *options: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        own = ("EXPOSEE_TOKEN", "EXPOSEE_URL", "WEBHOOK_SECRET", "WEBHOOK_URL")  # the user's would change the answers
        environment = {name: value for name, value in os.environ.items() if name not in own}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / script), *options],
            cwd=cwd,
            env={**environment, "PYTHONIOENCODING": "utf-8", **(env or {})},
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

    def wait_until(self, found: Callable[[list[str]], Any], what: str) -> Any:
        """The first result of `found(lines)` that is not empty. LessonFailed after SECONDS; `what` is for its text."""
        with self._more:
            self._more.wait_for(lambda: found(self.lines) or self._ended, SECONDS)
            result = found(self.lines)
        if not result:
            raise LessonFailed(f"{self.script} has not printed {what}, but {self.lines[-3:]}")
        return result

    def wait_until_it_listens(self) -> None:
        self.wait_until(lambda lines: " on http://" in "".join(lines[:1]), "that it listens")

    def wait(self) -> int:
        """Wait for its end and the end of its output; its exit code."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code

    def kill(self) -> None:
        """End the process at once: SIGKILL, or TerminateProcess on Windows. It cannot prevent that."""
        self.process.kill()
        self.wait()
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
            program = Program(script, *options, cwd=self.folder)
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
        while True:
            connection, _ = self._socket.accept()
            self._connections.append(connection)
            connection.settimeout(SECONDS)
            with connection.makefile("rb") as stream:
                data = read_answer(stream)  # a request ends as an answer does
            if f"\r\nwebhook-id: {message}\r\n".encode() in data:
                return data
            self.answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            connection.close()

    def answer(self, data: bytes) -> None:
        """Answer the last request."""
        self._connections[-1].sendall(data)

    def close(self) -> None:
        for one in (*self._connections, self._socket):
            one.close()


# --- the screens and the page -----------------------------------------------------------------------------------------


def folded(mark: str, text: str, width: int) -> list[str]:
    """A line of a dump, in a gutter of 4 columns. What does not fit goes on in lines with the mark +.

    It is cut before a blank if there is one in the second half. The pieces put together are the text.
    """
    room, pieces = width - 4, list[str]()
    while len(text) > room:
        cut = text.rfind(" ", room // 2, room + 1)
        pieces.append(text[: cut if cut > 0 else room])
        text = text[len(pieces[-1]) :]
    first, *rest = [*pieces, text]
    return [f"{mark:>4}{first}", *(f"  + {piece}" for piece in rest)]


def forget_keys() -> None:
    """Forget what was typed while a step took long: an Enter too many would skip the next screen."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError, termios.error):  # not a terminal
            termios.tcflush(sys.stdin, termios.TCIFLUSH)


class Screen:
    """Writes the lesson to a terminal. With `wait` it pauses after each step: Enter continues, q leaves."""

    def __init__(self, wait: bool = False, normal: Callable[[str], str] = str) -> None:
        self._wait, self._normal = wait, normal
        self._shown = 0  # lines since the last pause

    @property
    def width(self) -> int:
        return max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))

    def _write(self, lines: Sequence[str]) -> None:
        """Lines that belong together. When they do not fit below the others, the reader turns over first."""
        height = max(1, shutil.get_terminal_size().lines - PROMPT_LINES)
        size = math.ceil(len(lines) / math.ceil(len(lines) / height))  # parts of the same size, if it takes several
        for start in range(0, len(lines), size):
            part = lines[start : start + size]
            if self._wait and self._shown and self._shown + len(part) > height:
                self.pause()
            print(*part, sep="\n")
            self._shown += len(part)

    def heading(self, title: str, level: int = 3) -> None:
        """The title of the lesson (level 1), of a chapter (2) or of a step (3)."""
        line = "-" if level == 3 else "="
        self._write([*[""] * (level > 1), title, line * min(self.width, len(title))])

    def text(self, text: str) -> None:
        """Paragraphs, with an empty line between them. Lines that begin with "- " make a list of one."""
        for paragraph in textwrap.dedent(text).strip().split("\n\n"):
            points = re.split("(?m)^- ", paragraph)[1:]
            bullets = [line for point in points for line in self._wrapped(point, "- ", "  ")]
            self._write(["", *(bullets or self._wrapped(paragraph))])

    def _wrapped(self, text: str, first: str = "", rest: str = "") -> list[str]:
        text = self._normal(" ".join(text.split()))
        wrapper = textwrap.TextWrapper(self.width, first, rest, break_long_words=False, break_on_hyphens=False)
        return wrapper.wrap(text)

    def block(self, title: str, lines: Sequence[terminal.Line], language: str = "") -> None:
        """Lines as they are: each is its mark ("> ", "< " or nothing) and its text."""
        shown = [one for mark, text in lines for one in folded(mark, text, self.width)]
        self._write([*self._titled(title), "", *shown])

    def prompt(self, title: str, lines: Sequence[str]) -> None:
        """Lines of Python to copy, without anything before them."""
        self._write([*self._titled(title), "", *lines])

    def _titled(self, title: str) -> list[str]:
        return ["", *self._wrapped(title + ":")] if title else []

    def pause(self, what: str = "go on") -> None:
        self._shown = 0
        if self._wait:
            forget_keys()
            if input(f"\n[Enter: {what}, q: leave] ").strip().lower().startswith("q"):
                raise Leave

    @contextlib.contextmanager
    def solution(self) -> Iterator[None]:
        """The solution of an exercise, after another Enter."""
        self.pause("see the solution")
        yield


class Markdown(Screen):
    """Writes the lesson as a page. Every run writes the same page when `normal` replaces the values that vary."""

    width = WIDEST

    def heading(self, title: str, level: int = 3) -> None:
        self._write([*[""] * (level > 1), f"{'#' * level} {title}"])

    def block(self, title: str, lines: Sequence[terminal.Line], language: str = "") -> None:
        normal = [(mark, self._normal(text)) for mark, text in lines]
        shown = [one[2:] for mark, text in normal for one in folded(mark, text, self.width)]
        plain = not any(mark for mark, _ in lines) and not any(one.startswith("+ ") for one in shown)
        self.prompt(title, [(one[2:] if plain else one).rstrip() for one in shown], language or "text")

    def prompt(self, title: str, lines: Sequence[str], language: str = "python") -> None:
        self._write([*self._titled(title), "", "```" + language, *lines, "```"])

    @contextlib.contextmanager
    def solution(self) -> Iterator[None]:
        self._write(["", "<details>", "<summary>Solution</summary>"])
        yield
        self._write(["", "</details>"])


NOON = 1767268800  # 2026-01-01, 12:00 UTC: the time on every page
PAST = 1614265330  # the timestamp of the old request in the chapter on signatures, which is not replaced
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"), "2026-01-01T12:00:00.000000Z"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "Thu, 01 Jan 2026 12:00:00 GMT"),
    (re.compile(r"\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\]"), "[01/Jan/2026 12:00:00]"),
    (re.compile(r"(?<= Python/)\S+"), "3.12.0"),
    (re.compile(r'(?<="time": )\d{10}\.\d+'), f"{NOON}.0"),
    (re.compile(rf"(webhook-timestamp: |msg_\w{{24}}\.)(?!{PAST})\d{{10}}"), rf"\g<1>{NOON}"),
    (re.compile(r"\b\d+ s old\b"), f"{NOON - PAST} s old"),
    (re.compile(r"(?m)^\d\d:\d\d:\d\d(?= )"), "12:00:00"),
    (re.compile(r"(?<=next attempt in )\d+(?= s\b)"), "1"),
]
DURATION = re.compile(rb'(?<="duration": )[\d.e-]+')


def with_fixed_durations(message: bytes) -> bytes:
    """An HTTP message for a page. Durations have more or fewer digits in each run, so its Content-Length follows."""
    head, blank, body = message.partition(b"\r\n\r\n")
    shown = DURATION.sub(b"0.002", body)
    real, fixed = (b"\r\nContent-Length: %d\r\n" % len(part) for part in (body, shown))
    return (head + blank).replace(real, fixed) + shown


class Normal:
    """Replaces ids, times and ports by values of the same length that are the same in every run."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = {str(real): str(shown) for real, shown in zip(ports, PAGE_PORTS, strict=True)}
        self._ids, self._clients = dict[str, str](), dict[str, str]()
        self.stand_ins: dict[str, str] = {}  # for values that no pattern finds, such as signatures

    def __call__(self, text: str) -> str:
        for real, stand_in in self.stand_ins.items():
            text = text.replace(real, stand_in)
        for pattern, stand_in in VARYING:
            text = pattern.sub(stand_in, text)
        text = re.sub(r"(?<=\bmsg_)[0-9a-f]{24}|(?<=\bdlv_)[0-9a-f]{24}", self._id, text)
        text = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda match: self._ports.get(match[0], match[0]), text)
        return re.sub(r"(?<=127\.0\.0\.1 port )\d+", self._client, text)

    def _id(self, match: re.Match[str]) -> str:
        number = len(self._ids) + 1
        return self._ids.setdefault(match[0], hashlib.sha256(b"%d" % number).hexdigest()[:24])

    def _client(self, match: re.Match[str]) -> str:
        return self._clients.setdefault(match[0], str(40_001 + len(self._clients)))


# --- the methods of the chapters --------------------------------------------------------------------------------------


def shortened(lines: Sequence[terminal.Line], only: Sequence[str] = (), most: int = BODY) -> list[terminal.Line]:
    """Lines of a dump without what does not matter; a line that begins with ... says how much was left out.

    With `only`, these lines stay: those that have one of the texts in them, and empty ones. Of a line longer than
    `most` the words up to there stay.
    """

    def matters(line: terminal.Line) -> bool:
        return not only or not line[1] or any(text in line[1] for text in only)

    short = list[terminal.Line]()
    for shown, group in itertools.groupby(lines, matters):
        part = list(group)
        if not shown and len(part) > 1:  # one line left out would save no line
            short.append(("", f"... {len(part)} more lines"))
            continue
        for mark, text in part:
            cut = text.rfind(" ", 0, most) if len(text) > most else len(text)
            short.append((mark, text[:cut]))
            if cut < len(text):
                short.append(("", f"... {len(text[cut:].encode())} more bytes"))
    return short


def entries(lines: Sequence[str]) -> list[list[str]]:
    """The entries of a receiver's output that are complete. One begins with the time of day, or is a dump: ---."""
    starts = [index for index, line in enumerate(lines) if re.match(r"\d\d:\d\d:\d\d |--- ", line)]
    found = [list(lines[start:end]) for start, end in zip(starts, [*starts[1:], len(lines)])]
    return found if found and not found[-1][-1] else found[:-1]  # only a dump ends with an empty line


class Lesson:
    """What a chapter does and shows."""

    def __init__(self, programs: Programs, page: Screen, normal: Normal) -> None:
        self.programs, self.page, self._normal = programs, page, normal
        self.exposee, self.receiver, self.second, self.plain = programs.ports[:4]
        self.open = contextlib.ExitStack()  # of what a chapter holds open
        self._begun = False  # a step, since the last pause after one
        self._printed = 0  # lines of the receiver's output before our last request: those about it come after them

    # Saying

    def step(self, title: str, text: str) -> None:
        """Begin a step, after a pause if there has been none since the last one."""
        if self._begun:
            self.pause()
        self._begun = True
        self.page.heading(title)
        self.say(text)

    def pause(self) -> None:
        """End a step; for chapters that do something before the next one begins."""
        self._begun = False
        self.page.pause()

    def say(self, text: str) -> None:
        """Paragraphs, and lists with "- " before each point."""
        self.page.text(text)

    def show(self, title: str, *messages: tuple[str, bytes], only: Sequence[str] = (), most: int = BODY) -> None:
        """Bytes of HTTP messages. Each message is a pair: the mark of its lines, and its bytes."""
        shown = [(mark, self.varying(data, with_fixed_durations(data))) for mark, data in messages]
        lines = [line for message in shown for line in terminal.transcript(*message)]
        self.page.block(title, shortened(lines, only, most))

    def show_lines(self, title: str, lines: Sequence[str], language: str = "") -> None:
        """Text that is no HTTP message."""
        self.page.block(title, [("", line) for line in lines], language)

    def source(self, function: Callable[..., Any], title: str = "") -> None:
        self.show_lines(title, inspect.getsource(function).rstrip().split("\n"), "python")

    def sign_on_page(self, sign: Callable[..., str], secret: str, message_id: str, timestamp: str, body: bytes) -> None:
        """Prepare a page for a signature: a page replaces the id and the time, so it needs their signature."""
        real, shown = sign(secret, message_id, timestamp, body), sign(secret, self._normal(message_id), NOON, body)
        self._normal.stand_ins[real[3:]] = shown[3:]

    def varying(self, real: AnyStr, on_page: AnyStr) -> AnyStr:
        """`on_page` for a page, `real` for a terminal: for what varies from run to run."""
        return on_page if isinstance(self.page, Markdown) else real

    def file(self, name: str) -> None:
        """A file of the exposee, as it is on the disk now."""
        text = (self.programs.folder / name).read_text("utf-8")
        self.show_lines(f"`{name}`, as it is on the disk now", text.rstrip("\n").split("\n"))

    # Doing

    def send(self, data: bytes, port: int = 0, most: int = BODY, only: Sequence[str] = ()) -> Any:
        """Show bytes, send them to the exposee, or to the given port, after a pause, and show the answer.

        Returns the answer's JSON. `only` shortens what is sent, `most` the body of the answer.
        """
        self.show(f"To the {'receiver' if port == self.receiver else 'exposee'}", ("> ", data), only=only)
        self.page.pause("send it")
        self._printed = len(self.programs.receiver.lines)
        answer = talk(port or self.exposee, data)
        self.show("The answer", ("< ", answer), most=most)
        return body_of(answer)

    def ask(self, method: str, target: str, body: Any = "") -> Any:
        """Send a request to the exposee without showing it. Returns the answer's JSON."""
        if method != "GET":
            self._printed = len(self.programs.receiver.lines)
        answer = talk(self.exposee, request(method, target, body))
        if not answer.startswith(b"HTTP/1.1 2"):
            raise LessonFailed(f"{method} {target} was answered {answer!r}")
        return body_of(answer)

    def register(self, url: str) -> None:
        self.ask("POST", "/webhooks/register", {"url": url, "event_types": ["payment_received"]})

    def unregister(self, url: str) -> None:
        self.ask("DELETE", "/webhooks/unregister", {"url": url, "event": "payment_received"})

    def trigger(self, data: Any) -> str:
        """Trigger payment_received; returns the message's id."""
        return str(self.ask("POST", "/trigger", {"event": "payment_received", "data": data})["id"])

    def deliver(self, url: str, data: Any, attempts: int = 1) -> dict[str, Any]:
        """Register a URL for payment_received and trigger it; returns the delivery after so many attempts."""
        self.register(url)
        return self.delivery(self.trigger(data), url, attempts)

    def listener(self) -> Listener:
        """A receiver that is a plain socket, until the end of the chapter."""
        return self.open.enter_context(contextlib.closing(Listener(self.plain)))

    # Looking

    def delivery(self, message: str, url: str, attempts: int = 1) -> dict[str, Any]:
        """The delivery of a message to this URL, once it has `attempts` attempts. The reader may have others."""

        def found() -> Any:
            for short in self.ask("GET", f"/deliveries?message={message}")["deliveries"]:
                if short["url"] == url and short["attempt_count"] >= attempts:
                    return self.ask("GET", f"/deliveries/{short['id']}")

        delivery: dict[str, Any] = self._wait(found, f"{message} had no {attempts} attempts")
        return delivery

    def wait_until_unregistered(self, url: str) -> None:
        """Wait for the exposee to unregister a URL, which it does shortly after a 410."""

        def gone() -> bool:
            return all(webhook["url"] != url for webhook in self.ask("GET", "/webhooks")["webhooks"])

        self._wait(gone, f"{url} was not unregistered")

    def _wait(self, found: Callable[[], Any], missing: str) -> Any:
        """The first result of `found()` that is not empty. LessonFailed after SECONDS."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            result = found()
            if result:
                return result
            time.sleep(0.02)
        raise LessonFailed(f"{missing} within {SECONDS:.0f} s")

    def show_attempt(
        self, delivery: dict[str, Any], number: int, pause: float = 0, only: Sequence[str] = (), title: str = ""
    ) -> None:
        """The bytes of one attempt of a delivery; with `only`, these lines of its request.

        `pause` is the planned time in seconds since the attempt before it. A page shows it in place of the measured.
        """
        attempt = delivery["attempts"][number - 1]
        later = ""
        if pause:
            before = delivery["attempts"][number - 2]
            measured = began(attempt) - began(before) - before["duration"]
            later = f", {self.varying(f'{measured:.1f}', f'{pause:.1f}')} s later"
        outcome = attempt.get("error") or f"answered with {attempt['status']}"
        both = ("> ", attempt["request"]), ("< ", attempt["response"])
        messages = [(mark, text.encode("latin-1")) for mark, text in both if text]
        self.show(title or f"Attempt {number}{later}: {outcome}", *messages, only=only and [*only, "HTTP/1."])
        if not attempt["response"]:
            self.say("The exposee received nothing.")

    def arrived(self, message: str, receiver: Program | None = None) -> list[str]:
        """What the receiver has printed with --raw about the request with this message: a title and both dumps.

        It prints in the background, and its output includes requests that the reader has sent.
        """

        def found(lines: list[str]) -> list[str]:
            printed = entries(lines)
            for index, asked in enumerate(printed):
                if f"< webhook-id: {message}" in asked:
                    title = asked[0].replace(" asks", " is answered")
                    return next(([*asked[:-1], *one[1:-1]] for one in printed[index:] if one[0] == title), [])
            return []

        dumps: list[str] = (receiver or self.programs.receiver).wait_until(found, f"a transcript of {message}")
        return dumps

    def show_arrived(
        self, message: str, receiver: Program | None = None, end: str = "the receiver's end", only: Sequence[str] = ()
    ) -> None:
        """The bytes of a message at the receiver's end."""
        lines = [(line[:2], line[2:]) for line in self.arrived(message, receiver)[1:]]
        self.page.block(f"At {end} (`<` was received, `>` was sent)", shortened(lines, only))

    def printed(self, text: str) -> list[str]:
        """The lines that the receiver has printed about our last request, if `text` is in them."""

        def found(lines: list[str]) -> list[str]:
            texts = [entry for entry in entries(lines[self._printed :]) if not entry[0].startswith("--- ")]
            return next((entry for entry in texts if any(text in line for line in entry)), [])

        lines: list[str] = self.programs.receiver.wait_until(found, repr(text))
        return lines

    def show_printed(self, text: str, most: int = 100) -> None:
        """The first `most` of the lines that `printed` gives."""
        lines = self.printed(text)
        left = [f"... {len(lines) - most} more lines"] if len(lines) > most else []
        self.show_lines("On the receiver's terminal", lines[:most] + left)


def began(attempt: dict[str, Any]) -> float:
    """When an attempt began, in seconds since 1970."""
    return datetime.fromisoformat(attempt["time"].removesuffix("Z") + "+00:00").timestamp()


def body_of(answer: bytes) -> Any:
    """The JSON of an answer; None when it has none."""
    body = answer.partition(b"\r\n\r\n")[2]
    try:
        return json.loads(body) if body else None
    except ValueError:
        raise LessonFailed(f"the answer is not JSON: {answer!r}") from None


# --- the command line -------------------------------------------------------------------------------------------------


def introduce(teller: Lesson, alone: bool) -> None:
    """What every reader has to know; with `alone` also the functions that chapter 1 explains."""
    page, is_page = teller.page, isinstance(teller.page, Markdown)
    page.heading("A webhook, byte by byte", 1)
    page.text(lesson.INTRODUCTION)
    page.pause()
    page.text(lesson.EXERCISES)
    ports = (3000, 8080) if is_page else (teller.exposee, teller.receiver)
    page.prompt("Lines to copy to the prompt", lesson.PROMPT.format(*ports).strip().split("\n"))
    page.pause()
    page.text(lesson.SOLUTIONS + (lesson.ON_THIS_PAGE if is_page else lesson.LIVE))
    page.pause()
    for function in (talk, request) if alone else ():
        teller.source(function, title="A function of chapter 1")
        page.pause()


def teach(chapter: Chapter, number: int, teller: Lesson, last: bool = False) -> None:
    """One chapter, from its title to the solution of its exercise."""
    page, programs = teller.page, teller.programs
    programs.start(f"chapter-{number}", chapter.receiver_options, chapter.exposee_options)
    page.heading(f"{number}. {chapter.title}", 2)
    with teller.open:
        for part in chapter.parts:
            part(teller)
        teller.step("Now you", chapter.exercise)
        with page.solution():
            teller.source(chapter.solution)
            teller.show("The answer", ("< ", solved(chapter, programs)), most=1_000)
        page.pause("end" if last else "next chapter")


def solved(chapter: Chapter, programs: Programs) -> bytes:
    """The answer that the solution gets from a pair of its own; the reader's pair still runs."""
    with contextlib.closing(Programs(programs.ports[4:] * 3)) as own:
        own.start("solution", chapter.receiver_options, chapter.exposee_options)
        exposee, receiver = own.ports[:2]
        talk(exposee, registration(receiver_url(receiver)))
        try:
            return chapter.solution(exposee, receiver)
        except AssertionError:
            name = chapter.solution.__name__
            raise LessonFailed(f"{name} of lesson.py failed: one of its asserts is not true") from None


def perform(chapters: Sequence[int], markdown: bool) -> None:
    """Show these chapters to the end. Leave when the reader has typed q."""
    with contextlib.closing(Programs()) as programs:
        normal = Normal(programs.ports)
        page = Markdown(normal=normal) if markdown else Screen(wait=sys.stdin is not None and sys.stdin.isatty())
        introduce(Lesson(programs, page, normal), alone=len(chapters) == 1 and chapters[0] > 1)
        for number in chapters:
            teach(CHAPTERS[number - 1], number, Lesson(programs, page, normal), number == chapters[-1])


NO_CHAPTER = f"{{!r}} is not a chapter, expected a number from 1 to {len(CHAPTERS)}"
chapter_number = checked("[0-9]{1,9}", NO_CHAPTER, int, lambda number: 1 <= number <= len(CHAPTERS))


def parser() -> argparse.ArgumentParser:
    options = Parser("Walk through a webhook, byte by byte.")
    options.add_argument("--chapter", type=chapter_number, metavar="N", help="show this chapter only")
    options.add_argument("--list", action="store_true", help="list the chapters and end")
    options.add_argument("--markdown", action="store_true", help="print the lesson as a page, the same in every run")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """0 at the end, when the reader leaves, and when the output has no reader any more; 1 when the lesson failed."""
    options = parser().parse_args(argv)
    before = [(number, signal.signal(number, interrupt)) for number in STOPPING]
    try:
        if options.list:
            print(*(f"{number}. {chapter.title}" for number, chapter in enumerate(CHAPTERS, 1)), sep="\n")
            return 0
        if options.markdown and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        perform([options.chapter] if options.chapter else range(1, len(CHAPTERS) + 1), options.markdown)
    except (Leave, EOFError):
        terminal.say("Until next time")
    except KeyboardInterrupt:
        terminal.say("", "Stopped")
    except BrokenPipeError:
        pass  # the output is closed, as after `| head`
    except (LessonFailed, OSError) as error:
        return terminal.fail(error, 1)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    return 0


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    terminal.run(main)
