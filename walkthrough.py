"""The walkthrough: runs the exposee and the receiver, and shows every byte that passes between them.

    python3 walkthrough.py               the whole lesson, one step at a time
    python3 walkthrough.py --chapter 3   one chapter; each stands alone
    python3 walkthrough.py --list        the titles of the chapters
    python3 walkthrough.py --markdown    a page; WALKTHROUGH.md is this page

The programs are those of this directory. They run on free ports, in a temporary folder that is removed at the end.
The text of the lesson is in lesson.py; the processes, the sockets and the output are here. Exit codes: 0 at the end,
after q and after Ctrl-C; 1 when one of the programs did not do what the lesson needs; 2 for a wrong option.
"""

import argparse
import contextlib
import hashlib
import inspect
import json
import os
import re
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
from typing import Any

import terminal
from lesson import CHAPTERS, INTRODUCTION, LIVE, ON_THIS_PAGE, Chapter, receiver_url, request, talk
from options import Parser

SECONDS = 10.0  # after which an event that the lesson waits for counts as missing
WIDTH = 100  # columns of the text
OPTIONS = ("--port", "0", "--retry-schedule", "0.5,1", "--timeout", "1")  # of the exposee: no step waits for minutes
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class LessonFailed(Exception):
    """Something that the lesson needs did not happen; str() is one line for the terminal."""


class Leave(Exception):
    """The reader typed q."""


# --- the programs -------------------------------------------------------------------------------------------


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

    @property
    def port(self) -> int:
        """The port on which it listens, from its first line."""
        found = self.wait_for(lambda lines: re.findall(r" on http://[^:]+:(\d+)", "".join(lines[:1])), "its port")
        return int(found[0])

    def kill(self) -> None:
        """End the process at once: SIGKILL, or TerminateProcess on Windows. It cannot prevent that."""
        self.process.kill()
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        if self.process.stdout:
            self.process.stdout.close()


