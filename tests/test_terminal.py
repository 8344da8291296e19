"""What a terminal is given: nothing that it would obey, nothing that is secret, and nobody waits for it."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from pythons import parts, pythons
from support import ROOT, SECONDS, Client, Listener, eventually, held, mostly_slow, request

import terminal
from terminal import (
    QUEUED,
    QUEUED_BYTES,
    SHOWN_BODY,
    Printer,
    brief,
    masked,
    printable,
    transcript,
)


class Stream(io.StringIO):
    """A terminal, or a pipe, that can be stopped as Ctrl-S does, and that can go away."""

    def __init__(self, tty: bool = False) -> None:
        super().__init__()
        self._tty = tty
        self.asked, self.gate, self.gone = threading.Event(), threading.Event(), False
        self.gate.set()

    def isatty(self) -> bool:
        return self._tty

    def write(self, text: str) -> int:
        self.asked.set()
        self.gate.wait()
        if self.gone:
            raise BrokenPipeError
        return super().write(text)


def stopped() -> tuple[Stream, Printer]:
    """A terminal that stands still until its gate is set."""
    stream = Stream()
    stream.gate.clear()
    return stream, Printer(stream)


def flood(stream: Stream, printer: Printer, count: int) -> None:
    """One line that is being printed, and `count` that wait."""
    printer.say("first")
    assert stream.asked.wait(SECONDS)
    for number in range(count):
        printer.say(f"line {number}")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain, é 漢字 😀 \\ '", "plain, é 漢字 😀 \\ '"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\tc\0", "a\\r\\nb\\tc\\x00"),
        ("\x7f\x9b2J", "\\x7f\\x9b2J"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\u2028\u200b\ufeff", "\\u2028\\u200b\\ufeff"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert shown.encode()


@pytest.mark.parametrize(
    "data, shown",
    [
        (b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", ["HTTP/1.1 204 No Content", "A: b", ""]),
        (b"HTTP/1.1 20", ["HTTP/1.1 20"]),
        (b"H: 1\r\n\r\none\ntwo\n", ["H: 1", "", "one", "two"]),
        (b"H: \x1b[2J\xff\x9b\r\n\r\n", ["H: \\x1b[2Jÿ\\x9b", ""]),
        (b"H: 1\r\n\r\n\xff\x00\x1b\xc3\xa9", ["H: 1", "", "\\xff\\x00\\x1bé"]),
        (b"H: 1\r\n\r\n\xe2\x80\xae", ["H: 1", "", "\\u202e"]),
        (b"", [""]),
    ],
)
def test_a_transcript_is_lines_with_a_mark(data: bytes, shown: list[str]) -> None:
    assert transcript("> ", data) == [("> ", line) for line in shown]


@pytest.mark.parametrize("length, hidden", [(None, "10"), (1_000_000, "997,944")])
def test_a_long_body_is_cut_and_says_so(length: int | None, hidden: str) -> None:
    lines = transcript("< ", b"H: 1\r\n\r\n" + b"x" * (SHOWN_BODY + 10), length)
    assert lines[2:] == [("< ", "x" * SHOWN_BODY), ("< ", f"... {hidden} more bytes")]


@pytest.mark.parametrize(
    "data, shown",
    [
        (b'{"secret": "whsec_abc", "url": "u"}', b'{"secret": "***", "url": "u"}'),
        (b'{"secret" :\n"a\\"b\\\\", "x": "y"}', b'{"secret" :\n"***", "x": "y"}'),
        (b'{"old_secret": "a", "secret": "b"}', b'{"old_secret": "***", "secret": "***"}'),
        (b'{"secret": "cut of', b'{"secret": "***'),
        (b"Authorization: Bearer abc\r\nHost: h", b"Authorization: ***\r\nHost: h"),
        (b"Host: h\r\nauthorization:abc", b"Host: h\r\nauthorization:***"),
        (b"Proxy-Authorization: Basic abc", b"Proxy-Authorization: ***"),
        (b"secret is not whsec_ and base64", b"secret is not whsec_ and base64"),
        (b'{"secrets": "shown", "url": "secret"}', b'{"secrets": "shown", "url": "secret"}'),
        (b"WWW-Authenticate: Bearer\r\nX-Authorization: shown", b"WWW-Authenticate: Bearer\r\nX-Authorization: shown"),
    ],
)
def test_secrets_and_nothing_else_are_masked(data: bytes, shown: bytes) -> None:
    assert masked(data) == shown


@pytest.mark.parametrize(
    "body",
    [
        b'{"s\\u0065cret": "s3same", "url": "u"}',
        b'{"\\u0073\\u0065\\u0063\\u0072\\u0065\\u0074" : "s3same"}',
        b'{"secret": "\\u0073\\u0033same"}',
        b'{"secret": ["s3same"]}',
        b'{"secret": "a\\\ns3same"}',
        b'{"other": "\\u0077hsec_s3same"}',
        b'{"other": "whsec\\u005fs3same"}',
        b'{"other": "whsec\\u005Fs3same"}',
        b'{"other": "whsec_a\\/s3same"}',
        b'{"other": "whsec_a\\u002fs3same\\u003d"}',
        b'{"other": "whsec_a\\u002Bs3same',
        b'{"s\\u0065cret": "s3same',
        b"secret=whsec_a%2Bs3same%3D&a=b",
        b"secret=whsec%5fs3same",
        b'{"broken: "s\\u0065cret": "s3same"',
        b'[1, "\\u0022", {"s\\u0065cret": "\\"s3same"}]',
    ],
)
def test_a_secret_in_escapes_is_masked(body: bytes) -> None:
    head = b"POST / HTTP/1.1\r\n\r\n"
    assert "same" not in str(transcript("> ", head + body)) and "***" in str(transcript("> ", head + body))
    for size in range(1, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        coded = b"".join(b"%012x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        assert "same" not in str(transcript("> ", head + coded)), size


@pytest.mark.parametrize(
    "body", [b'{"a": "\\u0041\\n\\/"}', b'"\\\\u0077hsec_ab"', b'{"s\\u0065crets": "x"}', b"C:\\u0041", b"\\"]
)
def test_escapes_that_hide_nothing_are_shown_as_they_came(body: bytes) -> None:
    assert transcript("> ", b"H: 1\r\n\r\n" + body)[2:] == [("> ", body.decode())]


def test_a_transcript_shows_no_secret_that_is_cut_in_the_middle() -> None:
    start = b'{"a": "' + b"x" * (SHOWN_BODY - 30) + b'", "secret": "whsec_MfKQ9r8GKY"}'
    assert "whsec" not in str(transcript("> ", b"Authorization: Bearer t0ken\r\n\r\n" + start))


@pytest.mark.parametrize(
    "text, shown",
    [
        ("POST /ok", "POST /ok"),
        ("a" * 300, "a" * 300),
        ("a" * 301, "a" * 297 + "..."),
        ("\x1b" * 100, "\\x1b" * 74 + "\\..."),
        ("/whsec_QUJD", "/***"),
        ("x" * 290 + "whsec_QUJDREVG", "x" * 290 + "***..."),
        ('{"secret": "s3same"}', '{"secret": "***"}'),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_line_shows_of_a_strangers_text(text: str, shown: str) -> None:
    assert brief(text) == shown


def test_the_title_of_a_transcript_shows_no_secret_that_is_in_its_url() -> None:
    stream = Stream()
    printer = Printer(stream)
    printer.show("--- we call http://h/?key=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw: it answers")
    printer.close()
    assert "--- we call http://h/?key=***: it answers\n" in stream.getvalue()


def test_what_has_happened_is_printed_with_the_time_of_day() -> None:
    stream = Stream()
    printer = Printer(stream)
    before = time.strftime("%H:%M:%S")
    printer.log("first\n", "  second")
    after = time.strftime("%H:%M:%S")
    printer.close()
    first, second = stream.getvalue().splitlines()
    assert first in (f"{before} first\\n", f"{after} first\\n") and second == "  second"


@pytest.mark.parametrize("flush", [False, True])
def test_what_is_printed_without_an_end_of_line_is_not_lost(flush: bool) -> None:
    stream = Stream()
    printer = Printer(stream)
    with contextlib.redirect_stdout(printer):
        print("one ", end="")
        print("line", end="", flush=flush)
        assert sys.stdout.isatty() is stream.isatty()
    if flush:
        eventually(lambda: stream.getvalue() == "one line\n", "the line")
    printer.close("Stopped")
    assert stream.getvalue() == "one line\nStopped\n"


def test_nobody_waits_for_a_terminal_that_stands_still_but_its_end_for_a_second() -> None:
    stream, printer = stopped()
    with held(stream.gate):
        began = time.monotonic()
        for number in range(3 * QUEUED):
            printer.say(f"line {number}")
            printer.show("title", ("> ", b"x" * 100_000, None))
        ended = time.monotonic()
        printer.close("Stopped")
        assert 0.9 < time.monotonic() - ended <= time.monotonic() - began < SECONDS / 2
        assert stream.getvalue() == ""


def test_what_came_too_fast_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terminal.PAUSE", 0.0)
    stream, printer = stopped()
    with held(stream.gate):
        flood(stream, printer, QUEUED + 50)
    eventually(lambda: "... 50 more entries" in stream.getvalue(), "the count")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["first", "line 0"] and lines[QUEUED] == f"line {QUEUED - 1}" and len(lines) == QUEUED + 2
    printer.close()


def test_what_waits_for_a_terminal_is_bounded_in_bytes() -> None:
    stream, printer = stopped()
    tracemalloc.start()
    try:
        with held(stream.gate):
            printer.say("first")
            assert stream.asked.wait(SECONDS)
            for number in range(300):
                printer.say("漢" * 300_000 + str(number))
            assert tracemalloc.get_traced_memory()[0] < 2 * QUEUED_BYTES
            stream.gone = True  # not to print it all
        printer.close()
    finally:
        tracemalloc.stop()


def test_the_last_lines_are_printed_last_even_after_too_much() -> None:
    stream, printer = stopped()
    with held(stream.gate):
        flood(stream, printer, QUEUED + 100)
        threading.Timer(0.1, stream.gate.set).start()
        printer.close("Stopped", "for good")
    lines = stream.getvalue().splitlines()
    assert "more entries" in lines[-3] and lines[-2:] == ["Stopped", "for good"]


def test_a_terminal_that_has_gone_is_no_error() -> None:
    stream = Stream()
    stream.gone = True
    printer = Printer(stream)
    printer.say("to nobody")
    assert stream.asked.wait(SECONDS)
    stream.gone = False
    printer.say("hello\x1b")
    printer.close()
    assert stream.getvalue().splitlines()[-1] == "hello\\x1b"


@pytest.mark.parametrize("tty, no_color, colours", [(True, None, True), (True, "1", False), (False, None, False)])
def test_colours_are_for_terminals_whose_owner_wants_them(
    tty: bool, no_color: str | None, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    stream = Stream(tty)
    printer = Printer(stream)
    printer.show("--- title", ("> ", b"POST / HTTP/1.1\r\n\r\nbody", None), ("< ", b"HTTP/1.1 200 OK", 20))
    printer.close()
    assert ("\033[" in stream.getvalue()) == colours
    plain = stream.getvalue().replace("\033[36m", "").replace("\033[33m", "").replace("\033[0m", "").splitlines()
    assert plain == ["--- title", "> POST / HTTP/1.1", "> ", "> body", "< HTTP/1.1 200 OK", "< ... 5 more bytes", ""]


def test_fail_is_one_line_and_returns_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.fail("a\nb", 2) == 2
    assert capsys.readouterr() == ("", "error: a\\nb\n")


def test_a_stream_that_lacks_a_character_gets_its_escape() -> None:
    done = python("import terminal; terminal.set_up(); terminal.say('\u2026')", env={"PYTHONIOENCODING": "ascii"})
    assert (done.stdout, done.stderr) == ("\\u2026\n", "")


# --- from the first moment to the last ------------------------------------------------------------------------------


def python(code: str, redirection: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run this code as a program; its output goes where the shell's redirection says."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code]
    return subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.parametrize(
    "main, code, out, err",
    [
        ("lambda: 0", 0, "", ""),
        ("lambda: 1", 1, "", ""),
        ("lambda: sys.exit(2)", 2, "", ""),
        ("lambda: terminal.say('a', 'b\\n') or 0", 0, "a\nb\\n\n", ""),
        ("lambda: terminal.fail('so', 1)", 1, "", "error: so\n"),
        ("lambda: open('/no/such/file')", 2, "", "error: [Errno 2] No such file or directory: '/no/such/file'\n"),
        ("lambda: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9)", 0, "Stopped\n", ""),
        ("lambda: threading.Thread(target=time.sleep, args=(99,)).start() or 3", 3, "", ""),
    ],
)
def test_a_program_ends_with_its_code(main: str, code: int, out: str, err: str) -> None:
    done = python(f"import os, signal, sys, terminal, threading, time; terminal.run({main})")
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_a_ctrl_c_while_a_program_is_imported_is_no_traceback() -> None:
    done = python("import terminal; raise KeyboardInterrupt")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Stopped\n", "")
    assert "ZeroDivisionError" in python("import terminal; 1 / 0").stderr


def test_a_ctrl_c_while_this_module_imports_others_is_no_traceback() -> None:
    code = (
        "import builtins\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *more):\n"
        "    if name == 'contextlib':\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *more)\n"
        "builtins.__import__ = interrupted\n"
        "import terminal\n"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Stopped\n", "")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>&1", "2>/dev/full"])
def test_an_output_that_takes_nothing_is_no_traceback(redirection: str) -> None:
    code = (
        "import os, terminal\n"
        "def main():\n"
        "    terminal.say('said')\n"
        "    printer = terminal.Printer()\n"
        "    printer.say('printed')\n"
        "    printer.close('last')\n"
        "    assert os.open('terminal.py', os.O_RDONLY) > 2  # no file becomes a standard stream\n"
        "    return terminal.fail('failed', 3)\n"
        "terminal.run(main)\n"
    )
    done = python(code, redirection)
    assert done.returncode == 3
    assert done.stdout in ("", "said\nprinted\nlast\n") and done.stderr in ("", "error: failed\n")
    assert bool(done.stdout) == (not redirection.startswith((">", "<"))) and bool(done.stderr) == (
        "2>" not in redirection
    )


PROGRAMS = ("exposee.py", "receiver.py", "register_webhook.py", "walkthrough.py")


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_older_python_is_told_in_one_line(program: str) -> None:
    found = {version: path for version, path in pythons().items() if (3, 6) <= parts(version) < (3, 10)}
    if not found:
        pytest.skip("there is no Python from 3.6 to 3.9 on this machine")
    for version, path in found.items():
        done = subprocess.run([path, "-B", str(ROOT / program)], capture_output=True, text=True, timeout=SECONDS)
        line = f"Python 3.10 or newer is needed, this is {version}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_an_older_python_gets_as_far_as_that_line() -> None:
    """What it compiles before it gets there: the programs and this module."""
    for name in (*PROGRAMS, "terminal.py"):
        tree = ast.parse((ROOT / name).read_text("utf-8"), feature_version=(3, 7))  # the oldest that ast can still be
        modules = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert "__future__" not in modules, f"{name}: Python 3.6 has no annotations in __future__"
    with_our_version = python("import sys; sys.version_info = (3, 9); import terminal")
    assert (with_our_version.returncode, with_our_version.stdout) == (2, "")
    assert with_our_version.stderr == "Python 3.10 or newer is needed, this is 3.9\n"


@pytest.mark.parametrize("number", mostly_slow([signal.SIGINT, signal.SIGTERM]))
def test_a_terminal_that_stands_still_holds_up_neither_deliveries_nor_the_end(
    number: int, tmp_path: Path, listener: Listener
) -> None:
    """`--raw` into a pipe that nobody reads: far more than a pipe holds is printed, and all is delivered."""
    command = [sys.executable, str(ROOT / "exposee.py"), "--port", "0", "--raw"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as exposee:
        try:
            assert exposee.stdout
            port = int(exposee.stdout.readline().split(b":")[2].split(b",")[0])  # and then not one line more
            with Client(port) as client:
                body = json.dumps({"url": listener.url(), "event_types": ["payment_received"]}).encode()
                assert client.ask(request("POST", "/webhooks/register", body)).status == 200
                event = json.dumps({"event": "payment_received", "data": "x" * 1_000}).encode()
                for _ in range(300):
                    assert client.ask(request("POST", "/trigger", event)).status == 202
            for _ in range(300):
                listener.next()
            exposee.send_signal(number)
            assert exposee.wait(SECONDS / 2) == 0
        finally:
            exposee.kill()


def test_a_hostile_body_costs_a_transcript_no_time() -> None:
    began = time.process_time()
    transcript("< ", b"POST / HTTP/1.1\r\n\r\n" + b"a" * 32_700)
    assert time.process_time() - began < 0.5
