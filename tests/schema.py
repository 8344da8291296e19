"""A validator of JSON Schema (2020-12) for the keywords that docs/openapi.json uses; any other one is an error.

A validator that passes over what it does not know would call everything valid that the document says with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
SIZED = {"minLength": str, "maxLength": str, "minItems": list, "maxItems": list, "minProperties": dict}
NUMBERS = {"minimum", "maximum"}
NOTES = {"description", "default"}  # they allow everything


class Validator:
    """Checks values against the schemas of a document, whose parts refer to each other.

    `closed`: an object may have only the members that its schema names, although JSON Schema would let others pass.
    """

    def __init__(self, document: dict[str, Any], closed: bool = False) -> None:
        self._document, self._closed = document, closed
        self.met: set[tuple[int, str, bool]] = set()  # id() of a schema, a member's name, whether a value had it

    def resolve(self, part: Any) -> Any:
        """What a part of the document refers to, if it is a reference. KeyError when there is no such thing."""
        if not isinstance(part, dict) or "$ref" not in part:
            return part
        found: Any = self._document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return found

    def is_valid(self, schema: dict[str, Any], value: Any) -> bool:
        return not list(self.problems(schema, value))

    def problems(self, schema: dict[str, Any], value: Any, where: str = "the value") -> Iterator[str]:
        """What is wrong with a value, a line each."""
        for keyword, argument in schema.items():
            if keyword == "$ref":
                yield from self.problems(self.resolve({"$ref": argument}), value, where)
            elif keyword == "properties":
                yield from self._members(schema, value, where)
            elif keyword == "items":
                for index, item in enumerate(value if isinstance(value, list) else []):
                    yield from self.problems(argument, item, f"{where}[{index}]")
            elif keyword == "oneOf":
                if (fitting := sum(self.is_valid(option, value) for option in argument)) != 1:
                    yield f"{where} fits {fitting} of the schemas of oneOf, expected one"
            elif not _holds(keyword, argument, value):
                yield f"{where} is {value!r}, expected {keyword} {argument!r}"

    def _members(self, schema: dict[str, Any], value: Any, where: str) -> Iterator[str]:
        known = schema["properties"]
        if isinstance(value, dict):
            self.met |= {(id(schema), name, name in value) for name in known}
        for name, item in value.items() if isinstance(value, dict) else ():
            if name in known:
                yield from self.problems(known[name], item, f"{where}.{name}")
            elif schema.get("additionalProperties") is False or self._closed and "type" in schema:
                yield f"{where} has the member {name!r}, which is not documented"


def _holds(keyword: str, argument: Any, value: Any) -> bool:
    """Whether a value is what a keyword demands that looks at nothing else. KeyError for an unknown keyword."""
    if keyword == "type":
        return any(TYPES[name](value) for name in ([argument] if isinstance(argument, str) else argument))
    if keyword == "const":
        return type(value) is type(argument) and bool(value == argument)
    if keyword == "enum":
        return any(_holds("const", one, value) for one in argument)
    if keyword == "required":
        return not isinstance(value, dict) or value.keys() >= set(argument)
    if keyword == "pattern":
        pattern = re.sub(r"\$$", r"\\Z", argument)  # there, $ does not match before a newline at the end
        return not isinstance(value, str) or re.search(pattern, value) is not None
    if keyword == "format":
        return not isinstance(value, str) or {"date-time": _is_time}[argument](value)
    if keyword in SIZED:
        size = len(value) if isinstance(value, SIZED[keyword]) else argument
        return bool(size >= argument if keyword.startswith("min") else size <= argument)
    if keyword in NUMBERS:
        return not TYPES["number"](value) or bool(value >= argument if keyword == "minimum" else value <= argument)
    if keyword == "additionalProperties" and argument is False:
        return True  # see _members
    if keyword in NOTES:
        return True
    raise KeyError(f"the keyword {keyword} is unknown here: teach it to tests/schema.py")


def _is_time(text: str) -> bool:
    """RFC 3339. Only with Z, which is what fromisoformat of Python 3.10 does not take."""
    try:
        return text.endswith("Z") and datetime.fromisoformat(text[:-1]) is not None
    except ValueError:
        return False
