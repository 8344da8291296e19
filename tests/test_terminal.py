"""What a terminal is given: nothing that it would obey, nothing that is secret, and nobody waits for it."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support import ROOT, SECONDS, Client, Listener, Program, eventually, held, request

import terminal
from terminal import QUEUED, SHOWN_BODY, Parser, Printer, masked, port_number, printable, transcript, web_url


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
        (b'{"secret": "cut of', b'{"secret": "***'),
        (b"Authorization: Bearer abc\r\nHost: h", b"Authorization: ***\r\nHost: h"),
        (b"Host: h\r\nauthorization:abc", b"Host: h\r\nauthorization:***"),
        (b"Proxy-Authorization: Basic abc", b"Proxy-Authorization: ***"),
        (b'{"secrets": "shown", "url": "secret"}', b'{"secrets": "shown", "url": "secret"}'),
        (b"WWW-Authenticate: Bearer\r\nX-Authorization: shown", b"WWW-Authenticate: Bearer\r\nX-Authorization: shown"),
    ],
)
def test_secrets_and_nothing_else_are_masked(data: bytes, shown: bytes) -> None:
    assert masked(data) == shown


def test_a_transcript_shows_no_secret_that_is_cut_in_the_middle() -> None:
    start = b'{"a": "' + b"x" * (SHOWN_BODY - 30) + b'", "secret": "whsec_MfKQ9r8GKY"}'
    assert "whsec" not in str(transcript("> ", b"Authorization: Bearer t0ken\r\n\r\n" + start))


def test_nobody_waits_for_a_terminal_that_stands_still() -> None:
    stream = Stream()
    stream.gate.clear()
    printer = Printer(stream)
    with held(stream.gate):
        began = time.monotonic()
        for number in range(3 * QUEUED):
            printer.say(f"line {number}")
            printer.show("title", ("> ", b"x" * 100_000, None))
        printer.close()
        assert time.monotonic() - began < SECONDS / 2
        assert stream.getvalue() == ""


def test_what_came_too_fast_is_counted() -> None:
    stream = Stream()
    stream.gate.clear()
    printer = Printer(stream)
    with held(stream.gate):
        printer.say("first")
        assert stream.asked.wait(SECONDS)
        for number in range(QUEUED + 50):
            printer.say(f"line {number}")
    eventually(lambda: "... 50 more lines" in stream.getvalue(), "the count")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["first", "line 0"] and lines[QUEUED] == f"line {QUEUED - 1}" and len(lines) == QUEUED + 2
    printer.close()


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


@pytest.mark.parametrize("argv", [["--nonsense"], ["--port", "x"], ["\x1b[31m\n"], ["--port"], ["--url", "\udcff"]])
def test_a_mistake_on_the_command_line_is_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("Do nothing.")
    parser.add_argument("--port", type=port_number)
    parser.add_argument("--url", type=web_url)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(argv)
    out, error = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert error.startswith("error: ") and error.endswith("; see --help\n") and error[:-1].isprintable()


@pytest.mark.parametrize("text", ["", "-1", "65536", "3.0", "٣", "²", "0x50", "9" * 5_000, " 80"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        port_number(text)


@pytest.mark.parametrize(
    "text", ["", "localhost:3000", "/path", "ftp://h/", "file:///etc/passwd", "http://", "http:h", "http://[::1", "http://h:99999"]
)
def test_what_is_no_web_url(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        web_url(text)


def test_what_is_a_port_or_a_web_url() -> None:
    assert [port_number(text) for text in ("0", "80", "65535")] == [0, 80, 65_535]
    for text in ("http://localhost:3000", "https://a.example/b?c=d", "http://[::1]:80/", "HTTP://H/"):
        assert web_url(text) == text


def test_fail_is_one_line_and_returns_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.fail("a\nb", 2) == 2
    assert capsys.readouterr() == ("", "error: a\\nb\n")


def test_a_stream_that_lacks_a_character_gets_its_escape(tmp_path: Path) -> None:
    with Program("receiver.py", "--help", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}) as program:
        assert program.wait() == 0
        assert "\\u2026" in program.wait_for("whsec_")


def test_a_terminal_that_stands_still_holds_up_no_delivery(tmp_path: Path, listener: Listener) -> None:
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
        finally:
            exposee.kill()


def test_a_hostile_body_costs_a_transcript_no_time() -> None:
    began = time.process_time()
    transcript("< ", b"POST / HTTP/1.1\r\n\r\n" + b"a" * 32_700)
    assert time.process_time() - began < 0.5
