"""The walkthrough: it shows real bytes, its page is current, and it leaves no process and no file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ROOT, Listener, Pair

import lesson
import receiver
import walkthrough
from lesson import CHAPTERS, Chapter
from server import Server
from verifying import verify

PAGE = (ROOT / "WALKTHROUGH.md").read_text("utf-8")
NUMBERS = range(1, len(CHAPTERS) + 1)
LIMIT = 60.0  # seconds for a whole lesson


class Walk:
    """The walkthrough as a process in a session of its own; `left` lists the files and processes that it leaves."""

    def __init__(self, folder: Path, *options: str, stdin: int = subprocess.DEVNULL) -> None:
        self._temporary = folder / "temporary"
        self._temporary.mkdir(parents=True)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "walkthrough.py"), *options],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self._temporary), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def read_until(self, text: str) -> None:
        """Read its output until `text` has come."""
        assert self.process.stdout
        output = b""
        while text.encode() not in output:
            more = os.read(self.process.stdout.fileno(), 65_536)
            assert more, f"it ended without {text!r}: {output!r}"
            output += more

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


@pytest.fixture
def programs() -> Iterator[walkthrough.Programs]:
    programs = walkthrough.Programs()
    try:
        yield programs
    finally:
        programs.close()


# --- it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_terminal_it_runs_through_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with Walk(tmp_path) as walk:
        code, output, errors = walk.end()
        assert (code, errors, walk.left()) == (0, "", [])
    for number, chapter in enumerate(CHAPTERS, 1):
        assert f"\n{number}. {chapter.title}\n" in output


@pytest.mark.slow
def test_the_page_is_what_the_command_prints_in_every_run(tmp_path: Path) -> None:
    with Walk(tmp_path / "1", "--markdown") as one, Walk(tmp_path / "2", "--markdown") as two:
        results = [one.end(), two.end()]
    assert [(code, errors) for code, _, errors in results] == [(0, "")] * 2
    assert results[0][1] == results[1][1]
    assert results[0][1] == PAGE, "python3 walkthrough.py --markdown > WALKTHROUGH.md"


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_interrupted_in_a_chapter_it_leaves_nothing_behind(number: int, tmp_path: Path) -> None:
    ours, its = os.openpty()  # a terminal: it waits for Enter
    with Walk(tmp_path, "--chapter", str(number), stdin=its) as walk:
        os.close(its)
        walk.read_until("[Enter")
        walk.interrupt()
        code, output, errors = walk.end()
        assert (code, output.strip(), errors, walk.left()) == (0, "Stopped", "", [])
    os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", ["byte by byte", "### Silence"], ids=["starting", "delivering"])
def test_interrupted_at_work_it_leaves_nothing_behind(moment: str, number: int, tmp_path: Path) -> None:
    with Walk(tmp_path, "--markdown", "--chapter", "6") as walk:
        walk.read_until(moment)
        walk.process.send_signal(number)
        code, output, errors = walk.end()
        assert (code, errors, walk.left()) == (0, "", [])
        assert output.endswith("\nStopped\n")


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    with Walk(tmp_path, "--chapter", "6") as walk:
        walk.read_until("The connection breaks")
        assert walk.process.stdout and walk.process.stderr
        walk.process.stdout.close()
        errors = walk.process.stderr.read()
        assert (walk.process.wait(LIMIT), errors, walk.left()) == (0, b"", [])


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["\nq\n", "\nQuit\n", "\n"], ids=["q", "word", "end of input"])
def test_the_reader_goes_on_with_enter_and_leaves_with_q(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard(typed))
    assert walkthrough.main(["--chapter", "1"]) == 0
    output = capsys.readouterr().out
    assert "HTTP/1.1 200 OK" in output and "The same with a function" in output
    assert "def talk" not in output, "the second step was shown without Enter"
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
    assert walkthrough.main(["--chapter", "9", "--markdown"]) == 0
    assert re.findall(r"^## (\d)", capsys.readouterr().out, re.MULTILINE) == ["9"]


def test_the_list_has_every_chapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert walkthrough.main(["--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"{number}. {chapter.title}" for number, chapter in enumerate(CHAPTERS, 1)]
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == shown


@pytest.mark.parametrize("options", [["--chapter", "0"], ["--chapter", "10"], ["--chapter", "x"], ["--verbose"], ["3"]])
def test_a_bad_option_is_one_line_and_exit_code_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        walkthrough.main(options)
    output, errors = capsys.readouterr()
    assert (end.value.code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: ")


# --- it shows what really passes -----------------------------------------------------------------------------------


def test_the_request_shown_for_an_attempt_is_what_a_socket_received(
    programs: walkthrough.Programs, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.start("chapter")
    teller = walkthrough.Lesson(programs, walkthrough.Screen(), walkthrough.Normal(programs))
    teller.register(listener.url(), secret=lesson.SECRET)
    delivery = teller.delivery(teller.trigger({"amount": 100, "in": "Zürich"}), listener.url())
    teller.show_attempts(delivery)
    received = listener.next()
    assert delivery["attempts"][0]["request"].encode("latin-1") == received
    shown = [line[6:] for line in capsys.readouterr().out.splitlines() if line.startswith("    > ")]
    assert "\r\n".join(shown).encode() == received


def test_the_lessons_own_listener_reads_what_was_sent() -> None:
    sent = lesson.request("POST", "/hook", "ü" * 40_000, webhook_id="msg_1")
    assert sent.startswith(b"POST /hook HTTP/1.1\r\n") and b"\r\nContent-Length: 80000\r\n" in sent
    listener = walkthrough.Listener()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(lesson.talk(listener.port, sent)))
    thread.start()
    assert listener.receive("msg_1") == sent
    listener.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
    listener.close()
    thread.join(LIMIT)
    assert answers == [b"HTTP/1.1 204 No Content\r\n\r\n"]


def test_a_request_that_ends_early_fails_the_lesson() -> None:
    listener = walkthrough.Listener()
    with socket.create_connection(("127.0.0.1", listener.port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nfour")
    with pytest.raises(walkthrough.LessonFailed, match="ended early"):
        listener.receive("msg_1")
    listener.close()


def test_the_lessons_own_listener_waits_for_the_message_that_is_meant() -> None:
    first, second = (lesson.request("POST", "/hook", webhook_id=name) for name in ("msg_1", "msg_2"))
    listener = walkthrough.Listener()
    answers: list[bytes] = []
    thread = threading.Thread(
        target=lambda: answers.extend([lesson.talk(listener.port, first), lesson.talk(listener.port, second)])
    )
    thread.start()
    assert listener.receive("msg_2") == second
    listener.close()
    thread.join(LIMIT)
    assert answers[0].startswith(b"HTTP/1.1 204 ")


def test_the_lesson_follows_its_own_delivery_of_a_message(programs: walkthrough.Programs, listener: Listener) -> None:
    programs.start("chapter")
    teller = walkthrough.Lesson(programs, walkthrough.Screen(), walkthrough.Normal(programs))
    urls = [listener.url("/ours"), listener.url("/the-readers")]
    for url in urls:
        teller.register(url)
    message = teller.trigger(1)
    assert [teller.delivery(message, url)["url"] for url in urls] == urls


def messages(mark: str) -> Iterator[tuple[dict[str, str], str]]:
    """(fields, body) of the HTTP messages on the page whose lines begin with the mark."""
    for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        lines = [line[2:] for line in block.splitlines() if line.startswith(mark.strip())]
        if any("HTTP/1.1" in line for line in lines):
            head, _, body = "\n".join(lines).partition("\n\n")
            yield dict(line.split(": ", 1) for line in head.splitlines()[1:]), body


def test_the_lengths_on_the_page_are_right() -> None:
    """The fixed ids, ports and times of the page are as long as the real ones."""
    wrong: list[tuple[int, int, str]] = []
    count = 0
    for mark, newline in (("> ", 0), ("< ", 1)):  # servers end their JSON with a line feed, which no line shows
        for fields, body in messages(mark):
            length = int(fields.get("Content-Length", 0))
            if length and '"***"' not in body and body != "only half of":
                count += 1
                if length not in (len(body.encode()), len(body.encode()) + newline):
                    wrong.append((length, len(body), body))
    assert wrong == []
    assert count > 50


def test_the_signatures_on_the_page_are_those_of_what_is_shown() -> None:
    good: list[str] = []
    bad: list[str] = []
    for mark in ("> ", "< "):
        for fields, body in messages(mark):
            headers = {name.lower(): value for name, value in fields.items()}
            if "webhook-signature" in headers:
                check = verify(lesson.SECRET, headers, body.encode(), walkthrough.NOON)
                (good if check.good else bad).append(check.reasons[0])
    assert len(good) == 1
    assert [reason.split(":")[0].split(",")[0] for reason in bad] == [
        "webhook-signature",  # a byte was changed
        "webhook-signature",  # the JSON was written again
        "webhook-signature is right",  # but the time is old
    ]


def test_each_term_is_introduced_once() -> None:
    terms = re.findall(
        r"(?<!\*)\*(\w[^*\n]*)\*(?!\*)", re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    )
    assert sorted(terms) == sorted(set(terms))
    assert {"webhook", "request", "response", "status", "body", "delivery", "attempt", "signature"} <= set(terms)


def test_a_ping_back_is_a_claim_and_no_proof() -> None:
    section = " ".join(PAGE.partition("### The ping-back")[2].partition("###")[0].split())
    assert "the integrator claims that the ping has arrived" in section and "It proves nothing" in section


def test_when_the_next_attempt_is_due_is_the_same_on_every_page(programs: walkthrough.Programs) -> None:
    normal = walkthrough.Normal(programs)
    assert normal("503 in 2 ms, retrying, next attempt in 4 s") == normal("503 in 2 ms, retrying, next attempt in 6 s")


@pytest.mark.parametrize("file", ["WALKTHROUGH.md", "walkthrough.py", "lesson.py"])
def test_the_interpreter_has_the_name_that_every_system_has(file: str) -> None:
    assert not re.search(r"\bpython\s+(-i|\w+\.py)", (ROOT / file).read_text("utf-8"))


# --- the exercises -------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A receiver in this process, with the options of the chapter."""
    chapter: Chapter = request.getfixturevalue("chapter")
    options = receiver.parser().parse_args(chapter.receiver_options)
    server = Server(("127.0.0.1", 0), receiver.Receiver(options.secret or "").routes)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.server_port
    server.stopping = True
    thread.join(LIMIT)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.title)
