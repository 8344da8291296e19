"""Fixtures for all test modules; what they are made of is in support.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Listener, Pair


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
