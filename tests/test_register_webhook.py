"""The integrator's script: what it sends, what it prints, and how it ends."""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from receivers import raw_server
from support import Behaviour, Listener, Pair, Program, free_port

import options
import register_webhook
from register_webhook import main

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MINE = "http://localhost:8080/webhook-receiver"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that the script looks at."""
    for name in ("EXPOSEE_URL", "WEBHOOK_URL", "WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)


class Ran:
    """What the script did with these arguments."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *argv: str) -> None:
        try:
            self.code: object = main(argv)
        except SystemExit as ended:
            self.code = ended.code
        gc.collect()  # a socket that was left open is this test's failure, and not that of a later one
        gc.freeze()  # else each of these looks through all that the tests before have left
        self.out, self.err = capsys.readouterr()


def answer(value: Any, status: str = "200 OK") -> bytes:
    body = json.dumps(value).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def sent(listener: Listener) -> tuple[str, Any, bytes]:
    """(method and path, body, head) of the next request."""
    head, _, body = listener.next().partition(b"\r\n\r\n")
    return head.split(b" HTTP/")[0].decode(), json.loads(body) if body else None, head


# --- what it sends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, line, body",
    [
        ([], "POST /webhooks/register", {"url": MINE, "event_types": ["payment_received"]}),
        (["--url", "http://h/?a=b", "--events", "a"], "POST /webhooks/register",
         {"url": "http://h/?a=b", "event_types": ["a"]}),
        (["--events", "a,b"], "POST /webhooks/register", {"url": MINE, "event_types": ["a", "b"]}),
        (["--events", "a", "--secret", SECRET], "POST /webhooks/register",
         {"url": MINE, "event_types": ["a"], "secret": SECRET}),
        (["--unregister"], "DELETE /webhooks/unregister", {"url": MINE, "event": "payment_received"}),
        (["--unregister", "--secret", SECRET, "--events", "a"], "DELETE /webhooks/unregister",
         {"url": MINE, "event": "a", "secret": SECRET}),
        (["--ping"], "GET /ping", None),
        (["--ping-back", "--url", "http://h/"], "POST /webhooks/ping-back", {"url": "http://h/"}),
    ],
)  # fmt: skip
def test_each_option_sends_its_request(
    argv: list[str], line: str, body: Any, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.answer = answer({"message": "done"})
    ran = Ran(capsys, "--exposee", listener.url("/"), *argv)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "done\n" if argv == ["--ping"] else ran.out.endswith(' Response: 200 {"message": "done"}\n')
    request_line, request_body, head = sent(listener)
    assert (request_line, request_body) == (line, body)
    assert (b"Content-Type: application/json" in head) == (body is not None)
    assert b"Bypass-Tunnel-Reminder: 1" in head and listener.requests.empty()


def test_each_event_is_unregistered_by_itself(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    listener.answer = answer({"message": "1 webhook(s) unregistered"})
    ran = Ran(capsys, "--exposee", listener.url(""), "--unregister", "--events", "a,b")
    assert [sent(listener)[1]["event"] for _ in range(2)] == ["a", "b"] and ran.code == 0
    assert ran.out == 'Unregister Response: 200 {"message": "1 webhook(s) unregistered"}\n' * 2


def test_the_path_of_the_exposee_is_kept(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    Ran(capsys, "--exposee", listener.url("/behind/a/proxy/"), "--ping")
    assert sent(listener)[0] == "GET /behind/a/proxy/ping"


def test_the_environment_says_what_options_do_not(
    listener: Listener, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPOSEE_URL", listener.url(""))
    monkeypatch.setenv("WEBHOOK_URL", "http://environment/")
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    Ran(capsys)
    assert sent(listener)[1] == {"url": "http://environment/", "event_types": ["payment_received"], "secret": SECRET}
    Ran(capsys, "--url", "http://option/", "--secret", "whsec_other")
    assert sent(listener)[1] == {"url": "http://option/", "event_types": ["payment_received"], "secret": "whsec_other"}


# --- with an exposee ------------------------------------------------------------------------------------------


def test_the_script_and_the_exposee_understand_each_other(
    pair: Pair, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ("--exposee", pair.url, "--url", listener.url(), "--events", "payment_received,invoice_completed")
    ran = Ran(capsys, *here, "--secret", SECRET)
    message = "Webhook registered for: payment_received, invoice_completed"
    assert ran.out == f'Register Response: 200 {{"message": "{message}"}}\n'
    assert pair.store.secrets(listener.url()) == [SECRET]

    ran = Ran(capsys, *here, "--ping-back")
    assert (ran.code, ran.out) == (1, "") and ran.err.startswith("Ping-back failed: 409 there is no ping")
    ran = Ran(capsys, *here, "--ping")
    assert (ran.code, ran.out.splitlines()) == (
        0, ["Ping delivered to 1 of 1 webhook(s)", f"delivered  204  {listener.url()}"]
    )  # fmt: skip
    ran = Ran(capsys, *here, "--ping-back")
    assert (ran.code, ran.out) == (0, 'Ping-back Response: 200 {"event": "ping", "data": "Ping from Exposee"}\n')

    ran = Ran(capsys, *here, "--unregister")
    assert ran.out == 'Unregister Response: 200 {"message": "1 webhook(s) unregistered"}\n' * 2
    ran = Ran(capsys, *here, "--unregister")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == [
        f"Unregister of payment_received from {listener.url()} failed: 404 0 webhook(s) unregistered",
        f"Unregister of invoice_completed from {listener.url()} failed: 404 0 webhook(s) unregistered",
    ]
    assert pair.store.webhooks() == []


PINGED = {"message": "Ping delivered to 1 of 2 webhook(s)", "id": "msg_1"}
OUTCOMES = [{"url": "http://a/", "state": "delivered", "status": 204}, {"url": "http://b/", "state": "failed", "error": "no"}]


@pytest.mark.parametrize(
    "value, argv, out, code",
    [
        ({**PINGED, "deliveries": OUTCOMES}, [], [PINGED["message"], "delivered  204  http://a/", "failed     no  http://b/"], 0),
        ({**PINGED, "deliveries": [{"url": "http://a/", "state": "delivering"}]}, [],
         [PINGED["message"], "delivering  no answer yet  http://a/"], 0),
        (PINGED, [], [PINGED["message"]], 0),
        (PINGED, ["--json"], [f"Ping Response: 200 {json.dumps(PINGED)}"], 0),
        ({"message": "Ping delivered to 0 of 1 webhook(s)"}, [], ["Ping delivered to 0 of 1 webhook(s)"], 1),
        ({"message": "nobody is registered for any event"}, ["--json"],
         ['Ping Response: 200 {"message": "nobody is registered for any event"}'], 1),
        ([1], [], ["[1]"], 0),
        ({"message": "a\nb", "deliveries": 1}, [], ['{"message": "a\\nb", "deliveries": 1}'], 0),
    ],
)  # fmt: skip
def test_what_came_of_a_ping_is_for_people(
    value: Any, argv: list[str], out: list[str], code: int, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.answer = answer(value)
    ran = Ran(capsys, "--exposee", listener.url(""), "--ping", *argv)
    assert (ran.code, ran.out.splitlines(), ran.err) == (code, out, "")


@pytest.mark.parametrize(
    "exposee, url, warned",
    [
        ("https://public.example", MINE, True),
        ("https://public.example", "http://192.168.1.30:8080/webhook-receiver", True),
        ("http://192.168.1.20:3000", MINE, True),
        ("https://public.example", "https://mine.example/webhook-receiver", False),
        ("http://localhost:3000", MINE, False),
        ("http://127.0.0.1:3000", "http://192.168.1.30:8080/webhook-receiver", False),
    ],
)
def test_a_url_that_the_exposee_cannot_reach_is_warned_of_before_it_is_sent(
    exposee: str, url: str, warned: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register_webhook, "send", lambda *_: (200, capsys.readouterr().err.rstrip()))
    ran = Ran(capsys, "--exposee", exposee, "--url", url)
    said = ran.out.partition(" Response: 200 ")[2]
    advice = f"warning: the exposee is elsewhere and cannot reach {url}: give the public URL of your tunnel with --url"
    assert (ran.code, said) == (0, (advice if warned else "") + "\n")
    assert "warning" not in Ran(capsys, "--exposee", exposee, "--url", url, "--ping").out


@pytest.mark.parametrize(
    "argv, detail",
    [
        (["--events", "nonsense"], "422 an item of event_types is"),
        (["--events", ""], "422 an item of event_types is"),
        (["--secret", "whsec_short"], "422 secret is not"),
        (["--url", "http://169.254.169.254/"], "403 "),
    ],
)
def test_a_refusal_is_said_in_one_line(
    argv: list[str], detail: str, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, "--exposee", pair.url, *argv)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"Registration failed: {detail}") and ran.err.count("\n") == 1
    assert "password" not in ran.err and "whsec_short" not in ran.err


# --- when it goes wrong ---------------------------------------------------------------------------------------


def once(data: bytes) -> Behaviour:
    """An answer after which the connection is closed."""

    def send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return send


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "the answer is not HTTP/1.x"),
        (answer({"detail": "no\x1b[2J\nline"}, "400 Bad"), "400 no\\x1b[2J\\nline"),
        (answer({"error": "no detail"}, "500 Oh No"), '500 {"error": "no detail"}'),
        (answer("detail", "500 Oh No"), '500 "detail"'),
        (answer({"detail": [1]}, "500 Oh No"), "500 [1]"),
        (b"HTTP/1.1 500 No\r\nX: \xff\r\nContent-Length: 90000\r\n\r\n" + b"[" * 90_000, "500 [[["),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 15\r\n\r\n<html>\r\n\xff</html>"[:-1], "502 <html>\\r\\n"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://h/\r\nContent-Length: 0\r\n\r\n",
            "302 it leads to https://h/; give that URL to --exposee",
        ),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "302 "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "the answer was cut off after 4 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf", "the answer was cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n" + b"x" * 1_048_577, "the answer was cut off after 1,048,577 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_048_577, "the answer was cut off after 1,048,577 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the answer "),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, "the answer is not HTTP/1.x"),
        (b"HTTP/1.1 200 " + b"x" * 70_000, "the answer is not HTTP/1.x"),
        (b"", "the connection was closed without an answer"),
    ],
)
def test_another_answer_is_a_failure_in_one_line(
    data: bytes, reason: str, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.answer = once(data)
    ran = Ran(capsys, "--exposee", listener.url(""), "--raw")
    assert ran.code == 1 and ran.out.startswith("--- POST http://127.0.0.1:")
    assert ran.err.startswith("Registration failed: " + reason) and ran.err[:-1].isprintable()
    assert ran.err.endswith("\n")


def test_a_refused_event_does_not_keep_the_others_registered(
    listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.answer = answer({"detail": "no"}, "404 Not Found")
    ran = Ran(capsys, "--exposee", listener.url(""), "--unregister", "--events", "a, b,c")
    assert ran.code == 1
    assert ran.err.splitlines() == [f"Unregister of {name} from {options.WEBHOOK} failed: 404 no" for name in "abc"]
    assert listener.requests.qsize() == 3


def test_without_an_exposee_it_is_asked_once(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    listener.answer = b""
    listener.close()
    ran = Ran(capsys, "--exposee", listener.url(""), "--unregister", "--events", "a,b,c")
    assert ran.code == 1 and ran.err.count("\n") == 1


def test_a_refused_connection_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ran = Ran(capsys, "--exposee", f"http://127.0.0.1:{port}")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Registration failed: connection refused") and ran.err.count("\n") == 1
    assert f"(http://127.0.0.1:{port}/webhooks/register)" in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ["--exposee", "localhost:3000"],
        ["--exposee", "ftp://h/"],
        ["--exposee", "http://[::1"],
        ["--exposee", "http://[:::1]"],
        ["--exposee", "http://a..b"],
        ["--exposee", "http://localhost:99999"],
        ["--exposee", "http://user:password@localhost:3000"],
        ["--exposee", "http://bücher.example"],
        ["--exposee", "http://localhost:3000/a b"],
        ["--exposee", "http://localhost:3000/ü"],
        ["--exposee", "http://localhost:3000/\udcff"],
        ["--exposee", "http://localhost:3000/#top"],
        ["--exposee", "http://localhost:3000?x=1"],
        ["--exposee", "http://localhost:3000/?x=1"],
        ["--url", "http://user:password@bücher.example/"],
        ["--url", "http://h/\udcff"],
        ["--url", "http://h/#top"],
        ["--secret", ""],
        ["--secret", " whsec_password"],
        ["--secret", "whsec_password\n"],
        ["--secret", "passwordü"],
        ["--secret", "password\udcff"],
        ["--url", "nonsense"],
        ["--url", ""],
        ["--ping", "--unregister"],
        ["--ping-back", "--ping"],
        ["--nonsense"],
        ["positional"],
        ["--events"],
    ],
)
def test_an_option_that_makes_no_sense_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, *argv)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1 and "password" not in ran.err


@pytest.mark.parametrize("name", ["EXPOSEE_URL", "WEBHOOK_URL"])
def test_an_empty_variable_is_as_if_it_were_not_set(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "")
    ran = Ran(capsys, "--help")
    assert ran.code == 0 and "http://localhost:3000" in ran.out and "http://localhost:8080" in ran.out


@pytest.mark.parametrize("name", ["EXPOSEE_URL", "WEBHOOK_URL"])
def test_a_variable_that_makes_no_sense_ends_with_2(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "nonsense")
    ran = Ran(capsys)
    assert (ran.code, ran.out) == (2, "") and ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "option, example", [("--exposee", "http://localhost:3000"), ("--url", "http://localhost:8080/webhook-receiver")]
)
def test_the_example_is_one_for_that_option(option: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    err = Ran(capsys, option, "nonsense").err
    assert f"argument {option}: " in err and f"such as {example};" in err


@pytest.mark.parametrize("value", ["", " ", "whsec_x\n", "\xfc", "a\x1b"])
def test_a_secret_in_the_environment_that_is_none_is_refused(
    value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one must not register without a secret: deliveries would go out unsigned."""
    monkeypatch.setenv("WEBHOOK_SECRET", value)
    ran = Ran(capsys)
    assert (ran.code, ran.out) == (2, "") and "WEBHOOK_SECRET" in ran.err and ran.err.count("\n") == 1


def test_an_event_that_cannot_be_sent_as_it_is_is_no_traceback(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "--exposee", pair.url, "--events", "\udcff")
    assert (ran.code, ran.out) == (1, "") and ran.err.count("\n") == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {listener.url('/elsewhere')}\r\nContent-Length: 0\r\n\r\n"
    listener.answer = head.encode()
    ran = Ran(capsys, "--exposee", listener.url(""))
    assert ran.code == 1 and f"{status} it leads to {listener.url('/elsewhere')};" in ran.err
    assert listener.requests.qsize() == 1


def test_an_exposee_whose_tls_breaks_after_the_handshake_is_a_failure(
    trusted: ssl.SSLContext, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer_in_plain(connection: socket.socket) -> None:
        connection.recv(65_536)
        socket.socket.send(connection, b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    with raw_server(answer_in_plain, trusted) as port:
        ran = Ran(capsys, "--exposee", f"https://localhost:{port}", "--ping")
    assert ran.code == 1 and ran.err.startswith("Ping failed: [SSL") and ran.err.count("\n") == 1


def test_proxy_variables_are_not_obeyed(
    listener: Listener, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    listener.answer = answer({"message": "done"})
    assert Ran(capsys, "--exposee", listener.url("")).code == 0


def test_an_exposee_that_is_silent_is_given_up(
    listener: Listener, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register_webhook, "SECONDS", 0.2)
    listener.answer = listener.hang
    ran = Ran(capsys, "--exposee", listener.url(""))
    assert ran.code == 1 and ran.err.startswith("Registration failed: no answer in time")


def test_a_name_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    ran = Ran(capsys, "--exposee", "http://no.such.example")
    assert ran.code == 1 and "the host name was not found" in ran.err and "http://no.such.example/" in ran.err


# --- another secret ---------------------------------------------------------------------------------------------


def test_rotating_prints_the_new_secret_and_what_to_do_next(
    pair: Pair, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ("--exposee", pair.url, "--url", listener.url(), "--secret", SECRET)
    Ran(capsys, *here)
    ran = Ran(capsys, *here, "--rotate-secret")
    first, answered, then = ran.out.splitlines()
    new = first.removeprefix("New secret: ")
    assert (ran.code, ran.err) == (0, "") and answered.startswith("Register Response: 200 ")
    assert "restart the receiver" in then and "a day" in then
    assert pair.store.secrets(listener.url()) == [new, SECRET]
    assert Ran(capsys, *here, "--rotate-secret", new).code == 0  # again, as if the answer had been lost
    assert pair.store.secrets(listener.url()) == [new, SECRET]


@pytest.mark.parametrize(
    "reply, words",
    [
        (answer({"detail": "no"}, "403 No"), "nothing has changed"),
        (answer({"detail": "full"}, "503 No"), "may have the new secret or not"),
        (b"", "may have the new secret or not"),
    ],
    ids=["refused", "not stored", "no answer"],
)
def test_a_rotation_that_fails_says_which_secret_holds(
    reply: bytes, words: str, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    """The secret is printed before it is sent: whatever the exposee has, it is not lost."""
    listener.answer = reply or (lambda connection: connection.shutdown(socket.SHUT_RDWR))
    ran = Ran(capsys, "--exposee", listener.url(""), "--secret", SECRET, "--rotate-secret")
    line, body, _ = sent(listener)
    assert line == "POST /webhooks/register" and body["old_secret"] == SECRET and body["secret"] != SECRET
    assert (ran.code, ran.out) == (1, f"New secret: {body['secret']}\n")
    assert words in ran.err and ("--rotate-secret" in ran.err) == ("may" in words)


def test_two_rotations_make_two_secrets(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    listener.answer = answer({"message": "done"})
    for _ in range(2):
        ran = Ran(capsys, "--exposee", listener.url(""), "--rotate-secret")
        assert ran.code == 0 and "The new secret signs now: restart the receiver" in ran.out
    first, second = sent(listener)[1], sent(listener)[1]
    assert first["secret"] != second["secret"] and "old_secret" not in first


# --- as a program ---------------------------------------------------------------------------------------------


def test_raw_shows_the_bytes_without_the_secret(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    listener.answer = answer({"message": "done"})
    ran = Ran(capsys, "--exposee", listener.url(""), "--secret", SECRET, "--raw")
    lines = ran.out.splitlines()
    asked = listener.next().replace(SECRET.encode(), b"***").decode()
    assert ran.code == 0 and lines[0] == f"--- POST {listener.url('/webhooks/register')}"
    assert [line[2:] for line in lines if line.startswith("> ")] == asked.split("\r\n")
    assert "< HTTP/1.1 200 OK" in lines and '< {"message": "done"}' in lines
    assert lines[-1] == 'Register Response: 200 {"message": "done"}'
    assert SECRET not in ran.out and SECRET[6:] not in ran.out and '"secret": "***"' in ran.out


def test_raw_shows_what_was_asked_when_there_is_no_answer(
    listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.answer = b"SSH-2.0-OpenSSH_9.9\r\n\r\n"
    ran = Ran(capsys, "--exposee", listener.url(""), "--raw")
    assert ran.code == 1 and "> POST /webhooks/register HTTP/1.1" in ran.out and "\n< " not in ran.out


def test_exit_codes_and_streams_of_the_program(tmp_path: Path, listener: Listener) -> None:
    listener.answer = answer({"detail": "no"}, "422 No")
    with Program("register_webhook.py", "--exposee", listener.url(""), cwd=tmp_path) as program:
        assert program.wait() == 1 and program.lines == ["Registration failed: 422 no"]


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN], ids=["in front", "in the background"])
def test_ctrl_c_ends_it_with_0(handler: signal.Handlers, tmp_path: Path, listener: Listener) -> None:
    """A shell lets the jobs that it starts with & ignore SIGINT, and Python then raises no KeyboardInterrupt."""
    listener.answer = listener.hang
    before = signal.signal(signal.SIGINT, handler)
    try:
        program = Program("register_webhook.py", "--exposee", listener.url(""), cwd=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    with program:
        listener.next()
        assert program.stop(signal.SIGINT) == 0
        assert program.lines == ["Stopped"]
