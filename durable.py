"""How bytes reach the disk so that they survive, for webhooks.json (store.py) and for the journal (journal.py).

A caller hears "done" only after an fsync. A file is not written over: a second one with the new content takes its
name in one step, so a crash leaves the old content or the new. An fsync takes a thousand times as long as a request,
so callers that come together share one. Left out on purpose: a database. SQLite would do all of this; here you see how.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

Fsync = Callable[[int], None]  # os.fsync, or a test's replacement
Item = TypeVar("Item")
Result = TypeVar("Result")

WINDOWS = sys.platform == "win32"
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows would write CR LF for LF


class StoreError(Exception):
    """The disk refused a change, or a file is not as expected; str() is one line for a person."""


@contextlib.contextmanager
def replacement(path: Path, pieces: Iterable[bytes | memoryview], fsync: Fsync, mode: int) -> Iterator[str]:
    """Write and sync a second file, whose name is given; the `with` block ends with its taking the name `path`.

    After an OSError the old content is there. A file that exists keeps its mode, a new one gets `mode` less umask.
    """
    temporary = f"{path}.tmp"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # left by a crash, perhaps with another mode
        descriptor = os.open(temporary, APPEND | os.O_EXCL, mode)
        try:
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(path, temporary)
            for piece in pieces:
                write_all(descriptor, piece)
            fsync(descriptor)
        finally:
            os.close(descriptor)
        yield temporary
        for _ in range(10 if WINDOWS else 0):  # it refuses while any program, an indexer say, has the file open
            with contextlib.suppress(PermissionError):
                return os.replace(temporary, path)
            time.sleep(0.1)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`: a disk that fills up takes a part, and only the next call fails."""
    while data:
        data = data[os.write(descriptor, data) :]


def sync_directory(path: Path, fsync: Fsync) -> None:
    """Sync the directory of a file, which holds its name: before, a crash may bring the old file back."""
    if not WINDOWS:  # it cannot do that
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def opening(path: Path, cannot: str = "cannot be written") -> Iterator[None]:
    """Make a StoreError of an OSError at the start."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {cannot}: {error.strerror}") from None


def open_locked(name: str | Path, path: Path) -> int:
    """The descriptor of a file, locked until it is closed or this process ends. StoreError, which names `path`."""
    descriptor = os.open(name, APPEND, 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreError(f"{path}: another exposee has it; stop that one, or name another --store") from None
    return descriptor


class GroupCommit(Generic[Item, Result]):
    """Items that come while others are written gather; the thread of the first of them writes them all together.

    `write` returns a result for each item, or the exception to be raised in its thread; what it raises itself is raised
    in every thread of the group. With one lock that all wait for instead, 16 threads have less than half the speed:
    newcomers take the lock, and the groups are of 2 items instead of 9.
    """

    def __init__(self, write: Callable[[list[Item]], Sequence[Result | Exception]]) -> None:
        self._write = write
        self._turn = threading.Lock()  # held by the thread that touches the file; taken before _lock
        self.closed = False  # set in a turn: nothing is written any more
        self._lock = threading.Lock()  # guards the next two
        self._items: list[Item] = []  # those that gather; once this is closed they stay, with the error in `_written`
        self._written: Future[Sequence[Result | Exception]] = Future()  # how it went with them

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Alone with the file. OSError once this is closed."""
        with self._turn:
            if self.closed:
                raise OSError("the exposee is shutting down")
            yield

    def commit(self, item: Item) -> Result:
        """Return once `item` is written, by this thread or another. StoreError when the disk refused it."""
        with self._lock:
            items, written, index = self._items, self._written, len(self._items)
            items.append(item)
        if index == 0:
            self._write_group(items, written)
        try:  # without `del`, an error and this frame refer to each other, and the item stays in memory for a while
            result = written.result()[index]
        finally:
            del written
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result
        return result

    def _write_group(self, items: list[Item], written: Future[Sequence[Result | Exception]]) -> None:
        try:
            with self.turn():
                with self._lock:
                    self._items, self._written = [], Future()
                results = self._write(items)
            written.set_result(results)
        except OSError as error:
            written.set_exception(StoreError(f"{error.strerror or error}: nothing was stored, try again later"))
        except Exception as error:  # noqa: BLE001 - a StoreError that says more, or a bug: no success
            written.set_exception(error)
