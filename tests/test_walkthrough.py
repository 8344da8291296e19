"""The walkthrough: it shows a screen at a time, what really passes and nothing of what the reader does in between; its
page is the same in every run; it leaves no process and no file."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ROOT, SECONDS, Listener

import lesson
import walkthrough
from lesson import CHAPTERS, SECRET, Chapter, receiver_url, request, talk
from walkthrough import (
    Lesson,
    LessonFailed,
    Markdown,
    Normal,
    Programs,
    Screen,
    entries,
    folded,
    free_ports,
    shortened,
    with_fixed_durations,
)

PAGE = (ROOT / "WALKTHROUGH.md").read_text("utf-8")
NUMBERS = range(1, len(CHAPTERS) + 1)
LIMIT = 120.0  # seconds for a whole lesson
PORTS = (40_001, 40_002, 40_003, 40_004, 40_005, 40_006)


@pytest.fixture
def programs() -> Iterator[Programs]:
    with contextlib.closing(Programs()) as it:
        yield it


class Walk:
    """The walkthrough as a process in a session of its own; `left` lists the files and processes that it leaves."""

    def __init__(self, folder: Path, *options: str, stdin: int = subprocess.DEVNULL, **environment: str) -> None:
        self._temporary = folder / "temporary"
        self._temporary.mkdir(parents=True)
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "walkthrough.py"), *options],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self._temporary), **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def read_until(self, text: str) -> None:
        """Read its output until `text` has come."""
        assert self.process.stdout
        self.output = b""
        while text.encode() not in self.output:
            more = os.read(self.process.stdout.fileno(), 65_536)
            assert more, f"it ended without {text!r}: {self.output!r}"
            self.output += more

    def interrupt(self) -> None:
        """Send SIGINT, and again if nothing happens: Python handles one that comes just before a read from the
        terminal only after that read."""
        for _ in range(5):
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
                return

    def end(self) -> tuple[int, str, str]:
        """(exit code, the rest of the output, errors)."""
        output, errors = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, output.decode(), errors.decode()

    def left(self) -> list[str]:
        """The files that are there after its end, and "a process" if one of its processes still runs."""
        files = [path.name for path in self._temporary.parent.rglob("*") if path != self._temporary]
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return files
        return [*files, "a process"]

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


# --- a screen at a time ----------------------------------------------------------------------------------------------


class Enter:
    """A reader who presses Enter at each prompt of the whole lesson; `screens` has what stood between the prompts."""

    def __init__(self, folder: Path, columns: int, lines: int) -> None:
        self.screens: list[list[str]] = []
        self._folder, self._size = folder, {"COLUMNS": str(columns), "LINES": str(lines)}
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        ours, its = os.openpty()
        with Walk(self._folder, stdin=its, **self._size) as walk:
            os.close(its)
            assert walk.process.stdout
            text = b""
            while more := os.read(walk.process.stdout.fileno(), 65_536):
                text += more
                if text.endswith(b"q: leave] "):
                    os.write(ours, b"\n")
                    self.screens.append(text.decode().split("\n"))
                    text = b""
            self.end = walk.process.wait(LIMIT), walk.end()[2], walk.left()
        os.close(ours)

    def wait(self) -> list[list[str]]:
        self._thread.join(LIMIT)
        assert self.end == (0, "", [])
        return self.screens


@pytest.mark.slow
def test_each_step_is_one_screen_and_the_ports_are_told_once(tmp_path: Path) -> None:
    readers = [(columns, Enter(tmp_path / str(columns), columns, 24)) for columns in (60, 80)]
    for columns, reader in readers:
        screens = reader.wait()
        assert len(screens) > 100
        assert [line for screen in screens for line in screen if len(line) > columns] == []
        assert [screen for screen in screens if len(screen) > 24] == []
        assert [screen for screen in screens[:-1] if not any(screen[:-1])] == [], "nothing but a prompt"
        text = "\n".join(line for screen in screens for line in screen)
        assert re.findall(r"^\d+\. .*$", text, re.MULTILINE) == titles()
        [(exposee, receiver)] = re.findall(r"^exposee, receiver = (\d+), (\d+)$", text, re.MULTILINE)
        hosts = set(re.findall(r"^  [<>] Host: 127\.0\.0\.1:(\d+)$", text, re.MULTILINE))
        assert len(hosts) == 3 and receiver in hosts, "the receiver, a second one, and a plain socket"
        assert f"http://127.0.0.1:{exposee}, the exposee" in text.replace("\n  + ", "")


def titles() -> list[str]:
    return [f"{number}. {chapter.title}" for number, chapter in enumerate(CHAPTERS, 1)]


@pytest.mark.slow
def test_the_page_is_what_the_command_prints_in_every_run(tmp_path: Path) -> None:
    with Walk(tmp_path / "1", "--markdown") as one, Walk(tmp_path / "2", "--markdown") as two:
        results = [one.end(), two.end()]
        assert [(code, errors) for code, _, errors in results] == [(0, "")] * 2
        assert one.left() == two.left() == []
    assert results[0][1] == results[1][1]
    assert results[0][1] == PAGE, "python3 walkthrough.py --markdown > WALKTHROUGH.md"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "typed"), [*((number, "") for number in NUMBERS), (10, "q\n")])
def test_left_in_a_chapter_it_leaves_nothing_behind(number: int, typed: str, tmp_path: Path) -> None:
    ours, its = os.openpty()  # a terminal: it waits for Enter
    with Walk(tmp_path, "--chapter", str(number), stdin=its) as walk:
        os.close(its)
        walk.read_until("q: leave] ")
        while f"\n{number}. ".encode() not in walk.output:
            os.write(ours, b"\n")
            walk.read_until("q: leave] ")
        os.write(ours, typed.encode())
        if not typed:
            walk.interrupt()
        code, output, errors = walk.end()
        said = "Until next time" if typed else "Stopped"
        assert (code, output.strip(), errors, walk.left()) == (0, said, "", [])
    os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", ["byte by byte", "### No answer"], ids=["starting", "delivering"])
def test_interrupted_at_work_it_leaves_nothing_behind(moment: str, number: int, tmp_path: Path) -> None:
    with Walk(tmp_path, "--markdown", "--chapter", "8") as walk:
        walk.read_until(moment)
        walk.process.send_signal(number)
        code, output, errors = walk.end()
        assert (code, errors, walk.left()) == (0, "", [])
        assert output.endswith("\nStopped\n")


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    with Walk(tmp_path, "--chapter", "8") as walk:
        walk.read_until("The connection breaks")
        assert walk.process.stdout and walk.process.stderr
        walk.process.stdout.close()
        errors = walk.process.stderr.read()
        assert (walk.process.wait(LIMIT), errors, walk.left()) == (0, b"", [])


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("options", [["--list"], ["--help"]])
def test_an_output_that_takes_nothing_is_no_traceback(options: list[str]) -> None:
    unread, output = os.pipe()
    os.close(unread)
    command = [sys.executable, str(ROOT / "walkthrough.py"), *options]
    run = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, timeout=LIMIT, check=False)
    os.close(output)
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.parametrize("typed", ["\nq\n", "\nQuit\n", "\n"], ids=["q", "word", "end of input"])
def test_the_reader_goes_on_with_enter_and_leaves_with_q(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard(typed))
    assert walkthrough.main(["--chapter", "1"]) == 0
    output = capsys.readouterr().out
    assert "HTTP, as browsers and websites do" in output and "python3 -i lesson.py" in output
    assert "Each solution" not in output, "the third screen was shown without Enter"
    assert output.endswith("Until next time\n")


def test_a_program_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(walkthrough, "OPTIONS", ("--port", "none"))
    assert walkthrough.main(["--chapter", "1"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: exposee.py ") and "'none' is not a port" in errors
    assert errors.count("\n") == 1


def test_a_chapter_can_be_shown_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert walkthrough.main(["--chapter", "12", "--markdown"]) == 0
    assert re.findall(r"^## (\d+)", capsys.readouterr().out, re.MULTILINE) == ["12"]


def test_the_list_has_every_chapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert walkthrough.main(["--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == titles()
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == shown


@pytest.mark.parametrize("options", [["--chapter", "0"], ["--chapter", "13"], ["--chapter", "x"], ["--verbose"], ["3"]])
def test_a_bad_option_is_one_line_and_exit_code_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        walkthrough.main(options)
    output, errors = capsys.readouterr()
    assert (end.value.code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: ")


def test_a_solution_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def solution_1(exposee: int, receiver: int) -> bytes:
        raise AssertionError

    monkeypatch.setattr(walkthrough, "CHAPTERS", [Chapter("Nothing", [], "Do it.", solution_1)])
    assert walkthrough.main(["--chapter", "1"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: solution_1 ") and errors.count("\n") == 1


# --- the programs -----------------------------------------------------------------------------------------------------


def test_the_ports_are_free_and_different() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_fresh_pair_has_the_ports_of_the_last_and_none_of_its_files(programs: Programs) -> None:
    body = {"url": "http://127.0.0.1:9/", "event_types": ["payment_received"]}
    for name in ("one", "two"):
        programs.start(name)
        assert b'"webhooks": 0' in talk(programs.ports[0], request("GET", "/health"))
        assert talk(programs.ports[1], request("POST", "/webhook-receiver", {})).startswith(b"HTTP/1.1 204 ")
        assert talk(programs.ports[0], request("POST", "/webhooks/register", body)).startswith(b"HTTP/1.1 200 ")
    programs.exposee.kill()
    programs.start_exposee()
    assert b'"webhooks": 1' in talk(programs.ports[0], request("GET", "/health"))


def test_a_port_that_somebody_else_has_taken_is_one_line(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", programs.ports[0])):
        with pytest.raises(LessonFailed, match=f"exposee.py has not printed.*port {programs.ports[0]}"):
            programs.start("chapter")


def test_the_listener_reads_what_was_sent() -> None:
    sent = request("POST", "/hook", "ü" * 40_000, webhook_id="msg_1")
    listener = walkthrough.Listener()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(talk(listener.port, sent)))
    thread.start()
    assert listener.receive("msg_1") == sent
    listener.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
    listener.close()
    thread.join(SECONDS)
    assert answers == [b"HTTP/1.1 204 No Content\r\n\r\n"]


def test_a_request_that_ends_early_fails_the_lesson() -> None:
    listener = walkthrough.Listener()
    with contextlib.closing(listener):
        with socket.create_connection(("127.0.0.1", listener.port)) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n")
        with pytest.raises(OSError, match="ended early"):
            listener.receive("msg_1")


def test_the_listener_waits_for_the_message_that_is_meant() -> None:
    first, second = (request("POST", "/hook", webhook_id=name) for name in ("msg_1", "msg_2"))
    listener = walkthrough.Listener()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.extend([talk(listener.port, first), talk(listener.port, second)]))
    thread.start()
    assert listener.receive("msg_2") == second
    listener.close()
    thread.join(SECONDS)
    assert answers[0].startswith(b"HTTP/1.1 204 ")


# --- the screens and the page -----------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A terminal of 60 columns and 24 lines, until the test changes it."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "24")
    return monkeypatch


@pytest.mark.parametrize("width", [60, 61, 80, 100])
@pytest.mark.parametrize("text", ["x" * 500, "one two  three " * 30, '{"url": "http://a/' + "b" * 90 + '"}', "", "a"])
def test_a_long_line_is_cut_into_pieces_that_are_marked_and_have_all_of_it(text: str, width: int) -> None:
    first, *rest = folded("> ", text, width)
    assert first.startswith("  > ") and all(line.startswith("  + ") for line in rest)
    assert first[4:] + "".join(line[4:] for line in rest) == text
    assert max(map(len, [first, *rest])) <= width


def test_words_stay_whole_where_there_is_room_and_no_blank_is_at_an_end() -> None:
    assert folded("", "the first line, the second", 20) == ["    the first line,", "  +  the second"]


@pytest.mark.parametrize("columns", [60, 80, 132])
def test_everything_follows_the_width_of_the_terminal(
    columns: int, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.setenv("COLUMNS", str(columns))
    screen = Screen()
    screen.heading("A title that is short")
    screen.text("word " * 99 + "\n\n- " + "word " * 99)
    screen.block("word " * 40, [("> ", "word " * 99)])
    lines = capsys.readouterr().out.splitlines()
    assert min(columns, walkthrough.WIDEST) - 6 < max(map(len, lines)) <= min(columns, walkthrough.WIDEST)


def test_what_does_not_fit_below_the_rest_comes_after_another_enter(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before: list[int] = []

    def enter(prompt: str) -> str:
        before.append(capsys.readouterr().out.count("\n"))
        assert "go on" in prompt
        return ""

    terminal.setattr("builtins.input", enter)
    screen = Screen(wait=True)
    for count in (15, 15, 50):
        screen.block("A dump", [("> ", str(number)) for number in range(count)])
    assert before == [18, 18, 18, 18]
    assert capsys.readouterr().out.count("\n") == 17


def test_an_enter_that_came_too_early_skips_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = os.openpty()
    with os.fdopen(its) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("builtins.input", lambda prompt: os.write(ours, b"now\n") and terminal.readline())
        os.write(ours, b"\n\nq\n")
        Screen(wait=True).pause()  # q would raise Leave
        assert not select.select([terminal], [], [], 0)[0], "early keys are left"
    os.close(ours)


def test_a_page_has_its_own_width(terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = Markdown()
    page.text("word " * 50)
    page.block("A dump", [("< ", "word " * 40), ("", "... 5 more lines")])
    page.block("Source", [("", "def f(): ..."), ("", "")], "python")
    lines = capsys.readouterr().out.splitlines()
    assert 95 < max(map(len, lines)) <= walkthrough.WIDEST
    assert lines[-7:] == ["", "Source:", "", "```python", "def f(): ...", "", "```"]
    assert [line[:2] for line in lines if "word" in line][-3:] == ["< ", "+ ", "+ "]
    assert "  ... 5 more lines" in lines


def test_a_page_has_the_same_ids_times_and_ports_in_every_run() -> None:
    one, two = Normal(PORTS), Normal(PORTS[::-1])
    text = "http://127.0.0.1:{}/ msg_{} 127.0.0.1 port {} [25/Nov/2026 16:30:{:02}]"
    first = [one(text.format(40_001, letter * 24, port, 1)) for letter, port in (("a", 50_001), ("b", 50_002))]
    second = [two(text.format(40_006, letter * 24, port, 2)) for letter, port in (("c", 50_003), ("d", 50_004))]
    assert first == second and first[0] != first[1]
    assert one("503 in 2 ms, next attempt in 4 s") == two("503 in 2 ms, next attempt in 6 s")


@pytest.mark.parametrize("duration", [b"0.012345", b"1e-05", b"2.5", b"0.002"])
def test_a_page_has_the_same_durations_and_content_length_in_every_run(duration: bytes) -> None:
    body = b'{"status": 204, "duration": %b}' % duration
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    assert with_fixed_durations(head % len(body) + body) == head % 34 + b'{"status": 204, "duration": 0.002}'


def test_a_content_length_that_is_wrong_stays_so_on_a_page() -> None:
    message = b'POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n{"duration": 0.5}'
    assert with_fixed_durations(message) == message.replace(b"0.5", b"0.002")


# --- the methods of the chapters --------------------------------------------------------------------------------------


@pytest.fixture
def teller(programs: Programs) -> Lesson:
    """A lesson with a fresh pair."""
    programs.start("chapter")
    return Lesson(programs, Screen(), Normal(programs.ports))


def dump(output: str, mark: str) -> bytes:
    """What the lines of a dump with this mark show, put together again."""
    lines: list[str] = []
    open_line = False
    for line in output.splitlines():
        if line.startswith("  + ") and open_line:
            lines[-1] += line[4:]
        elif open_line := line.startswith(f"  {mark} "):
            lines.append(line[4:])
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("columns", ["60", "100"])
def test_the_request_shown_for_an_attempt_is_what_a_socket_received(
    columns: str,
    teller: Lesson,
    listener: Listener,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    body = {"url": listener.url(), "event_types": ["payment_received"], "secret": SECRET}
    teller.ask("POST", "/webhooks/register", body)
    delivery = teller.deliver(listener.url(), {"amount": 100, "in": "Zürich"})
    teller.show_attempt(delivery, 1)
    received = listener.next()
    assert delivery["attempts"][0]["request"].encode("latin-1") == received
    assert dump(capsys.readouterr().out, ">") == received


def test_the_lesson_follows_its_own_delivery_of_a_message(teller: Lesson, listener: Listener) -> None:
    urls = [listener.url("/ours"), listener.url("/the-readers")]
    for url in urls:
        teller.register(url)
    message = teller.trigger(1)
    assert [teller.delivery(message, url)["url"] for url in urls] == urls


def test_what_is_left_out_of_a_dump_is_counted() -> None:
    lines = [("> ", "POST / HTTP/1.1"), ("> ", "Host: a"), ("> ", "A: b"), ("> ", ""), ("> ", "one two three")]
    assert shortened(lines) == lines
    assert shortened(lines, only=["POST", "two"]) == [lines[0], ("", "... 2 more lines"), lines[3], lines[4]]
    assert shortened(lines, only=["POST", "A:", "two"]) == lines, "a line about one line would save none"
    assert shortened(lines[4:], most=10) == [("> ", "one two"), ("", "... 6 more bytes")]
    assert shortened([("", "zwei Füße gehen")], most=8) == [("", "zwei"), ("", "... 13 more bytes")]


def test_an_entry_of_the_receiver_counts_once_all_its_lines_are_there() -> None:
    lines = ["Receiver on http://", "--- 127.0.0.1 port 1 asks", "< POST / HTTP/1.1", "", "12:00:00 Received", "  why"]
    first, second = lines[1:4], lines[4:]
    assert [entries(lines[:count]) for count in (1, 3, 4, 6)] == [[], [], [first], [first]]
    assert entries([*lines, "12:00:01 Received"]) == [first, second]


class Reader(Screen):
    """A screen whose reader calls `act` with the lesson in each pause."""

    lesson: Lesson

    def __init__(self, act: Callable[[Lesson, str], None]) -> None:
        super().__init__()
        self._act = act

    def pause(self, what: str = "go on") -> None:
        self._act(self.lesson, what)


def read(number: int, programs: Programs, act: Callable[[Lesson, str], None]) -> None:
    """Show one chapter alone, with `act` in its pauses."""
    page = Reader(act)
    page.lesson = Lesson(programs, page, Normal(programs.ports))
    walkthrough.teach(CHAPTERS[number - 1], number, page.lesson, last=True)


def test_between_two_steps_is_one_pause(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[list[str]] = []
    page = Reader(lambda *_: shown.append(re.findall("step [0-9]", capsys.readouterr().out)))
    teller = page.lesson = Lesson(programs, page, Normal(programs.ports))
    teller.step("One", "step 1")
    teller.step("Two", "step 2")
    teller.pause()  # before something that step 3 tells of
    teller.step("Three", "step 3")
    teller.pause()
    assert shown == [["step 1"], ["step 2"], ["step 3"]]


@pytest.mark.parametrize("number", [3, 4, 6, 12])
def test_a_reader_that_has_done_the_exercise_still_sees_the_solution(
    number: int, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    def exercise(teller: Lesson, what: str) -> None:
        if what == "see the solution":
            capsys.readouterr()
            events = teller.ask("GET", "/event-types")
            for url in (receiver_url(teller.receiver), "http://127.0.0.1:9/mine"):
                teller.ask("POST", "/webhooks/register", {"url": url, **events})
            teller.ask("GET", "/ping")
        if what == "end":
            assert teller.ask("GET", "/health")["webhooks"] > 4, "the reader's own pair has ended too early"

    read(number, programs, exercise)
    solution = capsys.readouterr().out.partition("The answer:\n")[2]
    assert "< HTTP/1.1 " in solution and "/mine" not in solution


@pytest.mark.parametrize("number", [3, 4, 7, 9, 10])
def test_what_the_reader_sends_in_a_pause_is_not_shown(
    number: int, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[bytes] = []

    def send(teller: Lesson, what: str) -> None:
        mine = request("POST", "/webhook-receiver", {"event": "mine"}, webhook_id="msg_mine_too")
        answers.append(talk(teller.receiver, mine))

    read(number, programs, send)
    output = capsys.readouterr().out
    assert "The answer:\n" in output and len(answers) > 2
    assert '"mine"' not in output and "msg_mine_too" not in output


def test_the_lines_to_copy_work_in_every_chapter(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    page = Reader(lambda *_: None)
    page.lesson = Lesson(programs, page, Normal(programs.ports))
    walkthrough.introduce(page.lesson, alone=True)
    introduction = capsys.readouterr().out
    assert "def talk(" in introduction and "def request(" in introduction
    typed = re.findall(r"to the prompt:\n\n(.*?)\n\n", introduction, re.DOTALL)
    runs: list[subprocess.CompletedProcess[str]] = []

    def copy(teller: Lesson, what: str) -> None:
        if what == "see the solution":
            python = [sys.executable, "-i", "lesson.py"]
            text = typed[0] + "\n"
            runs.append(
                subprocess.run(python, cwd=ROOT, input=text, capture_output=True, text=True, timeout=LIMIT, check=False)
            )

    for number in (2, 12):
        read(number, programs, copy)
    for run in runs:
        assert re.findall(r"^HTTP/1.1 (\d+)", run.stdout, re.MULTILINE) == ["200", "202"], run.stderr
        assert receiver_url(page.lesson.receiver) in run.stdout
    assert len(runs) == 2


def test_a_reader_who_is_slower_than_the_exposee_still_sees_the_answer(
    programs: Programs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chapter leaves a request unfinished in a pause, and an exposee does not wait for ever."""
    exposee = socket.create_server(("127.0.0.1", 0))
    has_given_up = threading.Event()
    requests: list[bytes] = []
    made: list[socket.socket] = []
    made_in_pauses: list[int] = []
    connect = lesson.connected

    def connected(teller: Lesson) -> socket.socket:
        made.append(connect(teller))
        return made[-1]

    def serve() -> None:
        for status, end in ((b"408 Request Timeout", b"close\r\n"), (b"200 OK", b"\r\n\r\n")):
            connection, _ = exposee.accept()
            with connection:
                data = b""
                while not data.endswith(end):
                    data += connection.recv(100)
                requests.append(data)
                connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
            has_given_up.set()

    def read(teller: Lesson, what: str) -> None:
        made_in_pauses.append(len(made))
        has_given_up.wait(SECONDS)

    monkeypatch.setattr(lesson, "connected", connected)
    page = Reader(read)
    teller = page.lesson = Lesson(programs, page, Normal(programs.ports))
    teller.exposee = exposee.getsockname()[1]
    thread = threading.Thread(target=serve)
    thread.start()
    with exposee, teller.open:
        lesson.empty_line(teller, connected(teller))
    thread.join(SECONDS)
    assert requests == [lesson.START, lesson.START + b"\r\n"]
    assert re.findall(r"^  < HTTP/1.1 (\d+)", capsys.readouterr().out, re.MULTILINE) == ["408", "200"]
    assert made_in_pauses == [1, 1], "a new connection would wait in that pause too"
