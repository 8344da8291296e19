"""Fixtures for all test modules; what they are made of is in support.py."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk
from support import SECONDS, Listener, Pair, held


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=2_000, metavar="N", help="mutated requests for each server (2000)")


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A receiver that answers 204, until the test sets `answer`."""
    with Listener() as it:
        yield it


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """An exposee in this process, on a free port, with an empty store."""
    with Pair(tmp_path) as it:
        yield it


@pytest.fixture
def disk() -> Iterator[Disk]:
    """An fsync for a store or a journal, which fails and waits as it is told."""
    it = Disk()
    with held(it.gate):
        yield it


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, with 32 KiB taken by a file `ballast`."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root can mount a small file system")
    try:
        (folder / "ballast").write_bytes(b"x" * 32_768)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=SECONDS)
