"""Reads webhooks.json and the secrets, which people edit by hand: in any layout, and with the line of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durable import StoreError
from messages import is_secret
from strict_json import explained

Check = Callable[[str], str | None]  # returns the fault of a URL, or None
MEND = "mend it, or name another --store"


def read_webhooks(path: Path, check: Check) -> list[tuple[str, str]]:
    """The (url, event) pairs of webhooks.json. StoreError for any fault."""
    text, entries = _read(path, [], 'not a list of {"url", "event"} entries')
    for number, entry in enumerate(entries):
        fault: str | None = 'not an entry {"url": text, "event": text}'
        match entry:
            case {"url": str(url), "event": str(event)} if len(entry) == 2 and event.isprintable():
                fault = check(url)
        if fault:
            raise StoreError(f"{path}, line {_line_of_entry(text, number)}: {fault}; {MEND}")
    return [(entry["url"], entry["event"]) for entry in entries]


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets by URL; none if there is no file. No error shows a secret."""
    secrets: dict[str, str] = _read(path, {}, "not an object of secrets by URL")[1] if path.exists() else {}
    for url, secret in secrets.items():
        if not is_secret(secret):
            raise StoreError(f"{path}: the secret of {url} is not whsec_ and base64 of 24 to 64 bytes; {MEND}")
    return secrets


def _read(path: Path, empty: Any, fault: str) -> tuple[str, Any]:
    """The text and the value of a JSON file; `fault` is said of a value that is not of the type of `empty`."""
    line = 1
    try:
        text = path.read_text("utf-8-sig")  # older Windows editors begin a file with a byte order mark
        if not text.strip():
            fault = f"is empty, expected at least {empty}"
        elif isinstance(value := json.loads(text), type(empty)):
            return text, value
    except json.JSONDecodeError as error:
        error = explained(error)
        line, fault = error.lineno, f"not JSON: {error.msg.removesuffix(' at')}"
    except RecursionError:
        fault = "cannot be read: nested too deeply"
    except (OSError, ValueError) as error:
        fault = f"cannot be read: {error}"
    raise StoreError(f"{path}, line {line}: {fault}; {MEND}")


def _line_of_entry(text: str, number: int) -> int:
    """The line on which the entry with this index begins."""
    decoder, end = json.JSONDecoder(), text.index("[") + 1
    for _ in range(number + 1):
        start = end
        while text[start] in " \t\n,":
            start += 1
        _, end = decoder.raw_decode(text, start)
    return text.count("\n", 0, start) + 1
