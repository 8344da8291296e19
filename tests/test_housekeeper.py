"""When the housekeeper works. What it does is in test_delivery.py (410 Gone), test_journal.py and test_crash.py."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import SECONDS, Desk

import housekeeper
from housekeeper import Housekeeper

Make = Callable[[Callable[[], bool]], Housekeeper]


@pytest.fixture
def lines() -> queue.Queue[str]:
    """What the housekeeper logs."""
    return queue.Queue()


@pytest.fixture
def make(tmp_path: Path, lines: queue.Queue[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a housekeeper that runs, with this work."""
    def start(work: Callable[[], bool]) -> Housekeeper:
        keeper = Housekeeper(desk.dispatcher)
        monkeypatch.setattr(keeper, "work", work)
        keeper.start()
        return keeper

    with Desk(tmp_path, log=lines.put) as desk:
        yield start


def test_it_pauses_after_the_disk_has_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it is woken, as each 410 does: else a full disk costs a core."""
    calls: queue.Queue[int] = queue.Queue()
    outcome = [False]

    def work() -> bool:
        calls.put(1)
        return outcome[0]

    monkeypatch.setattr(housekeeper, "PAUSE_SECONDS", 600.0)
    keeper = make(work)
    calls.get(timeout=SECONDS)
    for number in range(20):
        keeper.unregister(f"http://{number}.example/")
        with pytest.raises(queue.Empty):
            calls.get(timeout=0.005)
    outcome[0] = True
    keeper.close()  # ends the pause
    assert calls.get(timeout=SECONDS)


def test_it_works_at_once_for_a_url_that_is_gone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(housekeeper, "FLUSH_SECONDS", 600.0)

    def work() -> bool:
        calls.put(1)
        return True

    keeper = make(work)
    for number in range(3):
        calls.get(timeout=SECONDS)
        keeper.unregister(f"http://{number}.example/")
    keeper.close()


def test_it_says_what_went_wrong_and_goes_on(
    make: Make, lines: queue.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeper, "PAUSE_SECONDS", 0.01)
    calls, done = iter([1, 2]), threading.Event()

    def work() -> bool:
        if next(calls, None):
            raise RuntimeError("a bug")
        done.set()
        return True

    keeper = make(work)
    assert done.wait(SECONDS)
    assert "a bug" in lines.get(timeout=SECONDS)
    keeper.close()
