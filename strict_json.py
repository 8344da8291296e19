"""JSON as RFC 8259 means it, for bytes that strangers send: the json module, without what it forgives.

A receiver's parser may stop at NaN or a lone surrogate, and may take the other one of two equal keys. Numbers change
when they are parsed and written again, 1E2 to 100.0: so `member` gives the bytes of a value as they came.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 64  # levels of nesting; Python's own limit is its stack
KEY = re.compile(r'[ \t\r\n{,]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')


def loads(data: bytes) -> Any:
    """`data` as a JSON value. Else ValueError, with a message that continues the sentence "the body is …"."""
    if data.startswith(b"\xef\xbb\xbf"):  # RFC 8259, 8.1
        raise ValueError("JSON after a byte order mark, expected none: save it as UTF-8 without BOM")
    try:
        text = data.decode()
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
            raise ValueError(f"JSON nested too deeply, expected {MAX_DEPTH} levels at most")
        value = _decoder.decode(text)
        if "\\u" in text:  # the only way to a lone surrogate, which no encoder takes
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = explained(error)
        raise ValueError(f"not JSON: {at.msg.lower()} at line {at.lineno}, column {at.colno}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None
    except UnicodeEncodeError:
        raise ValueError("JSON with a lone surrogate, half of a \\u pair; expected whole characters") from None
    return value


def explained(error: json.JSONDecodeError) -> json.JSONDecodeError:
    """The error as Python 3.13 raises it, but for an "at" at the end: older ones do not name a trailing comma."""
    bracket, what = ("}", "object") if error.msg.startswith("Expecting property name") else ("]", "array")
    before = error.doc[: error.pos].rstrip(" \t\r\n")
    if not (before.endswith(",") and error.doc.startswith(bracket, error.pos)):
        return json.JSONDecodeError(error.msg.removesuffix(" at"), error.doc, error.pos)
    return json.JSONDecodeError(f"Illegal trailing comma before end of {what}", error.doc, len(before) - 1)


def member(data: bytes, name: str) -> bytes:
    """The bytes of the member `name` of an object that `loads` accepts, on one line; KeyError if there is none."""
    text, at = data.decode(), 0
    while key := KEY.match(text, at):
        _, at = _spans.raw_decode(text, key.end())
        if key[1][1:-1] == name or "\\" in key[1] and json.loads(key[1]) == name:
            return text[key.end() : at].encode().translate(None, b"\t\r\n")  # in strings these are escaped
    raise KeyError(name)


def shown(value: Any) -> str:
    """A value for an error's detail: as JSON, 80 characters at the most."""
    line = "missing" if value is None else json.dumps(value)
    return line if len(line) <= 80 else line[:77] + "..."


def _number(text: str) -> float | int:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"JSON with the number {text[:40]}, expected one in the range of a double")
    return int(text) if text.lstrip("-").isdigit() else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(value := dict(pairs)) != len(pairs):
        raise ValueError("JSON with a key that appears twice in one object")
    return value


def _depth(text: str) -> int:
    """Levels of nesting, counted before a parser sees the text: how deep one can go differs between Pythons."""
    outside = text.replace("\\\\", "").replace('\\"', "").split('"')[::2]  # of strings, if it is JSON
    depth = deepest = 0
    for character in re.findall(r"[\[\]{}]", "".join(outside)):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each call
_decoder = json.JSONDecoder(parse_int=_number, parse_float=_number, parse_constant=_number, object_pairs_hook=_object)
_spans = json.JSONDecoder()  # only to learn where a value ends
