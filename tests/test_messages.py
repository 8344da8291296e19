"""What is delivered, and how it is written down: bodies, ids, JSON shapes, signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest
from support import Desk, a_delivery, exchange, fields

import messages
from client import KEPT_RESPONSE, Exchange
from messages import Attempt, Delivery

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "0",
        '""',
        "[1e9, -0, 1E2]",
        "99999999999999.99",
        '"Zahlung f\\u00fcr Zoë \U0001f4b6"',
        '{"event":"b",  "":"\\n"}',
    ],
    ids=ascii,
)
def test_body_is_exactly_event_and_data_as_it_is_spelled(data: str) -> None:
    body = messages.body_of("payment_received", data.encode())
    assert body == b'{"event": "payment_received", "data": ' + data.encode() + b"}"
    assert list(json.loads(body).items()) == [("event", "payment_received"), ("data", json.loads(data))]


def test_every_message_says_its_length_type_and_id() -> None:
    message = a_delivery().message
    names = fields(messages.request(b"POST / HTTP/1.1\r\n", message, 1_614_265_330, []))
    assert names["content-length"] == str(len(message.body))
    assert names["content-type"] == "application/json"
    assert names["webhook-id"] == message.id
    assert names["bypass-tunnel-reminder"] == "1"
    assert names["user-agent"].startswith("Exposee/")


def test_ids_are_unpredictable_and_unique(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        ids = [desk.accept(data=n).id for n in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch("msg_[0-9a-f]{24}", name) for name in ids)


def test_delivery_ids_differ_within_a_message_and_lead_back_to_it(tmp_path: Path) -> None:
    with Desk(tmp_path, "http://a.test/", "http://b.test/") as desk:
        desk.answer = exchange(503)
        message = desk.accept()
        found = [desk.dispatcher.history.find(f"dlv_{message.id[4:]}_{index}") for index in (0, 1)]
        assert [d and d.url for d in found] == ["http://a.test/", "http://b.test/"]
        for wrong in ("", "dlv_", message.id, f"dlv_{message.id[4:]}_2", f"dlv_{message.id[4:]}_-1", "dlv_x_0"):
            assert desk.dispatcher.history.find(wrong) is None, wrong
        for spelling in ("00", "²", "1" * 5_000):
            assert desk.dispatcher.history.find(f"dlv_{message.id[4:]}_{spelling}") is None, spelling


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250000Z"),
        (1_709_164_799.9999998, "2024-02-28T23:59:59.999999Z"),
        (4_102_444_800.0, "2100-01-01T00:00:00.000000Z"),
    ],
)
def test_times_are_iso_in_utc_with_microseconds(seconds: float, text: str) -> None:
    assert messages.iso(seconds) == text


def test_a_fresh_delivery_as_json() -> None:
    assert a_delivery().to_json() == {
        "id": "dlv_0123456789abcdef01234567_3",
        "message": "msg_0123456789abcdef01234567",
        "event": "payment_received",
        "url": "http://example.com/hook",
        "state": "pending",
        "time": "2023-11-14T22:13:20.250000Z",
        "attempt_count": 0,
    }


def test_a_retrying_delivery_says_what_happened_and_what_comes() -> None:
    delivery = a_delivery()
    delivery.state, delivery.due = messages.RETRYING, 1_700_000_005.5
    delivery.add(Attempt(1_700_000_000.25, 0.0123456789, 503, "the answer ended after 3 of 9 bytes"))
    shown = delivery.to_json()
    assert shown["next_attempt"] == "2023-11-14T22:13:25.500000Z"
    assert (shown["status"], shown["error"]) == (503, "the answer ended after 3 of 9 bytes")
    assert shown["attempt_count"] == 1 and shown.keys().isdisjoint({"attempts", "body"})
    assert shown["duration"] == 0.012346
    assert delivery.to_json(attempts=True)["body"] == delivery.message.body.decode()
    assert delivery.to_json(attempts=True)["attempts"] == [
        {
            "time": "2023-11-14T22:13:20.250000Z",
            "duration": 0.012346,
            "status": 503,
            "error": "the answer ended after 3 of 9 bytes",
            "request": None,
            "response": None,
            "gone": "the bytes of this attempt are no longer kept",
        }
    ]


def test_raw_bytes_are_shown_as_latin_1() -> None:
    outcome = Exchange(bytes(range(256)), b"\xff\x00", KEPT_RESPONSE + 1, 200, b"", None)
    shown = Attempt(0.0, 0.0, 200, None, outcome).to_json()
    assert shown["request"].encode("latin-1") == bytes(range(256))
    assert shown["response"].encode("latin-1") == b"\xff\x00"
    assert shown["response_bytes"] == KEPT_RESPONSE + 1
    assert "gone" not in shown and "error" not in shown


@pytest.mark.parametrize("event, shown", [("ping", True), ("payment_received", False)])
def test_only_pings_can_be_confirmed(event: str, shown: bool) -> None:
    assert ("confirmed" in a_delivery(event).to_json()) is shown


def test_signatures_of_both_dialects_cover_the_bytes_sent() -> None:
    body = b'{"event": "ping",   "data": "\xc3\xbc"}'
    old = "whsec_" + base64.b64encode(bytes(24)).decode()
    content = b"msg_1.1700000000." + body
    digests = [hmac.new(key, content, hashlib.sha256).digest() for key in (bytes(range(32)), bytes(24))]
    new, former = (f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
    alone = messages.sign([SECRET], "msg_1", 1_700_000_000, body).decode().split("\r\n")
    assert alone[0] == f"webhook-signature: {new}"
    lines = messages.sign([SECRET, old], "msg_1", 1_700_000_000, body).decode().split("\r\n")
    assert lines[1:] == alone[1:], "GitHub's field has the new one only"
    assert lines == [
        f"webhook-signature: {new} {former}",
        f"X-Hub-Signature-256: sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}",
        "",
    ]


def test_a_retry_that_begins_while_its_delivery_is_shown_is_planned_or_is_not() -> None:
    """Another thread sets `due` to 0.0 between any two looks at it."""

    class Changing(Delivery):
        __slots__ = ("looks",)

        @property
        def due(self) -> float:
            return self.looks.pop(0) if self.looks else 0.0

        @due.setter
        def due(self, value: float) -> None:
            self.looks = [1_700_000_000.0]

    delivery = Changing(a_delivery().message, 0, "http://example.com/hook")
    assert delivery.to_json().get("next_attempt", "2023-11-14T22:13:20.000000Z") == "2023-11-14T22:13:20.000000Z"
