"""What command lines take, and what is said about the rest: one line, without what may be a secret."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import each

import exposee
import receiver
import register_webhook
from options import (
    Parser,
    credential,
    event_names,
    host_name,
    port_number,
    schedule,
    seconds,
    store_path,
    thread_count,
    web_url,
)


@pytest.mark.parametrize("argv", [["--nonsense"], ["--port", "x"], ["\x1b[31m\n"], ["--port"], ["--url", "\udcff"]])
def test_a_mistake_on_the_command_line_is_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("Do nothing.")
    parser.add_argument("--port", type=port_number)
    parser.add_argument("--url", type=web_url("http://localhost:8080", "WEBHOOK_URL"))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(argv)
    out, error = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert error.startswith("error: ") and error.endswith("; see --help\n") and error[:-1].isprintable()


def test_help_breaks_no_name_and_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("EXPOSEE_URL", "WEBHOOK_URL", "EXPOSEE_TOKEN", "WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    for program in (exposee, receiver, register_webhook):
        with pytest.raises(SystemExit):
            program.parser().parse_args(["--help"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "False" not in out and "None" not in out
    for name in ("http://localhost:8080/webhook-receiver", "payment_received, ", "invoice_completed)"):
        assert name in out


@each("text", ["", "-1", "65536", "3.0", "٣", "²", "0x50", "9" * 5_000, " 80"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        port_number(text)


@each(
    "text",
    [
        "", "localhost:3000", "/path", "ftp://h/", "file:///etc/passwd", "http://", "http:h", "http://[::1", "http://h:99999",
        "http://h:0", "http://h:٣", "http://bücher.example", "http://h/ü", "http://h/a b", "http://h/\udcff",
        "http://h/\n", "http://h\n", "http://h/\x7f", "http://h/#top", "http://h#", "http://u:password@h/", "http://u@h/",
        "http://h\\x/", "http:///h", "http://a b/", " http://h/", "http://[zz]/",
        "http://a..b/", "http://.a/", "http://a../", "http://./", "http://-/", "http://-a/", "http://a-.b/",
        "http://%s/" % ("a" * 64), "http://[:::1]/", "http://[::g]/", "http://[1.2.3.4]/", "http://[1:2:3:4:5:6:7:8:9]",
        "http://[]/", "http://[::1]x/", "http://a[::1]/",
    ],
)  # fmt: skip
def test_what_is_no_web_url(text: str) -> None:
    for query in (True, False):
        with pytest.raises(argparse.ArgumentTypeError):
            web_url("http://localhost:3000", "EXPOSEE_URL", query)(text)


def test_what_is_a_port_or_a_web_url() -> None:
    assert [port_number(text) for text in ("0", "80", "65535")] == [0, 80, 65_535]
    for text in ("http://localhost:3000", "https://a.example/b?c=d", "http://[::1]:80/", "HTTP://H/", "http://h/a@b",
                 "http://a.b./", "http://my_host:1", "http://%s.x-y" % ("a" * 63), "http://[::FFFF:127.0.0.1]", "http://127.1"):  # fmt: skip
        assert web_url("http://localhost:8080", "WEBHOOK_URL")(text) == text


@each(
    "value", ["", " ", " t0p", "t0p ", "t0p\n", "t0\tp", "\x1b[2J", "ü", "\udcff", "\x7f", "t0p\u00a0"]
)
def test_what_is_no_credential(value: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        credential("EXPOSEE_TOKEN")(value)
    message = str(caught.value)
    assert "EXPOSEE_TOKEN" in message and message.isprintable() and "t0" not in message


def test_what_is_a_credential() -> None:
    for value in ("a", "the-0wner-only", "It's a Secret to Everybody", "!~"):
        assert credential("EXPOSEE_TOKEN")(value) == value


WRONG: dict[Callable[[str], Any], list[str]] = {
    host_name: ["", " ", "a b", "a\nb", "\u00fc", "\udcff"],
    seconds: ["", "x", "0", "-1", "nan", "inf", "1e400", "86401"],
    schedule: [",", "5,", "5,,6", "5,x", "0", "5,-1", "nan"],
    event_names: ["", ",", "a,,b", "a b", "a/b", "\u00e4", "a" * 101, "ping", "a,ping"],
    store_path: ["", "webhooks", "webhooks.jsonl", "webhooks.lock", "a.secrets.json", "folder/", ".json"],
    thread_count: ["", "0", "-1", "65", "1.5", "\u0663", "9" * 5_000],
}


@each("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_wrong_value_is_told_in_one_short_line(kind: Callable[[str], Any]) -> None:
    for text in WRONG[kind]:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(text)
        assert "\n" not in str(caught.value), text


def test_right_values() -> None:
    assert (seconds("0.5"), seconds("86400")) == (0.5, 86_400.0)
    assert (schedule(""), schedule("5,300")) == ((), (5.0, 300.0))
    assert event_names("a, b_1.c-D") == ("a", "b_1.c-D")
    assert store_path("folder/my.webhooks.json") == Path("folder/my.webhooks.json")
    assert (thread_count("1"), thread_count("64")) == (1, 64)


@each("port", ["1", "080", "9999", "10000", "59999", "65535"])
def test_a_url_has_a_port_that_there_is(port: str) -> None:
    assert web_url("http://localhost", "WEBHOOK_URL")(f"http://h:{port}/") == f"http://h:{port}/"


@each("port", ["0", "000", "65536", "65540", "65600", "66000", "70000", "100000", "-1"])
def test_a_url_with_a_port_that_there_is_not_is_refused(port: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        web_url("http://localhost", "WEBHOOK_URL")(f"http://h:{port}/")


def test_help_has_no_colours_on_any_python(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(SystemExit):
        Parser("Do nothing.").parse_args(["--help"])
    assert "\x1b" not in capsys.readouterr().out
