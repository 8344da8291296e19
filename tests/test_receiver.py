"""The integrator's server: what it answers and prints, how it verifies, and how it misbehaves on request."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import SECONDS, Client, Program, Response, eventually, request

import receiver
from checks import check_secret
from messages import sign
from receiver import TOLERANCE, Receiver, confirm_ping, main, verify
from server import Server
from transport import Transport, request_head
from wire import Request

PATH = "/webhook-receiver"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of the Standard Webhooks specification
ID, TIME, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
COMPACT_SIGNATURE = "v1,Vif40peJBP7Iyl0XGmu61n4MwdrcHov5CFREBpE0svs="  # of BODY without its space
STANDARD = {"webhook-id": ID, "webhook-timestamp": str(TIME), "webhook-signature": SIGNATURE}
GITHUB_SECRET, GITHUB_BODY = "It's a Secret to Everybody", b"Hello, World!"  # the example of GitHub's documentation
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
KEY = base64.b64decode(SECRET[6:])


@contextlib.contextmanager
def serving(it: Receiver) -> Iterator[int]:
    server = Server(("127.0.0.1", 0), it.routes)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server.server_port
    server.stopping = True
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
def test_what_is_no_json_is_refused(
    body: bytes, status: int, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = post(port, body)
    assert answer.status == status
    assert capsys.readouterr().out == f"Refused with {status}: {answer.json()['detail']}\n"


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
    assert "duplicate" in capsys.readouterr().out.splitlines()[2]


def test_a_signature_that_is_not_looked_at_is_mentioned(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert post(port, 1, webhook_signature="v1,AAAA").status == 204
    assert "no --secret here to verify it with" in capsys.readouterr().out


def test_an_id_whose_answer_could_not_be_sent_is_no_duplicate() -> None:
    said: list[str] = []
    it = Receiver(say=lambda *lines: said.extend(lines))
    head = {"content-type": "application/json", "webhook-id": "msg_1"}
    asked = Request("POST", PATH, PATH, {}, head, "localhost", "127.0.0.1", b"1")
    for sent in (False, True):
        answer = it.receive(asked)
        assert "duplicate" not in said[-1] and answer.release
        answer.release(sent)
    it.receive(asked)
    assert "duplicate" in said[-1]


def test_the_ids_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(receiver, "SEEN", 3)
    with serving(Receiver()) as port:
        for number in (1, 2, 3, 4, 1):
            post(port, 1, webhook_id=f"msg_{number}")
        assert "duplicate" not in capsys.readouterr().out  # the first had been forgotten
        post(port, 1, webhook_id="msg_4")
        assert "duplicate" in capsys.readouterr().out


# --- misbehaviour on request ----------------------------------------------------------------------------------


def send(port: int, query: str, seconds: float = SECONDS, **fields: str) -> Any:
    """One webhook by our own client, which tells apart what went wrong."""
    transport = Transport()
    url = f"http://127.0.0.1:{port}{PATH}{query}"
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    head = request_head("POST", url) + f"{more}Content-Type: application/json\r\nContent-Length: 1\r\n\r\n".encode()
    exchange = transport.send(url, head + b"1", seconds)
    transport.close()
    return exchange


@pytest.mark.parametrize(
    "query, seconds, status, error",
    [
        ("respond=503", SECONDS, 503, None),
        ("respond=410", SECONDS, 410, None),
        ("respond=200", SECONDS, 200, None),
        ("respond=204", SECONDS, 204, None),
        ("respond=redirect", SECONDS, 302, None),
        ("respond=hang", 0.3, 0, "timed out waiting for the answer"),
        ("respond=drip", 0.3, 0, "timed out in the middle of the answer"),
        ("respond=reset", SECONDS, 0, "connection reset"),
        ("respond=half", SECONDS, 200, "the answer ended after"),
        ("respond=endless", SECONDS, 200, "the answer is longer than"),
    ],
)
def test_the_url_can_ask_for_misbehaviour(
    query: str, seconds: float, status: int, error: str | None, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange = send(port, "?" + query, seconds)
    assert exchange.status == status
    assert exchange.error is None if error is None else error in str(exchange.error)
    out = capsys.readouterr().out
    assert out.startswith("Received webhook payload: 1\n") and query in out


def test_a_status_can_say_when_to_come_again(port: int) -> None:
    answer = post(port, 1, "?respond=429&retry_after=3")
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")
    answer = post(port, 1, "?respond=503&retry_after=3%0d%0aX-Injected:%201")
    assert answer.status == 503 and "x-injected" not in answer.headers


@pytest.mark.parametrize("query", ["respond=503&times=2", "times=2&respond=500", "respond=reset&times=2"])
def test_after_so_many_times_it_is_well(query: str, port: int) -> None:
    outcomes = [send(port, "?" + query) for _ in range(4)]
    assert [outcome.error is None and outcome.status == 204 for outcome in outcomes] == [False, False, True, True]


@pytest.mark.parametrize("name", ["nonsense", "", "99", "100", "101", "600", "299", "20", "2000", "%C2%B200", "503.0"])
def test_unknown_misbehaviour_is_refused(name: str, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    answer = post(port, 1, f"?respond={name}")
    assert answer.status == 422 and "hang" in answer.json()["detail"]
    assert capsys.readouterr().out.startswith("Refused with 422: respond=")


# --- signatures -----------------------------------------------------------------------------------------------


def signature(key: bytes, data: bytes) -> str:
    return base64.b64encode(hmac.new(key, data, hashlib.sha256).digest()).decode()


def hexadecimal(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def standard(value: str, timestamp: object = TIME) -> dict[str, str]:
    return {"webhook-id": ID, "webhook-timestamp": str(timestamp), "webhook-signature": value}


def signed(body: bytes) -> bytes:
    return f"{ID}.{TIME}.".encode() + body


@pytest.mark.parametrize(
    "secret, body, headers",
    [
        (SECRET, BODY, STANDARD),
        (SECRET, BODY.replace(b" ", b""), standard(COMPACT_SIGNATURE)),
        (SECRET, BODY, standard(f"v1,AAAA v1a,ed25519 {SIGNATURE} v2,x")),
        (GITHUB_SECRET, GITHUB_BODY, {"x-hub-signature-256": GITHUB_SIGNATURE}),
        (SECRET, BODY, {**STANDARD, "x-hub-signature-256": "sha256=" + hexadecimal(SECRET.encode(), BODY)}),
        (SECRET, b"\xff\x00", standard("v1," + signature(KEY, signed(b"\xff\x00")))),
    ],
)
def test_what_the_specifications_sign_verifies(secret: str, body: bytes, headers: dict[str, str]) -> None:
    check = verify(secret, headers, body, TIME)
    assert check.good, check.reasons


@pytest.mark.parametrize(
    "secret, body, field",
    [
        (SECRET, BODY, f"webhook-signature: {SIGNATURE}"),
        (SECRET, BODY.replace(b" ", b""), f"webhook-signature: {COMPACT_SIGNATURE}"),
        (GITHUB_SECRET, GITHUB_BODY, f"X-Hub-Signature-256: {GITHUB_SIGNATURE}"),
    ],
)
def test_the_exposee_signs_as_the_specifications_do(secret: str, body: bytes, field: str) -> None:
    assert field in sign(secret, ID, TIME, body).decode().split("\r\n")


def test_what_the_exposee_signs_verifies() -> None:
    lines = sign(SECRET, ID, TIME, BODY).decode().splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    check = verify(SECRET, {**headers, "webhook-id": ID, "webhook-timestamp": str(TIME)}, BODY, TIME)
    assert check.good and len(headers) == 2


STRANGE = [
    "", " ", ",", "v1", "v1,", "v1,,", "v1,=", "é", "v1,é", "\udcff", "v1,\udcff", "€", "\0", "sha256", "sha256=",
    "sha256=é", "sha256=\udcff", "sha1=" + GITHUB_SIGNATURE[7:], "sha256=sha256=", "=" * 100, "x" * 100_000,
    "v1," * 20_000, "-1", "1e9", "１６１４２６５３３０", "1614265330.0", " 1614265330", "+1614265330", "9" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("name", [*STANDARD, "x-hub-signature-256"])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: ascii(value[:20]))
def test_a_malformed_field_does_not_verify_and_does_not_raise(name: str, value: str) -> None:
    check = verify(SECRET, {**STANDARD, name: value}, BODY, TIME)
    assert not check.good and check.reasons
    assert max(map(len, check.reasons)) < 2_000


@pytest.mark.parametrize("name", STANDARD)
def test_a_field_that_is_missing_does_not_verify(name: str) -> None:
    check = verify(SECRET, {key: value for key, value in STANDARD.items() if key != name}, BODY, TIME)
    assert not check.good


@pytest.mark.parametrize("secret", ["x", "whsec_", "whsec_!", "whsec_é", "\udcff", "whsec_\udcff", SECRET[6:]])
@pytest.mark.parametrize("headers", [STANDARD, {"x-hub-signature-256": GITHUB_SIGNATURE}])
def test_another_secret_does_not_verify_and_does_not_raise(secret: str, headers: dict[str, str]) -> None:
    assert not verify(secret, headers, BODY, TIME).good


def test_one_right_signature_does_not_excuse_a_wrong_one() -> None:
    assert not verify(SECRET, {**STANDARD, "x-hub-signature-256": GITHUB_SIGNATURE}, BODY, TIME).good
    right = "sha256=" + hexadecimal(SECRET.encode(), BODY)
    assert not verify(SECRET, {**standard("v1,AAAA"), "x-hub-signature-256": right}, BODY, TIME).good


def test_an_old_request_without_its_standard_signature_is_not_a_new_one() -> None:
    """Who recorded a delivery can cut that one off: what is left says nothing of the time or of the id."""
    left = {"webhook-id": "msg_other", "x-hub-signature-256": "sha256=" + hexadecimal(SECRET.encode(), BODY)}
    check = verify(SECRET, left, BODY, TIME + 86_400)
    assert not check.good and "webhook-signature is missing" in check.reasons[0]


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff", b'"\\udfff\\ud800"', b"[" * 900 + b"]" * 900, b"1" * 5_000, b"NaN"]
)
def test_a_signature_is_verified_before_anything_reads_the_body(body: bytes, verifying: int) -> None:
    assert post(verifying, body).status == 401
    assert post(verifying, body, webhook_signature="v1,AAAA", webhook_id=ID, webhook_timestamp=str(TIME)).status == 401
    with Client(verifying) as client:
        assert client.ask(request("POST", PATH)).status == 401


@pytest.mark.parametrize("age", [0, TOLERANCE, -TOLERANCE, TOLERANCE + 1, -TOLERANCE - 1, 10**8])
def test_a_timestamp_may_be_five_minutes_off(age: int) -> None:
    check = verify(SECRET, STANDARD, BODY, TIME + age)
    assert check.good == (abs(age) <= TOLERANCE)
    if not check.good:
        assert str(abs(age)) in check.reasons[0] and "replay" in check.reasons[0]


@pytest.mark.parametrize("field", ["webhook-id", "webhook-timestamp"])
def test_id_and_time_are_part_of_what_is_signed(field: str) -> None:
    other = {"webhook-id": "msg_other", "webhook-timestamp": str(TIME + 1)}[field]
    assert not verify(SECRET, {**STANDARD, field: other}, BODY, TIME).good


SORTED = b'{"b": 1, "a": {"d": [2], "c": "\xc3\xa9"}}'
MISTAKES: list[tuple[str, bytes, dict[str, str]]] = [
    ("whsec_ was not stripped", BODY, standard("v1," + signature(SECRET.encode(), signed(BODY)))),
    ("was not decoded", BODY, standard("v1," + signature(SECRET[6:].encode(), signed(BODY)))),
    ("hex was written", BODY, standard("v1," + hexadecimal(KEY, signed(BODY)))),
    ("only the body was signed", BODY, standard("v1," + signature(KEY, BODY))),
    ("GitHub's dialect", BODY, standard("v1," + hexadecimal(SECRET.encode(), BODY))),
    ("begins with v1,", BODY, standard(SIGNATURE[3:])),
    ("spaces left out", BODY, standard(COMPACT_SIGNATURE)),
    ("spaces put in", BODY.replace(b" ", b""), standard(SIGNATURE)),
    ("keys sorted", SORTED, standard("v1," + signature(KEY, signed(b'{"a":{"c":"\\u00e9","d":[2]},"b":1}')))),
    ("indented", BODY, standard("v1," + signature(KEY, signed(b'{\n  "test": 2432232314\n}')))),
    ("a replay", BODY, standard("v1," + signature(KEY, f"{ID}.{TIME - 301}.".encode() + BODY), TIME - 301)),
    ("another secret, or another body", BODY, standard("v1," + signature(b"another", signed(BODY)))),
    ("base64 was written", BODY, {"x-hub-signature-256": "sha256=" + signature(SECRET.encode(), BODY)}),
    ("GitHub takes as text", BODY, {"x-hub-signature-256": "sha256=" + hexadecimal(KEY, BODY)}),
    ("sha256= is missing", BODY, {"x-hub-signature-256": hexadecimal(SECRET.encode(), BODY)}),
    ("spaces left out", BODY, {"x-hub-signature-256": "sha256=" + hexadecimal(SECRET.encode(), BODY[:8] + BODY[9:])}),
    ("another secret, or another body", BODY, {"x-hub-signature-256": GITHUB_SIGNATURE}),
    ("no webhook-signature and no X-Hub-Signature-256", BODY, {"webhook-id": ID, "webhook-timestamp": str(TIME)}),
]  # fmt: skip


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


@pytest.mark.parametrize(
    "headers, digest, length",
    [
        (standard("v1,AAAA"), SIGNATURE[3:], len(KEY)),
        ({"x-hub-signature-256": "sha256=00"}, hexadecimal(SECRET.encode(), BODY), len(SECRET)),
    ],
)
def test_a_refusal_shows_what_was_signed_and_both_digests(headers: dict[str, str], digest: str, length: int) -> None:
    text = "\n".join(verify(SECRET, headers, BODY, TIME).reasons)
    assert repr(BODY)[2:-1] in text and digest in text and list(headers.values())[-1] in text
    assert f"{length} bytes" in text
    assert SECRET not in text and SECRET[6:] not in text


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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_ping_is_verified_and_pinged_back(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://localhost:{port}{PATH}"
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee:
        address = f"http://localhost:{exposee.port}/"
        command = ["receiver.py", "--port", str(port), "--ping-back", address, "--url", url]
        with Program(*command, cwd=tmp_path, env={"WEBHOOK_SECRET": SECRET}) as program:
            assert program.port == port
            with Client(exposee.port) as client:
                body = {"url": url, "event_types": ["payment_received"], "secret": SECRET}
                assert client.ask(request("POST", "/webhooks/register", json.dumps(body).encode())).status == 200
                pinged = client.ask(request("GET", "/ping")).json()
                assert pinged["message"] == "Ping delivered to 1 of 1 webhook(s)"
                line = 'Received webhook payload: {"event": "ping", "data": "Ping from Exposee"} (signature verified)'
                assert program.wait_for("Received") == line
                line = 'Ping-back Response: 200 {"event": "ping", "data": "Ping from Exposee"}'
                assert program.wait_for("Ping-back") == line
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
    confirm_ping(f"http://127.0.0.1:{free_port()}", "http://localhost/", print)
    assert eventually(lambda: capsys.readouterr().out).startswith("Ping-back Response: connection refused")


def test_a_new_secret_is_one_that_the_exposee_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--new-secret"]) == main(["--new-secret"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first != second and check_secret(first) == first
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize(
    "argv", [["--ping-back", "http://h/"], ["--url", "http://h/"], ["--port", "x"], ["--host", ""]]
)
def test_what_keeps_it_from_starting_is_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: main(argv)) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1


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
