"""The methods of the chapters: they show what really passes, and nothing of what the reader does in between."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support import ROOT, Listener

import lesson_http
import server
import walkthrough
from lesson import CHAPTERS, SECRET
from lesson_client import receiver_url, request, talk
from walkthrough_lesson import Lesson, shortened
from walkthrough_page import Normal, Screen
from walkthrough_programs import Programs

LIMIT = 60.0


@pytest.fixture
def programs() -> Iterator[Programs]:
    programs = Programs()
    yield programs
    programs.close()


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
    teller.register(listener.url(), secret=SECRET)
    delivery = teller.delivery(teller.trigger({"amount": 100, "in": "Zürich"}), listener.url())
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


@pytest.mark.parametrize("number", [3, 4, 6, 12])
def test_a_reader_that_has_done_the_exercise_still_sees_the_solution(
    number: int, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    def exercise(teller: Lesson, what: str) -> None:
        if what == "see the solution":
            capsys.readouterr()
            for url in (receiver_url(teller.receiver), "http://127.0.0.1:9/mine"):
                for event in teller.ask("GET", "/event-types")["event_types"]:
                    teller.register(url, event)
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
    programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first chapter leaves a request unfinished in a pause, and an exposee does not wait for ever."""
    assert lesson_http.PATIENCE < server.CLIENT_SECONDS < lesson_http.PATIENCE + 5
    exposee = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        for status in (b"408 Request Timeout", b"200 OK"):
            connection, _ = exposee.accept()
            with connection:
                data = connection.recv(100)
                while status == b"200 OK" and not data.endswith(b"\r\n\r\n"):
                    data += connection.recv(100)
                requests.append(data)
                connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    paused_with: list[object] = []
    page = Reader(lambda teller, what: paused_with.append(teller.kept.connection))
    teller = page.lesson = Lesson(programs, page, Normal(programs.ports))
    teller.exposee = exposee.getsockname()[1]
    with exposee, teller.open:
        lesson_http.connected(teller)
        first = teller.kept.connection
        teller.kept.sent = time.monotonic() - lesson_http.PATIENCE - 1
        lesson_http.answer(teller)
    thread.join(LIMIT)
    assert requests == [lesson_http.START, lesson_http.START + b"\r\n"]
    assert re.findall(r"^  < HTTP/1.1 (\d+)", capsys.readouterr().out, re.MULTILINE) == ["408", "200"]
    assert paused_with == [first], "a new connection would wait in that pause too"
