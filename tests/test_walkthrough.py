"""The walkthrough as a program: it shows a screen at a time, its page is current, it leaves no process and no file."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import ROOT

import walkthrough
import walkthrough_programs
from lesson import CHAPTERS, Chapter

PAGE = (ROOT / "WALKTHROUGH.md").read_text("utf-8")
NUMBERS = range(1, len(CHAPTERS) + 1)
LIMIT = 120.0  # seconds for a whole lesson


class Walk:
    """The walkthrough as a process in a session of its own; `left` lists the files and processes that it leaves."""

    def __init__(self, folder: Path, *options: str, stdin: int = subprocess.DEVNULL, **environment: str) -> None:
        self._temporary = folder / "temporary"
        self._temporary.mkdir(parents=True)
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "walkthrough.py"), *options],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self._temporary), "PYTHONDONTWRITEBYTECODE": "1", **environment},
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


# --- a screen at a time -----------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(walkthrough_programs, "OPTIONS", ("--port", "none"))
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