class Programs:
    """The pair of programs, and the folder in which they run. `close` ends the programs and removes the folder."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="walkthrough-", ignore_cleanup_errors=True)
        self._programs: list[Program] = []
        self.folder = Path(self._temporary.name)
        self.ports: dict[int, int] = {}  # real port: the one that a page shows

    def start(self, name: str, receiver_options: Sequence[str] = (), exposee_options: Sequence[str] = ()) -> None:
        """End the last pair and start a fresh one, in a folder `name` of its own."""
        self.clear()
        self.ports.clear()
        self.folder = Path(self._temporary.name, name)
        self.folder.mkdir()
        self.receiver = self._start("receiver.py", "--port", "0", "--raw", *receiver_options)
        self._exposee_options = exposee_options
        self.start_exposee()
        self.ports[self.receiver.port] = 58080

    def start_exposee(self) -> None:
        self.exposee = self._start("exposee.py", *OPTIONS, *self._exposee_options)
        self.ports[self.exposee.port] = 53000

    def start_receiver(self) -> Program:
        """Start a second receiver, for another integrator."""
        program = self._start("receiver.py", "--port", "0", "--raw")
        self.ports[program.port] = 58081
        return program

    def _start(self, script: str, *options: str) -> Program:
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

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(SECONDS)
        self._connections: list[socket.socket] = []
        self.port: int = self._socket.getsockname()[1]

    def receive(self, message: str) -> bytes:
        """The next request that delivers this message. The reader may have triggered others: they are answered 204."""
        data = self._receive()
        while f"\r\nwebhook-id: {message}\r\n".encode() not in data:
            self.answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            self._connections.pop().close()
            data = self._receive()
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


# --- the page -----------------------------------------------------------------------------------------------


class Screen:
    """Writes the lesson to a terminal. With `wait` it pauses after each step: Enter continues, q leaves."""

    def __init__(self, wait: bool = False) -> None:
        self._wait = wait

    def write(self, text: str = "") -> None:
        print(text)

    def chapter(self, title: str) -> None:
        self.write(f"\n{'=' * WIDTH}\n{title}\n{'=' * WIDTH}")

    def step(self, title: str) -> None:
        self.write(f"\n{title}\n{'-' * len(title)}")

    def paragraph(self, text: str) -> None:
        self.write("\n" + textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False))

    def block(self, title: str, lines: Sequence[str], language: str = "") -> None:
        self.paragraph(title + ":")
        self.write()
        for line in lines:
            self.write(f"    {line}".rstrip() if language else f"    {line}")

    def points(self, points: Sequence[str]) -> None:
        self.write("\nWhat to notice:")
        self._bullets(points, "  - ")

    def _bullets(self, points: Sequence[str], bullet: str) -> None:
        wrapper = textwrap.TextWrapper(WIDTH, bullet, " " * len(bullet), break_on_hyphens=False)
        for point in points:
            self.write(wrapper.fill(" ".join(point.split())))

    def pause(self, what: str = "continue") -> None:
        if self._wait and input(f"\n[Enter: {what}, q: leave] ").strip().lower().startswith("q"):
            raise Leave

    def prompt(self, lines: Sequence[str]) -> None:
        """Lines to copy to a prompt in another terminal, without indentation."""
        self.paragraph("Lines to copy to the prompt of `python3 -i lesson.py` in a second terminal:")
        self.write()
        for line in lines:
            self.write(line)

    @contextlib.contextmanager
    def folded(self) -> Iterator[None]:
        """The solution of an exercise, after another Enter."""
        self.pause("see the solution")
        yield


class Markdown(Screen):
    """Writes the lesson as a page. Every run writes the same page: `normal` replaces the values that vary."""

    def __init__(self, normal: Callable[[str], str]) -> None:
        super().__init__()
        self._normal = normal

    def write(self, text: str = "") -> None:
        super().write(self._normal(text))

    def chapter(self, title: str) -> None:
        self.write(f"\n## {title}")

    def step(self, title: str) -> None:
        self.write(f"\n### {title}")

    def block(self, title: str, lines: Sequence[str], language: str = "") -> None:
        self.paragraph(title + ":")
        self.write("\n```" + (language or "text"))
        for line in lines:
            self.write(line.rstrip())
        self.write("```")

    def points(self, points: Sequence[str]) -> None:
        self.write("\n**What to notice**\n")
        self._bullets(points, "- ")

    def prompt(self, lines: Sequence[str]) -> None:
        """Nothing: the programs have ended when a page is read."""

    @contextlib.contextmanager
    def folded(self) -> Iterator[None]:
        self.write("\n<details>\n<summary>Solution</summary>")
        yield
        self.write("\n</details>")


NOON = 1767268800  # 2026-01-01, 12:00 UTC: the time on every page
PAST = 1614265330  # the timestamp of the old request in chapter 7, which is not replaced
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"), "2026-01-01T12:00:00.000000Z"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "Thu, 01 Jan 2026 12:00:00 GMT"),
    (re.compile(r'(?<="time": )\d{10}\.\d+'), f"{NOON}.0"),
    (re.compile(rf"(webhook-timestamp: |msg_\w{{24}}\.)(?!{PAST})\d{{10}}"), rf"\g<1>{NOON}"),
    (re.compile(r"\b\d+ s old\b"), f"{NOON - PAST} s old"),
    (re.compile(r"(?<=next attempt in )\d+(?= s\b)"), "1"),
]


class Normal:
    """Replaces ids, times, ports and durations by values of the same length that are the same in every run."""

    def __init__(self, programs: Programs) -> None:
        self._ports, self._ids = programs.ports, dict[str, str]()
        self.stand_ins: dict[str, str] = {}  # for values that no pattern finds, such as signatures

    def __call__(self, text: str) -> str:
        for real, stand_in in self.stand_ins.items():
            text = text.replace(real, stand_in)
        for pattern, stand_in in VARYING:
            text = pattern.sub(stand_in, text)
        text = re.sub(r"(?<=\bmsg_)[0-9a-f]{24}|(?<=\bdlv_)[0-9a-f]{24}", self._id, text)
        return re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda match: str(self._ports.get(int(match[0]), match[0])), text)

    def _id(self, match: re.Match[str]) -> str:
        number = len(self._ids) + 1
        return self._ids.setdefault(match[0], hashlib.sha256(b"%d" % number).hexdigest()[:24])


# --- the methods that chapters use --------------------------------------------------------------------------


class Lesson:
    """The methods of a chapter: say something, send bytes, show bytes, wait for an outcome."""

    def __init__(self, programs: Programs, page: Screen, normal: Normal) -> None:
        self.programs, self.page, self.normal = programs, page, normal
        self._printed = 0  # lines of the receiver's output before our last request: those about it come after them

    # Saying

    def step(self, title: str, text: str) -> None:
        """Write a title and what comes next, and pause."""
        self.page.step(title)
        self.say(text)
        self.page.pause()

    def say(self, text: str) -> None:
        for paragraph in textwrap.dedent(text).strip().split("\n\n"):
            self.page.paragraph(paragraph)

    def notice(self, *points: str) -> None:
        self.page.points(points)

    def show(self, title: str, *messages: tuple[str, bytes]) -> None:
        """Bytes of HTTP messages. Each message is a pair: the mark of its lines, and its bytes."""
        lines = [mark + text for message in messages for mark, text in terminal.transcript(*message)]
        self.page.block(title, lines)

    def source(self, *functions: Callable[..., Any], title: str = "In Python") -> None:
        """The functions' source, from lesson.py."""
        self.page.block(title, "\n\n".join(map(inspect.getsource, functions)).rstrip().split("\n"), "python")

    def show_lines(self, title: str, lines: Sequence[str]) -> None:
        """Text that is no HTTP message."""
        self.page.block(title, lines)

    def sign_on_page(self, sign: Callable[..., str], secret: str, message_id: str, timestamp: str, body: bytes) -> None:
        """Prepare a page for a signature: a page replaces the id and the time, so it needs their signature."""
        real, shown = sign(secret, message_id, timestamp, body), sign(secret, self.normal(message_id), NOON, body)
        self.normal.stand_ins[real[3:]] = shown[3:]

    def varying(self, real: str, on_page: str) -> str:
        """`on_page` for a page, `real` for a terminal: for texts that vary from run to run."""
        return on_page if isinstance(self.page, Markdown) else real

    def file(self, name: str) -> None:
        """A file of the exposee, as it is on the disk now."""
        text = (self.programs.folder / name).read_text("utf-8")
        self.page.block(f"`{name}`, as it is on the disk now", text.rstrip("\n").split("\n"))

    # Doing

    def send(self, title: str, data: bytes, port: int = 0) -> Any:
        """Send bytes to the exposee, or to the given port; show them and the answer. Returns the answer's JSON."""
        self._printed = len(self.programs.receiver.lines)
        answer = talk(port or self.exposee, data)
        self.show(title, ("> ", data), ("< ", answer))
        return body_of(answer)

    def ask(self, method: str, target: str, value: Any = None) -> Any:
        """Send a request with `value` as JSON to the exposee, without showing it. Returns the answer's JSON."""
        if method != "GET":
            self._printed = len(self.programs.receiver.lines)
        body = "" if value is None else json.dumps(value)
        answer = talk(self.exposee, request(method, target, body))
        if not answer.startswith(b"HTTP/1.1 2"):
            raise LessonFailed(f"{method} {target} was answered {answer!r}")
        return body_of(answer)

    def register(self, url: str, event: str = "payment_received", **more: str) -> None:
        self.ask("POST", "/webhooks/register", {"url": url, "event_types": [event], **more})

    def unregister(self, url: str, event: str = "payment_received") -> None:
        self.ask("DELETE", "/webhooks/unregister", {"url": url, "event": event})

    def trigger(self, data: Any) -> str:
        """Trigger payment_received; returns the message's id."""
        return str(self.ask("POST", "/trigger", {"event": "payment_received", "data": data})["id"])

    # Looking

    @property
    def exposee(self) -> int:
        """The exposee's port."""
        return self.programs.exposee.port

    @property
    def receiver(self) -> int:
        """The receiver's port."""
        return self.programs.receiver.port

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

    def show_attempts(
        self, delivery: dict[str, Any], pauses: Sequence[float] = (), first: int = 1, requests: bool = True
    ) -> None:
        """The bytes of a delivery's attempts, beginning with the attempt number `first`.

        `pauses` are the planned seconds between attempts. A page shows these in place of the measured ones.
        """
        end = 0.0
        for number, attempt in enumerate(delivery["attempts"], 1):
            began = datetime.fromisoformat(attempt["time"].removesuffix("Z") + "+00:00").timestamp()
            pause, end = began - end, began + attempt["duration"]
            if number < first:
                continue
            later = ""
            if number > 1 and pauses:
                later = f", {self.varying(f'{pause:.1f}', f'{pauses[number - 2]:.1f}')} s later"
            outcome = attempt.get("error") or f"answered with {attempt['status']}"
            sent = [("> ", attempt["request"].encode("latin-1"))] if requests else []
            came = [("< ", attempt["response"].encode("latin-1"))] if attempt["response"] else []
            if sent or came:
                self.show(f"Attempt {number}{later}: {outcome}", *sent, *came)
            else:
                self.say(f"Attempt {number}{later}: {outcome}. The exposee received nothing.")

    def show_arrived(self, message: str, receiver: Program | None = None, where: str = "At the receiver's end") -> None:
        """The bytes of a message at the receiver's end, from the output that the receiver prints with --raw.

        It prints in the background, and its output includes requests that the reader has sent.
        """

        def found(lines: list[str]) -> list[str]:
            for start in (index for index, line in enumerate(lines) if line.startswith("--- ")):
                rest = lines[start + 1 :]
                block = rest[: rest.index("")] if "" in rest else []
                if f"< webhook-id: {message}" in block:
                    return block
            return []

        block = (receiver or self.programs.receiver).wait_for(found, f"a transcript of {message}")
        self.page.block(f"{where} (`<` was received, `>` was sent)", block)

    def show_printed(self, text: str) -> None:
        """The lines with `text` in them that the receiver has printed about our last request."""

        def found(printed: list[str]) -> list[str]:
            block: list[str] = []
            for line in printed[self._printed :]:
                if line.startswith(("Received", "--- ")):  # the block before this line is complete
                    if any(text in one for one in block):
                        return block
                    block = []
                if not line.startswith(("< ", "> ", "--- ")) and (block or line.startswith("Received")):
                    block.append(line)
            return []

        self.page.block("On the receiver's terminal", self.programs.receiver.wait_for(found, repr(text)))

    @contextlib.contextmanager
    def listener(self) -> Iterator[Listener]:
        """A receiver that is a plain socket; a page replaces its port."""
        listener = Listener()
        self.programs.ports[listener.port] = 58082
        try:
            yield listener
        finally:
            listener.close()


