"""The integrator's server: what it answers and prints, how it verifies, and how it misbehaves on request."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    ROOT,
    SECONDS,
    Client,
    Listener,
    Program,
    Response,
    eventually,
    free_port,
    held,
    mostly_slow,
    request,
)
from test_verifying import BODY, ID, KEY, MISTAKES, SECRET, STANDARD, TIME, hexadecimal, signature, signed

import receiver
from inbox import Entry
import terminal
from receiver import Receiver, main, ping_back
from server import Server
from verifying import key_of
from wire import Request

PATH = "/webhook-receiver"


@contextlib.contextmanager
def serving(it: Receiver) -> Iterator[int]:
    server = Server(("127.0.0.1", 0), it.routes, log=terminal.say)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.server_port
    server.stop()
    thread.join(SECONDS)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A receiver without a secret; what it remembers is by id and by URL, so that tests do not meet."""
    with serving(Receiver()) as it:
        yield it


@pytest.fixture(scope="module")
def verifying() -> Iterator[int]:
    """A receiver with the secret, at the time of the example."""
    with serving(Receiver(SECRET, clock=lambda: TIME)) as it:
        yield it


def post(port: int, body: Any, query: str = "", **fields: str) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with Client(port) as client:
        return client.ask(request("POST", PATH + query, data, **fields))


