"""What the owner of an exposee sees and asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import Client, Listener, Pair, eventually, fields, is_problem, request

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
A = "payment_received"

# --- deliveries -----------------------------------------------------------------------------------------------


def test_deliveries_are_listed_newest_first_and_filtered(pair: Pair, listener: Listener) -> None:
    with Listener(b"HTTP/1.1 500 -\r\nContent-Length: 0\r\n\r\n") as bad:
        urls = [listener.url("/good") + "?a=1&b=2", bad.url("/bad")]
        for url in urls:
            pair.register(url, A)
        ids = [pair.trigger(A, n, Prefer="wait=5").json()["id"] for n in range(3)]

        def listed(query: str) -> list[dict[str, Any]]:
            answer = pair.call("GET", "/deliveries" + query)
            assert answer.status == 200, answer
            return answer.json()["deliveries"]  # type: ignore[no-any-return]

        assert [d["message"] for d in listed("")] == [name for name in reversed(ids) for _ in urls]
        assert {d["message"] for d in listed(f"?message={ids[1]}")} == {ids[1]}
        quoted = urls[0].replace(":", "%3A").replace("/", "%2F").replace("?", "%3F").replace("&", "%26")
        assert [d["url"] for d in listed(f"?url={quoted}")] == [urls[0]] * 3
        assert [d["url"] for d in listed("?state=delivered")] == [urls[0]] * 3
        assert [d["status"] for d in listed("?state=retrying")] == [500] * 3
        assert len(listed("?limit=2")) == 2 and listed("?limit=2") == listed("")[:2]
        assert len(listed(f"?message={ids[0]}&state=delivered")) == 1
        assert listed("?message=msg_unknown") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=1001", "limit=99999999999", "state=lost"])
def test_filter_that_means_nothing(pair: Pair, query: str) -> None:
    assert is_problem(pair.call("GET", f"/deliveries?{query}"), 422, query.partition("=")[0], "expected")


def test_delivery_shows_the_bytes_that_the_receiver_got(pair: Pair, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 200 Gr\xfc\xdfe\r\nX-A: 1\r\nContent-Length: 3\r\n\r\nok\xff"
    pair.register(listener.url(), A, secret=SECRET)
    name = pair.trigger(A, "Zoë", Prefer="wait=5").json()["deliveries"][0]["id"]
    shown = pair.call("GET", f"/deliveries/{name}").json()
    (attempt,) = shown["attempts"]
    assert attempt["request"].encode("latin-1") == listener.next()
    assert attempt["response"].encode("latin-1") == listener.answer
    assert (attempt["status"], shown["state"]) == (200, "delivered")
    assert is_problem(pair.call("GET", "/deliveries/dlv_0_0"), 404, "dlv_0_0")


def test_redelivery_is_one_more_attempt(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), A)
    name = pair.trigger(A, 1, Prefer="wait=5").json()["deliveries"][0]["id"]
    first = listener.next()
    answer = pair.call("POST", f"/deliveries/{name}/attempts")
    assert answer.status == 202 and answer.headers["location"] == f"/deliveries/{name}"
    second = listener.next()
    assert fields(first)["webhook-id"] == fields(second)["webhook-id"]
    eventually(lambda: pair.call("GET", f"/deliveries/{name}").json()["attempt_count"] == 2)
    assert is_problem(pair.call("POST", "/deliveries/dlv_0_0/attempts"), 404, "dlv_0_0")
    pair.call("DELETE", "/webhooks/unregister", {"url": listener.url(), "event": A})
    assert is_problem(pair.call("POST", f"/deliveries/{name}/attempts"), 409, "no longer registered")


def test_redelivery_while_an_attempt_is_under_way(pair: Pair, listener: Listener) -> None:
    listener.answer = listener.hang
    pair.register(listener.url(), A)
    location = pair.trigger(A, 1).headers["location"]
    listener.next()
    (found,) = pair.call("GET", location).json()["deliveries"]
    assert is_problem(pair.call("POST", f"/deliveries/{found['id']}/attempts"), 409, "under way")
    listener.close()


# --- the stream of changes ------------------------------------------------------------------------------------


def open_stream(client: Client) -> None:
    """Ask for the stream, and read what it begins with."""
    client.send(request("GET", "/deliveries/stream"))
    data = b""
    while b"retry: " not in data or not data.endswith(b"\n\n"):
        more = client.sock.recv(65_536)
        assert more, data
        data += more
    assert b" 200 " in data.split(b"\r\n")[0] and b"text/event-stream" in data


def test_stream_has_an_event_for_each_change(pair: Pair, listener: Listener) -> None:
    pair.register(listener.url(), A)
    with pair.client() as client:
        open_stream(client)
        message, data = pair.trigger(A, 1).json()["id"], b""
        while b'"state": "delivered"' not in data:
            more = client.sock.recv(65_536)
            assert more
            data += more
        events = [block for block in data.split(b"\n\n") if b"event: delivery" in block]
        changes = [json.loads(block.partition(b"data: ")[2].split(b"\r\n")[0]) for block in events]
        assert {(change["message"], change["event"]) for change in changes} == {(message, A)}


def test_ninth_stream_is_refused(pair: Pair) -> None:
    clients = [pair.client() for _ in range(8)]
    try:
        for client in clients:
            open_stream(client)
        refused = pair.call("GET", "/deliveries/stream")
        assert is_problem(refused, 503, "8 streams") and refused.headers["retry-after"]
    finally:
        for client in clients:
            client.close()


def test_stream_that_never_began_counts_for_nothing(pair: Pair) -> None:
    for _ in range(9):
        with pair.client() as client:
            client.send(request("HEAD", "/deliveries/stream"))
            assert client.receive(head=True).status == 200
    with pair.client() as client:
        open_stream(client)


def test_stream_of_a_reader_that_is_too_slow_is_ended(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reloads the list when it comes back."""
    monkeypatch.setattr("history.CHANGES", 4)
    monkeypatch.setattr("owner.STREAM_PAUSE", 0.3)
    with Pair(tmp_path) as pair, pair.client() as client:
        pair.register(listener.url(), A)
        open_stream(client)
        for number in range(20):
            pair.trigger(A, number)
        while client.sock.recv(65_536):
            pass
