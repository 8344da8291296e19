"""rules.py: which URLs and secrets are what they should be, and what else a request must be."""

from __future__ import annotations

import base64
import string
import time
from typing import Any

import pytest
from support import each
from test_addresses import asked

from addresses import MAX_URL, Guard, url_problem
from messages import is_secret
from rules import (
    Allowance,
    Rules,
    check_secret,
    check_url,
    members,
    preferred_wait,
    text,
    unix_time,
)
from strict_json import shown
from wire import Problem


FAILED = "the newest ping to this url failed: "
RESOLVES = FAILED + "not connected: intranet.example resolves to the private address%s; the owner can start it"


@pytest.mark.parametrize(
    "url, reason, told",
    [
        ("https://a.example/", FAILED + "answered 503", FAILED + "answered 503"),
        ("https://intranet.example/", RESOLVES % " 10.0.0.7", RESOLVES % ""),
        ("https://intranet.example/", RESOLVES % " fd00::1", RESOLVES % ""),
        ("http://localhost:8080/", FAILED + "answered 503", FAILED[:-2]),
        ("http://192.168.1.5/", FAILED + "connection refused: nothing listens on that port", FAILED[:-2]),
    ],
)
def test_why_a_ping_failed_is_told_to_strangers_without_what_is_private(url: str, reason: str, told: str) -> None:
    rules = Rules(["a"], Guard())
    assert rules.reason(asked(), url, reason) == reason
    assert rules.reason(asked(x_forwarded_for="203.0.113.7"), url, reason) == told


# --- tokens ------------------------------------------------------------------------------------------------------


def owns(authorization: bytes | None, token: str = "t0ken") -> bool:
    """Whether a stranger who sends this field is an owner."""
    sent = {} if authorization is None else {"authorization": authorization.decode("latin-1")}
    return Rules(["a"], Guard(), token).is_owner(asked(via="1.1 tunnel", **sent))


@each("value", [b"Bearer t0ken", b"bEARER t0ken", b"Bearer   t0ken"])
def test_a_token_makes_an_owner(value: bytes) -> None:
    assert owns(value)


@each("value", [b"\xff", b"t0ken\xff", b"\xe9", "t0kén".encode(), b"t0ken t0ken", b"t0keN", b"t0ken,", b""])
def test_another_token_makes_none(value: bytes) -> None:
    assert not owns(b"Bearer " + value)


@each("value", [None, b"", b"Bearer", b"Bearer ", b"Basic t0ken", b"t0ken", b"Bearert0ken", b"Bearer: t0ken"])
def test_another_scheme_or_none_makes_none(value: bytes | None) -> None:
    assert not owns(value)
    assert not owns(value, token=""), "an empty token is carried by nobody"


# --- URLs --------------------------------------------------------------------------------------------------------

LABEL = "a" * 63
LONGEST = ".".join([LABEL, LABEL, LABEL, "a" * 61])  # 253 characters
HOSTS = f"""
    example.com EXAMPLE.com example.com. a a.b.c xn--bcher-kva.example 1.example 3com.example my_host _dmarc.example
    a--b.example {LABEL}.example {LONGEST} {LONGEST}. 127.0.0.1 127.1 2130706433 0x7f.1 0x7f000001 010.010.010.010
    1.2.3.4. [::1] [2001:db8::1] [::ffff:127.0.0.1] [::FFFF:0:0] localhost example.1a example.a1 1a
"""
NO_HOSTS = f"""
    good.example[::ffff:127.0.0.1] [::1]x [::1]. [::1.] [::ffff:8.8.8.8.] x[::1] [[::1]] [::1 ::1] [zz] []
    [::1]] [1.2.3.4] [::1%25eth0] [::1%eth0]
    [v1.a] [:::1] [::g] [1:2:3:4:5:6:7:8:9] a..b .a a.. . .. -a.example a-.example a.-b a.b- - _- {LABEL}a.example
    {LONGEST}a a.{LONGEST} 1.2.3.256 1.2.3.4.5 999999999999 example.1 example.0x1 a.0x 0x 0xg1.0x1 1.2.3.08 a.1. a%41.example
    a,b a;b a=b a&b a!b a$b a'b a(b a*b a+b a~b a"b a<b a\\b a^b a`b a{{b a|b
"""


