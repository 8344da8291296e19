"""JSON as RFC 8259 means it, for bytes that strangers send: the json module, without what it forgives.

What is forgiven here breaks somewhere else: NaN in the receiver's parser, a lone surrogate when the text is
encoded again, a key that appears twice in whatever reads the other one of the two.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_DEPTH = 64  # levels of nesting; Python's own limit is its stack
MAX_DIGITS = 400  # characters of a number: the largest float has 309 digits before the point


def loads(data: bytes) -> Any:
    """`data` as a JSON value.

    ValueError, with a message that continues "the body is …", for: not JSON, not UTF-8, NaN and Infinity, a
    number over MAX_DIGITS or out of a float's range, a key twice in one object, a lone surrogate, more than
    MAX_DEPTH levels.
    """
    try:
        text = data.decode("utf-8")
        value = _decoder.decode(text)
        if "\\u" in text:  # the only way to a lone surrogate, which no encoder takes
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} at {where}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None
    except UnicodeEncodeError:
        raise ValueError("JSON with a lone surrogate, half of a \\u pair; expected whole characters") from None
    except RecursionError:
        raise ValueError(f"JSON nested too deeply, expected {MAX_DEPTH} levels at most") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(f"JSON nested too deeply, expected {MAX_DEPTH} levels at most")
    return value


def _number(text: str) -> float | int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"JSON with a number of {len(text)} characters, expected {MAX_DIGITS} at most")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"JSON with the number {text[:40]}, which is out of range")
    return int(text) if text.lstrip("-").isdigit() else value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"not JSON: it has no {text}, only finite numbers")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("JSON with a key that appears twice in one object")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, (dict, list))]:
        depth += 1
        level = [child for v in level for child in (v.values() if isinstance(v, dict) else v)]
    return depth


_decoder = json.JSONDecoder(
    parse_int=_number, parse_float=_number, parse_constant=_constant, object_pairs_hook=_object
)
