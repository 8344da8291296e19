"""The registered webhooks, in webhooks.json, and their secrets in a file beside it, so that the first can be shown.

Stage, write, swap: a change is made to a copy of the snapshot in memory; the copy is written; then it becomes the
snapshot, in one assignment. So readers need no lock, and a change that the disk refuses was never in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from durable import Fsync, GroupCommit, StoreError, open_locked, opening, replacement, sync_directory
from loading import Check, Edits, Secret, mark, read_secrets, read_webhooks

MAX_WEBHOOKS = 200_000
OVERLAP = 86_400.0  # seconds in which a secret that was replaced signs as well, unless its successor is replaced
MAX_BYTES = 33_554_432  # of webhooks.json: 200,000 URLs of 2,048 characters would have 420 MB, and more in memory

Clock = Callable[[], float]  # gives Unix time
Permit = Callable[[str | None], None]  # gets the secret that protects what would change, and raises to forbid that


class _Snapshot:
    """All webhooks and secrets at one moment. It changes only while it is staged, but for `text`, a cache."""

    def __init__(self, lines: dict[str, dict[str, bytes]], secrets: dict[str, Secret], text: bytearray) -> None:
        self.lines = lines  # of webhooks.json, by event type and URL
        self.secrets = secrets  # by URL; one without a webhook stays: an edit may have a typo
        self.text = text  # the lines, joined, to which `add` appends; empty after a removal

    def copy(self) -> _Snapshot:
        """The same to change."""
        lines = {event: urls.copy() for event, urls in self.lines.items()}
        return _Snapshot(lines, self.secrets.copy(), self.text.copy())

    def has(self, url: str) -> bool:
        return any(url in urls for urls in self.lines.values())

    def registered(self, url: str, event: str) -> bool:
        return url in self.lines.get(event, ())

    def secret(self, url: str) -> str | None:
        secret = self.secrets.get(url)
        return secret.value if secret and self.has(url) else None

    def pairs(self) -> Iterator[tuple[str, str]]:
        return ((url, event) for event, urls in self.lines.items() for url in urls)

    def count(self) -> int:
        return sum(map(len, self.lines.values()))

    def add(self, url: str, event: str) -> None:
        if not self.has(url):
            self.secrets.pop(url, None)  # one that was left in the file is not for whoever registers the URL now
        line = self.lines.setdefault(event, {})[url] = _line(url, event)
        if self.text:
            self.text += line

    def remove(self, url: str, events: Iterable[str]) -> int:
        gone = [self.lines[event].pop(url) for event in events if self.registered(url, event)]
        if gone:
            self.text = bytearray()
        if gone and not self.has(url):
            self.secrets.pop(url, None)
        return len(gone)

    def size(self) -> int:
        """Bytes of webhooks.json."""
        return sum(map(len, self.pieces()))

    def pieces(self) -> list[bytes | memoryview]:
        """webhooks.json, in parts. Each line begins with a comma; the first one's is left out."""
        if not self.text:
            self.text = bytearray().join(chain.from_iterable(urls.values() for urls in self.lines.values()))
        return [b"[", memoryview(self.text)[1:], b"\n]\n"] if self.text else [b"[]\n"]


def _line(url: str, event: str) -> bytes:
    """An entry of webhooks.json after the first, which has no comma."""
    return b",\n" + json.dumps({"url": url, "event": event}).encode()


Change = Callable[[_Snapshot], int]  # how many webhooks it has added or removed; it raises before it changes anything


