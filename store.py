"""What survives a restart: webhooks.json, a snapshot that is replaced whenever a webhook comes or goes.

Beside it lie the secrets, in a file of their own, so that webhooks.json can be shown and committed. How a file is
replaced so that no crash can break it is in durable.py; the deliveries are in a journal: journal.py.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from durable import Fsync, GroupCommit, ReplacedFile, StoreError, lock

Permit = Callable[[str | None], None]  # gets the secret that a URL has, and raises to forbid a change

EMPTY = b"[]\n"
MEND = "mend it, or name another --store"


class _Change:
    """A change that waits for its turn: `apply` runs in the writing thread, `result` or `error` comes of it."""

    def __init__(self, apply: Callable[[], Any]) -> None:
        self.apply = apply
        self.result: Any = None
        self.error: Exception | None = None


class WebhookStore:
    """The webhooks, (url, event) pairs, and the secrets of URLs, in memory and in two files.

    Reading is free of locks: `urls_for` and the others copy in one step what changes in one thread at a time.
    A change is in memory a moment before it is on the disk, and is taken back when the disk refuses it; the
    caller of `register` or `unregister` hears of it only after that. One process owns the files: a second
    one's `StoreError` says so. `check` says of a URL in the file what is wrong with it, if anything.
    """

    def __init__(
        self, path: str | Path, check: Callable[[str], str | None] = lambda url: None, fsync: Fsync = os.fsync
    ) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a folder, expected a file; name another --store")
        self.secrets_path = self.path.with_suffix(".secrets.json")
        self._by_event: dict[str, dict[str, None]] = {}
        self._by_url: dict[str, dict[str, None]] = {}
        self._secrets: dict[str, str] = {}
        self._unclaimed: dict[str, str] = {}  # secrets of URLs that are not in webhooks.json: a typo, perhaps
        self._leaving: frozenset[tuple[str, str]] = frozenset()  # removals that are not on the disk yet
        self._text = bytearray(EMPTY)  # the whole file: a registration appends to it, and never formats it anew
        self._undo: list[Callable[[], None]] = []  # takes back the changes of the group that is being written
        self._changed: set[str] = set()  # "webhooks", "a new secret", "a secret less"
        self._stale_secrets = False  # whether the file has a secret too many, or one that was refused
        self._secrets_before: dict[str, str] = {}
        self._changes = GroupCommit(self._write)
        self._lock_file = lock(self.path)
        self._file = ReplacedFile(self.path, fsync)
        self._secrets_file = ReplacedFile(self.secrets_path, fsync, mode=0o600)
        try:
            self._load(check)
        except BaseException:
            self.close()
            raise

    # Reading

    def webhooks(self) -> list[dict[str, str]]:
        """All webhooks, as in the file but grouped by URL."""
        return [{"url": url, "event": event} for url, events in list(self._by_url.items()) for event in list(events)]

    def urls(self) -> list[str]:
        """The distinct URLs."""
        return list(self._by_url)

    def urls_for(self, event: str) -> list[str]:
        """The URLs that are registered for an event type."""
        return list(self._by_event.get(event, ()))

    def has(self, url: str) -> bool:
        return url in self._by_url or any(url == leaving for leaving, _ in self._leaving)

    def registered(self, url: str, event: str) -> bool:
        """Whether there is this webhook; one that is being unregistered counts until the disk has agreed."""
        return event in self._by_url.get(url, ()) or (url, event) in self._leaving

    def secret(self, url: str) -> str | None:
        return self._secrets.get(url)

    def count(self) -> int:
        """How many webhooks there are."""
        return sum(map(len, list(self._by_event.values())))

    # Changing: on the disk when these return

    def register(self, url: str, events: Iterable[str], secret: str | None, permit: Permit) -> None:
        """Add the missing ones of `events`, and set the secret if one is given.

        `permit` is called if that changes anything. StoreError when it could not be stored.
        """
        self._change(lambda: self._apply_register(url, list(events), secret, permit))

    def unregister(self, url: str, event: str, permit: Permit) -> int:
        """Remove one webhook; 0 when there is none. The last one of a URL takes the secret with it."""
        removed: int = self._change(lambda: self._apply_unregister(url, [event], permit))
        return removed

    def unregister_all(self, url: str) -> int:
        """Remove all webhooks of a URL (it answered 410)."""
        removed: int = self._change(lambda: self._apply_unregister(url, list(self._by_url.get(url, ())), _anyone))
        return removed

    def unregister_urls(self, urls: Iterable[str]) -> None:
        for url in list(urls):
            self.unregister_all(url)

    def repair(self) -> None:
        pass

    def close(self) -> None:
        """Let another process have the files; what is being written is finished first."""
        with self._changes.turn:
            self._file.close()
            self._secrets_file.close()
            self._lock_file.close()

    def _change(self, apply: Callable[[], Any]) -> Any:
        change = _Change(apply)
        self._changes.commit(change)
        if change.error:
            raise change.error
        return change.result

    def _apply_register(self, url: str, events: list[str], secret: str | None, permit: Permit) -> None:
        has = self._by_url.get(url, {})
        missing = [event for event in dict.fromkeys(events) if event not in has]
        new_secret = secret is not None and secret != self._secrets.get(url)
        if missing or new_secret:
            permit(self._secrets.get(url))
        if missing and not has and url in self._unclaimed:
            old = self._unclaimed.pop(url)  # whoever registers this URL now does not inherit it
            self._undo.append(lambda: self._unclaimed.update({url: old}))
            self._changed.add("a new secret")
        for event in missing:
            self._add(url, event)
        if new_secret:
            self._set_secret(url, secret)

    def _apply_unregister(self, url: str, events: list[str], permit: Permit) -> int:
        present = [event for event in events if event in self._by_url.get(url, {})]
        if present:
            permit(self._secrets.get(url))
        self._leaving |= {(url, event) for event in present}
        for event in present:
            self._remove(url, event)
        if present and url not in self._by_url and url in self._secrets:
            self._set_secret(url, None)
        return len(present)

    # One step each, with its way back

    def _add(self, url: str, event: str) -> None:
        self._insert(url, event)
        line = _line(url, event)
        self._text[-3:] = (b"[\n" if len(self._text) == len(EMPTY) else b",\n") + line + b"\n]\n"
        self._undo.append(lambda: self._remove(url, event))
        self._changed.add("webhooks")

    def _insert(self, url: str, event: str) -> None:
        self._by_url.setdefault(url, {})[event] = None
        self._by_event.setdefault(event, {})[url] = None

    def _remove(self, url: str, event: str) -> None:
        for index, key, value in ((self._by_url, url, event), (self._by_event, event, url)):
            del index[key][value]
            if not index[key]:
                del index[key]
        line = _line(url, event)
        start = self._text.index(line)  # a whole entry: inside a JSON string its quotes would be escaped
        end = start + len(line)
        if self._text[end : end + 1] == b",":
            del self._text[start : end + 2]
        elif len(self._by_url) == 0:
            self._text[:] = EMPTY
        else:
            del self._text[start - 2 : end]
        self._undo.append(lambda: self._add(url, event))
        self._changed.add("webhooks")

    def _set_secret(self, url: str, secret: str | None) -> None:
        before = self._secrets.get(url)
        self._secrets_before = self._secrets_before or self._secrets.copy()
        if secret is None:
            del self._secrets[url]
        else:
            self._secrets[url] = secret
        self._undo.append(lambda: self._set_secret(url, before))
        self._changed.add("a new secret" if secret else "a secret less")

    # The files

    def _write(self, changes: list[_Change]) -> None:
        """Apply a group of changes and replace the files once; GroupCommit's write."""
        if self._lock_file.closed:
            raise OSError("the exposee is shutting down")
        self._undo, self._changed, self._secrets_before = [], set(), {}
        for change in changes:
            try:
                change.result = change.apply()
            except Exception as error:  # this change is refused (by its permit); the others go on
                change.error = error
        try:
            self._replace_files()
        finally:
            self._leaving = frozenset()

    def _replace_files(self) -> None:
        """Write what the group has changed; when the disk refuses, take it back."""
        try:
            if "a new secret" in self._changed or self._stale_secrets:
                self._replace_secrets({**self._secrets_before, **self._secrets})  # an entry never lacks its secret
            if "webhooks" in self._changed:
                self._file.replace(self._text)
        except OSError:
            for undo in reversed(self._undo.copy()):
                undo()
            with contextlib.suppress(OSError):  # in case it was refused after the file had its new name
                self._file.replace(self._text)
            self._stale_secrets = True
            with contextlib.suppress(OSError):  # else the next change tries again
                self._replace_secrets(self._secrets)
            raise
        if "a secret less" in self._changed:
            try:
                self._replace_secrets(self._secrets)
            except OSError:
                self._stale_secrets = True  # a secret too many; the next change tries again

    def _replace_secrets(self, secrets: dict[str, str]) -> None:
        text = json.dumps({**self._unclaimed, **secrets}, indent=0) + "\n"
        self._secrets_file.replace(text.encode())
        self._stale_secrets = len(secrets) != len(self._secrets)

    def _load(self, check: Callable[[str], str | None]) -> None:
        text = _read(self.path)
        entries = _parse(self.path, text, [])
        if not isinstance(entries, list):
            raise StoreError(f'{self.path}, line 1: not a list of {{"url", "event"}} entries; {MEND}')
        for number, entry in enumerate(entries):
            reason = _entry_problem(entry) or check(entry["url"])
            if reason:
                raise StoreError(f"{self.path}, line {_line_of_entry(text, number)}: {reason}; {MEND}")
            self._insert(entry["url"], entry["event"])
        if entries:
            lines = dict.fromkeys(_line(entry["url"], entry["event"]) for entry in entries)
            self._text = bytearray(b"[\n" + b",\n".join(lines) + b"\n]\n")
        secrets = _parse(self.secrets_path, _read(self.secrets_path), {})
        if not (isinstance(secrets, dict) and all(isinstance(secret, str) for secret in secrets.values())):
            raise StoreError(f"{self.secrets_path}, line 1: not an object of secrets by URL; {MEND}")
        self._secrets = {url: secret for url, secret in secrets.items() if url in self._by_url}
        self._unclaimed = {url: secret for url, secret in secrets.items() if url not in self._by_url}
        try:
            if not text:
                self._file.replace(EMPTY)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from None


