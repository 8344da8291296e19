"""Reads webhooks.json and the secrets, which people edit by hand: in any layout, and with the line of what is wrong.

An edit of webhooks.json while the exposee runs is not read, but kept in a file of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from durable import Fsync, StoreError, replacement
from messages import is_secret
from strict_json import explained

Check = Callable[[str], str | None]  # returns the fault of a URL, or None
MEND = "mend it, or name another --store"


class Secret(NamedTuple):
    """The secret of a URL, and the one that it has replaced, if any, which signs as well until `end` (Unix)."""

    value: str
    former: str = ""
    end: float = 0.0


def read_webhooks(path: Path, check: Check) -> list[tuple[str, str]]:
    """The (url, event) pairs of webhooks.json. StoreError for any fault."""
    text, entries = _read(path, [], 'not a list of {"url", "event"} entries')
    for number, entry in enumerate(entries):
        fault: str | None = 'not an entry {"url": text, "event": text}'
        match entry:
            case {"url": str(url), "event": str(event)} if len(entry) == 2 and event and event.isprintable():
                fault = check(url)
        if fault:
            raise StoreError(f"{path}, line {_line_of_entry(text, number)}: {fault}; {MEND}")
    return [(entry["url"], entry["event"]) for entry in entries]


def read_secrets(path: Path) -> dict[str, Secret]:
    """The secrets by URL, each a text or [secret, former, end]; none if there is no file. No error shows a secret."""
    secrets: dict[str, Secret] = {}
    for url, value in _read(path, {}, "not an object of secrets by URL")[1].items() if path.exists() else ():
        match value:
            case str() if is_secret(value):
                secrets[url] = Secret(value)
            case [secret, former, int() | float() as end] if is_secret(secret) and is_secret(former):
                secrets[url] = Secret(secret, former, end)
            case _:
                raise StoreError(f"{path}: the secret of {url} is not whsec_ and base64 of 24 to 64 bytes; {MEND}")
    return secrets


def _read(path: Path, empty: Any, fault: str) -> tuple[str, Any]:
    """The text and the value of a JSON file; `fault` is said of a value that is not of the type of `empty`."""
    line = 1
    try:
        text = path.read_text("utf-8-sig")  # older Windows editors begin a file with a byte order mark
        if not text.strip():
            fault = f"is empty, expected at least {empty}"
        elif isinstance(value := json.loads(text, object_pairs_hook=_object), type(empty)):
            return text, value
    except json.JSONDecodeError as error:
        error = explained(error)
        line, fault = error.lineno, f"not JSON: {error.msg}"
    except RecursionError:
        fault = "cannot be read: nested too deeply"
    except (OSError, ValueError) as error:
        fault = f"cannot be read: {error}"
    raise StoreError(f"{path}, line {line}: {fault}; {MEND}")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """The object; a list, which is refused, if a key appears twice: two entries lack the braces between them."""
    value = dict(pairs)
    return value if len(value) == len(pairs) else pairs


def _line_of_entry(text: str, number: int) -> int:
    """The line on which the entry with this index begins."""
    decoder, end = json.JSONDecoder(), text.index("[") + 1
    for _ in range(number + 1):
        start = end
        while text[start] in " \t\n,":
            start += 1
        _, end = decoder.raw_decode(text, start)
    return text.count("\n", 0, start) + 1


def mark(path: str | Path) -> tuple[int, int, int] | None:
    """Size, time in nanoseconds and inode of a file, of which an edit changes one; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns, found.st_ino
    return None


class Edits:
    """Notices what somebody else has done to webhooks.json since the exposee has read or written it, and keeps it.

    A stat tells that something may have changed; the content decides. `log` gets a line for a person.
    """

    def __init__(self, path: Path, fsync: Fsync, log: Callable[[str], None]) -> None:
        self._path, self._fsync, self._log = path, fsync, log
        self.expected = mark(path)  # of webhooks.json as the exposee has read or written it

    def keep(self, pairs: Iterable[tuple[str, str]]) -> None:
        """To be called before webhooks.json, which should have these (url, event) pairs, is replaced.

        OSError when there is an edit which cannot be kept.
        """
        found = mark(self._path)
        if found == self.expected or (found and self._holds(pairs)):
            return
        if found is None:
            self._log(f"{self._path} was removed, and is written again; to remove it, stop the exposee first")
        else:
            edited = f"{self._path} was edited while the exposee runs, which reads it only at its start"
            try:
                kept = self._second_name()
            except OSError as error:
                self._log(f"{edited}; it cannot be kept: {error.strerror}; nothing is stored until you move it away")
                raise OSError(error.errno, f"an edit of {self._path.name} cannot be kept: {error.strerror}") from None
            self._log(f"{edited}; it is now {kept}: to use it, stop the exposee, rename it back, start the exposee")
        self.expected = found

    def _holds(self, pairs: Iterable[tuple[str, str]]) -> bool:
        with contextlib.suppress(StoreError):
            return set(read_webhooks(self._path, lambda url: None)) == set(pairs)
        return False

    def _second_name(self) -> Path:
        """Give the file another name beside it, too. An earlier one of the same content will do."""
        content = self._path.read_bytes()
        names = (self._path.with_suffix(f".edited-{number}.json") for number in itertools.count(1))
        name = next(it for it in names if not it.exists() or it.read_bytes() == content)
        if name.exists():
            return name  # as a script leaves it that writes the same every day
        try:
            os.link(self._path, name)  # in which an editor that is still writing goes on
        except OSError:  # a file system without links
            with replacement(name, [content], self._fsync, self._path.stat().st_mode & 0o777):
                pass
        return name
