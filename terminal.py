"""What programs print. Two dangers lie between a server and its terminal.

A terminal obeys control characters, and strangers choose many of the bytes we show: all is made printable first. And
it can be slow, or stopped with Ctrl-S: the `Printer` prints in a thread of its own, so that no other thread waits.
"""

import os
import sys

# Every program imports this module first. So Python 3.6 has to be able to parse it and the programs: no := and no
# `from __future__ import annotations` in them.
if sys.version_info < (3, 10):
    sys.stderr.write("Python 3.10 or newer is needed, this is %d.%d\n" % sys.version_info[:2])
    sys.exit(2)


def _stop(*_: object) -> "NoReturn":
    try:
        os.write(1, b"Stopped\n")
    finally:
        os._exit(0)


# Before the other imports: a Ctrl-C may come during them, or during those of a program. `run` does the rest.
sys.excepthook = lambda kind, *rest: _stop() if kind is KeyboardInterrupt else sys.__excepthook__(kind, *rest)

import contextlib  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections import deque  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import NoReturn, TextIO  # noqa: E402

SHOWN_PART = 300  # characters that a line shows of what a stranger has chosen
SHOWN_BODY, SHOWN_MESSAGE = 2_048, 32_768  # bytes that a transcript shows of a body, and keeps of a message until then
QUEUED, QUEUED_BYTES = 1_000, 8_388_608  # items and bytes that wait for the terminal; the rest is counted and left out
BATCH, PAUSE = 100, 0.05  # items printed at once, and seconds until the next ones. One by one, they make accepting
# events a tenth slower; without the pause, a burst of 5,000 deliveries takes 1.7 times as long with --raw
COLOURS = {"> ": "\033[36m%s\033[0m", "< ": "\033[33m%s\033[0m"}

SECRET = re.compile(
    rb'(?s)("(?:old_)?secret"\s*:[\s\[]*")(?:[^"\\]|\\.)*|whsec(?:_|%5[Ff])[A-Za-z0-9+/=_%-]+'
    rb"|(?im:^((?:proxy-)?authorization[ \t]*:[ \t]*)[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)"
)
ESCAPE = re.compile(rb"(?s)\\(?:u00(?!22|5[Cc])([2-7][0-9A-Fa-f])|(/)|.)")  # JSON's, of visible ASCII but \" and \\
CHUNK_SIZE = re.compile(rb"\r\n[0-9A-Fa-f]+(?:[ \t;][^\r\n]*)?\r\n")

Line = tuple[str, str]  # what stands before the text ("> ", "< " or nothing), and the text


def run(main: Callable[[], int]) -> NoReturn:
    """Call a program's `main` and end with its exit code; with 0 and 'Stopped' after Ctrl-C.

    SIGINT gets a handler, because Python raises no KeyboardInterrupt in a job that a shell has started with `&`. _exit
    ends the program, because Python's own exit waits for threads, and a thread may wait for a stopped terminal.
    """
    signal.signal(signal.SIGINT, _stop)
    set_up()
    try:
        code: object = main()
    except SystemExit as ended:  # argparse has printed help or a mistake
        code = ended.code
    except OSError as error:
        code = fail(error, 2)
    os._exit(code if isinstance(code, int) else 0)


def set_up() -> None:
    """Make the standard streams fit for servers: a line at a time, never a UnicodeEncodeError, and never closed."""
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass  # after `>&-` the next file or socket would become stdout
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not when a test has replaced the stream
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def printable(text: str) -> str:
    """`text` with everything that is not a plain visible character written as its Python escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def brief(text: str) -> str:
    """What a line shows of a stranger's text: `printable`, secrets `masked`, SHOWN_PART characters at the most."""
    start = printable(masked(text[:SHOWN_PART].encode("utf-8", "backslashreplace")).decode())
    return start if len(text) <= SHOWN_PART >= len(start) else start[: SHOWN_PART - 3] + "..."


def say(*lines: str, stream: TextIO | None = None) -> None:
    """Print lines at once, as scripts do; a stream that is closed, full or without a reader is no error."""
    with contextlib.suppress(OSError, ValueError):
        print(*map(printable, lines), sep="\n", file=stream or sys.stdout, flush=True)


def fail(problem: object, code: int) -> int:
    """Say in one line on stderr why a program ends; returns the exit code it ends with."""
    say(f"error: {problem}", stream=sys.stderr)
    return code


def masked(data: bytes) -> bytes:
    """`data` with the values of secrets and Authorization fields replaced by ***, also where JSON has escaped them."""
    plain = ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()) if match[1] else match[2] or match[0], data)
    hidden = SECRET.sub(lambda match: (match[1] or match[2] or b"") + b"***", plain)
    return data if hidden == plain else hidden


