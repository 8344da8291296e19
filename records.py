"""How messages and deliveries are written: as records of the journal, and as JSON for people.

The journal has two kinds of records: a message with its URLs; the state of a delivery, whose last record counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from client import KEPT_RESPONSE
from messages import DELIVERING, PENDING, PING, STATES, Attempt, Delivery, Message, to_json


def message_record(message: Message, urls: list[str]) -> bytes:
    """A message and its URLs. An empty URL stands for a delivery that is forgotten."""
    key = [message.key, len(urls) or message.count, message.fingerprint]
    more = f', "key": {json.dumps(key)}' if message.key else ""
    body = to_json(message.body.decode())  # as a text: what is sent again are the same bytes
    return (
        f'{{"message": "{message.id}", "event": "{message.event}", "time": {message.time!r}, '
        f'"urls": {json.dumps(urls)}, "body": {body}{more}}}\n'
    ).encode()


def delivery_record(delivery: Delivery, state: str = "", manual: bool = False) -> bytes:
    """Where a delivery stands, or will stand when `state` is given. By hand it takes a third of json.dumps' time."""
    state = state or (PENDING if delivery.state == DELIVERING else delivery.state)
    due = 0.0 if manual and delivery.manual else delivery.due  # a recovery that is redelivered has its attempt now
    more = ', "manual": true' if manual or delivery.manual else ""
    more += ', "confirmed": true' if delivery.confirmed else ""
    more += f', "error": {json.dumps(delivery.error)}' if delivery.error and not manual else ""
    attempts = ""
    for a in delivery.attempts:
        attempts += f", [{a.time!r}, {a.duration:.6f}, {a.status}, {json.dumps(a.error) if a.error else 'null'}]"
    return (
        f'{{"delivery": "{delivery.id}", "state": "{state}", "due": {due!r}, "tries": {delivery.tries}, '
        f'"count": {delivery.count}{more}, "attempts": [{attempts[2:]}]}}\n'
    ).encode()


def message_of(record: dict[str, Any]) -> Message:
    """The message of a record. KeyError, TypeError, ValueError, AttributeError: it is no record of ours."""
    if not all(isinstance(text, str) for text in (record["message"], record["event"], *record["urls"])):
        raise TypeError("not texts")
    message = Message(record["message"], record["event"], float(record["time"]), record["body"].encode())
    if "key" in record:
        message.key, message.count, message.fingerprint = record["key"]
    return message


def restore(delivery: Delivery, record: dict[str, Any]) -> None:
    """Let a delivery stand where its record says. KeyError, TypeError, ValueError: it is no record of ours."""
    if record["state"] not in STATES:
        raise ValueError("an unknown state")
    delivery.attempts = tuple(Attempt(*values) for values in record["attempts"])
    delivery.due, delivery.tries, delivery.count = float(record["due"]), int(record["tries"]), int(record["count"])
    delivery.error, delivery.state = record.get("error"), record["state"]
    delivery.manual, delivery.confirmed = record.get("manual", False), record.get("confirmed", False)


def records(messages: list[Message], over: list[Delivery]) -> Iterator[bytes]:
    """The records of a journal that starts anew; what is `over` comes last, in the order given.

    Needs no lock: a delivery that changes meanwhile has a note of its own, which comes later in the journal.
    """
    ended = set(over)
    for message in messages:
        deliveries = list(message.deliveries)
        yield message_record(message, [delivery.url if delivery else "" for delivery in deliveries])
        yield from map(delivery_record, (d for d in deliveries if d and d not in ended))
    yield from map(delivery_record, over)


# --- for people -------------------------------------------------------------------------------------------------------


def delivery_json(delivery: Delivery, attempts: bool = False) -> dict[str, Any]:
    """What GET /deliveries shows; with `attempts`, what GET /deliveries/{id} shows."""
    last = delivery.attempts[-1] if delivery.attempts else None
    error, due = delivery.error or (last.error if last else None), delivery.due  # another thread may change it
    return {
        "id": delivery.id,
        "message": delivery.message.id,
        "event": delivery.message.event,
        "url": delivery.url,
        "state": delivery.state,
        "time": iso(delivery.message.time),
        "attempt_count": delivery.count,
        **({"status": last.status} if last and last.status else {}),
        **({"error": error} if error else {}),
        **({"duration": round(last.duration, 6)} if last else {}),  # seconds, of the last attempt
        **({"next_attempt": iso(due)} if due else {}),
        **({"confirmed": delivery.confirmed} if delivery.message.event == PING else {}),
        **({"body": delivery.message.body.decode()} if attempts else {}),
        **({"attempts": [attempt_json(attempt) for attempt in delivery.attempts]} if attempts else {}),
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    exchange = attempt.exchange  # another thread may let go of it meanwhile
    received = exchange.received if exchange else 0
    return {
        "time": iso(attempt.time),
        "duration": round(attempt.duration, 6),
        **({"error": attempt.error} if attempt.error else {}),
        **({"status": attempt.status} if attempt.status else {}),
        "request": exchange.request.decode("latin-1") if exchange else None,
        "response": exchange.response.decode("latin-1") if exchange else None,
        **({"response_bytes": received} if received > KEPT_RESPONSE else {}),
        **({} if exchange else {"gone": "the bytes of this attempt are no longer kept"}),
    }


def iso(seconds: float) -> str:
    """Unix time as ISO 8601, UTC, with microseconds: sorted by it, the messages of a burst are in their order."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1_000_000):06d}Z"
