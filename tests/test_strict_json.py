"""strict_json.py: what it refuses, with a message that says what and where, and what it has to let through."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from strict_json import MAX_DEPTH, MAX_DIGITS, loads


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + b"1" + closing * levels


REFUSED = {
    "nothing": (b"", "not JSON: expecting value at line 1, column 1"),
    "blanks only": (b" \r\n\t", "not JSON"),
    "a bare word": (b"hello", "not JSON"),
    "a form": (b"event=ping&data=1", "not JSON"),
    "single quotes": (b"{'a': 1}", "not JSON"),
    "a comment": (b"[1] // one", "not JSON"),
    "a comma too many": (b"[1,]", "not JSON"),
    "a comma missing": (b'{"a": 1\n "b": 2}', "at line 2, column 2"),
    "cut short": (b'{"a": [1, 2', "not JSON"),
    "two values": (b"{}{}", "not JSON: extra data"),
    "a key that is no string": (b"{1: 2}", "not JSON"),
    "a leading zero": (b"[01]", "not JSON"),
    "a plus sign": (b"[+1]", "not JSON"),
    "a bare point": (b"[1.]", "not JSON"),
    "a hexadecimal number": (b"[0x10]", "not JSON"),
    "a digit of another script": ("[\u0663]".encode(), "not JSON"),
    "a line end in a string": (b'"a\nb"', "not JSON"),
    "a NUL in a string": (b'"a\x00b"', "not JSON"),
    "an unknown escape": (rb'"\x41"', "not JSON"),
    "half an escape": (rb'"\u12"', "not JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "not JSON"),
    "Latin-1": (b'"caf\xe9"', "not UTF-8: byte 4 is 0xe9"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8: byte 0 is 0xff"),
    "an overlong slash": (b'"\xc0\xaf"', "not UTF-8"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "not UTF-8"),
    "NaN": (b'{"a": NaN}', "no NaN"),
    "Infinity": (b"[Infinity]", "no Infinity"),
    "-Infinity": (b"-Infinity", "no -Infinity"),
    "a float out of range": (b"[1e400]", "1e400, which is out of range"),
    "a negative float out of range": (b"-1e400", "out of range"),
    "an integer out of a float's range": (b"1" + b"0" * 309, "out of range"),
    "a long integer": (b"9" * (MAX_DIGITS + 1), f"{MAX_DIGITS + 1} characters, expected {MAX_DIGITS}"),
    "a long fraction": (b"0." + b"1" * MAX_DIGITS, "characters"),
    "a key twice": (b'{"a": 1, "a": 1}', "appears twice"),
    "a key twice, deep inside": (b'[{"b": {"a": 1, "c": 2, "a": 3}}]', "appears twice"),
    "a key twice in two spellings": (rb'{"a": 1, "\u0061": 2}', "appears twice"),
    "a lone high surrogate": (rb'"\ud83d"', "lone surrogate"),
    "a lone low surrogate": (rb'["\ude00"]', "lone surrogate"),
    "a lone surrogate in a key": (rb'{"\uD800": 1}', "lone surrogate"),
    "a pair the wrong way round": (rb'"\ude00\ud83d"', "lone surrogate"),
    "arrays too deep": (nested(MAX_DEPTH + 1), f"expected {MAX_DEPTH} levels"),
    "objects too deep": (nested(MAX_DEPTH + 1, b'{"a":', b"}"), "nested too deeply"),
    "both too deep": (nested(MAX_DEPTH // 2 + 1, b'[{"a":', b"}]"), "nested too deeply"),
    "an empty array too deep": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply"),
}


@pytest.mark.parametrize("data, words", REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        loads(data)
    message = str(caught.value)
    assert words in message
    assert message.startswith(("not ", "JSON ")), "it has to continue the sentence 'the body is …'"
    assert not isinstance(caught.value, (UnicodeError, json.JSONDecodeError)), "those have messages of their own"


FINE: dict[str, tuple[bytes, Any]] = {
    "null": (b"null", None),
    "true": (b"true", True),
    "a string": (b'"text"', "text"),
    "an empty key": (b'{"": 0}', {"": 0}),
    "blanks around": (b" \r\n\t[ ] \n", []),
    "an event": (b'{"event": "ping", "data": {"a": [1, 2.5, null]}}', {"event": "ping", "data": {"a": [1, 2.5, None]}}),
    "the same key in two objects": (b'[{"a": 1}, {"a": {"a": 2}}]', [{"a": 1}, {"a": {"a": 2}}]),
    "keys that differ in case": (b'{"a": 1, "A": 2}', {"a": 1, "A": 2}),
    "UTF-8": ('"café 中 \U0001f600"'.encode(), "café 中 \U0001f600"),
    "a surrogate pair": (rb'"\ud83d\ude00"', "\U0001f600"),
    "an escaped backslash before u": (rb'"\\ud83d"', r"\ud83d"),
    "an escaped NUL": (rb'"\u0000"', "\0"),
    "a separator that JavaScript minds": ('"\u2028"'.encode(), "\u2028"),
    "words of refused numbers, as text": (b'"NaN Infinity 1e400"', "NaN Infinity 1e400"),
    "a long integer, to the digit": (b"12345678901234567890123", 12345678901234567890123),
    "the largest float": (b"[1.7976931348623157e308]", [1.7976931348623157e308]),
    "a float too small to tell from zero": (b"1e-400", 0.0),
    "a number as long as may be": (b"0." + b"3" * (MAX_DIGITS - 2), 1 / 3),
    "arrays as deep as may be": (nested(MAX_DEPTH), json.loads(nested(MAX_DEPTH))),
    "objects as deep as may be": (nested(MAX_DEPTH, b'{"a":', b"}"), json.loads(nested(MAX_DEPTH, b'{"a":', b"}"))),
    "many brackets side by side": (b"[" + b"[]," * 999 + b"{}]", [[]] * 999 + [{}]),
    "brackets in a string": (b'"' + b"[{" * 999 + b'"', "[{" * 999),
}


@pytest.mark.parametrize("data, value", FINE.values(), ids=FINE)
def test_fine(data: bytes, value: Any) -> None:
    assert loads(data) == value


def test_integers_and_floats_keep_their_kind() -> None:
    assert [type(number) for number in loads(b"[1, -1, 1.0, 1e2]")] == [int, int, float, float]


@pytest.mark.parametrize(
    "data",
    [b"[" * 1_000_000, b'{"a":' * 200_000, b"9" * 1_000_000, nested(20_000), b'{"a":1,' * 100_000],
    ids=["open arrays", "open objects", "digits", "a deep array", "open members"],
)
def test_a_hostile_megabyte_is_refused_at_once(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError):
        loads(data)
    assert time.perf_counter() - start < 1
