"""What is delivered: messages, deliveries, attempts, how they are signed, and how the journal writes them down.

A *message* is one occurrence of an event, a *delivery* is one message for one URL, an *attempt* is one HTTP request
of it. Here is what they are; delivery.py decides what happens to them.
"""

from __future__ import annotations

import base64
import functools
import hmac
import json
import secrets
import sys
import time
from typing import Any

from client import KEPT_RESPONSE, Exchange

SECRET_BYTES = range(24, 65)  # of a key (Standard Webhooks)
PING = "ping"
PING_DATA = "Ping from Exposee"
MAX_ATTEMPTS = 20  # of a delivery that are remembered: the retry schedule's ten, and as many by hand

FIELDS = (
    b"Content-Type: application/json\r\n"
    b"User-Agent: Exposee/1.0\r\n"
    b"Bypass-Tunnel-Reminder: 1\r\n"  # localtunnel shows a reminder page to clients that do not send it
)

PENDING, DELIVERING, RETRYING = "pending", "delivering", "retrying"
DELIVERED, FAILED, CANCELLED = "delivered", "failed", "cancelled"
STATES = (PENDING, DELIVERING, RETRYING, DELIVERED, FAILED, CANCELLED)
OPEN = (PENDING, DELIVERING, RETRYING)


class Attempt:
    """One HTTP request of a delivery. `time` is when it began (Unix), `duration` in seconds; `error` is None
    exactly when a whole answer came. `request` and `response` are bytes, or None when they are gone."""

    __slots__ = ("time", "duration", "status", "error", "request", "response", "received")

    def __init__(self, started: float, duration: float, status: int, error: str | None) -> None:
        self.time, self.duration, self.status, self.error = started, duration, status, error
        self.request: bytes | None = None
        self.response: bytes | None = None
        self.received = 0

    def keep_bytes(self, exchange: Exchange) -> None:
        """Remember what passed."""
        self.request, self.response, self.received = exchange.request, exchange.response, exchange.received

    def to_json(self) -> dict[str, Any]:
        request, response = self.request, self.response  # another thread may let go of them meanwhile
        gone = "the bytes of this attempt are no longer kept" if request is None else None
        return {
            "time": iso(self.time),
            "duration": round(self.duration, 6),
            **({"error": self.error} if self.error else {}),
            **({"status": self.status} if self.status else {}),
            "request": request.decode("latin-1") if request is not None else None,
            "response": response.decode("latin-1") if response is not None else None,
            **({"response_bytes": self.received} if self.received > KEPT_RESPONSE else {}),
            **({"gone": gone} if gone else {}),
        }


class Message:
    """One occurrence of an event. `body` is what is sent, `time` is Unix time."""

    __slots__ = ("id", "event", "time", "body", "deliveries", "left", "open")

    def __init__(self, message_id: str, event: str, created: float, body: bytes) -> None:
        self.id, self.time, self.body = message_id, created, body
        self.event = sys.intern(event)  # one text for all that are remembered
        self.deliveries: list[Delivery | None] = []  # None: forgotten
        self.left = 0  # deliveries that are not forgotten
        self.open = 0  # deliveries that are not over


def new_message_id() -> str:
    """`msg_` and 24 hex digits that nobody can guess."""
    return "msg_" + secrets.token_hex(12)


class Delivery:
    """One message for one URL. `due` is when the next attempt is planned (Unix), 0.0 when none is."""

    __slots__ = (
        "message",
        "index",
        "url",
        "state",
        "attempts",
        "count",
        "tries",
        "due",
        "error",
        "confirmed",
        "manual",
    )

    def __init__(self, message: Message, index: int, url: str) -> None:
        self.message, self.index, self.url = message, index, url
        self.state = PENDING
        self.attempts: tuple[Attempt, ...] = ()  # the newest MAX_ATTEMPTS
        self.count = 0  # attempts in all
        self.tries = 0  # those by the retry schedule that have failed
        self.due = 0.0
        self.error: str | None = None  # why it ended without an attempt
        self.confirmed = False  # a ping that the receiver has pinged back
        self.manual = False  # its next attempt, or the one under way, is a redelivery

    @property
    def id(self) -> str:
        return f"dlv_{self.message.id[4:]}_{self.index}"

    def add(self, attempt: Attempt) -> None:
        """An attempt is over."""
        self.attempts = (*self.attempts, attempt)[-MAX_ATTEMPTS:]
        self.count += 1

    def outcome(self) -> str:
        """Why it has failed, in words."""
        last = self.attempts[-1] if self.attempts else None
        return self.error or (last and (last.error or f"answered {last.status}")) or "it was not attempted"

    def to_json(self, attempts: bool = False) -> dict[str, Any]:
        """What GET /deliveries shows; with `attempts`, what GET /deliveries/{id} shows."""
        last = self.attempts[-1] if self.attempts else None
        error = self.error or (last.error if last else None)
        return {
            "id": self.id,
            "message": self.message.id,
            "event": self.message.event,
            "url": self.url,
            "state": self.state,
            "time": iso(self.message.time),
            "attempt_count": self.count,
            **({"status": last.status} if last and last.status else {}),
            **({"error": error} if error else {}),
            **({"next_attempt": iso(self.due)} if self.due else {}),
            **({"confirmed": self.confirmed} if self.message.event == PING else {}),
            **({"attempts": [attempt.to_json() for attempt in self.attempts]} if attempts else {}),
        }


