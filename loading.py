"""Reads webhooks.json and the secrets, which people edit by hand: in any layout, and with the line of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durable import StoreError
from messages import is_secret

MEND = "mend it, or name another --store"


def read_webhooks(path: Path, check: Callable[[str], str | None]) -> list[tuple[str, str]]:
    """The (url, event) pairs of webhooks.json. `check` returns the fault of a URL, or None; StoreError for any fault."""
    text, entries = _read(path, [])
    webhooks = []
    for number, entry in enumerate(entries):
        match entry:
            case {"url": str(url), "event": str(event)} if len(entry) == 2 and event.isprintable():
                fault = check(url)
                webhooks.append((url, event))
            case _:
                fault = 'not an entry {"url": text, "event": text}'
        if fault:
            raise StoreError(f"{path}, line {_line_of_entry(text, number)}: {fault}; {MEND}")
    return webhooks


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets by URL; none if there is no file. No error shows a secret."""
    secrets: dict[str, str] = _read(path, {})[1] if path.exists() else {}
    for url, secret in secrets.items():
        if not is_secret(secret):
            raise StoreError(f"{path}: the secret of {url} is not whsec_ and base64 of 24 to 64 bytes; {MEND}")
    return secrets


def _read(path: Path, empty: Any) -> tuple[str, Any]:
    """The text and the value of a JSON file. The value has to be of the type of `empty`."""
    line, fault = 1, "not an object of secrets by URL" if empty == {} else 'not a list of {"url", "event"} entries'
    try:
        text = path.read_text("utf-8-sig")  # older Windows editors begin a file with a byte order mark
        if not text.strip():
            fault = f"is empty, expected at least {empty}"
        elif isinstance(value := json.loads(text), type(empty)):
            return text, value
    except json.JSONDecodeError as error:
        line, fault = _line_at(text, error.pos), f"not JSON: {error.msg}"
    except (OSError, ValueError, RecursionError) as error:
        fault = f"cannot be read: {error}"
    raise StoreError(f"{path}, line {line}: {fault}; {MEND}")


def _line_of_entry(text: str, number: int) -> int:
    """The line on which the entry with this index begins."""
    decoder, end = json.JSONDecoder(), text.index("[") + 1
    for _ in range(number):
        _, end = decoder.raw_decode(text, _skip(text, end))
    return _line_at(text, end)


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, _skip(text, position)) + 1


def _skip(text: str, position: int) -> int:
    """Where the next value stands. (Of a comma too many Python 3.13 tells the place, others that of what follows.)"""
    while position < len(text) and text[position] in " \t\n,":
        position += 1
    return position
