"""The exposee's front door: what each request does, who may ask, and what a wrong one is told."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from exchanges import TITLES
from support import (
    JOURNAL,
    NO_CONTENT,
    ROOT,
    SECONDS,
    Listener,
    Pair,
    Program,
    Response,
    eventually,
    exchange,
    free_port,
    held,
    is_problem,
    mostly_slow,
    request,
)

import exposee
from addresses import Guard
from durable import StoreError
from rules import Allowance
from wire import MAX_BODY

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(64)).decode()
A, B = "payment_received", "invoice_completed"
HOOK = "https://hooks.example.com/hook"  # registered only, never called
REGISTER, UNREGISTER, PING_BACK = "/webhooks/register", "/webhooks/unregister", "/webhooks/ping-back"
TUNNEL = {"X_Forwarded_For": "203.0.113.7"}


class Caller(Pair):
    """What a pair can be asked, for an exposee that runs as a program."""

    def __init__(self, port: int) -> None:
        self.port = port


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One exposee for all the requests that change nothing."""
    with Pair(tmp_path_factory.mktemp("shared")) as it:
        yield it
        assert it.store.count() == 0, "a refused request has changed something"


def method(path: str) -> str:
    return "DELETE" if path == UNREGISTER else "POST"


# --- wrong input ----------------------------------------------------------------------------------------------

URLS: list[Any] = [
    5, "", ["http://host.example/"], "/hook", "//host.example/hook", "host.example/hook", "ftp://host.example/",
    "file:///etc/passwd", "javascript:alert(1)", "http://", "http:///hook", "http://:80/", "http://host.example:0/",
    "http://host.example:99999/", "http://host.example:port/", "http://[::1/", "http://[zz]/", "\thttp://host.example/",
    "http://user:pw@host.example/", "http://user@host.example/", "http://host.example/#top", "http://host.example/#",
    "http://host.example/a b", "http://host.example/\r\nX: y", "http://host.example/\x00", "http://host.example/\x7f",
    "http://höst.example/", "http://ho<st.example/", "http://host.example/" + "x" * 2_048,
]  # fmt: skip
EVENT_TYPES: list[Any] = [A, "", {}, [], 5, True, [""], [5], [None], [[A]], ["lunch"], [A, "lunch"], ["ping"]]
SECRETS: list[Any] = [
    5, "", False, [SECRET], "whsec_", SECRET[6:], SECRET[:-1], "whsec_!!!!" + SECRET[10:], "whsec_é" + SECRET[7:],
    "whsec_" + base64.b64encode(bytes(23)).decode(), "whsec_" + base64.b64encode(bytes(65)).decode(), SECRET + "\n",
]  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    REGISTER: {"url": HOOK, "event_types": [A]},
    UNREGISTER: {"url": HOOK, "event": A},
    PING_BACK: {"url": HOOK},
    "/trigger": {"event": A, "data": 1},
}
WRONG = [  # None: the field is left out
    *((REGISTER, "url", value) for value in [None, *URLS]),
    *((REGISTER, "event_types", value) for value in [None, *EVENT_TYPES]),
    *((REGISTER, "secret", value) for value in SECRETS),
    *((path, "url", value) for path in (UNREGISTER, PING_BACK) for value in (None, 5, "", [HOOK])),
    *((UNREGISTER, "event", value) for value in (None, 5, "", [A])),
    *(("/trigger", "event", value) for value in (None, 5, "", "lunch", "ping", [A], {A: 1})),
    ("/trigger", "data", None),
]
MALFORMED = {
    "half": b'{"url": ',
    "more than one": b"{} {}",
    "empty": b"",
    "not UTF-8": b'{"url": "\xff"}',
    "no number": b'{"event": "payment_received", "data": NaN}',
    "a key twice": b'{"url": "http://a.example/", "url": "http://b.example/"}',
    "nested too deeply": b'{"event": "payment_received", "data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
}


@pytest.mark.parametrize(("path", "field", "value"), WRONG, ids=lambda value: ascii(value)[:40])
def test_wrong_value_names_the_field_and_what_was_expected(shared: Pair, path: str, field: str, value: Any) -> None:
    body = {name: it for name, it in {**GOOD[path], field: value}.items() if it is not None}
    words = ("whsec_", "base64", "24", "64") if field == "secret" else ("expected",)
    assert is_problem(shared.call(method(path), path, body), 422, field, *words)


@pytest.mark.parametrize("path", GOOD)
def test_body_that_is_missing_or_no_object(shared: Pair, path: str) -> None:
    assert is_problem(shared.call(method(path), path), 411, "body", "Content-Type: application/json")
    for body in ([GOOD[path]], "x", 5, True):
        assert is_problem(shared.call(method(path), path, body), 422, "body", *GOOD[path])


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_json(shared: Pair, name: str) -> None:
    with shared.client() as client:
        for path in GOOD:
            assert is_problem(client.ask(request(method(path), path, MALFORMED[name])), 400, "the body is")
        assert client.ask(request("GET", "/health")).status == 200  # and the connection is still of use


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "", None])
def test_body_that_is_not_declared_as_json(shared: Pair, kind: str | None) -> None:
    field = b"" if kind is None else b"Content-Type: %b\r\n" % kind.encode()
    with shared.client() as client:
        answer = client.ask(request("POST", REGISTER, b"{}").replace(b"Content-Type: application/json\r\n", field))
    assert is_problem(answer, 415, kind or "missing", "application/json", "-H 'Content-Type: application/json'")


def test_json_may_be_declared_with_a_charset_and_in_any_case(shared: Pair) -> None:
    assert is_problem(shared.call("POST", REGISTER, {}, Content_Type="Application/JSON; charset=utf-8"), 422, "url")


def test_body_over_one_mebibyte_is_refused_before_it_is_sent(shared: Pair) -> None:
    with shared.client() as client:
        head = request("POST", "/trigger", Content_Type="application/json", Content_Length="1048577")
        assert is_problem(client.ask(head), 413, "1,048,576 bytes")
        assert client.closed()