def transcript(mark: str, data: bytes, length: int | None = None) -> list[Line]:
    """One HTTP message as lines: head first, then the body, cut at SHOWN_BODY bytes; secrets are `masked`.

    `length` is what the whole message had when `data` is only its beginning. Bytes that are not text become escapes.
    """
    head, blank, body = data.partition(b"\r\n\r\n")
    lines = masked(head).decode("latin-1").split("\r\n") + [""] * bool(blank)
    joined = CHUNK_SIZE.sub(b"", b"\r\n" + body)
    if CHUNK_SIZE.match(b"\r\n" + body) and masked(joined) != joined:
        lines.append("... a secret in chunks, not shown")
    elif body:
        lines += masked(body[:SHOWN_BODY]).decode("utf-8", "backslashreplace").rstrip("\n").split("\n")
    hidden = (length or len(data)) - len(data) + len(body[SHOWN_BODY:])
    if hidden:
        lines.append(f"... {hidden:,} more bytes")
    return [(mark, printable(line.rstrip("\r"))) for line in lines]


def show(title: str, *messages: tuple[str, bytes, int | None]) -> None:
    """Print bytes of HTTP at once, as scripts do; see Printer.show."""
    printer = Printer()
    printer.show(title, *messages)
    printer.close()


class Printer:
    """Prints in a thread of its own. `say`, `log` and `show` return at once, whatever the terminal does."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colours = COLOURS if self._stream.isatty() and "NO_COLOR" not in os.environ else {}  # no-color.org
        self._changed = threading.Condition()  # guards the four below; an RLock, so `write` may call `_put`
        self._items: deque[tuple[int, Callable[[], list[Line]]]] = deque()  # bytes, and what makes the lines
        self._size = self._left_out = 0  # bytes of the items, those being printed too; items that found no room
        self._line = ""  # what `write` has of a line that has not ended
        self._closed = threading.Event()  # from then on there is room for all
        self._thread = threading.Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    def say(self, *lines: str) -> None:
        """Print these lines together."""
        self._put(sum(map(sys.getsizeof, lines)), lambda: [("", printable(line)) for line in lines])

    def log(self, line: str, *details: str) -> None:
        """Print what has happened, with the time of day in front; `details` are indented already."""
        self.say(f"{time.strftime('%H:%M:%S')} {line}", *details)

    def show(self, title: str, *messages: tuple[str, bytes, int | None]) -> None:
        """Print bytes of HTTP: a title, then each (mark, first bytes, length in all) as a transcript."""
        cut = [(mark, data[:SHOWN_MESSAGE], length or len(data)) for mark, data, length in messages]
        size = sum(len(data) for _, data, _ in cut)
        self._put(size, lambda: [("", brief(title)), *(line for m in cut for line in transcript(*m)), ("", "")])

    def write(self, text: str) -> int:
        """As a file that `print` writes to: its lines come in the order of all others, and as they are."""
        with self._changed:
            *lines, self._line = (self._line + text).split("\n")
            if lines:
                self._put(len(text), lambda: [("", line) for line in lines])
        return len(text)

    def flush(self) -> None:
        """Print what `write` has of a line that has not ended, as a line."""
        with self._changed:
            if self._line:
                self.write("\n")

    def __getattr__(self, name: str) -> object:
        """What else a program may ask of sys.stdout: isatty, encoding, fileno."""
        return getattr(self._stream, name)

    def close(self, *lines: str) -> None:
        """Print what waits, and then these last lines, for a second at most."""
        with self._changed:
            self._closed.set()
            self.flush()
            self.say(*lines)
        self._thread.join(1)

    def _put(self, size: int, lines: Callable[[], list[Line]]) -> None:
        with self._changed:
            if not self._closed.is_set() and (len(self._items) >= QUEUED or self._size >= QUEUED_BYTES):
                self._left_out += 1
                if self._left_out > 1:
                    return
                size, lines = 0, self._gap  # stands where the lines are missing
            self._items.append((size, lines))
            self._size += size
            self._changed.notify()

    def _gap(self) -> list[Line]:
        with self._changed:
            count, self._left_out = self._left_out, 0
        return [("", f"... {count:,} more entries came faster than they could be printed")]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._closed.is_set())
                items = [self._items.popleft() for _ in range(min(BATCH, len(self._items)))]
            if not items:
                return
            lines = [self._colours.get(mark, "%s") % (mark + text) for _, make in items for mark, text in make()]
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone, as after `| head`: a server works on
                self._stream.write("\n".join([*lines, ""]))
                self._stream.flush()
            with self._changed:
                self._size -= sum(size for size, _ in items)
            self._closed.wait(PAUSE)
