"""The lesson: its functions, its solutions, and what its page says."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from support import ROOT, Pair

import lesson
import receiver
from lesson import CHAPTERS, Chapter, read_answer, receiver_url, request
from server import Server
from verifying import faults
from walkthrough import NOON

PAGE = (ROOT / "WALKTHROUGH.md").read_text("utf-8")
LIMIT = 60.0


# --- the client ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sent"),
    [({"a": "ü"}, '{"a": "\\u00fc"}'), ([1], "[1]"), (0, "0"), (None, "null"), ('{"a":1', '{"a":1'), ("ü", "ü")],
)
def test_a_body_is_text_or_any_value_that_json_has(body: object, sent: str) -> None:
    head, _, text = request("POST", "/x", body).decode().partition("\r\n\r\n")
    assert text == sent
    assert head.split("\r\n")[3:] == ["Content-Type: application/json", f"Content-Length: {len(sent.encode())}"]


def test_a_field_that_is_given_takes_the_place_of_the_usual_one() -> None:
    data = request("GET", "/x", Host="example", webhook_id="msg_1", Connection="keep-alive")
    assert data == b"GET /x HTTP/1.1\r\nHost: example\r\nConnection: keep-alive\r\nwebhook-id: msg_1\r\n\r\n"


def test_answers_on_one_connection_are_read_one_by_one() -> None:
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n\r\n\r\nab", b"HTTP/1.1 204 No Content\r\n\r\n"]
    stream = io.BytesIO(b"".join(answers))
    assert [read_answer(stream), read_answer(stream)] == answers
    with pytest.raises(ConnectionError, match="ended early"):
        read_answer(stream)


# --- the page -----------------------------------------------------------------------------------------------------


def messages(mark: str) -> Iterator[tuple[dict[str, str], str]]:
    """(fields, body) of the HTTP messages on the page whose lines begin with the mark."""
    for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if re.search(r"^[<>]\n  \.\.\. |^  \.\.\. .* more bytes$", block, re.MULTILINE):
            continue  # something of a body is left out
        whole = block.replace("\n+ ", "")
        text = "\n".join(line[2:] for line in whole.splitlines() if line.startswith(mark.strip()))
        for message in re.split(r"\n(?=HTTP/1\.1 )", text):
            if "HTTP/1.1" in message:
                head, _, body = message.partition("\n\n")
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
    good, bad = 0, list[str]()
    for mark in ("> ", "< "):
        for fields, body in messages(mark):
            headers = {name.lower(): value for name, value in fields.items()}
            if "webhook-signature" in headers:
                found = faults(lesson.SECRET, headers, body.encode(), NOON)
                bad += found[:1]
                good += not found
    assert good == 1
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


@pytest.mark.parametrize("file", ["WALKTHROUGH.md", "walkthrough.py", "lesson.py"])
def test_the_interpreter_has_the_name_that_every_system_has(file: str) -> None:
    assert not re.search(r"\bpython\s+(-i|\w+\.py)", (ROOT / file).read_text("utf-8"))


def test_the_sources_that_are_shown_fit_on_a_terminal_of_80_columns() -> None:
    shown = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(shown) > len(CHAPTERS)
    assert [line for source in shown for line in source.splitlines() if len(line) > 76] == []


def test_the_receiver_of_fifteen_lines_has_fifteen() -> None:
    lines = lesson.OWN_RECEIVER.strip().split("\n")
    assert sum(1 for line in lines if line.strip()) <= 16
    assert max(map(len, lines)) < 60, "it can be copied from a narrow terminal"
    assert f"```python\n{lesson.OWN_RECEIVER.strip()}\n```" in PAGE


@pytest.mark.parametrize("name", ["lesson.py", "walkthrough.py"])
def test_no_function_of_the_lesson_is_long(name: str) -> None:
    for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, node.name


def test_the_list_of_chapters_at_the_top_is_that_of_the_lesson() -> None:
    listed = re.findall(r"(\d+)\. (.*?)(?=  |\n)", lesson.__doc__ or "")
    assert sorted((int(number), title) for number, title in listed) == [
        (number, chapter.title) for number, chapter in enumerate(CHAPTERS, 1)
    ]


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
    server.stop()
    thread.join(LIMIT)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.title)
def test_the_solution_of_an_exercise_solves_it(chapter: Chapter, pair: Pair, receiver_port: int) -> None:
    """Each solution asserts its own answer."""
    pair.register(receiver_url(receiver_port), "payment_received")
    answer = chapter.solution(pair.port, receiver_port)
    assert answer.startswith(b"HTTP/1.1 ")
    assert f"def {chapter.solution.__name__}(" in PAGE


def test_the_reader_has_the_functions_at_hand(pair: Pair) -> None:
    """The lines in the introduction work, with the port of a running exposee."""
    typed = re.search(r"to the prompt:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert typed and "`python3 -i lesson.py`" in PAGE
    command = typed[1].replace("3000", str(pair.port))
    python = [sys.executable, "-i", "lesson.py"]
    run = subprocess.run(python, cwd=ROOT, input=command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert re.findall(r"^HTTP/1.1 (\d+)", run.stdout, re.MULTILINE) == ["200", "202"], run.stderr
