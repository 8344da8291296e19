"""The journal's two kinds of records: a message with its URLs; the state of a delivery, whose last record counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from messages import DELIVERING, PENDING, STATES, Attempt, Delivery, Message, to_json


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