def body_of(answer: bytes) -> Any:
    """The JSON of an answer; None when it has none."""
    body = answer.partition(b"\r\n\r\n")[2]
    try:
        return json.loads(body) if body else None
    except ValueError:
        raise LessonFailed(f"the answer is not JSON: {answer!r}") from None


def teach(chapter: Chapter, number: int, lesson: Lesson, alone: bool = False) -> None:
    """One chapter, from its title to the solution of its exercise. `alone`: the reader has not seen chapter 1."""
    programs = lesson.programs
    programs.start(f"chapter-{number}", chapter.receiver_options, chapter.exposee_options)
    lesson.page.chapter(f"{number}. {chapter.title}")
    where = f"the exposee at http://127.0.0.1:{lesson.exposee}, the receiver at http://127.0.0.1:{lesson.receiver}"
    lesson.say(f"A fresh pair of programs is running: {where}.")
    chapter.teach(lesson)
    lesson.page.step("Now you")
    lesson.say(chapter.exercise)
    if alone and number > 1:
        lesson.source(talk, request, receiver_url, title="The functions of chapter 1")
    lesson.page.prompt(
        [
            f"exposee, receiver = {lesson.exposee}, {lesson.receiver}",
            'print(talk(exposee, request("GET", "/health")).decode())',
            "print(receiver_url(receiver))",
            'body = json.dumps({"event": "payment_received", "data": 1})  # a body must be text',
            'print(talk(exposee, request("POST", "/trigger", body)).decode())',
        ]
    )
    with lesson.page.folded():
        lesson.source(chapter.solution)
        lesson.say(
            """
            The solution runs with a fresh pair of programs. Its receiver is registered for `payment_received`. Your own
            requests do not affect it.
            """
        )
        lesson.show("The answer", ("< ", solved(chapter, programs)))


