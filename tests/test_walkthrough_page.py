"""How the lesson looks: lines of any width whose bytes are all there, and pages that are the same in every run."""

from __future__ import annotations

import os
import select

import pytest

import walkthrough_page
from walkthrough_page import Markdown, Normal, Screen, folded, with_fixed_durations

PORTS = (40_001, 40_002, 40_003, 40_004, 40_005, 40_006)


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
    screen.step("A title that is short")
    screen.paragraph("word " * 99)
    screen.block("word " * 40, [("> ", "word " * 99)])
    screen.points(["word " * 99])
    lines = capsys.readouterr().out.splitlines()
    assert min(columns, walkthrough_page.WIDEST) - 6 < max(map(len, lines)) <= min(columns, walkthrough_page.WIDEST)


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
    page.paragraph("word " * 50)
    page.block("A dump", [("< ", "word " * 40), ("", "... 5 more lines")])
    page.block("Source", [("", "def f(): ..."), ("", "")], "python")
    lines = capsys.readouterr().out.splitlines()
    assert 95 < max(map(len, lines)) <= walkthrough_page.WIDEST
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
