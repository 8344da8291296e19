"""What is accepted and done, one JSON object a line: a journal that grows at its end, and starts anew when it must.

Each write begins with a mark, which says that all before it is on the disk. A crash can harm only what comes after the
last mark, and nobody has been told of that: it is dropped at the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from durable import (
    APPEND,
    WINDOWS,
    Fsync,
    GroupCommit,
    StoreError,
    open_locked,
    opening,
    replacement,
    sync_directory,
    write_all,
)

MARK = b'{"synced": true}\n'
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
        # its turn is for the file
        self._commits: GroupCommit[tuple[bytes, Callable[[], None]], None] = GroupCommit(self._write)
        self._noting = threading.Lock()  # guards `_notes`
        self._notes: dict[Hashable, bytes] = {}
        self._compacted_size = 0
        with opening(self.path):
            self._file = self._open()
            self._size = os.fstat(self._file).st_size  # what an unfinished write has left comes after it

    def _open(self) -> int:
        """Open the file and sync its name, which a crash may undo otherwise.

        It is locked in case somebody removes the lock beside it. Windows removes no open file.
        """
        file = os.open(self.path, APPEND, 0o600) if WINDOWS else open_locked(self.path, self.path)
        try:
            sync_directory(self.path, self._fsync)
        except OSError:
            os.close(file)
            raise
        return file

    def read(self) -> Iterator[dict[str, Any]]:
        """The records, oldest first; to be exhausted before anything is written. StoreError for a broken line.

        A broken line without a mark after it was torn by a crash: it is dropped with all that follows, see `warning`.
        """
        offset = 0
        with open(self.path, "rb") as lines:
            for self.line, line in enumerate(lines, 1):
                record = _parse(line)
                if record is None:
                    where = f"{self.path}, line {self.line}"
                    if any(later.startswith(MARK[:9]) for later in lines):
                        raise StoreError(f"{where}: not a record; mend it, or move the file away")
                    self.warning = f"{where}: torn by a crash, dropped ({self._size - offset:,} bytes)"
                    self._size = offset
                    return
                offset += len(line)
                if "synced" not in record:
                    yield record

    def commit(self, record: bytes, accepted: Callable[[], None] = lambda: None) -> None:
        """Return when a record and all earlier notes are on the disk (b"" is for the notes alone).

        `accepted` is called then, before the journal can be compacted. StoreError: it is not in the file, or may be.
        """
        self._commits.commit((record, accepted))

    def note(self, key: Hashable, record: bytes) -> None:
        """Append a record with the next `commit`, in place of one of the same key that waits for it."""
        with self._noting:
            self._notes[key] = record

    def compact(self, records: Callable[[], Iterable[bytes]]) -> None:
        """If the file has doubled, replace it by `records()`. Commits and notes of the meantime go to the new file."""
        if self._size >= max(COMPACT_BYTES, 2 * self._compacted_size):
            with contextlib.suppress(OSError), self._commits.turn():
                self._replace(records())
            self._compacted_size = self._size  # also without room for a second file: not again before it has doubled

    def close(self) -> None:
        """Write and sync the notes; after that a commit is refused."""
        with contextlib.suppress(OSError, StoreError), self._commits.turn():
            self._commits.closed = True
            try:
                self._append([])
            finally:
                os.close(self._file)

    # With the turn

    def _write(self, group: list[tuple[bytes, Callable[[], None]]]) -> list[None]:
        self._append([record for record, _ in group])
        for _, accepted in group:
            accepted()
        return [None] * len(group)

    def _append(self, records: list[bytes]) -> None:
        """Write and sync the notes and then `records`; or leave the file as it was, and keep the notes."""
        if self._file < 0:
            self._file = self._open()
        with self._noting:
            notes, self._notes = self._notes, {}
        data = b"".join([*notes.values(), *records])
        if not data:
            return
        try:
            os.truncate(self._file, self._size)
            write_all(self._file, MARK + data)
            self._fsync(self._file)
        except OSError as error:
            with self._noting:
                self._notes = {**notes, **self._notes}
            try:
                os.truncate(self._file, self._size)
            except OSError:
                raise StoreError(f"{error.strerror}: it may have been stored; try again later") from None
            raise
        self._size += len(MARK) + len(data)

    def _replace(self, records: Iterable[bytes]) -> None:
        with replacement(self.path, chain(records, [MARK]), self._fsync, 0o600) as temporary:
            size = os.stat(temporary).st_size
            os.close(self._file)  # Windows replaces no open file
            self._file = -1  # if anything fails now, the next write opens what has the name
        self._size = size
        self._file = self._open()


def _parse(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, RecursionError):
        if line.endswith(b"\n") and isinstance(record := json.loads(line), dict):
            return record
    return None
