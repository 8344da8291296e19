"""How bytes reach the disk so that they survive, for webhooks.json (store.py) and for the journal (journal.py).

A caller hears "done" only after an fsync. A file is not written over: a second one with the new content takes its
name in one step, so a crash leaves the old content or the new. An fsync takes a thousand times as long as a request,
so callers that come together share one. Left out on purpose: a database. SQLite would do all of this; here you see how.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

Fsync = Callable[[int], None]  # os.fsync, or a test's replacement
Item = TypeVar("Item")

WINDOWS = sys.platform == "win32"
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows would write CR LF for LF


class StoreError(Exception):
    """The disk refused a change, or a file is not as expected; str() is one line for a person."""


class ReplacedFile:
    """A file whose content changes in one step. A file that exists keeps its mode; a new one gets `mode` less umask."""

    def __init__(self, path: Path, fsync: Fsync, mode: int = 0o666) -> None:
        self._path, self._fsync, self._mode = path, fsync, mode
        self._temporary = f"{path}.tmp"
        self.replaced = False  # set once the file has a new content, even if `replace` then fails; the owner clears it

    def replace(self, data: Iterable[bytes], before_rename: Callable[[int], None] = lambda descriptor: None) -> None:
        """Write a second file, sync it, let `before_rename` have its descriptor, rename it, sync the directory.

        After an OSError the old content is there; but if `replaced` is set, a crash may leave either.
        """
        try:
            self._write(data, before_rename)
            self._rename()
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            raise
        self.replaced = True
        self.sync_directory()

    def _write(self, data: Iterable[bytes], before_rename: Callable[[int], None]) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)  # left by a crash, perhaps with another mode
        descriptor = os.open(self._temporary, APPEND | os.O_EXCL, self._mode)
        with open(descriptor, "wb", 1_048_576) as file:  # few and large writes: 8 % faster
            if hasattr(os, "fchmod"):
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(descriptor, stat.S_IMODE(os.stat(self._path).st_mode))
            file.writelines(data)
            file.flush()
            self._fsync(descriptor)
            before_rename(descriptor)

    def _rename(self) -> None:
        for _ in range(10 if WINDOWS else 0):  # it refuses while any program, an indexer say, has the file open
            with contextlib.suppress(PermissionError):
                return os.replace(self._temporary, self._path)
            time.sleep(0.1)
        os.replace(self._temporary, self._path)

    def sync_directory(self) -> None:
        """Sync the directory of the file, which holds its name. Windows cannot do that."""
        if not WINDOWS:
            descriptor = os.open(self._path.parent, os.O_RDONLY)
            try:
                self._fsync(descriptor)
            finally:
                os.close(descriptor)


def lock(path: Path) -> int:
    """The descriptor of a locked file beside `path`, in a folder that is made if there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), APPEND, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from None
    lock_descriptor(descriptor, path)
    return descriptor


def lock_descriptor(descriptor: int, path: Path) -> None:
    """Lock an open file until it is closed or this process ends; StoreError, which names `path`, if another has it."""
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


class _Waiting(Generic[Item]):  # a call of `commit`
    def __init__(self, item: Item) -> None:
        self.item, self.written = item, False
        self.error: Exception | None = None
        self.wake = threading.Lock()  # released when the item is written, or when its thread is to write the next group
        self.wake.acquire()


class GroupCommit(Generic[Item]):
    """One thread writes its item; all items that come meanwhile are the next group, which one of their threads writes.

    An exception of `write` is raised in every thread of the group. Without the queue, with one lock that all wait for,
    16 threads have less than half the speed: newcomers take the lock, and the groups are of 2 items instead of 9.
    """

    def __init__(self, write: Callable[[list[Item]], None]) -> None:
        self._write = write
        self.turn = threading.Lock()  # held by whoever touches the file; taken before _lock
        self.closed = False  # set with `turn` held: nothing is written any more
        self._lock = threading.Lock()  # guards the two below
        self._queue: list[_Waiting[Item]] = []
        self._writing = False  # whether a thread writes, or has been woken to write

    def commit(self, item: Item) -> None:
        """Return once `item` is written, by this thread or another. StoreError when the disk refused it."""
        mine = _Waiting(item)
        with self._lock:
            self._queue.append(mine)
            wait, self._writing = self._writing, True
        if wait:
            mine.wake.acquire()
        if not mine.written:
            self._write_group()
        if mine.error:
            raise mine.error

    def _write_group(self) -> None:
        error: Exception | None = None
        with self.turn:
            with self._lock:
                group, self._queue = self._queue, []
            try:
                if self.closed:
                    raise OSError("the exposee is shutting down")
                self._write([waiting.item for waiting in group])
            except OSError as problem:
                error = StoreError(f"{problem.strerror or problem}: nothing was stored, try again later")
            except Exception as problem:  # noqa: BLE001 - a StoreError that says more, or a bug, which must not look like success
                error = problem
        with self._lock:
            following = self._queue[:1]
            self._writing = bool(following)
        for waiting in group:
            waiting.error, waiting.written = error, True
        for waiting in group + following:  # all wake now, instead of one after the other
            waiting.wake.release()
