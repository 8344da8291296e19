"""What command lines take: the types of the options of all programs, each of which says what it expected."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from terminal import printable


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line on stderr and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; see --help\n")


def matching(pattern: str, mistake: str) -> Callable[[str], str]:
    """Text that matches the whole pattern. Otherwise the message is `mistake`, with the text for `{!r}`."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text):
            return text
        raise argparse.ArgumentTypeError(mistake.format(text))

    return check


def number(least: int, most: int, name: str) -> Callable[[str], int]:
    def check(text: str) -> int:
        if re.fullmatch("[0-9]{1,5}", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {name}, expected a number from {least} to {most}")

    return check


def web_url(example: str, variable: str = "", query: bool = True) -> Callable[[str], str]:
    """An http or https URL such as `example`; it may come from an environment variable, and is never shown."""
    path, no = ("[/?][^#]*", "credentials or fragment") if query else ("/[^#?]*", "credentials, query or fragment")
    port = r"0*(?!0)(?:\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
    here = f" (here or in {variable})" if variable else ""
    return matching(
        rf"(?ai)(?=[!-~]*\Z)https?://(?:[\w.-]+|\[[\da-f:.]+\])(?::{port})?(?:{path})?",
        f"the value{here} is not an absolute http or https URL in visible ASCII, without {no}, such as {example}",
    )


def credential(variable: str) -> Callable[[str], str]:
    """A secret or a token in visible ASCII, never shown; it may come from an environment variable."""
    problem = "is empty, has a blank at an end, or characters that are not visible ASCII"
    advice = "to have none, leave it out or unset the variable"
    return matching("[!-~](?:[ -~]*[!-~])?", f"the value (here or in {variable}) {problem}; {advice}")


port_number = number(0, 65_535, "a port")  # 0: the system chooses a free one
thread_count = number(1, 64, "a count of threads")
host_name = matching(
    "(?s).+", "the host is empty, expected a name or an address such as 127.0.0.1"
)  # "" is all of them
event_name = matching(
    r"(?!ping\Z)[A-Za-z0-9_.-]{1,100}",
    "{!r} is no event type, expected letters, digits, _ . - (and not ping, which is what GET /ping sends)",
)
store_name = matching(r"(?s)(?!.*\.secrets\.json\Z).*[^/\\]\.json", "{!r} is not a name like webhooks.json")


def event_names(text: str) -> tuple[str, ...]:
    return tuple(event_name(name.strip()) for name in text.split(","))


def store_path(text: str) -> Path:
    return Path(store_name(text))


def seconds(text: str) -> float:
    try:
        if 0 < float(text) <= 86_400:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to a day")


def schedule(text: str) -> tuple[float, ...]:
    """Seconds between attempts, comma-separated; none at all for one attempt only."""
    return tuple(seconds(item) for item in text.split(",")) if text else ()