def _anyone(_: str | None) -> None:
    """The permit of those who need none."""


def _line(url: str, event: str) -> bytes:
    return json.dumps({"url": url, "event": event}).encode()


def _entry_problem(entry: object) -> str | None:
    if isinstance(entry, dict) and entry.keys() == {"url", "event"}:
        if all(isinstance(value, str) for value in entry.values()) and entry["event"].isprintable():
            return None
    return 'not an entry {"url": text, "event": text}'


def _line_of_entry(text: str, number: int) -> int:
    """On which line of a JSON list the entry with this index begins."""
    decoder, position = json.JSONDecoder(), text.index("[") + 1
    for _ in range(number + 1):
        start = position
        while text[start] in " \t\r\n,":
            start += 1
        _, position = decoder.raw_decode(text, start)
    return text.count("\n", 0, start) + 1


def _read(path: Path) -> str:
    """The text of a file; empty when there is none."""
    try:
        return path.read_text("utf-8-sig")  # older Windows editors begin a file with a byte order mark
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StoreError(f"{path}, line 1: cannot be read: {error}") from None


def _parse(path: Path, text: str, default: Any) -> Any:
    try:
        return json.loads(text) if text else default
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}, line {error.lineno}: not JSON: {error.msg}; {MEND}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}, line 1: not JSON that we read: {error}; {MEND}") from None
