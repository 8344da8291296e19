"""The methods that the chapters of the lesson use: say something, send bytes, show bytes, wait for an outcome."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import re
import textwrap
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from types import ModuleType, SimpleNamespace
from typing import Any, AnyStr

import terminal
from lesson_client import request, talk
from walkthrough_page import NOON, Markdown, Normal, Screen, with_fixed_durations
from walkthrough_programs import SECONDS, LessonFailed, Listener, Program, Programs

BODY = 320  # characters that a dump shows of a line, unless a step says otherwise


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


class Lesson:
    """What a chapter does and shows. `kept` has what its later steps need of the earlier ones."""

    def __init__(self, programs: Programs, page: Screen, normal: Normal) -> None:
        self.programs, self.page, self._normal = programs, page, normal
        self.exposee, self.receiver, self.second, self.plain = programs.ports[:4]
        self.kept = SimpleNamespace()
        self.open = contextlib.ExitStack()  # of what a chapter holds open
        self._printed = 0  # lines of the receiver's output before our last request: those about it come after them

    # Saying

    def step(self, title: str, text: str) -> None:
        self.page.step(title)
        self.say(text)

    def say(self, text: str) -> None:
        for paragraph in textwrap.dedent(text).strip().split("\n\n"):
            self.page.paragraph(paragraph)

    def notice(self, *points: str) -> None:
        self.page.points(points)

    def show(self, title: str, *messages: tuple[str, bytes], only: Sequence[str] = (), most: int = BODY) -> None:
        """Bytes of HTTP messages. Each message is a pair: the mark of its lines, and its bytes."""
        shown = [(mark, self.varying(data, with_fixed_durations(data))) for mark, data in messages]
        lines = [line for message in shown for line in terminal.transcript(*message)]
        self.page.block(title, shortened(lines, only, most))

    def show_lines(self, title: str, lines: Sequence[str]) -> None:
        """Text that is no HTTP message."""
        self.page.block(title, [("", line) for line in lines])

    def source(self, *shown: Callable[..., Any] | ModuleType, title: str = "") -> None:
        """The source of functions or of a module."""
        text = "\n\n".join(map(inspect.getsource, shown)).rstrip()
        self.page.block(title, [("", line) for line in text.split("\n")], "python")

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

    def register(self, url: str, event: str = "payment_received", **more: str) -> None:
        self.ask("POST", "/webhooks/register", {"url": url, "event_types": [event], **more})

    def unregister(self, url: str, event: str = "payment_received") -> None:
        self.ask("DELETE", "/webhooks/unregister", {"url": url, "event": event})

    def trigger(self, data: Any) -> str:
        """Trigger payment_received; returns the message's id."""
        return str(self.ask("POST", "/trigger", {"event": "payment_received", "data": data})["id"])

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
            if result := found():
                return result
            time.sleep(0.02)
        raise LessonFailed(f"{missing} within {SECONDS:.0f} s")

    def show_attempt(self, delivery: dict[str, Any], number: int, pause: float = 0, only: Sequence[str] = ()) -> None:
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
        sent = ("> ", attempt["request"].encode("latin-1"))
        came = [("< ", attempt["response"].encode("latin-1"))] if attempt["response"] else []
        self.show(f"Attempt {number}{later}: {outcome}", sent, *came, only=only and [*only, "HTTP/1."])
        if not came:
            self.say("The exposee received nothing.")

    def arrived(self, message: str, receiver: Program | None = None) -> list[str]:
        """What the receiver has printed with --raw about the request with this message: a title and both dumps.

        It prints in the background, and its output includes requests that the reader has sent.
        """

        def found(lines: list[str]) -> list[str]:
            for start in (index for index, line in enumerate(lines) if line.startswith("--- ")):
                block = lines[start : lines.index("", start)] if "" in lines[start:] else []
                if f"< webhook-id: {message}" in block:
                    title = block[0].replace(" asks", " is answered")
                    rest = lines[lines.index(title, start) + 1 :] if title in lines[start:] else []
                    return [*block, *rest[: rest.index("")]] if "" in rest else []
            return []

        block: list[str] = (receiver or self.programs.receiver).wait_for(found, f"a transcript of {message}")
        return block

    def show_arrived(
        self, message: str, receiver: Program | None = None, end: str = "the receiver's end", only: Sequence[str] = ()
    ) -> None:
        """The bytes of a message at the receiver's end."""
        lines = [(line[:2], line[2:]) for line in self.arrived(message, receiver)[1:]]
        self.page.block(f"At {end} (`<` was received, `>` was sent)", shortened(lines, only))

    def printed(self, text: str) -> list[str]:
        """The lines with `text` in them that the receiver has printed about our last request."""

        def found(printed: list[str]) -> list[str]:
            block: list[str] = []
            for line in printed[self._printed :]:
                received = re.match(r"\d\d:\d\d:\d\d ", line)
                if received or line.startswith("--- "):  # the block before this line is complete
                    if any(text in one for one in block):
                        return block
                    block = []
                if not line.startswith(("< ", "> ", "--- ")) and (block or received):
                    block.append(line)
            return []

        block: list[str] = self.programs.receiver.wait_for(found, repr(text))
        return block

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
