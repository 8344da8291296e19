"""Disks that are slow, full or failing, for the tests of what is stored."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support import SECONDS, held, no_sync


def full(*_: object, **__: object) -> Any:
    """Any call to a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """An fsync that can be held back, that can fail, and that counts."""

    def __init__(self) -> None:
        self.count = 0
        self.asked, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.failing: Callable[[int], bool] = lambda number: False  # gets the number of the call since `fail`
        self._since = 0

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        self.asked.set()
        self.gate.wait()
        self._since += 1
        if self.failing(self._since):
            full()

    def hold(self) -> None:
        self.asked.clear()
        self.gate.clear()

    def fail(self, when: Callable[[int], bool] = lambda number: True) -> None:
        self._since, self.failing = 0, when

    def mend(self) -> None:
        self.failing = lambda number: False


class Faults:
    """Counts what a store or a journal asks of the disk, and lets it fail at the calls for which `failing` says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.failing: Callable[[int], bool] = lambda number: False
        for name in ("open", "replace", "unlink", "chmod", "link"):
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))
        self.real_write = os.write
        monkeypatch.setattr(os, "write", self.write)
        self.fsync = self.wrapped(no_sync)

    def point(self) -> bool:
        self.count += 1
        return self.failing(self.count)

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values, **options: full() if self.point() else function(*values, **options)

    def write(self, descriptor: int, data: bytes) -> int:
        """A disk that fills up takes a part first."""
        failing = self.point()
        written = self.real_write(descriptor, data[: len(data) // 2] if failing else data)
        return full() if failing else written

    def fail(self, first: int, ever_after: bool) -> None:
        self.count, self.failing = 0, lambda number: number >= first if ever_after else number == first

    def mend(self) -> None:
        self.failing = lambda number: False


def together(disk: Disk, first: Callable[[], Any], *others: Callable[[], Any]) -> list[Future[Any]]:
    """Call `first`, and while the disk makes it wait, all the others."""
    disk.hold()
    barrier = threading.Barrier(len(others) + 1)

    def call(function: Callable[[], Any]) -> Any:
        barrier.wait(SECONDS)
        return function()

    with ThreadPoolExecutor(len(others) + 1) as pool, held(disk.gate):
        futures = [pool.submit(first)]
        assert disk.asked.wait(SECONDS)
        futures += [pool.submit(call, other) for other in others]
        barrier.wait(SECONDS)
        threading.Event().wait(0.03)  # they are on their way to the queue, which nobody can see from here
    return futures
