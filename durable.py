"""How bytes get onto the disk so that they survive: for both files, webhooks.json (store.py) and the journal.

Nobody is told "done" before the bytes are on the disk (fsync), and after a crash at any moment there is a whole
file: a new content is written to a second file, which then takes the first one's name in one step.

An fsync costs a thousand times what a request does, so requests that come together share one: see GroupCommit.

Left out on purpose: a database. SQLite would do all of this; here you can see how.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Generic, TypeVar

Fsync = Callable[[int], None]  # os.fsync, or what a test puts in its place
Item = TypeVar("Item")

CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)  # Windows would write CR LF for LF


class StoreError(Exception):
    """The disk did not do what we need, or a file is not what it should be; str() is one line for a person."""


class ReplacedFile:
    """A file that gets a new content in one step: a reader, or a crash, meets the old one or the new one."""

    def __init__(self, path: Path, fsync: Fsync, mode: int = 0o644) -> None:
        self._path, self._fsync, self._mode = path, fsync, mode
        self._temporary = f"{path}.tmp"  # always the same: what a crash leaves is written over
        # Kept open, as to open it each time makes a replacement 6 % slower. Windows has no such thing.
        self._directory = None if os.name == "nt" else os.open(path.parent, os.O_RDONLY)

    def replace(self, data: bytes | bytearray) -> None:
        """Write a second file, sync it, give it the name, sync the directory.

        After an OSError the old content is there, or the new one, if the directory was what could not be synced.
        """
        try:
            self._write(data)
            self._rename()
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            raise
        self.sync_directory()

    def _write(self, data: bytes | bytearray) -> None:
        descriptor = os.open(self._temporary, CREATE, self._mode)
        try:
            write_all(descriptor, data)
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, self._mode)  # it may have been there already
            self._fsync(descriptor)
        finally:
            os.close(descriptor)

    def _rename(self) -> None:
        """os.replace; on Windows it fails while anybody, an indexer say, has the file open: try for a second."""
        for _ in range(10 if os.name == "nt" else 0):
            try:
                return os.replace(self._temporary, self._path)
            except PermissionError:
                time.sleep(0.1)
        os.replace(self._temporary, self._path)

    def sync_directory(self) -> None:
        """Sync the directory that holds the file: a new name is not on the disk before that."""
        if self._directory is not None:
            self._fsync(self._directory)

    def close(self) -> None:
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write all of `data`: a disk that fills up takes a part, and says so only at the next call."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


def lock(path: Path) -> IO[bytes]:
    """A file beside `path` that one process can hold; the system lets go of it when the process ends, however."""
    try:
        file = open(path.with_suffix(".lock"), "ab")  # the lock lasts as long as it is open
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StoreError(f"{path}: another exposee has it; stop that one, or put --store in another folder") from None
    return file


# --- many threads, one disk -----------------------------------------------------------------------------------


class _Waiting(Generic[Item]):
    __slots__ = ("item", "done", "error", "wake")

    def __init__(self, item: Item) -> None:
        self.item, self.done = item, False
        self.error: Exception | None = None
        self.wake = threading.Lock()
        self.wake.acquire()  # released when it is done, or when it is its turn to write


class GroupCommit(Generic[Item]):
    """Many threads, one disk: whoever comes first writes, and then one of those who came meanwhile for all of them.

    `write` gets the items of a group. What it raises is raised for everybody in that group.
    """

    def __init__(self, write: Callable[[list[Item]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()  # guards the two below
        self._queue: list[_Waiting[Item]] = []
        self._writing = False
        self.turn = threading.Lock()  # held by whoever touches the file

    def commit(self, item: Item) -> None:
        """Return once `item` has been written, by this thread or by another."""
        mine = _Waiting(item)
        with self._lock:
            self._queue.append(mine)
            wait, self._writing = self._writing, True
        if wait:
            mine.wake.acquire()
        if not mine.done:
            self._write_group()
        if mine.error:
            raise mine.error

    def _write_group(self) -> None:
        with self.turn:
            with self._lock:
                group, self._queue = self._queue, []
            error = self._try([waiting.item for waiting in group])
        with self._lock:
            following = self._queue[0] if self._queue else None
            self._writing = following is not None
        for waiting in group:
            waiting.error, waiting.done = error, True
            waiting.wake.release()
        if following:
            following.wake.release()  # all wake at once, instead of one after the other at the door

    def _try(self, items: list[Item]) -> Exception | None:
        try:
            self._write(items)
        except OSError as problem:
            return StoreError(f"{problem.strerror or problem}: nothing was stored, try again later")
        except Exception as problem:  # a bug, but not one that may look like success to the others
            return problem
        return None
