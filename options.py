"""What command lines take: the types of the options of all programs, each of which says what it expected."""

from __future__ import annotations

import argparse
import contextlib
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from addresses import url_problem
from terminal import printable, say

T = TypeVar("T")
EXPOSEE, WEBHOOK = "http://localhost:3000", "http://localhost:8080/webhook-receiver"  # where both run by default


class _Formatter(argparse.HelpFormatter):
    """Help whose lines break at blanks only, so that a URL or a name stays whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line on stderr and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=_Formatter)
        self.color = False  # Python 3.14 has colours, older ones do not

    def print_help(self, file: Any = None) -> None:
        say(*self.format_help().splitlines())  # that of Python 3.10 fails when nobody reads it

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; see --help\n")


def checked(
    pattern: str, mistake: str, convert: Callable[[str], T], allowed: Callable[[T], bool] = lambda value: True
) -> Callable[[str], T]:
    """A type for text that matches the whole pattern and is allowed once converted; {!r} in a mistake is that text."""

    def check(text: str) -> T:
        with contextlib.suppress(ValueError):
            if re.fullmatch(pattern, text) and allowed(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(mistake.format(text))

    return check


def web_url(example: str, variable: str, query: bool = True) -> Callable[[str], str]:
    """An http or https URL such as `example`; it may come from that environment variable, and is never shown."""
    no = "credentials" if query else "credentials, query"
    rule = f"an absolute http or https URL in visible ASCII, without {no} or fragment, such as {example}"
    pattern = "(?s).*" if query else "[^?]*"
    return checked(pattern, f"the value (here or in {variable}) is not {rule}", str, lambda url: not url_problem(url))


def credential(variable: str) -> Callable[[str], str]:
    """A secret or a token in visible ASCII, never shown; it may come from an environment variable."""
    problem = "is empty, has a blank at an end, or characters that are not visible ASCII"
    advice = "to have none, leave it out or unset the variable"
    return checked("[!-~](?:[ -~]*[!-~])?", f"the value (here or in {variable}) {problem}; {advice}", str)


NO_PORT = "{!r} is not a port, expected a number from 0 to 65535"  # 0 is any that is free
NO_EVENT = "{!r} is no event type, expected letters, digits, _ . - (and not ping, which is what GET /ping sends)"
exposee_url, webhook_url = web_url(EXPOSEE, "EXPOSEE_URL", query=False), web_url(WEBHOOK, "WEBHOOK_URL")
port_number = checked("[0-9]{1,5}", NO_PORT, int, lambda port: port < 65_536)
thread_count = checked("[0-9]{1,2}", "{!r} is not a number from 1 to 64", int, lambda count: 0 < count <= 64)
seconds = checked("[0-9.]+", "{!r} is not a number of seconds up to a day", float, lambda value: 0 < value <= 86_400)
host_name = checked("[!-~]+", "{!r} is no host, expected a name or an address such as 127.0.0.1", str)  # "" is all
store_path = checked(r"(?s)(?!.*\.secrets\.json\Z).*[^/\\]\.json", "{!r} is not a name like webhooks.json", Path)
event_name = checked(r"(?!ping\Z)[A-Za-z0-9_.-]{1,100}", NO_EVENT, str)


def event_names(text: str) -> tuple[str, ...]:
    return tuple(event_name(name.strip()) for name in text.split(","))


def schedule(text: str) -> tuple[float, ...]:
    """Seconds between attempts, comma-separated; none at all for one attempt only."""
    return tuple(seconds(item) for item in text.split(",")) if text else ()