def solved(chapter: Chapter, programs: Programs) -> bytes:
    """The answer that the solution gets from a pair of its own; the reader's pair still runs."""
    with contextlib.closing(Programs()) as own:
        own.start("solution", chapter.receiver_options, chapter.exposee_options)
        exposee, receiver = own.exposee.port, own.receiver.port
        programs.ports.update(own.ports)
        body = json.dumps({"url": receiver_url(receiver), "event_types": ["payment_received"]})
        talk(exposee, request("POST", "/webhooks/register", body))
        try:
            return chapter.solution(exposee, receiver)
        except AssertionError:
            raise LessonFailed(
                f"{chapter.solution.__name__} of lesson.py failed: one of its asserts is not true"
            ) from None


def perform(chapters: Sequence[int], markdown: bool) -> None:
    programs = Programs()
    try:
        normal = Normal(programs)
        page = Markdown(normal) if markdown else Screen(wait=sys.stdin is not None and sys.stdin.isatty())
        if markdown:
            page.write("# A webhook, byte by byte")
        for paragraph in (INTRODUCTION + (ON_THIS_PAGE if markdown else LIVE)).strip().split("\n\n"):
            page.paragraph(paragraph)
        for number in chapters:
            teach(CHAPTERS[number - 1], number, Lesson(programs, page, normal), alone=len(chapters) == 1)
            if number != chapters[-1]:
                page.pause("next chapter")
    finally:
        programs.close()


# --- the command line -----------------------------------------------------------------------------------------


def chapter_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= len(CHAPTERS)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a chapter, expected a number from 1 to {len(CHAPTERS)}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    options = Parser("Walk through a webhook, byte by byte.")
    options.add_argument("--chapter", type=chapter_number, metavar="N", help="show this chapter only")
    options.add_argument("--list", action="store_true", help="list the chapters and end")
    options.add_argument("--markdown", action="store_true", help="print the lesson as a page, the same in every run")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    terminal.set_up()
    options = parser().parse_args(argv)
    if options.list:
        print("\n".join(f"{number}. {chapter.title}" for number, chapter in enumerate(CHAPTERS, 1)))
        return 0
    if options.markdown and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    chapters = [options.chapter] if options.chapter else range(1, len(CHAPTERS) + 1)
    before = [(number, signal.signal(number, interrupt)) for number in STOPPING]
    try:
        perform(chapters, options.markdown)
        sys.stdout.flush()
    except (Leave, EOFError):
        print("Until next time")
    except KeyboardInterrupt:
        print("\nStopped")
    except BrokenPipeError:  # the output is closed, as after `| head`, so no message can be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (LessonFailed, OSError) as error:
        return terminal.fail(error, 1)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    return 0


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
