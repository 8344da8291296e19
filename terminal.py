"""What people read: every line that one of the programs prints passes through here.

Two dangers live between a server and its terminal. A stranger chooses many of the bytes we show, and a
terminal obeys control characters: so everything is made printable first. And a terminal can be slow, or
stopped with Ctrl-S: so a thread of its own prints, and nobody who serves or delivers ever waits for it.

Left out on purpose: log levels, log files, timestamps. `python exposee.py | ts >exposee.log` has them.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import NoReturn, TextIO

SHOWN_BODY = 2_048  # bytes of a body that a transcript shows: enough for a webhook, less than a screenful of noise
QUEUED = 1_000  # items waiting for the terminal; what comes on top is counted and left out
BATCH, PAUSE = 100, 0.05  # at most 2,000 items a second: nobody reads faster, and printing costs the servers' CPU

SECRET_MEMBER = re.compile(rb'("secret"\s*:\s*")(?:[^"\\]|\\.)*')
SECRET = re.compile(rb"whsec_[A-Za-z0-9+/=_-]*")  # wherever it stands
AUTHORIZATION = re.compile(rb"(?im)^((?:proxy-)?authorization[ \t]*:[ \t]*)[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*")
CHUNK_SIZE = re.compile(rb"\r\n[0-9A-Fa-f]{1,8}(?:[ \t;][^\r\n]*)?\r\n")

Line = tuple[str, str]  # what stands before the text ("> ", "< " or nothing), and the text
_Item = tuple[str, ...] | Callable[[], Iterable[Line]]  # lines, or what makes them when it is their turn


def set_up() -> None:
    """Make the standard streams fit for servers: a line at a time, and never a UnicodeEncodeError.

    A pipe is block-buffered and a Windows code page lacks most characters; both would surprise.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent when a test has replaced the stream
        if reconfigure:
            reconfigure(line_buffering=True, errors="backslashreplace")


def printable(text: str) -> str:
    """`text` with everything that is not a plain visible character written as its Python escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fail(problem: object, code: int) -> int:
    """Say in one line on stderr why a program ends; returns the exit code it ends with."""
    print(f"error: {printable(str(problem))}", file=sys.stderr)
    return code


def masked(data: bytes) -> bytes:
    """`data` with the values of secrets and Authorization fields replaced by ***."""
    return AUTHORIZATION.sub(rb"\1***", SECRET.sub(b"***", SECRET_MEMBER.sub(rb"\1***", data)))


def transcript(mark: str, data: bytes, length: int | None = None) -> list[Line]:
    """One HTTP message as lines: head first, then the body, cut at SHOWN_BODY bytes.

    `length` is what the whole message had when `data` is only its beginning. Bytes that are not text come
    out as escapes; `masked` has been applied.
    """
    head, blank, body = data.partition(b"\r\n\r\n")
    hidden = (len(data) if length is None else length) - len(data) + max(0, len(body) - SHOWN_BODY)
    lines = [line.decode("latin-1") for line in masked(head).split(b"\r\n")] + ([""] if blank else [])
    whole = CHUNK_SIZE.sub(b"", b"\r\n" + body)
    if CHUNK_SIZE.match(b"\r\n" + body) and masked(whole) != whole:
        lines.append("... a secret in chunks, not shown")
    elif body:
        lines += masked(body[:SHOWN_BODY]).decode("utf-8", "backslashreplace").rstrip("\n").split("\n")
    if hidden:
        lines.append(f"... {hidden:,} more bytes")
    return [(mark, printable(line.rstrip("\r"))) for line in lines]


class Printer:
    """Prints in the background. `say` and `show` return at once, whatever the terminal does."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty() and "NO_COLOR" not in os.environ  # no-color.org
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    def say(self, *lines: str) -> None:
        """Print these lines together."""
        self._put(lines)

    def show(self, title: str, *messages: tuple[str, bytes, int | None]) -> None:
        """Print an exchange: a title, then each (mark, first bytes, length in all) as a transcript."""
        cut = [(mark, data[: 16 * SHOWN_BODY], len(data) if n is None else n) for mark, data, n in messages]
        self._put(lambda: [("", printable(title)), *(line for m in cut for line in transcript(*m)), ("", "")])

    def close(self) -> None:
        """Print what is queued, for a second at most."""
        self._queue.put(None)
        self._thread.join(1)

    def _put(self, item: _Item) -> None:
        if self._queue.qsize() < QUEUED:
            self._queue.put(item)
        else:
            self._left_out += 1  # two threads may lose a count here: it is only a hint for a reader

    def _run(self) -> None:
        more = True
        while more:
            items = [self._queue.get()]
            while len(items) < BATCH and not self._queue.empty():
                items.append(self._queue.get())
            more = None not in items
            self._print([line for item in items if item for line in self._lines(item)])
            if more:
                time.sleep(PAUSE)

    def _lines(self, item: _Item) -> Iterable[Line]:
        return item() if callable(item) else [("", printable(line)) for line in item]

    def _print(self, lines: list[Line]) -> None:
        """Print in one write, instead of one for each line."""
        if self._left_out and self._queue.empty():
            lines.append(("", f"... {self._left_out:,} more lines came faster than they could be printed"))
            self._left_out = 0
        try:
            self._stream.write("".join(self._coloured(mark, text) for mark, text in lines))
            self._stream.flush()
        except (OSError, ValueError):
            pass  # the terminal is gone, as after `| head`: a server works on

    def _coloured(self, mark: str, text: str) -> str:
        colour = {"> ": "\033[36m", "< ": "\033[33m"}.get(mark) if self._colour else None
        return f"{colour}{mark}{text}\033[0m\n" if colour else f"{mark}{text}\n"


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line on stderr and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; see --help\n")


def port_number(text: str) -> int:
    """A port for a command line; 0 lets the system choose a free one."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, expected a number from 0 to 65535")
    return int(text)


def web_url(text: str) -> str:
    """An http or https URL for a command line."""
    try:
        parts = urllib.parse.urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        good = False
    if not good:
        example = "http://localhost:3000 (it may come from the environment)"
        raise argparse.ArgumentTypeError(f"{text!r} is not an absolute http or https URL like {example}")
    if "@" in parts.netloc:
        raise argparse.ArgumentTypeError("the URL has credentials, expected none")
    return text


def host_name(text: str) -> str:
    """A host to listen on: an empty one would mean all of them."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, expected a name or an address, such as 127.0.0.1")
    return text