@each("host", HOSTS.split())
def test_a_host_may_be_registered(host: str) -> None:
    for url in (f"http://{host}", f"https://{host}:8443/hook?a=b", f"HTTP://{host}?x"):
        assert url_problem(url) is None
        assert check_url(url) == url


@each("host", NO_HOSTS.split())
def test_a_host_that_is_none_may_not(host: str) -> None:
    for url in (f"http://{host}/hook", f"https://{host}:8443", f"http://{host}?a"):
        problem = url_problem(url)
        assert problem and "url is" in problem and "valid host" in problem
        with pytest.raises(Problem) as caught:
            check_url(url)
        assert (caught.value.status, caught.value.detail) == (422, problem)


@pytest.mark.parametrize(
    "rest", ["", "/", "/hook", "/hook?", "?", "?a", "/a?b?c/d:e@f", "/%zz", "/[]", "//", "/a\\b", "/@"]
)
@pytest.mark.parametrize("port", ["", ":", ":1", ":80", ":65535", ":00080"])
def test_what_follows_the_host_may_be_anything_visible(port: str, rest: str) -> None:
    assert url_problem(f"http://h.example{port}{rest}") is None


@each(
    "port", [":0", ":00000", ":65536", ":99999", ":-1", ":+80", ":8_0", ":0x50", ":a", ":80:80", ":000080"]
)
def test_a_port_that_is_none(port: str) -> None:
    problem = url_problem(f"http://h.example{port}/hook")
    assert problem and ("port" in problem or "valid host" in problem)


NO_URLS: dict[str, list[Any]] = {
    "absolute http or https URL": [
        None,
        5,
        ["http://h/"],
        {},
        "",
        "h",
        "//h/",
        "/hook",
        "ftp://h/",
        "http:/h",
        "http:h",
    ]
    + [" http://h/", "#", "javascript:alert(1)"],
    "valid host": ["http://", "http:///hook", "http://?a", "http://:80"],
    "credentials": ["http://a@h/", "http://a:b@h/", "http://@h/", "https://h.example@[::1]/"],
    "fragment": ["http://h/#", "http://h/#top", "http://h#"],
    "visible ASCII": ["http://h/a b", "http://b\u00fccher.example", "http://h/\u00fc", "http://h/\n", "http://h/\0"]
    + [f"http://h/{character}" for character in "\r\t\x7f\x80\u2028\ud800\uff0e"],
    "2,049 characters, expected 2,048": ["http://h/" + "a" * (MAX_URL - 8)],
}


@pytest.mark.parametrize(("words", "url"), [(words, url) for words, urls in NO_URLS.items() for url in urls])
def test_what_is_no_url_of_a_webhook(words: str, url: Any) -> None:
    problem = url_problem(url)
    assert problem and words in problem and "expected" in problem and problem.isprintable() and len(problem) < 250


def test_a_url_may_be_as_long_as_the_limit() -> None:
    assert url_problem("http://h/" + "a" * (MAX_URL - 9)) is None


@each(
    "url", ["http://" + "a." * 1_000 + "-", "http://" + "a" * 2_000, "http://" + "1." * 1_000, "http://[" + ":" * 2_000]
)
def test_a_hostile_url_costs_no_time(url: str) -> None:
    start = time.perf_counter()
    assert url_problem(url)
    assert time.perf_counter() - start < 0.5


