"""What command lines take: the types of the options of all programs, each of which says what it expected."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from terminal import printable

EVENT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line on stderr and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; see --help\n")


def port_number(text: str) -> int:
    """A port; 0 lets the system choose a free one."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, expected a number from 0 to 65535")
    return int(text)


def host_name(text: str) -> str:
    """A host to listen on. An empty one would mean all of them."""
    if not text:
        raise argparse.ArgumentTypeError("the host is empty, expected a name or an address such as 127.0.0.1")
    return text


def web_url(example: str, variable: str = "", query: bool = True) -> Callable[[str], str]:
    """An http or https URL such as `example`; it may come from an environment variable."""
    path, no = ("[/?][^#]*", "credentials or fragment") if query else ("/[^#?]*", "credentials, query or fragment")
    pattern = re.compile(rf"(?ai)(?=[!-~]*\Z)https?://(?:[\w.-]+|\[[\da-f:.]+\])(?::(\d{{1,5}}))?(?:{path})?")

    def check(text: str) -> str:
        match = pattern.fullmatch(text)
        if match and 0 < int(match[1] or 80) <= 65_535:
            return text
        rule = f"an absolute http or https URL in visible ASCII, without {no}, such as {example}"
        raise argparse.ArgumentTypeError(f"the value{variable and f' (here or in {variable})'} is not {rule}")

    return check


def credential(variable: str) -> Callable[[str], str]:
    """A secret or a token, never shown; it may come from an environment variable."""

    def check(text: str) -> str:
        if re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", text):
            return text
        why = "has a blank at an end, or characters that are not visible ASCII" if text else "is empty"
        raise argparse.ArgumentTypeError(
            f"the value (here or in {variable}) {why}; to have none, leave it out or unset the variable"
        )

    return check


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to a day")
    return number


def schedule(text: str) -> tuple[float, ...]:
    """Seconds between attempts, comma-separated; none at all for one attempt only."""
    return tuple(seconds(item) for item in text.split(",")) if text else ()


def event_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name == "ping":
            raise argparse.ArgumentTypeError(f"{name} is what GET /ping sends, expected another name")
        if not EVENT_NAME.fullmatch(name):
            raise argparse.ArgumentTypeError(f"{name!r} is no event type, expected letters, digits, _ . -")
    return names


def store_path(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".json" or path.stem.endswith(".secrets"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name like webhooks.json")
    return path


def thread_count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]?", text) or int(text) > 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 64")
    return int(text)
