"""What is accepted and done, one JSON object a line: a journal that grows at its end, and starts anew when it must.

A line {"synced": N} says that the first N bytes are on the disk. A crash can harm only what comes after them, and
nobody has been told of that: it is dropped at the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

from durable import APPEND, WINDOWS, Fsync, GroupCommit, ReplacedFile, StoreError, lock_descriptor

COMPACT_BYTES = 33_554_432  # a smaller journal is not worth compacting; this one has some 100,000 deliveries


class Journal:
    """Records as bytes, each a line with its end. `commit` waits for the disk, `note` does not.

    Locks, in the order in which a thread may take them: the turn of `_commits` (`accepted` and `records` are called
    under it), then the dispatcher's, then `_noting` (`note` may be called under either).
    """

    def __init__(self, path: str | Path, fsync: Fsync = os.fsync) -> None:
        self.path, self._fsync = Path(path), fsync
        self.warning: str | None = None  # of `read`
        self.line = 0  # of the record that `read` gave last
        self._commits: GroupCommit[tuple[bytes, Callable[[], None]]] = GroupCommit(self._write)  # its turn: the file
        self._noting = threading.Lock()  # guards `_notes`
        self._notes: dict[Hashable, bytes] = {}
        self._whole = ReplacedFile(self.path, fsync, mode=0o600)
        self._synced = self._compacted_size = 0
        try:
            self._file = self._open()
            self._size = os.fstat(self._file).st_size  # without what a failed write has left after it
            self._whole.sync_directory()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _open(self) -> int:
        """Also locks the file, in case somebody has removed the lock beside it. Windows removes no open file."""
        descriptor = os.open(self.path, APPEND, 0o600)
        if not WINDOWS:
            lock_descriptor(descriptor, self.path)
        return descriptor

    def read(self) -> Iterator[dict[str, Any]]:
        """The records, oldest first; to be exhausted before anything is written.

        A line that is no record stops it with StoreError if it was synced. Else it and the rest are dropped: `warning`.
        """
        offset = synced = 0
        with open(self.path, "rb") as lines:
            for self.line, line in enumerate(lines, 1):
                record = _record(line)
                if record is None:
                    later = [_record(line) for line in lines]
                    synced = max(synced, *map(_mark, later), 0)
                    mended = any(later) and b"\0" not in line  # no crash leaves that; without a mark, a hand has
                    if synced > offset or mended and not synced:
                        raise StoreError(f"{self.path}, line {self.line}: not a record; mend it, or move the file away")
                    dropped = f"torn by a crash, dropped ({self._size - offset:,} bytes)"
                    self.warning = f"{self.path}, line {self.line}: {dropped}"
                    self._size = offset
                    with contextlib.suppress(OSError):  # else the next write does it
                        os.truncate(self._file, offset)
                    return
                offset += len(line)
                synced = max(synced, _mark(record))
                if not _mark(record):
                    yield record

    def commit(self, record: bytes, accepted: Callable[[], None] = lambda: None) -> None:
        """Append a record, and return when it is on the disk, and all earlier notes (b"" is for them alone).

        `accepted` is called then, before the journal can be compacted. After a StoreError the record is not in the file,
        unless the message says that it may be.
        """
        self._commits.commit((record, accepted))

    def note(self, key: Hashable, record: bytes) -> None:
        """Append a record with the next `commit` or `flush`, in place of one of the same key that waits for it."""
        with self._noting:
            self._notes[key] = record

    def flush(self) -> bool:
        """Write the notes, without waiting for the disk. False when it refused them: they are kept."""
        with self._commits.turn, contextlib.suppress(OSError, StoreError):
            if not self._commits.closed:
                self._append([], sync=False)
            return True
        return False

    def compact(self, records: Callable[[], Iterable[bytes]]) -> None:
        """If the file has doubled, replace it by `records()`. Commits and notes of the meantime go to the new file."""
        if self._size >= max(COMPACT_BYTES, 2 * self._compacted_size):
            with self._commits.turn:
                if not self._commits.closed:
                    self._replace(records())

    def close(self) -> None:
        """Write and sync the notes; after that a commit is refused."""
        with self._commits.turn:
            if self._commits.closed:
                return
            self._commits.closed = True
            with contextlib.suppress(OSError, StoreError):
                self._append([], sync=True)
            with contextlib.suppress(OSError):
                os.close(self._file)

    # In one thread at a time, which has the turn

    def _write(self, group: list[tuple[bytes, Callable[[], None]]]) -> None:
        self._append([record for record, _ in group], sync=True)
        for _, accepted in group:
            accepted()

    def _append(self, records: list[bytes], sync: bool) -> None:
        """Write the notes and then `records`; or leave the file as it was, and keep the notes."""
        if self._file < 0:
            self._file = self._open()
        if os.fstat(self._file).st_size > self._size:
            os.truncate(self._file, self._size)  # a failed write has left something
        if self._whole.replaced:
            self._whole.sync_directory()  # which may have failed when the file was compacted
            self._whole.replaced = False
        with self._noting:
            notes, self._notes = self._notes, {}
        data = b"".join([*notes.values(), *records])
        if sync and self._synced:
            data = b'{"synced": %d}\n' % self._synced + data
        try:
            rest = data
            while rest:  # a disk that fills up takes a part, and only the next call fails
                rest = rest[os.write(self._file, rest) :]
            if sync:
                self._fsync(self._file)
        except OSError as error:
            with self._noting:
                self._notes = {**notes, **self._notes}
            try:
                os.truncate(self._file, self._size)
            except OSError:
                raise StoreError(f"{error.strerror}: it may have been stored; try again later") from None
            raise
        self._size += len(data)
        self._synced = self._size if sync else self._synced

    def _replace(self, records: Iterable[bytes]) -> None:
        """Replace the file. The new one is locked before it takes the name, and appended to from then on."""
        new: list[int] = []

        def keep(descriptor: int) -> None:
            if not WINDOWS:
                new.append(os.dup(descriptor))
                lock_descriptor(new[0], self.path)

        if WINDOWS:  # it replaces no open file; the next write opens the new one
            os.close(self._file)
            self._file = -1
        with contextlib.suppress(OSError):  # no room for a second file: not again before the first has doubled
            self._whole.replace(records, keep)
        if self._whole.replaced:
            self._size = self._synced = os.stat(self.path).st_size
            new.append(self._file)
            self._file = new.pop(0)
        for descriptor in new:
            os.close(descriptor)  # the old file, or a new one that did not get the name
        self._compacted_size = self._size


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _mark(record: dict[str, Any] | None) -> int:
    """The N of {"synced": N}; 0 for any other record."""
    n = record.get("synced") if record and len(record) == 1 else 0
    return n if isinstance(n, int) else 0
