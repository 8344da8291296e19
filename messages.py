"""What is delivered: messages, deliveries, attempts, how they are signed, and how the journal writes them down.

A *message* is one occurrence of an event, a *delivery* is one message for one URL, an *attempt* is one HTTP
request of it. Here is what they are; what happens to them is delivery.py's business.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import itertools
import json
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Any

from connections import KEPT_RESPONSE

PING = "ping"
PING_DATA = "Ping from Exposee"

FIELDS = (
    b"Content-Type: application/json\r\n"
    b"User-Agent: Exposee/1.0\r\n"
    b"Bypass-Tunnel-Reminder: 1\r\n"  # localtunnel shows a reminder page to whoever does not send it
)

PENDING, DELIVERING, RETRYING = "pending", "delivering", "retrying"
DELIVERED, FAILED, CANCELLED = "delivered", "failed", "cancelled"
STATES = (PENDING, DELIVERING, RETRYING, DELIVERED, FAILED, CANCELLED)
OPEN = (PENDING, DELIVERING, RETRYING)


class Attempt:
    """One HTTP request of a delivery. `time` is when it began (Unix), `duration` in seconds; `error` is None
    exactly when a whole response came. `request` and `response` are bytes, or None when they are gone."""

    __slots__ = ("time", "duration", "status", "error", "request", "response", "received")

    def __init__(self, started: float, duration: float, status: int, error: str | None) -> None:
        self.time, self.duration, self.status, self.error = started, duration, status, error
        self.request: bytes | None = None
        self.response: bytes | None = None
        self.received = 0

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


_id_key, _id_numbers = secrets.token_bytes(32), itertools.count()


def new_message_id() -> str:
    """`msg_` and 24 hex digits that nobody can foretell: a keyed hash of a counter.

    secrets.token_hex(12) would be the same, with a system call at which the thread lets go of the interpreter:
    accepting events took 4 % longer.
    """
    return "msg_" + hashlib.blake2b(b"%d" % next(_id_numbers), digest_size=12, key=_id_key).hexdigest()


class Message:
    """One occurrence of an event. `body` is what is sent."""

    __slots__ = ("id", "event", "time", "body", "deliveries", "left", "open")

    def __init__(self, message_id: str, event: str, created: float, body: bytes) -> None:
        self.id, self.time, self.body = message_id, created, body
        self.event = sys.intern(event)  # one text for all that are remembered
        self.deliveries: list[Delivery | None] = []  # None: forgotten
        self.left = 0  # deliveries that are not forgotten
        self.open = 0  # deliveries that are not finished


class Delivery:
    """One message for one URL. `due` is when the next attempt is planned (Unix), 0.0 when none is."""

    __slots__ = ("message", "index", "url", "state", "attempts", "due", "error", "confirmed", "manual")

    def __init__(self, message: Message, index: int, url: str) -> None:
        self.message, self.index, self.url = message, index, url
        self.state = PENDING
        self.attempts: tuple[Attempt, ...] = ()
        self.due = 0.0
        self.error: str | None = None  # why it ended without an attempt
        self.confirmed = False  # a ping that the receiver has pinged back
        self.manual = False  # one attempt and no more: a redelivery

    @property
    def id(self) -> str:
        return f"dlv_{self.message.id[4:]}_{self.index}"

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
            "attempt_count": len(self.attempts),
            **({"status": last.status} if last and last.status else {}),
            **({"error": error} if error else {}),
            **({"next_attempt": iso(self.due)} if self.due else {}),
            **({"confirmed": self.confirmed} if self.message.event == PING else {}),
            **({"attempts": [attempt.to_json() for attempt in self.attempts]} if attempts else {}),
        }


def iso(seconds: float) -> str:
    """Unix time as ISO 8601, UTC, with microseconds: who sorts by it gets the order of acceptance, in bursts too."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1_000_000):06d}Z"


# --- what is sent -----------------------------------------------------------------------------------------------------


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


@functools.lru_cache(4_096)
def signing_key(secret: str) -> bytes:
    """The bytes that a `whsec_` secret stands for; one without that prefix is taken as it is written."""
    return base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> bytes:
    """The two signature fields of a delivery, over exactly the bytes that are sent.

    Standard Webhooks signs id, time and body (so that an old request cannot be replayed as a new one), with the
    decoded key; GitHub signs the body only, with the secret as it is written.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    standard = base64.b64encode(hmac.digest(signing_key(secret), content, "sha256"))
    github = hmac.digest(secret.encode(), body, "sha256").hex()
    return b"webhook-signature: v1," + standard + b"\r\nX-Hub-Signature-256: sha256=" + github.encode() + b"\r\n"


# --- the journal's records --------------------------------------------------------------------------------------------


_to_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each call


def body_of(event: str, data: Any) -> bytes:
    """What is sent for an event: exactly these two members."""
    return _to_json({"event": event, "data": data}).encode()


def message_record(message: Message, urls: list[str]) -> bytes:
    """A message and whom it is for. A URL that is empty stands for a delivery that is forgotten."""
    return b'{"message": "%b", "time": %b, "body": %b, "urls": %b}\n' % (
        message.id.encode(),
        repr(message.time).encode(),
        message.body,
        json.dumps(urls).encode(),
    )


def attempt_record(delivery: Delivery, attempt: Attempt) -> bytes:
    """The outcome of the newest attempt. By hand, as json.dumps takes five times as long."""
    error = json.dumps(attempt.error) if attempt.error else "null"
    return (
        f'{{"delivery": "{delivery.id}", "attempt": {len(delivery.attempts)}, "time": {attempt.time!r}, '
        f'"duration": {attempt.duration:.6f}, "status": {attempt.status}, "error": {error}, '
        f'"state": "{delivery.state}", "due": {delivery.due!r}}}\n'
    ).encode()


def change_record(delivery: Delivery, **changes: object) -> bytes:
    """What changed otherwise: state, error, confirmed, redeliver."""
    return json.dumps({"delivery": delivery.id, **changes}).encode() + b"\n"


def attempt_records(delivery: Delivery) -> Iterator[bytes]:
    """The attempts of a delivery, for a journal that starts anew."""
    for number, attempt in enumerate(delivery.attempts, 1):
        yield change_record(
            delivery,
            attempt=number,
            time=attempt.time,
            duration=attempt.duration,
            status=attempt.status,
            error=attempt.error,
        )


def state_record(delivery: Delivery) -> bytes:
    """Where a delivery stands, for a journal that starts anew."""
    state = PENDING if delivery.state == DELIVERING else delivery.state
    manual = {"redeliver": True} if delivery.manual else {}
    return change_record(
        delivery, state=state, due=delivery.due, error=delivery.error, confirmed=delivery.confirmed, **manual
    )