def iso(seconds: float) -> str:
    """Unix time as ISO 8601, UTC, with microseconds: sorted by it, the messages of a burst are in their order."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1_000_000):06d}Z"


# --- what is sent -----------------------------------------------------------------------------------------------------


_to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each call


def body_of(event: str, data: bytes) -> bytes:
    """The body of an event's deliveries: exactly these two members. `data` is JSON, sent as it is spelled."""
    return b'{"event": %b, "data": %b}' % (_to_json(event).encode(), data)


def request(head: bytes, message: Message, timestamp: int, secret: str | None) -> bytes:
    """The request of an attempt. `head` is the part that depends on the URL only."""
    return b"%b%bContent-Length: %d\r\nwebhook-id: %b\r\nwebhook-timestamp: %d\r\n%b\r\n%b" % (
        head,
        FIELDS,
        len(message.body),
        message.id.encode(),
        timestamp,
        sign(secret, message.id, timestamp, message.body) if secret else b"",
        message.body,
    )


def is_secret(value: object) -> bool:
    """Whether it is a secret of the Standard Webhooks form: whsec_ and base64 of 24 to 64 bytes."""
    if not isinstance(value, str) or not value.startswith("whsec_"):
        return False
    try:
        return len(base64.b64decode(value[6:], validate=True)) in SECRET_BYTES
    except ValueError:
        return False


@functools.lru_cache(4_096)
def signing_key(secret: str) -> bytes:
    """The bytes that a `whsec_` secret stands for."""
    return base64.b64decode(secret.removeprefix("whsec_"))


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> bytes:
    """The two signature fields of a delivery, over exactly the bytes that are sent.

    Standard Webhooks signs id, time and body (so that an old request cannot be replayed as a new one), with the
    decoded key; GitHub signs the body only, with the secret as it is written.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    standard = base64.b64encode(hmac.digest(signing_key(secret), content, "sha256"))
    github = hmac.digest(secret.encode(), body, "sha256").hex()
    return b"webhook-signature: v1," + standard + b"\r\nX-Hub-Signature-256: sha256=" + github.encode() + b"\r\n"


# --- the journal's two kinds of records: a message with its URLs, and the whole state of a delivery -------------------


def message_record(message: Message, urls: list[str]) -> bytes:
    """A message and its URLs. An empty URL stands for a delivery that is forgotten."""
    body = _to_json(message.body.decode())  # as a text: what is sent again are the same bytes
    return (
        f'{{"message": "{message.id}", "event": "{message.event}", "time": {message.time!r}, '
        f'"urls": {json.dumps(urls)}, "body": {body}}}\n'
    ).encode()


def delivery_record(delivery: Delivery, state: str = "", manual: bool = False) -> bytes:
    """Where a delivery stands, or will stand when `state` is given. The last record of a delivery counts.

    Put together by hand, which takes a third of json.dumps' time: there is one for each delivery.
    """
    state = state or (PENDING if delivery.state == DELIVERING else delivery.state)
    more = ', "manual": true' if manual or delivery.manual else ""
    more += ', "confirmed": true' if delivery.confirmed else ""
    more += f', "error": {json.dumps(delivery.error)}' if delivery.error and not manual else ""
    attempts = ""
    for a in delivery.attempts:
        error = json.dumps(a.error) if a.error else "null"
        attempts += f", [{a.time!r}, {a.duration:.6f}, {a.status}, {error}]"
    return (
        f'{{"delivery": "{delivery.id}", "state": "{state}", "due": {delivery.due!r}, "tries": {delivery.tries}, '
        f'"count": {delivery.count}{more}, "attempts": [{attempts[2:]}]}}\n'
    ).encode()


def restore(delivery: Delivery, record: dict[str, Any]) -> None:
    """Let a delivery stand where its record says. KeyError, TypeError, ValueError: it is no record of ours."""
    if record["state"] not in STATES:
        raise ValueError("an unknown state")
    delivery.attempts = tuple(Attempt(*values) for values in record["attempts"])
    delivery.due, delivery.tries, delivery.count = float(record["due"]), int(record["tries"]), int(record["count"])
    delivery.error, delivery.state = record.get("error"), record["state"]
    delivery.manual, delivery.confirmed = record.get("manual", False), record.get("confirmed", False)
