"""The receiver's page: what it says of each request, to whom, and what it costs."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from browser import Browser
from serving import Watched, is_problem, serving
from support import SECONDS, held, request
from test_addresses import PROXIES, asked
from test_verifying import KEY, SECRET, TIME, signature

import receiver
from inbox import KEPT, Entry, Inbox
from receiver import PATH, Receiver
from wire import SEEN, Answer, Problem, Request

MARKUP = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"
EVENT = b'{"event": "payment_received", "data": {"amount": 100}}'


@pytest.fixture
def server() -> Iterator[Watched]:
    """A receiver with the secret, at the time of the example."""
    with serving(Receiver(SECRET, clock=lambda: TIME, say=lambda *lines: None).routes) as it:
        yield it


@pytest.fixture(scope="module")
def known_to_strangers() -> Iterator[Watched]:
    """A receiver without a secret."""
    with serving(Receiver(say=lambda *lines: None).routes) as it:
        yield it


def post(server: Watched, body: bytes = EVENT, message: str = "", query: str = "", /, **fields: str) -> int:
    """The status of the answer; the request is signed if it has a message's id."""
    fields = (signed(message, body) if message else {}) | fields
    with server.client() as client:
        return client.ask(request("POST", PATH + query, body, **fields)).status


def signed(message: str, body: bytes) -> dict[str, str]:
    value = "v1," + signature(KEY, f"{message}.{TIME}.".encode() + body)
    return {"webhook_id": message, "webhook_timestamp": str(TIME), "webhook_signature": value}


def listed(server: Watched, query: str = "") -> list[dict[str, Any]]:
    with server.client() as client:
        answer = client.ask(request("GET", "/requests" + query))
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    found: list[dict[str, Any]] = answer.json()["requests"]
    return found


# --- what it says of a request ---------------------------------------------------------------------------------


def test_what_arrived_is_listed_newest_first(server: Watched) -> None:
    assert [post(server, EVENT, "msg_1"), post(server, EVENT, "msg_1"), post(server)] == [204, 204, 401]
    assert [post(server, EVENT, "msg_2", webhook_signature="v1,AAAA"), post(server, b"{", "msg_3")] == [401, 400]
    found = listed(server)
    assert [it["number"] for it in found] == [5, 4, 3, 2, 1]
    assert [it["status"] for it in found] == [400, 401, 401, 204, 204]
    assert [it["verified"] for it in found] == [True, False, False, True, True]
    assert [it["duplicate"] for it in found] == [False, False, False, True, False]
    assert "not JSON" in found[0]["notes"][-1] and "another secret" in found[1]["notes"][-1]
    assert "no webhook-signature" in found[2]["notes"][0]
    assert found[4]["payload"] == json.dumps(json.loads(EVENT), indent=2)
    assert datetime.fromisoformat(found[4]["time"]).timestamp() == TIME


def test_without_a_secret_nothing_is_verified() -> None:
    with serving(Receiver(say=lambda *lines: None).routes) as server:
        assert [post(server), post(server, webhook_signature="v1,AAAA")] == [204, 204]
        assert [it["verified"] for it in listed(server)] == [None, None]


