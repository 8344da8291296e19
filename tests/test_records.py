"""What the journal and the lists say of messages and deliveries, and what a start makes of the journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import EVENT, Desk, a_delivery, exchange

from client import KEPT_RESPONSE, Exchange
from messages import PENDING, RETRYING, STATES, Attempt, Delivery, Message, body_of
from records import attempt_json, delivery_json, delivery_record, iso, message_record, restore


@pytest.mark.parametrize("error", [None, 'a "quoted"\nline\u2028 and \\ more'])
def test_records_are_one_line_of_json_each(error: str | None) -> None:
    delivery = a_delivery()
    delivery.add(Attempt(1_700_000_000.25, 1e-07, 0 if error else 204, error))
    delivery.due, delivery.error, delivery.tries = 1_700_000_300.0, error, 1
    records = [
        message_record(delivery.message, ["http://example.com/hook", ""]),
        delivery_record(delivery),
        delivery_record(delivery, PENDING, manual=True),
    ]
    for record in records:
        assert record.endswith(b"\n") and record.count(b"\n") == 1
    assert json.loads(records[0]) == {
        "message": delivery.message.id,
        "event": "payment_received",
        "time": 1_700_000_000.25,
        "urls": ["http://example.com/hook", ""],
        "body": delivery.message.body.decode(),
    }
    state = {
        "delivery": delivery.id,
        "state": "pending",
        "due": 1_700_000_300.0,
        "tries": 1,
        "count": 1,
        "attempts": [[1_700_000_000.25, 0.0, 0 if error else 204, error]],
    }
    assert json.loads(records[1]) == {**state, **({"error": error} if error else {})}
    assert json.loads(records[2]) == {**state, "manual": True}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("flag", ["", "manual", "confirmed"])
def test_a_record_restores_the_whole_state(state: str, flag: str) -> None:
    delivery, again = a_delivery(), a_delivery()
    for number in range(25):
        delivery.add(Attempt(1_700_000_000.25 + number, 0.5, 503 + number, "cut" if number % 2 else None))
    delivery.state, delivery.due, delivery.tries, delivery.error = state, 1_700_000_300.125, 7, 'why "not"'
    if flag:
        setattr(delivery, flag, True)
    restore(again, json.loads(delivery_record(delivery)))
    assert again.state == ("pending" if state == "delivering" else state), "an attempt does not outlive its process"
    for name in ("due", "tries", "count", "error", "manual", "confirmed"):
        assert getattr(again, name) == getattr(delivery, name), name
    assert list(map(attempt_json, again.attempts)) == list(map(attempt_json, delivery.attempts))


def test_a_record_keeps_the_bytes_of_a_body() -> None:
    """The journal has the bytes of a body as a text: reading it again cannot change them."""
    body = b'{"event": "e",  "data": [1E2, -0, 1e-400, 9007199254740993.0, "\\u00e9\xc3\xa9"]}'
    message = Message("msg_1", "e", 1.5, body)
    assert json.loads(message_record(message, []))["body"].encode() == body


@pytest.mark.parametrize("data", [10**300, 0.1 + 0.2, "\u2028\x00\x7f", {"b": 1, "a": {"b": 2}}], ids=ascii)
def test_the_same_bytes_are_sent_after_a_restart(tmp_path: Path, data: Any) -> None:
    """The signature covers them, and receivers compare: reading the journal may not change a body."""
    with Desk(tmp_path, "http://a.test/") as desk:
        desk.answer = exchange(503)
        delivery = desk.settled(desk.trigger(data=data))
        desk.restart()
        desk.answer = exchange(204)
        desk.pass_time(10)
        desk.on_demand.redeliver(desk.settled(delivery, 2))
        desk.settled(delivery, 3)
        bodies = [desk.next_sent().body for _ in range(3)]
    assert len(set(bodies)) == 1 and json.loads(bodies[0]) == {"event": "payment_received", "data": data}


@pytest.mark.parametrize(
    "data",
    ["99999999999999.99", "9007199254740993.0", "1e-400", "-0", "1E2", "[1e9,1E+9]", '{"b":  "\\u00e9\\/","a":-0.0}'],
)
def test_a_spelling_is_the_same_after_a_restart_and_in_a_redelivery(tmp_path: Path, data: str) -> None:
    with Desk(tmp_path, "http://a.test/") as desk:
        desk.answer = exchange(503)
        (delivery,) = desk.dispatcher.trigger(EVENT, body_of(EVENT, data.encode())).deliveries
        assert delivery is not None
        desk.settled(delivery)
        desk.restart()
        desk.answer = exchange(204)
        desk.pass_time(10)
        desk.on_demand.redeliver(desk.settled(delivery, 2))
        desk.settled(delivery, 3)
        bodies = {desk.next_sent().body for _ in range(3)}
    assert bodies == {f'{{"event": "{EVENT}", "data": {data}}}'.encode()}


# --- as JSON for people -----------------------------------------------------------------------------------------------


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
    assert iso(seconds) == text


def test_a_fresh_delivery_as_json() -> None:
    assert delivery_json(a_delivery()) == {
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
    delivery.state, delivery.due = RETRYING, 1_700_000_005.5
    delivery.add(Attempt(1_700_000_000.25, 0.0123456789, 503, "the answer ended after 3 of 9 bytes"))
    shown = delivery_json(delivery)
    assert shown["next_attempt"] == "2023-11-14T22:13:25.500000Z"
    assert (shown["status"], shown["error"]) == (503, "the answer ended after 3 of 9 bytes")
    assert shown["attempt_count"] == 1 and shown.keys().isdisjoint({"attempts", "body"})
    assert shown["duration"] == 0.012346
    assert delivery_json(delivery, attempts=True)["body"] == delivery.message.body.decode()
    assert delivery_json(delivery, attempts=True)["attempts"] == [
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
    shown = attempt_json(Attempt(0.0, 0.0, 200, None, outcome))
    assert shown["request"].encode("latin-1") == bytes(range(256))
    assert shown["response"].encode("latin-1") == b"\xff\x00"
    assert shown["response_bytes"] == KEPT_RESPONSE + 1
    assert "gone" not in shown and "error" not in shown


@pytest.mark.parametrize("event, shown", [("ping", True), ("payment_received", False)])
def test_only_pings_can_be_confirmed(event: str, shown: bool) -> None:
    assert ("confirmed" in delivery_json(a_delivery(event))) is shown


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
    assert delivery_json(delivery).get("next_attempt", "2023-11-14T22:13:20.000000Z") == "2023-11-14T22:13:20.000000Z"