def test_the_solution_of_an_exercise_solves_it(chapter: Chapter, pair: Pair, receiver_port: int) -> None:
    """Each solution asserts its own answer."""
    pair.register(lesson.receiver_url(receiver_port), "payment_received")
    answer = chapter.solution(pair.port, receiver_port)
    assert answer.startswith(b"HTTP/1.1 ")
    assert f"def {chapter.solution.__name__}(" in PAGE


def test_the_reader_has_the_functions_at_hand(pair: Pair) -> None:
    """The command in the introduction works, with the port of a running exposee."""
    typed = re.search(r"`(print\(talk\(.*?\)\))`", PAGE, re.DOTALL)
    assert typed and "`python3 -i lesson.py`" in PAGE
    command = " ".join(typed[1].split()).replace("3000", str(pair.port))
    python = [sys.executable, "-i", "lesson.py"]
    run = subprocess.run(
        python, cwd=ROOT, input=command + "\n", capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert run.stdout.startswith("HTTP/1.1 200 OK\n"), run.stderr


class Reader(walkthrough.Screen):
    """A screen whose reader calls `act` with the lesson in each pause."""

    lesson: walkthrough.Lesson

    def __init__(self, act: Callable[[walkthrough.Lesson, str], None]) -> None:
        super().__init__()
        self._act = act

    def pause(self, what: str = "go on") -> None:
        self._act(self.lesson, what)


def read(number: int, programs: walkthrough.Programs, act: Callable[[walkthrough.Lesson, str], None]) -> None:
    """Show one chapter alone, with `act` in its pauses."""
    page = Reader(act)
    page.lesson = walkthrough.Lesson(programs, page, walkthrough.Normal(programs))
    walkthrough.teach(CHAPTERS[number - 1], number, page.lesson, alone=True)


@pytest.mark.parametrize("number", [3, 4, 5, 9])
def test_a_reader_that_has_done_the_exercise_still_sees_the_solution(
    number: int, programs: walkthrough.Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    def exercise(teller: walkthrough.Lesson, what: str) -> None:
        if what == "see the solution":
            for url in (lesson.receiver_url(teller.receiver), "http://127.0.0.1:9/mine"):
                for event in teller.ask("GET", "/event-types")["event_types"]:
                    teller.register(url, event)
            teller.ask("GET", "/ping")

    read(number, programs, exercise)
    solution = capsys.readouterr().out.partition("The answer:\n")[2]
    assert "< HTTP/1.1 " in solution and "/mine" not in solution
    assert programs.exposee.process.poll() is None, "the reader may want to try it again"


@pytest.mark.parametrize("number", [3, 4, 7, 8])
def test_what_the_reader_sends_in_a_pause_is_not_shown(
    number: int, programs: walkthrough.Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[bytes] = []

    def send(teller: walkthrough.Lesson, what: str) -> None:
        mine = lesson.request("POST", "/webhook-receiver", json.dumps({"event": "mine"}), webhook_id="msg_mine_too")
        answers.append(lesson.talk(teller.receiver, mine))

    read(number, programs, send)
    output = capsys.readouterr().out
    assert "The answer:\n" in output and len(answers) > 2
    assert '"mine"' not in output and "msg_mine_too" not in output


def test_the_exercise_of_a_chapter_alone_says_what_to_type(
    programs: walkthrough.Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[subprocess.CompletedProcess[str]] = []
    shown: list[str] = []

    def copy(teller: walkthrough.Lesson, what: str) -> None:
        if what == "see the solution":
            shown.append(capsys.readouterr().out)
            typed = shown[0].rpartition("second terminal:\n\n")[2]
            python = [sys.executable, "-i", "lesson.py"]
            runs.append(
                subprocess.run(
                    python, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=LIMIT, check=False
                )
            )
            assert runs[0].stdout.count(lesson.receiver_url(teller.receiver)) == 1

    read(9, programs, copy)
    assert all(f"def {name}(" in shown[0] for name in ("talk", "request", "receiver_url"))
    assert re.findall(r"^HTTP/1.1 (\d+)", runs[0].stdout, re.MULTILINE) == ["200", "202"], runs[0].stderr


def test_a_solution_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def solution_1(exposee: int, receiver: int) -> bytes:
        raise AssertionError

    monkeypatch.setattr(walkthrough, "CHAPTERS", [Chapter("Nothing", lambda lesson: None, "Do it.", solution_1)])
    assert walkthrough.main(["--chapter", "1"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: solution_1 ") and errors.count("\n") == 1