WRONG_METHODS = [
    ("GET", REGISTER, "POST"), ("POST", UNREGISTER, "DELETE"), ("POST", "/ping", "GET"), ("GET", "/trigger", "POST"),
    ("PUT", PING_BACK, "POST"), ("DELETE", "/webhooks", "GET"), ("BREW", "/health", "GET"),
    ("DELETE", "/deliveries/dlv_1_0", "GET"), ("GET", "/deliveries/dlv_1_0/attempts", "POST"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "path", "right"), WRONG_METHODS)
def test_wrong_method_is_told_the_right_one(shared: Pair, wrong: str, path: str, right: str) -> None:
    answer = shared.call(wrong, path)
    assert is_problem(answer, 405, wrong, right)
    assert right in answer.headers["allow"].split(", ")


@pytest.mark.parametrize("path", ["/nothing", "/webhooks/", "/webhooks%2Fregister", "/Ping", "//ping", "/deliveries/"])
def test_unknown_path(shared: Pair, path: str) -> None:
    assert is_problem(shared.call("GET", path), 404, "here, expected /")


def test_titles_do_not_change_with_the_version_of_python(shared: Pair) -> None:
    answers = [shared.call("GET", "/nothing"), shared.trigger("lunch")]
    answers += [shared.call("POST", "/trigger", Content_Length=length) for length in ("x", "9999999")]
    expected = {**TITLES, 413: "Content Too Large"}
    assert [answer.json()["title"] for answer in answers] == [expected[status] for status in (404, 422, 400, 413)]


# --- registering ----------------------------------------------------------------------------------------------


def entries(pair: Pair) -> list[tuple[str, str]]:
    return [(webhook["url"], webhook["event"]) for webhook in pair.call("GET", "/webhooks").json()["webhooks"]]


def test_registering_again_changes_nothing_and_answers_the_same(pair: Pair) -> None:
    for _ in range(2):
        answer = pair.call("POST", REGISTER, {"url": HOOK, "event_types": [A, B]})
        assert (answer.status, answer.json()) == (200, {"message": f"Webhook registered for: {A}, {B}"})
        assert entries(pair) == [(HOOK, A), (HOOK, B)]


def test_unregister_takes_one_event_and_leaves_the_others(pair: Pair) -> None:
    pair.register(HOOK, A, B)
    pair.register(HOOK + "2", A)
    assert pair.call("DELETE", UNREGISTER, {"url": HOOK, "event": A}).json() == {"message": "1 webhook(s) unregistered"}
    assert sorted(entries(pair)) == [(HOOK, B), (HOOK + "2", A)]
    assert is_problem(pair.call("DELETE", UNREGISTER, {"url": HOOK, "event": A}), 404, "0 webhook(s) unregistered")


@pytest.mark.parametrize("url", [url for url in URLS if url and isinstance(url, str)], ids=lambda url: ascii(url)[:40])
def test_nothing_is_unregistered_of_what_could_never_be_registered(shared: Pair, url: str) -> None:
    for more in ({}, TUNNEL):
        answer = shared.call("DELETE", UNREGISTER, {"url": url, "event": A}, **more)
        assert is_problem(answer, 404, "0 webhook(s) unregistered")


# --- ping and ping-back ---------------------------------------------------------------------------------------


