"""What is accepted and done, one JSON object a line: a journal that grows at its end, and starts anew when it must.

Each write begins with a mark, which says that all before it is on the disk. A crash can harm only what comes after the
last mark, and nobody has been told of that: it is dropped at the next start.
"""

from __future__ import annotations

import contextlib
import errno
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
from messages import DELIVERING, PENDING, STATES, Attempt, Delivery, Message
from strict_json import to_json

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
            self._fsync(self._file)  # what a kill has left unsynced, as the first mark will say of it that it is synced
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
                    if any(later.startswith(b'{"synced"') for later in lines):
                        raise StoreError(f"{where}: not a record; mend it, or move the file away")
                    self.warning = f"{where}: torn by a crash, dropped ({self._size - offset:,} bytes)"
                    self._size = offset
                    return
                offset += len(line)
                if "synced" not in record:
                    yield record

    def commit(self, record: bytes, accepted: Callable[[], None] = lambda: None) -> None:
        """Return when a record and all earlier notes are on the disk.

        `accepted` is called then, before the journal can be compacted. StoreError: it is not in the file, or may be.
        """
        self._commits.commit((record, accepted))

    def flush(self) -> None:
        """Return when all notes are on the disk. StoreError."""
        self.commit(b"")

    def note(self, key: Hashable, record: bytes) -> None:
        """Append a record with the next `commit` or `flush`, in place of one of the same key that waits for it."""
        with self._noting:
            self._notes[key] = record

    def compact(self, records: Callable[[], Iterable[bytes]]) -> None:
        """If the file has doubled, or somebody has removed or changed it, replace it by `records()`.

        Commits and notes of the meantime go to the new file.
        """
        if self._size >= max(COMPACT_BYTES, 2 * self._compacted_size) or not self._is_whole():
            with contextlib.suppress(OSError), self._commits.turn():
                self._replace(records())
            self._compacted_size = self._size  # also if it failed: it is tried again when the file has doubled

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
        if not self._is_whole():  # what is written to it now would be gone with the next start
            raise OSError(errno.ENOENT, f"{self.path.name} was removed or changed")
        with self._noting:
            notes, self._notes = self._notes, {}
        data = b"".join([*notes.values(), *records])
        if not data:
            return
        try:
            if os.fstat(self._file).st_size != self._size:  # an unfinished write has left something
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

    def _is_whole(self) -> bool:
        """Whether nobody has removed the file, put another one in its place, or emptied it."""
        with contextlib.suppress(OSError):
            least, found = self._size, os.stat(self.path)  # in this order: another thread may write
            return found.st_size >= least and (WINDOWS or os.path.samestat(found, os.fstat(self._file)))
        return False

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


# --- the two kinds of records: a message with its URLs; the state of a delivery, whose last record counts -------------


def message_record(message: Message, urls: list[str]) -> bytes:
    """A message and its URLs. An empty URL stands for a delivery that is forgotten."""
    key = [message.key, len(urls) or message.count, message.fingerprint]
    more = f', "key": {json.dumps(key)}' if message.key else ""
    body = to_json(message.body.decode())  # as a text: what is sent again are the same bytes
    return (
        f'{{"message": "{message.id}", "event": "{message.event}", "time": {message.time!r}, '
        f'"urls": {json.dumps(urls)}, "body": {body}{more}}}\n'
    ).encode()


def delivery_record(delivery: Delivery) -> bytes:
    """Where a delivery stands. By hand it takes a third of json.dumps' time."""
    state = PENDING if delivery.state == DELIVERING else delivery.state  # an attempt does not outlive its process
    more = ', "manual": true' if delivery.manual else ""
    more += ', "confirmed": true' if delivery.confirmed else ""
    more += f', "error": {json.dumps(delivery.error)}' if delivery.error else ""
    attempts = ""
    for a in delivery.attempts:
        attempts += f", [{a.time!r}, {a.duration:.6f}, {a.status}, {json.dumps(a.error) if a.error else 'null'}]"
    return (
        f'{{"delivery": "{delivery.id}", "state": "{state}", "due": {delivery.due!r}, "tries": {delivery.tries}, '
        f'"count": {delivery.count}{more}, "attempts": [{attempts[2:]}]}}\n'
    ).encode()


def message_of(record: dict[str, Any]) -> Message:
    """The message of a record. KeyError, TypeError, ValueError, AttributeError: it is no record of ours."""
    if not all(isinstance(text, str) for text in (record["message"], record["event"], *record["urls"])):
        raise TypeError("not texts")
    message = Message(record["message"], record["event"], float(record["time"]), record["body"].encode())
    if "key" in record:
        message.key, message.count, message.fingerprint = record["key"]
    return message


def restore(delivery: Delivery, record: dict[str, Any]) -> None:
    """Let a delivery stand where its record says. KeyError, TypeError, ValueError: it is no record of ours."""
    if record["state"] not in STATES:
        raise ValueError("an unknown state")
    delivery.attempts = tuple(Attempt(*values) for values in record["attempts"])
    delivery.due, delivery.tries, delivery.count = float(record["due"]), int(record["tries"]), int(record["count"])
    delivery.error, delivery.state = record.get("error"), record["state"]
    delivery.manual, delivery.confirmed = record.get("manual", False), record.get("confirmed", False)


def compacted(messages: list[Message], over: list[Delivery]) -> Iterator[bytes]:
    """The records of a journal that starts anew; what is `over` comes last, in the order given.

    Needs no lock: a delivery that changes meanwhile has a note of its own, which comes later in the journal.
    """
    ended = set(over)
    for message in messages:
        deliveries = list(message.deliveries)
        yield message_record(message, [delivery.url if delivery else "" for delivery in deliveries])
        yield from map(delivery_record, (d for d in deliveries if d and d not in ended))
    yield from map(delivery_record, over)
