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


def matching(pattern: str, mistake: str, convert: Callable[[str], T]) -> Callable[[str], T]:
    """A type for text that matches the whole pattern. The mistake is a sentence, with the text in place of `{!r}`."""

    def check(text: str) -> T:
        with contextlib.suppress(ValueError):
            if re.fullmatch(pattern, text):
                return convert(text)
        raise argparse.ArgumentTypeError(mistake.format(text))

    return check


def web_url(example: str, variable: str = "", query: bool = True) -> Callable[[str], str]:
    """An http or https URL such as `example`; it may come from an environment variable, and is never shown."""
    no = "credentials or fragment" if query else "credentials, query or fragment"
    here = f" (here or in {variable})" if variable else ""
    rule = f"an absolute http or https URL in visible ASCII, without {no}, such as {example}"

    def check(text: str) -> str:
        if url_problem(text) or ("?" in text and not query):
            raise argparse.ArgumentTypeError(f"the value{here} is not {rule}")
        return text

    return check


def credential(variable: str) -> Callable[[str], str]:
    """A secret or a token in visible ASCII, never shown; it may come from an environment variable."""
    problem = "is empty, has a blank at an end, or characters that are not visible ASCII"
    advice = "to have none, leave it out or unset the variable"
    return matching("[!-~](?:[ -~]*[!-~])?", f"the value (here or in {variable}) {problem}; {advice}", str)


exposee_url, webhook_url = web_url(EXPOSEE, "EXPOSEE_URL", query=False), web_url(WEBHOOK, "WEBHOOK_URL")
port_number = matching(  # 0: any that is free
    "[0-9]{1,5}", "{!r} is not a port, expected a number from 0 to 65535", lambda text: range(65_536).index(int(text))
)
thread_count = matching("[1-9]|[1-5][0-9]|6[0-4]", "{!r} is not a number from 1 to 64", int)
host_name = matching("[!-~]+", "{!r} is no host, expected a name or an address such as 127.0.0.1", str)  # "" is all
store_path = matching(r"(?s)(?!.*\.secrets\.json\Z).*[^/\\]\.json", "{!r} is not a name like webhooks.json", Path)
event_name = matching(
    r"(?!ping\Z)[A-Za-z0-9_.-]{1,100}",
    "{!r} is no event type, expected letters, digits, _ . - (and not ping, which is what GET /ping sends)",
    str,
)


def event_names(text: str) -> tuple[str, ...]:
    return tuple(event_name(name.strip()) for name in text.split(","))


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
