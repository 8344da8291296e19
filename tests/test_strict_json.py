"""strict_json.py: what it refuses, with a message that says what and where, and what it has to let through."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from support import each

from strict_json import MAX_DEPTH, loads, member


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
    "a comma before a bracket": (b'[1\n, \n]', "illegal trailing comma before end of array at line 2, column 1"),
    "a comma before a brace": (b'{"a": [],\r\n }', "illegal trailing comma before end of object at line 1, column 9"),
    "a comma before the wrong brace": (b'[1, }', "expecting value at line 1, column 5"),
    "a comma before the wrong bracket": (b'{"a": 1,]', "expecting property name enclosed in double quotes at line 1"),
    "two commas": (b"[1,,2]", "expecting value at line 1, column 4"),
    "brackets in a string without an end": (b'"\\"' + b"[" * 999, "unterminated string starting at"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "byte order mark, expected none"),
    "Latin-1": (b'"caf\xe9"', "not UTF-8: byte 4 is 0xe9"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8: byte 0 is 0xff"),
    "an overlong slash": (b'"\xc0\xaf"', "not UTF-8"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "not UTF-8"),
    "NaN": (b'{"a": NaN}', "the number NaN, expected one in the range"),
    "Infinity": (b"[Infinity]", "number Infinity"),
    "-Infinity": (b"-Infinity", "number -Infinity"),
    "a float out of range": (b"[1e400]", "the number 1e400, expected one in the range"),
    "a negative float out of range": (b"-1e400", "the range of a double"),
    "an integer out of a float's range": (b"1" + b"0" * 309, "the range of a double"),
    "a long integer": (b"9" * 5_000, "the range of a double"),
    "a string without an end": (b'["a]', "string starting at line 1, column 2"),
    "a control character in a string": (b'["\1"]', "control character at line 1, column 3"),
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
    "too deep, without an end": (b'[{"a": ' * 2_000, "nested too deeply"),
    "an empty array too deep": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply"),
}


@each("data, words", REFUSED.values(), ids=REFUSED)
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
    "a long fraction": (b"0." + b"3" * 100_000, 1 / 3),
    "the longest integer": (b"1" + b"0" * 308, 10**308),
    "arrays as deep as may be": (nested(MAX_DEPTH), json.loads(nested(MAX_DEPTH))),
    "objects as deep as may be": (nested(MAX_DEPTH, b'{"a":', b"}"), json.loads(nested(MAX_DEPTH, b'{"a":', b"}"))),
    "many brackets side by side": (b"[" + b"[]," * 999 + b"{}]", [[]] * 999 + [{}]),
    "brackets in a string": (b'"' + b"[{" * 999 + b'"', "[{" * 999),
}


@each("data, value", FINE.values(), ids=FINE)
def test_fine(data: bytes, value: Any) -> None:
    assert loads(data) == value


def test_integers_and_floats_keep_their_kind() -> None:
    assert [type(number) for number in loads(b"[1, -1, 1.0, 1e2]")] == [int, int, float, float]


@each(
    "data",
    [b"[" * 1_000_000, b'{"a":' * 200_000, b"9" * 1_000_000, nested(20_000), b'{"a":1,' * 100_000],
    ids=["open arrays", "open objects", "digits", "a deep array", "open members"],
)
def test_a_hostile_megabyte_is_refused_at_once(data: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError):
        loads(data)
    assert time.perf_counter() - start < 1


# --- members as they came ---------------------------------------------------------------------------------------

MEMBERS = {
    "the first": (b'{"data": 1, "event": 2}', b"1"),
    "the last": (b'{"event": 2, "data" : 1 }', b"1"),
    "between blanks": (b' \r\n\t{ \n"event"\t: 2 ,\r\n "data" \n:\t [ 1 ,\r\n\t2 ] \n } \n', b"[ 1 ,2 ]"),
    "a key with an escape": (rb'{"event": "x", "d\u0061ta": 1}', b"1"),
    "a key that only looks like it": (rb'{"\\u0064ata": 0, "data ": 0, "Data": 0, "\"data": 0, "data": 1}', b"1"),
    "a value that looks like it": (b'{"event": "data", "x": "\\"data\\": 2", "data": 1}', b"1"),
    "a member of a member": (b'{"x": {"data": 2}, "y": [{"data": 3}], "data": {"data": 1}}', b'{"data": 1}'),
    "brackets and commas in strings": (b'{"{,:": "}],:{", "data": "{,:}"}', b'"{,:}"'),
    "escaped line ends": (rb'{"data": "a\n\r\t\u000a\\"}', rb'"a\n\r\t\u000a\\"'),
    "other separators": ('{"data": "\u2028\x85"}'.encode(), '"\u2028\x85"'.encode()),
    "an escaped slash": (rb'{"data": "\/\u00e9"}', rb'"\/\u00e9"'),
    "a repeated blank": (b'{"data": {"a":   1}}', b'{"a":   1}'),
}


@each("data, raw", MEMBERS.values(), ids=MEMBERS)
def test_a_member_is_given_as_it_was_spelled(data: bytes, raw: bytes) -> None:
    assert loads(raw) == loads(data)["data"]
    assert member(data, "data") == raw


@each(
    "number",
    [
        "99999999999999.99",
        "9007199254740993.0",
        "9007199254740993",
        "1e-400",
        "-0",
        "-0.0",
        "1E2",
        "1e9",
        "1.10",
        "0.1e+1",
        "1e-7",
        "123456789012345678901",
    ],
)
def test_a_number_keeps_its_spelling(number: str) -> None:
    data = f'{{"event": 1, "data": [{number},\n{{"a": {number}}}]}}'.encode()
    loads(data)
    assert member(data, "data") == f'[{number},{{"a": {number}}}]'.encode()


@each("data", [b"{}", b"[]", b'"data"', b"1", b'["data"]', b'{"x": {"data": 1}}', b'[{"data": 1}]'])
def test_a_member_that_is_not_there(data: bytes) -> None:
    loads(data)
    with pytest.raises(KeyError):
        member(data, "data")


class Writer:
    """Writes random JSON in odd spellings, and keeps what each number and string was spelled like."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def blank(self) -> str:
        return "".join(self.dice.choices(" \t\r\n", k=self.dice.choice([0, 0, 0, 1, 3])))

    def string(self, text: str) -> str:
        ways: list[Any] = [lambda c: c, lambda c: f"\\u{ord(c):04x}", lambda c: json.dumps(c)[1:-1]]
        return '"' + "".join(self.dice.choice(ways if c >= " " and c not in '"\\' else ways[1:])(c) for c in text) + '"'

    def value(self, depth: int) -> str:
        kind = self.dice.choice("nsw" if depth == 0 else "nswaaoo")
        if kind == "n":
            return self.dice.choice(["-", ""]) + self.dice.choice(["0", "1E2", "9007199254740993.0", "1e-400", "1.50"])
        if kind == "s":
            return self.string("".join(self.dice.choices('data{}[]":,\\/ \t\r\nü\u2028', k=self.dice.randrange(8))))
        if kind == "w":
            return self.dice.choice(["null", "true", "false"])
        return self.array(depth) if kind == "a" else self.object(depth, self.dice.sample(["data", "event", "a", ""], 2))

    def array(self, depth: int) -> str:
        items = [self.blank() + self.value(depth - 1) + self.blank() for _ in range(self.dice.randrange(4))]
        return f"[{','.join(items) or self.blank()}]"

    def object(self, depth: int, keys: list[str]) -> str:
        items = [f"{self.string(key)}{self.blank()}:{self.blank()}{self.value(depth - 1)}" for key in keys]
        return f"{{{','.join(self.blank() + item + self.blank() for item in items)}}}"