class WebhookStore:
    """The webhooks, (url, event) pairs, and the secrets of URLs. All threads of one process may use it.

    StoreError when another process has the file, by whatever symbolic link, or when the file is not as expected.
    `log` gets a line for a person when somebody else has changed the file.
    """

    def __init__(
        self,
        path: str | Path,
        check: Check = lambda url: None,
        fsync: Fsync = os.fsync,
        log: Callable[[str], None] = lambda line: None,
        clock: Clock = time.time,
    ) -> None:
        self.path = Path(os.path.realpath(path))  # a link stays a link, and all links to a file lead to one lock
        self._secrets_path = self.path.with_suffix(".secrets.json")
        self._fsync, self._clock = fsync, clock
        self._changes: GroupCommit[Change, int] = GroupCommit(self._write)
        # Files that may have the new content although the change failed: they were renamed, but not synced. Each is
        # added just before it is renamed; there are none once everything is written.
        self._stale: set[Path] = set()
        self._between: dict[str, Secret] = {}  # the secrets of step 1 of `_write_files`, the last time
        with opening(self.path.parent, "cannot be made a folder"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with opening(self.path):
            self._lock = open_locked(self.path.with_suffix(".lock"), self.path)
            try:
                self._edits = Edits(self.path, fsync, log)
                self._snapshot = _Snapshot({}, {}, bytearray())
                self._load(check)
            except BaseException:
                os.close(self._lock)
                raise

    def _load(self, check: Check) -> None:
        if not self._edits.expected:
            self._write_webhooks(self._snapshot)
            self._stale.clear()
        for url, event in read_webhooks(self.path, check):
            self._snapshot.add(url, event)
        if self._snapshot.size() > MAX_BYTES:
            raise StoreError(f"{self.path} would have more than {MAX_BYTES:,} bytes, the limit; name another --store")
        self._snapshot.secrets = read_secrets(self._secrets_path)

    def webhooks(self) -> list[dict[str, str]]:
        """All webhooks, by event type. In the file the newest may stand at the end."""
        return [{"url": url, "event": event} for url, event in self._snapshot.pairs()]

    def urls(self) -> list[str]:
        return list(dict.fromkeys(chain.from_iterable(self._snapshot.lines.values())))

    def urls_for(self, event: str) -> list[str]:
        return list(self._snapshot.lines.get(event, ()))

    def has(self, url: str) -> bool:
        return self._snapshot.has(url)

    def registered(self, url: str, event: str) -> bool:
        return self._snapshot.registered(url, event)

    def secrets(self, url: str) -> list[str]:
        """What signs the deliveries to a URL: its secret, and the one that it has replaced within a day."""
        snapshot = self._snapshot
        secret = snapshot.secrets.get(url)
        if not (secret and snapshot.has(url)):
            return []
        return [secret.value, secret.former] if secret.end > self._clock() else [secret.value]

    def count(self) -> int:
        return self._snapshot.count()

    # Changes: on the disk when these return; StoreError when the disk refused

    def register(self, url: str, events: Iterable[str], secret: str | None, permit: Permit) -> None:
        """Add the missing ones of `events`, set the secret if there is one. `permit` is called before."""
        wanted = dict.fromkeys(events)

        def change(staged: _Snapshot) -> int:
            missing = [event for event in wanted if not staged.registered(url, event)]
            former = staged.secret(url)
            permit(former if missing or secret not in (None, former) else None)  # None: nothing that is protected
            size = staged.size() + sum(len(_line(url, event)) for event in missing)
            if missing and (staged.count() + len(missing) > MAX_WEBHOOKS or size > MAX_BYTES):
                raise StoreError(f"{MAX_WEBHOOKS:,} webhooks and {MAX_BYTES:,} bytes are the limit: unregister some")
            for event in missing:
                staged.add(url, event)
            if secret is not None and secret != former:
                staged.secrets[url] = Secret(secret, former, self._clock() + OVERLAP) if former else Secret(secret)
            return len(missing)

        self._changes.commit(change)

    def unregister(self, url: str, event: str, permit: Permit) -> int:
        """Remove one webhook, and the secret with the last one of its URL; returns 0 if there is none."""

        def change(staged: _Snapshot) -> int:
            if staged.registered(url, event):
                permit(staged.secret(url))
            return staged.remove(url, [event])

        return self._changes.commit(change)

    def unregister_urls(self, urls: Iterable[str]) -> int:
        """Remove all webhooks of these URLs; returns the number removed. `urls` is read in its turn to write."""
        return self._changes.commit(lambda staged: sum(staged.remove(url, staged.lines) for url in list(urls)))

    # The files; only the thread that has the turn of `_changes` writes them

    def _write(self, group: list[Change]) -> list[int | Exception]:
        """Stage a group of changes, write the files, swap the snapshot."""
        staged, outcomes = self._snapshot.copy(), list[int | Exception]()
        for change in group:
            try:
                outcomes.append(change(staged))
            except Exception as error:  # noqa: BLE001 - refused; the others go on
                outcomes.append(error.with_traceback(None))  # which would keep this frame, and so `staged`, in memory
        try:
            self._write_files(staged, changed=any(isinstance(count, int) and count for count in outcomes))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._write_files(self._snapshot, changed=False)  # the old content again
            if self._stale:
                raise StoreError(f"{error.strerror}: the change may have been stored, try again later") from None
            raise
        self._snapshot = staged  # the swap
        return outcomes

    def _write_files(self, new: _Snapshot, changed: bool) -> None:
        """Write what differs or is stale. A crash in between leaves no entry without its secret, or with another's.

        1. the secrets of the old and of the new entries together; 2. the entries; 3. the secrets of the new ones alone.
        To register with a secret takes 1 and 2, to unregister the last event takes 2 and 3.
        """
        old, wanted = self._snapshot.secrets, new.secrets
        between = old
        if wanted != old:
            between = {url: old[url] for url in old if self.has(url)} | wanted
        if self._stale:  # an entry of the change that failed may be in the file, so its secret stays until 3
            between = self._between | between
        self._between = between
        if between != old or self._secrets_path in self._stale:
            self._write_secrets(between)
        if changed or self.path in self._stale:
            self._write_webhooks(new)
        if wanted != between:
            self._write_secrets(wanted)
        self._stale.clear()

    def _write_secrets(self, secrets: dict[str, Secret]) -> None:
        now = self._clock()
        stored = {url: secret if secret.end > now else secret.value for url, secret in secrets.items()}
        text = json.dumps(stored, separators=(",\n", ": ")).encode()
        with replacement(self._secrets_path, [text, b"\n"], self._fsync, 0o600):
            self._stale.add(self._secrets_path)
        sync_directory(self._secrets_path, self._fsync)

    def _write_webhooks(self, new: _Snapshot) -> None:
        with replacement(self.path, new.pieces(), self._fsync, 0o666) as temporary:
            self._edits.keep(self._snapshot.pairs())
            written = mark(temporary)
            self._stale.add(self.path)
        self._edits.expected = written
        sync_directory(self.path, self._fsync)

    def close(self) -> None:
        """Let another process have the files."""
        with contextlib.suppress(OSError), self._changes.turn():
            self._changes.closed = True
            try:
                self._write_files(self._snapshot, changed=False)
            finally:
                os.close(self._lock)