def body_of(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[2]


def test_ping_goes_once_to_each_url_and_says_what_happened(pair: Pair, listener: Listener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}/hook"
    pair.register(listener.url(), A, B)
    pair.register(refusing, A)
    answer = pair.call("GET", "/ping").json()
    assert answer["message"] == "Ping delivered to 1 of 2 webhook(s)"
    good, bad = sorted(answer["deliveries"], key=lambda delivery: bool(delivery["url"] == refusing))
    assert (good["url"], good["state"], good["status"]) == (listener.url(), "delivered", 204)
    assert (bad["url"], bad["state"], bad["attempt_count"]) == (refusing, "failed", 1)
    assert "refused" in bad["error"] and "next_attempt" not in bad
    sent = listener.next()
    assert body_of(sent) == b'{"event": "ping", "data": "Ping from Exposee"}'
    assert sent.startswith(b"POST /hook HTTP/1.1\r\n") and b"\r\nContent-Type: application/json\r\n" in sent
    assert listener.requests.empty()


def test_url_with_a_ping_in_flight_is_not_sent_another(pair: Pair, listener: Listener) -> None:
    gate = threading.Event()

    def wait(connection: socket.socket) -> None:
        gate.wait()
        connection.sendall(NO_CONTENT)

    with Listener(wait) as slow, ThreadPoolExecutor() as pool, held(gate):
        pair.register(listener.url(), A)
        pair.register(slow.url(), A)
        first = pool.submit(pair.call, "GET", "/ping")
        slow.next()
        listener.next()
        delivered = f"/deliveries?url={listener.url()}&state=delivered"
        eventually(lambda: pair.call("GET", delivered).json()["deliveries"])
        second = pool.submit(pair.call, "GET", "/ping")
        listener.next()  # so what the second asker has sent is under way
        gate.set()
        answers = [first.result().json(), second.result().json()]
        assert [answer["message"] for answer in answers] == ["Ping delivered to 2 of 2 webhook(s)"] * 2
        ids = [{delivery["url"]: delivery["id"] for delivery in answer["deliveries"]} for answer in answers]
        assert ids[0][slow.url()] == ids[1][slow.url()] and ids[0][listener.url()] != ids[1][listener.url()]
        assert slow.requests.empty()


def test_ping_does_not_wait_for_ever(pair: Pair, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exposee.PING_SECONDS", 0.05)
    listener.answer = listener.hang
    pair.register(listener.url(), A)
    answer = pair.call("GET", "/ping").json()
    assert answer["message"] == "Ping delivered to 0 of 1 webhook(s)"
    assert answer["deliveries"][0]["state"] == "delivering"


def test_ping_back_confirms_the_newest_ping(pair: Pair, listener: Listener) -> None:
    body = {"url": listener.url()}
    assert is_problem(pair.call("POST", PING_BACK, body), 404, "not registered")
    pair.register(listener.url(), A)
    assert is_problem(pair.call("POST", PING_BACK, body), 409, "no ping")
    pair.call("GET", "/ping")
    pair.call("GET", "/ping")
    answer = pair.call("POST", PING_BACK, body)
    assert (answer.status, answer.json()) == (200, {"event": "ping", "data": "Ping from Exposee"})
    listed = pair.call("GET", f"/deliveries?url={listener.url()}").json()["deliveries"]
    assert [delivery["confirmed"] for delivery in listed] == [True, False]


def test_why_a_ping_failed_is_told_but_to_no_stranger_of_a_url_that_cannot_be_his(
    pair: Pair, listener: Listener
) -> None:
    listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
    pair.register(listener.url(), A)
    pair.call("GET", "/ping")
    asked = partial(pair.call, "POST", PING_BACK, {"url": listener.url()})
    assert is_problem(asked(), 409, "the newest ping to this url failed: answered 503")
    assert asked(**TUNNEL).json()["detail"] == "the newest ping to this url failed"


def test_ping_back_of_a_ping_that_failed_is_told_the_reason(pair: Pair, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n"
    pair.register(listener.url(), A)
    pair.call("GET", "/ping")
    assert is_problem(pair.call("POST", PING_BACK, {"url": listener.url()}), 409, "failed", "answered 500")


def test_ping_back_may_come_before_the_answer_to_the_ping(pair: Pair, listener: Listener) -> None:
    def ping_back_first(connection: socket.socket) -> None:
        if pair.call("POST", PING_BACK, {"url": listener.url()}).status == 200:
            connection.sendall(NO_CONTENT)

    listener.answer = ping_back_first
    pair.register(listener.url(), A)
    delivery = pair.call("GET", "/ping").json()["deliveries"][0]
    assert (delivery["state"], delivery["confirmed"]) == ("delivered", True)


# --- trigger --------------------------------------------------------------------------------------------------


def test_trigger_reaches_those_who_registered_for_the_event_and_nobody_else(pair: Pair, listener: Listener) -> None:
    with Listener() as other:
        pair.register(listener.url(), A)
        pair.register(other.url(), B)
        values: list[Any] = [None, 0, "", [], {"to": "Zoë \U0001f600"}, 2**70, [[[{}]]]]
        for data in values:  # any JSON value is fine
            answer = pair.trigger(A, data, Prefer="wait=5")
            assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=5")
            assert [delivery["url"] for delivery in answer.json()["deliveries"]] == [listener.url()]
            assert json.loads(body_of(listener.next())) == {"event": A, "data": data}
        assert other.requests.empty()


def test_preferences_that_are_ours_are_applied_and_others_ignored(shared: Pair) -> None:
    for prefer in ("respond-async, wait=5", "WAIT=5", "wait=1000000", "wait=5; foo=bar", "wait = 5"):
        assert shared.trigger(A, Prefer=prefer).status == 200, prefer
    for prefer in ("respond-async", "wait", "wait=soon", "await=5", "wait=-1"):
        assert shared.trigger(A, Prefer=prefer).status == 202, prefer


def test_first_attempts_that_take_longer_than_preferred(pair: Pair, listener: Listener) -> None:
    listener.answer = listener.hang
    pair.register(listener.url(), A)
    answer = pair.trigger(A, Prefer="wait=1")
    assert (answer.status, answer.json()["message"]) == (202, f"{A} queued for 1 webhook(s)")
    assert "preference-applied" not in answer.headers


def test_location_leads_to_the_deliveries_of_the_message(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), A)
    pair.trigger(A, "another message")
    answer = pair.trigger(A)
    (found,) = pair.call("GET", answer.headers["location"]).json()["deliveries"]
    assert (found["message"], found["url"]) == (answer.json()["id"], listener.url())
    attempts = eventually(lambda: pair.call("GET", f"/deliveries/{found['id']}").json()["attempts"])
    assert attempts[0]["request"].startswith("POST /hook HTTP/1.1\r\n")
    assert attempts[0]["response"] == NO_CONTENT.decode()


def test_answer_of_an_express_receiver_counts_as_delivered(pair: Pair, listener: Listener) -> None:
    listener.answer = (
        b'HTTP/1.1 204 No Content\r\nX-Powered-By: Express\r\nETag: W/"a-bAsFyilMr4Ra1hIU5PyoyFRunpI"\r\n'
        b"Date: Fri, 31 Jan 2025 12:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n"
    )
    pair.register(listener.url(), A)
    for answer in (pair.call("GET", "/ping"), pair.trigger(A, Prefer="wait=5")):
        assert [(it["state"], it["status"]) for it in answer.json()["deliveries"]] == [("delivered", 204)]


AXIOS = (
    b"POST %b HTTP/1.1\r\nAccept: application/json, text/plain, */*\r\nContent-Type: application/json\r\n"
    b"User-Agent: axios/1.7.9\r\nContent-Length: %d\r\nAccept-Encoding: gzip, compress, deflate, br\r\n"
    b"Host: %b\r\nConnection: %b\r\n\r\n%b"
)


def test_axios_registers_also_through_a_proxy(pair: Pair) -> None:
    body = json.dumps({"url": HOOK, "event_types": [A]}, separators=(",", ":")).encode()
    host = b"some-host.loca.lt"
    for origin, named in ((b"", b"localhost:3000"), (b"http://" + host, host), (b"HTTPS://" + host + b":443", host)):
        with pair.client() as client:
            for connection in (b"keep-alive", b"close"):
                answer = client.ask(AXIOS % (origin + REGISTER.encode(), len(body), named, connection, body))
                assert (answer.status, answer.json()) == (200, {"message": f"Webhook registered for: {A}"})
            assert client.closed()


def trigger_raw(pair: Pair, body: str) -> Response:
    with pair.client() as client:
        return client.ask(request("POST", "/trigger", body.encode()))


SPELLINGS = [
    "99999999999999.99", "9007199254740993.0", "1E2", "-0", "-0.0", "1e-400", "[1e9,1e9,1E+9]", '"\\u00fc \\/"', "{ }",
    '{"data":  {"b": 1,"a": 1.0}}',
]  # fmt: skip


@pytest.mark.parametrize("data", SPELLINGS)
def test_data_is_sent_as_it_is_spelled(pair: Pair, listener: Listener, data: str) -> None:
    pair.register(listener.url(), A)
    bodies = [f'{{"event":"{A}","data":{data}}}', f'{{ "x": {{"data": 1}}, "d\\u0061ta" :\n{data}\n, "event": "{A}" }}']
    for body in bodies:
        assert trigger_raw(pair, body).status == 202
        assert body_of(listener.next()) == f'{{"event": "{A}", "data": {data}}}'.encode()


def test_what_its_deliveries_would_have_too_much_of_is_refused_at_once(pair: Pair, listener: Listener) -> None:
    """They have three blanks that a compact request lacks, and our own receiver takes no more than we do."""
    pair.register(listener.url(), A)
    body = f'{{"event":"{A}","data":"%s"}}'
    longest = "x" * (MAX_BODY - len(body) + 2)
    assert len(body % longest) == MAX_BODY
    assert is_problem(trigger_raw(pair, body % longest), 413, "1,048,576 bytes")
    assert trigger_raw(pair, body % longest[3:]).status == 202
    assert len(body_of(listener.next())) == MAX_BODY


def test_a_webhook_that_leads_to_our_own_trigger_ends_at_once_and_the_owner_is_told(pair: Pair) -> None:
    pair.register(f"http://127.0.0.1:{pair.port}/trigger", A)
    (delivery,) = pair.trigger(A, 1, Prefer="wait=5").json()["deliveries"]
    assert (delivery["state"], delivery["status"]) == ("retrying", 508)
    (attempt,) = pair.call("GET", f"/deliveries/{delivery['id']}").json()["attempts"]
    assert "a webhook that leads to /trigger would never end" in attempt["response"]
    assert len(pair.call("GET", "/deliveries").json()["deliveries"]) == 1
    assert [line for line in pair.log if "508" in line and "unregister that URL" in line]


def test_deliveries_of_any_exposee_are_refused_at_trigger_and_nothing_else_is(pair: Pair) -> None:
    ours = {"Webhook_Id": "msg_1", "User_Agent": "Exposee/9.9"}
    for more in ({}, TUNNEL):
        assert is_problem(pair.trigger(A, 1, **ours, **more), 508, "would never end")
    assert pair.trigger(A, 1, Webhook_Id="msg_1").status == pair.trigger(A, 1, User_Agent="Exposee/1.0").status == 202


# --- the terminal ---------------------------------------------------------------------------------------------


def test_the_terminal_tells_what_a_pair_waits_for(pair: Pair, listener: Listener) -> None:
    url = listener.url()
    pair.register(url, A, B)
    pair.register(url, A, secret=SECRET)
    pair.call("GET", "/ping")
    pair.call("POST", PING_BACK, {"url": url})
    for event in (A, B):
        pair.call("DELETE", UNREGISTER, {"url": url, "event": event})
    pair.trigger(A, 1)
    pair.call("GET", "/ping")
    pair.call("POST", "/webhooks/registr", {"url": url})
    pair.call("GET", "/webhooks", **TUNNEL)
    assert [line for line in pair.log if not line.startswith("ping -> ")] == [
        f"registered for {A}, {B}: {url}",
        f"registered for {A}, signed: {url}",
        f"ping confirmed: {url}",
        f"unregistered from {A}: {url}",
        f"unregistered from {B}: {url}",
        f"nothing to deliver: nobody is registered for {A}",
        "nothing to deliver: nobody is registered for any event",
        "POST /webhooks/registr: 404, there is no /webhooks/registr here, expected /webhooks/register",
        "GET /webhooks: 403, for local callers only; the owner can start the exposee with --token",
    ]


def test_deliveries_that_an_unregistration_cancels_are_counted(pair: Pair, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
    pair.register(listener.url(), A)
    for number in range(2):
        pair.trigger(A, number, Prefer="wait=5")
    pair.call("DELETE", UNREGISTER, {"url": listener.url(), "event": A})
    assert pair.log[-1] == f"unregistered from {A}, 2 waiting cancelled: {listener.url()}"


def test_the_first_lines_are_the_url_and_what_the_store_has(tmp_path: Path, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
        assert program.wait_for("wait") == "webhooks.json: 0 webhook(s) of 0 URL(s), 0 deliveries wait"
        caller = Caller(program.port)
        for path, *events in (("/a", A, B), ("/b", B)):
            caller.register(listener.url(path), *events)
        caller.trigger(A, 1, Prefer="wait=5")
        assert re.fullmatch(r"\d\d:\d\d:\d\d payment_received -> .*", program.wait_for("503"))
        assert program.stop() == 0
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
        line = program.wait_for("wait")
        assert program.lines[1] == line == "webhooks.json: 3 webhook(s) of 2 URL(s), 1 delivery waits"
        assert program.lines[0].startswith("Exposee on http://")


def test_raw_shows_all_bytes_in_the_order_of_causes(tmp_path: Path, listener: Listener) -> None:
    """The receiver pings back before it answers the ping: none of these requests is over before the next one begins."""
    url = listener.url()
    with Program("exposee.py", "--port", "0", "--raw", "--retry-schedule", "0.01", cwd=tmp_path) as program:
        caller = Caller(program.port)
        caller.register(url, A)

        def ping_back_first(connection: socket.socket) -> None:
            caller.call("POST", PING_BACK, {"url": url})
            connection.sendall(b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n")

        listener.answer = ping_back_first
        caller.call("GET", "/ping")
        listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
        (delivery,) = caller.trigger(A, 1, Prefer="wait=5").json()["deliveries"]
        path = f"/deliveries/{delivery['id']}"
        attempts = eventually(lambda: [it for it in [caller.call("GET", path).json()] if it["state"] == "failed"])
        assert program.stop() == 0
    lines = program.lines
    shown = [after[:26] for line, after in zip(lines, lines[1:], strict=False) if line.startswith("--- ")]
    assert shown[2:8] == [
        "< GET /ping HTTP/1.1", "> POST /hook HTTP/1.1", "< POST /webhooks/ping-back", "> HTTP/1.1 200 OK",
        "< HTTP/1.1 503 -", "> HTTP/1.1 200 OK",
    ]  # fmt: skip
    titles = [line for line in lines if line.startswith("--- ") and delivery["id"] in line]
    assert attempts[0]["attempt_count"] == 2 and titles == [
        line.format(f"{number} of {delivery['id']}")
        for number in (1, 2)
        for line in ("--- attempt {}: we call " + url, "--- attempt {} to " + url + ": it answers")
    ]


# --- who may do what ------------------------------------------------------------------------------------------

STRANGERS = [
    *({"Host": host} for host in ("some-host.loca.lt", "localhost.evil.example", "127.0.0.1.nip.io:3000", "10.0.0.1")),
    *({"Origin": origin} for origin in ("https://evil.example", "null", "http://localhost:1")),
    *({name: "::1"} for name in ("X_Forwarded_For", "X_Forwarded_Host", "X_Real_IP", "CF_Connecting_IP", "CF_Ray")),
    {"Via": "1.1 tunnel"},
    {"Forwarded": "for=127.0.0.1"},
    {"Host": "evil.example", "Origin": "http://evil.example"},  # a name that resolves to us for a while
]
OWNERS_PAGES = ["/", "/webhooks", "/deliveries", "/deliveries/dlv_1_0", "/deliveries/stream"]


@pytest.mark.parametrize("fields", STRANGERS, ids=str)
def test_stranger_does_not_see_the_lists(shared: Pair, fields: dict[str, str]) -> None:
    assert is_problem(shared.call("GET", "/webhooks", **fields), 403, "local callers only", "--token")


@pytest.mark.parametrize("authority", ["some-host.loca.lt", "evil.example:3000", "192.168.1.5"])
def test_caller_who_names_a_foreign_authority_is_a_stranger(shared: Pair, authority: str) -> None:
    assert is_problem(shared.call("GET", f"http://{authority}/webhooks"), 403, "local callers only")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:3000", "127.0.0.1:3000", "[::1]:3000", "127.0.0.1."])
def test_local_caller_sees_the_lists(shared: Pair, host: str) -> None:
    assert shared.call("GET", "/webhooks", Host=host).status == 200
    assert shared.call("GET", "/webhooks", Host=host, Origin=f"http://{host}").status == 200


def test_owners_pages_are_closed_to_strangers_and_two_are_for_everyone(shared: Pair) -> None:
    for path in OWNERS_PAGES:
        assert is_problem(shared.call("GET", path, **TUNNEL), 403, "local callers")
    assert is_problem(shared.call("POST", "/deliveries/dlv_1_0/attempts", **TUNNEL), 403, "local callers")
    assert [shared.call("GET", path, **TUNNEL).status for path in ("/health", "/event-types")] == [200, 200]


def test_stranger_does_the_whole_exercise_and_learns_counts_only(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), A)
    ping = pair.call("GET", "/ping", **TUNNEL).json()
    assert ping == {"message": "Ping delivered to 1 of 1 webhook(s)", "id": ping["id"]}
    assert pair.call("POST", PING_BACK, {"url": listener.url()}, **TUNNEL).status == 200
    waited = pair.trigger(A, Prefer="wait=5", **TUNNEL).json()
    assert waited == {"message": f"{A} delivered to 1 of 1 webhook(s)", "id": waited["id"]}
    assert pair.trigger(A, **TUNNEL).status == 202
    assert pair.call("POST", REGISTER, GOOD[REGISTER], **TUNNEL).status == 200
    assert pair.call("DELETE", UNREGISTER, GOOD[UNREGISTER], **TUNNEL).status == 200


def test_token_opens_the_lists_to_strangers_and_closes_trigger(tmp_path: Path) -> None:
    with Pair(tmp_path, token="t0ken") as pair:
        for wrong in (None, "Bearer wrong", "Basic dDBrZW4=", "Bearer", "t0ken", "Bearer t0kené", "Bearer t0ken t0ken"):
            fields = TUNNEL | ({} if wrong is None else {"Authorization": wrong})
            for answer in (pair.call("GET", "/webhooks", **fields), pair.trigger(A, **fields)):
                assert is_problem(answer, 401, "Authorization: Bearer TOKEN")
                assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "deliveries" not in pair.call("GET", "/ping", **fields).json()  # the rest needs no token
        fields = {**TUNNEL, "Authorization": "bearer t0ken"}
        assert [pair.call("GET", path, **fields).status for path in ("/webhooks", "/deliveries")] == [200, 200]
        assert pair.call("GET", "/ping", **fields).json()["deliveries"] == []
        assert pair.trigger(A, **fields).status == 202
        assert pair.trigger(A).status == 202 and pair.call("GET", "/webhooks").status == 200  # local: without


def test_url_with_a_secret_is_changed_by_those_who_carry_it(pair: Pair) -> None:
    def change(path: str, secret: str | None, **body: Any) -> int:
        carried = {} if secret is None else {"secret": secret}
        return pair.call(method(path), path, {"url": HOOK, **body, **carried}, **TUNNEL).status

    assert change(REGISTER, SECRET, event_types=[A]) == 200
    for wrong in (None, OTHER_SECRET):
        assert change(REGISTER, wrong, event_types=[A, B]) == 403
        assert change(UNREGISTER, wrong, event=A) == 403
    assert change(REGISTER, None, event_types=[A]) == 200  # changes nothing
    assert entries(pair) == [(HOOK, A)]
    assert change(REGISTER, SECRET, event_types=[B]) == 200
    assert change(UNREGISTER, SECRET, event=A) == 200
    pair.register(HOOK, A, secret=OTHER_SECRET)  # a local caller needs none, and may replace it
    assert change(UNREGISTER, SECRET, event=A) == 403
    assert [change(UNREGISTER, OTHER_SECRET, event=event) for event in (A, B)] == [200, 200]
    assert change(REGISTER, None, event_types=[A]) == 200  # the last unregister forgot the secret
    assert pair.call("DELETE", UNREGISTER, {"url": HOOK, "event": A}).status == 200


def test_a_refused_registration_does_not_forget_that_the_url_has_answered_410(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_410(*_: object) -> Generator[Any, None, Any]:
        yield from ()
        return exchange(410)

    with Pair(tmp_path, exchanging=answer_410) as pair:
        unregister_urls, asked = pair.store.unregister_urls, threading.Event()

        def refuse(gone: Any) -> int:
            asked.set()
            raise StoreError("No space left on device")

        monkeypatch.setattr(pair.store, "unregister_urls", refuse)
        pair.register(HOOK, A, secret=SECRET)
        pair.trigger(A)
        assert asked.wait(SECONDS)
        assert is_problem(pair.call("POST", REGISTER, {"url": HOOK, "event_types": [B]}, **TUNNEL), 403, "secret")
        monkeypatch.setattr(pair.store, "unregister_urls", unregister_urls)
        assert pair.dispatcher.housekeeper.work() and not pair.store.has(HOOK)


def test_a_stranger_replaces_a_secret_by_carrying_the_old_one(pair: Pair) -> None:
    def rotate(**secrets: str) -> Response:
        return pair.call("POST", REGISTER, {"url": HOOK, "event_types": [A], **secrets}, **TUNNEL)

    def unregister(secret: str) -> int:
        return pair.call("DELETE", UNREGISTER, {"url": HOOK, "event": A, "secret": secret}, **TUNNEL).status

    third = "whsec_" + base64.b64encode(bytes(32)).decode()
    pair.register(HOOK, A, secret=SECRET)
    for wrong in ({}, {"old_secret": OTHER_SECRET}, {"old_secret": third}):
        assert is_problem(rotate(secret=OTHER_SECRET, **wrong), 403, "old_secret")
    assert is_problem(rotate(secret=OTHER_SECRET, old_secret=SECRET[:-1]), 422, "old_secret is not whsec_")
    assert pair.store.secrets(HOOK) == [SECRET]
    for _ in range(2):  # the answer may have been lost: the same once more is no harm
        assert rotate(secret=OTHER_SECRET, old_secret=SECRET).status == 200
    assert pair.store.secrets(HOOK) == [OTHER_SECRET, SECRET]
    assert is_problem(rotate(secret=third, old_secret=SECRET), 403), "the old one signs, but permits nothing"
    assert unregister(SECRET) == 403
    assert unregister(OTHER_SECRET) == 200 and pair.store.secrets(HOOK) == []


def test_secret_is_shown_nowhere(tmp_path: Path, listener: Listener) -> None:
    body = {"url": listener.url(), "event_types": [A], "secret": SECRET, "old_secret": OTHER_SECRET}
    with Program("exposee.py", "--port", "0", "--raw", cwd=tmp_path) as program:
        ask = Caller(program.port).call
        seen = [ask("POST", REGISTER, body), Caller(program.port).trigger(A, Prefer="wait=5")]
        delivery = seen[-1].json()["deliveries"][0]["id"]
        paths = ("/ping", "/webhooks", "/deliveries", f"/deliveries/{delivery}", "/health")
        seen += [ask("GET", path) for path in paths]
        wrong = [{**body, "url": 5}, {**body, "event_types": 5}, {**body, "secret": SECRET[:-1]}, [body]]
        seen += [ask("POST", REGISTER, it) for it in wrong]
        seen += [ask("DELETE", UNREGISTER, {**body, "event": A, "secret": OTHER_SECRET}, **TUNNEL)]
        assert [answer.status for answer in seen] == [200] * 7 + [422] * 4 + [403]
        assert program.stop() == 0
        files = [(tmp_path / name).read_text() for name in ("webhooks.json", JOURNAL)]
        shown = [*(answer.body.decode() for answer in seen), *program.lines, *files]
    assert any("webhook-signature" in text for text in shown)
    assert not [text for text in shown if SECRET[6:20] in text or OTHER_SECRET[6:20] in text]


# --- private destinations -------------------------------------------------------------------------------------

NOT_FOR_STRANGERS = {
    "private": "10.0.0.1 10.1 167772161 192.168.1.5 172.16.0.1 100.64.0.1 198.18.0.1 240.0.0.1 224.0.0.1 [fd00::1] "
    "[fec0::1] [ff02::1] [::ffff:10.0.0.1] [64:ff9b::a00:1] [64:ff9b:1::1] [2002:a00:1::] foo.local FOO.Local. printer "
    "a.internal a.lan a.test a.home.arpa",
    "loopback": "127.0.0.1 2130706433 0177.0.0.1 0x7f.1 0.0.0.0 [::1] [::] [::ffff:127.0.0.1] localhost a.localhost",
    "link-local": "169.254.169.254 2852039166 0xa9.0xfe.0xa9.0xfe [fe80::1] [::ffff:169.254.169.254] [64:ff9b::a9fe:1]",
}


def register_at(pair: Pair, host: str, **fields: str) -> Response:
    return pair.call("POST", REGISTER, {"url": f"http://{host}:8080/hook", "event_types": [A]}, **fields)


@pytest.mark.parametrize(("kind", "host"), [(kind, it) for kind, of in NOT_FOR_STRANGERS.items() for it in of.split()])
def test_stranger_cannot_register_a_private_destination(shared: Pair, kind: str, host: str) -> None:
    words = {"private": [kind, "--allow-private"]}.get(kind, [kind])
    assert is_problem(register_at(shared, host, **TUNNEL), 403, *words)
    if kind == "link-local":
        assert is_problem(register_at(shared, host), 403, *words)  # nor can anybody else


def test_local_caller_registers_what_is_private(pair: Pair) -> None:
    assert [register_at(pair, host).status for host in ("127.0.0.1", "10.0.0.1", "[::1]", "printer")] == [200] * 4


def test_allow_private_opens_private_addresses_and_not_loopback(tmp_path: Path) -> None:
    with Pair(tmp_path, guard=Guard(allow_private=True)) as pair:
        assert [register_at(pair, host, **TUNNEL).status for host in ("10.0.0.1", "[fd00::1]", "printer")] == [200] * 3
        refused = "127.0.0.1", "localhost", "[::1]", "2130706433", "169.254.169.254"
        assert [register_at(pair, host, **TUNNEL).status for host in refused] == [403] * 5


# --- too much -------------------------------------------------------------------------------------------------


def test_stranger_who_asks_too_often_is_told_to_wait(pair: Pair) -> None:
    with pair.client() as client:
        answers = [client.ask(request("GET", "/ping", None, **TUNNEL)) for _ in range(200)]
        assert all(client.ask(request("GET", "/ping")).status == 200 for _ in range(100))  # the owner may go on
    refused = [answer for answer in answers if answer.status != 200]
    assert answers[0].status == 200 and refused
    assert is_problem(refused[0], 429, "times a second") and int(refused[0].headers["retry-after"]) >= 1


def test_allowance_fills_up_again_with_time() -> None:
    now = [100.0]
    allowance = Allowance(8.0, 3.0, lambda: now[0])
    assert [allowance.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.125]
    now[0] += 0.125
    assert [allowance.take() for _ in range(2)] == [0.0, 0.125]
    now[0] += 1_000
    assert [allowance.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.125]


# --- the programs ---------------------------------------------------------------------------------------------


def run(script: str, *options: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS)


def test_exercise_with_three_programs(tmp_path: Path) -> None:
    with (
        Program("exposee.py", "--port", "0", cwd=tmp_path) as exposee,
        Program("receiver.py", "--port", "0", env={"WEBHOOK_SECRET": SECRET}) as receiver,
    ):
        base, url = f"http://127.0.0.1:{exposee.port}", f"http://127.0.0.1:{receiver.port}/webhook-receiver"
        caller = Caller(exposee.port)

        def script(*options: str) -> str:
            done = run("register_webhook.py", "--exposee", base, "--url", url, "--secret", SECRET, *options)
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        assert script("--events", A) == f'Register Response: 200 {{"message": "Webhook registered for: {A}"}}\n'
        assert "Ping delivered to 1 of 1" in script("--ping")
        assert receiver.wait_for('Received webhook payload: {"event": "ping", "data": "Ping from Exposee"}')
        assert '{"event": "ping", "data": "Ping from Exposee"}' in script("--ping-back")
        assert caller.trigger(B, 1).json()["message"] == f"nobody is registered for {B}"
        assert caller.trigger(A, 2, Prefer="wait=5").json()["deliveries"][0]["status"] == 204
        assert "verified" in receiver.wait_for(f'Received webhook payload: {{"event": "{A}", "data": 2}}')
        assert script("--events", A, "--unregister").endswith('{"message": "1 webhook(s) unregistered"}\n')
        assert caller.trigger(A, 3).json()["message"] == f"nobody is registered for {A}"
        assert (receiver.stop(), exposee.stop()) == (0, 0)
        assert sum("Received" in line for line in receiver.lines) == 2


def test_first_run_in_an_empty_folder_answers_within_a_second(tmp_path: Path) -> None:
    def seconds(folder: Path) -> float:
        folder.mkdir()
        began = time.monotonic()
        with Program("exposee.py", "--port", "0", cwd=folder) as program:
            assert Caller(program.port).call("GET", "/health").status == 200
            took = time.monotonic() - began
        assert (folder / "webhooks.json").read_text() == "[]\n"
        return took

    assert any(seconds(tmp_path / str(number)) < 1 for number in range(3))  # three tries, as the machine may be busy


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ["exposee.py", "receiver.py"])
def test_stops_with_one_line(tmp_path: Path, script: str, number: int) -> None:
    with Program(script, "--port", "0", cwd=tmp_path) as program:
        assert program.port
        assert program.stop(number) == 0
        assert len(program.lines) == 3 and program.lines[2].startswith("Stopped"), program.lines


@pytest.mark.parametrize("before", [True, False], ids=["before it waits", "while it waits"])
def test_a_second_ctrl_c_cuts_the_wait_for_what_is_under_way_short(
    tmp_path: Path, listener: Listener, before: bool
) -> None:
    listener.answer = listener.hang
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
        Caller(program.port).register(listener.url(), A)
        Caller(program.port).trigger(A, 1)
        listener.next()
        program.process.send_signal(signal.SIGINT)
        if not before:
            program.wait_for("Waiting up to 5 s")
        began = time.monotonic()
        assert program.stop(signal.SIGTERM) == 0  # counts the same; two of one number at the same time would be one
        assert time.monotonic() - began < 3
        assert [line for line in program.lines if "Stopped" in line] == program.lines[-1:]
        assert program.lines[-1].startswith("Stopped; 1 delivery waits in "), program.lines
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
        assert program.port and listener.next()


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("number", mostly_slow([signal.SIGINT, signal.SIGTERM]))
@pytest.mark.parametrize("redirection", mostly_slow(["", "<&- >&- 2>&-", ">/dev/full 2>&1", ">&-", ">/dev/full"], 3))
def test_an_output_that_takes_nothing_changes_nothing_else(
    redirection: str, number: int, tmp_path: Path, listener: Listener
) -> None:
    """Without a redirection, the reader goes away after the first line, as `head -1` does."""
    port = free_port()
    command = ["sh", "-c", f"exec {sys.executable} {ROOT / 'exposee.py'} --raw --port {port} {redirection}"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stderr
            assert redirection or process.stdout.readline().startswith(b"Exposee on ")
            process.stdout.close()
            eventually(lambda: is_up(port), "an answer")
            Caller(port).register(listener.url(), A)
            for _ in range(20):
                (delivery,) = Caller(port).trigger(A, 1, Prefer="wait=5").json()["deliveries"]
                assert delivery["state"] == "delivered"
            process.send_signal(number)
            assert (process.wait(SECONDS), process.stderr.read()) == (0, b"")
        finally:
            process.kill()


def is_up(port: int) -> bool:
    try:
        return Caller(port).call("GET", "/health").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("value", ["", " ", " t0ken", "t0ken\n", "t\u00f6ken", "\udcff"])
@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_token_that_is_none_stops_the_start(
    value: str, way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an empty one would let strangers trigger, and one with a blank or an umlaut would never match."""
    monkeypatch.delenv("EXPOSEE_TOKEN", raising=False)
    if way == "environment":
        monkeypatch.setenv("EXPOSEE_TOKEN", value)
    with pytest.raises(SystemExit) as ended:
        exposee.parser().parse_args(["--token", value] if way == "option" else [])
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (2, "") and error.count("\n") == 1
    assert ("--token" if way == "option" else "EXPOSEE_TOKEN") in error and "t0ken" not in error


def test_with_a_token_the_terminal_says_who_needs_none(tmp_path: Path) -> None:
    """Behind a proxy that adds no field, and names the exposee itself as Host, that would be everybody."""
    with Program("exposee.py", "--port", "0", cwd=tmp_path, env={"EXPOSEE_TOKEN": "t0ken"}) as program:
        assert program.wait_for("behind nginx all callers look local, and need no token")
        assert program.stop() == 0 and "t0ken" not in str(program.lines)


def fails(script: str, *options: str, cwd: Path) -> str:
    """The one line with which a program refuses to start."""
    done = run(script, *options, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("script", ["exposee.py", "receiver.py"])
def test_taken_port(tmp_path: Path, script: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = fails(script, "--port", port, cwd=tmp_path)
        assert port in line and "--port" in line
    assert list(tmp_path.iterdir()) == [], "a file was touched before the port was there"


@pytest.mark.parametrize("store", mostly_slow(["file/webhooks.json", ".", "folder", "folder.json"]))
def test_store_that_cannot_be_written(tmp_path: Path, store: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.json").mkdir()
    fails("exposee.py", "--port", "0", "--store", store, cwd=tmp_path)


BROKEN = "[\n{", '{"url": "http://a.example/"}', '[\n{"url": "/hook", "event": "a"}]'


@pytest.mark.parametrize("text", mostly_slow(BROKEN))
def test_broken_store_stops_the_start_and_is_left_untouched(tmp_path: Path, text: str) -> None:
    store = tmp_path / "webhooks.json"
    store.write_text(text)
    assert f"webhooks.json, line {text.count(chr(10)) + 1}: " in fails("exposee.py", "--port", "0", cwd=tmp_path)
    assert store.read_text() == text


def test_two_stores_in_one_folder_share_nothing(tmp_path: Path, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"

    def start(name: str) -> Program:
        return Program("exposee.py", "--port", "0", "--store", f"{name}.json", cwd=tmp_path)

    with start("a") as first:
        caller = Caller(first.port)
        caller.register(listener.url(), A, secret=SECRET)
        assert caller.trigger(A, 1, Prefer="wait=5").json()["deliveries"][0]["state"] == "retrying"
        with start("b") as second:
            assert Caller(second.port).call("GET", "/webhooks").json() == {"webhooks": []}
            assert Caller(second.port).call("GET", "/deliveries").json() == {"deliveries": []}
            assert second.stop() == 0
        assert first.stop() == 0
    with start("b") as second, start("a") as first:
        waiting = [Caller(it.port).call("GET", "/health").json()["waiting"] for it in (first, second)]
    assert waiting == [1, 0]
    assert not [line for it in (first, second) for line in it.lines if "warning" in line]
    names = {path.name for path in tmp_path.iterdir()}
    parts = {"json", "lock", "deliveries.jsonl"}
    assert names == {f"{name}.{part}" for name in "ab" for part in parts} | {"a.secrets.json"}


def test_what_waits_for_a_webhook_that_is_gone_is_told_and_kept_until_the_owner_decides(
    tmp_path: Path, listener: Listener
) -> None:
    """webhooks.json was emptied by hand: that may have been a mistake."""
    listener.answer = b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n"
    url = listener.url()
    body = {"url": url, "event": A}
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
        caller = Caller(program.port)
        caller.register(url, A)
        for number in range(2):
            caller.trigger(A, number, Prefer="wait=5")
        assert program.stop() == 0
    (tmp_path / "webhooks.json").write_text("[]")
    for _ in range(2):  # a start alone decides nothing
        with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
            assert program.wait_for(
                f"warning: 2 deliveries wait for 1 URLs that are not registered for them, such as {url}"
            )
            assert "Exposee on http" in program.lines[0]
            caller = Caller(program.port)
            answer = caller.call("DELETE", UNREGISTER, body, **TUNNEL)  # nor does a stranger
            assert is_problem(answer, 404, "0 webhook(s) unregistered")
            assert caller.call("GET", "/health").json()["waiting"] == 2
            assert program.stop() == 0
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
        caller = Caller(program.port)
        assert is_problem(caller.call("DELETE", UNREGISTER, body), 404, "0 webhook(s) unregistered")
        program.process.kill()  # it is on the disk before the answer
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as program:
        caller = Caller(program.port)
        caller.register(url, A)
        states = [it["state"] for it in caller.call("GET", "/deliveries").json()["deliveries"]]
        assert states == ["cancelled"] * 2 and caller.call("GET", "/health").json()["waiting"] == 0
        assert not [line for line in program.lines if "warning" in line]


BAD_OPTIONS = (
    "--nonsense --port=65536 --host= --event-types=a,,b --event-types=ping --retry-schedule=5,x --retry-schedule=, "
    "--timeout=nan --timeout=x --workers=0 --store=webhooks.deliveries.jsonl --store=webhooks.secrets.json --store=webhooks.lock"
)


@pytest.mark.parametrize("option", mostly_slow(BAD_OPTIONS.split()))
def test_bad_option(tmp_path: Path, option: str) -> None:
    assert option.partition("=")[0] in fails("exposee.py", option, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