def test_an_error_in_handle_is_explained(server: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(event: str, data: Any) -> None:
        raise KeyError("total\ud800")

    monkeypatch.setattr(receiver, "handle", handle)
    assert post(server, EVENT, "msg_1") == 500
    found = listed(server)[0]
    assert found["status"] == 500 and "KeyError" in found["notes"][-1]


@pytest.mark.parametrize("asks, status", [("503", 503), ("nonsense", 422), ("half", None)])
def test_what_the_url_asked_for_is_said(asks: str, status: int | None, server: Watched) -> None:
    with server.client() as client:
        client.send(request("POST", f"{PATH}?respond={asks}", EVENT))  # unsigned: refused before it is looked at
        assert client.receive().status == 401
        client.send(request("POST", f"{PATH}?respond={asks}", EVENT, **signed("m", EVENT)))
        client.sock.recv(1)
        found = listed(server)[0]
    assert found["status"] == status and f"respond={asks}" in found["notes"][-1]


def test_a_request_is_shown_as_it_came_but_for_secrets(server: Watched) -> None:
    body = b'{"secret": "hidden1", "b":[1,  2],"c": "whsec_hidden2"}'
    post(server, body, Authorization="Bearer hidden3", X_oDD="\t two  blanks")
    found = listed(server)[0]
    assert f"POST {PATH} HTTP/1.1\nHost: localhost\n" in found["raw"] and "\nX-oDD: \\t two  blanks\n" in found["raw"]
    assert found["raw"].endswith('\n\n{"secret": "***", "b":[1,  2],"c": "***"}')
    assert json.loads(found["payload"]) == {"secret": "***", "b": [1, 2], "c": "***"}
    assert "hidden" not in found["raw"] + found["payload"]


# --- who sees it -----------------------------------------------------------------------------------------------

SIGNS = [{name: "1"} for name in PROXIES.split()]
SIGNS += [{"host": "red-cats-jump.loca.lt"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}]


@pytest.mark.parametrize("sign", SIGNS, ids=str)
def test_a_stranger_may_send_a_webhook_and_see_nothing(sign: dict[str, str], known_to_strangers: Watched) -> None:
    fields = {name.replace("-", "_").title(): value for name, value in sign.items()}
    assert post(known_to_strangers, **fields) == 204
    with known_to_strangers.client() as client:
        for path in ("/", "/requests"):
            answer = client.ask(request("GET", path, None, **fields))
            assert "local callers only" in is_problem(answer, 403, closes=False)


def test_a_stranger_in_http_1_0_or_from_the_network_sees_nothing() -> None:
    for path, methods in Inbox(lambda: TIME).routes.items():
        for stranger in ({"version": "1.0"}, {"peer": "192.168.1.5"}, {"authority": "evil.example"}):
            with pytest.raises(Problem, match="local callers only") as caught:
                assert methods["GET"]
                methods["GET"](asked("GET", path)._replace(**stranger))  # type: ignore[arg-type]
            assert caught.value.status == 403


# --- what it costs ---------------------------------------------------------------------------------------------


def test_requests_without_number_and_size_take_bounded_memory() -> None:
    inbox, note = Inbox(lambda: TIME), "x" * 1_000_000

    def receive(request: Request, entry: Entry) -> Answer:
        entry.notes.append(note)
        return Answer(204)

    handler = inbox.recording(receive)
    tracemalloc.start()
    try:
        for _ in range(2_000):
            handler(asked("POST", PATH)._replace(body=bytes(1_048_576), received=bytes(SEEN), size=1_048_999))
        assert tracemalloc.get_traced_memory()[1] < 8 * 1_048_576
    finally:
        tracemalloc.stop()
    for _ in range(200):
        handler(asked("POST", PATH)._replace(body=b"[" * 60 + b"1," * 4_000 + b"1" + b"]" * 60))
    answer = inbox.requests(asked("GET", "/requests"))
    found = json.loads(answer.body)["requests"]
    assert len(found) == KEPT and found[0]["number"] == 2_200 and len(answer.body) < 8 * 1_048_576


def test_what_is_cut_says_so(server: Watched) -> None:
    body = json.dumps({"event": "e", "data": "x" * 500_000}).encode()
    post(server, body)
    found = listed(server)[0]
    assert found["payload"].endswith(f"\n... the beginning of {len(body):,} bytes")
    assert found["raw"].endswith(" more bytes") and len(str(found)) < 50_000


def test_showing_the_requests_holds_up_no_answer(server: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, entered = threading.Event(), threading.Event()
    shown = Entry.to_json

    def slow(entry: Entry) -> dict[str, Any]:
        entered.set()
        assert gate.wait(SECONDS)
        return shown(entry)

    monkeypatch.setattr(Entry, "to_json", slow)
    post(server)
    with held(gate), server.client() as reader:
        reader.send(request("GET", "/requests"))
        assert entered.wait(SECONDS)
        assert post(server, EVENT, "msg_1") == 204
        gate.set()
        assert [it["number"] for it in reader.receive().json()["requests"]] == [1]


def test_a_reader_that_knows_the_newest_waits_for_another(server: Watched) -> None:
    post(server)
    with server.client() as reader:
        reader.send(request("GET", "/requests?after=1"))
        reader.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            reader.sock.recv(1)
        reader.sock.settimeout(SECONDS)
        post(server)
        assert [it["number"] for it in reader.receive().json()["requests"]] == [2, 1]


@pytest.mark.parametrize("after", ["0", "2", "99", "", "x"])
def test_a_reader_that_knows_another_newest_does_not_wait(after: str, server: Watched) -> None:
    """99 is what a page knows from before a restart of the receiver."""
    post(server)
    assert [it["number"] for it in listed(server, f"?after={after}")] == [1]


# --- in a browser ----------------------------------------------------------------------------------------------


def test_the_page_shows_what_arrives(session: Browser, server: Watched) -> None:
    session.open(server.url)
    session.wait_for_text("#empty:not([hidden])", f"curl {server.url}{PATH}")
    post(server, EVENT, "msg_1")
    session.wait_for_text("#list [open] pre", '"amount": 100\n')  # the first one is open
    session.wait_for_text("#list [open] pre", "webhook-id: msg_1")
    post(server)
    post(server, EVENT, "msg_2", webhook_signature="v1,AAAA")
    post(server, EVENT, "msg_1")
    post(server, json.dumps({MARKUP: MARKUP}).encode(), "msg_3", f"?{MARKUP}".replace(" ", "+"))
    session.wait_for("document.querySelectorAll('#list > li').length === 5")
    assert session.texts("summary .state:not(.busy)") == ["verified", "verified", *["not verified"] * 2, "verified"]
    assert [text.split()[-1] for text in session.texts("summary > :last-child")] == ["204", "204", "401", "401", "204"]
    assert session.texts("summary .busy") == ["duplicate"]
    session.wait_for_text("li:nth-child(3) .notes", "no known mistake explains it")
    assert session.texts("#list [open] pre") == session.texts("li:last-child pre")  # what was open stays open

    session.click("li:first-child summary")
    session.wait_for_text("li:first-child [open] pre", MARKUP)
    assert session.run("return [window.hacked ?? 0, document.querySelectorAll('img, script').length]") == [0, 1]
    session.resize(360, 740)
    assert session.run("return document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth") == 0
    assert [line for line in session.log() if "Content Security Policy" in line or "Uncaught" in line] == []
    session.resize(1280, 800)
    session.open("about:blank")


def test_a_request_that_is_refused_leaves_nothing_for_the_search_for_cycles() -> None:
    known: list[weakref.ref[Problem]] = []

    def refuse(request: Request, entry: Entry) -> Answer:
        problem = Problem(401, "no")
        known.append(weakref.ref(problem))
        try:
            raise problem
        finally:
            del problem

    handler = Inbox(lambda: TIME).recording(refuse)
    gc.disable()
    try:
        with contextlib.suppress(Problem):
            handler(asked())
        assert known[0]() is None
    finally:
        gc.enable()
