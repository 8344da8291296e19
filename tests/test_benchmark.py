"""The benchmark still works, and leaves nothing behind; and what it shows of the exposee is not shameful."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import pytest
from support import ROOT, Program, eventually

SECONDS = 120.0  # for a quick run on a machine that is busy with other things
COMMAND = ("tests/tools/benchmark.py", "--quick")


class Run(NamedTuple):
    cells: list[list[str]]  # of each row of the table, without its head
    progress: str
    svg: str
    left: list[str]  # files that are still there
    processes: str  # that are still there


def environment(folder: Path) -> dict[str, str]:
    return {"TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8"}


def processes(folder: Path) -> list[str]:
    """The processes that a run has started: each of them works in a folder of its own below this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.readlink(process / "cwd")
        except OSError:
            continue  # it has ended, or belongs to another user
        if inside.startswith(str(folder)):
            found.append(process.name)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, svg = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("svg") / "plot.svg"
    done = subprocess.run(
        [sys.executable, *COMMAND, "--svg", str(svg)],
        cwd=ROOT,
        env={**os.environ, **environment(folder), "PYTHONWARNINGS": "error"},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1] == "|---|---:|---|---:|---:|---|"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]
    left = [path.name for path in folder.iterdir()]
    return Run(cells[1:], done.stderr, svg.read_text("utf-8"), left, " ".join(processes(folder)))


def value(run: Run, what: str, against: str = "") -> float:
    """The ratio in the first row of this name."""
    (ratio, *_) = (cells[4] for cells in run.cells if cells[0] == what and against in cells[2])
    return float(ratio.removeprefix("over "))


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        "1 event to 50 URLs",
        "the same, signed",
        "100 events to 1 URL, delivered",
        "the same, accepted",
        "20 registrations",
        "a registration with 1,000 stored",
        "a delivery with 1,000 webhooks stored",
        "a delivery with 500 in the journal",
        "one with 500 messages in the history",
        "5 events, 20 URLs of which 10 hang: the other 10",
        "p95 of latency: 1 of 50 ms beside 20 of 9 s",
        "p95 of latency: 1 of 1 ms beside 100 that hang",
        "p95 of latency: 4 of 1 ms beside 5 with a TLS handshake each time",
        "p95 of latency: 1 of 1 ms beside 4 names that hang in the resolver",
        "p95 of latency: 1 of 1 ms beside 250 that refuse and are pinged",
        "p95 of latency: 1 of 1 ms beside 50 that answer 410",
        "`GET /health` every 20 ms beside 200 deliveries",
        "200 deliveries beside a reader of the stream",
        "200 deliveries with `--raw`",
        "memory after fan-out and stream",
        "start to first connection",
    ],
)
def test_each_scenario_has_a_row_with_a_ratio(run: Run, what: str) -> None:
    assert 0.0 < value(run, what) < 1_000.0


@pytest.mark.slow
def test_every_row_has_two_figures_and_says_which_ratio_is_good(run: Run) -> None:
    for what, ours, against, theirs, ratio, better in run.cells:
        for figure in (ours, theirs):
            assert re.fullmatch(r"(over )?[\d,.]+(/s| (s|ms|µs|MiB))", figure), what
        assert re.fullmatch(r"(over )?\d+\.\d\d", ratio), what
        assert against and better in ("high", "low"), what


@pytest.mark.slow
def test_progress_says_when_and_what(run: Run) -> None:
    lines = run.progress.splitlines()
    assert all(re.match(r" +\d+ s  \S", line) for line in lines)
    assert "round 1 of 1, the limit" in run.progress and lines[-1].endswith("done")


@pytest.mark.slow
def test_the_plot_is_xml_with_three_lines_and_named_axes(run: Run) -> None:
    root = ElementTree.fromstring(run.svg)
    namespace = "{http://www.w3.org/2000/svg}"
    lines = [line.attrib["points"].split() for line in root.iter(f"{namespace}polyline")]
    texts = ["".join(text.itertext()) for text in root.iter(f"{namespace}text")]
    assert [len(points) for points in lines] == [2, 2, 2]
    assert {"webhooks stored", "milliseconds", "a delivery", "a registration"} <= set(texts)


@pytest.mark.slow
def test_nothing_is_left_behind(run: Run) -> None:
    assert (run.left, run.processes) == ([], "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "stage"), [(signal.SIGINT, "deliveries in the journal"), (signal.SIGTERM, "of 50 ms beside")]
)
def test_nothing_is_left_behind_by_an_interrupted_run(tmp_path: Path, number: int, stage: str) -> None:
    with Program(*COMMAND, env=environment(tmp_path)) as program:
        program.wait_for(stage)
        eventually(lambda: len(processes(tmp_path)) >= 2, "that sink and exposee run")
        assert program.stop(number) == 130
        assert program.lines[-1] == "interrupted"
    assert (list(tmp_path.iterdir()), processes(tmp_path)) == ([], [])


@pytest.mark.slow
def test_the_exposee_delivers_faster_than_a_naive_sender(run: Run) -> None:
    assert value(run, "1 event to 50 URLs", "urlopen in a thread pool") > 1.0