# --- what it answers and prints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload, printed",
    [
        ({"event": "e", "data": {"a": [1, None]}}, '{"event": "e", "data": {"a": [1, null]}}'),
        ({"event": "ping", "data": "Ping from Exposee"}, '{"event": "ping", "data": "Ping from Exposee"}'),
        ("é 漢", '"é 漢"'),
        (0, "0"),
        ({"a": "\x1b[2J\u202e\n"}, '{"a": "\\u001b[2J\\u202e\\n"}'),
    ],
)
def test_a_webhook_is_printed_and_answered_204(
    payload: Any, printed: str, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = post(port, json.dumps(payload, ensure_ascii=False).encode())
    assert (answer.status, answer.body) == (204, b"")
    assert capsys.readouterr().out == f"Received webhook payload: {printed}\n"


@pytest.mark.parametrize("body, status", [(b"nonsense", 400), (b"", 400), (b'{"a": NaN}', 400), (b"\xff", 400)])
def test_what_is_no_json_is_refused(body: bytes, status: int, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    answer = post(port, body)
    assert answer.status == status
    assert capsys.readouterr().out == f"POST {PATH}: {status}, {answer.json()['detail']}\n"


@pytest.mark.parametrize(
    "asked, line",
    [
        (request("POST", "/webhook?secret=1", b"1"), f"POST /webhook: 404, there is no /webhook here, expected {PATH}"),
        (request("POST", "/x", b"1"), f"POST /x: 404, there is no /x here, expected {PATH}"),
        (request("GET", PATH), f"GET {PATH}: 405, {PATH} takes POST, not GET"),
        (request("POST", "/", b"1"), f"POST /: 405, / takes GET, HEAD, not POST; expected POST {PATH}"),
    ],
)
def test_a_misdirected_request_is_a_line(
    asked: bytes, line: str, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(port) as client:
        client.ask(asked)
    assert capsys.readouterr().out == line + "\n"


def test_a_repeated_id_is_acknowledged_and_marked(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for message in ("msg_1", "msg_2", "msg_1", "msg_1"):
        assert post(port, 1, webhook_id=message).status == 204
        outputs.append("duplicate: " + message in capsys.readouterr().out)
    assert outputs == [False, False, True, True]


def test_without_an_id_nothing_is_a_duplicate(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert [post(port, 1).status, post(port, 1).status] == [204, 204]
    assert "duplicate" not in capsys.readouterr().out


@pytest.mark.parametrize("query", ["respond=503", "respond=redirect", "respond=half", "respond=reset"])
def test_an_id_that_was_not_acknowledged_is_no_duplicate(
    query: str, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"msg_{query}"
    send(port, f"?{query}&times=1&for=duplicates", webhook_id=message)
    assert post(port, 1, f"?{query}&times=1&for=duplicates", webhook_id=message).status == 204
    assert "duplicate" not in capsys.readouterr().out
    post(port, 1, f"?{query}&times=1&for=duplicates", webhook_id=message)
    assert "duplicate" in capsys.readouterr().out


def test_a_duplicate_is_marked_too_where_another_success_was_asked_for(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert post(port, 1, "?respond=200", webhook_id="msg_asked").status == 200
    assert ["duplicate" in line for line in capsys.readouterr().out.splitlines()] == [False, True]


def test_a_signature_that_is_not_looked_at_is_mentioned(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert post(port, 1, webhook_signature="v1,AAAA").status == 204
    assert "no --secret here to verify it with" in capsys.readouterr().out


def test_an_id_whose_answer_could_not_be_sent_is_no_duplicate() -> None:
    said: list[str] = []
    it = Receiver(say=lambda *lines: said.extend(lines))
    head = {"content-type": "application/json", "webhook-id": "msg_1"}
    asked = Request("POST", PATH, PATH, {}, head, "localhost", "127.0.0.1", b"1")
    for sent in (False, True):
        answer = it.receive(asked, Entry(asked, TIME))
        assert "duplicate" not in said[-1] and answer.after
        answer.after(sent)
    it.receive(asked, Entry(asked, TIME))
    assert "duplicate" in said[-1]


def test_the_ids_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(receiver, "SEEN", 3)
    with serving(Receiver()) as port:
        for number in (1, 2, 3, 4, 1):
            post(port, 1, webhook_id=f"msg_{number}")
        assert "duplicate" not in capsys.readouterr().out  # the first had been forgotten
        post(port, 1, webhook_id="msg_4")
        assert "duplicate" in capsys.readouterr().out


# --- your own code --------------------------------------------------------------------------------------------


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What `handle` has been called with."""
    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(receiver, "handle", lambda *message: calls.append(message))
    return calls


def test_each_message_is_handled_once(port: int, handled: list[tuple[str, Any]]) -> None:
    for message, data in (("msg_h1", 1), ("msg_h2", [2]), ("msg_h1", 1), ("msg_h2", [2])):
        assert post(port, {"event": "e", "data": data}, webhook_id=message).status == 204
    assert handled == [("e", 1), ("e", [2])]


def test_a_message_without_an_id_is_always_new(port: int, handled: list[tuple[str, Any]]) -> None:
    assert [post(port, {"event": "ping", "data": "hello"}).status for _ in range(2)] == [204, 204]
    assert handled == [("ping", "hello")] * 2


@pytest.mark.parametrize("body", [b"1", b"[]", b'"event"', b'{"data": 1}', b'{"event": 1, "data": 1}', b"{", b"null"])
def test_what_is_no_message_is_not_handled(body: bytes, port: int, handled: list[tuple[str, Any]]) -> None:
    assert post(port, body).status in (204, 400)
    assert handled == []


@pytest.mark.parametrize("query", ["503", "410", "redirect", "half", "reset", "nonsense"])
def test_a_refused_message_is_not_handled(query: str, port: int, handled: list[tuple[str, Any]]) -> None:
    send(port, f"?respond={query}", body=b'{"event": "e", "data": 1}', webhook_id=f"msg_not_{query}")
    assert handled == []
    assert post(port, {"event": "e", "data": 1}, "?respond=200", webhook_id=f"msg_not_{query}").status == 200
    assert handled == [("e", 1)]


def test_a_message_is_not_handled_before_it_is_verified(verifying: int, handled: list[tuple[str, Any]]) -> None:
    body = b'{"event": "e", "data": 1}'
    fields = {"webhook_id": "msg_verified", "webhook_timestamp": str(TIME)}
    assert post(verifying, body, "", **fields, webhook_signature="v1,AAAA").status == 401
    assert handled == []
    value = "v1," + signature(KEY, f"msg_verified.{TIME}.".encode() + body)
    assert post(verifying, body, "", **fields, webhook_signature=value).status == 204
    assert handled == [("e", 1)]


def test_what_handle_prints_stands_below_its_message(tmp_path: Path) -> None:
    """As it was printed, and while `handle` still works."""
    script = tmp_path / "mine.py"
    script.write_text("""
import terminal
import receiver
import time

def handle(event, data):
    print("mine:", data, end="")
    print("\\tat once")
    while True:
        time.sleep(60)

receiver.handle = handle
terminal.run(receiver.main)
""")
    with Program(str(script), "--port", "0", env={"PYTHONPATH": str(ROOT)}) as program, Client(program.port) as client:
        client.send(request("POST", PATH, b'{"event": "e", "data": 1}'))
        program.wait_for("mine: 1\tat once")
        assert program.lines[2][9:] == 'Received webhook payload: {"event": "e", "data": 1}'
        assert program.lines[3:] == ["mine: 1\tat once"]


@pytest.mark.parametrize("error", [KeyError("a\nb"), SystemExit(3), OSError(), AssertionError(), BaseException()], ids=repr)
def test_an_error_in_handle_is_one_line_and_the_message_comes_again(
    error: BaseException, port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def handle(event: str, data: Any) -> None:
        raise error

    monkeypatch.setattr(receiver, "handle", handle)
    message = f"msg_{type(error).__name__}"
    answer = post(port, {"event": "e", "data": 1}, webhook_id=message)
    assert answer.status == 500 and type(error).__name__ not in str(answer.json())
    out, err = capfd.readouterr()
    received, refused, line = out.splitlines()
    assert received.startswith("Received") and refused.startswith(f"POST {PATH}: 500, ") and err == ""
    assert line.startswith(f"  {type(error).__name__}(") and "test_receiver.py:" in line
    calls = []
    monkeypatch.setattr(receiver, "handle", lambda *message: calls.append(message))
    assert [post(port, {"event": "e", "data": 1}, webhook_id=message).status for _ in range(2)] == [204, 204]
    assert calls == [("e", 1)]


def test_a_message_that_comes_again_while_it_is_handled_is_handled_once(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, entered, gate = [], threading.Event(), threading.Event()

    def handle(event: str, data: Any) -> None:
        calls.append(event)
        entered.set()
        assert gate.wait(SECONDS)

    monkeypatch.setattr(receiver, "handle", handle)
    with held(gate), Client(port) as first, Client(port) as second:
        data = request("POST", PATH, b'{"event": "e", "data": 1}', webhook_id="msg_slow")
        first.send(data)
        assert entered.wait(SECONDS)
        second.send(data)
        second.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it is not acknowledged while the first could still fail
            second.sock.recv(1)
        second.sock.settimeout(SECONDS)
        gate.set()
        assert first.receive(head=True).status == second.receive(head=True).status == 204
    assert calls == ["e"]


# --- misbehaviour on request ----------------------------------------------------------------------------------


def send(port: int, query: str, seconds: float = SECONDS, body: bytes = b"1", **fields: str) -> tuple[bytes, str]:
    """What comes for a webhook, 64 KiB of it at most, and how it ends."""
    with Client(port) as client:
        client.sock.settimeout(seconds)
        client.send(request("POST", PATH + query, body, Connection="close", **fields))
        data = b""
        try:
            while len(data) < 65_536:
                got = client.sock.recv(65_536)
                if not got:
                    return data, "closed"
                data += got
        except TimeoutError:
            return data, "waits"
        except ConnectionResetError:
            return data, "reset"
        return data, "goes on"


@pytest.mark.parametrize(
    "query, seconds, answer, end",
    [
        ("respond=503", SECONDS, b"HTTP/1.1 503 ", "closed"),
        ("respond=410", SECONDS, b"HTTP/1.1 410 ", "closed"),
        ("respond=200", SECONDS, b"HTTP/1.1 200 ", "closed"),
        ("respond=204", SECONDS, b"HTTP/1.1 204 ", "closed"),
        ("respond=redirect", SECONDS, b"HTTP/1.1 302 ", "closed"),
        ("respond=hang", 0.3, b"", "waits"),
        ("respond=drip", 0.3, b"H", "waits"),
        ("respond=reset", SECONDS, b"", "reset"),
        ("respond=half", SECONDS, b"HTTP/1.1 200 ", "closed"),
        ("respond=endless", SECONDS, b"HTTP/1.1 200 ", "goes on"),
    ],
)
def test_the_url_can_ask_for_misbehaviour(
    query: str, seconds: float, answer: bytes, end: str, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data, ended = send(port, "?" + query, seconds)
    assert ended == end and (data.startswith(answer) if answer else not data)
    out = capsys.readouterr().out
    assert out == f"Received webhook payload: 1 (answered as asked: {query})\n"


def test_half_promises_more_than_comes(port: int) -> None:
    head, _, body = send(port, "?respond=half")[0].partition(b"\r\n\r\n")
    assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) > len(body)


def test_a_status_can_say_when_to_come_again(port: int) -> None:
    answer = post(port, 1, "?respond=429&retry_after=3")
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")
    answer = post(port, 1, "?respond=503&retry_after=3%0d%0aX-Injected:%201")
    assert answer.status == 503 and "x-injected" not in answer.headers


@pytest.mark.parametrize("query", ["respond=503&times=2", "times=2&respond=500", "respond=reset&times=2"])
def test_after_so_many_times_it_is_well(query: str, port: int) -> None:
    outcomes = [send(port, "?" + query)[0] for _ in range(4)]
    assert [outcome.startswith(b"HTTP/1.1 204 ") for outcome in outcomes] == [False, False, True, True]


@pytest.mark.parametrize("name", ["nonsense", "", "99", "100", "101", "600", "299", "20", "2000", "%C2%B200", "503.0"])
def test_unknown_misbehaviour_is_refused(name: str, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    answer = post(port, 1, f"?respond={name}")
    assert answer.status == 422 and "hang" in answer.json()["detail"]
    assert capsys.readouterr().out.startswith(f"POST {PATH}: 422, respond=")


@pytest.mark.parametrize("times", ["x", "-1", "1.5"])
def test_a_number_of_times_that_is_none_is_refused(times: str, port: int) -> None:
    assert post(port, 1, f"?respond=503&times={times}").json()["detail"] == f"times={times} is no number"


# --- signatures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff", b'"\\udfff\\ud800"', b"[" * 900 + b"]" * 900, b"1" * 5_000, b"NaN"]
)
def test_a_signature_is_verified_before_anything_reads_the_body(body: bytes, verifying: int) -> None:
    assert post(verifying, body).status == 401
    assert post(verifying, body, webhook_signature="v1,AAAA", webhook_id=ID, webhook_timestamp=str(TIME)).status == 401
    with Client(verifying) as client:
        assert client.ask(request("POST", PATH)).status == 401


@pytest.mark.parametrize("mistake, body, headers", MISTAKES, ids=[f"{m}, {len(h)} fields" for m, _, h in MISTAKES])
def test_a_known_mistake_is_explained_on_the_terminal_only(
    mistake: str, body: bytes, headers: dict[str, str], verifying: int, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = post(verifying, body, "", **{name.replace("-", "_"): value for name, value in headers.items()})
    out = capsys.readouterr().out
    assert answer.status == 401 and mistake in out
    assert len([line for line in out.splitlines() if "known mistake" in line]) <= 1
    wire = answer.body + str(answer.headers).encode()
    right = {signature(KEY, signed(body)), hexadecimal(SECRET.encode(), body), hexadecimal(KEY, signed(body))}
    for hint in (mistake, "known mistake", ID, SECRET, *right, *headers.values()):
        assert hint.encode() not in wire
    assert answer.body == post(verifying, b"1", webhook_signature="v1,").body  # the same whatever was wrong


def test_a_good_signature_is_said_to_be_good(verifying: int, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {name.replace("-", "_"): value for name, value in STANDARD.items()}
    assert post(verifying, BODY, "", **fields).status == 204
    assert "(signature verified)" in capsys.readouterr().out


def test_what_was_refused_is_not_remembered(verifying: int, capsys: pytest.CaptureFixture[str]) -> None:
    message, body = "msg_refused_first", b"1"
    value = "v1," + signature(KEY, f"{message}.{TIME}.1".encode())
    fields = {"webhook_id": message, "webhook_timestamp": str(TIME)}
    assert post(verifying, body, "", **fields, webhook_signature="v1,AAAA").status == 401
    assert post(verifying, body, "", **fields, webhook_signature=value).status == 204
    assert "duplicate" not in capsys.readouterr().out


# --- the program ----------------------------------------------------------------------------------------------


TIME_OF_DAY = r"^\d\d:\d\d:\d\d "


@pytest.mark.parametrize(
    "options, variables",
    mostly_slow([
        (["--ping-back", "--exposee", "{0}", "--url", "{1}", "--raw"], {}),
        (["--ping-back"], {"EXPOSEE_URL": "{0}", "WEBHOOK_URL": "{1}"}),
        (["--ping-back", "{0}", "--url", "{1}"], {"EXPOSEE_URL": "http://h/", "WEBHOOK_URL": "http://h/"}),
        (["--ping-back", "{0}", "--url", "{1}"], {}),
    ], 3),
    ids=["as options", "from the environment", "options before the environment", "as a value"],
)  # fmt: skip
def test_a_ping_is_verified_and_pinged_back(
    options: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://localhost:{port}{PATH}"
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
        address = f"http://localhost:{exposee.port}/"
        environment = {"WEBHOOK_SECRET": SECRET} | {name: value.format(address, url) for name, value in variables.items()}
        command = ["receiver.py", "--port", str(port), *(word.format(address, url) for word in options)]
        with Program(*command, cwd=tmp_path, env=environment) as program:
            assert program.port == port and program.wait_for("signatures are verified")
            assert program.wait_for(f"pings to {url} are confirmed at {address}")
            with Client(exposee.port) as client:
                body = {"url": url, "event_types": ["payment_received"], "secret": SECRET}
                assert client.ask(request("POST", "/webhooks/register", json.dumps(body).encode())).status == 200
                pinged = client.ask(request("GET", "/ping")).json()
                assert pinged["message"] == "Ping delivered to 1 of 1 webhook(s)"
                line = 'Received webhook payload: {"event": "ping", "data": "Ping from Exposee"} (signature verified)'
                assert re.sub(TIME_OF_DAY, "", program.wait_for("Received")) == line
                line = 'Ping-back Response: 200 {"event": "ping", "data": "Ping from Exposee"}'
                assert re.sub(TIME_OF_DAY, "", program.wait_for("Ping-back")) == line
                assert exposee.wait_for(f" ping confirmed: {url}")
                assert "--raw" not in options or program.wait_for("> POST /webhooks/ping-back HTTP/1.1")
                found = client.ask(request("GET", f"/deliveries?message={pinged['id']}")).json()["deliveries"]
                assert [it["confirmed"] for it in found] == [True]
            assert program.stop() == 0
            assert program.lines[-1] == "Stopped" and SECRET not in str(program.lines)


def test_a_ping_is_answered_before_it_is_confirmed_and_nothing_else_is_confirmed() -> None:
    confirmed, gate = threading.Event(), threading.Event()

    def confirm() -> None:
        confirmed.set()
        gate.wait(SECONDS)

    with serving(Receiver(confirm=confirm)) as port:
        assert post(port, {"event": "payment_received", "data": 1}).status == 204
        assert post(port, ["ping"]).status == 204
        assert post(port, {"event": "ping", "data": 1}, "?respond=503").status == 503
        assert not confirmed.is_set()
        assert post(port, {"event": "ping", "data": 1}).status == 204
        assert confirmed.wait(SECONDS)
        gate.set()


def test_a_ping_back_that_fails_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    target = f"http://127.0.0.1:{free_port()}"
    ping_back(target, "http://localhost/", print)()
    out = eventually(lambda: capsys.readouterr().out)
    assert out.startswith("Ping-back failed: ") and "refused" in out and target in out and out.count("\n") == 1


def test_many_pings_cost_one_thread_and_are_confirmed_together(listener: Listener) -> None:
    gate = threading.Event()
    said: list[str] = []
    before = threading.active_count()

    def answer(connection: socket.socket) -> None:
        gate.wait(SECONDS)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    listener.answer = answer
    confirm = ping_back(listener.url(""), "http://localhost/", said.append)
    with held(gate):
        confirm()
        listener.next()
        for _ in range(3_000):
            confirm()
        assert threading.active_count() <= before + 2  # with that of the listener's connection
    eventually(lambda: len(said) >= 2, "the second line")  # those that came after the first had been sent
    assert said == ["Ping-back Response: 200 {}"] * 2 and listener.requests.qsize() == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", b"nonsense\r\n\r\n", b"\r\n"])
def test_the_worker_goes_on_after_a_ping_back_that_failed(answer: bytes, listener: Listener) -> None:
    said: list[str] = []
    listener.answer = answer
    confirm = ping_back(listener.url(""), "http://localhost/", said.append)
    for number in (1, 2):
        confirm()
        eventually(lambda: len(said) >= number, "the line")  # noqa: B023
    assert all(line.startswith("Ping-back failed: ") for line in said)


BAD_SECRETS = ["", " ", " s3cret", "s3cret ", "s3cret\n", "whsec_", "whsec_!!!!", "whsec_abc", "whsec_QUJD", "\x1b"]


@pytest.mark.parametrize("value", [*BAD_SECRETS, SECRET + "\n", SECRET[:-1]])
@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_secret_that_is_none_stops_the_start(
    value: str, way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, forged requests would be accepted."""
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    if way == "environment":
        monkeypatch.setenv("WEBHOOK_SECRET", value)
    argv = ["--secret", value] if way == "option" else []
    assert exit_code(lambda: main(["--host", "192.0.2.1", *argv])) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and ("--secret" if way == "option" else "WEBHOOK_SECRET") in error
    assert len(value) < 5 or value.strip() not in error.replace("whsec_ and", "")


def test_a_new_secret_is_made_whatever_the_environment_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_broken")
    assert exit_code(lambda: main(["--new-secret"])) == 0
    assert key_of(capsys.readouterr().out.strip())


def test_a_new_secret_is_one_that_the_exposee_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert [exit_code(lambda: main(["--new-secret"])) for _ in range(2)] == [0, 0]
    first, second = capsys.readouterr().out.splitlines()
    assert first != second and len(key_of(first) or b"") == 32


@pytest.mark.parametrize(
    "argv",
    [
        ["--ping-back", "http://h/"],
        ["--ping-back"],
        ["--ping-back", "--url", "http://h/"],
        ["--ping-back", "--exposee", "http://h/"],
        ["--port", "x"],
        ["--host", ""],
        ["--ping-back", "http://h/?x=1", "--url", "http://h/"],
        ["--ping-back", "http://h/", "--url", "http://h/#top"],
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EXPOSEE_URL", "WEBHOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    assert exit_code(lambda: main(["--host", "192.0.2.1", *argv])) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1 and "192.0.2.1" not in error


@pytest.mark.parametrize(
    "argv, exposee, url",
    [(["--ping-back"], True, True), (["--ping-back", "--url", "http://h/"], True, False),
     (["--ping-back", "http://h/"], False, True)],
)  # fmt: skip
def test_what_a_ping_back_lacks_is_named(
    argv: list[str], exposee: bool, url: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EXPOSEE_URL", "WEBHOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    assert exit_code(lambda: main(argv)) == 2
    error = capsys.readouterr().err
    assert ("EXPOSEE_URL" in error, "WEBHOOK_URL" in error) == (exposee, url)


def test_variables_alone_confirm_no_ping_and_the_start_says_so(tmp_path: Path) -> None:
    environment = {"EXPOSEE_URL": "http://h/", "WEBHOOK_URL": "http://h/hook"}
    with Program("receiver.py", "--port", "0", cwd=tmp_path, env=environment) as program:
        assert program.wait_for("pings are not confirmed: that takes --ping-back")
        assert program.wait_for("no secret: signatures are not verified") and program.stop() == 0


def test_a_host_that_is_not_ours_is_not_blamed_on_the_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: main(["--host", "192.0.2.1"])) == 2
    assert capsys.readouterr().err.endswith("; name another --host\n")


def test_a_port_that_is_taken_keeps_it_from_starting(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: main(["--port", str(port)])) == 2
    assert str(port) in capsys.readouterr().err


def exit_code(call: Callable[[], int]) -> object:
    try:
        return call()
    except SystemExit as ended:
        return ended.code
    except OSError as error:
        return terminal.fail(error, 2)  # as terminal.run does


# --- its terminal ---------------------------------------------------------------------------------------------


def run_to_the_end(number: int, redirection: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a receiver that is stopped after a few deliveries."""
    port = free_port()
    command = f"exec {sys.executable} {ROOT / 'receiver.py'} --raw --port {port} {redirection}"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: answers(port), "an answer")
            process.send_signal(number)
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    return process.returncode, out, err


def answers(port: int) -> bool:
    try:
        return post(port, {"event": "e", "data": 1}).status == 204
    except OSError:
        return False


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("number", mostly_slow([signal.SIGINT, signal.SIGTERM]))
@pytest.mark.parametrize(
    "redirection", mostly_slow(["2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1", ">&-", ">/dev/full"], 3)
)
def test_an_output_that_takes_nothing_changes_nothing_else(redirection: str, number: int) -> None:
    code, out, err = run_to_the_end(number, redirection)
    assert (code, err) == (0, "")
    assert out.endswith("Stopped\n") if redirection == "2>&-" else out == ""


def test_a_reader_that_has_gone_changes_nothing_else() -> None:
    port = free_port()
    command = [sys.executable, str(ROOT / "receiver.py"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stderr
            assert process.stdout.readline().startswith(b"Receiver on ")
            process.stdout.close()  # as `head -1` does
            assert [post(port, 1).status for _ in range(3)] == [204] * 3
            process.terminate()
            assert process.wait(SECONDS) == 0 and process.stderr.read() == b""
        finally:
            process.kill()


@pytest.mark.slow  # test_terminal.py has it of the exposee
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_that_stands_still_holds_up_neither_answers_nor_the_end(number: int) -> None:
    port = free_port()
    command = [sys.executable, str(ROOT / "receiver.py"), "--raw", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            eventually(lambda: answers(port), "an answer")
            for _ in range(100):  # a pipe holds 64 KiB
                assert post(port, "x" * 2_000).status == 204
            began = time.monotonic()
            process.send_signal(number)
            assert process.wait(SECONDS) == 0
            assert time.monotonic() - began < SECONDS / 2
        finally:
            process.kill()