# --- times ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, seconds",
    [(7, 7.0), (1.5, 1.5), ("1970-01-02", 86_400.0), ("1970-01-01T00:00:01Z", 1.0), ("1970-01-01T02:00:01+02:00", 1.0)]
    + [("1970-01-01T00:01", 60.0), ("1970-01-01T00:00:00.250000Z", 0.25)],
)
def test_a_time_is_utc_wherever_we_are(value: object, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert unix_time(value) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


# --- secrets -----------------------------------------------------------------------------------------------------


def secret(size: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(size))).decode()


@each("size", [24, 25, 26, 32, 63, 64])
def test_a_secret_has_24_to_64_bytes(size: int) -> None:
    assert is_secret(secret(size)) and check_secret(secret(size)) == secret(size)


@each(
    "value",
    [
        "",
        "whsec_",
        "whsec_!!!!",
        "whsec_abc",
        secret(23),
        secret(65),
        secret(32).rstrip("="),
        secret(32) + "=",
        secret(24) + "==",
    ]
    + [
        secret(24) + "====",
        secret(32)[6:],
        secret(32).upper(),
        secret(32) + "\n",
        " " + secret(32),
        secret(32).replace("A", "-"),
    ]
    + ["whsec_" + "=" * 32, "whsec_" + "é" * 32, secret(24)[:-4] + "A===", "whsec_" + "A" * 2_000_000],
    ids=lambda value: ascii(value)[:30],
)
def test_anything_else_is_no_secret_and_is_not_shown(value: str) -> None:
    assert not is_secret(value)
    with pytest.raises(Problem) as caught:
        check_secret(value)
    assert caught.value.status == 422 and (value[6:] == "" or value[6:] not in caught.value.detail)


@each("value", [5, True, [], {}, [secret(32)]])
def test_a_secret_is_a_text(value: Any) -> None:
    with pytest.raises(Problem):
        check_secret(value)


def test_a_webhook_needs_no_secret() -> None:
    assert check_secret(None) is None


# --- the rest ----------------------------------------------------------------------------------------------------


def test_an_allowance_is_a_burst_and_then_a_rate() -> None:
    now = [100.0]
    allowance = Allowance(2.0, 3.0, lambda: now[0])
    assert [allowance.take() for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    now[0] += 0.25
    assert allowance.take() == 0.25
    now[0] += 0.25
    assert [allowance.take(), allowance.take()] == [0, 0.5]
    now[0] += 1_000
    assert [allowance.take() for _ in range(4)] == [0, 0, 0, 0.5]


@each("body", [b"1", b"null", b'"x"', b"[{}]"])
def test_a_body_that_is_no_object_is_told_what_was_expected(body: bytes) -> None:
    request = asked(content_type="application/json")._replace(body=body)
    with pytest.raises(Problem, match="expected an object with url, event") as caught:
        members(request, "url", "event")
    assert caught.value.status == 422 and body.decode()[:3] in caught.value.detail
    assert members(request._replace(body=b'{"more": 1}'), "url") == {"more": 1}


def test_a_text_is_neither_missing_nor_empty_nor_something_else() -> None:
    assert text({"event": "x"}, "event") == "x"
    for value in (None, "", 5, ["x"]):
        with pytest.raises(Problem, match="event is .*, expected a text"):
            text({"event": value}, "event")


def test_a_value_is_shown_short_and_printable() -> None:
    assert [shown(value) for value in (None, "a", [1])] == ["missing", '"a"', "[1]"]
    for value in (string.printable * 9, "\ud800\u2028\x1b", ["é"] * 99):
        assert shown(value).isprintable() and len(shown(value)) <= 80


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, WAIT = 5", 5),
        ('wait="7"; a=b', 7),
        ("wait=99999", 30),
        ("wait=0", 0),
        ("wait", None),
    ]
    + [("await=5", None), ("wait=-1", None), ("wait=soon", None), ("wait=5x", None), ("", None)],
)
def test_a_preferred_wait(prefer: str, seconds: float | None) -> None:
    assert preferred_wait(asked(prefer=prefer)) == seconds