def test_random_members_mean_the_same_and_their_numbers_are_spelled_the_same() -> None:
    class Spelled(str):
        """A number as it was spelled: no string equals it by chance in the comparison below."""

        def __eq__(self, other: object) -> bool:
            return type(other) is Spelled and str.__eq__(self, other)

        __hash__ = str.__hash__

    def spelled(data: bytes) -> Any:
        return json.loads(data, parse_int=Spelled, parse_float=Spelled)

    for seed in range(1_000):
        writer = Writer(seed)
        keys = writer.dice.sample(["event", "data", "x", "", 'da"ta', "data\\"], 6)
        data = (writer.blank() + writer.object(6, keys) + writer.blank()).encode()
        loads(data)
        for key in keys:
            raw = member(data, key)
            assert spelled(raw) == spelled(data)[key], (seed, key, data)
            assert not set(raw) & set(b"\t\r\n") and len(raw) <= len(data)


@each(
    "data",
    [
        b'{"' + b"\\\\" * 500_000 + b'": 1, "data": 2}',
        b"{" + b"".join(b'"%d":0,' % n for n in range(100_000)) + b'"data": 2}',
        b" " * 1_000_000 + b'{"data": 2}',
        b'{"x": [' + b"0," * 500_000 + b'0], "data": 2}',
    ],
    ids=["a key of escapes", "many keys", "blanks", "a long value before it"],
)
def test_a_member_of_a_hostile_megabyte_is_found_at_once(data: bytes) -> None:
    start = time.perf_counter()
    assert member(data, "data") == b"2"
    assert time.perf_counter() - start < 1
