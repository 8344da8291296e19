"""How the lesson looks: on a terminal of any width, a screen at a time; or as a page that is the same in every run."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence

from terminal import Line
from walkthrough_programs import PAGE_PORTS

if sys.platform != "win32":
    import termios

WIDEST, NARROWEST = 100, 40  # columns of the text; a narrower terminal breaks the lines itself
PROMPT_LINES = 2  # of a screen: an empty line and the prompt


class Leave(Exception):
    """The reader typed q."""


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

    def title(self, title: str) -> None:
        self._write([title, "=" * min(self.width, len(title))])

    def chapter(self, title: str) -> None:
        self._write(["", title, "=" * min(self.width, len(title))])

    def step(self, title: str) -> None:
        self._write(["", title, "-" * min(self.width, len(title))])

    def paragraph(self, text: str) -> None:
        self._write(["", *self._wrapped(text)])

    def _wrapped(self, text: str, first: str = "", rest: str = "") -> list[str]:
        text = self._normal(" ".join(text.split()))
        wrapper = textwrap.TextWrapper(self.width, first, rest, break_long_words=False, break_on_hyphens=False)
        return wrapper.wrap(text)

    def block(self, title: str, lines: Sequence[Line], language: str = "") -> None:
        """Lines as they are: each is its mark ("> ", "< " or nothing) and its text."""
        shown = [one for mark, text in lines for one in folded(mark, text, self.width)]
        self._write([*self._heading(title), "", *shown])

    def _heading(self, title: str) -> list[str]:
        return ["", *self._wrapped(title + ":")] if title else []

    def points(self, points: Sequence[str]) -> None:
        self._write(["", *self._bullets(points)])

    def _bullets(self, points: Sequence[str]) -> list[str]:
        return [line for point in points for line in self._wrapped(point, "- ", "  ")]

    def pause(self, what: str = "go on") -> None:
        self._shown = 0
        if self._wait:
            forget_keys()
            if input(f"\n[Enter: {what}, q: leave] ").strip().lower().startswith("q"):
                raise Leave

    def prompt(self, title: str, lines: Sequence[str]) -> None:
        """Lines to copy to a Python prompt, without anything before them."""
        self._write([*self._heading(title), "", *lines])

    @contextlib.contextmanager
    def solution(self) -> Iterator[None]:
        """The solution of an exercise, after another Enter."""
        self.pause("see the solution")
        yield


class Markdown(Screen):
    """Writes the lesson as a page. Every run writes the same page when `normal` replaces the values that vary."""

    width = WIDEST

    def title(self, title: str) -> None:
        self._write([f"# {title}"])

    def chapter(self, title: str) -> None:
        self._write(["", f"## {title}"])

    def step(self, title: str) -> None:
        self._write(["", f"### {title}"])

    def block(self, title: str, lines: Sequence[Line], language: str = "") -> None:
        normal = [(mark, self._normal(text)) for mark, text in lines]
        shown = [one[2:] for mark, text in normal for one in folded(mark, text, self.width)]
        plain = not any(mark for mark, _ in lines) and not any(one.startswith("+ ") for one in shown)
        self._fenced(title, [(one[2:] if plain else one).rstrip() for one in shown], language or "text")

    def _fenced(self, title: str, lines: Sequence[str], language: str) -> None:
        self._write([*self._heading(title), "", "```" + language, *lines, "```"])

    def prompt(self, title: str, lines: Sequence[str]) -> None:
        self._fenced(title, lines, "python")

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
