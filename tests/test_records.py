"""What the journal says of messages and deliveries, and what a start makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import EVENT, Desk, a_delivery, exchange

from messages import PENDING, STATES, Attempt, Message, body_of
from records import delivery_record, message_record, restore


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
    assert [it.to_json() for it in again.attempts] == [it.to_json() for it in delivery.attempts]


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
