"""What the post office has accepted and done: deliveries.jsonl, a journal that grows at its end.

A crash can harm no more than its last line, which nobody has been told of. When the file has grown to twice
what is worth keeping, it is replaced by one that has nothing else, in one step (durable.py).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from durable import Fsync, GroupCommit, ReplacedFile, StoreError, lock, write_all

COMPACT_BYTES = 33_554_432  # a journal below this is not worth compacting; it holds some 100,000 deliveries


class Journal:
    """Records, one JSON object a line, appended. messages.py writes them, history.py reads them.

    `commit` waits for the disk, `note` does not: its records go with the next commit or `flush`.
    """

    def __init__(self, path: str | Path, fsync: Fsync = os.fsync) -> None:
        self.path = Path(path)
        self._fsync = fsync
        self._notes: dict[object, bytes] = {}
        self._commits: GroupCommit[tuple[bytes, Callable[[], None]]] = GroupCommit(self._write)
        self._lock_file = lock(self.path)
        self._whole = ReplacedFile(self.path, fsync, mode=0o600)
        try:
            self._open()
            self._whole.sync_directory()
        except OSError as error:
            self._whole.close()
            self._lock_file.close()
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._compacted_size = 0
        self._closed = False
        self.warning: str | None = None  # what `read` had to say about the last line

    def read(self) -> Iterator[dict[str, Any]]:
        """The records, oldest first; to be exhausted before anything is written.

        A last line that a crash has torn is cut off, and `warning` says so. StoreError for any other line
        that is not a record.
        """
        good = 0
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                record = _record(line)
                if record is not None:
                    good += len(line)
                    yield record
                elif good + len(line) == self._size:
                    self.warning = f"{self.path}, line {number}: torn by a crash, dropped"
                    self._cut(good)
                else:
                    raise StoreError(f"{self.path}, line {number}: not a record; mend it, or move the file away")

    def commit(self, record: bytes, accepted: Callable[[], None] = lambda: None) -> None:
        """Append a record and return once it is on the disk.

        `accepted` is called between the two, so that nobody compacts the journal without the record. StoreError
        when the disk refused; then no part of the record is in the file.
        """
        self._commits.commit((record, accepted))

    def note(self, key: object, record: bytes) -> None:
        """Append a record with the next commit or `flush`."""
        self._notes[key] = record

    def flush(self) -> bool:
        """Write the notes, without waiting for the disk. A disk that refuses keeps them for later."""
        if self._notes:
            with self._commits.turn:
                try:
                    if not self._file.closed:
                        self._append([])
                except OSError:
                    return False
        return True

    def compact(self, records: Callable[[], Iterable[bytes]]) -> None:
        """If the file has grown to twice its size, replace it by `records()`, in one step.

        Nothing is committed meanwhile. A note that is made meanwhile goes to the new file.
        """
        if self._torn or self._size < max(COMPACT_BYTES, 2 * self._compacted_size):
            return
        with self._commits.turn:
            if self._closed:
                return
            data = b"".join(records())
            self._file.close()  # Windows replaces no file that is open
            with contextlib.suppress(OSError):  # no room for a second file: then not again soon
                self._whole.replace(data)
            self._compacted_size = self._size
            with contextlib.suppress(OSError):  # the next commit tries again
                self._open()
                self._compacted_size = self._size

    def _open(self) -> None:
        self._file = open(self.path, "ab", buffering=0, opener=_private)
        self._size = self._file.seek(0, os.SEEK_END)
        self._torn = False  # whether there are bytes after `_size` that a failure has left

    def close(self) -> None:
        """Write and sync what is left."""
        with self._commits.turn:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError, ValueError):
                self._append([])
                self._fsync(self._file.fileno())
            self._file.close()
            self._whole.close()
            self._lock_file.close()

    def _write(self, group: list[tuple[bytes, Callable[[], None]]]) -> None:
        """Append and sync a group of records; GroupCommit's write."""
        if self._closed:
            raise OSError("the exposee is shutting down")
        if self._file.closed:
            self._open()  # which failed after compacting
        before = self._size
        notes = self._append([record for record, _ in group])
        try:
            self._fsync(self._file.fileno())
        except OSError:
            self._cut(before + notes)
            raise
        for _, accepted in group:
            accepted()

    def _append(self, records: list[bytes]) -> int:
        """Write the notes and then `records`, or leave the file as it was; the bytes of the notes."""
        if self._torn:
            os.truncate(self._file.fileno(), self._size)  # or nothing is written: it would be glued to what is torn
            self._torn = False
        waiting, self._notes = self._notes, {}
        notes = b"".join(waiting.values())
        data = notes + b"".join(records)
        try:
            write_all(self._file.fileno(), data)
        except OSError:
            self._notes = {**waiting, **self._notes}
            self._cut(self._size)
            raise
        self._size += len(data)
        return len(notes)

    def _cut(self, size: int) -> None:
        """Let the file end here. A disk that refuses even that leaves it torn, until the next `_append`."""
        self._size, self._torn = size, True
        with contextlib.suppress(OSError):
            os.truncate(self._file.fileno(), size)
            self._torn = False


def _private(name: str, flags: int) -> int:
    """An opener for files that nobody else may read."""
    return os.open(name, flags, 0o600)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
